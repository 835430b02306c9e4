//! A contributor: it writes packets into open images.
//!
//! ```text
//! lookup ids ─▶ protect (hazard word) ─▶ is the window entry still the same? ─▶ write pixels, mark packets ─▶ withdraw
//! ```
//!
//! # Rules
//! R1  A contributor writes a slot's pixels and bitmap only inside an [`Access`] that names the slot.
//! R3  An `Access` names a slot only after its hazard word was published and the image's window entry
//!     was seen to hold that slot afterwards. The owner empties the window entry first and looks at the
//!     hazard words afterwards; so one of the two always sees the other (the fences marked R3).
//! R4  A bit in a bitmap is set after the packet's pixels are in their place, by one contributor only:
//!     ports are not shared.
//! R7  Where pixels are made of what packets bring, with settings that may change while packets come, all of an image
//!     is made with the same: the first contributor that is about to make pixels of it says with what, by a number,
//!     and the others make theirs with that. One that cannot says so, and the image keeps the mark of it. A pixel
//!     that is to be overwritten whatever a packet brings (a mask) is overwritten before the packet's mark (R4).

use crate::{
    control::Ring,
    crash::crash_point,
    futex::Event,
    layout::{
        ContributorCounters, NO_SLOT, NO_SLOT_TOUCHED, Participant, pack_run, pack_slot, run_word_id, unpack_slot,
    },
    limits::{HAZARD_SLOTS, IMAGE_ID_MAX},
    participant::{self, Place, Role, TooManyParticipants},
    process::ProcessId,
    sync::{Acquire, Relaxed, Release, SeqCst, fence},
};
use std::{cell::Cell, ops::Range, time::Duration};

/// One process (or thread) that receives packets. Leaves the ring when it is dropped.
pub struct Contributor {
    ring: Ring,
    place: Place,
    /// The run that the caller knows of: what [`Contributor::epoch`] returned last.
    known_epoch: Cell<u64>,
}

/// Where an image id stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// Packets may be placed.
    Open,
    /// It is due, but there is no slot for it: its packets are lost (`RingFull`).
    NoSlot,
    /// It was closed this many ids ago.
    Behind(u64),
    /// This many ids beyond the last open one.
    Ahead(u64),
    /// No run has begun.
    NoRun,
}

/// An open image that an [`Access`] protects: the index of its slot in the hazard word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenImage {
    slot: u16,
}

/// The number of an image whose contributors made its pixels with different settings (R7).
pub const MADE_DIFFERENTLY: u64 = u64::MAX;

/// What a packet's mark changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    New,
    /// It was there already; the new copy must not be written over it.
    Duplicate,
}

/// What the first packet of an image tells of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct PacketInfo {
    /// Monotonic clock.
    pub received_ns: u64,
    pub detector_timestamp: u64,
    pub exposure_length: u32,
    /// The detector says that the image is not to be stored. It is, all the same: who reads it decides.
    pub do_not_store: bool,
}

/// What became of a packet, beside being placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketFate {
    Placed,
    Duplicate,
    /// Its image is closed.
    Late,
    /// Its image did not open in time.
    Early,
    /// The ring had no slot for its image.
    NoSlot,
    /// Another detector's, or another version's.
    Foreign,
    /// Not a packet of the length and numbers that the detector sends.
    Malformed,
    /// Thrown away unread: it waited for so long that nobody can tell of which image it is.
    Shed,
    /// Of a sender that is not on the list of those that are listened to.
    Unlisted,
}

impl Contributor {
    /// Takes a place in the ring.
    ///
    /// # Errors
    /// Every place is taken.
    pub fn join(ring: &Ring, process: ProcessId, name: &str) -> Result<Self, TooManyParticipants> {
        let place = participant::take(ring, process, Role::Contributor, name, |_| {})?;
        let contributor = Self { ring: ring.clone(), place, known_epoch: Cell::new(0) };
        contributor.epoch();
        Ok(contributor)
    }

    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The run that packets belong to now; 0 before the first one.
    ///
    /// What is told afterwards (progress, a new run) is told of this run: the owner takes
    /// no notice of it once another one has begun, until the caller has asked here again.
    pub fn epoch(&self) -> u64 {
        self.known_epoch.set(self.epoch_now());
        self.known_epoch.get()
    }

    fn epoch_now(&self) -> u64 {
        self.ring.header().epoch.load(Acquire) // pairs with Release in Owner::begin_run
    }

    pub fn lookup(&self, id: u64) -> Lookup {
        if self.epoch_now() == 0 {
            return Lookup::NoRun;
        }
        if let Some((open, slot)) = unpack_slot(self.ring.window_entry(id).load(Relaxed))
            && open == id
        {
            return if slot < NO_SLOT_TOUCHED { Lookup::Open } else { Lookup::NoSlot };
        }
        let base = self.window_begin(); // of this run, or a later one: epoch_now
        let end = base + u64::from(self.ring.geometry().window);
        match id {
            _ if id < base => Lookup::Behind(base - id),
            _ => Lookup::Ahead(id.saturating_add(1).saturating_sub(end)),
        }
    }

    /// The lowest id that is open; 0 before the first run. The same for every contributor.
    pub fn window_begin(&self) -> u64 {
        run_word_id(self.ring.header().base.load(Relaxed))
    }

    /// Protects the open ones of `ids` (at most [`HAZARD_SLOTS`]) until the access is dropped. Do not
    /// sleep with it.
    ///
    /// # Panics
    /// With more ids.
    pub fn protect(&mut self, ids: &[u64]) -> Access<'_> {
        assert!(ids.len() <= HAZARD_SLOTS, "{} images at one time", ids.len());
        let mut images = [None; HAZARD_SLOTS];
        let mut hazard = 0;
        for (index, &id) in ids.iter().enumerate() {
            if let Some((open, slot)) = unpack_slot(self.ring.window_entry(id).load(Relaxed))
                && open == id
                && slot < NO_SLOT_TOUCHED
            {
                images[index] = Some((id, slot));
                hazard |= (u64::from(slot) + 1) << (16 * index);
            }
        }
        self.me().hazard.store(hazard, Release); // as in Access::drop: it may follow an access that the owner waits for
        // R3: pairs with the fences in Owner::commit_whole and Owner::close_head. R2, too: a lossy reader that sees one of our pixels finds the
        // slot's old word gone, since this fence comes after the entry that was read above, and before the pixels.
        fence(SeqCst);
        crash_point!("protect: hazard published");
        for image in &mut images {
            let still_open = |&(id, slot): &(u64, u16)| {
                // Acquire pairs with Release in Owner::open_ahead: the cleared bitmap is seen, and the run.
                self.ring.window_entry(id).load(Acquire) == pack_slot(id, slot)
            };
            *image = image.filter(still_open);
        }
        Access { contributor: self, images, is_one_whole: Cell::new(false) }
    }

    /// Tells the owner that `id` begins a new run: everything that is open belongs to the old one.
    pub fn request_run(&self, id: u64) {
        let asked = pack_run(self.known_epoch.get(), id.min(IMAGE_ID_MAX));
        if self.me().restart.swap(asked, Release) != asked {
            crash_point!("request: asked");
            self.owner_event().signal(); // Release above pairs with Acquire in Owner::step
        }
    }

    /// Read before [`Contributor::lookup`], passed to [`Contributor::wait_for_window`] after it.
    pub fn window_ticket(&self) -> u32 {
        self.window_event().ticket()
    }

    /// Sleeps until the window has moved since `ticket`, or the time is over.
    pub fn wait_for_window(&self, ticket: u32, timeout: Duration) {
        self.window_event().wait(ticket, timeout);
    }

    /// Tells how far this contributor's ports are: the lowest, over its ports that are not silent, of
    /// the highest id seen in this run, None while one of them has not shown an id yet; and when it
    /// last placed a packet.
    pub fn set_progress(&self, id: Option<u64>, last_placed_ns: u64) {
        self.me().last_placed_ns.store(last_placed_ns, Relaxed);
        crash_point!("progress: time told");
        let progress = id.map_or(0, |id| pack_run(self.known_epoch.get(), id.min(IMAGE_ID_MAX)));
        if self.me().progress.load(Relaxed) == progress {
            return;
        }
        self.me().progress.store(progress, Relaxed); // the packets behind it are seen by their hazard word (R3)
        crash_point!("progress: told");
        let oldest_open = self.window_begin();
        if id.is_some_and(|id| id >= oldest_open + crate::limits::REORDER_IMAGES) {
            self.owner_event().signal(); // an image may be closed that misses packets
        }
    }

    /// When any contributor last placed packets; 0 if none has.
    pub fn last_placed_ns(&self) -> u64 {
        self.ring.participants().iter().map(|place| place.last_placed_ns.load(Relaxed)).max().unwrap_or(0)
    }

    /// When the last packet before this run was placed: what a socket held then is of an earlier run.
    pub fn run_after_ns(&self) -> u64 {
        self.ring.header().run_after_ns.load(Relaxed)
    }

    /// Counts packets that were not placed, or were.
    pub fn count(&self, fate: PacketFate, packets: u64) {
        let counters = self.counters();
        let counter = match fate {
            PacketFate::Placed => &counters.placed,
            PacketFate::Duplicate => &counters.duplicate,
            PacketFate::Late => &counters.late,
            PacketFate::Early => &counters.early,
            PacketFate::NoSlot => &counters.no_slot,
            PacketFate::Foreign => &counters.foreign,
            PacketFate::Malformed => &counters.malformed,
            PacketFate::Shed => &counters.shed,
            PacketFate::Unlisted => &counters.unlisted,
        };
        counter.fetch_add(packets, Relaxed);
    }

    pub fn count_moved(&self, packets: u64) {
        self.counters().moved.fetch_add(packets, Relaxed);
    }

    pub fn count_bytes(&self, bytes: u64) {
        self.counters().bytes.fetch_add(bytes, Relaxed);
    }

    /// Adds what the kernel threw away since the last call.
    pub fn count_kernel_dropped(&self, packets: u64) {
        self.counters().kernel_dropped.fetch_add(packets, Relaxed);
    }

    /// Marks a due image that has no slot as touched, so that it does not get one any more. False if
    /// that is not so any more: the owner has given it a slot, or closed it; its packet is to be looked
    /// up again, not thrown away.
    #[must_use = "an image that has got a slot meanwhile takes its packet"]
    pub fn refuse(&self, id: u64) -> bool {
        if id > IMAGE_ID_MAX {
            return false;
        }
        let (due, touched) = (pack_slot(id, NO_SLOT), pack_slot(id, NO_SLOT_TOUCHED));
        match self.ring.window_entry(id).compare_exchange(due, touched, Relaxed, Relaxed) {
            Ok(_) => {
                crash_point!("refuse: touched");
                true
            }
            Err(found) => found == touched, // by another contributor
        }
    }

    /// True once the owner has ended on purpose.
    pub fn ring_closed(&self) -> bool {
        self.ring.is_closed()
    }

    fn me(&self) -> &Participant {
        &self.ring.places()[self.place.index]
    }

    fn counters(&self) -> &ContributorCounters {
        &self.me().counters
    }

    fn owner_event(&self) -> Event<'_> {
        self.ring.owner_event()
    }

    fn window_event(&self) -> Event<'_> {
        let header = self.ring.header();
        Event { word: &header.window_event, waiters: &header.window_waiters }
    }
}

impl Drop for Contributor {
    fn drop(&mut self) {
        participant::leave(&self.ring, &self.place);
        self.owner_event().signal();
    }
}

impl PacketFate {
    /// All, each at its number.
    pub const ALL: [Self; 9] = [
        Self::Placed,
        Self::Duplicate,
        Self::Late,
        Self::Early,
        Self::NoSlot,
        Self::Foreign,
        Self::Malformed,
        Self::Shed,
        Self::Unlisted,
    ];
}

/// Leave to write into some open images (R1), withdrawn when it is dropped.
pub struct Access<'a> {
    contributor: &'a Contributor,
    images: [Option<(u64, u16)>; HAZARD_SLOTS],
    /// The last packet of one of them was marked.
    is_one_whole: Cell<bool>,
}

impl Access<'_> {
    /// The image, if it was among the protected ids and is open.
    pub fn image(&self, id: u64) -> Option<OpenImage> {
        self.images.iter().flatten().find(|(open, _)| *open == id).map(|&(_, slot)| OpenImage { slot })
    }

    /// True if what it protects is of run `epoch`: a run may have begun, with the same ids, since they were
    /// asked for. Whoever has seen the new run's images sees its number (Release in Owner::open_ahead).
    pub fn is_of_run(&self, epoch: u64) -> bool {
        self.contributor.epoch_now() == epoch
    }

    /// Protects no image any more.
    pub fn forget(&mut self) {
        self.images = [None; HAZARD_SLOTS];
        self.withdraw();
    }

    /// Leaves the images, and wakes the owner if it can commit one of them now.
    fn withdraw(&self) {
        // Release pairs with Acquire in Owner::holder: the owner sees all that was written.
        self.contributor.me().hazard.store(0, Release);
        crash_point!("access: withdrawn");
        if self.is_one_whole.take() {
            self.contributor.owner_event().signal();
        }
    }

    /// First byte of the image's pixels, `image_bytes` long, valid while this access lives. Other
    /// contributors write other bytes of it at the same time.
    pub fn pixels(&self, image: OpenImage) -> *mut u8 {
        self.contributor.ring.pixels(image.slot)
    }

    pub fn has_packet(&self, image: OpenImage, packet: usize) -> bool {
        let word = &self.contributor.ring.bitmap(image.slot)[packet / 64];
        word.load(Relaxed) & 1 << (packet % 64) != 0 // only this contributor sets this bit (R4)
    }

    /// Says with what the caller is about to make pixels of the image, by a number other than 0. Returns with what
    /// they are to be made: the number of whoever said so first (R7).
    pub fn make_with(&self, image: OpenImage, number: u64) -> u64 {
        let made_with = &self.contributor.ring.slot(image.slot).made_with;
        match made_with.load(Relaxed) {
            // One word, and nothing beside it is read by it: the numbers agree by the exchange alone.
            0 => {
                let said = made_with.compare_exchange(0, number, Relaxed, Relaxed);
                crash_point!("make: said");
                said.map_or_else(|first| first, |_| number)
            }
            first => first,
        }
    }

    /// The caller makes its pixels with something else than the others: the image keeps that mark.
    pub fn make_differently(&self, image: OpenImage) {
        self.contributor.ring.slot(image.slot).made_with.store(MADE_DIFFERENTLY, Relaxed);
    }

    /// Marks a packet whose pixels are in their place (R4).
    ///
    /// # Panics
    /// If images have no such packet.
    pub fn mark(&self, image: OpenImage, packet: usize, info: PacketInfo) -> Mark {
        if self.mark_run(image, packet..packet + 1, info) == 1 { Mark::New } else { Mark::Duplicate }
    }

    /// Marks packets in a row, all of whose pixels are in their places (R4): one access for those that share a word of the
    /// bitmap, and one for the count. Returns how many are new; the others were there already. `info` is the first one's.
    ///
    /// # Panics
    /// If images have no such packets.
    pub fn mark_run(&self, image: OpenImage, packets: Range<usize>, info: PacketInfo) -> usize {
        let ring = &self.contributor.ring;
        let last = packets.end.saturating_sub(1);
        assert!(last < ring.geometry().packets_per_image as usize, "packet {last}");
        let (bitmap, mut new) = (ring.bitmap(image.slot), 0);
        let mut first = packets.start;
        crash_point!("mark: pixels written");
        while first < packets.end {
            let end = packets.end.min((first / 64 + 1) * 64);
            let bits = (u64::MAX >> (64 - (end - first))) << (first % 64);
            new += (bits & !bitmap[first / 64].fetch_or(bits, Relaxed)).count_ones();
            first = end;
        }
        if new == 0 {
            return 0;
        }
        crash_point!("mark: bit set");
        let slot = ring.slot(image.slot);
        if slot.first_packet_ns.load(Relaxed) == 0
            && slot.first_packet_ns.compare_exchange(0, info.received_ns.max(1), Relaxed, Relaxed).is_ok()
        {
            crash_point!("mark: time of the first");
            slot.detector_timestamp.store(info.detector_timestamp, Relaxed);
            slot.exposure_length.store(info.exposure_length, Relaxed);
            slot.do_not_store.store(info.do_not_store.into(), Relaxed);
            crash_point!("mark: first told");
        }
        // Bits and pixels are seen by who has seen the hazard word withdrawn, not by who sees the count.
        let received = slot.packets_received.fetch_add(new, Relaxed) + new;
        crash_point!("mark: counted");
        if received == ring.geometry().packets_per_image {
            self.is_one_whole.set(true);
        }
        new as usize
    }
}

impl Drop for Access<'_> {
    fn drop(&mut self) {
        crash_point!("access: all marked");
        self.withdraw();
    }
}
