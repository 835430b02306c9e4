//! When each part of an image is due: an absolute schedule, so that no lateness adds up.
//!
//! ```text
//! image      0                   1                   2              due at index / rate
//! parts      |-|-|-|-|           |-|-|-|-|           |-|-|-|-|      spread over one period, SPREAD_S_MAX at most
//! ```

use std::time::{Duration, Instant};

/// The parts of one image are spread over at most this long, as a detector's are: a slow series of
/// images is not a series of slow images.
const SPREAD_S_MAX: f64 = 0.002;
/// A shorter wait than this is skipped, for a sleep ends up to 100 µs late; the schedule being
/// absolute, what is sent a little early changes no later time.
const SLEEP_S_MIN: f64 = 100e-6;
/// A longer sleep is divided, so that a stop is noticed within this time.
const SLEEP_S_MAX: f64 = 0.05;

/// A schedule of images that began at a point in time.
pub(crate) struct Pace {
    start: Instant,
    rate_hz: f64,
    paused: Duration,
}

impl Pace {
    /// Starts the schedule; `rate_hz` 0: everything is due at once.
    pub fn start(rate_hz: f64) -> Self {
        Self { start: Instant::now(), rate_hz, paused: Duration::ZERO }
    }

    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Sends nothing for a while, or until `stop`; the schedule goes on after it.
    pub fn pause(&mut self, pause: Duration, stop: &dyn Fn() -> bool) {
        let begin = Instant::now();
        while begin.elapsed() < pause && !stop() {
            let left = pause.saturating_sub(begin.elapsed());
            std::thread::sleep(left.min(Duration::from_secs_f64(SLEEP_S_MAX)));
        }
        self.paused += begin.elapsed();
    }

    /// Waits until part `part` of `parts` of the image at `image_index` is due, or until `stop`.
    pub fn wait(&self, image_index: u64, part: usize, parts: usize, stop: &dyn Fn() -> bool) {
        let due_s = due_s(self.rate_hz, image_index, part, parts) + self.paused.as_secs_f64();
        loop {
            let left_s = due_s - self.elapsed().as_secs_f64();
            if left_s < SLEEP_S_MIN || stop() {
                return;
            }
            std::thread::sleep(Duration::from_secs_f64(left_s.min(SLEEP_S_MAX)));
        }
    }
}

/// Seconds from the start to the time at which a part of an image is due.
fn due_s(rate_hz: f64, image_index: u64, part: usize, parts: usize) -> f64 {
    if rate_hz == 0.0 {
        return 0.0;
    }
    let spread_s = (1.0 / rate_hz).min(SPREAD_S_MAX);
    image_index as f64 / rate_hz + spread_s * part as f64 / parts as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_spread_evenly_over_a_short_period_and_closely_in_a_long_one() {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(due_s(1000.0, 7, 0, 4), 0.007));
        assert!(near(due_s(1000.0, 7, 3, 4), 0.007_75));
        assert!(near(due_s(1.0, 3_000_000, 2, 4), 3_000_000.001));
        assert_eq!(due_s(0.0, u64::MAX, 3, 4), 0.0);
    }

    #[test]
    fn wait_for_a_part_that_is_due_in_a_year_ends_at_once_when_stopped() {
        let pace = Pace::start(1e-300); // the due time is not even finite
        pace.wait(u64::MAX, 0, 1, &|| true);
        assert!(pace.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn wait_returns_no_earlier_than_the_shortest_sleep_before_the_due_time() {
        let pace = Pace::start(100.0);
        pace.wait(3, 0, 1, &|| false);
        assert!(pace.elapsed().as_secs_f64() >= 0.03 - SLEEP_S_MIN);
    }
}
