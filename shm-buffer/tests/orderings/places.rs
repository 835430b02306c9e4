//! Places in the ring that change hands.

use crate::scene::{self, HOUSEKEEPING_NS, Scene, process};
use ecs_shm_buffer::{Contributor, Liveness, ProcessId, Reader, Ring, Role, Start};
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

/// What is told of a participant is its own: nothing of who had the place before.
#[test]
fn participant_that_is_seen_in_its_role_is_whole() {
    scene::explore_with(1, "participant_that_is_seen_in_its_role_is_whole", || {
        let scene = Scene::empty(2, 1, 1);
        let of_new = scene.ring.clone();
        drop(ManuallyDrop::into_inner(scene.contributor(11))); // its name and words are left behind
        let joining = thread::spawn(move || join(&of_new));
        for other in scene.ring.status().participants {
            let is_new = other.process.pid == 20 && other.role == Role::Contributor;
            assert!(!is_new || other.name == "new" && other.process == process(20), "{other:?}");
        }
        joining.join().expect("it ended").expect("there is room");
    });
}
