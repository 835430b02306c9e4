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
    config::is_field,
    fields::{self, Fields},
};
use serde_json::Value as Json;
use std::{collections::BTreeMap, io, path::Path};
use toml::de::DeValue;

/// Reads a file's text; the parser itself opens none.
pub(super) type Load<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

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
    let read = fields::read(fields).and_then(|config| check(&config));
    match read {
        Ok(detector) => (Some(detector), Vec::new()),
        Err(errors) => (None, errors.into_iter().map(problem).collect()),
    }
}

/// Checks the fields against each other. `DetectorConfig::detector` names the first error; where that is a position,
/// each module is checked alone, too: that names every position that is wrong.
fn check(config: &DetectorConfig) -> Result<Detector, Vec<DetectorConfigError>> {
    let first = match config.detector() {
        Ok(detector) => return Ok(detector),
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
    Err(found)
}

/// An error with the field that it is about.
fn problem(error: DetectorConfigError) -> (String, Problem) {
    match error {
        DetectorConfigError::Field { field, found, allowed } => {
            (field, Problem::Value { found: shorten(&found), allowed })
        }
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
