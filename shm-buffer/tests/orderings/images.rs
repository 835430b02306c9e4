//! An image from its packets to its readers.

use crate::scene::{self, DEADLINE_NS, HOUSEKEEPING_NS, Scene};
use ecs_shm_buffer::Start;
use loom::thread;

/// Packets, the commit and the delivery, all at one time.
#[test]
fn image_that_is_delivered_is_whole() {
    scene::explore("image_that_is_delivered_is_whole", || {
        let (Scene { ring, mut owner }, mut contributor) = Scene::in_run(2, 1, 2);
        let mut reader = scene::reliable(&ring, 3, Start::Next);
        let places = thread::spawn(move || assert!(scene::place(&mut contributor, 1, 0, &[0, 1])));
        let owns = thread::spawn(move || {
            owner.step();
            owner
        });
        if let Some(delivery) = scene::read_on(&mut reader) {
            assert_eq!(delivery.image.expect("no losses").bitmap[..], [0b11]);
        }
        places.join().expect("it placed");
        let mut owner = owns.join().expect("it stepped");
        owner.step();
        scene::read_on(&mut reader);
        assert!(scene::read_on(&mut reader).is_none(), "delivered once");
    });
}

/// Hard moment 1: the deadline closes the image while a contributor comes with a packet.
#[test]
fn late_packet_is_in_the_image_or_never_touches_it() {
    scene::explore("late_packet_is_in_the_image_or_never_touches_it", || {
        let (Scene { ring, mut owner }, mut contributor) = Scene::in_run(2, 1, 2);
        let mut reader = scene::reliable(&ring, 3, Start::Next);
        scene::place(&mut contributor, 1, 0, &[0]);
        let late = thread::spawn(move || scene::place(&mut contributor, 1, 0, &[1]));
        assert_eq!(owner.step_after(DEADLINE_NS), 1);
        let image = scene::read_on(&mut reader).and_then(|delivery| delivery.image).expect("committed");
        let came_in_time = late.join().expect("it ended");
        assert_eq!(image.bitmap[..], [if came_in_time { 0b11 } else { 0b01 }]);
        scene::check_pixels(1, &image, &ecs_shm_buffer::model::read_held(&reader, &image));
    });
}

/// A packet comes again while its whole image is committed, and its slot goes to a later image, of which it is missing.
#[test]
fn duplicate_for_a_whole_image_never_touches_a_later_one() {
    scene::explore("duplicate_for_a_whole_image_never_touches_a_later_one", || {
        let (Scene { ring, mut owner }, mut contributor) = Scene::in_run(2, 1, 2);
        let mut other = scene::another(&ring, 4);
        scene::place(&mut contributor, 1, 0, &[0]);
        scene::place(&mut other, 1, 0, &[1]);
        let repeats = thread::spawn(move || scene::place(&mut contributor, 1, 0, &[0]));
        assert_eq!(owner.step(), 1);
        for id in [1, 2] {
            scene::place(&mut other, 1, id, &[1]);
            assert_eq!(owner.step_after(DEADLINE_NS), 1, "image {id}");
        }
        repeats.join().expect("it ended");
        let mut reader = scene::reliable(&ring, 3, Start::Oldest);
        while let Some(image) = scene::read_on(&mut reader).and_then(|delivery| delivery.image) {
            assert_eq!(image.bitmap[..], [if image.id == 0 { 0b11 } else { 0b10 }], "image {}", image.id);
        }
    });
}

/// Hard moment 3: the slot is taken back, opened and written while a lossy reader copies it.
#[test]
fn copy_of_an_overtaken_reader_is_right_or_void() {
    scene::explore("copy_of_an_overtaken_reader_is_right_or_void", || {
        let (Scene { ring, mut owner }, mut contributor) = Scene::in_run(2, 1, 1);
        let mut reader = scene::lossy(&ring, 3, Start::Next);
        scene::place(&mut contributor, 1, 0, &[0]);
        owner.step();
        let image = reader.try_next().and_then(|delivery| delivery.image).expect("committed");
        scene::place(&mut contributor, 1, 1, &[0]);
        let owns = thread::spawn(move || owner.step());
        let places = thread::spawn(move || scene::place(&mut contributor, 1, 2, &[0]));
        if let Some(pixels) = scene::copy(&reader, &image) {
            scene::check_pixels(1, &image, &pixels);
        }
        owns.join().expect("it stepped");
        places.join().expect("it placed, or the image was not open yet");
    });
}

/// The same for what is known of the image: a lossy reader comes to it while its slot is opened again.
#[test]
fn step_that_an_overtaken_reader_is_told_of_is_right_or_skipped() {
    scene::explore("step_that_an_overtaken_reader_is_told_of_is_right_or_skipped", || {
        let (Scene { ring, mut owner }, mut contributor) = Scene::in_run(2, 1, 1);
        let mut reader = scene::lossy(&ring, 3, Start::Next);
        scene::place(&mut contributor, 1, 0, &[0]);
        owner.step();
        scene::place(&mut contributor, 1, 1, &[0]);
        let owns = thread::spawn(move || {
            owner.step();
            scene::place(&mut contributor, 1, 2, &[0]);
        });
        if let Some(delivery) = reader.try_next() {
            let image = delivery.image.expect("no losses");
            assert_eq!(image.id, delivery.seq, "an image of another step");
            assert_eq!((image.bitmap[0], image.packets_received, image.detector_timestamp), (1, 1, image.id));
            assert_eq!(delivery.epoch, 1);
        }
        owns.join().expect("it stepped");
    });
}

/// And for its bitmap, which is in the slot: that of an image that is not whole is read beside the step.
#[test]
fn bitmap_that_an_overtaken_reader_is_told_of_is_right_or_skipped() {
    scene::explore("bitmap_that_an_overtaken_reader_is_told_of_is_right_or_skipped", || {
        let (Scene { ring, mut owner }, mut contributor) = Scene::in_run(2, 1, 2);
        let mut reader = scene::lossy(&ring, 3, Start::Next);
        scene::place(&mut contributor, 1, 0, &[1]);
        owner.step_after(DEADLINE_NS);
        scene::place(&mut contributor, 1, 1, &[0, 1]);
        let owns = thread::spawn(move || {
            owner.step();
            scene::place(&mut contributor, 1, 2, &[0]);
        });
        if let Some(image) = reader.try_next().and_then(|delivery| delivery.image) {
            let expected: u64 = if image.id == 0 { 0b10 } else { 0b11 };
            assert_eq!((image.bitmap[0], image.packets_received), (expected, expected.count_ones()));
        }
        owns.join().expect("it stepped");
    });
}

/// A step of losses is read while its entry is used again: steps without images need no slot.
#[test]
fn losses_that_an_overtaken_reader_is_told_of_are_those_of_that_step() {
    scene::explore("losses_that_an_overtaken_reader_is_told_of_are_those_of_that_step", || {
        let (Scene { ring, mut owner }, mut contributor) = Scene::in_run(2, 1, 1);
        scene::place(&mut contributor, 1, 0, &[0]);
        owner.step();
        let mut reader = scene::lossy(&ring, 3, Start::Next);
        for lost in 1..4 {
            contributor.set_progress(Some(lost + 2), owner.now_ns + HOUSEKEEPING_NS);
            assert_eq!(owner.step_after(HOUSEKEEPING_NS), 1, "a notice for id {lost}");
        }
        contributor.set_progress(Some(6), owner.now_ns + HOUSEKEEPING_NS);
        let owns = thread::spawn(move || {
            (0..2).for_each(|_| _ = owner.step_after(HOUSEKEEPING_NS));
            contributor.set_progress(Some(7), owner.now_ns + HOUSEKEEPING_NS);
            owner.step_after(HOUSEKEEPING_NS);
        });
        if let Some(delivery) = reader.try_next() {
            let lost: Vec<_> = delivery.lost.iter().map(|range| (range.first_id, range.count)).collect();
            assert_eq!(lost, [(delivery.seq, 1)], "sequence {}", delivery.seq);
        }
        owns.join().expect("it stepped");
    });
}

/// R5: a reader joins at the oldest image while that is taken back.
#[test]
fn reader_that_joins_holds_what_it_is_then_given() {
    scene::explore("reader_that_joins_holds_what_it_is_then_given", || {
        let (Scene { ring, mut owner }, mut contributor) = Scene::in_run(2, 1, 1);
        scene::place(&mut contributor, 1, 0, &[0]);
        owner.step();
        scene::place(&mut contributor, 1, 1, &[0]);
        let owns = thread::spawn(move || {
            owner.step();
            scene::place(&mut contributor, 1, 2, &[0]);
        });
        let mut reader = scene::reliable(&ring, 3, Start::Oldest);
        scene::read_on(&mut reader);
        owns.join().expect("it stepped");
    });
}

/// R5: what a reader has let go of is written only after it was read, by whomever.
#[test]
fn image_is_replaced_only_after_its_reader_has_read_it() {
    scene::explore("image_is_replaced_only_after_its_reader_has_read_it", || {
        let (Scene { ring, mut owner }, mut contributor) = Scene::in_run(2, 1, 1);
        let mut reader = scene::reliable(&ring, 3, Start::Next);
        scene::place(&mut contributor, 1, 0, &[0]);
        owner.step();
        scene::place(&mut contributor, 1, 1, &[0]);
        let reads = thread::spawn(move || {
            scene::read_on(&mut reader);
            reader.release();
        });
        let places = thread::spawn(move || scene::place(&mut contributor, 1, 2, &[0]));
        owner.step();
        reads.join().expect("it read");
        places.join().expect("it placed, or the image was not open yet");
    });
}

/// A contributor has placed a packet and is inside the next image already when the first one closes.
#[test]
fn packet_is_seen_though_its_contributor_is_in_the_next_image() {
    scene::explore("packet_is_seen_though_its_contributor_is_in_the_next_image", || {
        let (Scene { ring, mut owner }, mut contributor) = Scene::in_run(4, 2, 2);
        let mut reader = scene::reliable(&ring, 3, Start::Next);
        scene::place(&mut contributor, 1, 0, &[0]);
        let places = thread::spawn(move || {
            let came_in_time = scene::place(&mut contributor, 1, 0, &[1]);
            std::mem::forget(contributor.protect(&[1])); // it stays there
            came_in_time
        });
        owner.step_after(DEADLINE_NS);
        let image = scene::read_on(&mut reader).and_then(|delivery| delivery.image).expect("committed");
        assert_eq!(image.bitmap[..], [if places.join().expect("it placed") { 0b11 } else { 0b01 }]);
    });
}
