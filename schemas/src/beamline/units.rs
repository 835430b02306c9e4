//! Sizes and durations as people write them: `"1 GiB"`, `"200 ms"`.

use std::time::Duration;

const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];

const DURATION_UNITS_US: [(&str, u64); 5] =
    [("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1000), ("us", 1)];

/// Reads `"1 GiB"`, `"1.5 GiB"` or `"64MiB"`; `None` for anything else, a unit that is missing included.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    parse_quantity(text, &BYTE_UNITS)
}

/// Reads `"200 ms"`, `"1.5 s"`, `"1 h"`; a number without a unit is not a duration.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    parse_quantity(text, &DURATION_UNITS_US).map(Duration::from_micros)
}

/// A size in the largest unit that has no fraction: `64 MiB`, `1000 B`.
pub fn bytes_text(bytes: u64) -> String {
    let binary = BYTE_UNITS.iter().filter(|(unit, _)| unit.ends_with("iB") || *unit == "B");
    quantity_text(bytes, binary, "B")
}

/// A duration in the largest unit that has no fraction, down to a microsecond: `200 ms`, `90 s`.
pub fn duration_text(duration: Duration) -> String {
    quantity_text(duration.as_micros() as u64, DURATION_UNITS_US.iter(), "s")
}

fn quantity_text<'a>(amount: u64, mut units: impl Iterator<Item = &'a (&'a str, u64)>, unit_of_zero: &str) -> String {
    match units.find(|(_, factor)| amount >= *factor && amount.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{} {unit}", amount / factor),
        None => format!("0 {unit_of_zero}"),
    }
}

/// A decimal number and a unit, the space between them optional. Fractions are exact: what is not a
/// whole number of the smallest unit is refused, not rounded.
fn parse_quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = (&text[..split], text[split..].trim_start());
    let factor = units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction = fraction.parse::<u64>().ok()?.checked_mul(factor)?;
    fraction.is_multiple_of(scale).then(|| whole.checked_add(fraction / scale)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_exactly_or_not_at_all() {
        let cases = [
            ("1 GiB", Some(1 << 30)),
            ("1.5GiB", Some(3 << 29)),
            (" 64 MiB ", Some(64 << 20)),
            ("10 kB", Some(10_000)),
            ("7 B", Some(7)),
            ("0.5 B", None),
            ("1", None),
            ("GiB", None),
            ("1 gib", None),
            ("-1 GiB", None),
            ("1..5 GiB", None),
            ("1. GiB", None),
            ("99999999999 TiB", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_bytes(text), expected, "{text:?}");
        }
    }

    #[test]
    fn durations_are_read_and_print_in_the_form_that_is_read() {
        for text in ["200 ms", "3 s", "90 s", "2 min", "1 h", "50 us"] {
            assert_eq!(parse_duration(text).map(duration_text).as_deref(), Some(text));
        }
        assert_eq!(parse_duration("1.5 s"), Some(Duration::from_millis(1500)));
        for text in ["3", "3 sec", "", "s", "∞ s"] {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
        assert_eq!((duration_text(Duration::ZERO), bytes_text(0)), ("0 s".to_owned(), "0 B".to_owned()));
        assert_eq!((bytes_text(1 << 30), bytes_text(1000)), ("1 GiB".to_owned(), "1000 B".to_owned()));
    }
}
