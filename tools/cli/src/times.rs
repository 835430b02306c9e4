//! Points in time as people write them: RFC 3339, or how long ago.

use std::time::Duration;

/// Units of an age, in seconds.
const UNITS: [(&str, f64); 4] = [("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];

/// Nanoseconds since 1970-01-01 UTC of `2026-11-21T09:30:00Z`, or of an age before `now_ns` such as `10m`.
///
/// # Errors
/// Says which forms there are.
pub fn parse(text: &str, now_ns: u64) -> Result<u64, String> {
    let wrong = || {
        "it is a time such as 2026-11-21T09:30:00Z or 2026-11-21T10:30:00+01:00, or an age: 30s, 10m, 2h, 1d".to_owned()
    };
    age(text).map(|age_ns| now_ns.saturating_sub(age_ns)).or_else(|| rfc3339(text)).ok_or_else(wrong)
}

fn age(text: &str) -> Option<u64> {
    let (number, factor) = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let is_plain = number.starts_with(|first: char| first.is_ascii_digit());
    let seconds = number.parse::<f64>().ok().filter(|_| is_plain)? * factor;
    u64::try_from(Duration::try_from_secs_f64(seconds).ok()?.as_nanos()).ok()
}

/// RFC 3339, section 5.6; a space may stand for the `T`. Leap seconds count as the second before.
fn rfc3339(text: &str) -> Option<u64> {
    let (date, time) = (text.get(..10)?, text.get(11..)?);
    if !matches!(text.as_bytes().get(10)?, b'T' | b't' | b' ') {
        return None;
    }
    let zone_at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = (time.get(..zone_at)?, time.get(zone_at..)?);
    let (seconds, fraction_ns) = seconds_of_day(clock)?;
    let seconds = days_since_1970(date)? * 86_400 + seconds - offset_seconds(zone)?;
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(fraction_ns)
}

/// Days from 1970-01-01 to `YYYY-MM-DD`. (H. Hinnant, `days_from_civil`: a year that begins in March has its
/// leap day at its end.)
fn days_since_1970(date: &str) -> Option<i64> {
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
}

/// `HH:MM:SS` with a fraction if need be, as seconds and nanoseconds.
fn seconds_of_day(clock: &str) -> Option<(i64, u64)> {
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let digits = fraction.len();
    let is_fraction = (1..=9).contains(&digits) && fraction.bytes().all(|digit| digit.is_ascii_digit());
    if hour > 23 || minute > 59 || second > 60 || !is_fraction {
        return None;
    }
    let fraction_ns = fraction.parse::<u64>().ok()? * 10_u64.pow(9 - digits as u32);
    Some((hour * 3600 + minute * 60 + second.min(59), fraction_ns))
}

/// `Z`, or `+HH:MM` and `-HH:MM`, as seconds east of UTC.
fn offset_seconds(zone: &str) -> Option<i64> {
    let sign = match zone.as_bytes()[0] {
        b'Z' | b'z' if zone.len() == 1 => return Some(0),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let [hour, minute] = numbers(&zone[1..], ':', [2, 2])?;
    (hour <= 23 && minute <= 59).then_some(sign * (hour * 3600 + minute * 60))
}

/// Numbers of exactly so many digits each.
fn numbers<const N: usize>(text: &str, divider: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(divider);
    let mut values = [0; N];
    for (value, digits) in values.iter_mut().zip(digits) {
        let part =
            parts.next().filter(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *value = part.parse().ok()?;
    }
    parts.next().is_none().then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    /// The figures are those of GNU `date -u -d TIME +%s`.
    #[test]
    fn times_are_read_with_their_zone_and_fraction() {
        let cases = [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600 * SECOND_NS),
            ("2026-11-21T09:30:00Z", 1_795_253_400 * SECOND_NS),
            ("2026-11-21t10:30:00.25+01:00", 1_795_253_400 * SECOND_NS + 250_000_000),
            ("2026-11-21 04:00:00.000000001-05:30", 1_795_253_400 * SECOND_NS + 1),
            ("2016-12-31T23:59:60Z", 1_483_228_799 * SECOND_NS),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text, 0), Ok(expected), "{text}");
        }
    }

    #[test]
    fn ages_are_taken_from_now() {
        let now_ns = 1_000_000 * SECOND_NS;
        let cases = [("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86_400), ("1.5h", 5400), ("0s", 0)];
        for (text, seconds) in cases {
            assert_eq!(parse(text, now_ns), Ok(now_ns - seconds * SECOND_NS), "{text}");
        }
        assert_eq!(parse("1000d", now_ns), Ok(0), "before 1970 is 1970");
    }

    #[test]
    fn what_is_no_time_is_refused_with_the_forms_that_there_are() {
        let wrong = [
            "",
            "m",
            "10",
            "-1h",
            "+1h",
            "1e400d",
            "infd",
            "10 m",
            "yesterday",
            "2026-11-21",
            "2026-11-21T09:30:00",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T09:30:00.Z",
            "2026-11-21T09:30:00+1:00",
            "2026-11-21T09:30Z",
            "1969-12-31T23:59:59Z",
            "2026-11-21T09:30:00Zx",
            "2026-11-2äT09:30:00Z",
        ];
        for text in wrong {
            assert!(parse(text, 0).is_err_and(|error| error.contains("10m")), "{text}");
        }
    }
}
