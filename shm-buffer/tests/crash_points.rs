//! An owner killed between any two steps of the protocol, at the n-th time that it gets there.
//!
//! The owner is a process of its own, built with the feature `crash-points`; the contributor and the
//! reader are in this one, which takes over and compares what was told. Run with
//! `cargo test --release -p ecs-shm-buffer --features crash-points`.

mod common;

use common::{Watchdog, invariants::Told, process::Player};
use ecs_shm_buffer::{
    Contributor, Lookup, Now, Owner, OwnerLock, PixelAccess, Proc, ProcessId, Reader, Ring, RingError, Start,
    Surroundings, create_or_take_over, monotonic_ns, open,
};
use std::{path::Path, time::Duration};

const ENTRY: &str = "second_process_owns_until_it_is_killed";
const POINTS: [&str; 4] = ["open: slot prepared", "close: closing", "publish: entry filled", "publish: entry valid"];
const IMAGES: u64 = 60;

#[test]
fn second_process_owns_until_it_is_killed() {
    let Some((_, path)) = common::process::part() else { return };
    let (_ring, _lock, mut owner) = become_owner(&path).expect("nobody else owns it");
    eprintln!("owns");
    loop {
        let ticket = owner.ticket();
        step(&mut owner);
        owner.sleep(ticket, Duration::from_millis(1));
    }
}

fn become_owner(path: &Path) -> Result<(Ring, OwnerLock, Owner), RingError> {
    let (ring, lock) = create_or_take_over(path, common::geometry(8, 2, 2), &Proc)?;
    let owner = Owner::take_over(&ring, ProcessId::current(), Duration::from_millis(5), &Proc);
    Ok((ring, lock, owner))
}

fn step(owner: &mut Owner) {
    owner.step(&mut Surroundings { now: Now::read(), liveness: &Proc, fill: &mut common::fill });
}

#[test]
fn owner_killed_at_any_crash_point_loses_no_id_and_tells_none_twice() {
    let _watchdog = Watchdog::start(Duration::from_secs(300));
    for point in POINTS {
        for hit in [1, 2, 3, 4, 5, 9, 17, 33] {
            kill_owner_at(&format!("{point}:{hit}"));
        }
    }
}

fn kill_owner_at(plan: &str) {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is there");
    let path = folder.path().join("ring");
    let mut dies = Player::start_with(ENTRY, "owner", &path, &[("ECS_CRASH_POINT", plan)]);
    dies.wait_for("owns");
    let ring = open(&path, PixelAccess::ReadWrite).expect("it is owned");
    let mut contributor = Contributor::join(&ring, ProcessId::current(), "readout").expect("a free place");
    let mut reader = Reader::reliable(&ring, ProcessId::current(), "writer", Start::Next).expect("a free place");
    let (mut told, mut successor, mut id) = (Told::default(), None, 0);
    common::wait_until(plan, || {
        if let Some((_, _, owner)) = &mut successor {
            step(owner);
        } else if dies.has_ended() {
            successor = Some(become_owner(&path).expect("it is dead"));
        }
        id = place_some(&mut contributor, id);
        while let Some(delivery) = reader.try_next() {
            told.check(&delivery);
            if let Some(image) = &delivery.image {
                common::invariants::check_pixels(delivery.epoch, image, reader.pixels(image));
            }
        }
        successor.is_some() && told.next_id.is_some_and(|next| next >= IMAGES)
    });
    let first = told.next_id.expect("some were told") - told.images - told.lost;
    assert!(first <= 1, "{plan}: the first of the ids that were told is {first}");
    assert_eq!(ring.status().epoch, 1, "{plan}");
}

/// Places what can be placed now: every third image misses a packet. Returns the next id.
fn place_some(contributor: &mut Contributor, id: u64) -> u64 {
    contributor.epoch();
    let packets: &[usize] = if id % 3 == 2 { &[1] } else { &[0, 1] };
    match contributor.lookup(id) {
        Lookup::NoRun => contributor.request_run(0),
        Lookup::Ahead(_) => contributor.want(id),
        Lookup::Open => {
            common::place(contributor, id, packets, monotonic_ns());
            contributor.set_progress(Some(id), monotonic_ns());
            return id + 1;
        }
        Lookup::Behind(_) => return id + 1,
        Lookup::NoSlot => {
            contributor.refuse(id);
            return id + 1;
        }
    }
    id
}
