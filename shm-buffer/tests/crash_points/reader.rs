//! A reader killed between any two steps: what it held is free, the others miss nothing, and another reader reads on.

use crate::common::{self, Watchdog, invariants::Told, process::Player};
use ecs_shm_buffer::{
    Contributor, Lookup, Now, Owner, OwnerLock, PacketFate, PixelAccess, Proc, ProcessId, Reader, Ring, Role, Start,
    Surroundings, create_or_take_over, monotonic_ns, open,
};
use std::{path::PathBuf, time::Duration};

const PACKETS: usize = 2;
const SLOTS: u32 = 8;
/// The part that leaves on purpose does so after so many steps.
pub const LEAVES_AFTER: u64 = 5;

/// Where a reliable reader may die, beside joining, and at which passes.
const RELIABLE: [(&str, &[u32]); 4] = [
    ("reader: cursor stands", &[1]),
    ("release: counted", &[1, 2, 7]),
    ("release: cursor moved", &[1, 2, 7]),
    ("wait: announced", &[1, 3]),
];
const LEAVING: [&str; 3] = ["leave: place free", "signal: word changed", "signal: flag taken"];
const LOSSY: &str = "skip: cursor moved";

pub fn points() -> impl Iterator<Item = &'static str> {
    RELIABLE.into_iter().map(|(point, _)| point).chain(LEAVING).chain([LOSSY])
}

/// Reads, checks every pixel, and leaves after that many steps.
pub fn read_all(path: &std::path::Path, steps: u64) {
    let ring = open(path, PixelAccess::ReadOnly).expect("the ring is there");
    let mut reader = Reader::reliable(&ring, ProcessId::current(), "dies", Start::Oldest).expect("a free place");
    let (mut told, mut read) = (Told::default(), 0);
    while read < steps {
        let Some(delivery) = reader.next(Duration::from_millis(1)) else { continue };
        told.check(&delivery);
        assert_eq!(delivery.overtaken, 0);
        if let Some(image) = &delivery.image {
            common::invariants::check_pixels(delivery.epoch, image, reader.pixels(image));
        }
        read += 1;
    }
}

/// Waits after each step until it has been overtaken.
pub fn read_slowly(path: &std::path::Path) {
    let ring = open(path, PixelAccess::ReadOnly).expect("the ring is there");
    let mut reader = Reader::lossy(&ring, ProcessId::current(), "dies", Start::Next).expect("a free place");
    let mut told = Told::default();
    loop {
        let Some(delivery) = reader.next(Duration::from_millis(1)) else { continue };
        told.check(&delivery);
        while ring.status().commits < delivery.seq + 4 * u64::from(SLOTS) {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

#[test]
fn reliable_reader_killed_at_any_crash_point_holds_nothing_afterwards() {
    let _watchdog = Watchdog::start(Duration::from_secs(300));
    for point in crate::JOINING {
        kill_reader("reliable reader", &format!("{point}:1"));
    }
    for (point, hits) in RELIABLE {
        hits.iter().for_each(|hit| kill_reader("reliable reader", &format!("{point}:{hit}")));
    }
    for point in LEAVING {
        kill_reader("reliable reader that leaves", &format!("{point}:1"));
    }
}

#[test]
fn lossy_reader_killed_as_it_skips_what_it_missed_leaves_nothing_behind() {
    let _watchdog = Watchdog::start(Duration::from_secs(300));
    for hit in [1, 2] {
        kill_reader("lossy reader", &format!("{LOSSY}:{hit}"));
    }
}

fn kill_reader(part: &str, plan: &str) {
    let mut script = Script::new();
    let mut dies = crate::start_who_dies(part, &script.path, plan);
    common::wait_until(&format!("{plan}: it dies"), || {
        script.tick();
        dies.has_ended()
    });
    crate::assert_whole(&script.path, plan);
    common::wait_until(&format!("{plan}: its place is free"), || {
        script.tick();
        script.ring.status().participants.iter().all(|other| other.process.pid != dies.pid())
    });
    script.assert_nothing_is_held(plan);
    script.assert_another_reads(plan);
    script.assert_sums(plan);
}

/// The ring, its owner, a contributor and a reader, all of this process.
struct Script {
    _folder: tempfile::TempDir,
    path: PathBuf,
    ring: Ring,
    _lock: OwnerLock,
    owner: Owner,
    contributor: Contributor,
    witness: Reader,
    told: Told,
    id: u64,
}

impl Script {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is there");
        let path = folder.path().join("ring");
        let geometry = common::geometry(SLOTS, 2, PACKETS as u32);
        let (ring, lock) = create_or_take_over(&path, geometry, &Proc).expect("there is room");
        let owner = Owner::take_over(&ring, ProcessId::current(), Duration::from_secs(1), &Proc);
        let contributor = Contributor::join(&ring, ProcessId::current(), "readout").expect("a free place");
        let witness = Reader::reliable(&ring, ProcessId::current(), "witness", Start::Next).expect("a free place");
        Self { _folder: folder, path, ring, _lock: lock, owner, contributor, witness, told: Told::default(), id: 0 }
    }

    /// One image, whole, or lost whole for want of a slot; the owner sleeps behind it, so that readers have to wake it.
    fn tick(&mut self) {
        self.contributor.epoch();
        match self.contributor.lookup(self.id) {
            Lookup::Open => {
                let placed = common::place(&mut self.contributor, self.id, &[0, 1], monotonic_ns());
                self.contributor.count(PacketFate::Placed, placed as u64);
                self.contributor.set_progress(Some(self.id), monotonic_ns());
                self.id += 1;
            }
            Lookup::NoSlot => self.id += u64::from(self.contributor.refuse(self.id)),
            Lookup::NoRun => self.contributor.request_run(0),
            Lookup::Behind(_) | Lookup::Ahead(_) => panic!("image {} is not where it should be", self.id),
        }
        let ticket = self.owner.ticket();
        self.owner.step(&mut Surroundings { now: Now::read(), liveness: &Proc, fill: &mut common::fill });
        self.owner.sleep(ticket, Duration::from_micros(100));
        while let Some(delivery) = self.witness.try_next() {
            self.told.check(&delivery);
            if let Some(image) = &delivery.image {
                common::invariants::check_pixels(delivery.epoch, image, self.witness.pixels(image));
            }
        }
    }

    /// Many times as many images as there are slots: none is lost any more.
    fn assert_nothing_is_held(&mut self, plan: &str) {
        (0..2 * SLOTS).for_each(|_| self.tick()); // what was lost before is told by then
        let before = self.ring.status();
        (0..8 * SLOTS).for_each(|_| self.tick());
        let after = self.ring.status();
        assert_eq!(after.lost, before.lost, "{plan}");
        assert!(after.images_complete >= before.images_complete + u64::from(8 * SLOTS) - 2, "{plan}: {after:?}");
        let readers = after.participants.iter().filter(|other| other.role == Role::ReliableReader);
        assert_eq!(readers.count(), 1, "{plan}: {:?}", after.participants);
    }

    /// Another reader reads as many steps as it wants, all of them right.
    fn assert_another_reads(&mut self, plan: &str) {
        let mut next = Player::start(crate::ENTRY, "reliable reader that leaves", &self.path);
        common::wait_until(&format!("{plan}: the next reader has read"), || {
            self.tick();
            next.has_ended()
        });
        let (is_right, said) = next.finish();
        assert!(is_right, "{plan}: {said}");
    }

    fn assert_sums(&mut self, plan: &str) {
        (0..2 * SLOTS).for_each(|_| self.tick());
        self.witness.release();
        common::invariants::check_sums(&self.ring);
        let status = self.ring.status();
        let images = status.images_complete + status.images_partial;
        let lost = status.lost.iter().sum::<u64>();
        assert_eq!((images, lost), (self.told.images, self.told.lost), "{plan}: {status:?}");
        assert_eq!((status.images_partial, status.packets_astray()), (0, 0), "{plan}: {status:?}");
        crate::assert_whole(&self.path, plan);
    }
}
