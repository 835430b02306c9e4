//! The ring's file as a reader in another language sees it: offsets from the table, nothing from `src`.

use ecs_shm_buffer::Geometry;
use std::{fs::File, os::unix::fs::FileExt, path::Path};

pub const HEADER_BYTES: u64 = 1408;
pub const PARTICIPANTS: u64 = 112;
pub const PARTICIPANT_BYTES: u64 = 512;
pub const SLOT_BYTES: u64 = 128;
pub const COMMIT_BYTES: u64 = 256;
pub const EPOCH: u64 = 128;
pub const BASE: u64 = 136;
pub const RECLAIMED_SEQ: u64 = 144;
pub const COMMIT_HEAD: u64 = 256;
pub const WINDOW_TABLE: u64 = 896;

/// Slot states, the lower three bits of a slot word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Free,
    Open,
    Closing,
    Committed,
}

/// A ring's file, read beside the ring.
pub struct RawRing {
    file: File,
    geometry: Geometry,
}

impl RawRing {
    pub fn open(path: &Path, geometry: Geometry) -> Self {
        let file = File::options().read(true).write(true).open(path).expect("the ring is there");
        Self { file, geometry }
    }

    pub fn bytes(&self, offset: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.file.read_exact_at(&mut bytes, offset).expect("inside the file");
        bytes
    }

    pub fn word(&self, offset: u64) -> u64 {
        u64::from_le_bytes(self.bytes(offset, 8).try_into().expect("8 bytes"))
    }

    pub fn set_word(&self, offset: u64, value: u64) {
        self.file.write_all_at(&value.to_le_bytes(), offset).expect("inside the file");
    }

    pub fn participant_at(&self, index: u64) -> u64 {
        HEADER_BYTES + index * PARTICIPANT_BYTES
    }

    pub fn slot_at(&self, slot: u64) -> u64 {
        self.participant_at(PARTICIPANTS) + slot * SLOT_BYTES
    }

    pub fn commit_entries(&self) -> u64 {
        (2 * u64::from(self.geometry.slots)).next_power_of_two()
    }

    pub fn commit_at(&self, seq: u64) -> u64 {
        self.slot_at(self.geometry.slots.into()) + seq % self.commit_entries() * COMMIT_BYTES
    }

    pub fn bitmap_at(&self, slot: u64) -> u64 {
        let words = u64::from(self.geometry.packets_per_image).div_ceil(64).next_multiple_of(8);
        self.slot_at(self.geometry.slots.into()) + self.commit_entries() * COMMIT_BYTES + slot * words * 8
    }

    pub fn control_bytes(&self) -> u64 {
        self.bitmap_at(self.geometry.slots.into())
    }

    pub fn pixels_at(&self, slot: u64) -> u64 {
        let image_bytes = u64::from(self.geometry.height * self.geometry.width * self.geometry.pixel_bytes);
        self.control_bytes().next_multiple_of(2 << 20) + slot * image_bytes.next_multiple_of(4096)
    }

    /// Tag and state of a slot.
    pub fn slot_word(&self, slot: u64) -> (u64, State) {
        let word = self.word(self.slot_at(slot));
        let state = match word & 7 {
            0 => State::Free,
            1 => State::Open,
            2 => State::Closing,
            3 => State::Committed,
            other => panic!("slot {slot} is in state {other}"),
        };
        (word >> 3, state)
    }

    /// Image id and epoch of what is in a slot.
    pub fn slot_image(&self, slot: u64) -> (u64, u64) {
        (self.word(self.slot_at(slot) + 8), self.word(self.slot_at(slot) + 16))
    }

    /// The open images: id and slot, which is none (65535 or 65534) where the ring is full.
    pub fn window(&self) -> Vec<(u64, u64)> {
        let entries = (0..u64::from(self.geometry.window)).map(|index| self.word(WINDOW_TABLE + index * 8));
        let mut open: Vec<_> =
            entries.filter(|&word| word != 0).map(|word| ((word >> 16) - 1, word & 0xffff)).collect();
        open.sort_unstable();
        open
    }
}
