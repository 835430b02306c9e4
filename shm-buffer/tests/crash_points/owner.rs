//! An owner killed between any two steps: the contributor and the reader of this process go on, which takes over and
//! compares what was told.

use crate::common::{self, Watchdog, invariants::Told};
use ecs_shm_buffer::{
    Contributor, Lookup, Now, Owner, OwnerLock, PixelAccess, Proc, ProcessId, Reader, Ring, RingError, Start,
    Surroundings, create_or_take_over, monotonic_ns, open,
};
use std::{collections::BTreeMap, path::Path, time::Duration};

const POINTS: [&str; 12] = [
    "open: slot prepared",
    "run: base published",
    "close: closing",
    "close: closing whole",
    "close: counted",
    "count: half",
    "count: image",
    "count: lost",
    "publish: entry filled",
    "publish: entry valid",
    "publish: head moved",
    "signal: word changed",
];
/// Of one who takes over: the owner before it was killed, too.
const TAKEOVER: [&str; 7] = [
    "takeover: owner named",
    "takeover: head stands",
    "takeover: counters stand",
    "takeover: window empty",
    "takeover: slots sorted",
    "takeover: losses counted",
    "takeover: base told",
];
const IMAGES: u64 = 60;

pub fn points() -> impl Iterator<Item = &'static str> {
    POINTS.into_iter().chain(TAKEOVER)
}

/// Owns the ring until it is killed.
pub fn own(path: &Path) {
    let (_ring, _lock, mut owner) = become_owner(path).expect("nobody else owns it");
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
        let hits: &[u32] = match point {
            "run: base published" => &[1, 2], // a run begins twice in the script, everything else happens often
            "signal: word changed" => &[2, 3, 4, 5, 8], // the first is of the takeover, before it says that it owns
            _ => &[1, 2, 3, 4, 5, 8],
        };
        for hit in hits {
            kill_owners_at(&[format!("{point}:{hit}")]);
        }
    }
}

/// The next one, and the one after it, find what the others had half done.
#[test]
fn owner_killed_while_it_takes_over_from_a_killed_one_is_replaced_as_any_other() {
    let _watchdog = Watchdog::start(Duration::from_secs(300));
    let first =
        ["open: slot prepared:7", "run: base published:2", "close: closing:5", "count: half:5", "close: counted:5"];
    let published = ["publish: entry filled:5", "publish: entry valid:5"];
    for first in first.into_iter().chain(published) {
        for point in TAKEOVER {
            kill_owners_at(&[first.to_owned(), format!("{point}:1"), format!("{point}:1")]);
        }
    }
}

/// Kills one owner after the other: the first, and those that take over from it.
fn kill_owners_at(plans: &[String]) {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is there");
    let path = folder.path().join("ring");
    let (plan, mut next_plans) = (plans.join(", "), plans.iter());
    let mut start_next = || next_plans.next().map(|plan| crate::start_who_dies("owner", &path, plan));
    let mut dies = start_next().expect("at least one dies");
    dies.wait_for("owns");
    let ring = open(&path, PixelAccess::ReadWrite).expect("it is owned");
    let mut contributor = Contributor::join(&ring, ProcessId::current(), "readout").expect("a free place");
    let mut reader = Reader::reliable(&ring, ProcessId::current(), "writer", Start::Next).expect("a free place");
    let (mut told, mut first_ids, mut successor, mut script) =
        (Told::default(), BTreeMap::new(), None, Script::default());
    let mut go_on = |told: &mut Told| {
        if let Some((_, _, owner)) = &mut successor {
            step(owner);
        } else if !dies.has_ended() {
        } else if let Some(next) = start_next() {
            dies = next;
        } else {
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
    common::wait_until(&plan, || {
        let is_dead = go_on(&mut told);
        is_dead && ring.status().epoch == 2 && told.next_id.is_some_and(|next| next >= IMAGES)
    });
    common::wait_until(&format!("{plan}: counted as told: {told:?}, {:?}", ring.status()), || {
        go_on(&mut told);
        let status = ring.status();
        status.images_complete + status.images_partial == told.images && status.lost.iter().sum::<u64>() == told.lost
    });
    reader.release();
    common::invariants::check_sums(&ring);
    crate::assert_whole(&path, &plan);
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
