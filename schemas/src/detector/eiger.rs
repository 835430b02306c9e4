//! PSI EIGER: its packets on the wire and its geometry.
//!
//! A port carries one quadrant of a module: 512 x 256 pixels, two chips of 256 x 256 side by side. A
//! frame is 32, 64 or 128 packets of 4096 bytes at 8, 16 or 32 bit, each holding whole rows of 512
//! pixels. In the image the two chips are 2 pixels apart.
//!
//! Header, 48 bytes, little-endian (slsDetector header 2.0, slsDetectorPackage documentation, "UDP
//! header"):
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | u64 | frame number: the image id |
//! | 8 | u32 | exposure length |
//! | 12 | u32 | packet number, from 0 |
//! | 16 | u64 | detSpec1 |
//! | 24 | u64 | timestamp, 100 ns |
//! | 32 | u16 | module id |
//! | 34 | u16 | row |
//! | 36 | u16 | column |
//! | 38 | u16 | detSpec2 |
//! | 40 | u32 | detSpec3 |
//! | 44 | u16 | detSpec4 |
//! | 46 | u8 | detector type: 1 |
//! | 47 | u8 | header version: 2 |
//!
//! Module id, row and column are the sender's own; the port tells the quadrants apart.

use super::{
    config::{DetectorConfig, DetectorConfigError},
    placement::{Frame, PixelType, Placement, Segment},
};

pub const HEADER_BYTES: usize = 48;
pub const PAYLOAD_BYTES: usize = 4096;
pub const DETECTOR_TYPE: u8 = 1;
pub const HEADER_VERSION: u8 = 2;
/// Columns and rows of the quadrant that a port carries.
pub const QUADRANT_WIDTH: usize = 512;
pub const QUADRANT_HEIGHT: usize = 256;
const CHIP_WIDTH: usize = 256;
/// Columns between the two chips of a quadrant, in the image.
pub const CHIP_GAP: usize = 2;

/// The fields of a packet's header that ECS uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketHeader {
    pub frame_number: u64,
    pub exposure_length: u32,
    pub packet_number: u32,
    /// In units of 100 ns, the detector's own clock.
    pub timestamp: u64,
    pub detector_type: u8,
    pub version: u8,
}

impl PacketHeader {
    /// Reads the first [`HEADER_BYTES`] of a packet.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Self {
            frame_number: u64_at(0),
            exposure_length: u32_at(8),
            packet_number: u32_at(12),
            timestamp: u64_at(24),
            detector_type: bytes[46],
            version: bytes[47],
        }
    }

    /// Writes the header; the fields that ECS does not use are 0.
    pub fn write(&self, bytes: &mut [u8; HEADER_BYTES]) {
        bytes.fill(0);
        bytes[0..8].copy_from_slice(&self.frame_number.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.exposure_length.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.packet_number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.timestamp.to_le_bytes());
        bytes[46] = self.detector_type;
        bytes[47] = self.version;
    }
}

/// The placement of an EIGER as its configuration describes it.
///
/// # Errors
/// Names the field and module that is wrong.
pub fn placement(config: &DetectorConfig) -> Result<Placement, DetectorConfigError> {
    let pixel = match config.bit_depth {
        8 => PixelType::U8,
        16 => PixelType::U16,
        32 => PixelType::U32,
        got => return Err(DetectorConfigError::field("bit_depth", got.to_string(), "8, 16 or 32 for an EIGER")),
    };
    let mut ports = Vec::new();
    let mut segments = Vec::new();
    for (&module, position) in &config.module_positions {
        let port = u32::from(config.start_udp_port) + module;
        ports.push(u16::try_from(port).map_err(|_| {
            DetectorConfigError::field("start_udp_port", port.to_string(), "ports up to 65535 for every module")
        })?);
        quadrant_segments(config, module, *position, pixel, &mut segments)?;
    }
    let frame = Frame {
        height: config.image_pixel_height,
        width: config.image_pixel_width,
        pixel,
        header_bytes: HEADER_BYTES,
        payload_bytes: PAYLOAD_BYTES,
        packets_per_module: QUADRANT_WIDTH * QUADRANT_HEIGHT * pixel.bytes() / PAYLOAD_BYTES,
        ports,
    };
    Ok(Placement::new(frame, segments)?)
}

/// Appends the segments of one quadrant: row by row, two chips a row. Rows of the payload run from
/// `y0` to `y1`, upwards where `y1 < y0`.
fn quadrant_segments(
    config: &DetectorConfig,
    module: u32,
    [x0, y0, x1, y1]: [i64; 4],
    pixel: PixelType,
    segments: &mut Vec<Segment>,
) -> Result<(), DetectorConfigError> {
    let wrong = |wanted: String| {
        DetectorConfigError::field(&format!("module_positions.{module}"), format!("[{x0}, {y0}, {x1}, {y1}]"), &wanted)
    };
    let columns = (QUADRANT_WIDTH + CHIP_GAP) as i64;
    let (height, width) = (config.image_pixel_height as i64, config.image_pixel_width as i64);
    if x1.checked_sub(x0) != Some(columns - 1) || y1.checked_sub(y0).map(i64::abs) != Some(QUADRANT_HEIGHT as i64 - 1) {
        return Err(wrong(format!(
            "[x0, y0, x1, y1] with x1 - x0 = {} and |y1 - y0| = {} (first and last pixel, both included)",
            columns - 1,
            QUADRANT_HEIGHT - 1
        )));
    }
    if x0 < 0 || x1 >= width || y0.min(y1) < 0 || y0.max(y1) >= height {
        return Err(wrong(format!("a position inside the image of {height} rows and {width} columns")));
    }
    let step = (y1 - y0).signum();
    for row in 0..QUADRANT_HEIGHT as i64 {
        let y = y0 + row * step;
        for chip in 0..QUADRANT_WIDTH / CHIP_WIDTH {
            let x = x0 as usize + chip * (CHIP_WIDTH + CHIP_GAP);
            let offset_bytes = (y as usize * config.image_pixel_width + x) * pixel.bytes();
            // An image above IMAGE_BYTES_MAX is refused by Placement::new; saturating keeps this total.
            segments.push(Segment {
                offset_bytes: u32::try_from(offset_bytes).unwrap_or(u32::MAX),
                len_bytes: (CHIP_WIDTH * pixel.bytes()) as u32,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(bit_depth: u32) -> DetectorConfig {
        let text = include_str!("../../../tests/data/eiger-500k/detector.json");
        let mut config = DetectorConfig::from_json(text).expect("the test's configuration is valid");
        config.bit_depth = bit_depth;
        config
    }

    #[test]
    fn every_pixel_outside_the_gaps_is_covered_once_at_every_bit_depth() {
        for (bit_depth, packets) in [(8, 32), (16, 64), (32, 128)] {
            let placement = placement(&config(bit_depth)).expect("valid");
            assert_eq!(placement.packets_per_module, packets);
            let covered: usize = (0..placement.packets_per_image())
                .flat_map(|packet| placement.segments(packet))
                .map(|segment| segment.len_bytes as usize)
                .sum();
            assert_eq!(covered, 4 * QUADRANT_WIDTH * QUADRANT_HEIGHT * placement.pixel.bytes());
        }
    }

    #[test]
    fn rows_run_upwards_where_y1_is_below_y0_and_chips_are_two_pixels_apart() {
        let placement = placement(&config(16)).expect("valid");
        let offset = |y: usize, x: usize| ((y * 1030 + x) * 2) as u32;
        let first_of = |module: usize| placement.segments(module * 64);
        assert_eq!(first_of(0)[0].offset_bytes, offset(258, 0));
        assert_eq!(first_of(0)[1].offset_bytes, offset(258, 258));
        assert_eq!(first_of(0)[2].offset_bytes, offset(259, 0));
        assert_eq!(first_of(2)[0].offset_bytes, offset(255, 0));
        assert_eq!(first_of(2)[2].offset_bytes, offset(254, 0));
    }

    #[test]
    fn header_round_trips_through_its_bytes() {
        let header = PacketHeader {
            frame_number: 0x1122_3344_5566_7788,
            exposure_length: 376,
            packet_number: 127,
            timestamp: 0x00d2_965b_aec7,
            detector_type: DETECTOR_TYPE,
            version: HEADER_VERSION,
        };
        let mut bytes = [0xff; HEADER_BYTES];
        header.write(&mut bytes);
        assert_eq!(PacketHeader::parse(&bytes), header);
    }
}
