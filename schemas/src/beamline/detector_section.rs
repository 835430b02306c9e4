//! The detector of a beamline: fields inline in the TOML, or a file that it names.
//!
//! Fields inline and those of a std-daq JSON file become one table of JSON values and are read by one function, so a
//! field means the same in both. Other files (a description, an slsDetector `.config`) have readers of their own. An
//! error points into the file that has the field.

use super::{
    Problem,
    section::{Report, Section, shorten},
};
use crate::detector::{
    Detector, DetectorConfig, DetectorConfigError,
    config::{is_field, types_text},
};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::{collections::BTreeMap, io, path::Path};
use toml::de::DeValue;

/// Reads a file's text; the parser itself opens none.
pub(super) type Load<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

type Fields = serde_json::Map<String, Json>;
/// Field (`bit_depth`, `module_positions.2`) and what is wrong with it.
type FieldErrors = Vec<(String, Problem)>;

/// The detector, or `None` with its errors on the report.
pub(super) fn read(section: &Section, folder: &Path, load: Load, report: &mut Report) -> Option<Detector> {
    if section.value("config").is_none() {
        return inline(section, report);
    }
    if let Some((key, _)) = section.keys().find(|(key, _)| is_field(key)) {
        let allowed = "the fields of the detector here, or config with its file, not both".to_owned();
        section.wrong(report, key, "", allowed);
        return None;
    }
    let path = folder.join(section.text(report, "config", "the path of a detector's file")?);
    match load(&path) {
        Ok(text) if is_json(&path) => from_json_file(&path, &text, report),
        Ok(text) => from_other_file(&path, &text, report),
        Err(error) => {
            let at_byte = section.value("config").map_or(0, |value| value.span().start);
            report.add(at_byte, &section.path("config"), Problem::Unreadable { path, reason: error.to_string() });
            None
        }
    }
}

/// Any name is that of a JSON file, but for those of the other two kinds.
fn is_json(path: &Path) -> bool {
    path.extension().is_none_or(|extension| extension != "toml" && extension != "config")
}

fn inline(section: &Section, report: &mut Report) -> Option<Detector> {
    if section.keys().next().is_none() {
        let allowed = "config = \"detector.json\", or the detector's fields in [detector]";
        section.missing(report, "config", allowed);
        return None;
    }
    let fields = section.keys().map(|(key, value)| (key.to_owned(), to_json(value.get_ref()))).collect();
    let (detector, errors) = read_fields(&fields);
    for (field, problem) in errors {
        let (key, entry) = field.split_once('.').unwrap_or((&field, ""));
        let value = section.value(key);
        let inner = value.and_then(|value| value.get_ref().as_table()?.get(entry));
        let at_byte = inner.or(value).map_or(section.at_byte, |value| value.span().start);
        report.add(at_byte, &section.path(&field), problem);
    }
    detector
}

fn from_json_file(path: &Path, text: &str, report: &mut Report) -> Option<Detector> {
    let mut of_file = Report::new(path, text);
    let detector = match serde_json::from_str::<Fields>(text) {
        Ok(fields) => {
            let (detector, errors) = read_fields(&fields);
            for (field, problem) in errors {
                of_file.add(json_position(text, &field), &field, problem);
            }
            detector
        }
        Err(error) => {
            let line_start =
                text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum::<usize>();
            let at_byte = line_start + error.column().saturating_sub(1);
            of_file.add(at_byte, "", Problem::Syntax(format!("not a JSON object of detector fields: {error}")));
            None
        }
    };
    report.errors.extend(of_file.errors);
    detector
}

/// A description, or an slsDetector file: their readers say where the text is wrong, and stop at the first error.
fn from_other_file(path: &Path, text: &str, report: &mut Report) -> Option<Detector> {
    let error = match DetectorConfig::read_file(path, text).and_then(|config| config.detector()) {
        Ok(detector) => return Some(detector),
        Err(error) => error,
    };
    let mut of_file = Report::new(path, text);
    let (field, problem) = problem(error);
    let at_byte = field.split('.').fold(0, |from, part| text[from..].find(part).map_or(from, |at| from + at));
    of_file.add(at_byte, &field, problem);
    report.errors.extend(of_file.errors);
    None
}

/// Reads all fields and then checks them together. Every error is returned, not only the first.
fn read_fields(fields: &Fields) -> (Option<Detector>, FieldErrors) {
    let mut errors = Vec::new();
    let config = read_config(fields, &mut errors);
    let detector = config.filter(|_| errors.is_empty()).and_then(|config| check(&config, &mut errors));
    (detector, errors)
}

fn read_config(fields: &Fields, errors: &mut FieldErrors) -> Option<DetectorConfig> {
    let types = types_text();
    let detector_type: Option<String> = field(fields, "detector_type", &types, errors);
    let config = DetectorConfig {
        detector_name: optional(fields, "detector_name", "a name", errors).unwrap_or_default(),
        start_udp_port: optional(fields, "start_udp_port", "a port from 1 to 65535", errors),
        n_modules: optional(fields, "n_modules", "the number of modules", errors),
        bit_depth: optional(fields, "bit_depth", "8, 16 or 32; EIGER: 4 and 12 as well", errors),
        image_pixel_height: optional(fields, "image_pixel_height", "rows of the image", errors),
        image_pixel_width: optional(fields, "image_pixel_width", "columns of the image", errors),
        model: optional(fields, "model", "a name, for example \"9M\"", errors),
        modules: optional(fields, "modules", "[columns, rows] of modules", errors),
        udp_ports: optional(fields, "udp_ports", "[port, ...], each 1 to 65535", errors).unwrap_or_default(),
        deactivate: optional(fields, "deactivate", "[module, ...]", errors).unwrap_or_default(),
        tengiga: optional(fields, "tengiga", "true or false", errors),
        readnrows: optional(fields, "readnrows", "rows that are read", errors),
        numinterfaces: optional(fields, "numinterfaces", "1 or 2", errors),
        octets: optional(fields, "octets", "1 or 2", errors),
        image_id: optional(fields, "image_id", "\"frame_number\", \"bunch_id\" or \"bunch_id_f64\"", errors),
        module_positions: match optional(fields, "module_positions", POSITIONS, errors) {
            Some(positions) => module_positions(&positions, errors),
            None => BTreeMap::new(),
        },
        ..DetectorConfig::default()
    };
    require_geometry(fields, detector_type.as_deref(), errors);
    Some(DetectorConfig { detector_type: detector_type?, ..config })
}

const POSITIONS: &str = "\"module\" = [x0, y0, x1, y1] for each module";

/// What a std-daq file of an EIGER or JUNGFRAU must have, each named, where nothing stands in for it.
fn require_geometry(fields: &Fields, detector_type: Option<&str>, errors: &mut FieldErrors) {
    let is_one = detector_type.is_some_and(|name| name == "eiger" || name.starts_with("jungfrau"));
    if !is_one || fields.contains_key("model") || fields.contains_key("modules") {
        return;
    }
    for (name, allowed) in [
        ("n_modules", "the number of modules"),
        ("image_pixel_height", "rows of the image"),
        ("image_pixel_width", "columns of the image"),
        ("module_positions", POSITIONS),
    ] {
        if !fields.contains_key(name) {
            let allowed = format!("{allowed}; or model = \"9M\" or modules = [columns, rows] instead of all four");
            errors.push((name.to_owned(), Problem::Missing { allowed }));
        }
    }
}

/// A field that may be absent. Where it is there and wrong, that is noted.
fn optional<T: DeserializeOwned>(fields: &Fields, name: &str, allowed: &str, errors: &mut FieldErrors) -> Option<T> {
    fields.contains_key(name).then(|| field(fields, name, allowed, errors)).flatten()
}

fn field<T: DeserializeOwned>(fields: &Fields, name: &str, allowed: &str, errors: &mut FieldErrors) -> Option<T> {
    let allowed = allowed.to_owned();
    let Some(value) = fields.get(name) else {
        errors.push((name.to_owned(), Problem::Missing { allowed }));
        return None;
    };
    let read = serde_json::from_value(value.clone()).ok();
    if read.is_none() {
        errors.push((name.to_owned(), Problem::Value { found: shorten(&value.to_string()), allowed }));
    }
    read
}

fn module_positions(positions: &Fields, errors: &mut FieldErrors) -> BTreeMap<u32, [i64; 4]> {
    let allowed = "\"module number\" = [x0, y0, x1, y1]";
    let mut read = BTreeMap::new();
    for (module, position) in positions {
        match (module.parse(), serde_json::from_value(position.clone())) {
            (Ok(module), Ok(position)) => {
                read.insert(module, position);
            }
            _ => {
                let found = shorten(&format!("{module:?} = {position}"));
                errors.push((
                    format!("module_positions.{module}"),
                    Problem::Value { found, allowed: allowed.to_owned() },
                ));
            }
        }
    }
    read
}

/// Checks the fields against each other. `DetectorConfig::detector` names the first error; where that is a position,
/// each module is checked alone, too: that names every position that is wrong.
fn check(config: &DetectorConfig, errors: &mut FieldErrors) -> Option<Detector> {
    let first = match config.detector() {
        Ok(detector) => return Some(detector),
        Err(error) => error,
    };
    let is_position = |error: &DetectorConfigError| match error {
        DetectorConfigError::Field { field, .. } => field.starts_with("module_positions."),
        _ => false,
    };
    let alone = |(&module, &position): (&u32, &[i64; 4])| {
        let alone = DetectorConfig { module_positions: BTreeMap::from([(module, position)]), ..config.clone() };
        alone.check().err().filter(is_position)
    };
    let mut found: Vec<DetectorConfigError> = Vec::new();
    if is_position(&first) {
        found.extend(config.module_positions.iter().filter_map(alone));
    }
    if found.is_empty() {
        found.push(first);
    }
    found.dedup();
    errors.extend(found.into_iter().map(problem));
    None
}

/// An error with the field that it is about.
fn problem(error: DetectorConfigError) -> (String, Problem) {
    match error {
        DetectorConfigError::Field { field, found, allowed } => (field, Problem::Value { found, allowed }),
        DetectorConfigError::Missing { field, allowed } => (field, Problem::Missing { allowed }),
        DetectorConfigError::Syntax(text) => (String::new(), Problem::Syntax(text)),
        DetectorConfigError::Placement(_) => ("module_positions".to_owned(), Problem::Detector(error)),
    }
}

fn to_json(value: &DeValue) -> Json {
    match value {
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
            .map_or_else(|_| Json::from(integer.as_str()), Json::from),
        DeValue::Boolean(flag) => Json::from(*flag),
        DeValue::Array(values) => values.iter().map(|value| to_json(value.get_ref())).collect(),
        DeValue::Table(table) => {
            table.iter().map(|(key, value)| (key.get_ref().to_string(), to_json(value.get_ref()))).collect()
        }
        DeValue::String(text) => Json::from(text.as_ref()),
        DeValue::Float(number) => Json::from(format!("{} (not a whole number)", number.as_str())),
        DeValue::Datetime(time) => Json::from(time.to_string()),
    }
}

/// Byte of a field's name in the JSON text, or 0. The parser keeps no places; the names of these fields
/// occur once, so looking for them in quotes finds the right one.
fn json_position(text: &str, field: &str) -> usize {
    field.split('.').fold(0, |from, part| text[from..].find(&format!("\"{part}\"")).map_or(from, |at| from + at))
}
