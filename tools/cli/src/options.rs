//! Values of options that several commands share.

use std::ops::RangeInclusive;

/// The longest time that an option takes: some eleven days.
const SECONDS_MAX: f64 = 1e6;

/// A number of seconds above 0.
///
/// # Errors
/// Says what is wanted instead.
pub fn seconds(text: &str) -> Result<f64, String> {
    let wanted = || format!("a number of seconds above 0 and up to {SECONDS_MAX}, for example 2.5");
    number_within(text, f64::MIN_POSITIVE..=SECONDS_MAX).ok_or_else(wanted)
}

/// How long a leg of a benchmark takes, in seconds: long enough to count something in.
///
/// # Errors
/// As [`seconds`].
pub fn leg_seconds(text: &str) -> Result<f64, String> {
    number_within(text, 0.01..=3600.0).ok_or_else(|| "0.01 to 3600 seconds".to_owned())
}

fn number_within(text: &str, range: RangeInclusive<f64>) -> Option<f64> {
    text.parse().ok().filter(|number| range.contains(number))
}

/// As [`seconds`], in whole milliseconds, of which it is one at least.
///
/// # Errors
/// As [`seconds`].
pub fn milliseconds(text: &str) -> Result<u64, String> {
    Ok(((seconds(text)? * 1000.0).round() as u64).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_above_0_and_bounded() {
        assert_eq!((milliseconds("1.5"), milliseconds("30"), milliseconds("0.0001")), (Ok(1500), Ok(30_000), Ok(1)));
        assert!(["0", "-1", "inf", "NaN", "1e7", "x", ""].iter().all(|text| milliseconds(text).is_err()));
    }
}
