//! Any other detector, described in TOML. `spec/detectors.md` has the table of its fields.
//!
//! ```toml
//! detector_type = "moench"
//! start_udp_port = 50001
//! [module]                          # what a module sends: rows of pixels, one after the other
//! columns = 400
//! rows = 400
//! bit_depth = 16
//! [packet]
//! header_bytes = 48
//! payload_bytes = 6400
//! [fields]                          # where they lie in the header
//! image_id = { offset = 0, bytes = 8 }
//! packet_number = { offset = 12, bytes = 4 }
//! check = [{ offset = 46, bytes = 1, value = 5 }]
//! ```
//!
//! The result is the same as a detector module's: its packets are received as fast.

use super::{
    Detector,
    config::{Base, DetectorConfig, DetectorConfigError},
    grid::Position,
    placement::{Frame, Modules, PACKET_BYTES_MAX, PacketLengths, PixelRun, Placement, pixel_of_bit_depth},
    wire::{ByteOrder, Check, Field, PacketNumber, WireFormat},
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Descriptions that ship with ECS, by their `detector_type`.
pub const SHIPPED: [(&str, &str); 4] = [
    ("moench", include_str!("../../detectors/moench.toml")),
    ("mythen3", include_str!("../../detectors/mythen3.toml")),
    ("gotthard2", include_str!("../../detectors/gotthard2.toml")),
    ("dummyudp", include_str!("../../detectors/dummyudp.toml")),
];

/// Longest header: many times the longest known.
const HEADER_BYTES_MAX: usize = 1024;
/// Rows, columns and gaps of a module, at most: as of an image.
const SIDE_MAX: usize = super::config::IMAGE_PIXELS_MAX;
/// Ports of one module, at most.
const PORTS_PER_MODULE_MAX: usize = 64;
/// Modules in a row or a column, at most.
const MODULES_IN_LINE_MAX: u32 = 64;
/// Runs of pixels of all modules: each is a row of a chip. More would fill the memory with their places.
const RUNS_MAX: usize = 1 << 24;

/// What a description says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    detector_type: String,
    #[serde(default)]
    detector_name: String,
    start_udp_port: Option<u16>,
    modules: Option<[u32; 2]>,
    image_pixel_height: Option<usize>,
    image_pixel_width: Option<usize>,
    #[serde(default)]
    module_positions: BTreeMap<String, Position>,
    #[serde(default)]
    udp_ports: Vec<u16>,
    #[serde(default)]
    deactivate: Vec<u32>,
    module: ModuleText,
    packet: PacketText,
    fields: FieldsText,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModuleText {
    columns: usize,
    rows: usize,
    bit_depth: u32,
    /// Ports that share a module: each carries as many of its rows, the first port the first ones.
    #[serde(default = "one")]
    ports: usize,
    /// Columns and rows of a chip, and pixels between two chips in the image.
    chip: Option<[usize; 2]>,
    #[serde(default)]
    chip_gap: [usize; 2],
    /// Pixels between two modules in the image.
    #[serde(default)]
    gap: [usize; 2],
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct PacketText {
    header_bytes: usize,
    payload_bytes: usize,
    /// The last packet of a module: as long as the pixels that are left, or as all others.
    #[serde(default)]
    last: Last,
    #[serde(default)]
    byte_order: ByteOrder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Last {
    #[default]
    Short,
    Full,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldsText {
    image_id: FieldText,
    packet_number: FieldText,
    timestamp: Option<FieldText>,
    exposure_length: Option<FieldText>,
    do_not_store: Option<FieldText>,
    #[serde(default)]
    check: Vec<FieldText>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldText {
    offset: usize,
    bytes: usize,
    byte_order: Option<ByteOrder>,
    bit: Option<u32>,
    bits: Option<u32>,
    /// `u64` or `f64`.
    #[serde(rename = "type")]
    of_type: Option<String>,
    /// Of the packet number: what it counts by, and what the first packet has.
    step: Option<u64>,
    first: Option<u64>,
    /// Of a check.
    value: Option<u64>,
}

fn one() -> usize {
    1
}

/// The description that ships under this name.
pub fn shipped(detector_type: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(name, _)| *name == detector_type).map(|(_, text)| *text)
}

/// Reads a description.
pub(super) fn parse(text: &str) -> Result<Description, DetectorConfigError> {
    toml::from_str(text).map_err(|error| DetectorConfigError::Syntax(error.to_string().trim_end().to_owned()))
}

/// The configuration of a detector with a description of its own.
pub(super) fn read(text: &str) -> Result<DetectorConfig, DetectorConfigError> {
    let description = parse(text)?;
    Ok(DetectorConfig {
        detector_type: description.detector_type.clone(),
        start_udp_port: description.start_udp_port,
        description: Some(Box::new(description)),
        ..DetectorConfig::default()
    })
}

/// The detector. What the configuration says beside the description goes before it.
pub(super) fn detector(config: &DetectorConfig, description: &Description) -> Result<Detector, DetectorConfigError> {
    let config = &with_description(config, description)?;
    let module = &description.module;
    check_limits(description)?;
    let depth = pixel_of_bit_depth(module.bit_depth);
    let wrong_depth = || wrong("module.bit_depth", module.bit_depth, "4, 8, 12, 16 or 32");
    let (pixel, packing) = depth.ok_or_else(wrong_depth)?;
    let stream_pixels = module.rows / module.ports * module.columns;
    let stream_bits = stream_pixels * packing.bits(pixel);
    let payload_bytes = description.packet.payload_bytes;
    if !stream_bits.is_multiple_of(8) {
        return Err(wrong("module.columns", module.columns, "pixels of a module that are whole bytes"));
    }
    if packing.bits(pixel).is_multiple_of(8) && !payload_bytes.is_multiple_of(pixel.bytes()) {
        return Err(wrong("packet.payload_bytes", payload_bytes, "whole pixels"));
    }
    let base = place_modules(config, description)?;
    let runs = module.columns.div_ceil(module.chips()[0]) * module.rows * base.positions.len();
    if runs > RUNS_MAX {
        return Err(wrong("module.chip", runs, &format!("up to {RUNS_MAX} rows of chips in an image")));
    }
    let mut modules = Modules::default();
    let mut ports = Vec::new();
    for &number in base.positions.keys() {
        let runs = module_runs(&base, number, module)?;
        let parts = runs.chunks(runs.len() / module.ports).map(<[PixelRun]>::to_vec);
        if base.is_off(number) {
            modules.off.extend(parts);
        } else {
            modules.on.extend(parts);
            for part in 0..module.ports as u32 {
                ports.push(base.port(number * module.ports as u32 + part)?);
            }
        }
    }
    let filled = PacketLengths::filled(payload_bytes, stream_bits / 8);
    let frame = Frame {
        height: base.height,
        width: base.width,
        pixel,
        packing,
        header_bytes: description.packet.header_bytes,
        packets: match description.packet.last {
            Last::Short => filled,
            Last::Full => PacketLengths { last_payload_bytes: payload_bytes, ..filled },
        },
        ports,
    };
    let (wire, placement) = (wire(description)?, Placement::new(frame, modules)?);
    check_numbers(&wire.packet_number, placement.packets_per_module)?;
    let (name, detector_type) = (config.name().to_owned(), config.detector_type.clone());
    Ok(Detector { name, detector_type, wire, placement, gain_maps: None })
}

/// The field of the packet number holds that of the last packet, or packets could not be told from one another.
fn check_numbers(number: &PacketNumber, packets: usize) -> Result<(), DetectorConfigError> {
    let first = number.first.first().copied().unwrap_or(0);
    let last = (packets as u64 - 1).checked_add(first).and_then(|last| last.checked_mul(number.step));
    if last.is_some_and(|last| last <= number.field.max()) {
        return Ok(());
    }
    let allowed = format!("room for {packets} packets, counted by {} from {first} on", number.step);
    Err(wrong("fields.packet_number", format!("at most {}", number.field.max()), &allowed))
}

/// The configuration, with the description's values where it has none.
fn with_description(config: &DetectorConfig, description: &Description) -> Result<DetectorConfig, DetectorConfigError> {
    let mut config = config.clone();
    if config.detector_name.is_empty() {
        config.detector_name.clone_from(&description.detector_name);
    }
    if config.modules.is_none() && config.module_positions.is_empty() {
        config.modules = description.modules;
        for (module, &position) in &description.module_positions {
            let number = module.parse().map_err(|_| wrong("module_positions", module, "numbers of modules"))?;
            config.module_positions.insert(number, position);
        }
        config.image_pixel_height = config.image_pixel_height.or(description.image_pixel_height);
        config.image_pixel_width = config.image_pixel_width.or(description.image_pixel_width);
    }
    if config.udp_ports.is_empty() {
        config.udp_ports.clone_from(&description.udp_ports);
    }
    if config.deactivate.is_empty() {
        config.deactivate.clone_from(&description.deactivate);
    }
    if config.bit_depth.is_some() {
        return Err(wrong("bit_depth", "a value", "none: the description of this detector says it"));
    }
    config.check_settings(&["modules", "deactivate"])?;
    Ok(config)
}

fn wrong(field: &str, found: impl ToString, allowed: &str) -> DetectorConfigError {
    DetectorConfigError::field(field, found.to_string(), allowed)
}

fn check_limits(description: &Description) -> Result<(), DetectorConfigError> {
    let Description { module, packet, .. } = description;
    let [chip_columns, chip_rows] = module.chip.unwrap_or([module.columns, module.rows]);
    for (field, found, max) in [
        ("module.columns", module.columns, SIDE_MAX),
        ("module.rows", module.rows, SIDE_MAX),
        ("module.ports", module.ports, PORTS_PER_MODULE_MAX),
        ("module.chip", chip_columns, module.columns),
        ("module.chip", chip_rows, module.rows),
        ("packet.header_bytes", packet.header_bytes, HEADER_BYTES_MAX),
        ("packet.payload_bytes", packet.payload_bytes, PACKET_BYTES_MAX.saturating_sub(packet.header_bytes)),
    ] {
        if found == 0 || found > max {
            return Err(wrong(field, found, &format!("1 to {max}")));
        }
    }
    for (field, gap) in [("module.gap", module.gap), ("module.chip_gap", module.chip_gap)] {
        if gap.iter().any(|&pixels| pixels > SIDE_MAX) {
            return Err(wrong(field, format!("{gap:?}"), &format!("pixels across and along, up to {SIDE_MAX}")));
        }
    }
    if !module.rows.is_multiple_of(module.ports) {
        return Err(wrong("module.ports", module.ports, "a divisor of module.rows: each port has as many rows"));
    }
    Ok(())
}

impl ModuleText {
    fn chips(&self) -> [usize; 2] {
        self.chip.unwrap_or([self.columns, self.rows])
    }

    /// Columns and rows in the image, gaps between chips included.
    fn size(&self) -> [usize; 2] {
        let [chip_columns, chip_rows] = self.chips();
        let gaps = |pixels: usize, chip: usize, gap: usize| (pixels.div_ceil(chip) - 1) * gap;
        [
            self.columns + gaps(self.columns, chip_columns, self.chip_gap[0]),
            self.rows + gaps(self.rows, chip_rows, self.chip_gap[1]),
        ]
    }
}

/// Modules where the configuration says, or row by row from the upper left.
fn place_modules<'a>(config: &'a DetectorConfig, description: &Description) -> Result<Base<'a>, DetectorConfigError> {
    let module = &description.module;
    if !config.module_positions.is_empty() {
        let with_count = config.n_modules.is_some();
        return match with_count {
            true => config.given_positions(module.ports as u32),
            false => given_without_count(config),
        };
    }
    let [columns, rows] = config.modules.unwrap_or([1, 1]);
    if [columns, rows].iter().any(|count| !(1..=MODULES_IN_LINE_MAX).contains(count)) {
        let allowed = format!("[columns, rows] of modules, each 1 to {MODULES_IN_LINE_MAX}");
        return Err(wrong("modules", format!("[{columns}, {rows}]"), &allowed));
    }
    let ([width, height], [gap_x, gap_y]) = (module.size(), module.gap);
    let position = |number: u32| {
        let x0 = ((number % columns) as usize * (width + gap_x)) as i64;
        let y0 = ((number / columns) as usize * (height + gap_y)) as i64;
        (number, [x0, y0, x0 + width as i64 - 1, y0 + height as i64 - 1])
    };
    let side = |count: u32, pixels: usize, gap: usize| count as usize * (pixels + gap) - gap;
    let positions = (0..columns * rows).map(position).collect();
    config.with_positions(side(rows, height, gap_y), side(columns, width, gap_x), positions)
}

fn given_without_count(config: &DetectorConfig) -> Result<Base<'_>, DetectorConfigError> {
    let missing = DetectorConfigError::missing;
    let height = config.image_pixel_height.ok_or_else(|| missing("image_pixel_height", "rows of the image"))?;
    let width = config.image_pixel_width.ok_or_else(|| missing("image_pixel_width", "columns of the image"))?;
    if let Some((at, module)) = config.module_positions.keys().enumerate().find(|(at, module)| **module != *at as u32) {
        return Err(wrong("module_positions", module, &format!("module {at}: they are numbered from 0")));
    }
    config.with_positions(height, width, config.module_positions.clone())
}

/// The runs of a module, row by row from `y0` to `y1`.
fn module_runs(base: &Base, number: u32, module: &ModuleText) -> Result<Vec<PixelRun>, DetectorConfigError> {
    let [x0, y0, x1, y1] = base.positions[&number];
    let [width, height] = module.size();
    let is_size =
        |from: i64, to: i64, pixels: usize| to.checked_sub(from).and_then(i64::checked_abs) == Some(pixels as i64 - 1);
    if x1 < x0 || !is_size(x0, x1, width) || !is_size(y0, y1, height) {
        let allowed = format!("[x0, y0, x1, y1] with x1 - x0 = {} and |y1 - y0| = {}", width - 1, height - 1);
        return Err(base.wrong_position(number, &allowed));
    }
    base.check_inside(number)?;
    let ([chip_columns, chip_rows], [gap_x, gap_y]) = (module.chips(), module.chip_gap);
    let step = if y1 < y0 { -1 } else { 1 };
    let row = |row: usize| {
        let y = y0 + (row + row / chip_rows * gap_y) as i64 * step;
        let first = y as usize * base.width + x0 as usize;
        (0..module.columns.div_ceil(chip_columns)).map(move |chip| PixelRun {
            first: first + chip * (chip_columns + gap_x),
            pixels: chip_columns.min(module.columns - chip * chip_columns),
        })
    };
    Ok((0..module.rows).flat_map(row).collect())
}

fn wire(description: &Description) -> Result<WireFormat, DetectorConfigError> {
    let (packet, fields) = (&description.packet, &description.fields);
    let field = |name: &str, text: &FieldText| read_field(&format!("fields.{name}"), text, packet);
    let optional = |name: &str, text: &Option<FieldText>| text.as_ref().map(|text| field(name, text)).transpose();
    let check = |text: &FieldText| {
        let of = field("check", text)?;
        let value = text.value.ok_or_else(|| DetectorConfigError::missing("fields.check.value", "a number"))?;
        if value > of.max() {
            return Err(wrong("fields.check.value", value, &format!("up to {}, what the field holds", of.max())));
        }
        Ok(Check { field: of, values: vec![value] })
    };
    let step = fields.packet_number.step.unwrap_or(1);
    if step == 0 {
        return Err(wrong("fields.packet_number.step", 0, "1 or more"));
    }
    let first = fields.packet_number.first.unwrap_or(0);
    if first > u64::from(u32::MAX) {
        return Err(wrong("fields.packet_number.first", first, &format!("up to {}", u32::MAX)));
    }
    Ok(WireFormat {
        header_bytes: packet.header_bytes,
        image_id: field("image_id", &fields.image_id)?,
        packet_number: PacketNumber { field: field("packet_number", &fields.packet_number)?, step, first: vec![first] },
        timestamp: optional("timestamp", &fields.timestamp)?,
        exposure_length: optional("exposure_length", &fields.exposure_length)?,
        do_not_store: optional("do_not_store", &fields.do_not_store)?,
        checks: fields.check.iter().map(check).collect::<Result<_, _>>()?,
    })
}

fn read_field(name: &str, text: &FieldText, packet: &PacketText) -> Result<Field, DetectorConfigError> {
    if !(1..=8).contains(&text.bytes) {
        return Err(wrong(&format!("{name}.bytes"), text.bytes, "1 to 8"));
    }
    let end = text.offset.checked_add(text.bytes);
    if end.is_none_or(|end| end > packet.header_bytes) {
        let allowed = format!("fields inside the {} bytes of the header", packet.header_bytes);
        return Err(wrong(&format!("{name}.offset"), text.offset, &allowed));
    }
    let order = text.byte_order.unwrap_or(packet.byte_order);
    let whole = match text.of_type.as_deref() {
        None | Some("u64") => Field::new(text.offset, text.bytes, order),
        Some("f64") if text.bytes == 8 && text.bit.is_none() && text.bits.is_none() => Field::float(text.offset, order),
        Some(other) => return Err(wrong(&format!("{name}.type"), other, "\"u64\", or \"f64\" of 8 whole bytes")),
    };
    let (bit, all) = (text.bit.unwrap_or(0), 8 * text.bytes as u32);
    if bit >= all {
        return Err(wrong(&format!("{name}.bit"), bit, &format!("0 to {}", all - 1)));
    }
    match text.bits.unwrap_or(all - bit) {
        bits if bits == all => Ok(whole),
        bits if bits >= 1 && bits <= all - bit => Ok(whole.bits(bit, bits)),
        bits => Err(wrong(&format!("{name}.bits"), bits, &format!("1 to {}", all - bit))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detector::{HeaderError, PacketHeader, PixelType};

    const MADE_UP: &str = r#"
        detector_type = "made-up"
        start_udp_port = 6000
        modules = [2, 1]
        [module]
        columns = 6
        rows = 4
        bit_depth = 16
        ports = 2
        chip = [3, 4]
        chip_gap = [1, 0]
        gap = [2, 0]
        [packet]
        header_bytes = 12
        payload_bytes = 16
        byte_order = "big"
        [fields]
        image_id = { offset = 0, bytes = 6 }
        packet_number = { offset = 6, bytes = 2, bit = 2, bits = 6, step = 10, first = 1 }
        check = [{ offset = 11, bytes = 1, value = 77 }]
    "#;

    fn made_up(from: &str, to: &str) -> Result<Detector, DetectorConfigError> {
        let text = MADE_UP.replacen(from, to, 1);
        assert!(from.is_empty() || text != MADE_UP, "{from} is not in the description");
        DetectorConfig::from_toml(&text).and_then(|config| config.detector())
    }

    #[test]
    fn a_made_up_detector_has_its_packets_and_pixels_where_its_description_says() {
        let detector = made_up("", "").expect("valid");
        let placement = &detector.placement;
        assert_eq!((placement.height, placement.width, placement.pixel), (4, 16, PixelType::U16));
        assert_eq!((placement.modules, &placement.ports[..]), (4, &[6000, 6001, 6002, 6003][..]));
        // 12 pixels a port: 8 in the first packet, 4 in the second.
        assert_eq!((placement.packets_per_module, placement.last_payload_bytes), (2, 8));
        let pixels = |packet: usize| -> Vec<(u32, u32)> {
            placement.segments(packet).iter().map(|of| (of.offset_bytes / 2, of.len_bytes / 2)).collect()
        };
        assert_eq!(pixels(0), [(0, 3), (4, 3), (16, 2)]);
        assert_eq!(pixels(1), [(18, 1), (20, 3)]);
        assert_eq!(pixels(4)[0], (9, 3), "the second module, 7 columns and a gap of 2 to the right");
        assert_eq!(pixels(2)[0], (32, 3), "the second port of the first module");
        let mut header = [0; 12];
        let of = PacketHeader { image_id: 0x0102, number: 1, timestamp: 0, exposure_length: 0, do_not_store: false };
        detector.wire.write(&mut header, 0, &of);
        assert_eq!(header, [0, 0, 0, 0, 1, 2, 0, 20 << 2, 0, 0, 0, 77]);
        assert_eq!(detector.read_header(&header, 0), Ok(of));
        header[11] = 76;
        assert_eq!(detector.read_header(&header, 0), Err(HeaderError::Foreign));
    }

    #[test]
    fn each_wrong_value_of_a_description_is_named_with_what_is_allowed() {
        for (from, to, expected) in [
            ("columns = 6", "columns = 0", "module.columns = 0; allowed: 1 to 65535"),
            ("columns = 6\n", "", "missing field `columns`"),
            ("bit_depth = 16", "bit_depth = 24", "module.bit_depth = 24; allowed: 4, 8, 12, 16 or 32"),
            ("ports = 2", "ports = 3", "a divisor of module.rows"),
            ("chip = [3, 4]", "chip = [0, 4]", "module.chip = 0"),
            ("header_bytes = 12", "header_bytes = 11", "fields.check.offset = 11; allowed: fields inside the 11"),
            ("payload_bytes = 16", "payload_bytes = 15", "packet.payload_bytes = 15; allowed: whole pixels"),
            ("payload_bytes = 16", "payload_bytes = 65500", "allowed: 1 to 65495"),
            ("bytes = 6", "bytes = 9", "fields.image_id.bytes = 9; allowed: 1 to 8"),
            ("bits = 6", "bits = 15", "fields.packet_number.bits = 15; allowed: 1 to 14"),
            ("bit = 2", "bit = 16", "fields.packet_number.bit = 16; allowed: 0 to 15"),
            ("step = 10", "step = 0", "fields.packet_number.step = 0"),
            (
                "bits = 6",
                "bits = 4",
                "fields.packet_number = at most 15; allowed: room for 2 packets, counted by 10 from 1 on",
            ),
            ("step = 10", "step = 0x4000000000000000", "allowed: room for 2 packets"),
            ("first = 1", "first = 4294967295", "allowed: room for 2 packets"),
            ("start_udp_port = 6000", "udp_ports = [6000, 6001, 6002, 6001]", "port 6001 at the indexes 1 and 3"),
            ("value = 77", "value = 256", "fields.check.value = 256; allowed: up to 255"),
            (", value = 77", "", "fields.check.value is missing"),
            ("columns = 6", "colums = 6", "unknown field `colums`"),
            ("modules = [2, 1]", "modules = [0, 1]", "modules = [0, 1]"),
            ("gap = [2, 0]", "gap = [65536, 0]", "module.gap = [65536, 0]"),
            (
                "columns = 6\n        rows = 4\n        bit_depth = 16\n        ports = 2\n        chip = [3, 4]\n        chip_gap = [1, 0]",
                "columns = 30000\nrows = 30000\nbit_depth = 16\nports = 2\nchip = [1, 1]",
                "rows of chips in an image",
            ),
            ("start_udp_port = 6000", "", "start_udp_port is missing"),
            ("start_udp_port = 6000", "start_udp_port = 65534", "ports up to 65535"),
        ] {
            let error = made_up(from, to).expect_err(to).to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }

    #[test]
    fn modules_may_be_placed_one_by_one_and_turned_off() {
        let positions = "image_pixel_height = 8\nimage_pixel_width = 7\ndeactivate = [1]\n\
            module_positions = { 0 = [0, 3, 6, 0], 1 = [0, 4, 6, 7] }";
        let placement = made_up("modules = [2, 1]", positions).expect("valid").placement;
        assert_eq!((placement.modules, &placement.ports[..]), (2, &[6000, 6001][..]));
        assert_eq!(placement.segments(0)[0].offset_bytes, 3 * 7 * 2, "rows run upwards");
        assert_eq!(placement.pixel_mask()[4 * 7], super::super::placement::PIXEL_OFF);
        let wrong = made_up("modules = [2, 1]", &positions.replace("0, 3, 6, 0", "0, 3, 5, 0"));
        assert!(wrong.is_err_and(|error| error.to_string().contains("module_positions.0 = [0, 3, 5, 0]")));
    }

    #[test]
    fn descriptions_that_ship_are_those_of_their_sources() {
        let of = |detector_type: &str| {
            let text = format!("detector_type = {detector_type:?}\nstart_udp_port = 50001");
            let detector = DetectorConfig::from_toml(&text).and_then(|config| config.detector()).expect(detector_type);
            let placement = detector.placement;
            let size = (placement.height, placement.width, placement.pixel.bytes());
            (size, placement.packets_per_module, placement.packet_bytes(), placement.last_packet_bytes())
        };
        assert_eq!(of("moench"), ((400, 400, 2), 50, 48 + 6400, 48 + 6400));
        assert_eq!(of("mythen3"), ((1, 3840, 4), 2, 48 + 7680, 48 + 7680));
        assert_eq!(of("gotthard2"), ((1, 1280, 2), 1, 48 + 2560, 48 + 2560));
        assert_eq!(of("dummyudp"), ((1024, 1400, 2), 359, 8 + 8000, 8 + 3200));
        let more = "detector_type = \"gotthard2\"\nstart_udp_port = 50001\nmodules = [2, 3]\ndetector_name = \"G2\"";
        let detector = DetectorConfig::from_toml(more).and_then(|config| config.detector()).expect("valid");
        assert_eq!((detector.name.as_str(), detector.placement.modules), ("G2", 6));
        let unused = DetectorConfig::from_toml(&format!("{more}\ntengiga = true"));
        assert!(unused.is_err_and(|error| error.to_string().contains("tengiga")));
    }

    #[test]
    fn dummy_udp_marks_the_first_and_last_packet_beside_its_number() {
        let text = "detector_type = \"dummyudp\"\nstart_udp_port = 61649";
        let detector = DetectorConfig::from_toml(text).and_then(|config| config.detector()).expect("valid");
        let packet = |number: u32| [7_u32.to_le_bytes(), number.to_le_bytes()].concat();
        let read = |number: u32| detector.read_header(&packet(number), 0).map(|of| (of.image_id, of.number));
        assert_eq!(read(1 << 31), Ok((7, 0)));
        assert_eq!(read(1 << 30 | 358), Ok((7, 358)));
        assert_eq!(read(359), Err(HeaderError::Number));
    }
}
