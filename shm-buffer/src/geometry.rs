//! The size of a ring and of its images: fixed when it is made, checked by everybody who opens it.

use crate::{
    layout::{CONTROL_ALIGN, CommitEntry, Header, Participant, SlotControl},
    limits::{IMAGE_BYTES_MAX, PACKETS_MAX, PARTICIPANTS, SLOTS_MAX, SLOTS_MIN, WINDOW_MAX},
};
use std::mem::size_of;

/// Slots begin at multiples of this, so that a later direct write needs no copy.
pub const SLOT_ALIGN: u64 = 4096;
/// The pixels begin at a multiple of a huge page.
pub const PIXELS_ALIGN: u64 = 2 << 20;

/// What a ring carries. Two participants with different geometries cannot share a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    pub slots: u32,
    /// Images that are open at one time, at most half the slots.
    pub window: u32,
    pub height: u32,
    pub width: u32,
    /// Bytes of one pixel: 1, 2 or 4, little-endian. What they are, unsigned, signed or a float, is in the placement.
    pub pixel_bytes: u32,
    pub packets_per_image: u32,
    /// Bits of a pixel whose packet is missing.
    pub fill: u32,
    /// A number that says where each packet lands: who places packets elsewhere must not share the ring.
    pub placement_hash: u64,
}

/// Why numbers are not a geometry: the field, what was found and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ring geometry: {field} = {found}; allowed: {allowed}")]
pub struct GeometryError {
    pub field: &'static str,
    pub found: u64,
    pub allowed: String,
}

impl Geometry {
    /// As many slots as fit into `bytes` of pixels, at least [`SLOTS_MIN`], and the given rest.
    pub fn with_size(bytes: u64, other: Self) -> Self {
        let slots = (bytes / other.slot_bytes().max(1)).clamp(u64::from(SLOTS_MIN), u64::from(SLOTS_MAX)) as u32;
        Self { slots, window: other.window.min(slots / 2), ..other }
    }

    /// # Errors
    /// Names the first field out of its range.
    pub fn check(&self) -> Result<(), GeometryError> {
        let range = |field, found: u64, low: u64, high: u64| match (low..=high).contains(&found) {
            true => Ok(()),
            false => Err(GeometryError { field, found, allowed: format!("{low} to {high}") }),
        };
        range("slots", self.slots.into(), SLOTS_MIN.into(), SLOTS_MAX.into())?;
        range("window", self.window.into(), 1, WINDOW_MAX.min(self.slots / 2).into())?;
        range("packets_per_image", self.packets_per_image.into(), 1, PACKETS_MAX.into())?;
        if ![1, 2, 4].contains(&self.pixel_bytes) {
            return Err(GeometryError {
                field: "pixel_bytes",
                found: self.pixel_bytes.into(),
                allowed: "1, 2 or 4".to_owned(),
            });
        }
        let pixels = u64::from(self.height) * u64::from(self.width);
        range("height * width * pixel_bytes", pixels.saturating_mul(self.pixel_bytes.into()), 1, IMAGE_BYTES_MAX)
    }

    pub fn image_bytes(&self) -> usize {
        self.height as usize * self.width as usize * self.pixel_bytes as usize
    }

    /// Distance from one slot's pixels to the next.
    pub fn slot_bytes(&self) -> u64 {
        (self.image_bytes() as u64).next_multiple_of(SLOT_ALIGN)
    }

    /// Words of 64 packets that one image's bitmap takes.
    pub fn bitmap_words(&self) -> usize {
        self.packets_per_image.div_ceil(64) as usize
    }

    /// Distance from one bitmap to the next, in words: whole cache lines.
    pub(crate) fn bitmap_stride(&self) -> usize {
        self.bitmap_words().next_multiple_of(8)
    }

    /// Commit entries: every slot, and as many notices without one.
    pub(crate) fn commits(&self) -> usize {
        (2 * self.slots as usize).next_power_of_two()
    }

    pub(crate) fn participants_offset(&self) -> usize {
        size_of::<Header>().next_multiple_of(CONTROL_ALIGN)
    }

    pub(crate) fn slots_offset(&self) -> usize {
        self.participants_offset() + PARTICIPANTS * size_of::<Participant>()
    }

    pub(crate) fn commits_offset(&self) -> usize {
        self.slots_offset() + self.slots as usize * size_of::<SlotControl>()
    }

    pub(crate) fn bitmaps_offset(&self) -> usize {
        self.commits_offset() + self.commits() * size_of::<CommitEntry>()
    }

    pub(crate) fn control_bytes(&self) -> usize {
        self.bitmaps_offset() + self.slots as usize * self.bitmap_stride() * size_of::<u64>()
    }

    pub(crate) fn pixels_offset(&self) -> u64 {
        (self.control_bytes() as u64).next_multiple_of(PIXELS_ALIGN)
    }

    pub(crate) fn pixels_bytes(&self) -> u64 {
        u64::from(self.slots) * self.slot_bytes()
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.pixels_offset() + self.pixels_bytes()
    }
}
