//! Deaths: participants that are gone without a word. A handle that is forgotten plays one.

use crate::common::{self, DEADLINE_NS, FILL, Rig, Watchdog, invariants, raw};
use ecs_shm_buffer::{
    Contributor, Liveness, Lookup, LossCause, LostRange, Now, Owner, PacketFate, PacketInfo, ProcessId, Reader, Start,
    Surroundings,
};
use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

const HOUSEKEEPING_NS: u64 = 100_000_000;

fn reader(rig: &Rig, pid: u32) -> Reader {
    Reader::reliable(&rig.ring, common::process(pid), "writer", Start::Next).expect("a free place")
}

/// What a reader is told until there is nothing more.
fn told_by(rig: &mut Rig, reader: &mut Reader, told: &mut invariants::Told) -> Vec<(Option<u64>, Vec<LostRange>)> {
    rig.step_after(HOUSEKEEPING_NS);
    let mut steps = Vec::new();
    while let Some(delivery) = reader.try_next() {
        told.check(&delivery);
        if let Some(image) = &delivery.image {
            invariants::check_pixels(delivery.epoch, image, reader.pixels(image));
        }
        steps.push((delivery.image.map(|image| image.id), delivery.lost));
    }
    steps
}

#[test]
fn contributor_killed_inside_its_access_holds_nobody_up_and_its_unmarked_packet_is_filled() {
    let mut rig = Rig::new(8, 2, 2);
    let mut works = rig.contributor_in_run(2, 0);
    let mut dies = rig.contributor(3);
    let mut reader = reader(&rig, 4);
    dies.count(PacketFate::Placed, 5);
    common::place(&mut works, 0, &[0], rig.now_ns);
    let access = dies.protect(&[0, 1]);
    // SAFETY: the access protects the image.
    unsafe { common::write_packet(access.pixels(access.image(0).expect("it is open")), 9, 9, 1) };
    std::mem::forget(access);
    std::mem::forget(dies);
    rig.living.kill(common::process(3));
    let begin = Instant::now();
    rig.step_after(DEADLINE_NS);
    assert!(begin.elapsed() < Duration::from_millis(45), "the dead was waited for");
    let image = reader.try_next().and_then(|step| step.image).expect("committed");
    assert_eq!(reader.pixels(&image)[8..], [FILL; 8]);
    invariants::check_pixels(1, &image, reader.pixels(&image));
    rig.step_after(HOUSEKEEPING_NS);
    invariants::check_participants(&rig.ring, &rig.living);
    assert_eq!(rig.ring.status().packets.placed, 5, "its counters stay in the sums");
}

#[test]
fn slot_in_quarantine_comes_back_when_its_holder_dies() {
    let mut rig = Rig::new(8, 1, 2);
    let mut works = rig.contributor_in_run(2, 0);
    let mut dies = rig.contributor(3);
    common::place(&mut works, 0, &[0], rig.now_ns);
    std::mem::forget(dies.protect(&[0]));
    std::mem::forget(dies);
    rig.step_after(DEADLINE_NS);
    assert_eq!(rig.ring.status().slots_in_quarantine, 1);
    rig.living.kill(common::process(3));
    rig.step();
    assert_eq!(rig.ring.status().slots_in_quarantine, 0);
}

#[test]
fn images_held_by_a_dead_reader_are_free_again_within_the_housekeeping() {
    let mut rig = Rig::new(8, 2, 1);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut dies = reader(&rig, 3);
    (0..8).for_each(|id| _ = rig.whole_image(&mut contributor, id));
    dies.try_next();
    std::mem::forget(dies);
    assert_eq!(contributor.lookup(8), Lookup::NoSlot);
    rig.living.kill(common::process(3));
    rig.step_after(HOUSEKEEPING_NS);
    invariants::check_participants(&rig.ring, &rig.living);
    (8..30).for_each(|id| assert_eq!(rig.whole_image(&mut contributor, id), 1, "image {id}"));
    assert_eq!(rig.ring.status().lost, [0; 5]);
}

#[test]
fn place_of_the_dead_that_was_given_to_another_is_not_freed_by_a_late_drop() {
    let mut rig = Rig::new(8, 2, 1);
    let taken_for_dead = rig.contributor(3);
    rig.living.kill(common::process(3));
    rig.step_after(HOUSEKEEPING_NS);
    let _new_holder = rig.contributor(4);
    drop(taken_for_dead);
    assert_eq!(rig.ring.status().participants.len(), 1);
}

#[test]
fn owner_that_dies_between_steps_loses_what_was_open_and_keeps_what_was_committed() {
    let mut rig = Rig::new(16, 4, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = reader(&rig, 3);
    (0..3).for_each(|id| _ = rig.whole_image(&mut contributor, id));
    common::place(&mut contributor, 3, &[0], rig.now_ns);
    common::place(&mut contributor, 5, &[0, 1], rig.now_ns);
    rig.replace_owner(9);
    assert_eq!(
        (contributor.epoch(), contributor.lookup(5), contributor.lookup(6)),
        (1, Lookup::Behind(1), Lookup::Open)
    );
    (6..9).for_each(|id| assert_eq!(rig.whole_image(&mut contributor, id), 2));
    let mut told = invariants::Told::default();
    let lost = LostRange { first_id: 3, count: 3, cause: LossCause::OwnerDown };
    let steps = told_by(&mut rig, &mut reader, &mut told);
    let expected = [(0, vec![]), (1, vec![]), (2, vec![]), (6, vec![lost]), (7, vec![]), (8, vec![])];
    assert_eq!(steps, expected.map(|(id, lost)| (Some(id), lost)));
    assert_eq!(rig.ring.status().lost, [0, 0, 0, 3, 0]);
}

#[test]
fn new_owner_that_finds_nothing_begun_goes_on_where_the_old_one_was() {
    let mut rig = Rig::new(16, 4, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = reader(&rig, 3);
    (0..3).for_each(|id| _ = rig.whole_image(&mut contributor, id));
    rig.replace_owner(9);
    (3..6).for_each(|id| assert_eq!(rig.whole_image(&mut contributor, id), 2, "image {id}"));
    let mut told = invariants::Told::default();
    told_by(&mut rig, &mut reader, &mut told);
    assert_eq!((told.images, told.lost), (6, 0));
}

/// Images without packets right after a takeover were lost because nobody was there, not by the network.
#[test]
fn ids_that_passed_while_there_was_no_owner_are_lost_to_its_death() {
    let mut rig = Rig::new(16, 4, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = reader(&rig, 3);
    rig.whole_image(&mut contributor, 0);
    rig.replace_owner(9);
    contributor.set_progress(Some(50), rig.now_ns);
    rig.step();
    assert_eq!(rig.whole_image(&mut contributor, 50), 2);
    contributor.set_progress(Some(52), rig.now_ns);
    let mut told = invariants::Told::default();
    let steps = told_by(&mut rig, &mut reader, &mut told);
    let lost: Vec<LostRange> = steps.into_iter().flat_map(|(_, lost)| lost).collect();
    assert!(lost.iter().all(|range| range.cause == LossCause::OwnerDown), "{lost:?}");
    assert_eq!((told.images, told.lost, told.next_id), (2, 49, Some(51)));
}

#[test]
fn losses_that_the_dead_owner_had_not_told_are_told_and_counted_once() {
    let mut rig = Rig::new(16, 4, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = reader(&rig, 3);
    rig.whole_image(&mut contributor, 0);
    contributor.set_progress(Some(5), rig.now_ns); // 1 to 3: counted, not told
    rig.step();
    common::place(&mut contributor, 6, &[0], rig.now_ns);
    rig.replace_owner(9);
    let mut told = invariants::Told::default();
    told_by(&mut rig, &mut reader, &mut told);
    assert_eq!((told.images, told.lost, told.next_id), (1, 6, Some(7)));
    assert_eq!(rig.ring.status().lost.iter().sum::<u64>(), 6, "{:?}", rig.ring.status().lost);
}

/// A panic in the filling leaves the ring as a kill there would: CLOSING, and in no window.
#[test]
fn owner_that_dies_while_it_fills_loses_that_image_and_its_slot_comes_back() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("ring");
    let made = ecs_shm_buffer::create_or_take_over(&path, common::geometry(8, 1, 2), &ecs_shm_buffer::Proc);
    let (ring, _lock) = made.unwrap();
    let raw = raw::RawRing::open(&path, *ring.geometry());
    let mut rig = Rig::over(ring);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = reader(&rig, 3);
    rig.whole_image(&mut contributor, 0);
    common::place(&mut contributor, 1, &[0], rig.now_ns);
    rig.now_ns += DEADLINE_NS;
    let now = Now { mono_ns: rig.now_ns, utc_ns: 0 };
    let mut dies = |_: &mut [u8], _: usize| panic!("killed here");
    let step = AssertUnwindSafe(|| rig.owner.step(&mut Surroundings { now, liveness: &rig.living, fill: &mut dies }));
    assert!(catch_unwind(step).is_err());
    assert!((0..8).any(|slot| raw.slot_word(slot).1 == raw::State::Closing));
    assert_eq!(raw.window(), []);
    rig.replace_owner(9);
    invariants::check_slots(&raw, 8);
    assert!((0..8).all(|slot| raw.slot_word(slot).1 != raw::State::Closing));
    let mut told = invariants::Told::default();
    let next = (1..4).find(|&id| contributor.lookup(id) == Lookup::Open).expect("it goes on");
    (next..20).for_each(|id| {
        assert_eq!(rig.whole_image(&mut contributor, id), 2);
        told_by(&mut rig, &mut reader, &mut told);
    });
    assert_eq!(told.next_id, Some(20));
    assert_eq!(told.images + told.lost, 20);
    assert_eq!(rig.ring.status().lost.iter().sum::<u64>(), told.lost);
}

/// Dies at its n-th question whether somebody lives: inside the wait for a contributor.
struct DiesAsking(Cell<u32>);

impl Liveness for DiesAsking {
    fn is_alive(&self, _: ProcessId) -> bool {
        self.0.set(self.0.get() - 1);
        assert!(self.0.get() > 0, "killed here");
        true
    }
}

/// The old owner dies while it waits for a contributor: the image is in no window any more, but its
/// slot must not be given away under the contributor's feet.
#[test]
fn slot_that_a_contributor_is_in_is_not_reused_by_the_next_owner_either() {
    let _watchdog = Watchdog::start(Duration::from_secs(20));
    let mut rig = Rig::new(8, 1, 2);
    let mut hung = rig.contributor_in_run(2, 0);
    let mut works = rig.contributor(4);
    let mut reader = reader(&rig, 3);
    rig.whole_image(&mut works, 0);
    common::place(&mut works, 1, &[1], rig.now_ns);
    let access = hung.protect(&[1]);
    let image = access.image(1).expect("it is open");
    rig.now_ns += DEADLINE_NS;
    let now = Now { mono_ns: rig.now_ns, utc_ns: 0 };
    let dies = DiesAsking(Cell::new(3));
    let step = AssertUnwindSafe(|| rig.owner.step(&mut Surroundings { now, liveness: &dies, fill: &mut common::fill }));
    assert!(catch_unwind(step).is_err());
    rig.replace_owner(9);
    assert_eq!(rig.ring.status().slots_in_quarantine, 1);
    let mut told = invariants::Told::default();
    let next = (1..4).find(|&id| works.lookup(id) == Lookup::Open).expect("it goes on");
    for id in next..next + 20 {
        assert_eq!(rig.whole_image(&mut works, id), 2);
        // SAFETY: the access still protects the image.
        unsafe { common::write_packet(access.pixels(image), 7, 7, 0) };
        access.mark(image, 0, PacketInfo::default());
        told_by(&mut rig, &mut reader, &mut told);
    }
    drop(access);
    rig.replace_owner(10);
    assert_eq!(rig.ring.status().slots_in_quarantine, 0);
}

#[test]
fn many_owners_in_a_row_lose_no_id_twice() {
    let mut rig = Rig::new(8, 2, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = reader(&rig, 3);
    let mut told = invariants::Told::default();
    let mut id = 0;
    for owner in 0..40 {
        for _ in 0..owner % 4 {
            rig.whole_image(&mut contributor, id);
            id += 1;
        }
        if owner % 3 == 0 {
            common::place(&mut contributor, id, &[0], rig.now_ns);
        }
        rig.replace_owner(100 + owner);
        told_by(&mut rig, &mut reader, &mut told);
        id = id.max(told.next_id.unwrap_or(0));
    }
    assert_eq!(told.images + told.lost, told.next_id.expect("some were told"));
    assert_eq!(told.lost, rig.ring.status().lost.iter().sum::<u64>());
}

/// Killed between the two words that begin a run: the base names it, the epoch does not yet.
#[test]
fn owner_that_dies_while_a_run_begins_leaves_it_begun() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("ring");
    let made = ecs_shm_buffer::create_or_take_over(&path, common::geometry(8, 2, 2), &ecs_shm_buffer::Proc);
    let (ring, _lock) = made.unwrap();
    let raw = raw::RawRing::open(&path, *ring.geometry());
    let mut rig = Rig::over(ring);
    let mut contributor = rig.contributor_in_run(2, 0);
    (0..3).for_each(|id| _ = rig.whole_image(&mut contributor, id));
    raw.set_word(raw::BASE, 2 << 48 | (70 + 1));
    rig.replace_owner(9);
    assert_eq!(
        (contributor.epoch(), contributor.lookup(70), contributor.lookup(3)),
        (2, Lookup::Open, Lookup::Behind(67))
    );
    (70..80).for_each(|id| assert_eq!(rig.whole_image(&mut contributor, id), 2, "image {id}"));
    let status = rig.ring.status();
    assert_eq!((status.images_complete, status.lost), (13, [0; 5]));
}

#[test]
fn counters_of_who_left_stay_in_the_sums_and_the_next_holder_of_the_place_begins_at_none() {
    let mut rig = Rig::new(8, 2, 2);
    let first = rig.contributor(3);
    first.count(PacketFate::Placed, 5);
    first.count(PacketFate::Late, 1);
    drop(first);
    let dies = rig.contributor(4);
    dies.count(PacketFate::Placed, 7);
    std::mem::forget(dies);
    rig.living.kill(common::process(4));
    rig.step_after(HOUSEKEEPING_NS);
    let third = rig.contributor(5);
    third.count(PacketFate::Foreign, 2);
    let status = rig.ring.status();
    let packets = status.participants[0].packets;
    assert_eq!((packets.placed, packets.late, packets.foreign, packets.received), (0, 0, 2, 2));
    let packets = status.packets;
    assert_eq!((packets.placed, packets.late, packets.foreign, packets.received), (12, 1, 2, 15));
}

#[test]
fn owner_of_a_ring_without_a_run_leaves_it_without_one() {
    let mut rig = Rig::new(8, 2, 2);
    let contributor: Contributor = rig.contributor(2);
    rig.replace_owner(9);
    rig.step();
    assert_eq!((contributor.epoch(), contributor.lookup(0)), (0, Lookup::NoRun));
    let _: &Owner = &rig.owner;
}
