//! Places in the ring that change hands.

use crate::scene::{self, HOUSEKEEPING_NS, Scene, process};
use ecs_shm_buffer::{Contributor, Liveness, Lookup, PacketFate, ProcessId, Reader, Ring, Role, Start};
use loom::thread;
use std::mem::ManuallyDrop;

/// Asserts that nobody is asked about who is not one process, and knows who is dead.
struct Asked {
    dead: u32,
}

impl Liveness for Asked {
    fn is_alive(&self, asked: ProcessId) -> bool {
        assert!([0, process(asked.pid).start_time].contains(&asked.start_time), "two processes in one: {asked:?}");
        asked.pid != self.dead
    }
}

/// A ring with one place that has a holder, 10, and the others taken.
fn nearly_full() -> (Scene, ManuallyDrop<Reader>) {
    let scene = Scene::empty(2, 1, 1);
    let leaves = scene::lossy(&scene.ring, 10, Start::Next);
    (0..2).for_each(|other| _ = scene::lossy(&scene.ring, 30 + other, Start::Next));
    (scene, leaves)
}

fn join(ring: &Ring) -> Option<ManuallyDrop<Contributor>> {
    Contributor::join(ring, process(20), "new").ok().map(ManuallyDrop::new)
}

fn assert_is_in(ring: &Ring) {
    let participants = ring.status().participants;
    let new: Vec<_> = participants.iter().filter(|other| other.process == process(20)).collect();
    assert!(new.len() == 1 && new[0].role == Role::Contributor && new[0].name == "new", "{participants:?}");
}

/// One leaves, another takes its place, and the owner looks for the dead.
#[test]
fn place_that_changes_hands_is_not_taken_for_a_dead_ones() {
    scene::explore("place_that_changes_hands_is_not_taken_for_a_dead_ones", || {
        let (Scene { ring, mut owner }, leaves) = nearly_full();
        let leaving = thread::spawn(move || drop(ManuallyDrop::into_inner(leaves)));
        let of_new = ring.clone();
        let joining = thread::spawn(move || join(&of_new));
        owner.now_ns = HOUSEKEEPING_NS;
        owner.step_asking(&Asked { dead: 0 });
        leaving.join().expect("it left");
        if joining.join().expect("it ended").is_some() {
            assert_is_in(&ring);
        }
    });
}

/// The owner frees a dead one's place, and another takes it.
#[test]
fn place_of_the_dead_is_freed_once_and_its_next_holder_keeps_it() {
    scene::explore("place_of_the_dead_is_freed_once_and_its_next_holder_keeps_it", || {
        let (Scene { ring, mut owner }, dead) = nearly_full();
        let of_new = ring.clone();
        let joining = thread::spawn(move || join(&of_new));
        let late = thread::spawn(move || drop(ManuallyDrop::into_inner(dead))); // it was only slow
        for _ in 0..2 {
            owner.now_ns += HOUSEKEEPING_NS;
            owner.step_asking(&Asked { dead: 10 });
        }
        late.join().expect("it ended");
        if joining.join().expect("it ended").is_some() {
            assert_is_in(&ring);
        }
    });
}

/// A contributor in the place of another, which was far ahead: the owner must not take it for that one.
#[test]
fn progress_of_who_left_is_not_the_next_holders() {
    scene::explore("progress_of_who_left_is_not_the_next_holders", || {
        let (Scene { ring, mut owner }, contributor) = Scene::in_run(2, 1, 1);
        contributor.set_progress(Some(50), owner.now_ns);
        drop(ManuallyDrop::into_inner(contributor));
        let of_new = ring.clone();
        let joining = thread::spawn(move || join(&of_new));
        owner.step();
        let is_base_zero = joining.join().expect("it ended").expect("there is room").lookup(0) == Lookup::Open;
        assert!(is_base_zero, "image 0 was given up: {:?}", ring.status());
    });
}

/// A place's packet counters only rise; what the holder before counted is not the next one's.
#[test]
fn packets_that_who_left_has_counted_are_not_the_next_holders() {
    scene::explore("packets_that_who_left_has_counted_are_not_the_next_holders", || {
        let scene = Scene::empty(2, 1, 1);
        let leaves = scene.contributor(10);
        (0..2).for_each(|other| _ = scene::lossy(&scene.ring, 30 + other, Start::Next));
        let leaving = thread::spawn(move || {
            leaves.count(PacketFate::Placed, 5);
            drop(ManuallyDrop::into_inner(leaves));
        });
        let joined = join(&scene.ring);
        leaving.join().expect("it left");
        if joined.is_some() {
            assert_is_in(&scene.ring);
            let status = scene.ring.status();
            let new = status.participants.iter().find(|other| other.process.pid == 20).expect("it is in");
            assert_eq!((new.packets.placed, status.packets.placed), (0, 5));
        }
    });
}
