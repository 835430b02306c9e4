//! PSI GigaFRoST: a camera of up to 2016 x 2016 pixels of 12 bit, in eight streams.
//!
//! ```text
//! quadrant   NW 2 │ NE 3      two links a quadrant, each with every second row:
//!            ─────┼─────        S: link 0 has rows H/2, H/2 + 2, …    link 1 H/2 + 1, H/2 + 3, …
//!            SW 0 │ SE 1        N: link 0 has rows (H-1)/2, (H-1)/2 - 2, …    link 1 the ones above
//! ```
//!
//! Module `m` is quadrant `m / 2`, link `m % 2`. Successive images go to two sets of eight ports in turn (`octets`), so
//! that two servers' receivers can share them.
//!
//! Header, 32 bytes, little-endian:
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | u8 | protocol: 0xcb |
//! | 1 | u8 | length of a quadrant's row, in blocks of 12 pixels |
//! | 2 | u8 | rows of a quadrant, bits 1 to 7; bit 0: rows are swapped |
//! | 3 | u8 | bits 6, 7: quadrant; 5: link; 2 to 4: correction mode; 0, 1: bits 8 and 9 of the quadrant's rows |
//! | 4 | u32 | scan id |
//! | 8 | u32 | frame index: the image id |
//! | 12 | u16 | bit 15: do not store |
//! | 14 | u16 | first row of the packet, in rows of its stream |
//! | 16 | u64 | bits 0 to 39: timestamp; 40 to 63: exposure time |
//! | 24, 28 | u32 | sync time, scan time |
//!
//! A packet holds as many rows as its firmware's arithmetic lets fit into 7400 bytes; a packet with an odd number of
//! rows that do not fill blocks of 48 pixels has 36 bytes more. The last packet has what is left. `swapped` is set by
//! cameras on the western quadrants and changes nothing in the order of rows (std-daq places rows without regard
//! to it).
//!
//! Sources: std_detector_buffer, `detectors/gigafrost.hpp` (header, packets) and `std-data-convert-gf` (rows, 12 bit).

use super::{
    Detector,
    config::{DetectorConfig, DetectorConfigError},
    placement::{Frame, Modules, PacketLengths, Packing, PixelRun, PixelType, Placement},
    wire::{Check, Field, PacketNumber, WireFormat},
};

/// Streams of an image.
pub const MODULES: usize = 8;
const HEADER_BYTES: usize = 32;
const PAYLOAD_BYTES_MAX: usize = 7400;
const PROTOCOL: u64 = 0xcb;
/// Largest image.
const SIDE_MAX: usize = 2016;
/// A row of a quadrant is whole blocks of 12 pixels, and each of its links has as many rows.
const WIDTH_STEP: usize = 24;
const HEIGHT_STEP: usize = 4;
const OCTETS_MAX: u32 = 2;

/// How a stream is cut into packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketMath {
    pub module_width: usize,
    pub module_height: usize,
    pub rows_per_packet: usize,
    pub last_rows: usize,
    pub payload_bytes: usize,
    pub last_payload_bytes: usize,
}

impl PacketMath {
    /// Of an image; both sides are multiples of their steps. The order of the divisions is the camera's, and so is
    /// what they round away.
    pub fn of(height: usize, width: usize) -> Self {
        let (module_width, module_height) = (width / 2, height / 4);
        let blocks = module_width / 12;
        let cache_line_blocks = PAYLOAD_BYTES_MAX / (36 * blocks) * blocks / 2;
        let rows_per_packet = (cache_line_blocks * 48 / module_width).min(module_height);
        let rest = module_height % rows_per_packet;
        let last_rows = if rest == 0 { rows_per_packet } else { rest };
        let bytes = |rows: usize| {
            let is_padded = !rows.is_multiple_of(2) && !module_width.is_multiple_of(48);
            rows * module_width * 3 / 2 + if is_padded { 36 } else { 0 }
        };
        Self {
            module_width,
            module_height,
            rows_per_packet,
            last_rows,
            payload_bytes: bytes(rows_per_packet),
            last_payload_bytes: bytes(last_rows),
        }
    }

    pub fn packets(&self) -> usize {
        self.module_height.div_ceil(self.rows_per_packet)
    }
}

/// The detector that a configuration describes.
///
/// # Errors
/// Names the field that is wrong.
pub fn detector(config: &DetectorConfig) -> Result<Detector, DetectorConfigError> {
    config.check_settings(&["octets"])?;
    let wrong = DetectorConfigError::field;
    let height = side(config.image_pixel_height, "image_pixel_height", HEIGHT_STEP)?;
    let width = side(config.image_pixel_width, "image_pixel_width", WIDTH_STEP)?;
    if let Some(bits) = config.bit_depth.filter(|bits| ![12, 16].contains(bits)) {
        return Err(wrong("bit_depth", bits.to_string(), "16 (12 on the wire) for a GigaFRoST"));
    }
    if let Some(modules) = config.n_modules.filter(|&modules| modules != MODULES as u32) {
        return Err(wrong("n_modules", modules.to_string(), "8 for a GigaFRoST"));
    }
    let octets = match config.octets.unwrap_or(OCTETS_MAX) {
        octets @ 1..=OCTETS_MAX => octets,
        other => return Err(wrong("octets", other.to_string(), "1 or 2 sets of eight ports")),
    };
    let math = PacketMath::of(height, width);
    let base =
        config.with_positions(height, width, (0..octets * MODULES as u32).map(|port| (port, [0; 4])).collect())?;
    if let Some(module) = config.deactivate.first() {
        return Err(wrong("deactivate", module.to_string(), "none: every stream of a GigaFRoST is part of each row"));
    }
    let frame = Frame {
        height,
        width,
        pixel: PixelType::U16,
        packing: Packing::Packed12,
        header_bytes: HEADER_BYTES,
        packets: PacketLengths {
            pixel_bytes: math.rows_per_packet * math.module_width * 3 / 2,
            payload_bytes: math.payload_bytes,
            last_payload_bytes: math.last_payload_bytes,
        },
        ports: base.positions.keys().map(|&port| base.port(port)).collect::<Result<_, _>>()?,
    };
    let modules = Modules { on: (0..MODULES).map(|module| module_runs(height, width, module)).collect(), off: vec![] };
    Ok(Detector {
        name: config.name().to_owned(),
        detector_type: config.detector_type.clone(),
        wire: wire(&math, height),
        placement: Placement::new(frame, modules)?,
        gain_maps: None,
    })
}

fn side(pixels: Option<usize>, field: &str, step: usize) -> Result<usize, DetectorConfigError> {
    let allowed = format!("multiples of {step} up to {SIDE_MAX} for a GigaFRoST");
    let pixels = pixels.ok_or_else(|| DetectorConfigError::missing(field, &allowed))?;
    let fits = pixels > 0 && pixels <= SIDE_MAX && pixels.is_multiple_of(step);
    if fits { Ok(pixels) } else { Err(DetectorConfigError::field(field, pixels.to_string(), &allowed)) }
}

fn wire(math: &PacketMath, height: usize) -> WireFormat {
    let quadrant_rows = (height / 2) as u64;
    let flags = Field::little(3, 1);
    let check = |field, values| Check { field, values };
    WireFormat {
        header_bytes: HEADER_BYTES,
        image_id: Field::little(8, 4),
        packet_number: PacketNumber {
            field: Field::little(14, 2),
            step: math.rows_per_packet as u64,
            first: Vec::new(),
        },
        timestamp: Some(Field::little(16, 8).bits(0, 40)),
        exposure_length: Some(Field::little(16, 8).bits(40, 24)),
        do_not_store: Some(Field::little(12, 2).bits(15, 1)),
        checks: vec![
            check(Field::little(0, 1), vec![PROTOCOL]),
            check(Field::little(1, 1), vec![(math.module_width / 12) as u64]),
            check(Field::little(2, 1).bits(1, 7), vec![(quadrant_rows & 0xff) >> 1]),
            check(flags.bits(0, 2), vec![quadrant_rows >> 8]),
            check(flags.bits(5, 3), (0..MODULES as u64).collect()), // link and quadrant
        ],
    }
}

/// The rows of a stream, in their order.
fn module_runs(height: usize, width: usize, module: usize) -> Vec<PixelRun> {
    let (quadrant, link) = (module / 2, module % 2);
    let x = quadrant % 2 * (width / 2);
    let row = |row: usize| {
        let y = if quadrant < 2 { height / 2 + link + 2 * row } else { (height - 1) / 2 - link - 2 * row };
        PixelRun { first: y * width + x, pixels: width / 2 }
    };
    (0..height / 4).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detector::{HeaderError, PacketHeader};

    fn detector(height: usize, width: usize, more: &str) -> Result<Detector, DetectorConfigError> {
        let text = format!(
            "detector_type = \"gigafrost\"\nstart_udp_port = 2000\nimage_pixel_height = {height}\n\
             image_pixel_width = {width}\n{more}"
        );
        DetectorConfig::from_toml(&text).and_then(|config| config.detector())
    }

    #[test]
    fn packet_math_equals_the_cameras() {
        // height, width -> module width and height, rows and bytes of a packet, packets, and of the last one its
        // rows, first row and bytes.
        for (image, module, packet, last) in [
            ((2016, 2016), (1008, 504), (4, 6048, 126), (4, 500, 6048)),
            ((280, 528), (264, 70), (18, 7128, 4), (16, 54, 6336)),
            ((128, 480), (240, 32), (20, 7200, 2), (12, 20, 4320)),
            ((252, 504), (252, 63), (17, 6462, 4), (12, 51, 4536)),
        ] {
            let math = PacketMath::of(image.0, image.1);
            assert_eq!((math.module_width, math.module_height), module);
            assert_eq!((math.rows_per_packet, math.payload_bytes, math.packets()), packet);
            let last_first = (math.packets() - 1) * math.rows_per_packet;
            assert_eq!((math.last_rows, last_first, math.last_payload_bytes), last);
        }
    }

    /// Rows of a packet, worked out another way: the pairs of rows that fit into a payload, less what the last cache
    /// line of 72 bytes, begun and not filled, takes of them: a row, or two rows of one block each.
    fn rows_by_pairs(height: usize, width: usize) -> usize {
        let (blocks, stream_rows) = (width / 24, height / 4);
        let pair_bytes = 2 * 18 * blocks;
        let pairs = (0..).take_while(|pairs| (pairs + 1) * pair_bytes <= 7400).count();
        let lost = match (pairs * pair_bytes % 72, blocks) {
            (0, _) => 0,
            (_, 1) => 2,
            _ => 1,
        };
        (2 * pairs - lost).min(stream_rows)
    }

    #[test]
    fn packets_of_every_region_of_interest_are_those_of_another_formula() {
        // Of all 42,336: full packets of even rows before a padded last one, and last ones padded as all others.
        let (mut last_alone, mut both) = (0, 0);
        for (height, width) in
            (4..=SIDE_MAX).step_by(4).flat_map(|height| (24..=SIDE_MAX).step_by(24).map(move |width| (height, width)))
        {
            let math = PacketMath::of(height, width);
            let rows = rows_by_pairs(height, width);
            let last_rows = (1..=rows).find(|last| (height / 4 - last).is_multiple_of(rows)).expect("1 to all");
            let is_padded = |rows: usize| rows % 2 == 1 && width % 96 != 0;
            let bytes = |rows: usize| rows * width * 12 / 16 + usize::from(is_padded(rows)) * 36;
            let found = (math.rows_per_packet, math.last_rows, math.payload_bytes, math.last_payload_bytes);
            assert_eq!(found, (rows, last_rows, bytes(rows), bytes(last_rows)), "{height} x {width}");
            assert_eq!(math.packets(), (height / 4 - last_rows) / rows + 1, "{height} x {width}");
            last_alone += u32::from(is_padded(last_rows) && !is_padded(rows));
            both += u32::from(is_padded(last_rows) && is_padded(rows));
        }
        assert_eq!((last_alone, both), (10_444, 6_023), "regions with a padded last packet");
    }

    #[test]
    fn last_packets_are_padded_where_the_others_are_not_and_where_they_are_and_where_there_are_none() {
        for (height, width, packets, payload, last) in
            [(20, 1656, 2, 4968, 1242 + 36), (24, 1272, 2, 4770 + 36, 954 + 36), (4, 24, 1, 18 + 36, 18 + 36)]
        {
            let placement = detector(height, width, "").expect("valid").placement;
            let found = (placement.packets_per_module, placement.payload_bytes, placement.last_payload_bytes);
            assert_eq!(found, (packets, payload, last), "{height} x {width}");
            let of_last: u32 = placement.segments(packets - 1).iter().map(|segment| segment.len_bytes).sum();
            assert_eq!(of_last as usize, width, "one row of pixels of two bytes: what follows them has no place");
        }
    }

    #[test]
    fn rows_of_the_quadrants_are_those_of_the_converters_tests() {
        // The 8 x 4 and 4 x 8 images of std-data-convert-gf: first pixel of every row of a stream.
        let rows = |height, width, module| -> Vec<(usize, usize)> {
            let runs = module_runs(height, width, module);
            runs.iter().map(|run| (run.first / width, run.first % width)).collect()
        };
        let expected: [(usize, [(usize, usize); 2]); 8] = [
            (0, [(4, 0), (6, 0)]),
            (1, [(5, 0), (7, 0)]),
            (2, [(4, 2), (6, 2)]),
            (3, [(5, 2), (7, 2)]),
            (4, [(3, 0), (1, 0)]),
            (5, [(2, 0), (0, 0)]),
            (6, [(3, 2), (1, 2)]),
            (7, [(2, 2), (0, 2)]),
        ];
        for (module, of_module) in expected {
            assert_eq!(rows(8, 4, module), of_module, "module {module}");
        }
        assert_eq!((rows(4, 8, 0), rows(4, 8, 7)), (vec![(2, 0)], vec![(0, 4)]));
    }

    #[test]
    fn every_region_of_interest_covers_every_pixel_once() {
        let heights = (4..=SIDE_MAX).step_by(HEIGHT_STEP);
        for height in heights.step_by(63).chain([SIDE_MAX]) {
            for width in (WIDTH_STEP..=SIDE_MAX).step_by(WIDTH_STEP) {
                let math = PacketMath::of(height, width);
                assert!(math.payload_bytes <= PAYLOAD_BYTES_MAX && math.last_payload_bytes <= math.payload_bytes);
                if height > 600 && width > 600 {
                    continue; // the placement of a few of the largest is looked at below
                }
                let placement = detector(height, width, "").expect("valid").placement;
                assert!(placement.pixel_mask().iter().all(|&pixel| pixel == 0), "{height} x {width}");
                assert!((0..placement.packets_per_image()).all(|packet| placement.lead_bits(packet) == 0));
            }
        }
        let placement = detector(SIDE_MAX, SIDE_MAX, "").expect("valid").placement;
        assert!(placement.pixel_mask().iter().all(|&pixel| pixel == 0));
        assert_eq!((placement.packets_per_module, placement.payload_bytes), (126, 6048));
    }

    #[test]
    fn both_octets_bring_the_same_modules() {
        let placement = detector(280, 528, "").expect("valid").placement;
        assert_eq!((placement.ports.len(), placement.modules), (16, 8));
        assert_eq!((placement.ports[9], placement.module_of_port(9)), (2009, 1));
        assert_eq!((placement.payload_bytes, placement.last_payload_bytes), (7128, 6336));
        let one = detector(280, 528, "octets = 1").expect("valid").placement;
        assert_eq!(one.ports, (2000..2008).collect::<Vec<u16>>());
        assert!(detector(280, 528, "octets = 3").is_err());
    }

    #[test]
    fn a_header_says_its_stream_its_row_and_whether_to_store() {
        let detector = detector(280, 528, "").expect("valid");
        let mut packet = [0_u8; 40];
        packet[0] = 0xcb;
        packet[1] = 22;
        packet[2] = 140 + 1; // 140 rows a quadrant, and swapped
        packet[3] = 2 << 6 | 1 << 5 | 5 << 2; // NW, link 1, correction mode 5
        packet[8..12].copy_from_slice(&16_777_215_u32.to_le_bytes());
        packet[13] = 0x80;
        packet[14..16].copy_from_slice(&54_u16.to_le_bytes());
        packet[16..24].copy_from_slice(&(7_u64 << 40 | 300_000).to_le_bytes());
        let expected = PacketHeader {
            image_id: 16_777_215,
            number: 3,
            timestamp: 300_000,
            exposure_length: 7,
            do_not_store: true,
        };
        assert_eq!(detector.read_header(&packet, 5), Ok(expected));
        assert_eq!(detector.read_header(&packet, 4), Err(HeaderError::Foreign), "link 0");
        packet[14] = 53;
        assert_eq!(detector.read_header(&packet, 5), Err(HeaderError::Number), "a row that begins no packet");
        packet[14] = 72;
        assert_eq!(detector.read_header(&packet, 5), Err(HeaderError::Number), "a row beyond the last one");
        (packet[13], packet[14], packet[2]) = (0, 0, 142);
        assert_eq!(detector.read_header(&packet, 5), Err(HeaderError::Foreign), "another region of interest");
        packet[2] = 140;
        assert_eq!(detector.read_header(&packet, 5).map(|header| header.do_not_store), Ok(false));
        (packet[12], packet[13]) = (0xff, 0x7f);
        assert_eq!(detector.read_header(&packet, 5).map(|header| header.do_not_store), Ok(false), "debug bits");
    }

    #[test]
    fn tall_images_have_their_upper_bits_of_rows_in_the_flags() {
        let detector = detector(2016, 2016, "").expect("valid");
        let mut packet = [0; 32];
        let of = PacketHeader { image_id: 1, number: 125, timestamp: 0, exposure_length: 0, do_not_store: false };
        detector.wire.write(&mut packet, 6, &of);
        assert_eq!(packet[..4], [0xcb, 84, 0xf0, 3 << 6 | 3]);
        assert_eq!(packet[14..16], 500_u16.to_le_bytes());
    }

    #[test]
    fn sizes_that_the_camera_does_not_have_are_refused() {
        for (height, width, field) in
            [(282, 528, "image_pixel_height"), (280, 516, "image_pixel_width"), (2020, 528, "image_pixel_height")]
        {
            let error = detector(height, width, "").expect_err("wrong").to_string();
            assert!(error.contains(field), "{error}");
        }
        assert!(detector(280, 528, "bit_depth = 8").is_err());
        assert!(detector(280, 528, "deactivate = [1]").is_err());
    }
}
