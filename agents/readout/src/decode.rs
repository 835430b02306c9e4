//! From a packet's header to image id and packet number, or to the reason why it is dropped.

use crate::laps::Laps;
use ecs_schemas::detector::{Detector, HeaderError, PacketHeader};
use ecs_shm_buffer::{PacketFate, is_image_id};

/// How headers are read: of which detector, and beside which images.
#[derive(Clone, Copy)]
pub struct Decoder<'a> {
    pub detector: &'a Detector,
    pub laps: Laps,
    /// Where the window begins.
    pub window_begin: u64,
}

impl Decoder<'_> {
    /// Reads the header of a packet that came on a port of `module`. `packet` may be longer than the header. The id is
    /// that of the ring, see `laps`.
    ///
    /// # Errors
    /// `Foreign` for another detector's, `Malformed` for numbers that no packet of this one has.
    #[inline]
    pub fn header(&self, module: usize, packet: &[u8]) -> Result<PacketHeader, PacketFate> {
        let header = self.detector.read_header(packet, module).map_err(|error| match error {
            HeaderError::Number => PacketFate::Malformed,
            HeaderError::Foreign => PacketFate::Foreign,
        })?;
        let image_id = self.laps.extend(header.image_id, self.window_begin);
        if is_image_id(image_id) { Ok(PacketHeader { image_id, ..header }) } else { Err(PacketFate::Malformed) }
    }
}

/// Headers of one image and module: where they are equal to a good one.
pub struct SameImage {
    /// Of the bits that are the same, eight bytes each; the last ones reach behind the header.
    mask: Vec<u64>,
}

impl SameImage {
    pub fn new(detector: &Detector) -> Self {
        let word = |bytes: &[u8]| {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            u64::from_ne_bytes(word)
        };
        Self { mask: detector.wire.image_mask().chunks(8).map(word).collect() }
    }

    /// Whether a header is of the module and image that `good` is of. Both slices are at least 8 bytes longer than a
    /// header.
    #[inline]
    pub fn holds(&self, good: &[u8], header: &[u8]) -> bool {
        let words = good.as_chunks::<8>().0.iter().zip(header.as_chunks::<8>().0);
        let differing = |bits: u64, (mask, (good, header)): (&u64, (&[u8; 8], &[u8; 8]))| {
            bits | mask & (u64::from_ne_bytes(*good) ^ u64::from_ne_bytes(*header))
        };
        self.mask.iter().zip(words).fold(0, differing) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecs_schemas::detector::DetectorConfig;

    #[test]
    fn another_detector_is_foreign_and_impossible_numbers_are_malformed() {
        let text = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 16\nstart_udp_port = 1";
        let detector = DetectorConfig::from_toml(text).and_then(|config| config.detector()).unwrap();
        let good = PacketHeader { image_id: 5, number: 63, timestamp: 2, exposure_length: 1, do_not_store: false };
        let mut packet = [0; 64];
        detector.wire.write(&mut packet, 0, &good);
        let laps = Laps::new(detector.wire.image_id.max(), 8);
        let decoder = Decoder { detector: &detector, laps, window_begin: 0 };
        assert_eq!(decoder.header(3, &packet), Ok(good));
        let (same, good_packet) = (SameImage::new(&detector), packet);
        assert!(same.holds(&good_packet, &packet));
        let with = |at: usize, bytes: &[u8]| {
            let mut packet = packet;
            packet[at..at + bytes.len()].copy_from_slice(bytes);
            let read = decoder.header(3, &packet);
            let is_foreign_or_another_image = read.is_err_and(|fate| fate == PacketFate::Foreign) || at == 0;
            assert_eq!(same.holds(&good_packet, &packet), !is_foreign_or_another_image, "{at}");
            read
        };
        assert_eq!(with(46, &[3]), Err(PacketFate::Foreign));
        assert_eq!(with(47, &[1]), Err(PacketFate::Foreign));
        assert_eq!(with(12, &64_u32.to_le_bytes()), Err(PacketFate::Malformed));
        assert_eq!(with(12, &u32::MAX.to_le_bytes()), Err(PacketFate::Malformed));
        assert_eq!(with(0, &u64::MAX.to_le_bytes()), Err(PacketFate::Malformed));
    }
}
