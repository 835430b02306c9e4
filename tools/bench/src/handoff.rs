//! How long a committed image takes to its reader, beside what the machine itself takes to hand a word from one core to
//! another: spinning, and by a futex.
//!
//! ```text
//! core 0   last packet marked, owner's step commits      core 1   reader, with a mapping of its own
//!             t0 ──────────────────────────────────────────────▶ descriptor and first pixels read: t1
//! ```
//!
//! Each image carries `t0` in its first pixels; the figure is the median of `t1 - t0`. The baselines are one word that a
//! thread of core 1 waits for: half of a round trip where both spin, and one way by a futex, where it sleeps. Reader
//! and waiter sleep as long, so that an idle core costs both the same.

use crate::{
    broker::quantile,
    report::{Row, in_pairs},
};
use anyhow::{Context, bail};
use ecs_shm_buffer::{
    Contributor, Geometry, Lookup, Now, Owner, OwnerLock, PacketFate, PacketInfo, PixelAccess, Proc, ProcessId, Reader,
    Ring, Start, Surroundings, create_or_take_over, monotonic_ns, open,
};
use std::{
    hint::spin_loop,
    io, mem,
    path::{Path, PathBuf},
    ptr,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// One packet an image: what is measured is the last one.
const IMAGES: Geometry = Geometry {
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

/// How the one who gets it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Spinning,
    Asleep,
}

/// The rows of hand-offs.
///
/// # Errors
/// The ring cannot be made, or there are fewer than two cores.
pub fn rows(leg: Duration, pairs: usize) -> anyhow::Result<Vec<Row>> {
    if thread::available_parallelism()?.get() < 2 {
        bail!("a hand-off is from one core to another, and this machine has one");
    }
    let spinning = in_pairs(pairs, || handoff_ns(leg, Waiting::Spinning), || spin_ns(leg))?;
    let asleep = in_pairs(pairs, || handoff_ns(leg, Waiting::Asleep), || futex_ns(leg))?;
    Ok(vec![
        Row::from_pairs("hand-off to a spinning reader, p50", "ns", "half a spin round trip", &spinning),
        Row::from_pairs("hand-off to a sleeping reader, p50", "ns", "a bare futex wake", &asleep),
    ])
}

fn handoff_ns(leg: Duration, waiting: Waiting) -> anyhow::Result<f64> {
    let path = PathBuf::from(format!("/dev/shm/ecs-bench-{}-handoff.ring", std::process::id()));
    let (ring, lock) = create_or_take_over(&path, IMAGES, &Proc).context("cannot make the benchmark's ring")?;
    let stop = AtomicBool::new(false);
    let measured = thread::scope(|scope| {
        let reading = scope.spawn(|| read(&path, waiting, &stop));
        let sending = scope.spawn(|| commit_images(&ring, leg, waiting));
        let sent = sending.join().expect("it does not panic");
        stop.store(true, Ordering::Relaxed);
        let times = reading.join().expect("it does not panic")?;
        sent.map(|()| times)
    });
    OwnerLock::remove(lock)?;
    let times = measured?;
    if times.is_empty() {
        bail!("no image reached the reader");
    }
    Ok(quantile(times, 0.5))
}

/// Opens, fills and commits image after image on core 0, as owner and contributor in one.
fn commit_images(ring: &Ring, leg: Duration, waiting: Waiting) -> anyhow::Result<()> {
    pin(0)?;
    let me = ProcessId::current();
    let mut owner = Owner::take_over(ring, me, Duration::from_secs(10), &Proc);
    let mut contributor = Contributor::join(ring, me, "bench")?;
    contributor.request_run(1);
    let mut step = || {
        let mut nothing_missing = |_: &mut [u8], _: usize| {};
        owner.step(&mut Surroundings { now: Now::read(), liveness: &Proc, fill: &mut nothing_missing });
    };
    let pace = if waiting == Waiting::Spinning { SPIN_PACE } else { SLEEP_PACE };
    let start = Instant::now();
    let mut id = 1;
    while start.elapsed() < leg {
        step();
        if contributor.epoch() == 0 || contributor.lookup(id) != Lookup::Open {
            continue;
        }
        rest(pace);
        let access = contributor.protect(&[id]);
        let Some(image) = access.image(id) else { continue };
        // SAFETY: `access` protects the image, whose pixels begin on a page and have more than 8 bytes.
        unsafe { access.pixels(image).cast::<u64>().write(monotonic_ns()) };
        access.mark(image, 0, PacketInfo { received_ns: 1, ..PacketInfo::default() });
        drop(access);
        step();
        contributor.count(PacketFate::Placed, 1);
        contributor.set_progress(Some(id), monotonic_ns());
        id += 1;
    }
    Ok(())
}

/// Spins: a core that goes idle answers later, and with it what is measured.
fn rest(pace: Duration) {
    let start = Instant::now();
    while start.elapsed() < pace {
        spin_loop();
    }
}

/// Times from before an image's last packet was marked until its first pixels were read, on core 1.
fn read(path: &Path, waiting: Waiting, stop: &AtomicBool) -> anyhow::Result<Vec<f64>> {
    pin(1)?;
    let ring = open(path, PixelAccess::ReadOnly)?;
    let mut reader = Reader::reliable(&ring, ProcessId::current(), "bench", Start::Next)?;
    let mut times_ns = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let delivery = match waiting {
            Waiting::Spinning => reader.try_next(),
            Waiting::Asleep => reader.next(PATIENCE),
        };
        let Some(image) = delivery.and_then(|delivery| delivery.image) else { continue };
        let first: [u8; 8] = reader.pixels(&image)[..8].try_into().expect("an image has more");
        let now_ns = monotonic_ns();
        times_ns.push(now_ns.saturating_sub(u64::from_le_bytes(first)) as f64);
    }
    Ok(times_ns)
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
        Ok(quantile(sleeper.join().expect("it does not panic")?, 0.5))
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

/// Keeps the calling thread on one core.
fn pin(core: usize) -> anyhow::Result<()> {
    // SAFETY: a set of zeros is an empty one, and the core is far below its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(core, &mut set);
        set
    };
    // SAFETY: the set lives over the call and has the size that is told.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).with_context(|| format!("cannot stay on core {core}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not how fast it is: that every hand-over arrives and is timed.
    #[test]
    fn every_leg_brings_times() {
        let leg = Duration::from_millis(50);
        for time_ns in [
            handoff_ns(leg, Waiting::Spinning).unwrap(),
            handoff_ns(leg, Waiting::Asleep).unwrap(),
            spin_ns(leg).unwrap(),
            futex_ns(leg).unwrap(),
        ] {
            assert!(time_ns > 0.0 && time_ns < 1e9, "{time_ns} ns");
        }
    }
}
