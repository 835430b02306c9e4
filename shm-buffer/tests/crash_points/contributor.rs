//! A contributor killed between any two steps: the image that it is in closes at its deadline with the packets that
//! it has marked, its place is free afterwards, and another contributor goes on.
//!
//! It places its two packets of an image before the other contributor of the script places its own, so the plan tells
//! in which image it dies, and with which packets.

use crate::common::{self, Watchdog, invariants::Told, process::Player};
use ecs_shm_buffer::{
    Contributor, Delivery, Lookup, Mark, Now, Owner, OwnerLock, PacketFate, PacketInfo, PixelAccess, Proc, ProcessId,
    Reader, Ring, Start, Surroundings, create_or_take_over, monotonic_ns, open,
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

const PACKETS: u32 = 4;
const DEADLINE: Duration = Duration::from_millis(20);
/// Packets of the one that dies, and of the one that goes on; what each says it makes pixels with (R7).
const OF_WHO_DIES: [usize; 2] = [1, 3];
const OF_WHO_STAYS: [usize; 2] = [0, 2];
const MADE_BY_WHO_DIES: u64 = 9;
const MADE_BY_WHO_STAYS: u64 = 8;
/// The part that leaves on purpose does so before this image.
pub const LEAVES_BEFORE: u64 = 3;
/// Images after the death, before another contributor comes.
const ALONE: u64 = 3;

/// A point that is passed a number of times in each image, and the packets that are marked at each of them.
struct InImage(&'static str, &'static [&'static [usize]]);

const IN_IMAGE: [InImage; 11] = [
    InImage("protect: hazard published", &[&[]]),
    InImage("make: said", &[&[]]),
    InImage("mark: pixels written", &[&[], &[1]]),
    InImage("mark: bit set", &[&[1], &[1, 3]]),
    InImage("mark: time of the first", &[&[1]]),
    InImage("mark: first told", &[&[1]]),
    InImage("mark: counted", &[&[1], &[1, 3]]),
    InImage("access: all marked", &[&[1, 3]]),
    InImage("access: withdrawn", &[&[1, 3]]),
    InImage("progress: time told", &[&[1, 3]]),
    InImage("progress: told", &[&[1, 3]]),
];
/// Passed before its first image: it asks for the run, and sleeps until there is one.
const BEFORE_THE_RUN: [&str; 4] = ["request: asked", "signal: word changed", "signal: flag taken", "wait: announced"];
const LEAVING: &str = "leave: place free";
const REFUSING: &str = "refuse: touched";

pub fn points() -> impl Iterator<Item = &'static str> {
    IN_IMAGE.iter().map(|point| point.0).chain(BEFORE_THE_RUN).chain([LEAVING, REFUSING])
}

/// Places its packets of the oldest open image, one image after the other, and leaves before image `end`.
pub fn contribute(path: &Path, end: u64) {
    let ring = open(path, PixelAccess::ReadWrite).expect("the ring is there");
    let mut contributor = Contributor::join(&ring, ProcessId::current(), "dies").expect("a free place");
    let mut id = contributor.window_begin();
    while id < end {
        let ticket = contributor.window_ticket();
        id = id.max(contributor.window_begin());
        let is_next = contributor.epoch() > 0 && contributor.window_begin() == id;
        match contributor.lookup(id) {
            Lookup::Open if is_next && place(&mut contributor, id, OF_WHO_DIES, MADE_BY_WHO_DIES) => id += 1,
            Lookup::NoSlot if is_next => id += u64::from(contributor.refuse(id)),
            Lookup::NoRun => {
                contributor.request_run(0);
                contributor.wait_for_window(ticket, Duration::from_millis(1));
            }
            _ => contributor.wait_for_window(ticket, Duration::from_millis(1)),
        }
    }
    drop(contributor);
}

/// As a readout does it. False if the image is not open any more.
fn place(contributor: &mut Contributor, id: u64, packets: [usize; 2], made_with: u64) -> bool {
    let (epoch, received_ns) = (contributor.epoch(), monotonic_ns());
    let access = contributor.protect(&[id]);
    let Some(image) = access.image(id) else { return false };
    access.make_with(image, made_with);
    for packet in packets {
        // SAFETY: the access protects the image.
        unsafe { common::write_packet(access.pixels(image), epoch, id, packet) };
        let info = PacketInfo { received_ns, detector_timestamp: id + 1, exposure_length: 7, do_not_store: true };
        assert_eq!(access.mark(image, packet, info), Mark::New);
    }
    drop(access);
    contributor.count(PacketFate::Placed, 2);
    contributor.set_progress(Some(id), received_ns);
    true
}

/// A death: where, in which image, and with which packets of it marked.
struct Death {
    plan: String,
    part: &'static str,
    image: u64,
    marked: &'static [usize],
    /// It was the first to say what the pixels of that image are made with.
    has_said: bool,
    /// Somebody has told of that image's first packet, all of it.
    first_is_told: bool,
}

impl Death {
    fn before_image(point: &str, part: &'static str, image: u64) -> Self {
        Self { plan: format!("{point}:1"), part, image, marked: &[], has_said: false, first_is_told: true }
    }

    /// At the `nth` pass in an image.
    fn in_image(point: &InImage, image: u64, nth: usize) -> Self {
        let InImage(name, marked) = point;
        Self {
            plan: format!("{name}:{}", image as usize * marked.len() + nth + 1),
            part: "contributor",
            image,
            marked: marked[nth],
            has_said: *name != "protect: hazard published",
            // Killed before that, it leaves it to the next packet; behind it, it has told all.
            first_is_told: *name != "mark: time of the first",
        }
    }

    /// The packets that an image has, as bits.
    fn bits_of(&self, id: u64) -> u64 {
        let of_the_dead: &[usize] = match id {
            _ if id < self.image => &OF_WHO_DIES,
            _ if id == self.image => self.marked,
            _ => &[],
        };
        OF_WHO_STAYS.iter().chain(of_the_dead).fold(0, |bits, packet| bits | 1 << packet)
    }

    fn made_with(&self, id: u64) -> u64 {
        let by_the_dead = id < self.image || id == self.image && self.has_said;
        if by_the_dead { MADE_BY_WHO_DIES } else { MADE_BY_WHO_STAYS }
    }
}

#[test]
fn contributor_killed_in_an_image_costs_the_packets_that_it_had_not_marked_and_nothing_else() {
    let _watchdog = Watchdog::start(Duration::from_secs(300));
    for point in &IN_IMAGE {
        for image in [0, 2] {
            (0..point.1.len()).for_each(|nth| kill_contributor(&Death::in_image(point, image, nth)));
        }
    }
}

#[test]
fn contributor_killed_as_it_joins_asks_for_a_run_or_leaves_costs_no_packet_but_its_own() {
    let _watchdog = Watchdog::start(Duration::from_secs(300));
    for point in crate::JOINING.into_iter().chain(BEFORE_THE_RUN) {
        kill_contributor(&Death::before_image(point, "contributor", 0));
    }
    kill_contributor(&Death::before_image(LEAVING, "contributor that leaves", LEAVES_BEFORE));
}

fn kill_contributor(death: &Death) {
    let mut script = Script::new(32);
    let mut dies = crate::start_who_dies(death.part, &script.path, &death.plan);
    while script.id <= death.image + ALONE {
        script.play_image(&mut dies);
    }
    common::wait_until(&format!("{}: it dies", death.plan), || dies.has_ended());
    script.wait_for_its_place(&dies);
    crate::assert_whole(&script.path, &death.plan);
    for (id, delivery) in script.deliveries.iter().enumerate() {
        check_image(death, id as u64, delivery);
    }
    script.assert_another_goes_on(&death.plan);
    script.assert_sums(&death.plan);
}

fn check_image(death: &Death, id: u64, delivery: &Delivery) {
    let plan = &death.plan;
    let image = delivery.image.as_ref().unwrap_or_else(|| panic!("{plan}: image {id} is lost: {delivery:?}"));
    assert_eq!((image.id, image.bitmap[0]), (id, death.bits_of(id)), "{plan}: image {id}");
    assert_eq!(image.made_with, death.made_with(id), "{plan}: image {id}");
    let first_is_told = id != death.image || death.first_is_told;
    let told = if first_is_told { (id + 1, 7, true) } else { (0, 0, false) };
    let found = (image.detector_timestamp, image.exposure_length, image.do_not_store);
    assert_eq!(found, told, "{plan}: image {id}: of its first packet");
    if image.packets_received < PACKETS {
        let open_ns = image.commit_utc_ns - image.first_packet_utc_ns;
        assert!(u128::from(open_ns) >= DEADLINE.as_nanos(), "{plan}: image {id} closed after {open_ns} ns");
    }
}

/// It throws a packet away, as its image has no slot, and says so: the image is lost whole, for that reason.
#[test]
fn contributor_killed_as_it_refuses_a_packet_costs_that_image_alone() {
    let _watchdog = Watchdog::start(Duration::from_secs(300));
    for nth in [1, 3] {
        let plan = format!("{REFUSING}:{nth}");
        let mut script = Script::new(8);
        script.is_reading = false; // the ring fills up
        let mut dies = crate::start_who_dies("contributor", &script.path, &plan);
        common::wait_until(&plan, || {
            script.tick(&mut dies);
            dies.has_ended()
        });
        crate::assert_whole(&script.path, &plan);
        script.is_reading = true;
        script.wait_for_its_place(&dies);
        while script.told.lost < nth || script.stays.lookup(script.id) == Lookup::NoSlot {
            script.tick(&mut dies);
        }
        script.assert_another_goes_on(&plan);
        assert_eq!(script.told.lost, nth, "{plan}: {:?}", script.told);
        script.assert_sums(&plan);
    }
}

/// The ring, its owner, a contributor and a reader, all of this process.
struct Script {
    _folder: tempfile::TempDir,
    path: PathBuf,
    ring: Ring,
    _lock: OwnerLock,
    owner: Owner,
    stays: Contributor,
    reader: Reader,
    is_reading: bool,
    told: Told,
    deliveries: Vec<Delivery>,
    /// The image that is played.
    id: u64,
    has_placed: bool,
}

impl Script {
    fn new(slots: u32) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is there");
        let path = folder.path().join("ring");
        let geometry = common::geometry(slots, 2, PACKETS);
        let (ring, lock) = create_or_take_over(&path, geometry, &Proc).expect("there is room");
        let owner = Owner::take_over(&ring, ProcessId::current(), DEADLINE, &Proc);
        let stays = Contributor::join(&ring, ProcessId::current(), "stays").expect("a free place");
        let reader = Reader::reliable(&ring, ProcessId::current(), "writer", Start::Next).expect("a free place");
        let (told, deliveries) = (Told::default(), Vec::new());
        owner.sleep(owner.ticket(), Duration::from_nanos(1)); // as if it slept: who has something to tell wakes it
        Self {
            _folder: folder,
            path,
            ring,
            _lock: lock,
            owner,
            stays,
            reader,
            is_reading: true,
            told,
            deliveries,
            id: 0,
            has_placed: false,
        }
    }

    /// Goes on until the reader was told of one image more.
    fn play_image(&mut self, other: &mut Player) {
        let what = format!("image {} is told", self.id);
        let id = self.id;
        common::wait_until(&what, || {
            self.tick(other);
            self.told.next_id.is_some_and(|next| next > id)
        });
    }

    /// One look around. The packets of who stays come when the other's are there, or the other is dead.
    fn tick(&mut self, other: &mut Player) {
        let is_dead = other.has_ended();
        self.stays.epoch();
        match self.stays.lookup(self.id) {
            Lookup::Open if self.has_placed => {}
            Lookup::Open if is_dead || self.ring.status().open_packets == OF_WHO_DIES.len() as u64 => {
                self.has_placed = place(&mut self.stays, self.id, OF_WHO_STAYS, MADE_BY_WHO_STAYS);
            }
            Lookup::Open => return, // nothing closes by its deadline while the other is on its way
            Lookup::Behind(_) => (self.id, self.has_placed) = (self.id + 1, false),
            Lookup::NoRun if is_dead => self.stays.request_run(0),
            Lookup::NoSlot | Lookup::NoRun | Lookup::Ahead(_) => {}
        }
        self.owner.step(&mut Surroundings { now: Now::read(), liveness: &Proc, fill: &mut common::fill });
        while let Some(delivery) = self.is_reading.then(|| self.reader.try_next()).flatten() {
            self.told.check(&delivery);
            if let Some(image) = &delivery.image {
                common::invariants::check_pixels(delivery.epoch, image, self.reader.pixels(image));
            }
            self.deliveries.push(delivery);
        }
    }

    /// The owner looks for the dead from time to time, and frees what they had.
    fn wait_for_its_place(&mut self, dead: &Player) {
        common::wait_until("the place of the dead is free", || {
            self.owner.step(&mut Surroundings { now: Now::read(), liveness: &Proc, fill: &mut common::fill });
            self.ring.status().participants.iter().all(|other| other.process.pid != dead.pid())
        });
    }

    /// Another contributor in its place: images are whole again.
    fn assert_another_goes_on(&mut self, plan: &str) {
        let complete = self.ring.status().images_complete;
        let mut next = Player::start(crate::ENTRY, "contributor", &self.path);
        common::wait_until(&format!("{plan}: images are whole again"), || {
            self.tick(&mut next);
            assert!(!next.has_ended(), "{plan}: nobody killed the next one");
            self.ring.status().images_complete >= complete + 3
        });
        next.kill();
    }

    /// Everything that was told is counted, and what is counted adds up; the dead had no more in hand than two packets.
    fn assert_sums(&mut self, plan: &str) {
        let status = self.ring.status();
        self.reader.release();
        common::invariants::check_sums(&self.ring);
        let images = status.images_complete + status.images_partial;
        assert_eq!((images, status.lost.iter().sum()), (self.told.images, self.told.lost), "{plan}: {status:?}");
        assert_eq!(status.slots_in_quarantine, 0, "{plan}");
        let astray = status.packets_astray();
        assert!((-2 * 2..=0).contains(&astray), "{plan}: {astray} packets astray: {status:?}");
        crate::assert_whole(&self.path, plan);
    }
}
