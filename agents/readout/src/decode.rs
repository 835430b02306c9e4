//! From a packet's header to image id and packet number, or to the reason why it is dropped.

use ecs_schemas::detector::{Detector, HeaderError, PacketHeader};
use ecs_shm_buffer::{PacketFate, is_image_id};

/// Reads the header of a packet that came on a port of `module`. `packet` may be longer than the header.
///
/// # Errors
/// `Foreign` for another detector's, `Malformed` for numbers that no packet of this one has.
#[inline]
pub fn header(detector: &Detector, module: usize, packet: &[u8]) -> Result<PacketHeader, PacketFate> {
    match detector.read_header(packet, module) {
        Ok(header) if is_image_id(header.image_id) => Ok(header),
        Ok(_) | Err(HeaderError::Number) => Err(PacketFate::Malformed),
        Err(HeaderError::Foreign) => Err(PacketFate::Foreign),
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
        assert_eq!(header(&detector, 3, &packet), Ok(good));
        let with = |at: usize, bytes: &[u8]| {
            let mut packet = packet;
            packet[at..at + bytes.len()].copy_from_slice(bytes);
            header(&detector, 3, &packet)
        };
        assert_eq!(with(46, &[3]), Err(PacketFate::Foreign));
        assert_eq!(with(47, &[1]), Err(PacketFate::Foreign));
        assert_eq!(with(12, &64_u32.to_le_bytes()), Err(PacketFate::Malformed));
        assert_eq!(with(12, &u32::MAX.to_le_bytes()), Err(PacketFate::Malformed));
        assert_eq!(with(0, &u64::MAX.to_le_bytes()), Err(PacketFate::Malformed));
    }
}
