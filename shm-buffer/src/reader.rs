//! A reader: it sees every committed image in order, or finds out what it missed.
//!
//! # Rules
//! R2  A reader uses a slot's pixels only after it has seen the commit entry of the sequence that it is at name
//!     the slot (R6). A lossy reader looks afterwards whether the slot's word still says COMMITTED(seq), and throws
//!     away what it has read if not: of the step, too.
//! R5  A reliable reader's cursor holds every sequence at or above it. It publishes the cursor first
//!     and looks afterwards which sequences the owner has taken back; the owner publishes what it takes
//!     back first and looks at the cursors afterwards (the fences marked R5).
//! R6  A step is committed by one store, of its entry's word. All that a reader of a whole image needs is in the
//!     cache line of that word, and a reader waits at that line alone, so a commit takes one line from core to core.
//!     The owner makes the entry PENDING, fills it and stores the word in one go: a reader that waits there sees an
//!     older step until then. (An entry made ready one commit ahead cost one more way of the line, measured.) It moves
//!     the head, and wakes who sleeps, afterwards. Who takes over from an owner that died between moves the head.

use crate::{
    bitmap::Bitmap,
    control::Ring,
    crash::crash_point,
    futex::Event,
    layout::{Accounted, CommitEntry, NO_SLOT, PENDING, Participant, SlotState, slot_word, unpack_slot},
    loss::{LossCause, LostRange},
    participant::{self, Place, Role, TooManyParticipants},
    process::ProcessId,
    sync::{Acquire, Relaxed, Release, SeqCst, fence, prefetch},
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
    /// Steps that were delivered, and let go of but for the last one.
    delivered: u64,
    /// The bitmap of every whole image.
    whole: Bitmap,
}

/// What is at a sequence.
enum Step {
    NotYet,
    Committed(Delivery),
    /// A later one is in its entry, or its slot is in use again.
    Gone,
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
    /// Which packets are in their places; the pixels of the others hold the fill value.
    pub bitmap: Bitmap,
    /// Nanoseconds since 1970-01-01 UTC.
    pub first_packet_utc_ns: u64,
    pub commit_utc_ns: u64,
    /// From the first packet's header, in the detector's units.
    pub detector_timestamp: u64,
    pub exposure_length: u32,
    pub do_not_store: bool,
    /// What its pixels are made with, as its contributors said (R7): 0 where they come as they are, or
    /// [`MADE_DIFFERENTLY`](crate::MADE_DIFFERENTLY).
    pub made_with: u64,
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
            ring.places()[place.index].cursor.store(cursor, Relaxed);
        }
        crash_point!("reader: cursor stands");
        ring.places()[place.index].first_seq.store(cursor, Relaxed);
        Ok(Self {
            ring: ring.clone(),
            place,
            reliable: role == Role::ReliableReader,
            cursor,
            holds: false,
            overtaken: 0,
            delivered: 0,
            whole: Bitmap::whole(ring.geometry().packets_per_image),
        })
    }

    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The next step, if there is one now. What the last step delivered is let go of.
    pub fn try_next(&mut self) -> Option<Delivery> {
        self.release();
        loop {
            match self.read_step(self.cursor) {
                Step::NotYet => return None,
                Step::Committed(delivery) => {
                    self.cursor += 1;
                    self.delivered += 1;
                    self.holds = true;
                    self.overtaken = 0;
                    return Some(delivery);
                }
                Step::Gone => {
                    assert!(!self.reliable, "sequence {} was taken from a reliable reader", self.cursor);
                    self.skip_overwritten();
                }
            }
        }
    }

    /// The next step, waiting for it until `timeout` is over or the ring is closed.
    pub fn next(&mut self, timeout: Duration) -> Option<Delivery> {
        if let Some(delivery) = self.try_next() {
            return Some(delivery); // who is behind asks no clock
        }
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
        self.me().delivered.store(self.delivered, Relaxed);
        crash_point!("release: counted");
        // Release pairs with Acquire in Owner::oldest_cursor: what we read was read before it is replaced.
        self.me().cursor.store(self.cursor, Release);
        crash_point!("release: cursor moved");
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
        // SAFETY: R2 (its entry seen in read_step) and R5 (held by the cursor until `release`, which
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

    /// Reads one step. For a whole image without losses this is one cache line (R6).
    fn read_step(&self, seq: u64) -> Step {
        let entry = self.ring.commit(seq);
        // Acquire pairs with Release in Owner::publish: the step, and the pixels, are seen.
        let word = entry.word.load(Acquire);
        let slot = match unpack_slot(word) {
            Some((found, slot)) if found == seq && slot != PENDING => slot,
            Some((found, _)) if found > seq => return Step::Gone,
            _ => return Step::NotYet,
        };
        if slot != NO_SLOT {
            prefetch(self.ring.pixels(slot)); // another core has them: they come while the step is read
        }
        let accounted = Accounted::unpack(entry.accounted.load(Relaxed));
        let delivery = Delivery {
            seq,
            epoch: entry.epoch.load(Relaxed),
            overtaken: self.overtaken,
            lost: if accounted.lost_ranges == 0 { Vec::new() } else { read_lost(entry, accounted.lost_ranges) },
            image: (slot != NO_SLOT).then(|| self.read_image(entry, accounted, seq, slot)),
        };
        fence(Acquire); // what was read comes before the second look (R2)
        // What a reliable reader reads is held: only a lossy one has to look at the slot's line.
        let is_there = self.reliable || slot == NO_SLOT || self.is_committed(slot, seq);
        if is_there && entry.word.load(Relaxed) == word { Step::Committed(delivery) } else { Step::Gone }
    }

    fn read_image(&self, entry: &CommitEntry, accounted: Accounted, seq: u64, slot: u16) -> Image {
        let packets_received = entry.packets_received.load(Relaxed);
        let bitmap = match packets_received == self.ring.geometry().packets_per_image {
            true => self.whole.clone(),
            false => self.ring.bitmap(slot).iter().map(|word| word.load(Relaxed)).collect(),
        };
        Image {
            id: accounted.end_id.saturating_sub(1),
            packets_received,
            bitmap,
            first_packet_utc_ns: entry.first_packet_utc_ns.load(Relaxed),
            commit_utc_ns: entry.commit_utc_ns.load(Relaxed),
            detector_timestamp: entry.detector_timestamp.load(Relaxed),
            exposure_length: entry.exposure_length.load(Relaxed),
            do_not_store: accounted.do_not_store,
            made_with: entry.made_with.load(Relaxed),
            slot,
            seq,
        }
    }

    /// Moves to the middle of what is still there: from the oldest one it would be overtaken again.
    fn skip_overwritten(&mut self) {
        let header = self.ring.header();
        let (oldest, head) = (header.reclaimed_seq.load(Relaxed), header.commit_head.load(Relaxed));
        let next = (oldest + head.saturating_sub(oldest) / 2).max(self.cursor + 1);
        let skipped = next - self.cursor;
        self.cursor = next;
        self.me().cursor.store(next, Relaxed);
        crash_point!("skip: cursor moved");
        self.me().overtaken.fetch_add(skipped, Relaxed);
        self.overtaken += skipped;
    }

    fn me(&self) -> &Participant {
        &self.ring.places()[self.place.index]
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

fn read_lost(entry: &CommitEntry, ranges: usize) -> Vec<LostRange> {
    let range = |lost: &crate::layout::LostEntry| {
        let packed = lost.count_cause.load(Relaxed);
        let cause = LossCause::from_code(packed & 0xff)?;
        Some(LostRange { first_id: lost.first_id.load(Relaxed), count: packed >> 8, cause })
    };
    entry.lost[..ranges].iter().map_while(range).collect()
}
