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
use std::{collections::BTreeMap, path::Path, time::Duration};

const ENTRY: &str = "second_process_owns_until_it_is_killed";
const POINTS: [&str; 10] = [
    "open: slot prepared",
    "run: base published",
    "close: closing",
    "close: counted",
    "count: half",
    "count: image",
    "count: lost",
    "publish: entry filled",
    "publish: entry valid",
    "publish: head moved",
];
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

/// The counters must agree with what was told, too: nothing is counted twice, or not at all (O6).
#[test]
fn owner_killed_at_any_crash_point_loses_no_id_and_tells_and_counts_none_twice() {
    let _watchdog = Watchdog::start(Duration::from_secs(300));
    for point in POINTS {
        // A run begins twice in the script, everything else often.
        let hits: &[u32] = if point.starts_with("run:") { &[1, 2] } else { &[1, 2, 3, 4, 5, 8] };
        for hit in hits {
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
    let (mut told, mut first_ids, mut successor, mut script) =
        (Told::default(), BTreeMap::new(), None, Script::default());
    let mut go_on = |told: &mut Told| {
        if let Some((_, _, owner)) = &mut successor {
            step(owner);
        } else if dies.has_ended() {
            successor = Some(become_owner(&path).expect("it is dead"));
        }
        script.place_some(&mut contributor);
        while let Some(delivery) = reader.try_next() {
            told.check(&delivery);
            let first_id = delivery.lost.first().map(|range| range.first_id);
            let first_id = first_id.or(delivery.image.as_ref().map(|image| image.id)).expect("checked");
            first_ids.entry(delivery.epoch).or_insert(first_id);
            if let Some(image) = &delivery.image {
                common::invariants::check_pixels(delivery.epoch, image, reader.pixels(image));
            }
        }
        successor.is_some()
    };
    common::wait_until(plan, || {
        let is_dead = go_on(&mut told);
        is_dead && ring.status().epoch == 2 && told.next_id.is_some_and(|next| next >= IMAGES)
    });
    common::wait_until(&format!("{plan}: counted as told: {told:?}, {:?}", ring.status()), || {
        go_on(&mut told);
        let status = ring.status();
        status.images_complete + status.images_partial == told.images && status.lost.iter().sum::<u64>() == told.lost
    });
    assert!(first_ids.values().all(|&id| id <= 1), "{plan}: the first ids that were told are {first_ids:?}");
    assert_eq!(first_ids.len(), 2, "{plan}: {first_ids:?}");
}

/// Where the script is.
#[derive(Default)]
struct Script {
    epoch: u64,
    id: u64,
}

impl Script {
    /// Places what can be placed now: every third image misses a packet, every seventh does not come.
    /// In the middle a second run begins.
    fn place_some(&mut self, contributor: &mut Contributor) {
        let epoch = contributor.epoch();
        if epoch > self.epoch {
            *self = Self { epoch, id: 0 };
        }
        if epoch == 0 || epoch == 1 && self.id >= IMAGES / 2 {
            return contributor.request_run(0);
        }
        let id = self.id;
        let packets: &[usize] = if id % 3 == 2 { &[1] } else { &[0, 1] };
        self.id += match contributor.lookup(id) {
            Lookup::Open => {
                if id % 7 != 3 {
                    common::place(contributor, id, packets, monotonic_ns());
                    contributor.set_progress(Some(id), monotonic_ns());
                }
                1
            }
            Lookup::NoSlot => u64::from(contributor.refuse(id)),
            Lookup::Behind(_) => 1,
            Lookup::Ahead(_) => {
                contributor.set_progress(Some(id), monotonic_ns());
                0
            }
            Lookup::NoRun => 0,
        }
    }
}
