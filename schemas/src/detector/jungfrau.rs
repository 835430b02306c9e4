//! PSI JUNGFRAU: raw pixels of 16 bit, 14 of charge and 2 of gain; as they are, or to be converted.
//!
//! A module has 1024 x 512 pixels in 128 packets of 8192 bytes, four rows each. With two interfaces, the first one
//! (`udp_dstport`) carries the lower half of the module, rows 0 to 255 of the stream, and the second one the upper
//! half, each with packet numbers from 0. A readout of fewer rows (`readnrows`) is the middle of the module; its
//! packets keep the numbers that they have in a whole one.
//!
//! | interfaces | rows read | packet numbers |
//! |---|---|---|
//! | 1 | n | 64 - n/8 to 63 + n/8 |
//! | 2, the first | n | 64 - n/8 to 63 |
//! | 2, the second | n | 0 to n/8 - 1 |
//!
//! The image id is the frame number, or the bunch id of the timing system; some senders write the latter as a float.
//!
//! Sources: slsDetectorPackage, the virtual server in `jungfrauDetectorServer` (packets, rows, interfaces) and its
//! documentation, "Detector image size and format".

use super::{
    Detector, GainMaps,
    config::{Base, DetectorConfig, DetectorConfigError},
    grid::{CHIP, CHIP_GAP, Grid, modules_of},
    placement::{Frame, Modules, PacketLengths, Packing, PixelRun, PixelType, Placement},
    sls_header::{self, SlsType},
};

pub const MODULE_WIDTH: usize = 1024;
pub const MODULE_HEIGHT: usize = 512;
const PAYLOAD_BYTES: usize = 8192;
const PACKETS_PER_HALF: usize = 64;
/// Rows are read in steps of this many.
const ROWS_STEP: usize = 8;

const MODELS: [(&str, [u32; 2]); 4] = [("500K", [1, 1]), ("1M", [1, 2]), ("4M", [2, 4]), ("9M", [3, 6])];

/// The detector that a configuration describes.
///
/// # Errors
/// Names the field and module that is wrong.
pub fn detector(config: &DetectorConfig) -> Result<Detector, DetectorConfigError> {
    config.check_settings(&["model", "modules", "deactivate", "readnrows", "numinterfaces", "image_id"])?;
    let wrong = DetectorConfigError::field;
    if let Some(bits) = config.bit_depth.filter(|&bits| bits != 16) {
        return Err(wrong("bit_depth", bits.to_string(), "16 for a JUNGFRAU"));
    }
    let rows = rows_read(config)?;
    let interfaces = match config.numinterfaces.unwrap_or(1) {
        interfaces @ 1..=2 => interfaces,
        other => return Err(wrong("numinterfaces", other.to_string(), "1 or 2")),
    };
    let base = match modules_of(config.model.as_deref(), config.modules, &MODELS)? {
        Some([columns, module_rows]) => {
            let grid = Grid { rows_read: rows / 2, ..Grid::of_modules(columns, module_rows) };
            config.with_positions(grid.height(), grid.width(), grid.modules())?
        }
        None => config.given_positions(interfaces)?,
    };
    let mut modules = Modules::default();
    let mut ports = Vec::new();
    let mut maps = Vec::new();
    let per_interface = rows * MODULE_WIDTH / interfaces as usize;
    let first_pixel = (MODULE_HEIGHT - rows) / 2 * MODULE_WIDTH;
    for &module in base.positions.keys() {
        let runs = module_runs(&base, module, rows)?;
        let halves = runs.chunks(runs.len() / interfaces as usize).map(<[PixelRun]>::to_vec);
        if base.is_off(module) {
            modules.off.extend(halves);
        } else {
            modules.on.extend(halves);
            for interface in 0..interfaces {
                ports.push(base.port(module * interfaces + interface)?);
                maps.push((module as usize, first_pixel + interface as usize * per_interface));
            }
        }
    }
    let first_number = (PACKETS_PER_HALF - rows / ROWS_STEP) as u64;
    let of_interface = |interface: usize| if interface == 0 { first_number } else { 0 };
    let first = (0..modules.on.len()).map(|half| of_interface(half % interfaces as usize)).collect();
    let module_bytes = per_interface * PixelType::U16.bytes();
    let frame = Frame {
        height: base.height,
        width: base.width,
        pixel: PixelType::U16,
        packing: Packing::Plain,
        header_bytes: sls_header::HEADER_BYTES,
        packets: PacketLengths::filled(PAYLOAD_BYTES, module_bytes),
        ports,
    };
    Ok(Detector {
        name: config.name().to_owned(),
        detector_type: config.detector_type.clone(),
        wire: sls_header::wire(SlsType::Jungfrau, sls_header::image_id(config.image_id.as_deref())?, first),
        placement: Placement::new(frame, modules)?,
        gain_maps: Some(GainMaps { rows: MODULE_HEIGHT, columns: MODULE_WIDTH, modules: maps }),
    })
}

fn rows_read(config: &DetectorConfig) -> Result<usize, DetectorConfigError> {
    let rows = config.readnrows.map_or(MODULE_HEIGHT, |rows| rows as usize);
    if rows == 0 || rows > MODULE_HEIGHT || !rows.is_multiple_of(ROWS_STEP) {
        let allowed = format!("multiples of {ROWS_STEP} up to {MODULE_HEIGHT}");
        return Err(DetectorConfigError::field("readnrows", rows.to_string(), &allowed));
    }
    Ok(rows)
}

/// The runs of a module's rows that are read, from `y0` to `y1`. A position with room for the gaps between the chips
/// has them; one without has chips side by side. One that is too small for all rows is that of the rows read.
fn module_runs(base: &Base, module: u32, rows_read: usize) -> Result<Vec<PixelRun>, DetectorConfigError> {
    let [x0, y0, x1, y1] = base.positions[&module];
    let columns = x1.checked_sub(x0).and_then(|last| last.checked_add(1));
    let rows = y1.checked_sub(y0).and_then(i64::checked_abs).and_then(|last| last.checked_add(1));
    // Four chips side by side, two above each other.
    let is_size = |gap: usize, height: usize| {
        columns == Some((MODULE_WIDTH + 3 * gap) as i64) && rows == Some((height + gap) as i64)
    };
    let gap = [0, CHIP_GAP].into_iter().find(|&gap| is_size(gap, MODULE_HEIGHT) || is_size(gap, rows_read));
    let Some(gap) = gap else {
        return Err(base.wrong_position(
            module,
            "[x0, y0, x1, y1] with x1 - x0 = 1023 and |y1 - y0| = 511 or, with the gaps between chips, 1029 and 513 \
             (or 1 less, or 1 more, than readnrows)",
        ));
    };
    base.check_inside(module)?;
    let skipped = if rows == Some((MODULE_HEIGHT + gap) as i64) { 0 } else { (MODULE_HEIGHT - rows_read) / 2 };
    let step = if y1 < y0 { -1 } else { 1 };
    let first_row = (MODULE_HEIGHT - rows_read) / 2;
    let row = |row: usize| {
        let y = y0 + (row - skipped + row / CHIP * gap) as i64 * step;
        let first = y as usize * base.width + x0 as usize;
        (0..MODULE_WIDTH / CHIP).map(move |chip| PixelRun { first: first + chip * (CHIP + gap), pixels: CHIP })
    };
    Ok((first_row..first_row + rows_read).flat_map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detector::{HeaderError, PacketHeader};

    fn detector(text: &str) -> Result<Detector, DetectorConfigError> {
        let text = format!("detector_type = \"jungfrau\"\nstart_udp_port = 50000\n{text}");
        DetectorConfig::from_toml(&text).and_then(|config| config.detector())
    }

    const STACKED: &str = "n_modules = 2\nimage_pixel_height = 1024\nimage_pixel_width = 1024\n\
        [module_positions]\n0 = [0, 0, 1023, 511]\n1 = [0, 512, 1023, 1023]";

    #[test]
    fn packets_are_four_rows_each_with_and_without_gaps_between_chips() {
        let stacked = detector(STACKED).expect("valid").placement;
        assert_eq!((stacked.packets_per_module, stacked.modules, stacked.payload_bytes), (128, 2, 8192));
        let whole = |packet: usize| {
            let segments = stacked.segments(packet);
            (segments.len(), segments[0].offset_bytes, segments[0].len_bytes)
        };
        assert_eq!((whole(0), whole(129)), ((1, 0, 8192), (1, (512 + 4) * 2048, 8192)));
        let four = detector("model = \"4M\"").expect("valid").placement;
        assert_eq!((four.height, four.width, four.modules), (2164, 2068, 8));
        let first = four.segments(0);
        assert_eq!((first.len(), first[0].offset_bytes), (16, 2163 * 2068 * 2), "rows run upwards");
        assert_eq!(first[1].offset_bytes, (2163 * 2068 + 258) * 2);
        assert_eq!(four.segments(64)[0].offset_bytes, (2163 - 258) * 2068 * 2, "behind the gap in the middle");
        let pixels = four.pixel_mask().iter().filter(|&&pixel| pixel == 0).count();
        assert_eq!(pixels, 8 * MODULE_WIDTH * MODULE_HEIGHT);
    }

    #[test]
    fn two_interfaces_bring_the_same_pixels_as_one() {
        let one = detector(STACKED).expect("valid").placement;
        let two = detector(&format!("numinterfaces = 2\n{STACKED}")).expect("valid").placement;
        assert_eq!((two.modules, two.packets_per_module), (4, 64));
        assert_eq!(two.ports, [50000, 50001, 50002, 50003]);
        for packet in 0..256 {
            assert_eq!(one.segments(packet), two.segments(packet));
        }
    }

    #[test]
    fn fewer_rows_keep_their_packet_numbers_on_one_and_on_two_interfaces() {
        let part = detector("model = \"500K\"\nreadnrows = 16").expect("valid");
        assert_eq!((part.placement.height, part.placement.packets_per_module), (18, 4));
        assert_eq!(part.wire.packet_number.first, [62]);
        assert_eq!(part.placement.segments(0)[0].offset_bytes, 17 * 1030 * 2);
        let two = detector("model = \"500K\"\nreadnrows = 16\nnuminterfaces = 2").expect("valid");
        assert_eq!(two.wire.packet_number.first, [62, 0]);
        let maps = two.gain_maps.expect("it switches gains");
        assert_eq!((maps.modules.as_slice(), maps.maps()), (&[(0, 248 * 1024), (0, 256 * 1024)][..], 1));
        assert_eq!(two.placement.segments(2)[0].offset_bytes, 7 * 1030 * 2, "the upper half begins at the middle");
        let inside = detector(&format!("readnrows = 16\n{STACKED}")).expect("valid").placement;
        assert_eq!((inside.height, inside.segments(0)[0].offset_bytes), (1024, 248 * 2048));
        for rows in [0, 4, 513, 520] {
            assert!(detector(&format!("model = \"4M\"\nreadnrows = {rows}")).is_err(), "{rows}");
        }
    }

    #[test]
    fn image_id_is_the_frame_number_or_the_bunch_id_as_number_or_float() {
        let mut packet = [0_u8; 56];
        packet[0..8].copy_from_slice(&2_u64.to_le_bytes());
        packet[12..16].copy_from_slice(&127_u32.to_le_bytes());
        (packet[46], packet[47]) = (3, 2);
        let read = |image_id: &str, packet: &[u8]| {
            let detector = detector(&format!("image_id = {image_id:?}\n{STACKED}")).expect("valid");
            detector.read_header(packet, 0).map(|header| (header.image_id, header.number))
        };
        packet[16..24].copy_from_slice(&77_u64.to_le_bytes());
        assert_eq!(read("frame_number", &packet), Ok((2, 127)));
        assert_eq!(read("bunch_id", &packet), Ok((77, 127)));
        packet[16..24].copy_from_slice(&5.0_f64.to_le_bytes());
        assert_eq!(read("bunch_id_f64", &packet), Ok((5, 127)));
        packet[46] = 1;
        assert_eq!(read("frame_number", &packet), Err(HeaderError::Foreign));
        assert!(detector(&format!("image_id = \"pulse\"\n{STACKED}")).is_err());
    }

    #[test]
    fn what_a_simulator_writes_is_read_back_on_both_interfaces() {
        let two = detector("model = \"500K\"\nreadnrows = 16\nnuminterfaces = 2").expect("valid");
        let of = PacketHeader { image_id: 9, number: 1, timestamp: 3, exposure_length: 4, do_not_store: false };
        for (module, number) in [(0, 63_u32), (1, 1)] {
            let mut packet = [0; 48];
            two.wire.write(&mut packet, module, &of);
            assert_eq!(packet[12..16], number.to_le_bytes());
            assert_eq!(two.read_header(&packet, module), Ok(of));
        }
    }
}
