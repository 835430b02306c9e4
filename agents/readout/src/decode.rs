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
        let with = |at: usize, bytes: &[u8]| {
            let mut packet = packet;
            packet[at..at + bytes.len()].copy_from_slice(bytes);
            decoder.header(3, &packet)
        };
        assert_eq!(with(46, &[3]), Err(PacketFate::Foreign));
        assert_eq!(with(47, &[1]), Err(PacketFate::Foreign));
        assert_eq!(with(12, &64_u32.to_le_bytes()), Err(PacketFate::Malformed));
        assert_eq!(with(12, &u32::MAX.to_le_bytes()), Err(PacketFate::Malformed));
        assert_eq!(with(0, &u64::MAX.to_le_bytes()), Err(PacketFate::Malformed));
    }
}
