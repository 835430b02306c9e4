//! Lossy readers that are overtaken all the time: whatever they are given as good is right, byte for byte.
//!
//! A writer thread drives the whole ring (owner and contributor in turn) as fast as it can, over eight slots;
//! readers copy images that are about to be replaced. A copy either is void, or every word of it is that
//! image's. `ECS_RING_READS` is how many copies are checked, 200 000 without; the long run is in the README.

mod common;

use common::{Rig, Watchdog, invariants, process};
use ecs_shm_buffer::{Reader, Ring, Start};
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

const PACKETS: u32 = 8;
/// Two, so that a writer has a core left on four.
const READERS: u32 = 2;

#[derive(Default)]
struct Tally {
    /// Copies that were tried, good, and void; steps that were missed between two deliveries.
    reads: AtomicU64,
    good: AtomicU64,
    void: AtomicU64,
    missed: AtomicU64,
}

/// Reads each image that it is given over and over, until it is void or was read often enough: so that many
/// of the copies are begun on a good image and end on a bad one.
fn read(ring: &Ring, pid: u32, tally: &Tally, stop: &AtomicBool) {
    const COPIES_MAX: u32 = 64;
    let mut reader = Reader::lossy(ring, process(pid), "preview", Start::Next).expect("a free place");
    let mut copy = vec![0; ring.geometry().image_bytes()];
    let mut told = invariants::Told::default();
    while !stop.load(Relaxed) {
        let Some(delivery) = reader.try_next() else { continue };
        told.check(&delivery);
        tally.missed.fetch_add(delivery.overtaken, Relaxed);
        let Some(image) = &delivery.image else { continue };
        for _ in 0..COPIES_MAX {
            tally.reads.fetch_add(1, Relaxed);
            if reader.copy_pixels(image, &mut copy).is_err() {
                tally.void.fetch_add(1, Relaxed);
                break;
            }
            invariants::check_pixels(delivery.epoch, image, &copy);
            tally.good.fetch_add(1, Relaxed);
        }
    }
}

#[test]
fn overtaken_reader_is_never_given_a_torn_image_as_good() {
    let wanted = std::env::var("ECS_RING_READS").map_or(200_000, |text| text.parse().expect("a number"));
    let _watchdog = Watchdog::start(Duration::from_secs(60 + wanted / 20_000));
    let mut rig = Rig::new(8, 2, PACKETS);
    let (tally, stop, ring) = (Tally::default(), AtomicBool::new(false), rig.ring.clone());
    std::thread::scope(|scope| {
        let (tally, stop, ring) = (&tally, &stop, &ring);
        let start = |reader| scope.spawn(move || read(ring, 10 + reader, tally, stop));
        let readers: Vec<_> = (0..READERS).map(start).collect();
        let mut contributor = rig.contributor_in_run(2, 0);
        let mut id = 0;
        // One that has found a torn image ends; the scope passes its panic on.
        while tally.reads.load(Relaxed) < wanted && !readers.iter().any(|reader| reader.is_finished()) {
            rig.whole_image(&mut contributor, id);
            id += 1;
        }
        stop.store(true, Relaxed);
    });
    let count = |counter: &AtomicU64| counter.load(Relaxed);
    let (reads, good, void, missed) =
        (count(&tally.reads), count(&tally.good), count(&tally.void), count(&tally.missed));
    println!(
        "{reads} checked reads: {good} good and right, {void} void, 0 torn; {missed} steps missed, {} images",
        rig.ring.status().commits
    );
    assert!(void > reads / 1000 && missed > 0, "nobody was overtaken: {void} of {reads}");
    assert_eq!(good + void, reads);
}
