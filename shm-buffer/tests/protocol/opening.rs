//! Windows, slots that are used again and again, and numbers at their ends.

use crate::common::{self, Rig, Watchdog, invariants, raw};
use ecs_shm_buffer::{
    Assume, Contributor, Lookup, PixelAccess, Reader, Start, create_or_take_over, limits::IMAGE_ID_MAX, open,
};
use std::time::Duration;

#[test]
fn ring_of_eight_slots_delivers_every_image_at_every_window() {
    for window in 1..=4 {
        let mut rig = Rig::new(8, window, 2);
        let mut contributor = rig.contributor_in_run(2, 0);
        let mut reader = Reader::reliable(&rig.ring, common::process(3), "writer", Start::Next).unwrap();
        let mut told = invariants::Told::default();
        for id in contributor_ids(&contributor, 100) {
            assert_eq!(rig.whole_image(&mut contributor, id), 2, "window {window}, image {id}");
            let delivery = reader.try_next().expect("it was committed");
            told.check(&delivery);
            let image = delivery.image.expect("it is whole");
            invariants::check_pixels(delivery.epoch, &image, reader.pixels(&image));
            assert_eq!((image.id, image.packets_received), (id, 2));
            assert_eq!((image.detector_timestamp, image.exposure_length), (id * 1000, 7));
            assert_eq!(image.do_not_store, id % 2 == 0);
            assert_eq!(image.commit_utc_ns, common::UTC_OFFSET_NS + rig.now_ns);
            assert_eq!(image.first_packet_utc_ns, common::UTC_OFFSET_NS + rig.now_ns);
            rig.now_ns += 1000;
        }
        let status = rig.ring.status();
        assert_eq!((status.images_complete, status.images_partial, status.lost), (100, 0, [0; 5]));
    }
}

/// The first `count` ids from the lowest open one on.
fn contributor_ids(contributor: &Contributor, count: u64) -> std::ops::Range<u64> {
    let first = (0..).find(|&id| contributor.lookup(id) == Lookup::Open).expect("the window is open");
    first..first + count
}

#[test]
fn slot_walks_along_the_arrows_and_is_closing_while_it_is_filled() {
    let (_folder, path, ring, _lock) = file_ring();
    let raw = raw::RawRing::open(&path, *ring.geometry());
    let states = || -> Vec<_> { (0..8).map(|slot| raw.slot_word(slot).1).collect() };
    let mut rig = Rig::over(ring);
    assert_eq!(states(), [raw::State::Free; 8]);
    let mut contributor = rig.contributor_in_run(2, 0);
    let slot = raw.window()[0].1;
    assert_eq!(raw.slot_word(slot).1, raw::State::Open);
    common::place(&mut contributor, 0, &[0], rig.now_ns);
    rig.now_ns += common::DEADLINE_NS;
    let mut seen = Vec::new();
    let mut fill = |pixels: &mut [u8], packet: usize| {
        seen.push((packet, raw.slot_word(slot).1, raw.word(raw::COMMIT_HEAD)));
        common::fill(pixels, packet);
    };
    let now = ecs_shm_buffer::Now { mono_ns: rig.now_ns, utc_ns: 0 };
    rig.owner.step(&mut ecs_shm_buffer::Surroundings { now, liveness: &Assume(true), fill: &mut fill });
    assert_eq!(seen, [(1, raw::State::Closing, 0)]);
    assert_eq!(raw.slot_word(slot), (0, raw::State::Committed));
    for id in 1..8 {
        rig.whole_image(&mut contributor, id);
    }
    assert_ne!(raw.slot_word(slot), (0, raw::State::Committed), "its turn has come again");
    invariants::check_slots(&raw, 8);
}

#[test]
fn ids_up_to_the_largest_are_delivered_and_larger_ones_are_never_open() {
    let _watchdog = Watchdog::start(Duration::from_secs(20));
    let mut rig = Rig::new(8, 4, 1);
    let mut contributor = rig.contributor_in_run(2, IMAGE_ID_MAX - 4);
    let mut reader = Reader::reliable(&rig.ring, common::process(3), "writer", Start::Next).unwrap();
    for id in IMAGE_ID_MAX - 4..=IMAGE_ID_MAX {
        assert_eq!(rig.whole_image(&mut contributor, id), 1, "image {id}");
        assert_eq!(reader.try_next().and_then(|delivery| delivery.image).map(|image| image.id), Some(id));
    }
    for id in [1 << 48, (1 << 48) - 1, u64::MAX] {
        assert!(matches!(contributor.lookup(id), Lookup::Ahead(_)), "id {id}: {:?}", contributor.lookup(id));
        assert!(contributor.protect(&[id]).image(id).is_none());
        assert!(!contributor.refuse(id));
        contributor.set_progress(Some(id), rig.now_ns);
        rig.step_after(common::DEADLINE_NS);
    }
    assert!(matches!(contributor.lookup(0), Lookup::Behind(_)));
    assert!(ecs_shm_buffer::is_image_id(IMAGE_ID_MAX) && !ecs_shm_buffer::is_image_id(IMAGE_ID_MAX + 1));
}

#[test]
fn sequence_numbers_near_their_end_are_delivered_like_any_other() {
    for first_seq in [u64::from(u32::MAX) - 3, (1 << 48) - 40] {
        let (_folder, path, ring, _lock) = file_ring();
        let raw = raw::RawRing::open(&path, *ring.geometry());
        raw.set_word(raw::COMMIT_HEAD, first_seq);
        raw.set_word(raw::RECLAIMED_SEQ, first_seq);
        let mut rig = Rig::over(open(&path, PixelAccess::ReadWrite).unwrap());
        let mut contributor = rig.contributor_in_run(2, 0);
        let mut reader = Reader::reliable(&rig.ring, common::process(3), "writer", Start::Oldest).unwrap();
        for id in 0..30 {
            assert_eq!(rig.whole_image(&mut contributor, id), 2);
            let delivery = reader.try_next().expect("it was committed");
            let image = delivery.image.as_ref().expect("it is whole");
            assert_eq!((delivery.seq, image.id), (first_seq + id, id));
            invariants::check_pixels(1, image, reader.pixels(image));
        }
        rig.replace_owner(4);
        assert_eq!(rig.ring.status().commits, first_seq + 30);
        invariants::check_slots(&raw, 8);
    }
}

fn file_ring() -> (tempfile::TempDir, std::path::PathBuf, ecs_shm_buffer::Ring, ecs_shm_buffer::OwnerLock) {
    let folder = tempfile::tempdir_in("/dev/shm").expect("it is there");
    let path = folder.path().join("ring");
    let (ring, lock) = create_or_take_over(&path, common::geometry(8, 1, 2), &Assume(false)).expect("there is room");
    (folder, path, ring, lock)
}
