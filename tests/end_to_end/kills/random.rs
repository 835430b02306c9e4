//! Random numbers that a seed replays (SplitMix64, Steele, Lea and Flood 2014).

use std::time::Duration;

pub struct Random(u64);

impl Random {
    /// Stream number `stream` of a seed: each client has its own, so that none moves another's.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random.next();
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// From zero up to `longest`, short ones more often: most bugs need two things at nearly one time.
    pub fn pause(&mut self, longest: Duration) -> Duration {
        let part = self.below(1000) as f64 / 1000.0;
        longest.mul_f64(part * part)
    }
}
