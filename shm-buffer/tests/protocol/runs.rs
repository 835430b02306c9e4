//! New runs: a detector that begins again, with other ids or the same.

use crate::common::{self, DEADLINE_NS, Rig, invariants};
use ecs_shm_buffer::{Delivery, Lookup, LossCause, LostRange, Reader, Start};

fn reader(rig: &Rig) -> Reader {
    Reader::reliable(&rig.ring, common::process(3), "writer", Start::Next).expect("a free place")
}

fn drain(reader: &mut Reader) -> Vec<Delivery> {
    std::iter::from_fn(|| reader.try_next()).collect()
}

#[test]
fn window_of_a_new_run_begins_below_the_first_id_that_was_seen() {
    let mut rig = Rig::new(32, 16, 1);
    let contributor = rig.contributor(2);
    contributor.request_run(1000);
    rig.step();
    assert_eq!((contributor.lookup(995), contributor.lookup(996)), (Lookup::Behind(1), Lookup::Open));
    contributor.epoch();
    contributor.request_run(2);
    rig.step();
    assert_eq!((contributor.epoch(), contributor.lookup(0)), (2, Lookup::Open));
}

#[test]
fn ids_before_the_first_image_of_a_run_are_not_counted() {
    let mut rig = Rig::new(16, 4, 1);
    let mut contributor = rig.contributor_in_run(2, 100);
    let mut reader = reader(&rig);
    contributor.set_progress(Some(110), rig.now_ns);
    rig.step();
    assert_eq!(rig.whole_image(&mut contributor, 111), 1);
    rig.step_after(DEADLINE_NS);
    let steps = drain(&mut reader);
    assert_eq!((steps.len(), &steps[0].lost[..]), (1, &[][..]));
    assert_eq!(rig.ring.status().lost, [0; 5]);
}

#[test]
fn new_run_with_the_same_ids_is_delivered_as_another_run() {
    let mut rig = Rig::new(8, 2, 2);
    let mut contributor = rig.contributor(2);
    let mut reader = reader(&rig);
    for epoch in 1..=5 {
        contributor.request_run(11);
        rig.step();
        assert_eq!(contributor.epoch(), epoch);
        (10..14).for_each(|id| assert_eq!(rig.whole_image(&mut contributor, id), 2));
        common::place(&mut contributor, 14, &[1], rig.now_ns);
        let steps = drain(&mut reader);
        let ids: Vec<_> = steps.iter().map(|step| (step.epoch, step.image.as_ref().map(|image| image.id))).collect();
        let unfinished = (epoch > 1).then_some((epoch - 1, Some(14)));
        let expected = unfinished.into_iter().chain((10..14).map(|id| (epoch, Some(id))));
        assert_eq!(ids, expected.collect::<Vec<_>>(), "the image that was open at the end is committed with it");
    }
    assert_eq!(rig.ring.status().lost, [0; 5]);
}

#[test]
fn pixels_of_the_run_before_never_show_in_a_partial_image_of_the_same_id() {
    let mut rig = Rig::new(8, 1, 2);
    let mut contributor = rig.contributor(2);
    let mut reader = reader(&rig);
    for epoch in 1..=20 {
        contributor.request_run(10);
        rig.step();
        assert_eq!(contributor.epoch(), epoch);
        common::place(&mut contributor, 10, &[epoch as usize % 2], rig.now_ns);
        rig.step_after(DEADLINE_NS);
        let image = reader.try_next().and_then(|step| step.image).expect("committed");
        invariants::check_pixels(epoch, &image, reader.pixels(&image));
    }
}

#[test]
fn several_contributors_that_see_one_run_end_begin_one_run() {
    let mut rig = Rig::new(16, 4, 1);
    let (first, second) = (rig.contributor(2), rig.contributor(3));
    first.request_run(20);
    second.request_run(18);
    rig.step();
    rig.step();
    assert_eq!((first.epoch(), rig.ring.status().epoch), (1, 1));
    assert_eq!(first.lookup(16), Lookup::Open, "the lowest counts");
    second.request_run(19); // seen in the run before, told when the new one had begun
    rig.step();
    assert_eq!(rig.ring.status().epoch, 1);
    second.epoch();
    second.request_run(5);
    rig.step();
    assert_eq!(rig.ring.status().epoch, 2);
}

#[test]
fn losses_at_the_end_of_a_run_are_told_before_the_next_one() {
    let mut rig = Rig::new(16, 4, 1);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = reader(&rig);
    rig.whole_image(&mut contributor, 0);
    contributor.set_progress(Some(5), rig.now_ns); // 1 to 3 are passed by
    rig.step();
    contributor.request_run(100);
    rig.step();
    contributor.epoch();
    rig.whole_image(&mut contributor, 100);
    rig.step_after(DEADLINE_NS);
    let told: Vec<_> = drain(&mut reader).into_iter().map(|step| (step.epoch, step.lost)).collect();
    let lost = LostRange { first_id: 1, count: 3, cause: LossCause::NotReceived };
    assert_eq!(told, [(1, vec![]), (1, vec![lost]), (2, vec![])]);
}

#[test]
fn ids_without_a_packet_at_the_end_of_a_run_are_not_counted_also_behind_a_refused_one() {
    let mut rig = Rig::new(8, 4, 1);
    let mut contributor = rig.contributor_in_run(2, 0);
    let slow = reader(&rig);
    (0..8).for_each(|id| assert_eq!(rig.whole_image(&mut contributor, id), 1));
    assert!(contributor.refuse(9)); // 8 was not seen, 10 and 11 neither
    contributor.request_run(3);
    rig.step();
    assert_eq!(rig.ring.status().lost, [1, 1, 0, 0, 0], "8 not received, 9 had no slot");
    drop(slow);
}
