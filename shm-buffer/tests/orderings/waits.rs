//! Sleeping and waking: nobody sleeps through what it waits for. Models have no timeouts, so loom finds
//! who sleeps for ever.

use crate::scene::{self, Scene};
use ecs_shm_buffer::{Lookup, Reader, Start};
use loom::thread;
use std::{mem::ManuallyDrop, time::Duration};

const FOR_EVER: Duration = Duration::from_secs(1 << 30);

fn waits_for_image(mut reader: ManuallyDrop<Reader>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let delivery = reader.next(FOR_EVER).expect("it was woken");
        assert_eq!(delivery.image.map(|image| image.id), Some(0));
    })
}

#[test]
fn reader_that_waits_is_woken_by_a_commit() {
    scene::explore("reader_that_waits_is_woken_by_a_commit", || {
        let (Scene { ring, mut owner }, mut contributor) = Scene::in_run(2, 1, 1);
        let waits = waits_for_image(scene::lossy(&ring, 3, Start::Next));
        scene::place(&mut contributor, 1, 0, &[0]);
        owner.step();
        waits.join().expect("it was woken");
    });
}

#[test]
fn two_readers_that_wait_are_both_woken() {
    scene::explore("two_readers_that_wait_are_both_woken", || {
        let (Scene { ring, mut owner }, mut contributor) = Scene::in_run(2, 1, 1);
        let waiting = [3, 4].map(|pid| waits_for_image(scene::lossy(&ring, pid, Start::Next)));
        scene::place(&mut contributor, 1, 0, &[0]);
        owner.step();
        waiting.into_iter().for_each(|waits| waits.join().expect("it was woken"));
    });
}

#[test]
fn reader_that_waits_is_woken_when_the_ring_closes() {
    scene::explore("reader_that_waits_is_woken_when_the_ring_closes", || {
        let (Scene { ring, owner }, _contributor) = Scene::in_run(2, 1, 1);
        let mut reader = scene::lossy(&ring, 3, Start::Next);
        let waits = thread::spawn(move || assert!(reader.next(FOR_EVER).is_none()));
        ManuallyDrop::into_inner(owner.owner).close();
        waits.join().expect("it was woken");
    });
}

#[test]
fn owner_that_sleeps_is_woken_by_the_last_packet() {
    scene::explore("owner_that_sleeps_is_woken_by_the_last_packet", || {
        let (Scene { ring: _, mut owner }, mut contributor) = Scene::in_run(2, 1, 1);
        let places = thread::spawn(move || assert!(scene::place(&mut contributor, 1, 0, &[0])));
        loop {
            let ticket = owner.owner.ticket();
            if owner.step() == 1 {
                break;
            }
            owner.owner.sleep(ticket, FOR_EVER);
        }
        places.join().expect("it placed");
    });
}

#[test]
fn owner_that_sleeps_is_woken_by_a_request_for_a_run() {
    scene::explore("owner_that_sleeps_is_woken_by_a_request_for_a_run", || {
        let (Scene { ring, mut owner }, contributor) = Scene::in_run(2, 1, 1);
        let asks = thread::spawn(move || contributor.request_run(7));
        loop {
            let ticket = owner.owner.ticket();
            owner.step();
            if ring.status().epoch == 2 {
                break;
            }
            owner.owner.sleep(ticket, FOR_EVER);
        }
        asks.join().expect("it asked");
    });
}

#[test]
fn owner_that_wants_a_slot_is_woken_by_a_reader_that_gives_one_back() {
    scene::explore("owner_that_wants_a_slot_is_woken_by_a_reader_that_gives_one_back", || {
        let (Scene { ring, mut owner }, mut contributor) = Scene::in_run(2, 1, 1);
        let mut reader = scene::reliable(&ring, 3, Start::Next);
        for id in 0..2 {
            scene::place(&mut contributor, 1, id, &[0]);
            owner.step();
        }
        scene::read_on(&mut reader);
        let gives_back = thread::spawn(move || reader.release());
        loop {
            let ticket = owner.owner.ticket();
            owner.step();
            if contributor.lookup(2) == Lookup::Open {
                break;
            }
            owner.owner.sleep(ticket, FOR_EVER);
        }
        gives_back.join().expect("it gave back");
    });
}

#[test]
fn contributor_that_waits_for_the_window_is_woken_when_it_moves() {
    scene::explore("contributor_that_waits_for_the_window_is_woken_when_it_moves", || {
        let (Scene { ring: _, mut owner }, mut contributor) = Scene::in_run(2, 1, 1);
        scene::place(&mut contributor, 1, 0, &[0]);
        let waits = thread::spawn(move || {
            loop {
                let ticket = contributor.window_ticket();
                if contributor.lookup(1) == Lookup::Open {
                    return;
                }
                contributor.wait_for_window(ticket, FOR_EVER);
            }
        });
        owner.step();
        waits.join().expect("it was woken");
    });
}
