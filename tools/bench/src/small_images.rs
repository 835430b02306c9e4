//! Small images through the ring, as fast as one thread makes them: beside a messaging library, which has no packets.
//!
//! Owner and contributor are one thread on core 0, as a publisher is; each image is one packet, of which a number is
//! written and read. A thread for each reader; one that is alone is on core 1. Nothing is lost: where readers hold all
//! slots, the maker waits for them: a reader may be a thousand images behind, as with a beamline's ring, and so may a
//! subscriber of the peer. Readers that find nothing look again some times, and then let others run, as the peer's
//! subscribers do.

use crate::{cores::pin, handoff::IMAGES};
use anyhow::{Context, bail};
use ecs_shm_buffer::{
    Contributor, Geometry, Now, Owner, OwnerLock, PacketFate, PacketInfo, PixelAccess, Proc, ProcessId, Reader, Ring,
    Start, Surroundings, create_or_take_over, limits::HAZARD_SLOTS, monotonic_ns, open,
};
use std::{
    array,
    hint::spin_loop,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// As those of the hand-off, with more of them open, so that a step commits many.
const SMALL: Geometry = Geometry { slots: DEPTH as u32 + WINDOW, window: WINDOW, ..IMAGES };
const WINDOW: u32 = 32;
/// Images that a reader may be behind while the window is open, and messages that a subscriber of a peer may.
pub const DEPTH: usize = 1024;
/// Empty looks before a thread lets others run: of more threads than cores, one that spins on takes another's time.
const SPINS: u32 = 5;

/// Bytes of one image.
pub fn image_bytes() -> usize {
    SMALL.image_bytes()
}

/// Images per second that each of `readers` gets.
///
/// # Errors
/// The ring cannot be made, a core is not there, or an image has the pixels of another.
pub fn images_per_s(leg: Duration, readers: usize) -> anyhow::Result<f64> {
    let path = PathBuf::from(format!("/dev/shm/ecs-bench-{}-small.ring", process::id()));
    let (ring, lock) = create_or_take_over(&path, SMALL, &Proc).context("cannot make the benchmark's ring")?;
    let stop = AtomicBool::new(false);
    let measured = thread::scope(|scope| {
        let reading: Vec<_> = (0..readers).map(|_| scope.spawn(|| read(&path, readers == 1, &stop))).collect();
        let made = scope.spawn(|| make_images(&ring, readers, leg)).join().expect("it does not panic");
        stop.store(true, Ordering::Relaxed);
        let rates: anyhow::Result<Vec<f64>> = reading.into_iter().map(|one| one.join().expect("nor this")).collect();
        made.and(rates)
    });
    OwnerLock::remove(lock)?;
    measured?.into_iter().reduce(f64::min).context("no reader was asked for")
}

/// Makes images for the time of a leg, once all readers are there.
fn make_images(ring: &Ring, readers: usize, leg: Duration) -> anyhow::Result<()> {
    pin(0)?;
    let me = ProcessId::current();
    let mut owner = Owner::take_over(ring, me, Duration::from_secs(10), &Proc);
    let mut contributor = Contributor::join(ring, me, "bench")?;
    let mut step = || {
        let mut nothing_missing = |_: &mut [u8], _: usize| {};
        owner.step(&mut Surroundings { now: Now::read(), liveness: &Proc, fill: &mut nothing_missing });
    };
    let patience = Instant::now();
    while ring.status().participants.iter().filter(|other| other.role.reads()).count() < readers {
        if patience.elapsed() > Duration::from_secs(10) {
            bail!("{readers} readers were not there within 10 s");
        }
        thread::yield_now();
    }
    contributor.request_run(1);
    step();
    contributor.epoch();
    let (start, mut next) = (Instant::now(), 1);
    while start.elapsed() < leg {
        let first = next;
        while next - first < u64::from(SMALL.window) {
            let made = fill_open(&mut contributor, next);
            next += made;
            if made < HAZARD_SLOTS as u64 {
                break;
            }
        }
        contributor.count(PacketFate::Placed, next - first);
        contributor.set_progress(next.checked_sub(1).filter(|id| *id > 0), monotonic_ns());
        step();
        if next == first {
            thread::yield_now(); // readers hold all slots
        }
    }
    Ok(())
}

/// Fills the images from `next` on that are open, as many as may be protected at one time. Returns how many.
fn fill_open(contributor: &mut Contributor, next: u64) -> u64 {
    let ids: [u64; HAZARD_SLOTS] = array::from_fn(|index| next + index as u64);
    let access = contributor.protect(&ids);
    let mut made = 0;
    for id in ids {
        let Some(image) = access.image(id) else { break };
        // SAFETY: `access` protects the image, whose pixels begin on a page and have more than 8 bytes.
        unsafe { access.pixels(image).cast::<u64>().write(id) };
        access.mark(image, 0, PacketInfo { received_ns: 1, ..PacketInfo::default() });
        made += 1;
    }
    made
}

/// Images per second from the first to the last.
fn read(path: &Path, is_alone: bool, stop: &AtomicBool) -> anyhow::Result<f64> {
    if is_alone {
        pin(1)?;
    }
    let ring = open(path, PixelAccess::ReadOnly)?;
    let mut reader = Reader::reliable(&ring, ProcessId::current(), "bench", Start::Next)?;
    let (mut images, mut empty, mut start) = (0_u64, 0, None);
    while !stop.load(Ordering::Relaxed) {
        let Some(image) = reader.try_next().and_then(|delivery| delivery.image) else {
            empty += 1;
            if empty < SPINS {
                spin_loop()
            } else {
                thread::yield_now()
            }
            continue;
        };
        empty = 0;
        start.get_or_insert_with(Instant::now);
        images += 1;
        let first: [u8; 8] = reader.pixels(&image)[..8].try_into().expect("an image has more");
        if (image.id, u64::from_le_bytes(first)) != (images, images) {
            bail!("image {} with the pixels of {} came where {images} was due", image.id, u64::from_le_bytes(first));
        }
    }
    let start = start.context("no image reached the reader")?;
    Ok(images as f64 / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not how fast it is: each reader bails where an image is not the one that is due, or has another's pixels.
    #[test]
    fn every_reader_gets_every_image_with_its_own_pixels() {
        for readers in [1, 4] {
            assert!(images_per_s(Duration::from_millis(50), readers).unwrap() > 0.0);
        }
    }
}
