//! Reading typed values out of one section of the TOML, with every error noted at its place.
//!
//! A reader returns the default where the key is absent, and also where it is wrong: the error is on
//! the report, so the value is never used, and reading goes on to find the other errors.

use super::{
    BeamlineError, Problem,
    keys::{unknown_key, unknown_section},
    units::{bytes_text, duration_text, parse_bytes, parse_duration},
};
use std::{fmt, ops::RangeInclusive, path::Path, time::Duration};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A value that was found is quoted up to this many characters: enough to recognise it.
const QUOTE_CHARS_MAX: usize = 60;

/// The errors of one file so far.
pub(super) struct Report<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
    pub(super) errors: Vec<BeamlineError>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text, errors: Vec::new() }
    }

    /// Notes an error at a byte of the text.
    pub(super) fn add(&mut self, at_byte: usize, key: &str, problem: Problem) {
        let before = self.text.get(..at_byte).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        self.errors.push(BeamlineError {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key: key.to_owned(),
            problem,
        });
    }
}

/// One section; without a table where the file does not have it.
pub(super) struct Section<'a, 'i> {
    pub(super) name: &'static str,
    table: Option<&'a DeTable<'i>>,
    /// Where to report a key that is missing.
    pub(super) at_byte: usize,
}

/// Opens a section of the document and reports its keys that are unknown.
pub(super) fn open<'a, 'i>(
    document: &'a DeTable<'i>,
    name: &'static str,
    keys: &[&str],
    report: &mut Report,
) -> Section<'a, 'i> {
    let Some(value) = document.get(name) else { return Section { name, table: None, at_byte: 0 } };
    let at_byte = value.span().start;
    let Some(table) = value.get_ref().as_table() else {
        let found = quote(report.text, value);
        report.add(at_byte, name, Problem::Value { found, allowed: format!("a section, [{name}]") });
        return Section { name, table: None, at_byte };
    };
    for key in table.keys().filter(|key| !keys.contains(&key.get_ref().as_ref())) {
        let problem = unknown_key(name, keys, key.get_ref());
        report.add(key.span().start, &format!("{name}.{}", key.get_ref()), problem);
    }
    Section { name, table: Some(table), at_byte }
}

/// Reports the sections that are unknown.
pub(super) fn check_sections(document: &DeTable, report: &mut Report) {
    for key in document.keys().filter(|key| super::keys::keys_of(key.get_ref()).is_none()) {
        report.add(key.span().start, key.get_ref(), unknown_section(key.get_ref()));
    }
}

impl<'a, 'i> Section<'a, 'i> {
    pub(super) fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.table.and_then(|table| table.get(key))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = (&'a str, &'a Spanned<DeValue<'i>>)> {
        self.table.into_iter().flatten().map(|(key, value)| (key.get_ref().as_ref(), value))
    }

    /// Notes that `key` is wrong: at its value, or where the section starts if it is a default.
    pub(super) fn wrong(&self, report: &mut Report, key: &str, default: &str, allowed: String) {
        let value = self.value(key);
        let found = value.map_or_else(|| format!("{default} (the default)"), |value| quote(report.text, value));
        let at_byte = value.map_or(self.at_byte, |value| value.span().start);
        report.add(at_byte, &self.path(key), Problem::Value { found, allowed });
    }

    pub(super) fn missing(&self, report: &mut Report, key: &str, allowed: &str) {
        report.add(self.at_byte, &self.path(key), Problem::Missing { allowed: allowed.to_owned() });
    }

    pub(super) fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    /// What `read` makes of the value; `None` if the key is absent or, with an error noted, wrong.
    pub(super) fn get<T>(
        &self,
        report: &mut Report,
        key: &str,
        allowed: &str,
        read: impl Fn(&DeValue<'i>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let read = read(value.get_ref());
        if read.is_none() {
            self.wrong(report, key, "", allowed.to_owned());
        }
        read
    }

    pub(super) fn text(&self, report: &mut Report, key: &str, allowed: &str) -> Option<String> {
        self.get(report, key, allowed, |value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned))
    }

    pub(super) fn flag(&self, report: &mut Report, key: &str, default: bool) -> bool {
        self.get(report, key, "true or false", |value| value.as_bool()).unwrap_or(default)
    }

    pub(super) fn count(&self, report: &mut Report, key: &str, range: RangeInclusive<u64>, default: u64) -> u64 {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        self.get(report, key, &allowed, |value| integer(value).filter(|n| range.contains(n))).unwrap_or(default)
    }

    pub(super) fn bytes(&self, report: &mut Report, key: &str, range: RangeInclusive<u64>, default: u64) -> u64 {
        let allowed = range_text("a size", &bytes_text(*range.start()), &bytes_text(*range.end()), "or in bytes");
        let read = |value: &DeValue| value.as_str().and_then(parse_bytes).or_else(|| integer(value));
        self.get(report, key, &allowed, |value| read(value).filter(|n| range.contains(n))).unwrap_or(default)
    }

    pub(super) fn duration(
        &self,
        report: &mut Report,
        key: &str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let (first, last) = (duration_text(*range.start()), duration_text(*range.end()));
        let allowed = range_text("a duration", &first, &last, "with its unit");
        let read = |value: &DeValue| value.as_str().and_then(parse_duration);
        self.get(report, key, &allowed, |value| read(value).filter(|d| range.contains(d))).unwrap_or(default)
    }
}

/// A whole number that is not negative.
pub(super) fn integer(value: &DeValue) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// The value as it stands in the file, on one line.
fn quote(text: &str, value: &Spanned<DeValue>) -> String {
    shorten(text.get(value.span()).unwrap_or_default())
}

pub(super) fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(QUOTE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn range_text(what: &str, first: &str, last: &str, form: impl fmt::Display) -> String {
    format!("{what} from \"{first}\" to \"{last}\", {form}")
}
