//! What holds at every moment, whatever happened: used by the model, the process tests and the stress.
//!
//! | | |
//! |---|---|
//! | I1 | a reader sees sequence numbers without holes; a lossy one is told how many it missed |
//! | I2 | within a run, each id from the first that a reader is told of is delivered or lost, once, rising |
//! | I3 | every reader is told the same of one sequence number |
//! | I4 | a packet that is marked has its own bytes, one that is missing has the fill: never an older image's |
//! | I5 | what a reliable reader holds does not change |
//! | I6 | the window is a row of ids, each open in a slot of its own; a slot is in the window, or it is not open |
//! | I7 | committed slots have sequence numbers of their own, below the head |
//! | I8 | nothing belongs to the dead after the owner has looked for them |
//! | I9 | the sums of status.rs hold in a ring at rest |

use super::{FILL, Living, PACKET_BYTES, pattern, raw};
use ecs_shm_buffer::{Bitmap, Delivery, Image, Liveness, LostRange, Ring};
use std::collections::{BTreeMap, BTreeSet};

/// What one reader has been told so far.
#[derive(Debug, Default, Clone)]
pub struct Told {
    next_seq: Option<u64>,
    epoch: u64,
    /// The id after the last one of this run that the reader knows of.
    pub next_id: Option<u64>,
    pub images: u64,
    pub lost: u64,
    pub overtaken: u64,
}

impl Told {
    /// Checks I1 and I2 on the next delivery of this reader.
    pub fn check(&mut self, delivery: &Delivery) {
        let expected = self.next_seq.unwrap_or(delivery.seq - delivery.overtaken) + delivery.overtaken;
        assert_eq!(delivery.seq, expected, "I1: a hole in the sequence: {delivery:?}");
        self.next_seq = Some(delivery.seq + 1);
        self.overtaken += delivery.overtaken;
        assert!(delivery.epoch >= self.epoch, "I2: an older run: {delivery:?}");
        if delivery.epoch > self.epoch || delivery.overtaken > 0 {
            (self.epoch, self.next_id) = (delivery.epoch, None);
        }
        assert!(delivery.image.is_some() || !delivery.lost.is_empty(), "I2: a step that tells nothing");
        for range in &delivery.lost {
            self.expect_id(range.first_id, delivery);
            assert!(range.count > 0, "I2: an empty range: {delivery:?}");
            self.next_id = Some(range.first_id + range.count);
            self.lost += range.count;
        }
        if let Some(image) = &delivery.image {
            self.expect_id(image.id, delivery);
            self.next_id = Some(image.id + 1);
            self.images += 1;
        }
    }

    fn expect_id(&self, id: u64, delivery: &Delivery) {
        assert!(self.next_id.is_none_or(|next| next == id), "I2: {:?} was next: {delivery:?}", self.next_id);
    }
}

/// What was told of each sequence number, by whichever reader came first.
#[derive(Debug, Default)]
pub struct CommonHistory(BTreeMap<u64, Step>);

/// Run, image id, losses, bitmap.
type Step = (u64, Option<u64>, Vec<LostRange>, Option<Bitmap>);

impl CommonHistory {
    /// Checks I3.
    pub fn check(&mut self, delivery: &Delivery) {
        let image = delivery.image.as_ref();
        let bitmap = image.map(|image| image.bitmap.clone());
        let told = (delivery.epoch, image.map(|image| image.id), delivery.lost.clone(), bitmap);
        let first = self.0.entry(delivery.seq).or_insert_with(|| told.clone());
        assert_eq!(*first, told, "I3: two readers are told different things of {}", delivery.seq);
    }
}

/// Checks I4: the bytes of an image against its bitmap.
pub fn check_pixels(epoch: u64, image: &Image, pixels: &[u8]) {
    let mut received = 0;
    for (packet, bytes) in pixels.chunks_exact(PACKET_BYTES).enumerate() {
        let is_marked = image.bitmap[packet / 64] & 1 << (packet % 64) != 0;
        received += u32::from(is_marked);
        let expected = if is_marked { pattern(epoch, image.id, packet) } else { [FILL; PACKET_BYTES] };
        assert_eq!(bytes, expected, "I4: run {epoch}, image {}, packet {packet}, marked: {is_marked}", image.id);
    }
    assert_eq!(received, image.packets_received, "I4: image {}", image.id);
}

/// Checks I6 and I7 on the file.
pub fn check_slots(raw: &raw::RawRing, slots: u64) {
    let epoch = raw.word(raw::EPOCH);
    let window = raw.window();
    let mut in_window = BTreeSet::new();
    for (index, &(id, slot)) in window.iter().enumerate() {
        assert_eq!(id, window[0].0 + index as u64, "I6: the window has a hole: {window:?}");
        if slot < slots {
            assert!(in_window.insert(slot), "I6: two images in one slot: {window:?}");
            assert_eq!(raw.slot_word(slot).1, raw::State::Open, "I6: image {id}");
            assert_eq!(raw.slot_image(slot), (id, epoch), "I6: slot {slot}");
        }
    }
    let mut sequences = BTreeSet::new();
    for slot in 0..slots {
        let (tag, state) = raw.slot_word(slot);
        assert!(state != raw::State::Open || in_window.contains(&slot), "I6: slot {slot} is open for nobody");
        if state == raw::State::Committed {
            assert!(sequences.insert(tag), "I7: two slots of sequence {tag}");
            assert!(tag < raw.word(raw::COMMIT_HEAD), "I7: slot {slot}, sequence {tag}");
        }
    }
}

/// Checks I9, in a ring at rest.
pub fn check_sums(ring: &Ring) {
    let status = ring.status();
    assert_eq!(status.imbalances(), [""; 0], "I9: {status:?}");
}

/// Checks I8, after a step that looked for the dead.
pub fn check_participants(ring: &Ring, living: &Living) {
    for participant in ring.status().participants {
        assert!(living.is_alive(participant.process), "I8: {participant:?} is dead and has a place");
    }
}
