//! Runs that begin while packets are placed, and images without a slot.

use crate::scene::{self, Scene};
use ecs_shm_buffer::{Lookup, LossCause, Start};
use loom::thread;

/// Hard moment 7: the same id in the next run, while a contributor places a packet of the old one.
#[test]
fn packet_of_an_earlier_run_is_never_in_a_later_ones_image() {
    scene::explore("packet_of_an_earlier_run_is_never_in_a_later_ones_image", || {
        let (Scene { ring, mut owner }, mut contributor) = Scene::in_run(2, 1, 2);
        let mut reader = scene::reliable(&ring, 3, Start::Next);
        contributor.request_run(0);
        let places = thread::spawn(move || {
            scene::place(&mut contributor, 1, 0, &[0]);
            contributor
        });
        owner.step();
        assert_eq!(ring.status().epoch, 2);
        let mut contributor = places.join().expect("it ended");
        scene::read_on(&mut reader); // of run 1, if the packet came in time
        assert_eq!(contributor.epoch(), 2);
        assert!(scene::place(&mut contributor, 2, 0, &[1]));
        owner.step_after(scene::DEADLINE_NS);
        let delivery = scene::read_on(&mut reader).expect("committed");
        assert_eq!((delivery.epoch, &delivery.image.expect("no losses").bitmap[..]), (2, &[0b10][..]));
    });
}

#[test]
fn lookup_while_the_first_run_begins_is_never_of_another_base() {
    scene::explore("lookup_while_the_first_run_begins_is_never_of_another_base", || {
        let mut scene = Scene::empty(2, 1, 1);
        let contributor = scene.contributor(2);
        contributor.request_run(5);
        let looks = thread::spawn(move || contributor.lookup(5));
        scene.owner.step();
        let lookup = looks.join().expect("it ended");
        assert!([Lookup::NoRun, Lookup::Open, Lookup::Ahead(0)].contains(&lookup), "{lookup:?}");
    });
}

/// What the owner noted of the time before a run is there for whoever knows that the run has begun.
#[test]
fn run_that_is_known_has_the_time_before_it() {
    scene::explore("run_that_is_known_has_the_time_before_it", || {
        let mut scene = Scene::empty(2, 1, 1); // no image is open: nothing else orders the two
        let contributor = scene.contributor(2);
        let asks = thread::spawn(move || {
            contributor.set_progress(None, 50);
            contributor.request_run(3);
            if contributor.epoch() == 1 {
                assert_eq!(contributor.run_after_ns(), 50);
            }
            contributor
        });
        scene.owner.step();
        asks.join().expect("it ended");
    });
}

/// A packet comes for an image without a slot, in the moment in which it gets one.
#[test]
fn image_without_a_slot_is_refused_or_gets_one_but_not_both() {
    scene::explore("image_without_a_slot_is_refused_or_gets_one_but_not_both", || {
        let (Scene { ring, mut owner }, mut contributor) = Scene::in_run(2, 1, 1);
        let mut reader = scene::reliable(&ring, 3, Start::Next);
        for id in 0..2 {
            scene::place(&mut contributor, 1, id, &[0]);
            owner.step();
        }
        assert_eq!(contributor.lookup(2), Lookup::NoSlot);
        scene::read_on(&mut reader);
        let offers = thread::spawn(move || {
            let refused = contributor.refuse(2);
            assert!(refused || scene::place(&mut contributor, 1, 2, &[0]), "it has a slot");
            refused
        });
        reader.release();
        owner.step();
        let refused = offers.join().expect("it ended");
        owner.step();
        scene::read_on(&mut reader).expect("image 1");
        let lost = ring.status().lost[LossCause::RingFull as usize - 1];
        assert_eq!((lost, ring.status().images_complete), if refused { (1, 2) } else { (0, 3) });
        scene::read_on(&mut reader);
    });
}
