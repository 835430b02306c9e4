//! The loop: gather what waits, decide, store, answer.
//!
//! ```text
//! wait ─▶ receive a batch ─▶ step each ─▶ ONE transaction ─┬─ ok ──────▶ send, publish
//!   ▲                                                      └─ failed ──▶ undo; each message again, alone:
//!   └───────────────────────────────────────────────────────────────────  only those that need the disk
//!                                                                         are refused (store_failed)
//! ```
//!
//! Why one transaction for all that waits? A transaction costs one flush of the disk, whatever is in it;
//! so under load the broker answers as many requests per flush as came meanwhile.

use crate::{
    core::{Core, CoreOptions, Input, Outgoing, Outputs, Session},
    keys::{KeyFolder, KeysError},
    limits::{PRESENCE_INTERVAL, STORE_PATIENCE, TICK},
    lock::{FolderLock, LockError},
    net::{BindError, ExposedError, ListenError, Net, NetError, Sent, check_local},
    store::{OpenError, Store},
};
use std::{
    hash::{BuildHasher, RandomState},
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// All that a broker is told.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// First part of every name.
    pub beamline: String,
    /// ZeroMQ endpoints, `tcp://ADDRESS:PORT` or `ipc://PATH`.
    pub request_endpoint: String,
    pub publish_endpoint: String,
    /// How often agents show that they live, and the silence after which they are gone.
    pub heartbeat: Duration,
    pub timeout: Duration,
    /// Where the store is; made when it is missing. One broker at a time.
    pub state_folder: PathBuf,
    /// Name and kind of the agents that the configuration has.
    pub expected: Vec<(String, String)>,
    /// The key folder, which must be there. None: everyone who reaches the broker may do everything.
    pub keys: Option<PathBuf>,
    /// Without keys: whether other machines may reach it all the same.
    pub insecure: bool,
}

/// Why a broker could not start, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Exposed(#[from] ExposedError),
    #[error(transparent)]
    Net(#[from] NetError),
}

/// Runs a broker on this thread until `stop` says true. It is asked every `limits::TICK`. When this returns,
/// both endpoints are free again.
///
/// # Errors
/// See [`RunError`]; all but `Net` come before anything was served.
pub fn run(options: BrokerOptions, stop: impl Fn() -> bool) -> Result<(), RunError> {
    let keys = keys_of(&options)?;
    let _lock = FolderLock::take(&options.state_folder)?;
    let (store, stored) = Store::open(&options.state_folder)?;
    let mut net = Net::bind(&options.request_endpoint, &options.publish_endpoint, keys)?;
    tracing::info!(
        beamline = options.beamline,
        requests = options.request_endpoint,
        topics = options.publish_endpoint,
        jobs = stored.jobs.len(),
        subsystems = stored.subsystems.len(),
        keys = options.keys.as_ref().map_or("none".into(), |keys| keys.display().to_string()),
        "broker listens"
    );
    let clock = Clock::new();
    let core = Core::new(core_options(options), stored, clock.now_ns());
    let mut broker = Broker { core, store, is_store_broken: false, retry_at: None };
    let (mut ticked, mut looked) = (Instant::now(), Instant::now());
    while !stop() {
        net.wait(broker.patience(&clock, ticked.elapsed()))?;
        let mut inputs = net.receive()?;
        if ticked.elapsed() >= TICK {
            inputs.push(Input::Tick); // after what waited: a sign of life that waits is one
            ticked = Instant::now();
        }
        if inputs.is_empty() {
            inputs.push(Input::Wake);
        }
        broker.handle(clock.now_ns(), &inputs, &mut net);
        if looked.elapsed() >= PRESENCE_INTERVAL {
            broker.drop_those_gone(clock.now_ns(), &mut net);
            looked = Instant::now();
        }
        broker.save_subsystems();
    }
    tracing::info!("broker stops");
    Ok(())
}

/// The key folder; without one, makes sure that nobody can come from elsewhere.
fn keys_of(options: &BrokerOptions) -> Result<Option<KeyFolder>, RunError> {
    if let Some(path) = &options.keys {
        let keys = KeyFolder::new(path);
        keys.mode_warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        return Ok(Some(keys));
    }
    let endpoints = [
        (&options.request_endpoint, "broker.request_endpoint"),
        (&options.publish_endpoint, "broker.publish_endpoint"),
    ];
    for (endpoint, setting) in endpoints {
        match check_local(endpoint, setting) {
            Err(_) if options.insecure => {
                tracing::warn!("{endpoint} has no keys: everyone who reaches it may do everything (insecure)");
            }
            checked => checked?,
        }
    }
    Ok(None)
}

impl From<ListenError> for RunError {
    fn from(error: ListenError) -> Self {
        match error {
            ListenError::Bind(error) => Self::Bind(error),
            ListenError::Keys(error) => Self::Keys(error),
        }
    }
}

fn core_options(options: BrokerOptions) -> CoreOptions {
    CoreOptions {
        beamline: options.beamline,
        heartbeat: options.heartbeat,
        timeout: options.timeout,
        expected: options.expected,
        pid: std::process::id(),
        seed: RandomState::new().hash_one(Instant::now()),
    }
}

/// The resolution of a poll: added to a wait, so that its end is not polled for.
const POLL_STEP: Duration = Duration::from_millis(1);

/// A description that could not be stored is tried again after this long.
const STORE_RETRY: Duration = Duration::from_secs(1);

struct Broker {
    core: Core,
    store: Store,
    /// The last transaction failed; so that a full disk is logged twice and not a thousand times.
    is_store_broken: bool,
    /// Not before then are descriptions stored again.
    retry_at: Option<Instant>,
}

impl Broker {
    fn handle(&mut self, now_ns: u64, inputs: &[Input], net: &mut Net) {
        let (store, mut failed) = (&mut self.store, None);
        let mut has_saved = false;
        let outputs = self.core.batch(now_ns, inputs, |changes| {
            // Who has waited for a lock once in a batch waits no more in it: all others wait meanwhile.
            let patience = if failed.is_none() { STORE_PATIENCE } else { Duration::ZERO };
            let saved = store.save(changes, patience);
            has_saved |= saved.is_ok() && !changes.is_empty();
            saved.inspect_err(|error| failed = Some(error.to_string()))
        });
        if has_saved || failed.is_some() {
            self.note_store(failed);
        }
        self.deliver(now_ns, outputs, net);
    }

    /// How long nothing may come in before the core has something to do by itself.
    fn patience(&self, clock: &Clock, since_tick: Duration) -> Duration {
        let until_tick = TICK.saturating_sub(since_tick) + POLL_STEP;
        let until_due = self.core.wake_ns().map(|wake_ns| wake_ns.saturating_sub(clock.now_ns()));
        // A poll counts in whole milliseconds: it ends when the time has come, not before.
        until_due.map_or(until_tick, |wait_ns| until_tick.min(Duration::from_millis(wait_ns.div_ceil(1_000_000))))
    }

    /// Descriptions are stored behind the answers; what the disk does not take now is tried again later.
    fn save_subsystems(&mut self) {
        let unstored = self.core.unstored();
        if unstored.is_empty() || self.retry_at.is_some_and(|retry_at| Instant::now() < retry_at) {
            return;
        }
        match self.store.save_subsystems(&unstored) {
            Ok(()) => {
                self.retry_at = None;
                self.core.note_stored();
            }
            Err(error) => {
                self.note_store(Some(error.to_string()));
                self.retry_at = Some(Instant::now() + STORE_RETRY);
            }
        }
    }

    fn note_store(&mut self, error: Option<String>) {
        match (&error, self.is_store_broken) {
            (Some(error), false) => tracing::error!("the store fails, jobs are refused until it works again: {error}"),
            (None, true) => tracing::info!("the store works again"),
            _ => {}
        }
        self.is_store_broken = error.is_some();
    }

    /// Sends and publishes.
    fn deliver(&mut self, now_ns: u64, outputs: Outputs, net: &mut Net) {
        let undelivered = outputs.publications.iter().filter(|publication| !net.publish(publication)).count();
        self.core.count_undeliverable(undelivered as u64);
        self.send_all(now_ns, outputs.messages, net);
    }

    /// Sends, too, what follows from messages that were lost. It ends: a caller is dropped once, and a cancel that is lost leads to
    /// nothing.
    fn send_all(&mut self, now_ns: u64, mut messages: Vec<Outgoing>, net: &mut Net) {
        while !messages.is_empty() {
            messages = self.send(now_ns, messages, net);
        }
    }

    /// Nobody tells a ROUTER that a connection has ended: what was kept for it would stay, and its handlers would work for
    /// nobody.
    fn drop_those_gone(&mut self, now_ns: u64, net: &mut Net) {
        let mut follow_ups = Vec::new();
        for session in self.core.waiting_sessions() {
            if !net.is_there(&session) {
                follow_ups.extend(self.drop_session(session, now_ns, net));
            }
        }
        self.send_all(now_ns, follow_ups, net);
    }

    fn drop_session(&mut self, session: Session, now_ns: u64, net: &mut Net) -> Vec<Outgoing> {
        net.forget(&session);
        self.core.step(now_ns, &Input::Unreachable { session }).free
    }

    /// Returns what follows from messages that could not be delivered.
    fn send(&mut self, now_ns: u64, mut messages: Vec<Outgoing>, net: &mut Net) -> Vec<Outgoing> {
        let mut follow_ups = Vec::new();
        messages.sort_by(|one, other| one.session.cmp(&other.session)); // those of one session stay in their order
        for of_session in messages.chunk_by_mut(|one, other| one.session == other.session) {
            let session = of_session[0].session.clone();
            if !self.send_to(&session, of_session, now_ns, net, &mut follow_ups) {
                follow_ups.extend(self.drop_session(session, now_ns, net));
            }
        }
        follow_ups
    }

    /// False if there is no such connection any more.
    fn send_to(
        &mut self,
        session: &Session,
        mut messages: &mut [Outgoing],
        now_ns: u64,
        net: &Net,
        follow_ups: &mut Vec<Outgoing>,
    ) -> bool {
        let mut told = 0;
        while !messages.is_empty() {
            let lost = self.core.lost_of(session);
            if std::mem::replace(&mut told, lost) != lost {
                messages.iter_mut().for_each(|message| message.header.lost = lost);
            }
            let (count, sent) = net.send(messages);
            let (together, rest) = messages.split_at_mut(count);
            match sent {
                Sent::Yes => {}
                Sent::NotRead => {
                    self.core.count_undeliverable(count as u64);
                    together.iter().for_each(|message| follow_ups.extend(self.core.note_lost(message, now_ns)));
                }
                Sent::Unreachable => {
                    self.core.count_undeliverable((count + rest.len()) as u64);
                    return false;
                }
            }
            messages = rest;
        }
        true
    }
}

/// Wall time that never jumps: the wall clock at the start and the monotonic clock since, so that setting
/// the clock makes nobody gone and no job lost.
struct Clock {
    wall: SystemTime,
    started: Instant,
}

impl Clock {
    fn new() -> Self {
        Self { wall: SystemTime::now(), started: Instant::now() }
    }

    fn now_ns(&self) -> u64 {
        let since_epoch = (self.wall + self.started.elapsed()).duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
    }
}
