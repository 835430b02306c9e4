//! A real ring in a file, those who are in it, and the notebook that they are compared with.

use crate::common::{
    self, DEADLINE_NS, Living, UTC_OFFSET_NS,
    invariants::{self, CommonHistory, Told},
    raw::{RawRing, State},
};
use ecs_shm_buffer::{
    Contributor, Delivery, Image, Liveness, Lookup, LossCause, Now, Owner, OwnerLock, PixelAccess, ProcessId, Reader,
    Ring, Start, Surroundings, create_or_take_over, open,
};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
    time::Duration,
};

/// Contributors, each with the packets that are its own: ports are not shared.
pub const LANES: usize = 3;
const PACKETS: usize = 6;
const SLOTS: u32 = 8;
const HOUSEKEEPING_NS: u64 = 100_000_000;
/// Readers beside the witness.
const READERS: usize = 4;
/// Steps that a reader may be behind before notices of losses wait for it.
const NOTICES_WAIT_AT: u64 = 16 - SLOTS as u64;

type ImageKey = (u64, u64);

struct Lane {
    process: ProcessId,
    contributor: Contributor,
    /// Inside an access to this image, for long.
    hangs: Option<(ImageKey, *mut u8)>,
}

struct Seat {
    process: ProcessId,
    reader: Reader,
    reliable: bool,
    told: Told,
    /// The image that it was given last, with its bytes.
    last: Option<(u64, Image, Vec<u8>)>,
}

/// See the module header.
pub struct World {
    path: PathBuf,
    ring: Ring,
    raw: RawRing,
    owner: Option<Owner>,
    living: Living,
    now_ns: u64,
    next_pid: u32,
    lanes: Vec<Option<Lane>>,
    seats: Vec<Seat>,
    /// Reads everything at once, from the first step on.
    witness: Seat,
    /// Handles of the dead: nobody runs their code any more, but memory is not to run out.
    graves: Vec<(Option<Lane>, Option<Seat>)>,
    history: CommonHistory,
    placed: BTreeMap<ImageKey, BTreeSet<usize>>,
    hung_in: BTreeSet<ImageKey>,
    told: BTreeSet<ImageKey>,
    whole_images: u64,
    owner_died_in: BTreeSet<u64>,
    someone_was_slow: bool,
    notices_waited: bool,
    _lock: OwnerLock,
    _folder: tempfile::TempDir,
}

/// An id relative to the lowest open one.
pub fn id_at(base: u64, ahead: i64) -> u64 {
    base.saturating_add_signed(ahead)
}

impl Seat {
    fn join(ring: &Ring, process: ProcessId, reliable: bool, start: Start) -> Self {
        let join = if reliable { Reader::reliable } else { Reader::lossy };
        let reader = join(ring, process, "reader", start).expect("a free place");
        Self { process, reader, reliable, told: Told::default(), last: None }
    }

    fn next(&mut self, history: &mut CommonHistory) -> Option<Delivery> {
        self.check_last();
        self.last = None;
        let delivery = self.reader.try_next()?;
        assert!(!self.reliable || delivery.overtaken == 0, "a reliable reader was overtaken");
        self.told.check(&delivery);
        history.check(&delivery);
        if let Some(image) = &delivery.image {
            let mut pixels = vec![0; PACKETS * common::PACKET_BYTES];
            assert_eq!(self.reader.copy_pixels(image, &mut pixels), Ok(()), "it was committed just now");
            invariants::check_pixels(delivery.epoch, image, &pixels);
            self.last = Some((delivery.epoch, image.clone(), pixels));
        }
        Some(delivery)
    }

    /// I5; and a lossy reader is told that it was overtaken, or has the same bytes still.
    fn check_last(&self) {
        let Some((_, image, expected)) = &self.last else { return };
        let mut pixels = vec![0; expected.len()];
        match self.reader.copy_pixels(image, &mut pixels) {
            Ok(()) => assert_eq!(pixels, *expected, "I5: image {} has changed", image.id),
            Err(_) => assert!(!self.reliable, "I5: image {} was taken from its reader", image.id),
        }
        if self.reliable {
            assert_eq!(self.reader.pixels(image), expected, "I5: image {} has changed", image.id);
        }
    }
}

impl World {
    pub fn new(window: u32) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is there");
        let path = folder.path().join("ring");
        let geometry = common::geometry(SLOTS, window, PACKETS as u32);
        let living = Living::default();
        let (ring, lock) = create_or_take_over(&path, geometry, &living).expect("there is room");
        let owner = Owner::take_over(&ring, common::process(1), Duration::from_nanos(DEADLINE_NS), &living);
        let witness = Seat::join(&ring, common::process(2), true, Start::Next);
        let mut world = Self {
            raw: RawRing::open(&path, geometry),
            path,
            ring,
            owner: Some(owner),
            living,
            now_ns: common::START_NS,
            next_pid: 10,
            lanes: Vec::new(),
            seats: Vec::new(),
            witness,
            graves: Vec::new(),
            history: CommonHistory::default(),
            placed: BTreeMap::new(),
            hung_in: BTreeSet::new(),
            told: BTreeSet::new(),
            whole_images: 0,
            owner_died_in: BTreeSet::new(),
            someone_was_slow: false,
            notices_waited: false,
            _lock: lock,
            _folder: folder,
        };
        world.lanes = (0..LANES).map(|_| Some(world.new_lane())).collect();
        world.tell(0, |contributor, _| contributor.request_run(10));
        world.step(0);
        world
    }

    fn new_process(&mut self) -> ProcessId {
        self.next_pid += 1;
        common::process(self.next_pid)
    }

    fn new_lane(&mut self) -> Lane {
        let process = self.new_process();
        let contributor = Contributor::join(&self.ring, process, "readout").expect("a free place");
        Lane { process, contributor, hangs: None }
    }

    fn base(&self) -> u64 {
        self.raw.window().first().map_or(0, |&(id, _)| id)
    }

    fn epoch(&self) -> u64 {
        self.ring.status().epoch
    }

    /// The lane's contributor, free to act: one that hung leaves its access first, with a last late
    /// write of a packet that it never marks.
    fn act(&mut self, lane: usize) -> &mut Contributor {
        if self.lanes[lane].is_none() {
            self.lanes[lane] = Some(self.new_lane());
        }
        let owned = self.lanes[lane].as_mut().expect("just made");
        if let Some((key, pixels)) = owned.hangs.take() {
            write_stray(&self.placed, key, lane, pixels);
            drop(owned.contributor.protect(&[]));
        }
        owned.contributor.epoch();
        &mut owned.contributor
    }

    pub fn place(&mut self, lane: usize, ahead: i64, packets: u8) {
        let (id, epoch, now_ns) = (id_at(self.base(), ahead), self.epoch(), self.now_ns);
        let before = self.states();
        let mine: Vec<usize> = own_packets(lane).filter(|packet| packets & 1 << packet != 0).collect();
        let known = self.placed.get(&(epoch, id)).cloned().unwrap_or_default();
        let contributor = self.act(lane);
        let is_open = contributor.lookup(id) == Lookup::Open;
        let placed = common::place(contributor, id, &mine, now_ns);
        let new: Vec<usize> = mine.into_iter().filter(|packet| is_open && !known.contains(packet)).collect();
        assert_eq!(placed, new.len(), "image {id}, packets that the model has not: {new:?}");
        if placed > 0 {
            assert!(!self.told.contains(&(epoch, id)), "image {id} was told of, and is open");
            self.placed.entry((epoch, id)).or_default().extend(new);
        }
        assert_eq!(before, self.states(), "only the owner moves a slot");
    }

    pub fn refuse(&mut self, lane: usize, ahead: i64) {
        let id = id_at(self.base(), ahead);
        let contributor = self.act(lane);
        if contributor.lookup(id) == Lookup::NoSlot {
            contributor.refuse(id);
        }
    }

    pub fn tell(&mut self, lane: usize, what: impl Fn(&Contributor, u64)) {
        let base = self.base();
        what(self.act(lane), base);
    }

    pub fn progress(&mut self, lane: usize, ahead: Option<i64>) {
        let now_ns = self.now_ns;
        self.tell(lane, |contributor, base| contributor.set_progress(ahead.map(|ahead| id_at(base, ahead)), now_ns));
    }

    /// Stays inside an access. One at a time, since each costs the owner a real wait.
    pub fn hang(&mut self, lane: usize, ahead: i64) {
        if self.lanes.iter().flatten().any(|lane| lane.hangs.is_some()) {
            return;
        }
        let key = (self.epoch(), id_at(self.base(), ahead));
        let access = self.act(lane).protect(&[key.1]);
        let pixels = access.image(key.1).map(|image| access.pixels(image));
        std::mem::forget(access); // its hazard word stays
        if let Some(pixels) = pixels {
            self.hung_in.insert(key);
            self.lanes[lane].as_mut().expect("it acted").hangs = Some((key, pixels));
        }
    }

    fn try_step(&mut self, ns: u64, liveness: &dyn Liveness, fill: &mut dyn FnMut(&mut [u8], usize)) -> bool {
        self.now_ns += ns;
        let now = Now { mono_ns: self.now_ns, utc_ns: UTC_OFFSET_NS + self.now_ns };
        let owner = self.owner.as_mut().expect("there is always one");
        let step = AssertUnwindSafe(|| owner.step(&mut Surroundings { now, liveness, fill }));
        match catch_unwind(step) {
            Ok(_) => true,
            Err(death) if death.is::<&str>() && *death.downcast_ref::<&str>().expect("asked") == DEATH => false,
            Err(failure) => resume_unwind(failure),
        }
    }

    pub fn step(&mut self, ns: u64) {
        self.note_slow_readers();
        let living = std::mem::take(&mut self.living);
        assert!(self.try_step(ns, &living, &mut common::fill), "nobody killed it");
        self.living = living;
        if ns >= HOUSEKEEPING_NS {
            invariants::check_participants(&self.ring, &self.living);
        }
    }

    pub fn replace_owner(&mut self) {
        self.note_slow_readers();
        self.owner_died_in.insert(self.epoch());
        let process = self.new_process();
        self.owner = Some(Owner::take_over(&self.ring, process, Duration::from_nanos(DEADLINE_NS), &self.living));
        invariants::check_participants(&self.ring, &self.living);
    }

    pub fn kill_owner_filling(&mut self, ns: u64) {
        self.note_slow_readers();
        let living = std::mem::take(&mut self.living);
        self.try_step(ns, &living, &mut |_, _| resume_unwind(Box::new(DEATH)));
        self.living = living;
        self.replace_owner();
    }

    pub fn kill_owner_asking(&mut self, questions: u32, ns: u64) {
        self.note_slow_readers();
        let dies = DiesAsking { living: std::mem::take(&mut self.living), left: Cell::new(questions) };
        self.try_step(ns, &dies, &mut common::fill);
        self.living = dies.living;
        self.replace_owner();
    }

    pub fn join_reader(&mut self, reliable: bool, from_oldest: bool) {
        if self.seats.len() < READERS {
            let start = if from_oldest { Start::Oldest } else { Start::Next };
            let process = self.new_process();
            self.seats.push(Seat::join(&self.ring, process, reliable, start));
        }
    }

    pub fn read(&mut self, reader: usize, steps: usize) {
        if let Some(seat) = self.seats.get_mut(reader) {
            (0..steps).for_each(|_| _ = seat.next(&mut self.history));
        }
    }

    pub fn leave_reader(&mut self, reader: usize) {
        if reader < self.seats.len() {
            self.seats.swap_remove(reader);
        }
    }

    pub fn kill_reader(&mut self, reader: usize) {
        if reader < self.seats.len() {
            let dead = self.seats.swap_remove(reader);
            self.living.kill(dead.process);
            self.graves.push((None, Some(dead)));
        }
    }

    pub fn leave_contributor(&mut self, lane: usize) {
        self.act(lane);
        self.lanes[lane] = None;
    }

    /// Killed outside, or inside an access with a packet half written.
    pub fn kill_contributor(&mut self, lane: usize, inside_ahead: Option<i64>) {
        let epoch = self.epoch();
        let id = inside_ahead.map(|ahead| id_at(self.base(), ahead));
        let access = self.act(lane).protect(id.as_slice());
        let pixels = id.and_then(|id| Some(((epoch, id), access.pixels(access.image(id)?))));
        std::mem::forget(access);
        if let Some((key, pixels)) = pixels {
            write_stray(&self.placed, key, lane, pixels);
        }
        let dead = self.lanes[lane].take().expect("it acted");
        self.living.kill(dead.process);
        self.graves.push((Some(dead), None));
    }

    /// Whoever joins from now on has the file mapped once more.
    pub fn reopen(&mut self) {
        self.ring = open(&self.path, PixelAccess::ReadWrite).expect("it is whole");
    }

    fn states(&self) -> Vec<(u64, State)> {
        (0..u64::from(SLOTS)).map(|slot| self.raw.slot_word(slot)).collect()
    }

    fn note_slow_readers(&mut self) {
        let behind = self.ring.status().participants.into_iter().map(|other| other.behind).max().unwrap_or(0);
        self.someone_was_slow |= behind > 1;
        self.notices_waited |= behind + 4 >= NOTICES_WAIT_AT;
    }

    /// What holds after every operation: the witness reads on, and everything is compared.
    pub fn check(&mut self) {
        while let Some(delivery) = self.witness.next(&mut self.history) {
            self.compare(&delivery);
        }
        self.witness.reader.release();
        self.witness.last = None;
        self.seats.iter().for_each(Seat::check_last);
        invariants::check_slots(&self.raw, SLOTS.into());
        let status = self.ring.status();
        assert_eq!(status.images_complete, self.whole_images);
        assert_eq!(status.images_complete + status.images_partial, self.witness.told.images);
        assert!(status.lost.iter().sum::<u64>() >= self.witness.told.lost, "told of more than was counted");
    }

    /// The model's word on a delivery.
    fn compare(&mut self, delivery: &Delivery) {
        let none = BTreeSet::new();
        for range in &delivery.lost {
            let placed =
                self.placed.range((delivery.epoch, range.first_id)..(delivery.epoch, range.first_id + range.count));
            let begun: Vec<ImageKey> = placed.map(|(key, _)| *key).collect();
            match range.cause {
                LossCause::NotReceived => assert_eq!(begun, [], "packets had come: {range:?}"),
                LossCause::RingFull => assert!(begun.is_empty() && self.may_be_full(), "{range:?}, {begun:?}"),
                LossCause::ReadoutStuck => assert!(
                    (range.first_id..range.first_id + range.count)
                        .all(|id| self.hung_in.contains(&(delivery.epoch, id))),
                    "nobody hung in {range:?}"
                ),
                LossCause::OwnerDown => assert!(self.owner_died_in.contains(&delivery.epoch), "{range:?}"),
                LossCause::Several => panic!("a commit entry has room for all of these: {delivery:?}"),
            }
            self.told.extend(begun);
        }
        if let Some(image) = &delivery.image {
            let key = (delivery.epoch, image.id);
            let placed = self.placed.get(&key).unwrap_or(&none);
            let bitmap = placed.iter().fold(0, |word, packet| word | 1_u64 << packet);
            assert_eq!(image.bitmap, [bitmap], "run and image {key:?}");
            assert!(self.told.insert(key), "{key:?} was told of before");
            self.whole_images += u64::from(placed.len() == PACKETS);
        }
    }

    fn may_be_full(&self) -> bool {
        self.someone_was_slow || !self.hung_in.is_empty()
    }

    /// Everybody comes to an end: then every image of which a packet came was told of.
    pub fn end(mut self) {
        (0..LANES).for_each(|lane| _ = self.act(lane));
        for _ in 0..4 {
            while !self.seats.is_empty() {
                self.read(0, usize::from(u16::MAX));
                self.leave_reader(0);
            }
            self.step(HOUSEKEEPING_NS);
            self.check();
        }
        let untold: Vec<_> = self.placed.keys().filter(|key| !self.told.contains(key)).collect();
        assert!(untold.is_empty() || self.notices_waited, "never told of: {untold:?}");
        let status = self.ring.status();
        assert_eq!(status.slots_in_quarantine, 0);
        if !self.notices_waited {
            assert_eq!(status.lost.iter().sum::<u64>(), self.witness.told.lost, "counted and told: {:?}", status.lost);
        }
    }
}

const DEATH: &str = "killed here";

/// Plays an owner that is killed when it asks for the n-th time whether somebody lives.
struct DiesAsking {
    living: Living,
    left: Cell<u32>,
}

impl Liveness for DiesAsking {
    fn is_alive(&self, process: ProcessId) -> bool {
        self.left.set(self.left.get().saturating_sub(1));
        if self.left.get() == 0 {
            resume_unwind(Box::new(DEATH));
        }
        self.living.is_alive(process)
    }
}

fn own_packets(lane: usize) -> impl Iterator<Item = usize> {
    (0..PACKETS).filter(move |packet| packet % LANES == lane)
}

/// Bytes of a packet that is never marked, written where a contributor is, or was, inside.
fn write_stray(placed: &BTreeMap<ImageKey, BTreeSet<usize>>, key: ImageKey, lane: usize, pixels: *mut u8) {
    let marked = |packet: &usize| placed.get(&key).is_some_and(|placed| placed.contains(packet));
    for packet in own_packets(lane).filter(|packet| !marked(packet)) {
        // SAFETY: the hazard word of this contributor names the slot.
        unsafe { common::write_packet(pixels, 999, 999, packet) };
    }
}
