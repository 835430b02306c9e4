//! From a packet's header to image id and packet number: the part that differs between detectors.

use ecs_schemas::detector::eiger::{self, PacketHeader};
use ecs_shm_buffer::{PacketFate, is_image_id};

/// What a packet's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub image_id: u64,
    /// Within its module's part of the image.
    pub number: usize,
    /// The detector's clock and exposure, in its own units.
    pub timestamp: u64,
    pub exposure_length: u32,
}

/// Reads the header of an EIGER packet of the right length.
///
/// # Errors
/// `Foreign` for another detector or header version, `Malformed` for numbers that no detector sends.
pub fn eiger(header: &[u8; eiger::HEADER_BYTES], packets_per_module: usize) -> Result<Packet, PacketFate> {
    let header = PacketHeader::parse(header);
    if header.detector_type != eiger::DETECTOR_TYPE || header.version != eiger::HEADER_VERSION {
        return Err(PacketFate::Foreign);
    }
    let number = header.packet_number as usize;
    if number >= packets_per_module || !is_image_id(header.frame_number) {
        return Err(PacketFate::Malformed);
    }
    Ok(Packet {
        image_id: header.frame_number,
        number,
        timestamp: header.timestamp,
        exposure_length: header.exposure_length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_detector_is_foreign_and_impossible_numbers_are_malformed() {
        let good = PacketHeader {
            frame_number: 5,
            exposure_length: 1,
            packet_number: 63,
            timestamp: 2,
            detector_type: eiger::DETECTOR_TYPE,
            version: eiger::HEADER_VERSION,
        };
        let decode = |header: PacketHeader| {
            let mut bytes = [0; eiger::HEADER_BYTES];
            header.write(&mut bytes);
            eiger(&bytes, 64)
        };
        assert_eq!(decode(good).map(|packet| (packet.image_id, packet.number)), Ok((5, 63)));
        assert_eq!(decode(PacketHeader { detector_type: 3, ..good }), Err(PacketFate::Foreign));
        assert_eq!(decode(PacketHeader { version: 1, ..good }), Err(PacketFate::Foreign));
        assert_eq!(decode(PacketHeader { packet_number: 64, ..good }), Err(PacketFate::Malformed));
        assert_eq!(decode(PacketHeader { packet_number: u32::MAX, ..good }), Err(PacketFate::Malformed));
        assert_eq!(decode(PacketHeader { frame_number: u64::MAX, ..good }), Err(PacketFate::Malformed));
    }
}
