//! Values on the command line and on the screen.

use crate::{human, params};
use anyhow::bail;
use ecs_schemas::{
    exchange::Params,
    kv::{Item, Reading},
    value::Value,
    value_type::{Form, ValueType},
};
use std::io::{self, IsTerminal, Write};

/// Characters of a value that are shown among others, in a table or a line; longer ones are cut.
const SHOWN_CHARS: usize = 60;

/// A value of type `kind` from what a person typed: text as it is where the type is text, JSON otherwise, and text again where
/// that is no JSON.
pub fn parse(text: &str, kind: &ValueType) -> Value {
    match kind.form {
        Form::String | Form::Enum => Value::from(text),
        _ => serde_json::from_str::<Value>(text).unwrap_or_else(|_| Value::from(text)),
    }
}

/// Parameters by name, from `key=value` words and `@file.json`.
///
/// # Errors
/// As [`params::parse`], or the file is no object.
pub fn parse_params(words: &[String]) -> anyhow::Result<Params> {
    match params::parse(words)? {
        Value::Null => Ok(Params::new()),
        Value::Map(entries) => Ok(entries),
        other => bail!("parameters have names: write KEY=VALUE, or @FILE with a JSON object, not {other}"),
    }
}

/// A value with its unit, all of it; of an array its type and shape.
pub fn shown(value: &Value, kind: &ValueType) -> String {
    format!("{}{}", text(value, kind), unit(kind))
}

/// As [`shown`], for a table or a line among others: in one line, and cut where it is long.
pub fn shown_short(value: &Value, kind: &ValueType) -> String {
    let text = human::printable(&text(value, kind));
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…{}", &text[..end], unit(kind)),
        None => text + &unit(kind),
    }
}

/// Prints what was asked for by itself. A terminal is not given what would move its cursor; a script gets every byte.
pub fn print(value: &Value, kind: &ValueType) -> io::Result<()> {
    let (mut out, shown) = (io::stdout().lock(), shown(value, kind));
    match out.is_terminal() {
        true => writeln!(out, "{}", human::printable_lines(&shown)),
        false => writeln!(out, "{shown}"),
    }
}

fn unit(kind: &ValueType) -> String {
    kind.unit.as_deref().map(|unit| format!(" {unit}")).unwrap_or_default()
}

fn text(value: &Value, kind: &ValueType) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Map(array) if kind.form == Form::Array => {
            let part = |name: &str| array.get(name).map(ToString::to_string).unwrap_or_default();
            format!("array {} {}", part("dtype").trim_matches('"'), part("shape"))
        }
        other => other.to_string(),
    }
}

/// The value of an item in a list.
pub fn shown_reading(item: &Item, reading: Option<&Reading>, bytes: u64) -> String {
    match reading {
        Some(reading) => shown_short(&reading.value, &item.kind),
        None if bytes > 0 => format!("<{bytes} bytes>"),
        None if item.published => "-".to_owned(),
        None => "(on request)".to_owned(),
    }
}

/// Type with unit and range, for a person.
pub fn shown_type(kind: &ValueType) -> String {
    let unit = kind.unit.as_deref().map(|unit| format!(" [{unit}]")).unwrap_or_default();
    let range = match (&kind.min, &kind.max) {
        _ if kind.form == Form::Enum => format!(" {}", kind.choices.join("|")),
        (None, None) => String::new(),
        (min, max) => {
            let text = |bound: &Option<Value>| bound.as_ref().map(ToString::to_string).unwrap_or_default();
            format!(" {}..{}", text(min), text(max))
        }
    };
    let array = match (&kind.dtype, &kind.shape) {
        (None, None) => String::new(),
        (dtype, shape) => {
            let axis = |axis: &Option<u64>| axis.map_or("any".to_owned(), |axis| axis.to_string());
            let shape = shape.as_ref().map(|shape| shape.iter().map(axis).collect::<Vec<_>>().join(" x "));
            format!(" {} {}", dtype.map_or("any", |dtype| dtype.as_str()), shape.unwrap_or_default())
        }
    };
    format!("{}{array}{range}{unit}", kind.form.as_str())
}

/// `x01/pump/pressure` is the item `pressure` of `x01/pump`.
///
/// # Errors
/// There is no `/` in it.
pub fn split_path(path: &str) -> anyhow::Result<(String, String)> {
    match path.rsplit_once('/') {
        Some((subsystem, item)) if !subsystem.is_empty() && !item.is_empty() => {
            Ok((subsystem.to_owned(), item.to_owned()))
        }
        _ => bail!("{path:?} is not SUBSYSTEM/ITEM, for example x01/pump/pressure; `ecs-cli kv ls` lists all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_words_become_values_of_their_type() {
        let of = ValueType::of;
        assert_eq!(parse("5", &of(Form::I64)), Value::from(5));
        assert_eq!(parse("5", &of(Form::String)), Value::from("5"));
        assert_eq!(parse("auto", &of(Form::Enum)), Value::from("auto"));
        assert_eq!(parse("[1, 2]", &of(Form::List)), vec![1, 2].into());
        assert_eq!(parse("not json", &of(Form::Any)), Value::from("not json"));
        let params = parse_params(&["n=5".into(), "name=run 7".into(), "on=true".into()]).expect("valid");
        assert_eq!((&params["n"], &params["name"], &params["on"]), (&5.into(), &"run 7".into(), &true.into()));
        assert!(parse_params(&["n".into()]).is_err() && parse_params(&["=5".into()]).is_err());
    }

    #[test]
    fn long_values_are_cut_among_others_alone_and_units_kept() {
        let kind = ValueType { unit: Some("mbar".to_owned()), ..ValueType::of(Form::F64) };
        assert_eq!(
            (shown(&0.5.into(), &kind), shown_short(&0.5.into(), &kind)),
            ("0.5 mbar".into(), "0.5 mbar".into())
        );
        let long = "ä".repeat(100);
        let short = shown_short(&Value::from(long.as_str()), &kind);
        assert_eq!(short, format!("{}… mbar", "ä".repeat(SHOWN_CHARS)));
        assert_eq!(shown(&Value::from(long.as_str()), &ValueType::default()), long);
        assert_eq!(shown_short(&"a\nb\x1b[2J".into(), &ValueType::default()), "a\\nb\\u{1b}[2J");
    }
}
