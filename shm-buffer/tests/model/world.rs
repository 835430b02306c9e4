//! A real ring in a file, those who are in it, and the notebook that they are compared with.
//!
//! `seat`: a reader and what it was told. `owner`: steps, and owners that are killed in one. `compare`:
//! what is compared after each operation.

mod compare;
mod owner;
mod seat;

use crate::common::{
    self, DEADLINE_NS, Living,
    invariants::CommonHistory,
    raw::{RawRing, State},
};
use ecs_shm_buffer::{
    Contributor, Lookup, Owner, OwnerLock, PixelAccess, ProcessId, Ring, Start, create_or_take_over, open,
};
use seat::Seat;
use std::{
    collections::{BTreeMap, BTreeSet},
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
            assert!(contributor.refuse(id), "image {id}");
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

    /// Every contributor has seen an id that far beyond.
    pub fn jump(&mut self, ids: u64) {
        let now_ns = self.now_ns;
        (0..LANES).for_each(|lane| {
            self.tell(lane, |contributor, base| contributor.set_progress(Some(base + ids), now_ns));
        });
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
