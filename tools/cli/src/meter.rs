//! How often and how much: the figures of one topic over a sliding window. No socket, no clock.
//!
//! ```text
//! first ──interval── message ──interval── message …… newest ──silence── now
//!   └────────────────────── window ────────────────────────────────────┘
//! ```
//!
//! # Rules
//! M1  Times are those at which messages arrived here: what a subscriber gets, delays of the network included.
//! M2  The last value that a new subscriber gets at once sets the sequence and is no message: it may be hours old.
//! M3  A rate is the number of intervals by the time that they took. Silence that is longer than every interval counts
//!     as time, so that the rate of a topic that has stopped falls.
//! M4  A jump of the sequence is one gap of as many missed messages as numbers are left out. A smaller number is a new
//!     beginning, not a gap.
//! M5  The newest two messages stay in the window however old they are: a slow topic has an interval too.

use std::{collections::VecDeque, time::Duration};

/// Messages that one window holds: 10 s at 10 kHz. Beyond it the window is shorter.
const SAMPLES_MAX: usize = 100_000;
/// Rule M5.
const SAMPLES_MIN: usize = 2;

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    bytes: usize,
}

#[derive(Debug, Clone, Default)]
pub struct Meter {
    window: Duration,
    samples: VecDeque<Sample>,
    newest_seq: Option<u64>,
    messages: u64,
    gaps: u64,
    missed: u64,
}

/// Intervals between messages of the window, in seconds; `std` is that of all of them, not of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Intervals {
    pub mean_s: f64,
    pub min_s: f64,
    pub max_s: f64,
    pub std_s: f64,
}

/// What a meter shows now. What needs two messages is none before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Since the beginning, as `gaps` and `missed` are.
    pub messages: u64,
    pub gaps: u64,
    pub missed: u64,
    pub newest_seq: Option<u64>,
    pub rate_hz: Option<f64>,
    pub intervals: Option<Intervals>,
    pub bytes_per_s: Option<f64>,
    pub bytes_mean: Option<f64>,
    pub bytes_max: Option<usize>,
    /// Since the newest message.
    pub silent_s: Option<f64>,
}

impl Meter {
    pub fn new(window: Duration) -> Self {
        Self { window, ..Self::default() }
    }

    /// Rule M2.
    pub fn last_value(&mut self, seq: u64) {
        self.newest_seq = Some(seq);
    }

    /// A message of `bytes` arrived `at` this time, which never runs backwards.
    pub fn message(&mut self, at: Duration, seq: u64, bytes: usize) {
        if let Some(missed) = self.newest_seq.and_then(|newest| seq.checked_sub(newest.saturating_add(1))) {
            self.gaps += u64::from(missed > 0); // rule M4
            self.missed = self.missed.saturating_add(missed);
        }
        self.newest_seq = Some(seq);
        self.messages += 1;
        self.samples.push_back(Sample { at, bytes });
        if self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
    }

    /// The figures at `now`, of the window that ends there.
    pub fn figures(&mut self, now: Duration) -> Figures {
        let begin = now.saturating_sub(self.window);
        while self.samples.len() > SAMPLES_MIN && self.samples.front().is_some_and(|oldest| oldest.at < begin) {
            self.samples.pop_front();
        }
        let intervals = self.intervals();
        let span_s = intervals.and_then(|intervals| self.span_s(now, intervals.max_s));
        let count = self.samples.len();
        let bytes: usize = self.samples.iter().map(|sample| sample.bytes).sum();
        // The first message lies at the beginning of the time that is measured, not in it.
        let bytes_behind_first = bytes - self.samples.front().map_or(0, |sample| sample.bytes);
        Figures {
            messages: self.messages,
            gaps: self.gaps,
            missed: self.missed,
            newest_seq: self.newest_seq,
            rate_hz: span_s.map(|span_s| (count - 1) as f64 / span_s),
            intervals,
            bytes_per_s: span_s.map(|span_s| bytes_behind_first as f64 / span_s),
            bytes_mean: (count > 0).then(|| bytes as f64 / count as f64),
            bytes_max: self.samples.iter().map(|sample| sample.bytes).max(),
            silent_s: self.samples.back().map(|newest| now.saturating_sub(newest.at).as_secs_f64()),
        }
    }

    /// Rule M3; none where all messages came in one instant.
    fn span_s(&self, now: Duration, interval_max_s: f64) -> Option<f64> {
        let (first, newest) = (self.samples.front()?.at, self.samples.back()?.at);
        let is_silent = now.saturating_sub(newest).as_secs_f64() > interval_max_s;
        let end = if is_silent { now } else { newest };
        Some(end.saturating_sub(first).as_secs_f64()).filter(|span_s| *span_s > 0.0)
    }

    fn intervals(&self) -> Option<Intervals> {
        let later = self.samples.iter().skip(1);
        let all = || self.samples.iter().zip(later.clone()).map(|(one, next)| (next.at - one.at).as_secs_f64());
        let count = all().count();
        if count == 0 {
            return None;
        }
        let mean_s = all().sum::<f64>() / count as f64;
        let variance = all().map(|interval| (interval - mean_s).powi(2)).sum::<f64>() / count as f64;
        let (min_s, max_s) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
        Some(Intervals { mean_s, min_s, max_s, std_s: variance.sqrt() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn is_near(found: Option<f64>, wanted: f64) -> bool {
        found.is_some_and(|found| (found - wanted).abs() < 1e-9)
    }

    #[test]
    fn regular_messages_have_their_rate_size_and_no_deviation() {
        let mut meter = Meter::new(ms(10_000));
        (0..=40).for_each(|n| meter.message(ms(n * 100), n + 1, 50));
        let figures = meter.figures(ms(4050));
        assert!(is_near(figures.rate_hz, 10.0) && is_near(figures.bytes_per_s, 500.0), "{figures:?}");
        assert!(is_near(figures.intervals.map(|its| its.mean_s), 0.1), "{figures:?}");
        assert!(figures.intervals.is_some_and(|its| its.std_s < 1e-9), "{figures:?}");
        assert_eq!((figures.messages, figures.gaps, figures.missed), (41, 0, 0));
        assert!(is_near(figures.silent_s, 0.05) && figures.bytes_max == Some(50), "{figures:?}");
    }

    #[test]
    fn uneven_intervals_have_smallest_largest_and_standard_deviation() {
        let mut meter = Meter::new(ms(10_000));
        for (seq, at) in [(1, 0), (2, 100), (3, 400)] {
            meter.message(ms(at), seq, 10 * seq as usize);
        }
        let its = meter.figures(ms(400));
        let intervals = its.intervals.expect("two intervals");
        assert!(is_near(Some(intervals.min_s), 0.1) && is_near(Some(intervals.max_s), 0.3), "{intervals:?}");
        assert!(is_near(Some(intervals.mean_s), 0.2) && is_near(Some(intervals.std_s), 0.1), "{intervals:?}");
        assert!(is_near(its.bytes_per_s, 50.0 / 0.4) && is_near(its.bytes_mean, 20.0), "{its:?}");
    }

    #[test]
    fn only_the_window_counts_and_the_newest_two_always() {
        let mut meter = Meter::new(ms(1000));
        (0..10).for_each(|n| meter.message(ms(n * 10), n + 1, 1));
        (0..11).for_each(|n| meter.message(ms(5000 + n * 100), n + 11, 1));
        let figures = meter.figures(ms(6000));
        assert!(is_near(figures.rate_hz, 10.0), "{figures:?}");
        assert_eq!(figures.messages, 21, "those before the window were messages too");
        let much_later = meter.figures(ms(60_000));
        assert!(is_near(much_later.intervals.map(|its| its.mean_s), 0.1), "{much_later:?}");
    }

    #[test]
    fn rate_of_a_topic_that_has_stopped_falls() {
        let mut meter = Meter::new(ms(60_000));
        (0..=10).for_each(|n| meter.message(ms(n * 100), n + 1, 1));
        assert!(is_near(meter.figures(ms(1090)).rate_hz, 10.0), "within an interval");
        assert!(is_near(meter.figures(ms(10_000)).rate_hz, 1.0));
    }

    #[test]
    fn jump_of_the_sequence_is_a_gap_and_a_new_beginning_none() {
        let mut meter = Meter::new(ms(10_000));
        meter.last_value(5);
        for (at, seq) in [(0, 6), (1, 9), (2, 10), (3, 1), (4, 2), (5, u64::MAX), (6, u64::MAX)] {
            meter.message(ms(at), seq, 1);
        }
        let figures = meter.figures(ms(6));
        assert_eq!((figures.messages, figures.gaps, figures.missed), (7, 2, 2 + (u64::MAX - 3)));
        let mut after_value = Meter::new(ms(10_000));
        after_value.last_value(5);
        assert_eq!(after_value.figures(ms(9)).messages, 0, "a last value is no message");
    }

    #[test]
    fn one_message_and_many_in_one_instant_have_no_rate() {
        let mut meter = Meter::new(ms(1000));
        meter.message(ms(1), 1, 7);
        let one = meter.figures(ms(1));
        assert_eq!((one.rate_hz, one.intervals, one.bytes_max), (None, None, Some(7)));
        meter.message(ms(1), 2, 7);
        assert_eq!(meter.figures(ms(1)).rate_hz, None);
    }

    #[test]
    fn window_holds_a_limited_number_of_messages() {
        let mut meter = Meter::new(ms(1_000_000));
        (0..SAMPLES_MAX as u64 + 10).for_each(|n| meter.message(Duration::from_micros(n), n + 1, 1));
        assert_eq!((meter.samples.len(), meter.messages), (SAMPLES_MAX, SAMPLES_MAX as u64 + 10));
    }
}
