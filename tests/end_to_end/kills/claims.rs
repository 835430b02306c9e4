//! Two claimants of one name and one UUID (rule L6), with the messages alone, so that each keeps the clock of its claim.

use super::{
    clients::{Shared, code, entry, register},
    ledger::lock,
    random::Random,
};
use ecs_schemas::{
    error_code::ErrorCode,
    registry::{AgentState, Heartbeat},
};
use std::{
    sync::{Mutex, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

const UUID: &str = "7d444840-9dc0-11d1-b245-5ffdce74fad2";
const TIMEOUT: Duration = Duration::from_millis(1000);
const HEARTBEAT: Duration = Duration::from_millis(100);
/// A claimant is silent for up to so long: longer than the broker's timeout, so that the other one gets the name.
const SILENCE_MAX: Duration = Duration::from_millis(2500);

/// The broker's timeout in this test: whoever was heard that long ago at most holds its name.
const HELD: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Holder {
    /// The last registration that was acknowledged: of whom, and when it was asked for and answered.
    registered: Mutex<Option<(u64, Instant, Instant)>>,
    /// The last heartbeat that was: of whom, when it was asked for and answered, and in which epoch.
    heard: Mutex<Option<(u64, Instant, Instant, u64)>>,
}

impl Holder {
    /// Who is known to have held it when `instance` was registered: nobody, if all is well.
    fn deposed(&self, instance: u64, asked: Instant, answered: Instant, epoch: u64) -> Option<u64> {
        let is_deposed = |(other, heard_from, heard_until, of): &(u64, Instant, Instant, u64)| {
            *other != instance && *of == epoch && *heard_until < asked && answered < *heard_from + HELD
        };
        lock(&self.heard).filter(is_deposed).map(|(other, ..)| other)
    }
}

/// One claimant; with `by_uuid` each has a name of its own, and what both want is the UUID of their subsystem.
pub fn claim(shared: &Shared, holder: &Holder, instance: u64, by_uuid: bool) {
    let (client, mut random) = (shared.client(), Random::new(shared.seed, 100 + instance));
    let name = match by_uuid {
        true => format!("{}/claimant-{instance}", shared.beamline),
        false => format!("{}/claimant", shared.beamline),
    };
    let subsystem = format!("{name}-box");
    let mine = register(&name, instance, vec![entry(&subsystem, by_uuid.then_some(UUID))]);
    let mut held_since = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let (asked, epoch) = (Instant::now(), shared.epoch.load(Ordering::Relaxed));
        if held_since.is_none() {
            let answer = shared.call(&client, &mine, TIMEOUT);
            match (code(&answer), answer) {
                (_, Ok(_)) => {
                    let answered = Instant::now();
                    held_since = Some(answered);
                    let now = shared.epoch.load(Ordering::Relaxed);
                    if let Some(other) = holder.deposed(instance, asked, answered, now) {
                        shared.ledger.find(format!("L6: {name} was given to {instance}, and {other} held it"));
                    }
                    let mut last = lock(&holder.registered);
                    // Of two answers at nearly one time it is not known which registration was first.
                    if last.is_none_or(|(_, _, known)| known < asked) {
                        *last = Some((instance, asked, answered));
                    }
                    shared.ledger.count("claims granted");
                }
                (Some(ErrorCode::NameTaken), _) => shared.ledger.count("claims refused"),
                (Some(ErrorCode::Conflict) | None, _) => {} // no broker; or it did not notice a new connection yet
                (Some(code), _) => shared.ledger.find(format!("L6: a claim was refused with {code:?}")),
            }
            thread::sleep(HEARTBEAT);
            continue;
        }
        let answer = shared.call(&client, &Heartbeat { state: AgentState::Ready }, TIMEOUT);
        match (&answer, held_since) {
            (Ok(_), Some(since)) => {
                *lock(&holder.heard) = Some((instance, asked, Instant::now(), epoch));
                let other = lock(&holder.registered)
                    .filter(|(other, begun, ended)| *other != instance && *begun > since && *ended < asked);
                if let Some((other, ..)) = other {
                    shared.ledger.find(format!("L6: {name} is held by {instance} and by {other} at the same time"));
                }
            }
            _ => held_since = None, // not registered any more, or a new connection: it claims again
        }
        let is_silent = random.one_in(15);
        thread::sleep(if is_silent { random.pause(SILENCE_MAX) + Duration::from_millis(200) } else { HEARTBEAT });
    }
}
