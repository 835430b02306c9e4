//! Looking at rings from outside: live, left over, cut, foreign and corrupted ones.

mod common;

use common::{DEADLINE_NS, Rig, Watchdog, geometry, process, raw};
use ecs_shm_buffer::{
    Assume, Contributor, Owner, OwnerLock, Proc, ProcessId, Reader, RingError, Role, Start, create_or_take_over,
    inspect::{self, Fault, Inspection, SlotOfImage, StateSeen},
};
use proptest::prelude::*;
use std::{
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").expect("/dev/shm is there"))
    }

    fn ring(&self) -> PathBuf {
        self.0.path().join("ring")
    }
}

/// A ring in the middle of a run: two images committed, one partial, one begun, one lost, a contributor
/// inside, a reader behind.
fn busy(path: &Path) -> (Rig, Contributor, Reader, OwnerLock) {
    let (ring, lock) = create_or_take_over(path, geometry(8, 2, 3), &Proc).expect("there is room");
    let mut rig = Rig::over(ring);
    let mut contributor = rig.contributor_in_run(2, 10);
    let reader = Reader::reliable(&rig.ring, process(3), "writer", Start::Next).expect("a free place");
    rig.whole_image(&mut contributor, 10);
    common::place(&mut contributor, 11, &[0, 2], rig.now_ns);
    rig.step_after(DEADLINE_NS);
    contributor.set_progress(Some(14), rig.now_ns);
    rig.step();
    rig.whole_image(&mut contributor, 13);
    common::place(&mut contributor, 14, &[1], rig.now_ns);
    std::mem::forget(contributor.protect(&[14]));
    (rig, contributor, reader, lock)
}

fn check(path: &Path) -> (Inspection, Vec<Fault>) {
    inspect::check(path, &Assume(true)).expect("it is a ring")
}

#[test]
fn live_ring_is_shown_as_it_is_and_is_not_changed() {
    let folder = Folder::new();
    let (_rig, _contributor, _reader, _lock) = busy(&folder.ring());
    let before = std::fs::read(folder.ring()).unwrap();
    let (seen, faults) = check(&folder.ring());
    assert_eq!(faults, []);
    assert!(before == std::fs::read(folder.ring()).unwrap(), "looking has changed the ring");
    assert_eq!((seen.geometry, seen.epoch, seen.commit_head, seen.base.id), (geometry(8, 2, 3), 1, 3, Some(14)));
    assert_eq!(seen.owner.map(|owner| (owner.process, owner.owners)), Some((process(1), 1)));
    let seats: Vec<_> =
        seen.seats.iter().map(|seat| (seat.status.role, &seat.status.name[..], seat.status.behind)).collect();
    assert_eq!(seats, [(Role::Contributor, "readout-2", 0), (Role::ReliableReader, "writer", 3)]);
    let [first, second] = seen.window[..] else { panic!("{:?}", seen.window) };
    let SlotOfImage::Slot(slot) = first.slot else { panic!("{first:?}") };
    assert_eq!((first.id, second.id, seen.seats[0].inside.clone()), (14, 15, vec![slot]));
    let begun = seen.slots[slot as usize];
    assert_eq!(
        (begun.state, begun.image_id, begun.packets_received, begun.packets_marked),
        (StateSeen::Open, 14, 1, 1)
    );
    let images: Vec<_> = seen.commits.iter().map(|step| seen.slots[step.slot.expect("images") as usize]).collect();
    assert_eq!(
        images.iter().map(|slot| (slot.image_id, slot.packets_received)).collect::<Vec<_>>(),
        [(10, 3), (11, 2), (13, 3)]
    );
    assert_eq!(seen.commits[2].lost.iter().map(|range| (range.first_id, range.count)).collect::<Vec<_>>(), [(12, 1)]);
}

#[test]
fn left_over_ring_is_shown_with_its_dead_and_is_whole() {
    let folder = Folder::new();
    let (rig, contributor, reader, lock) = busy(&folder.ring());
    std::mem::forget((rig, contributor, reader));
    drop(lock);
    let (seen, faults) = inspect::check(&folder.ring(), &Assume(false)).unwrap();
    assert_eq!(faults, []);
    assert!(seen.seats.len() == 2 && seen.seats.iter().all(|seat| !seat.is_alive));
    assert!(!seen.owner.expect("it had one").is_alive && !seen.is_closed);
}

#[test]
fn ring_that_was_just_made_is_whole() {
    let folder = Folder::new();
    drop(create_or_take_over(&folder.ring(), geometry(8, 2, 3), &Proc).unwrap());
    let (seen, faults) = check(&folder.ring());
    assert_eq!((faults, seen.owner, seen.commits.len(), seen.window.len()), (vec![], None, 0, 0));
}

/// Each rule of the table, broken by hand in the file.
#[test]
fn each_broken_rule_is_told_by_its_name() {
    let folder = Folder::new();
    let (rig, contributor, _reader, _lock) = busy(&folder.ring());
    let raw = raw::RawRing::open(&folder.ring(), *rig.ring.geometry());
    let seen = check(&folder.ring()).0;
    let SlotOfImage::Slot(open) = seen.window[0].slot else { panic!("{:?}", seen.window) };
    let (open, committed) = (u64::from(open), u64::from(seen.commits[1].slot.expect("an image")));
    let window_at = raw::WINDOW_TABLE;
    let cases = [
        ("K1", window_at, 100 << 16 | open),
        ("K1", window_at, 15 << 16 | 500),
        ("K2", window_at, 15 << 16 | committed),
        ("K3", raw.slot_at(open), 7),
        ("K3", raw.slot_at(committed), 99 << 3 | 3),
        ("K4", raw.commit_at(1), 0),
        ("K4", raw.slot_at(committed), 0),
        ("K4", raw::RECLAIMED_SEQ, 99),
        ("K5", raw.bitmap_at(committed), 0b111),
        ("K5", raw.bitmap_at(committed), 0b1_0101),
        ("K6", raw.participant_at(1) + 136, 99),
        ("K6", raw.commit_at(0), 0),
        ("K7", raw.participant_at(0) + 128, 9),
        ("K8", 640, 99),
        ("K8", 664, 9),
        ("K8", 736, 2),
        ("K8", 744, 99),
        ("K9", raw::BASE, 7 << 48 | 15),
        ("K9", raw.commit_at(1) + 8, 7),
        ("K10", raw.commit_at(2) + 64, 14),
    ];
    for (rule, offset, value) in cases {
        let right = raw.word(offset);
        raw.set_word(offset, value);
        let (_, faults) = check(&folder.ring());
        assert!(faults.iter().any(|fault| fault.rule == rule), "{rule}, {value:#x} at {offset}: {faults:?}");
        raw.set_word(offset, right);
        assert_eq!(check(&folder.ring()).1, [], "{rule}: as before");
    }
    std::mem::forget(contributor);
}

/// A ring that runs at full speed is never taken for a broken one.
#[test]
fn ring_in_motion_is_whole_in_every_look() {
    let _watchdog = Watchdog::start(Duration::from_secs(60));
    let folder = Folder::new();
    let (ring, _lock) = create_or_take_over(&folder.ring(), geometry(16, 4, 3), &Proc).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rig = Rig::over(ring.clone());
            let mut contributor = rig.contributor_in_run(2, 0);
            let mut reader = Reader::reliable(&ring, process(3), "writer", Start::Next).expect("a free place");
            for id in 0.. {
                if id % 5 != 3 {
                    rig.whole_image(&mut contributor, id);
                }
                contributor.set_progress(Some(id), rig.now_ns);
                while reader.try_next().is_some() {}
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
            }
        });
        common::wait_until("images flow", || ring.status().commits > 100);
        let first = ring.status().commits;
        let found: Vec<_> = (0..300).flat_map(|_| check(&folder.ring()).1).collect();
        let moved = ring.status().commits - first;
        stop.store(true, std::sync::atomic::Ordering::Relaxed); // before an assertion: the thread ends in any case
        assert_eq!(found, []);
        assert!(moved > 100, "{moved}: it stood still");
    });
}

#[test]
fn what_is_not_a_ring_is_an_error_and_a_ring_that_may_not_be_written_is_shown() {
    let folder = Folder::new();
    assert!(matches!(inspect::look(&folder.ring(), &Proc), Err(RingError::Missing { .. })));
    std::fs::write(folder.ring(), b"not a ring at all").unwrap();
    assert!(matches!(inspect::look(&folder.ring(), &Proc), Err(RingError::NotARing { .. })));
    std::fs::remove_file(folder.ring()).unwrap();
    drop(create_or_take_over(&folder.ring(), geometry(8, 2, 3), &Proc).unwrap());
    let file = std::fs::File::options().write(true).open(folder.ring()).unwrap();
    std::fs::set_permissions(folder.ring(), std::fs::Permissions::from_mode(0o400)).unwrap();
    assert!(inspect::look(&folder.ring(), &Proc).is_ok(), "read-only");
    file.write_all_at(&1_u32.to_le_bytes(), 8).unwrap();
    assert!(matches!(inspect::look(&folder.ring(), &Proc), Err(RingError::OtherVersion { found: 1, .. })));
    let bytes = std::fs::read(folder.ring()).unwrap();
    std::fs::set_permissions(folder.ring(), std::fs::Permissions::from_mode(0o600)).unwrap();
    for length in (0..bytes.len()).step_by(100_003) {
        std::fs::write(folder.ring(), &bytes[..length]).unwrap();
        assert!(inspect::look(&folder.ring(), &Proc).is_err(), "{length} bytes of {}", bytes.len());
    }
}

/// Any words anywhere in the control part: an error or an answer, and in bounded time.
fn check_after(damage: &[(u64, u64)]) {
    let _watchdog = Watchdog::start(Duration::from_secs(60));
    let folder = Folder::new();
    let (ring, _lock) = create_or_take_over(&folder.ring(), geometry(8, 2, 3), &Proc).expect("there is room");
    let owner = Owner::take_over(&ring, ProcessId::current(), Duration::ZERO, &Assume(true));
    drop(owner);
    let raw = raw::RawRing::open(&folder.ring(), geometry(8, 2, 3));
    for (offset, value) in damage {
        raw.set_word(offset % (raw.control_bytes() / 8) * 8, *value);
    }
    match inspect::check(&folder.ring(), &Assume(true)) {
        Ok((seen, _)) => assert!(seen.slots.len() == seen.geometry.slots as usize),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn corrupted_ring_is_an_error_or_an_answer(
        damage in prop::collection::vec(
            (prop_oneof![8..160_u64, any::<u64>()], prop_oneof![0..20_u64, any::<u64>(), Just(u64::MAX)]),
            1..60,
        ),
    ) {
        check_after(&damage);
    }
}

#[test]
fn ring_full_of_ones_is_an_error_or_an_answer() {
    let all: Vec<_> = (8..100_000).map(|offset| (offset, u64::MAX)).collect();
    check_after(&all);
}
