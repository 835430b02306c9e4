//! Random numbers that a seed replays.

#[path = "../../common/random.rs"]
mod generator;

pub use generator::Random;
use std::time::Duration;

/// Spreads the numbers of streams over all seeds.
const STREAM_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// Stream number `stream` of a seed: each client has its own, so that none moves another's.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(STREAM_FACTOR));
        random.next();
        random
    }

    /// From zero up to `longest`, short ones more often: most bugs need two things at nearly one time.
    pub fn pause(&mut self, longest: Duration) -> Duration {
        let part = self.below(1000) as f64 / 1000.0;
        longest.mul_f64(part * part)
    }
}
