//! SIGKILL and SIGSTOP of real processes on a live ring, at random times with a printed seed.
//!
//! An owner, two contributors, a reliable and a lossy reader are processes of their own; in each round one of
//! them is killed and replaced, or stopped for a while, also for longer than the owner waits. A witness in this
//! process reads everything from the first image on: every id is told once, every pixel is right (each is
//! computed anew from run, image and packet), after each round the file's invariants hold (`inspect`), and in
//! the end the counters are what it was told.
//!
//! | environment | |
//! |---|---|
//! | `ECS_RING_ROUNDS` | how many rounds; 40 without |
//! | `ECS_RING_SEED` | the order of things; by the clock without. Times are real, so a seed repeats only nearly |

mod common;

use common::{Watchdog, invariants, process::Player};
use ecs_shm_buffer::{
    Contributor, Liveness, Lookup, Now, Owner, PixelAccess, Proc, ProcessId, Reader, Ring, RingStatus, Start,
    Surroundings, create_or_take_over, inspect, monotonic_ns, open,
};
use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::{Duration, Instant},
};

const ENTRY: &str = "second_process_plays_its_part";
const PACKETS: u32 = 4;
const DEADLINE: Duration = Duration::from_millis(10);
const PARTS: [&str; 5] = ["owner", "even packets", "odd packets", "reliable reader", "lossy reader"];
/// A contributor that is stopped for longer than the owner waits for it (50 ms) costs its slots.
const STOP_MS_MAX: u64 = 70;

#[test]
fn second_process_plays_its_part() {
    let Some((part, path)) = common::process::part() else { return };
    match part.as_str() {
        "owner" => own(&path),
        "even packets" => contribute(&path, &[0, 2]),
        "odd packets" => contribute(&path, &[1, 3]),
        "reliable reader" => read(&path, true),
        "lossy reader" => read(&path, false),
        other => panic!("no part {other}"),
    }
}

fn own(path: &Path) {
    let (ring, _lock) = create_or_take_over(path, common::geometry(32, 4, PACKETS), &Proc).expect("nobody owns it");
    let mut owner = Owner::take_over(&ring, ProcessId::current(), DEADLINE, &Proc);
    eprintln!("in");
    loop {
        let ticket = owner.ticket();
        let outcome = owner.step(&mut Surroundings { now: Now::read(), liveness: &Proc, fill: &mut common::fill });
        owner.sleep(ticket, Duration::from_nanos(outcome.look_again_in_ns));
    }
}

/// Places its packets of every image that is open, until it is killed.
fn contribute(path: &Path, packets: &[usize]) {
    let ring = open(path, PixelAccess::ReadWrite).expect("the ring is there");
    let mut contributor = Contributor::join(&ring, ProcessId::current(), "readout").expect("a free place");
    eprintln!("in");
    let mut id = 0;
    loop {
        contributor.epoch();
        let ticket = contributor.window_ticket();
        match contributor.lookup(id) {
            Lookup::Open => id += u64::from(common::place(&mut contributor, id, packets, monotonic_ns()) > 0),
            Lookup::Behind(ids) => id += ids,
            Lookup::NoSlot => id += u64::from(contributor.refuse(id)),
            Lookup::NoRun => contributor.request_run(0),
            Lookup::Ahead(_) => contributor.wait_for_window(ticket, DEADLINE),
        }
        contributor.set_progress(id.checked_sub(1), monotonic_ns());
    }
}

/// Reads, and ends with an error at the first thing that is wrong.
fn read(path: &Path, is_reliable: bool) {
    let ring = open(path, PixelAccess::ReadOnly).expect("the ring is there");
    let join = if is_reliable { Reader::reliable } else { Reader::lossy };
    let mut reader = join(&ring, ProcessId::current(), "reader", Start::Oldest).expect("a free place");
    eprintln!("in");
    let (mut told, mut copy) = (invariants::Told::default(), vec![0; ring.geometry().image_bytes()]);
    loop {
        let Some(delivery) = reader.next(Duration::from_millis(100)) else { continue };
        told.check(&delivery);
        let Some(image) = &delivery.image else { continue };
        if is_reliable {
            assert_eq!(delivery.overtaken, 0);
            invariants::check_pixels(delivery.epoch, image, reader.pixels(image));
        } else if reader.copy_pixels(image, &mut copy).is_ok() {
            invariants::check_pixels(delivery.epoch, image, &copy);
        }
    }
}

/// Random numbers of one seed: xorshift64* (Vigna, 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

fn signal(player: &Player, signal: libc::c_int) {
    // SAFETY: plain system call; the child is ours and not reaped.
    assert_eq!(unsafe { libc::kill(player.pid() as libc::pid_t, signal) }, 0, "it is ours");
}

/// The processes by part, and what was done to them.
struct Troupe<'a> {
    path: &'a Path,
    players: Vec<Player>,
    kills: u64,
    stops: u64,
}

impl<'a> Troupe<'a> {
    fn start(path: &'a Path) -> Self {
        let players = PARTS.map(|part| {
            let mut player = Player::start(ENTRY, part, path);
            player.wait_for("in");
            player
        });
        Self { path, players: players.into(), kills: 0, stops: 0 }
    }

    fn play_round(&mut self, random: &mut Random) {
        let part = random.below(PARTS.len() as u64) as usize;
        std::thread::sleep(Duration::from_micros(random.below(5_000)));
        self.assert_plays(part);
        let is_stopped = random.below(3) == 0;
        if is_stopped {
            self.stops += 1;
            signal(&self.players[part], libc::SIGSTOP);
            std::thread::sleep(Duration::from_millis(random.below(STOP_MS_MAX)));
        }
        self.assert_whole();
        if is_stopped && random.below(2) == 0 {
            signal(&self.players[part], libc::SIGCONT);
            return;
        }
        self.kills += 1;
        self.players[part].kill();
        self.assert_whole();
        self.players[part] = Player::start(ENTRY, PARTS[part], self.path);
        if random.below(4) > 0 {
            self.players[part].wait_for("in"); // otherwise the next one may be killed while it joins
        }
    }

    /// Whatever somebody was killed or stopped in: the ring's own invariants hold.
    fn assert_whole(&self) {
        let (seen, faults) = inspect::check(self.path, &Proc).expect("it is a ring");
        assert!(faults.is_empty(), "{faults:#?}\n{seen:#?}");
    }

    /// Nobody ends by itself: who does has found something wrong.
    fn assert_plays(&mut self, part: usize) {
        if self.players[part].has_ended() {
            let (_, said) = self.players.swap_remove(part).finish();
            panic!("{}: {said}", PARTS[part]);
        }
    }
}

/// Reads everything until `stop`, and then what is still there.
fn witness(mut reader: Reader, stop: &AtomicBool) -> invariants::Told {
    let mut told = invariants::Told::default();
    let mut is_last_look = false;
    loop {
        while let Some(delivery) = reader.next(Duration::from_millis(20)) {
            told.check(&delivery);
            if let Some(image) = &delivery.image {
                invariants::check_pixels(delivery.epoch, image, reader.pixels(image));
            }
        }
        if is_last_look {
            return told;
        }
        is_last_look = stop.load(SeqCst);
    }
}

fn is_settled(ring: &Ring, last: &mut (Instant, RingStatus)) -> bool {
    let status = ring.status();
    if status != last.1 {
        *last = (Instant::now(), status);
    }
    last.0.elapsed() > Duration::from_millis(400) // four times the housekeeping
}

#[test]
fn processes_killed_and_stopped_at_random_never_show_a_wrong_pixel_or_lose_count() {
    let rounds = number("ECS_RING_ROUNDS", 40);
    let seed = number("ECS_RING_SEED", monotonic_ns()).max(1);
    println!("ECS_RING_ROUNDS={rounds} ECS_RING_SEED={seed}");
    let _watchdog = Watchdog::start(Duration::from_secs(60 + rounds));
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is there");
    let path = folder.path().join("ring");
    let (ring, lock) = create_or_take_over(&path, common::geometry(32, 4, PACKETS), &Proc).expect("there is room");
    let reader = Reader::reliable(&ring, ProcessId::current(), "witness", Start::Next).expect("a free place");
    drop(lock); // from here on it is the owner's
    let (mut random, stop) = (Random(seed), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let witness = scope.spawn(|| witness(reader, &stop));
        let mut troupe = Troupe::start(&path);
        (0..rounds).for_each(|_| troupe.play_round(&mut random));
        (0..PARTS.len()).for_each(|part| troupe.assert_plays(part));
        (1..PARTS.len()).for_each(|part| troupe.players[part].kill());
        let mut last = (Instant::now(), ring.status());
        common::wait_until("nothing moves any more", || is_settled(&ring, &mut last));
        stop.store(true, SeqCst);
        let told = witness.join().expect("all it was told was right");
        let status = ring.status();
        println!("{rounds} rounds: {} kills, {} stops; {status:?}", troupe.kills, troupe.stops);
        assert!(status.participants.iter().all(|other| Proc.is_alive(other.process)), "I8: {:?}", status.participants);
        assert_eq!(status.images_complete + status.images_partial, told.images, "images, counted and told");
        common::wait_until("the readers are at rest", || ring.status().imbalances().is_empty());
        assert_eq!(status.lost.iter().sum::<u64>(), told.lost, "losses, counted and told: {:?}", status.lost);
        assert!(status.images_complete > rounds && status.epoch == 1, "{status:?}");
        assert_eq!(status.slots_in_quarantine, 0);
    });
}
