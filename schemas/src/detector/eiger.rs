//! PSI EIGER.
//!
//! A port carries one quadrant of a module: 512 x 256 pixels, two chips of 256 x 256 side by side, 2 pixels apart in
//! the image. Its rows come from the middle of the module outwards, so a readout of fewer rows (`readnrows`) is the
//! first packets of a whole one. Pixels have 4, 8, 12, 16 or 32 bits; the rows follow each other without a break, so
//! that with 12 bits pixels lie across packets.
//!
//! | network | payload | packets of a whole quadrant |
//! |---|---|---|
//! | 10 Gbit/s (`tengiga`) | 4096 bytes | 4 x bits |
//! | 1 Gbit/s | 1024 bytes | 16 x bits |
//!
//! Sources: slsDetectorPackage, `GeneralData.h` (`EigerData`) and the virtual server in `eigerDetectorServer` (order of
//! rows and packets, 12 bit); `qDrawPlot.cpp` (4 bit: the upper half of a byte comes first).

use super::{
    Detector,
    config::{Base, DetectorConfig, DetectorConfigError},
    grid::{CHIP, CHIP_GAP, Grid, Position, modules_of},
    placement::{Frame, Modules, PacketLengths, PixelRun, Placement, pixel_of_bit_depth},
    sls_header::{self, SlsType},
};

/// Columns and rows of the quadrant that a port carries.
pub const QUADRANT_WIDTH: usize = 512;
pub const QUADRANT_HEIGHT: usize = 256;
const PAYLOAD_BYTES: usize = 4096;
const PAYLOAD_BYTES_1G: usize = 1024;

const MODELS: [(&str, [u32; 2]); 6] =
    [("500K", [1, 1]), ("1M", [1, 2]), ("1.5M", [1, 3]), ("3M", [1, 6]), ("6M", [2, 6]), ("9M", [3, 6])];

/// The detector that a configuration describes.
///
/// # Errors
/// Names the field and module that is wrong.
pub fn detector(config: &DetectorConfig) -> Result<Detector, DetectorConfigError> {
    config.check_settings(&["model", "modules", "deactivate", "tengiga", "readnrows", "image_id"])?;
    let wrong = DetectorConfigError::field;
    let bit_depth = config.required_bit_depth("4, 8, 12, 16 or 32")?;
    let depth = pixel_of_bit_depth(bit_depth);
    let (pixel, packing) =
        depth.ok_or_else(|| wrong("bit_depth", bit_depth.to_string(), "4, 8, 12, 16 or 32 for an EIGER"))?;
    let payload_bytes = if config.tengiga.unwrap_or(true) { PAYLOAD_BYTES } else { PAYLOAD_BYTES_1G };
    let row_bytes = QUADRANT_WIDTH * packing.bits(pixel) / 8;
    let rows_read = rows_read(config, row_bytes, payload_bytes)?;

    let whole = match modules_of(config.model.as_deref(), config.modules, &MODELS)? {
        Some([columns, rows]) => Some(Grid::of_modules(columns, rows)),
        None => config.half_modules.map(|[columns, half_rows]| Grid {
            columns: columns as usize,
            half_rows: half_rows as usize,
            rows_read: CHIP,
        }),
    };
    let base = match whole.map(|grid| Grid { rows_read, ..grid }) {
        Some(grid) => config.with_positions(grid.height(), grid.width(), grid.quadrants())?,
        None => config.given_positions(1)?,
    };
    let mut modules = Modules::default();
    let mut ports = Vec::new();
    for (&module, &position) in &base.positions {
        let runs = quadrant_runs(&base, module, position, rows_read)?;
        if base.is_off(module) {
            modules.off.push(runs);
        } else {
            modules.on.push(runs);
            ports.push(base.port(module)?);
        }
    }
    let frame = Frame {
        height: base.height,
        width: base.width,
        pixel,
        packing,
        header_bytes: sls_header::HEADER_BYTES,
        packets: PacketLengths::filled(payload_bytes, rows_read * row_bytes),
        ports,
    };
    Ok(Detector {
        name: config.name().to_owned(),
        detector_type: config.detector_type.clone(),
        wire: sls_header::wire(SlsType::Eiger, sls_header::image_id(config.image_id.as_deref())?, Vec::new()),
        placement: Placement::new(frame, modules)?,
        gain_maps: None,
    })
}

/// Rows that are read of a quadrant: all, or those that fill whole packets.
fn rows_read(config: &DetectorConfig, row_bytes: usize, payload_bytes: usize) -> Result<usize, DetectorConfigError> {
    let Some(rows) = config.readnrows else { return Ok(QUADRANT_HEIGHT) };
    let fits = |rows: usize| (rows * row_bytes).is_multiple_of(payload_bytes);
    let rows_step = (1..=QUADRANT_HEIGHT).find(|&rows| fits(rows)).expect("a whole quadrant is whole packets");
    let read = rows as usize;
    if read == 0 || read > QUADRANT_HEIGHT || !fits(read) {
        let allowed = format!("multiples of {rows_step} up to {QUADRANT_HEIGHT}, which fill packets");
        return Err(DetectorConfigError::field("readnrows", rows.to_string(), &allowed));
    }
    Ok(read)
}

/// The runs of one quadrant: row by row, two chips a row. Rows of the stream run from `y0` to `y1`, upwards where
/// `y1 < y0`.
fn quadrant_runs(
    base: &Base,
    module: u32,
    position: Position,
    rows_read: usize,
) -> Result<Vec<PixelRun>, DetectorConfigError> {
    let [x0, y0, x1, y1] = position;
    let columns = (QUADRANT_WIDTH + CHIP_GAP) as i64;
    let rows = y1.checked_sub(y0).and_then(i64::checked_abs).and_then(|last| last.checked_add(1));
    let is_quadrant = rows == Some(QUADRANT_HEIGHT as i64) || rows == Some(rows_read as i64);
    if x1.checked_sub(x0) != Some(columns - 1) || !is_quadrant {
        let read = if rows_read == QUADRANT_HEIGHT { String::new() } else { format!(" or {}", rows_read - 1) };
        return Err(base.wrong_position(
            module,
            &format!(
                "[x0, y0, x1, y1] with x1 - x0 = {} and |y1 - y0| = {}{read} (first and last pixel, both included)",
                columns - 1,
                QUADRANT_HEIGHT - 1
            ),
        ));
    }
    base.check_inside(module)?;
    let step = if y1 < y0 { -1 } else { 1 };
    let row = |row: i64| {
        let first = (y0 + row * step) as usize * base.width + x0 as usize;
        (0..2).map(move |chip| PixelRun { first: first + chip * (CHIP + CHIP_GAP), pixels: CHIP })
    };
    Ok((0..rows_read as i64).flat_map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detector::{Packing, PixelType};

    fn config(bit_depth: u32) -> DetectorConfig {
        let text = include_str!("../../../tests/data/eiger-500k/detector.json");
        let mut config = DetectorConfig::from_json(text).expect("the test's configuration is valid");
        config.bit_depth = Some(bit_depth);
        config
    }

    fn short(text: &str) -> Result<Placement, DetectorConfigError> {
        let text = format!("detector_type = \"eiger\"\nstart_udp_port = 50020\n{text}");
        DetectorConfig::from_toml(&text).and_then(|config| config.placement())
    }

    #[test]
    fn every_pixel_outside_the_gaps_is_covered_once_at_every_bit_depth_and_on_both_networks() {
        for (bit_depth, bytes) in [(4, 1), (8, 1), (12, 2), (16, 2), (32, 4)] {
            for (tengiga, packets) in [(true, 4), (false, 16)] {
                let config = DetectorConfig { tengiga: Some(tengiga), ..config(bit_depth) };
                let placement = config.placement().expect("valid");
                assert_eq!(placement.packets_per_module, packets * bit_depth as usize);
                assert_eq!(placement.pixel.bytes(), bytes);
                let covered: usize = (0..placement.packets_per_image())
                    .map(|packet| {
                        let bytes: u32 = placement.segments(packet).iter().map(|segment| segment.len_bytes).sum();
                        let shared = usize::from(placement.lead_bits(packet) > 0);
                        bytes as usize / placement.pixel.bytes() - shared
                    })
                    .sum();
                assert_eq!(covered, 4 * QUADRANT_WIDTH * QUADRANT_HEIGHT, "{bit_depth} bit");
                let mask = placement.pixel_mask();
                assert_eq!(mask.iter().filter(|&&pixel| pixel == 0).count(), 4 * QUADRANT_WIDTH * QUADRANT_HEIGHT);
            }
        }
    }

    #[test]
    fn rows_run_upwards_where_y1_is_below_y0_and_chips_are_two_pixels_apart() {
        let placement = config(16).placement().expect("valid");
        let offset = |y: usize, x: usize| ((y * 1030 + x) * 2) as u32;
        let first_of = |module: usize| placement.segments(module * 64);
        assert_eq!(first_of(0)[0].offset_bytes, offset(258, 0));
        assert_eq!(first_of(0)[1].offset_bytes, offset(258, 258));
        assert_eq!(first_of(0)[2].offset_bytes, offset(259, 0));
        assert_eq!(first_of(2)[0].offset_bytes, offset(255, 0));
        assert_eq!(first_of(2)[2].offset_bytes, offset(254, 0));
    }

    #[test]
    fn twelve_bit_pixels_lie_across_packets_in_a_cycle_of_three() {
        let placement = config(12).placement().expect("valid");
        assert_eq!((placement.pixel, placement.packing), (PixelType::U16, Packing::Packed12));
        let leads: Vec<u32> = (0..7).map(|packet| placement.lead_bits(packet)).collect();
        assert_eq!(leads, [0, 4, 8, 0, 4, 8, 0]);
        // 4096 bytes are 2730 2/3 pixels: five rows, and 170 2/3 pixels of the sixth.
        let last = placement.segments(0).last().copied().expect("segments");
        assert_eq!((last.offset_bytes, last.len_bytes), ((258 + 5) * 1030 * 2, 171 * 2));
        assert_eq!(placement.segments(1)[0].offset_bytes, (263 * 1030 + 170) * 2);
    }

    #[test]
    fn a_model_or_a_number_of_modules_is_a_whole_geometry() {
        let nine = short("model = \"9M\"\nbit_depth = 16").expect("valid");
        assert_eq!((nine.height, nine.width, nine.ports.len()), (3264, 3106, 72));
        assert_eq!(nine.ports[71], 50091);
        assert_eq!(short("modules = [3, 6]\nbit_depth = 16").map(|modules| modules.hash()), Ok(nine.hash()));
        let same = short("model = \"500K\"\nbit_depth = 32").expect("valid");
        assert_eq!(same.pixel_mask(), config(32).placement().expect("valid").pixel_mask());
        assert!(
            short("bit_depth = 16")
                .is_err_and(|error| error.to_string().contains("or modules = [columns, rows] instead"))
        );
        assert!(short("model = \"9M\"").is_err_and(|error| error.to_string().contains("bit_depth")));
    }

    #[test]
    fn fewer_rows_are_the_first_packets_and_must_fill_them() {
        let part = short("model = \"500K\"\nbit_depth = 16\nreadnrows = 8").expect("valid");
        assert_eq!((part.height, part.width, part.packets_per_module), (18, 1030, 2));
        assert_eq!(part.segments(0)[0].offset_bytes, 10 * 1030 * 2);
        assert_eq!(part.segments(2 * 2)[0].offset_bytes, 7 * 1030 * 2, "the upper half begins at the middle, too");
        let given = DetectorConfig { readnrows: Some(8), ..config(16) }.placement().expect("valid");
        assert_eq!((given.height, given.packets_per_module), (514, 2));
        assert_eq!(given.segments(0)[0], config(16).placement().expect("valid").segments(0)[0]);
        for (bit_depth, rows, step) in [(16, 6, 4), (12, 8, 16), (32, 1, 2), (16, 0, 4), (16, 260, 4)] {
            let wrong = short(&format!("model = \"500K\"\nbit_depth = {bit_depth}\nreadnrows = {rows}"));
            let error = wrong.expect_err("wrong").to_string();
            assert!(error.contains(&format!("readnrows = {rows}; allowed: multiples of {step} up")), "{error}");
        }
    }

    #[test]
    fn ports_that_are_off_are_masked_and_not_waited_for() {
        let off = DetectorConfig { deactivate: vec![1], ..config(16) }.placement().expect("valid");
        assert_eq!((off.modules, &off.ports[..]), (3, &[50028, 50030, 50031][..]));
        let mask = off.pixel_mask();
        assert_eq!((mask[258 * 1030], mask[258 * 1030 + 516], mask[258 * 1030 + 514]), (0, 2, 1));
        let missing = DetectorConfig { deactivate: vec![4], ..config(16) }.placement();
        assert!(missing.is_err_and(|error| error.to_string().contains("deactivate")));
        let all = DetectorConfig { deactivate: vec![0, 1, 2, 3], ..config(16) }.placement();
        assert!(all.is_err_and(|error| error.to_string().contains("deactivate")));
    }

    #[test]
    fn a_real_header_is_read_and_another_type_or_version_is_foreign() {
        let detector = config(32).detector().expect("valid");
        // The first bytes of the first recorded packet of port 50021 of an EIGER 9M.
        let text = "48730000000000007801000000000000\
                    0000000000000000c7ae5b96d20000006500000001000000e16a000000000102";
        let digit = |byte: u8| (byte as char).to_digit(16).expect("hexadecimal") as u8;
        let mut header: Vec<u8> = text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect();
        assert_eq!(header.len(), 48);
        let read = detector.read_header(&header, 0).expect("a packet of an EIGER");
        assert_eq!((read.image_id, read.number), (0x7348, 0));
        assert_eq!((read.exposure_length, read.timestamp), (376, 0xd2_965b_aec7));
        for (at, value) in [(46, 3), (47, 1)] {
            let old = std::mem::replace(&mut header[at], value);
            assert_eq!(detector.read_header(&header, 0), Err(crate::detector::HeaderError::Foreign));
            header[at] = old;
        }
    }
}
