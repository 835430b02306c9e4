//! Full rings and gaps: what is lost, why, and that readers are told exactly once.

use crate::common::{self, DEADLINE_NS, Rig, invariants};
use ecs_shm_buffer::{Contributor, Delivery, Lookup, LossCause, LostRange, Reader, Start};

const HOUSEKEEPING_NS: u64 = 100_000_000;

fn reader(rig: &Rig, pid: u32) -> Reader {
    Reader::reliable(&rig.ring, common::process(pid), "writer", Start::Next).expect("a free place")
}

fn drain(reader: &mut Reader) -> Vec<Delivery> {
    std::iter::from_fn(|| reader.try_next()).collect()
}

/// What a readout does with a packet whose image has no slot.
fn offer(rig: &mut Rig, contributor: &mut Contributor, id: u64) -> usize {
    match contributor.lookup(id) {
        Lookup::NoSlot => {
            assert!(contributor.refuse(id));
            rig.step();
            0
        }
        _ => rig.whole_image(contributor, id),
    }
}

/// The reader holds all that a ring of 8 slots can commit; what comes then is lost, what it holds is not.
#[test]
fn reliable_reader_too_slow_loses_the_newest_images_whole_and_keeps_the_others() {
    let mut rig = Rig::new(8, 2, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut slow = reader(&rig, 3);
    let placed: Vec<u64> = (0..20).filter(|&id| offer(&mut rig, &mut contributor, id) == 2).collect();
    assert_eq!(placed, (0..8).collect::<Vec<_>>(), "8 slots take 8 images");
    let mut told = invariants::Told::default();
    for id in 0..8 {
        let step = slow.try_next().expect("held for it");
        told.check(&step);
        let image = step.image.expect("not lost");
        assert_eq!(image.id, id);
        invariants::check_pixels(1, &image, slow.pixels(&image));
    }
    slow.release();
    rig.step();
    assert_eq!(rig.ring.status().lost[LossCause::RingFull as usize - 1], 12);
    for id in 20..24 {
        assert_eq!(offer(&mut rig, &mut contributor, id), 2, "slots are free again");
        let step = slow.try_next().expect("committed");
        told.check(&step);
        let lost = LostRange { first_id: 8, count: 12, cause: LossCause::RingFull };
        assert_eq!(step.lost, if id == 20 { vec![lost] } else { vec![] }, "told once");
    }
    assert_eq!((told.images, told.lost), (12, 12));
    let status = rig.ring.status();
    let of_slow = status.participants.iter().find(|other| other.role.reads()).expect("it is there");
    assert_eq!((of_slow.refused, of_slow.delivered, of_slow.behind), (12, 11, 1), "the last one is in its hands");
    assert_eq!((status.images_opened, status.images_open, status.images_discarded), (14, 2, 0));
    invariants::check_sums(&rig.ring);
}

/// Of two reliable readers, the one that lets go is not charged; nor is one that joins the place of one that was.
#[test]
fn image_lost_for_want_of_a_slot_is_charged_to_the_reader_that_holds_the_oldest() {
    let mut rig = Rig::new(8, 2, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    let (slow, mut quick) = (reader(&rig, 3), reader(&rig, 4));
    for id in 0..12 {
        offer(&mut rig, &mut contributor, id);
        drain(&mut quick);
    }
    let refused = |rig: &Rig, pid: u32| {
        let participants = rig.ring.status().participants;
        participants.iter().find(|other| other.process.pid == pid).expect("it is there").refused
    };
    assert_eq!((refused(&rig, 3), refused(&rig, 4)), (4, 0));
    drop(slow);
    let _next = reader(&rig, 5);
    assert_eq!(refused(&rig, 5), 0, "it has the place, not the charge");
    invariants::check_sums(&rig.ring);
}

/// Slots of images that came to nothing: without a packet, with a readout that hangs, with an owner that died.
#[test]
fn opened_slots_are_images_or_discarded_or_open_whatever_happens() {
    let mut rig = Rig::new(16, 4, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    rig.whole_image(&mut contributor, 0);
    contributor.set_progress(Some(5), rig.now_ns); // 1 to 3 are passed by
    rig.step();
    let status = rig.ring.status();
    assert_eq!((status.images_complete, status.images_discarded, status.images_open), (1, 3, 4));
    invariants::check_sums(&rig.ring);
    assert_eq!(status.packets_astray() + 2, 0, "the rig marks packets and does not count them");
    common::place(&mut contributor, 4, &[1], rig.now_ns);
    rig.replace_owner(9);
    let status = rig.ring.status();
    assert_eq!((status.images_opened, status.images_discarded), (12, 7), "what was open is discarded: {status:?}");
    invariants::check_sums(&rig.ring);
}

#[test]
fn image_without_a_slot_gets_one_as_long_as_no_packet_was_thrown_away() {
    let mut rig = Rig::new(8, 2, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut slow = reader(&rig, 3);
    (0..8).for_each(|id| assert_eq!(rig.whole_image(&mut contributor, id), 2));
    assert_eq!((contributor.lookup(8), contributor.lookup(9)), (Lookup::NoSlot, Lookup::NoSlot));
    assert!(contributor.refuse(9));
    assert!(contributor.refuse(9), "by a second packet of it, too");
    (0..3).for_each(|_| _ = slow.try_next());
    rig.step();
    assert_eq!((contributor.lookup(8), contributor.lookup(9)), (Lookup::Open, Lookup::NoSlot));
    assert!(!contributor.refuse(8), "it has a slot by now: its packet has a place");
    assert_eq!(rig.whole_image(&mut contributor, 8), 2);
    let lost: Vec<_> = drain(&mut slow).into_iter().flat_map(|step| step.lost).collect();
    assert_eq!(lost, []);
    assert_eq!(rig.whole_image(&mut contributor, 10), 2);
    let lost: Vec<_> = drain(&mut slow).into_iter().flat_map(|step| step.lost).collect();
    assert_eq!(lost, [LostRange { first_id: 9, count: 1, cause: LossCause::RingFull }]);
}

#[test]
fn losses_with_no_image_behind_them_are_told_by_a_step_of_their_own_when_idle() {
    let mut rig = Rig::new(16, 4, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    let (mut first, mut second) = (reader(&rig, 3), reader(&rig, 4));
    rig.whole_image(&mut contributor, 0);
    contributor.set_progress(Some(4), rig.now_ns); // images 1 and 2 are passed by
    rig.step();
    assert_eq!(drain(&mut first).len(), 1, "not idle yet");
    rig.step_after(HOUSEKEEPING_NS);
    let lost = vec![LostRange { first_id: 1, count: 2, cause: LossCause::NotReceived }];
    let told = drain(&mut first);
    assert_eq!(told.iter().map(|step| (&step.image, &step.lost)).collect::<Vec<_>>(), [(&None, &lost)]);
    (0..5).for_each(|_| assert_eq!(rig.step_after(HOUSEKEEPING_NS).committed, 0, "told once"));
    rig.whole_image(&mut contributor, 3);
    assert_eq!(drain(&mut first)[0].lost, []);
    let all: Vec<_> = drain(&mut second).into_iter().flat_map(|step| step.lost).collect();
    assert_eq!(all, lost, "the other reader is told the same");
    assert_eq!(rig.ring.status().lost, [2, 0, 0, 0, 0]);
}

#[test]
fn losses_of_several_causes_are_told_in_order_each_with_its_own() {
    let mut rig = Rig::new(8, 1, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut slow = reader(&rig, 3);
    (0..8).for_each(|id| assert_eq!(rig.whole_image(&mut contributor, id), 2));
    offer(&mut rig, &mut contributor, 8); // thrown away
    assert_eq!(drain(&mut slow).len(), 8);
    contributor.set_progress(Some(12), rig.now_ns); // 9 and 10 are passed by
    rig.step();
    assert_eq!(rig.whole_image(&mut contributor, 11), 2);
    let lost = drain(&mut slow).remove(0).lost;
    let range = |first_id, count, cause| LostRange { first_id, count, cause };
    assert_eq!(lost, [range(8, 1, LossCause::RingFull), range(9, 2, LossCause::NotReceived)]);
}

/// A reader that begins with the oldest step after many steps without images.
#[test]
fn reader_from_the_oldest_step_is_told_all_after_any_number_of_notices() {
    let mut rig = Rig::new(8, 2, 1);
    let mut contributor = rig.contributor_in_run(2, 0);
    rig.whole_image(&mut contributor, 0);
    for notices in 1..100 {
        contributor.set_progress(Some(2 + notices), rig.now_ns + HOUSEKEEPING_NS);
        assert_eq!(rig.step_after(HOUSEKEEPING_NS).committed, 1, "notice {notices}");
        let mut late = Reader::reliable(&rig.ring, common::process(4), "late", Start::Oldest).unwrap();
        let mut told = invariants::Told::default();
        let steps = drain(&mut late);
        steps.iter().for_each(|step| told.check(step));
        assert!(steps.len() >= notices.min(7) as usize, "{} steps are left of {notices}", steps.len());
        assert_eq!(told.next_id, Some(1 + notices));
    }
}

/// Images never wait for commit entries, and a reliable reader never loses one to notices.
#[test]
fn notices_wait_for_a_reader_that_does_not_read_and_are_told_later() {
    let mut rig = Rig::new(8, 2, 1);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut slow = reader(&rig, 3);
    rig.whole_image(&mut contributor, 0);
    for notices in 1..40 {
        contributor.set_progress(Some(2 + notices), rig.now_ns + HOUSEKEEPING_NS);
        rig.step_after(HOUSEKEEPING_NS);
    }
    assert_eq!(rig.ring.status().commits, 8, "16 entries, 8 of them kept for images");
    (40..60).for_each(|id| _ = offer(&mut rig, &mut contributor, id));
    let mut told = invariants::Told::default();
    drain(&mut slow).iter().for_each(|step| told.check(step));
    rig.step_after(HOUSEKEEPING_NS);
    drain(&mut slow).iter().for_each(|step| told.check(step));
    assert_eq!(told.next_id, Some(60));
    assert_eq!(told.images + told.lost, 60);
    assert_eq!(told.lost, rig.ring.status().lost.iter().sum::<u64>());
}

#[test]
fn jump_of_ids_is_one_range() {
    let mut rig = Rig::new(8, 4, 1);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = reader(&rig, 3);
    rig.whole_image(&mut contributor, 0);
    contributor.set_progress(Some(1_000_000), rig.now_ns);
    rig.step();
    assert_eq!(rig.whole_image(&mut contributor, 1_000_000), 1);
    rig.step_after(DEADLINE_NS); // 999 999 is the last one that may still come
    let steps = drain(&mut reader);
    let lost = LostRange { first_id: 1, count: 999_999, cause: LossCause::NotReceived };
    assert_eq!(
        steps.iter().map(|step| step.image.as_ref().map(|image| image.id)).collect::<Vec<_>>(),
        [Some(0), Some(1_000_000)]
    );
    assert_eq!(steps[1].lost, [lost]);
    assert_eq!(rig.ring.status().lost.iter().sum::<u64>(), 999_999);
}

/// A step ends soon, however far ids jump and whatever a hostile packet says.
#[test]
fn jump_to_the_last_id_takes_one_step() {
    let _watchdog = common::Watchdog::start(std::time::Duration::from_secs(20));
    let mut rig = Rig::new(8, 4, 1);
    let mut contributor = rig.contributor_in_run(2, 0);
    rig.whole_image(&mut contributor, 0);
    contributor.set_progress(Some(u64::MAX), rig.now_ns);
    rig.step();
    assert_eq!(rig.whole_image(&mut contributor, ecs_shm_buffer::limits::IMAGE_ID_MAX), 1);
}

#[test]
fn packets_of_a_port_that_lags_are_kept_while_another_is_far_ahead() {
    let mut rig = Rig::new(16, 4, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    let ahead = rig.contributor(4);
    rig.whole_image(&mut contributor, 0);
    common::place(&mut contributor, 1, &[0], rig.now_ns);
    contributor.set_progress(Some(1), rig.now_ns);
    ahead.set_progress(Some(5), rig.now_ns); // one beyond the window
    rig.step_after(DEADLINE_NS - 1);
    assert_eq!(rig.whole_image(&mut contributor, 1), 1);
    assert_eq!(contributor.lookup(5), Lookup::Open, "image 1 is whole, so the window has moved");
    assert_eq!(rig.ring.status().images_complete, 2);
}
