//! A payload in staging, to its place in an image: copied or, where pixels are packed, unpacked, or converted.

use crate::{converter::Converter, unpack};
use ecs_schemas::detector::{Packing, Placement, Segment};
use ecs_shm_buffer::{Access, OpenImage};
use std::ptr;

/// Makes the pixels of an image what they are to be.
pub struct Placer {
    converter: Option<Converter>,
    mask: Mask,
}

/// Runs of masked pixels.
#[derive(Debug, Default)]
struct Mask {
    runs: Vec<Segment>,
    /// Of each packet, its first run; and the end of the last one's. Empty: nothing is masked.
    first_runs: Vec<u32>,
    /// The fill value, as often as the longest run has pixels.
    row: Vec<u8>,
}

impl Placer {
    /// One of pixels that are as they come, or unpacked.
    pub fn plain() -> Self {
        Self { converter: None, mask: Mask::default() }
    }

    /// One of converted pixels.
    pub fn converting(converter: Converter) -> Self {
        Self { converter: Some(converter), mask: Mask::default() }
    }

    /// One whose pixels hold `fill` where they are masked.
    pub fn masking(placement: &Placement, is_masked: &[bool], fill: u32) -> Self {
        Self { converter: None, mask: Mask::new(placement, is_masked, fill) }
    }

    /// Takes what has changed in the settings of pixels.
    pub fn follow(&mut self) {
        if let Some(converter) = &mut self.converter {
            converter.follow();
        }
    }

    /// Number of what images are begun with, where pixels are converted.
    pub fn calibration(&self) -> Option<u64> {
        self.converter.as_ref().map(Converter::number)
    }

    /// Puts the payload of `packet` to its place.
    ///
    /// # Safety
    /// `access` protects the image, which is of this placement; `packet` is one of the image's, and `payload` is as
    /// long as its payload.
    pub unsafe fn place(
        &self,
        placement: &Placement,
        access: &Access<'_>,
        image: OpenImage,
        packet: usize,
        payload: &[u8],
    ) {
        match &self.converter {
            // SAFETY: the caller's promise.
            Some(converter) => unsafe { converter.place(placement, access, image, packet, payload) },
            // SAFETY: as above.
            None => unsafe { place(placement, packet, payload, access.pixels(image)) },
        }
    }

    /// Overwrites what is masked in a packet that is in its place: before it is marked (R7 of the ring).
    ///
    /// # Safety
    /// `access` protects the image, and `packet` is one of the image's.
    pub unsafe fn mask(&self, access: &Access<'_>, image: OpenImage, packet: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.mask.apply(packet, access.pixels(image)) }
    }
}

impl Mask {
    fn new(placement: &Placement, is_masked: &[bool], fill: u32) -> Self {
        let bytes = placement.pixel.bytes();
        let mut mask = Self { first_runs: vec![0], ..Self::default() };
        for packet in 0..placement.packets_per_image() {
            for segment in placement.segments(packet) {
                mask.append(segment, is_masked, bytes);
            }
            mask.first_runs.push(mask.runs.len() as u32);
        }
        let longest = mask.runs.iter().map(|run| run.len_bytes as usize).max().unwrap_or(0);
        mask.row = fill.to_le_bytes()[..bytes].iter().copied().cycle().take(longest).collect();
        mask
    }

    /// Appends the masked runs of a segment.
    fn append(&mut self, segment: &Segment, is_masked: &[bool], bytes: usize) {
        let first = segment.offset_bytes as usize / bytes;
        let mut at = first;
        for pixels in is_masked[first..][..segment.len_bytes as usize / bytes].chunk_by(|a, b| a == b) {
            if pixels[0] {
                let (offset_bytes, len_bytes) = ((at * bytes) as u32, (pixels.len() * bytes) as u32);
                self.runs.push(Segment { offset_bytes, len_bytes });
            }
            at += pixels.len();
        }
    }

    /// # Safety
    /// `pixels` leads to an image of the placement that this thread may access; `packet` is one of the image's.
    unsafe fn apply(&self, packet: usize, pixels: *mut u8) {
        let Some(&[first, end]) = self.first_runs.get(packet..packet + 2) else { return };
        for run in &self.runs[first as usize..end as usize] {
            // SAFETY: the caller's promise; a placement's segments lie inside the image, and runs inside them.
            unsafe {
                let target = pixels.add(run.offset_bytes as usize);
                ptr::copy_nonoverlapping(self.row.as_ptr(), target, run.len_bytes as usize);
            }
        }
    }
}

/// Puts the payload of `packet` to its place, as it comes or unpacked.
///
/// # Safety
/// `pixels` leads to an image of this placement that this thread may access; `packet` is one of the image's, and
/// `payload` is as long as its payload.
///
/// # Panics
/// If pixels are to be converted: that is a [`Placer`]'s.
pub unsafe fn place(placement: &Placement, packet: usize, payload: &[u8], pixels: *mut u8) {
    let segments = placement.segments(packet);
    match placement.packing {
        Packing::Plain => {
            let mut from = 0;
            for segment in segments {
                let source = &payload[from..from + segment.len_bytes as usize];
                // SAFETY: the caller's promise; a placement's segments lie inside the image.
                unsafe {
                    let target = pixels.add(segment.offset_bytes as usize);
                    ptr::copy_nonoverlapping(source.as_ptr(), target, source.len());
                }
                from += source.len();
            }
        }
        // SAFETY: as above.
        Packing::Packed12 => unsafe {
            unpack::unpack12(payload, placement.lead_bits(packet), segments, pixels);
        },
        // SAFETY: as above.
        Packing::Packed4 => unsafe { unpack::unpack4(payload, segments, pixels) },
        Packing::Gain14 => unreachable!("pixels with gains have a converter"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecs_schemas::detector::DetectorConfig;

    #[test]
    fn masked_pixels_of_a_packet_are_overwritten_and_no_others() {
        let text = "detector_type = \"m\"\nstart_udp_port = 1\n[module]\ncolumns = 10\nrows = 4\nbit_depth = 16\n\
            chip = [5, 4]\nchip_gap = [1, 0]\n[packet]\nheader_bytes = 8\npayload_bytes = 40\n[fields]\n\
            image_id = { offset = 0, bytes = 4 }\npacket_number = { offset = 4, bytes = 4 }";
        let placement = DetectorConfig::from_toml(text).and_then(|config| config.placement()).unwrap();
        // Two rows of 11 pixels a packet, of which the sixth is a gap.
        let masked = [3, 4, 5, 6, 21, 22, 23, 43];
        let is_masked: Vec<bool> = (0..44).map(|pixel| masked.contains(&pixel)).collect();
        let mask = Mask::new(&placement, &is_masked, 0xabcd);
        assert_eq!(mask.runs.len(), 5, "3-4, 6, 21; 22-23, 43: a gap has no packet");
        for packet in 0..2 {
            let mut image = vec![1_u16; 44];
            // SAFETY: an image of this placement.
            unsafe { mask.apply(packet, image.as_mut_ptr().cast()) };
            let wanted = |pixel: usize| masked.contains(&pixel) && pixel != 5 && pixel / 22 == packet;
            assert!((0..44).all(|pixel| image[pixel] == if wanted(pixel) { 0xabcd } else { 1 }), "{image:x?}");
        }
        // SAFETY: nothing is masked.
        unsafe { Mask::default().apply(1, ptr::null_mut()) };
    }
}
