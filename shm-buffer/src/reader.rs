//! A reader: it sees every committed image in order, or finds out what it missed.
//!
//! # Rules
//! R2  A reader uses a slot's pixels only after it has seen the slot's word say COMMITTED(seq) for the
//!     sequence that it is at. A lossy reader looks again after it has copied them, and throws the copy
//!     away if the word has changed.
//! R5  A reliable reader's cursor holds every sequence at or above it. It publishes the cursor first
//!     and looks afterwards which sequences the owner has taken back; the owner publishes what it takes
//!     back first and looks at the cursors afterwards (the fences marked R5).

use crate::{
    control::Ring,
    futex::Event,
    layout::{CommitEntry, NO_SLOT, Participant, SlotState, pack_slot, slot_word, unpack_slot},
    loss::{LossCause, LostRange},
    participant::{self, Place, Role, TooManyParticipants},
    process::ProcessId,
    sync::{Acquire, Relaxed, Release, SeqCst, fence},
};
use std::time::{Duration, Instant};

/// One reader of the ring. Leaves, and lets go of what it holds, when it is dropped.
pub struct Reader {
    ring: Ring,
    place: Place,
    reliable: bool,
    /// Next sequence to deliver.
    cursor: u64,
    /// The sequence before it is still in use by the caller.
    holds: bool,
    /// Steps that were missed and that no delivery has told of yet.
    overtaken: u64,
}

/// Where a new reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the next image that is committed.
    Next,
    /// With the oldest image that is still there.
    Oldest,
}

/// One step of the commit sequence, as a reader gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub seq: u64,
    /// The run: ids of different runs have nothing to do with each other.
    pub epoch: u64,
    /// Commit steps that a lossy reader has missed before this one.
    pub overtaken: u64,
    /// Ids that were lost between the image before and this one, rising.
    pub lost: Vec<LostRange>,
    /// None: this step only tells of lost ids.
    pub image: Option<Image>,
}

/// A committed image, without its pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub id: u64,
    pub packets_received: u32,
    /// Bit `p % 64` of word `p / 64`: packet `p` is in its place; the pixels of the others hold the
    /// fill value.
    pub bitmap: Vec<u64>,
    /// Nanoseconds since 1970-01-01 UTC.
    pub first_packet_utc_ns: u64,
    pub commit_utc_ns: u64,
    /// From the first packet's header, in the detector's units.
    pub detector_timestamp: u64,
    pub exposure_length: u32,
    pub do_not_store: bool,
    slot: u16,
    seq: u64,
}

/// The image was replaced while it was read; what was read of it is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the image was overwritten while it was read")]
pub struct Overtaken;

impl Reader {
    /// A reader that is never overtaken: what it has still to read is not replaced.
    ///
    /// # Errors
    /// Every place is taken.
    pub fn reliable(ring: &Ring, process: ProcessId, name: &str, start: Start) -> Result<Self, TooManyParticipants> {
        Self::join(ring, process, name, start, Role::ReliableReader)
    }

    /// A reader that holds nobody up and is told what it missed.
    ///
    /// # Errors
    /// Every place is taken.
    pub fn lossy(ring: &Ring, process: ProcessId, name: &str, start: Start) -> Result<Self, TooManyParticipants> {
        Self::join(ring, process, name, start, Role::LossyReader)
    }

    fn join(
        ring: &Ring,
        process: ProcessId,
        name: &str,
        start: Start,
        role: Role,
    ) -> Result<Self, TooManyParticipants> {
        let header = ring.header();
        let mut cursor = match start {
            Start::Next => header.commit_head.load(Relaxed),
            Start::Oldest => header.reclaimed_seq.load(Relaxed),
        };
        let place = participant::take(ring, process, role, name, |place| place.cursor.store(cursor, Relaxed))?;
        loop {
            fence(SeqCst); // R5: pairs with the fence in Owner::claim_below
            let reclaimed = header.reclaimed_seq.load(Relaxed);
            if reclaimed <= cursor {
                break;
            }
            cursor = reclaimed;
            ring.participants()[place.index].cursor.store(cursor, Relaxed);
        }
        Ok(Self {
            ring: ring.clone(),
            place,
            reliable: role == Role::ReliableReader,
            cursor,
            holds: false,
            overtaken: 0,
        })
    }

    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The next step, if there is one now. What the last step delivered is let go of.
    pub fn try_next(&mut self) -> Option<Delivery> {
        self.release();
        // Acquire pairs with Release in Owner::publish: all of every step below the head is seen.
        while self.cursor < self.ring.header().commit_head.load(Acquire) {
            if let Some(delivery) = self.read_step(self.cursor) {
                self.cursor += 1;
                self.holds = true;
                self.overtaken = 0;
                return Some(delivery);
            }
            assert!(!self.reliable, "sequence {} was taken from a reliable reader", self.cursor);
            self.skip_overwritten();
        }
        None
    }

    /// The next step, waiting for it until `timeout` is over or the ring is closed.
    pub fn next(&mut self, timeout: Duration) -> Option<Delivery> {
        let deadline = Instant::now() + timeout;
        loop {
            let ticket = self.commit_event().ticket();
            if let Some(delivery) = self.try_next() {
                return Some(delivery);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.ring.is_closed() {
                return None;
            }
            self.commit_event().wait(ticket, left);
        }
    }

    /// Lets go of the image that was delivered last.
    pub fn release(&mut self) {
        if !std::mem::take(&mut self.holds) {
            return;
        }
        // Release pairs with Acquire in Owner::oldest_cursor: what we read was read before it is replaced.
        self.me().cursor.store(self.cursor, Release);
        fence(SeqCst); // pairs with the fence in Owner::sleep: it sees the cursor, or we see its need
        if self.ring.header().slots_wanted.load(Relaxed) != 0 {
            self.ring.owner_event().signal();
        }
    }

    /// Pixels of an image that this reader holds: of its last delivery.
    ///
    /// # Panics
    /// On a lossy reader, which holds nothing, and for an image that is not held.
    pub fn pixels(&self, image: &Image) -> &[u8] {
        assert!(self.reliable && self.holds && image.seq + 1 == self.cursor, "image {} is not held", image.id);
        // SAFETY: R2 (seen committed in read_step) and R5 (held by the cursor until `release`, which
        // needs this reader mutably): nobody writes these bytes while the slice lives.
        unsafe { std::slice::from_raw_parts(self.ring.pixels(image.slot), self.ring.geometry().image_bytes()) }
    }

    /// Copies an image's pixels, and makes sure that they were that image's all the while.
    ///
    /// # Errors
    /// They were not: the copy is void.
    ///
    /// # Panics
    /// If `target` is not `image_bytes` long.
    pub fn copy_pixels(&self, image: &Image, target: &mut [u8]) -> Result<(), Overtaken> {
        assert_eq!(target.len(), self.ring.geometry().image_bytes());
        let source = self.ring.pixels(image.slot).cast::<crate::sync::AtomicU64>();
        for (index, chunk) in target.chunks_mut(8).enumerate() {
            // SAFETY: slots are multiples of 4096 bytes, so the last word, too, lies in the slot;
            // relaxed loads of 8 bytes are allowed beside a writer (R2 throws away what they saw).
            let word = unsafe { &*source.add(index) }.load(Relaxed);
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
        fence(Acquire); // R2: the loads above come before the second look
        match self.is_committed(image.slot, image.seq) {
            true => Ok(()),
            false => Err(Overtaken),
        }
    }

    fn is_committed(&self, slot: u16, seq: u64) -> bool {
        self.ring.slot(slot).word.load(Relaxed) == slot_word(seq, SlotState::Committed)
    }

    /// Reads one step; none if it was overwritten before or meanwhile.
    fn read_step(&self, seq: u64) -> Option<Delivery> {
        let entry = self.ring.commit(seq);
        let word = entry.word.load(Relaxed);
        let (found, slot) = unpack_slot(word)?;
        if found != seq {
            return None;
        }
        let epoch = entry.epoch.load(Relaxed);
        let lost = read_lost(entry);
        let image = if slot == NO_SLOT { None } else { Some(self.read_image(seq, slot)?) };
        let overtaken = self.overtaken;
        fence(Acquire); // the loads above come before the second look
        (entry.word.load(Relaxed) == pack_slot(seq, slot)).then_some(Delivery { seq, epoch, overtaken, lost, image })
    }

    fn read_image(&self, seq: u64, slot: u16) -> Option<Image> {
        if !self.is_committed(slot, seq) {
            return None;
        }
        let control = self.ring.slot(slot);
        let image = Image {
            id: control.image_id.load(Relaxed),
            packets_received: control.packets_received.load(Relaxed),
            bitmap: self.ring.bitmap(slot).iter().map(|word| word.load(Relaxed)).collect(),
            first_packet_utc_ns: control.first_packet_utc_ns.load(Relaxed),
            commit_utc_ns: control.commit_utc_ns.load(Relaxed),
            detector_timestamp: control.detector_timestamp.load(Relaxed),
            exposure_length: control.exposure_length.load(Relaxed),
            do_not_store: control.do_not_store.load(Relaxed) != 0,
            slot,
            seq,
        };
        fence(Acquire); // as in read_step
        self.is_committed(slot, seq).then_some(image)
    }

    /// Moves to the middle of what is still there: from the oldest one it would be overtaken again.
    fn skip_overwritten(&mut self) {
        let header = self.ring.header();
        let (oldest, head) = (header.reclaimed_seq.load(Relaxed), header.commit_head.load(Relaxed));
        let next = (oldest + head.saturating_sub(oldest) / 2).max(self.cursor + 1);
        let skipped = next - self.cursor;
        self.cursor = next;
        self.me().cursor.store(next, Relaxed);
        self.me().overtaken.fetch_add(skipped, Relaxed);
        self.overtaken += skipped;
    }

    fn me(&self) -> &Participant {
        &self.ring.participants()[self.place.index]
    }

    fn commit_event(&self) -> Event<'_> {
        let header = self.ring.header();
        Event { word: &header.commit_event, waiters: &header.commit_waiters }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        participant::leave(&self.ring, &self.place);
        self.ring.owner_event().signal();
    }
}

fn read_lost(entry: &CommitEntry) -> Vec<LostRange> {
    let range = |lost: &crate::layout::LostEntry| {
        let packed = lost.count_cause.load(Relaxed);
        let cause = LossCause::from_code(packed & 0xff)?;
        Some(LostRange { first_id: lost.first_id.load(Relaxed), count: packed >> 8, cause })
    };
    entry.lost.iter().map_while(range).collect()
}
