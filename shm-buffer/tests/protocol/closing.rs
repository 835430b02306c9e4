//! When an image closes, and contributors that are inside at that moment.

use crate::common::{self, DEADLINE_NS, Rig, Watchdog, invariants};
use ecs_shm_buffer::{Lookup, LossCause, LostRange, PacketInfo, Reader, Start};
use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

#[test]
fn image_with_missing_packets_closes_at_its_deadline_and_not_before() {
    let mut rig = Rig::new(8, 2, 4);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = Reader::reliable(&rig.ring, common::process(3), "writer", Start::Next).unwrap();
    common::place(&mut contributor, 1, &[0, 3], rig.now_ns);
    assert!(rig.step().look_again_in_ns <= DEADLINE_NS);
    rig.step_after(DEADLINE_NS - 1);
    assert_eq!(reader.try_next(), None);
    assert_eq!(rig.step_after(1).committed, 1);
    let delivery = reader.try_next().expect("its deadline is over");
    let image = delivery.image.expect("two packets had come");
    assert_eq!((image.id, image.packets_received, &image.bitmap[..]), (1, 2, &[0b1001][..]));
    assert_eq!(delivery.lost, [], "image 0 came before the run's first one");
    invariants::check_pixels(1, &image, reader.pixels(&image));
    let status = rig.ring.status();
    assert_eq!((status.images_partial, status.missing_packets), (1, 2));
}

#[test]
fn deadline_of_a_later_image_closes_the_empty_ones_before_it() {
    let mut rig = Rig::new(16, 4, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = Reader::reliable(&rig.ring, common::process(3), "writer", Start::Next).unwrap();
    rig.whole_image(&mut contributor, 0);
    common::place(&mut contributor, 3, &[1], rig.now_ns);
    rig.step_after(DEADLINE_NS);
    let ids: Vec<_> =
        std::iter::from_fn(|| reader.try_next()).map(|step| (step.image.unwrap().id, step.lost)).collect();
    let lost = LostRange { first_id: 1, count: 2, cause: LossCause::NotReceived };
    assert_eq!(ids, [(0, vec![]), (3, vec![lost])]);
}

/// A slow detector, whose window of images takes longer than the deadline, and one packet from ahead in it.
#[test]
fn one_packet_from_ahead_does_not_hurry_the_images_before_it() {
    let mut rig = Rig::new(16, 8, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = Reader::reliable(&rig.ring, common::process(3), "writer", Start::Next).unwrap();
    rig.whole_image(&mut contributor, 0);
    common::place(&mut contributor, 4, &[0], rig.now_ns);
    for id in 1..4 {
        common::place(&mut contributor, id, &[0], rig.now_ns);
        assert_eq!(rig.step_after(DEADLINE_NS / 2).committed, 0, "the rest of image {id} is on its way");
        common::place(&mut contributor, id, &[1], rig.now_ns);
        rig.step();
    }
    let since_ns = rig.now_ns - DEADLINE_NS / 2;
    rig.step_after(since_ns + DEADLINE_NS - 1 - rig.now_ns);
    let received = |step: ecs_shm_buffer::Delivery| step.image.map(|image| (image.id, image.packets_received));
    let images: Vec<_> = std::iter::from_fn(|| reader.try_next()).map(received).collect();
    assert_eq!(images, [0, 1, 2, 3].map(|id| Some((id, 2))), "nothing closed early");
    rig.step_after(1);
    let last = reader.try_next().and_then(received);
    assert_eq!(last, Some((4, 1)), "it is waited for as long as for any other");
}

#[test]
fn images_that_every_port_has_passed_close_at_once() {
    let mut rig = Rig::new(16, 4, 2);
    let mut first = rig.contributor_in_run(2, 0);
    let second = rig.contributor(3);
    common::place(&mut first, 0, &[0], rig.now_ns);
    second.set_progress(Some(0), rig.now_ns);
    first.set_progress(Some(2), rig.now_ns);
    assert_eq!(rig.step().committed, 0, "the second is not yet past image 0");
    second.set_progress(Some(1), rig.now_ns);
    assert_eq!(rig.step().committed, 0, "packets of one port overtake each other");
    second.set_progress(Some(2), rig.now_ns);
    assert_eq!(rig.step().committed, 1);
}

#[test]
fn port_that_is_silent_for_a_deadline_is_not_waited_for() {
    let mut rig = Rig::new(16, 4, 2);
    let mut speaks = rig.contributor_in_run(2, 0);
    let silent = rig.contributor(3);
    silent.set_progress(None, rig.now_ns);
    rig.now_ns += DEADLINE_NS - 1;
    common::place(&mut speaks, 0, &[0], rig.now_ns);
    speaks.set_progress(Some(2), rig.now_ns);
    assert_eq!(rig.step().committed, 0, "it may still speak");
    assert_eq!(rig.step_after(DEADLINE_NS - 1).committed, 0, "packets have only begun to come");
    assert_eq!(rig.step_after(1).committed, 1);
    common::place(&mut speaks, 1, &[0], rig.now_ns);
    speaks.set_progress(Some(3), rig.now_ns);
    assert_eq!(rig.step().committed, 1, "nobody waits for it any more");
}

#[test]
fn progress_of_an_older_run_closes_nothing() {
    let mut rig = Rig::new(16, 4, 2);
    let mut first = rig.contributor_in_run(2, 1000);
    let second = rig.contributor(3);
    rig.whole_image(&mut first, 1000);
    first.request_run(10);
    rig.step();
    assert_eq!(first.epoch(), 2);
    common::place(&mut first, 10, &[0], rig.now_ns);
    drop(first);
    second.set_progress(Some(1002), rig.now_ns); // it has not seen that there is a new run
    rig.step();
    assert_eq!(second.lookup(10), Lookup::Open);
    assert_eq!(second.epoch(), 2);
    second.set_progress(Some(12), rig.now_ns);
    rig.step();
    assert!(matches!(second.lookup(10), Lookup::Behind(_)));
}

#[test]
fn contributor_inside_at_the_deadline_is_waited_for_and_its_packet_counts() {
    let _watchdog = Watchdog::start(Duration::from_secs(20));
    let mut rig = Rig::new(8, 2, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = Reader::reliable(&rig.ring, common::process(3), "writer", Start::Next).unwrap();
    common::place(&mut contributor, 1, &[0], rig.now_ns);
    rig.now_ns += DEADLINE_NS;
    let (looker, inside) = (rig.contributor(4), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let inside = &inside;
        scope.spawn(move || {
            let access = contributor.protect(&[1]);
            let image = access.image(1).expect("it is open");
            inside.store(true, SeqCst);
            // The owner has begun to close the image once it is in the window no more.
            common::wait_until("the image closes", || looker.lookup(1) != Lookup::Open);
            // SAFETY: the access protects the image, whatever the owner wants.
            unsafe { common::write_packet(access.pixels(image), 1, 1, 1) };
            access.mark(image, 1, PacketInfo::default());
        });
        common::wait_until("the contributor is inside", || inside.load(SeqCst));
        rig.step();
    });
    let image = reader.try_next().expect("committed").image.expect("with both packets");
    assert_eq!((image.id, image.packets_received), (1, 2), "the owner did not wait");
    invariants::check_pixels(1, &image, reader.pixels(&image));
}

/// Its slot must not be filled under its feet, nor used again before it has left.
#[test]
fn contributor_that_hangs_inside_costs_the_image_and_its_slot_until_it_leaves() {
    let _watchdog = Watchdog::start(Duration::from_secs(20));
    let mut rig = Rig::new(8, 1, 2);
    let mut hung = rig.contributor_in_run(2, 0);
    let mut works = rig.contributor(4);
    let mut reader = Reader::reliable(&rig.ring, common::process(3), "writer", Start::Next).unwrap();
    rig.whole_image(&mut works, 0);
    common::place(&mut works, 1, &[1], rig.now_ns);
    let access = hung.protect(&[1]);
    let pixels = access.pixels(access.image(1).expect("it is open"));
    // SAFETY: the access protects the image.
    unsafe { common::write_packet(pixels, 1, 1, 0) };
    rig.step_after(DEADLINE_NS);
    assert_eq!(rig.ring.status().slots_in_quarantine, 1);
    for id in 2..30 {
        assert_eq!(rig.whole_image(&mut works, id), 2, "the others go on");
        let step = reader.try_next().expect("committed");
        let image = step.image.as_ref().filter(|image| image.id != 0);
        let lost = step.lost.first().copied();
        assert_eq!(lost.is_some(), image.is_some_and(|image| image.id == 2), "told once: {step:?}");
        assert!(lost.is_none_or(|lost| lost == LostRange { first_id: 1, count: 1, cause: LossCause::ReadoutStuck }));
    }
    // SAFETY: still protected, though lost.
    let untouched = unsafe { std::slice::from_raw_parts(pixels, 16) };
    assert_eq!(untouched, [common::pattern(1, 1, 0), common::pattern(1, 1, 1)].concat(), "it was filled or used again");
    drop(access);
    rig.step();
    assert_eq!(rig.ring.status().slots_in_quarantine, 0);
    let mut seen = std::collections::BTreeSet::new();
    for id in 30..60 {
        let access = works.protect(&[id]);
        seen.insert(access.pixels(access.image(id).expect("it is open")));
        drop(access);
        rig.whole_image(&mut works, id);
        while reader.try_next().is_some() {}
    }
    assert!(seen.contains(&pixels), "the slot did not come back");
}

#[test]
fn contributor_that_hung_once_is_waited_for_the_next_time() {
    let _watchdog = Watchdog::start(Duration::from_secs(20));
    let mut rig = Rig::new(8, 1, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut works = rig.contributor(4);
    common::place(&mut works, 0, &[1], rig.now_ns);
    let access = contributor.protect(&[0]);
    let stuck_at = access.pixels(access.image(0).expect("it is open")) as usize;
    rig.step_after(DEADLINE_NS);
    assert_eq!(rig.ring.status().slots_in_quarantine, 1);
    drop(access);
    rig.step();
    let is_there_again = |id: &u64| {
        let access = works.protect(&[*id]);
        let found = access.pixels(access.image(*id).expect("it is open")) as usize == stuck_at;
        drop(access);
        if !found {
            rig.whole_image(&mut works, *id);
        }
        found
    };
    let id = (1..100).find(is_there_again).expect("the slot comes back");
    common::place(&mut works, id, &[1], rig.now_ns);
    rig.now_ns += DEADLINE_NS;
    let inside = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (inside, looker) = (&inside, rig.contributor(5));
        scope.spawn(move || {
            let _access = contributor.protect(&[id]);
            inside.store(true, SeqCst);
            common::wait_until("the image closes", || looker.lookup(id) != Lookup::Open);
        });
        common::wait_until("the contributor is inside", || inside.load(SeqCst));
        rig.step();
    });
    assert_eq!(rig.ring.status().slots_in_quarantine, 0, "it was taken for stuck without a wait");
}
