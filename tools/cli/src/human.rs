//! Numbers and times as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `1234567` → `1,234,567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `2117680000` → `2.12 GB`.
pub fn bytes(value: f64) -> String {
    let units = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match units.iter().find(|(_, factor)| value >= *factor) {
        Some((unit, factor)) => format!("{:.2} {unit}", value / factor),
        None => format!("{value:.0} B"),
    }
}

/// The two largest units: `3 s`, `4 min 12 s`, `2 d 3 h`. Below ten seconds with a tenth.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Nanoseconds since 1970-01-01 UTC, this host's clock.
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Time of day in UTC, to the millisecond: `14:03:59.127`.
pub fn clock(time_ns: u64) -> String {
    let (seconds, ms) = (time_ns / 1_000_000_000 % 86_400, time_ns / 1_000_000 % 1000);
    format!("{:02}:{:02}:{:02}.{ms:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Time between two clock readings; 0 where the clocks of two hosts disagree.
pub fn between(earlier_ns: u64, later_ns: u64) -> String {
    duration(Duration::from_nanos(later_ns.saturating_sub(earlier_ns)))
}

/// Text of somebody else's in one line: what would move a cursor, name a colour or begin another line is written out.
pub fn printable(text: &str) -> String {
    let is_kept = |letter: char| !letter.is_control();
    written_out(text, is_kept)
}

/// As [`printable`], of text that may have several lines.
pub fn printable_lines(text: &str) -> String {
    written_out(text, |letter| !letter.is_control() || letter == '\n' || letter == '\t')
}

fn written_out(text: &str, is_kept: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match is_kept(letter) {
            true => shown.push(letter),
            false => shown.extend(letter.escape_default()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_move_a_cursor_is_written_out() {
        let odd = "a\x1b[2Jb\nc\td\u{9b}31me ü";
        assert_eq!(printable(odd), "a\\u{1b}[2Jb\\nc\\td\\u{9b}31me ü");
        assert_eq!(printable_lines(odd), "a\\u{1b}[2Jb\nc\td\\u{9b}31me ü");
    }

    #[test]
    fn numbers_and_times_are_short_and_right() {
        assert_eq!((count(0), count(999), count(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
        assert_eq!((bytes(12.0), bytes(2_117_680_000.0)), ("12 B".into(), "2.12 GB".into()));
        let text = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!((text(3), text(42), text(252)), ("3.0 s".into(), "42 s".into(), "4 min 12 s".into()));
        assert_eq!((text(3600), text(183_600)), ("1 h 0 min".into(), "2 d 3 h".into()));
    }
}
