//! The user's metadata as attributes: `/entry/metadata`.
//!
//! | value | attribute |
//! |---|---|
//! | boolean, integer, float, text | scalar of that type: HDF5 boolean, i64 (u64 above its range), f64, UTF-8 |
//! | list of one of those | array of that type; integers mixed with floats are floats |
//! | anything else | its JSON as text |

use ecs_schemas::value::Value;
use hdf5_metno::{self as hdf5, Group, H5Type, Location, types::VarLenUnicode};
use std::collections::BTreeMap;

/// Longest name of an entry, in bytes: HDF5 itself stops at 64 KiB, a name for people long before.
const KEY_BYTES_MAX: usize = 1024;

/// Why an entry cannot be an attribute.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadEntry {
    pub key: String,
    pub found: &'static str,
    pub allowed: &'static str,
}

/// Checks what HDF5 cannot hold: its names and texts end at the first zero.
pub(super) fn check(metadata: &BTreeMap<String, Value>) -> Result<(), BadEntry> {
    for (key, value) in metadata {
        let bad = |found, allowed| Err(BadEntry { key: key.clone(), found, allowed });
        if key.is_empty() || key.len() > KEY_BYTES_MAX || key.contains('\0') {
            return bad("this name", "names of 1 to 1024 bytes without a zero");
        }
        let has_zero = |value: &Value| value.as_str().is_some_and(|text| text.contains('\0'));
        if has_zero(value) || matches!(value, Value::List(values) if values.iter().any(has_zero)) {
            return bad("text with a zero", "text without a zero");
        }
    }
    Ok(())
}

/// Writes every entry as an attribute of `group`.
pub(super) fn write(group: &Group, metadata: &BTreeMap<String, Value>) -> hdf5::Result<()> {
    metadata.iter().try_for_each(|(key, value)| write_value(group, key, value))
}

fn write_value(group: &Group, key: &str, value: &Value) -> hdf5::Result<()> {
    match value {
        Value::Bool(value) => scalar_attribute(group, key, value),
        Value::Int(value) => scalar_attribute(group, key, value),
        Value::Uint(value) => scalar_attribute(group, key, value),
        Value::Float(value) => scalar_attribute(group, key, value),
        Value::Text(value) => text_attribute(group, key, value),
        Value::List(values) => write_list(group, key, values),
        Value::Null | Value::Bytes(_) | Value::Map(_) => text_attribute(group, key, &json(value)),
    }
}

/// The first type that holds every entry of the list exactly, else JSON. An empty list has no type.
fn write_list(group: &Group, key: &str, values: &[Value]) -> hdf5::Result<()> {
    if values.is_empty() {
        return text_attribute(group, key, "[]");
    }
    if let Some(values) = all(values, as_bool) {
        list_attribute(group, key, &values)
    } else if let Some(values) = all(values, as_i64) {
        list_attribute(group, key, &values)
    } else if let Some(values) = all(values, Value::as_u64) {
        list_attribute(group, key, &values)
    } else if let Some(values) = all(values, as_exact_f64) {
        list_attribute(group, key, &values)
    } else if let Some(values) = all(values, Value::as_str) {
        texts_attribute(group, key, &values)
    } else {
        text_attribute(group, key, &json(&Value::List(values.to_vec())))
    }
}

fn all<'v, T>(values: &'v [Value], form: impl Fn(&'v Value) -> Option<T>) -> Option<Vec<T>> {
    values.iter().map(form).collect()
}

fn as_bool(value: &Value) -> Option<bool> {
    if let Value::Bool(value) = value { Some(*value) } else { None }
}

fn as_i64(value: &Value) -> Option<i64> {
    if let Value::Int(value) = value { Some(*value) } else { None }
}

/// Integers above 2^53 are not all floats; a list with one of them stays JSON.
fn as_exact_f64(value: &Value) -> Option<f64> {
    const EXACT_MAX: u64 = 1 << 53;
    match value {
        Value::Float(value) => Some(*value),
        Value::Int(value) if value.unsigned_abs() <= EXACT_MAX => Some(*value as f64),
        _ => None,
    }
}

fn json(value: &Value) -> String {
    serde_json::to_string(value).expect("a value has text keys and writing to a String cannot fail")
}

pub(super) fn scalar_attribute<T: H5Type>(location: &Location, name: &str, value: &T) -> hdf5::Result<()> {
    location.new_attr::<T>().create(name)?.write_scalar(value)
}

pub(crate) fn text_attribute(location: &Location, name: &str, text: &str) -> hdf5::Result<()> {
    scalar_attribute(location, name, &var_len(text)?)
}

pub(super) fn texts_attribute(location: &Location, name: &str, texts: &[&str]) -> hdf5::Result<()> {
    let texts = texts.iter().map(|text| var_len(text)).collect::<hdf5::Result<Vec<_>>>()?;
    list_attribute(location, name, &texts)
}

fn list_attribute<T: H5Type>(location: &Location, name: &str, values: &[T]) -> hdf5::Result<()> {
    location.new_attr_builder().with_data(values).create(name).map(|_| ())
}

fn var_len(text: &str) -> hdf5::Result<VarLenUnicode> {
    text.parse().map_err(|error| hdf5::Error::from(format!("{text:?}: {error}")))
}
