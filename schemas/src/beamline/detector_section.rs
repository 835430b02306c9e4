//! The detector of a beamline: fields inline in the TOML, or a std-daq JSON file that it names.
//!
//! Both forms become one table of JSON values and are read by one function, so a field means the same
//! in both. An error points into the file that has the field.

use super::{
    Problem,
    keys::keys_of,
    section::{Report, Section, shorten},
};
use crate::detector::{DetectorConfig, DetectorConfigError};
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
pub(super) fn read(section: &Section, folder: &Path, load: Load, report: &mut Report) -> Option<DetectorConfig> {
    if section.value("config").is_none() {
        return inline(section, report);
    }
    let is_field = |key: &str| key != "config" && keys_of(section.name).is_some_and(|keys| keys.contains(&key));
    if let Some((key, _)) = section.keys().find(|(key, _)| is_field(key)) {
        let allowed = "the fields of the detector here, or config with its file, not both".to_owned();
        section.wrong(report, key, "", allowed);
        return None;
    }
    let path = folder.join(section.text(report, "config", "the path of a detector's JSON file")?);
    match load(&path) {
        Ok(text) => from_file(&path, &text, report),
        Err(error) => {
            let at_byte = section.value("config").map_or(0, |value| value.span().start);
            report.add(at_byte, &section.path("config"), Problem::Unreadable { path, reason: error.to_string() });
            None
        }
    }
}

fn inline(section: &Section, report: &mut Report) -> Option<DetectorConfig> {
    if section.keys().next().is_none() {
        let allowed = "config = \"detector.json\", or the detector's fields in [detector]";
        section.missing(report, "config", allowed);
        return None;
    }
    let fields = section.keys().map(|(key, value)| (key.to_owned(), to_json(value.get_ref()))).collect();
    let (config, errors) = read_fields(&fields);
    for (field, problem) in errors {
        let (key, entry) = field.split_once('.').unwrap_or((&field, ""));
        let value = section.value(key);
        let inner = value.and_then(|value| value.get_ref().as_table()?.get(entry));
        let at_byte = inner.or(value).map_or(section.at_byte, |value| value.span().start);
        report.add(at_byte, &section.path(&field), problem);
    }
    config
}

fn from_file(path: &Path, text: &str, report: &mut Report) -> Option<DetectorConfig> {
    let mut of_file = Report::new(path, text);
    let config = match serde_json::from_str::<Fields>(text) {
        Ok(fields) => {
            let (config, errors) = read_fields(&fields);
            for (field, problem) in errors {
                of_file.add(json_position(text, &field), &field, problem);
            }
            config
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
    config
}

/// Reads all fields and then checks them together. Every error is returned, not only the first.
fn read_fields(fields: &Fields) -> (Option<DetectorConfig>, FieldErrors) {
    let mut errors = Vec::new();
    let config = read_config(fields, &mut errors);
    if let (Some(config), true) = (&config, errors.is_empty()) {
        check(config, &mut errors);
    }
    (config.filter(|_| errors.is_empty()), errors)
}

fn read_config(fields: &Fields, errors: &mut FieldErrors) -> Option<DetectorConfig> {
    let detector_name = field(fields, "detector_name", "a name", errors);
    let detector_type = field(fields, "detector_type", "\"eiger\"", errors);
    let n_modules = field(fields, "n_modules", "the number of modules", errors);
    let bit_depth = field(fields, "bit_depth", "8, 16 or 32", errors);
    let image_pixel_height = field(fields, "image_pixel_height", "rows of the image", errors);
    let image_pixel_width = field(fields, "image_pixel_width", "columns of the image", errors);
    let start_udp_port = field(fields, "start_udp_port", "a port from 1 to 65535", errors);
    let positions = field(fields, "module_positions", "\"module\" = [x0, y0, x1, y1] for each module", errors);
    Some(DetectorConfig {
        detector_name: detector_name?,
        detector_type: detector_type?,
        n_modules: n_modules?,
        bit_depth: bit_depth?,
        image_pixel_height: image_pixel_height?,
        image_pixel_width: image_pixel_width?,
        start_udp_port: start_udp_port?,
        module_positions: module_positions(&positions?, errors),
    })
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

/// Checks the fields against each other. `DetectorConfig::check` names the first error, so each module
/// is checked alone before all are checked together: that names every position that is wrong.
fn check(config: &DetectorConfig, errors: &mut FieldErrors) {
    let alone = |(&module, &position): (&u32, &[i64; 4])| {
        let alone = DetectorConfig { module_positions: BTreeMap::from([(module, position)]), ..config.clone() };
        alone.check().err()
    };
    let mut found: Vec<DetectorConfigError> = config.module_positions.iter().filter_map(alone).collect();
    if found.is_empty() {
        found.extend(config.check().err());
    }
    found.dedup();
    for error in found {
        errors.push(match error {
            DetectorConfigError::Field { field, found, allowed } => (field, Problem::Value { found, allowed }),
            other => ("module_positions".to_owned(), Problem::Detector(other)),
        });
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
