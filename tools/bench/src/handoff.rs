//! How long a committed image takes to its reader, beside what the machine itself takes to hand a word from one core to
//! another: spinning, and by a futex.
//!
//! ```text
//! core 0   last packet marked ─▶ owner reads its clock, and commits   core 1   reader, with a mapping of its own
//!          marked                decided ──────────────────────────────▶ delivered ─▶ first pixels read
//! ```
//!
//! The figure is the median of the time from `decided`, when the owner has all that it needs to commit (it takes its
//! step with that very time), until `delivered`, when the reader has the image: its id, its packets, its times and where
//! its pixels are. Other rows go on until the first pixels are `read`, or begin at `marked`, before the last packet is
//! marked, so with a contributor's work in them and the owner's two clocks. The baselines are one word that a thread of
//! core 1 waits for: half of a round trip where both spin, and one way by a futex, where it sleeps. Reader and waiter
//! sleep as long, so that an idle core costs both the same.
//!
//! A word that bounces all the time is faster than one that comes out of a pause: both sides find the line, and what
//! they run, where they left it, and many round trips share one clock. A third baseline is therefore one word, handed
//! on once in the same pause as images are, and timed by the same two clocks. With its first pixels an image needs two
//! lines, one after the other: the first tells where they are.
//!
//! A peer hands messages of as many bytes from process to process in the same pause; its clock begins before it sends
//! what it has loaned and written, and ends when its subscriber knows which message it has got, which is written in
//! the message's first bytes. Our reader is a thread with a mapping of its own, its subscriber a process.
//!
//! Reading a clock takes as long as a hand-off here. The round trips need none; so, from what is measured between two
//! clocks, what they show with nothing between them is taken off, from hand-off and futex alike. Times are kept by
//! each side in memory of its own: a line more that goes from core to core would be measured with the rest.

use crate::{broker::quantile, cores::pin, peers::iceoryx2::Iceoryx2, rows::Rows};
use anyhow::{Context, bail};
use ecs_shm_buffer::{
    Contributor, Geometry, Lookup, Now, Owner, OwnerLock, PacketFate, PacketInfo, PixelAccess, Proc, ProcessId, Reader,
    Ring, Start, Surroundings, create_or_take_over, monotonic_ns, open,
};
use std::{
    hint::spin_loop,
    mem,
    path::{Path, PathBuf},
    ptr,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// One packet an image: what is measured is the last one.
pub const IMAGES: Geometry = Geometry {
    slots: 64,
    window: 8,
    height: 64,
    width: 64,
    pixel_bytes: 2,
    packets_per_image: 1,
    fill: 0xffff,
    placement_hash: 7,
};
/// Between two images for a reader that spins: it has taken the one before.
const SPIN_PACE: Duration = Duration::from_micros(5);
/// And for one that sleeps: it sleeps again.
const SLEEP_PACE: Duration = Duration::from_micros(500);
/// How long a reader waits before it looks whether the leg is over.
const PATIENCE: Duration = Duration::from_millis(20);
/// Round trips of one sample: reading a clock takes as long as one.
const ROUNDS: u32 = 100;
/// Pairs of clocks with nothing between them.
const CLOCK_PAIRS: u32 = 1001;
/// Images of one leg whose times are kept, without memory being asked for meanwhile; a leg of seconds has fewer.
const IMAGES_KEPT: usize = 1 << 20;

/// How the one who gets it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Spinning,
    Asleep,
}

/// From when on a hand-off is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Decided,
    Marked,
}

/// And until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    Delivered,
    PixelsRead,
}

/// The times of one image on its owner's side.
struct Sent {
    marked_ns: u64,
    decided_ns: u64,
}

/// The rows of hand-offs; some beside a peer, where there is one.
///
/// # Errors
/// The ring cannot be made, or there are fewer than two cores.
pub fn measure(rows: &mut Rows<'_>, leg: Duration, peer: Option<&Iceoryx2>) -> anyhow::Result<()> {
    let names = [
        "hand-off to a spinning reader, p50",
        "hand-off with its first pixels, p50",
        "hand-off to a spinning reader again, p50",
        "hand-off from the mark of its last packet, p50",
        "hand-off to a sleeping reader, p50",
    ];
    if !names.iter().any(|what| rows.is_wanted(what)) {
        return Ok(());
    }
    if thread::available_parallelism()?.get() < 2 {
        bail!("a hand-off is from one core to another, and this machine has one");
    }
    let spinning = || handoff_ns(leg, Waiting::Spinning, Since::Decided, Until::Delivered);
    let with_pixels = || handoff_ns(leg, Waiting::Spinning, Since::Decided, Until::PixelsRead);
    let marked = || handoff_ns(leg, Waiting::Spinning, Since::Marked, Until::PixelsRead);
    let asleep = || handoff_ns(leg, Waiting::Asleep, Since::Decided, Until::Delivered);
    let half_round = "half a spin round trip";
    let beside_peer = |rows: &mut Rows<'_>, what: &str, ours: &dyn Fn() -> anyhow::Result<f64>| {
        let Some(peer) = peer else { return Ok(()) };
        let theirs = || peer.handoff_ns(leg, IMAGES.image_bytes(), SPIN_PACE);
        rows.measure(what, "ns", "iceoryx2 publish/subscribe", ours, theirs)
    };
    rows.measure(names[0], "ns", half_round, spinning, || spin_ns(leg))?;
    beside_peer(rows, names[0], &spinning)?;
    rows.measure(names[1], "ns", half_round, with_pixels, || spin_ns(leg))?;
    beside_peer(rows, names[1], &with_pixels)?;
    rows.measure(names[2], "ns", "one word, paced and timed alike", spinning, || word_ns(leg))?;
    rows.measure(names[3], "ns", half_round, marked, || spin_ns(leg))?;
    rows.measure(names[4], "ns", "a bare futex wake", asleep, || futex_ns(leg))
}

fn handoff_ns(leg: Duration, waiting: Waiting, since: Since, until: Until) -> anyhow::Result<f64> {
    let path = PathBuf::from(format!("/dev/shm/ecs-bench-{}-handoff.ring", std::process::id()));
    let (ring, lock) = create_or_take_over(&path, IMAGES, &Proc).context("cannot make the benchmark's ring")?;
    let stop = AtomicBool::new(false);
    let measured = thread::scope(|scope| {
        let reading = scope.spawn(|| read(&path, waiting, until, &stop));
        let sending = scope.spawn(|| commit_images(&ring, leg, waiting));
        let sent = sending.join().expect("it does not panic");
        stop.store(true, Ordering::Relaxed);
        let read = reading.join().expect("it does not panic")?;
        sent.map(|sent| times_ns(&sent, &read, since))
    });
    OwnerLock::remove(lock)?;
    let times = measured?;
    if times.is_empty() {
        bail!("no image reached the reader");
    }
    Ok(quantile(times, 0.5) - clock_ns())
}

/// Of each image that was read: how long it took.
fn times_ns(sent: &[Sent], read: &[(u64, u64)], since: Since) -> Vec<f64> {
    let begin_ns = |id: u64| {
        let sent = sent.get(usize::try_from(id).ok()?.checked_sub(1)?)?;
        Some(if since == Since::Decided { sent.decided_ns } else { sent.marked_ns })
    };
    read.iter().filter_map(|&(id, read_ns)| Some(read_ns.saturating_sub(begin_ns(id)?) as f64)).collect()
}

/// What two clocks show that are read one after the other.
fn clock_ns() -> f64 {
    let pair = |_| {
        let first_ns = monotonic_ns();
        (monotonic_ns() - first_ns) as f64
    };
    quantile((0..CLOCK_PAIRS).map(pair).collect(), 0.5)
}

/// Opens, fills and commits image after image on core 0, as owner and contributor in one. Returns the times of each
/// image, from number 1 on; its first pixels are its number.
fn commit_images(ring: &Ring, leg: Duration, waiting: Waiting) -> anyhow::Result<Vec<Sent>> {
    pin(0)?;
    let me = ProcessId::current();
    let mut owner = Owner::take_over(ring, me, Duration::from_secs(10), &Proc);
    let mut contributor = Contributor::join(ring, me, "bench")?;
    contributor.request_run(1);
    let mut step = || {
        let mut nothing_missing = |_: &mut [u8], _: usize| {};
        let now = Now::read();
        owner.step(&mut Surroundings { now, liveness: &Proc, fill: &mut nothing_missing });
        now.mono_ns // of the two clocks the one that is read last
    };
    let pace = if waiting == Waiting::Spinning { SPIN_PACE } else { SLEEP_PACE };
    let start = Instant::now();
    let (mut id, mut sent) = (1, Vec::with_capacity(IMAGES_KEPT));
    while start.elapsed() < leg && sent.len() < IMAGES_KEPT {
        step();
        if contributor.epoch() == 0 || contributor.lookup(id) != Lookup::Open {
            continue;
        }
        rest(pace);
        let access = contributor.protect(&[id]);
        let Some(image) = access.image(id) else { continue };
        // SAFETY: `access` protects the image, whose pixels begin on a page and have more than 8 bytes.
        unsafe { access.pixels(image).cast::<u64>().write(id) };
        let marked_ns = monotonic_ns();
        access.mark(image, 0, PacketInfo { received_ns: 1, ..PacketInfo::default() });
        drop(access);
        let decided_ns = step();
        sent.push(Sent { marked_ns, decided_ns });
        contributor.count(PacketFate::Placed, 1);
        contributor.set_progress(Some(id), monotonic_ns());
        id += 1;
    }
    Ok(sent)
}

/// Spins: a core that goes idle answers later, and with it what is measured.
fn rest(pace: Duration) {
    let start = Instant::now();
    while start.elapsed() < pace {
        spin_loop();
    }
}

/// Which images were read on core 1, and when.
fn read(path: &Path, waiting: Waiting, until: Until, stop: &AtomicBool) -> anyhow::Result<Vec<(u64, u64)>> {
    pin(1)?;
    let ring = open(path, PixelAccess::ReadOnly)?;
    let mut reader = Reader::reliable(&ring, ProcessId::current(), "bench", Start::Next)?;
    let mut read = Vec::with_capacity(IMAGES_KEPT);
    while !stop.load(Ordering::Relaxed) {
        let delivery = match waiting {
            Waiting::Spinning => reader.try_next(),
            Waiting::Asleep => reader.next(PATIENCE),
        };
        let Some(image) = delivery.as_ref().and_then(|delivery| delivery.image.as_ref()) else { continue };
        let delivered_ns = (until == Until::Delivered).then(monotonic_ns);
        let first: [u8; 8] = reader.pixels(image)[..8].try_into().expect("an image has more");
        let number = u64::from_le_bytes(first);
        read.push((number, delivered_ns.unwrap_or_else(monotonic_ns)));
        if number != image.id {
            bail!("image {} has the pixels of {number}", image.id);
        }
    }
    Ok(read)
}

/// A word in cache lines of its own: neighbours are fetched in pairs.
#[repr(align(128))]
#[derive(Default)]
struct Word(AtomicU32);

/// Half of a round trip of a word between two threads that spin.
fn spin_ns(leg: Duration) -> anyhow::Result<f64> {
    let (ping, pong) = (Word::default(), Word::default());
    thread::scope(|scope| {
        let echo = scope.spawn(|| {
            let pinned = pin(1);
            let mut seen = 0;
            while seen != u32::MAX {
                seen = spin_until_not(&ping.0, seen);
                pong.0.store(seen, Ordering::Release);
            }
            pinned
        });
        let asker = scope.spawn(|| {
            let pinned = pin(0);
            let (start, mut number, mut samples) = (Instant::now(), 0_u32, Vec::new());
            while start.elapsed() < leg {
                let begun = Instant::now();
                for _ in 0..ROUNDS {
                    ping.0.store(number + 1, Ordering::Release);
                    number = spin_until_not(&pong.0, number);
                }
                samples.push(begun.elapsed().as_nanos() as f64 / f64::from(2 * ROUNDS));
            }
            ping.0.store(u32::MAX, Ordering::Release);
            pinned.map(|()| samples)
        });
        let samples = asker.join().expect("it does not panic");
        echo.join().expect("it does not panic")?;
        Ok(quantile(samples?, 0.5))
    })
}

fn spin_until_not(word: &AtomicU32, old: u32) -> u32 {
    loop {
        match word.load(Ordering::Acquire) {
            same if same == old => spin_loop(),
            new => return new,
        }
    }
}

/// One way of a word to a thread that spins, in the pause and by the clocks of images.
fn word_ns(leg: Duration) -> anyhow::Result<f64> {
    let word = Word::default();
    thread::scope(|scope| {
        let spinner = scope.spawn(|| {
            let pinned = pin(1);
            let (mut number, mut read) = (0, Vec::with_capacity(IMAGES_KEPT));
            loop {
                number = spin_until_not(&word.0, number);
                read.push((u64::from(number), monotonic_ns()));
                if number == u32::MAX {
                    return pinned.map(|()| read);
                }
            }
        });
        let sender = scope.spawn(|| {
            let pinned = pin(0);
            let (start, mut sent) = (Instant::now(), Vec::with_capacity(IMAGES_KEPT));
            while start.elapsed() < leg && sent.len() < IMAGES_KEPT {
                rest(SPIN_PACE);
                let now_ns = monotonic_ns();
                word.0.store(sent.len() as u32 + 1, Ordering::Release);
                sent.push(Sent { marked_ns: now_ns, decided_ns: now_ns });
            }
            word.0.store(u32::MAX, Ordering::Release);
            pinned.map(|()| sent)
        });
        let sent = sender.join().expect("it does not panic")?;
        let read = spinner.join().expect("it does not panic")?;
        Ok(quantile(times_ns(&sent, &read, Since::Decided), 0.5) - clock_ns())
    })
}

/// From before a thread that sleeps on a futex is woken until it runs.
fn futex_ns(leg: Duration) -> anyhow::Result<f64> {
    let (word, sent_ns, stop) = (Word::default(), AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            let pinned = pin(1);
            let (mut seen, mut samples) = (0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                futex_wait(&word.0, seen);
                let now = word.0.load(Ordering::Acquire);
                if mem::replace(&mut seen, now) != now {
                    samples.push(monotonic_ns().saturating_sub(sent_ns.load(Ordering::Relaxed)) as f64);
                }
            }
            pinned.map(|()| samples)
        });
        let waker = scope.spawn(|| {
            let pinned = pin(0);
            let start = Instant::now();
            while start.elapsed() < leg {
                rest(SLEEP_PACE);
                sent_ns.store(monotonic_ns(), Ordering::Relaxed);
                word.0.fetch_add(1, Ordering::Release);
                futex_wake(&word.0);
            }
            stop.store(true, Ordering::Relaxed);
            pinned
        });
        waker.join().expect("it does not panic")?;
        Ok(quantile(sleeper.join().expect("it does not panic")?, 0.5) - clock_ns())
    })
}

/// Sleeps until the word is not `seen` any more, at most for [`PATIENCE`].
fn futex_wait(word: &AtomicU32, seen: u32) {
    let patience = libc::timespec { tv_sec: 0, tv_nsec: i64::from(PATIENCE.subsec_nanos()) };
    // SAFETY: the word and the time live over the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, seen, &raw const patience) };
}

fn futex_wake(word: &AtomicU32) {
    // SAFETY: the word lives over the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1, ptr::null::<libc::timespec>()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not how fast it is: that every hand-over arrives and is timed.
    #[test]
    fn every_leg_brings_times() {
        let leg = Duration::from_millis(50);
        for time_ns in [
            handoff_ns(leg, Waiting::Spinning, Since::Decided, Until::Delivered).unwrap(),
            handoff_ns(leg, Waiting::Spinning, Since::Marked, Until::PixelsRead).unwrap(),
            handoff_ns(leg, Waiting::Asleep, Since::Decided, Until::Delivered).unwrap(),
            spin_ns(leg).unwrap(),
            word_ns(leg).unwrap(),
            futex_ns(leg).unwrap(),
        ] {
            assert!(time_ns > 0.0 && time_ns < 1e9, "{time_ns} ns");
        }
    }
}
