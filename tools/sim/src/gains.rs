//! Raw pixels of a detector that switches gains: signals of every gain, and darks of one; each a closed formula.
//!
//! ```text
//! level, noise   as of 16 bit pixels (pattern.rs), 7 and 12 bits
//! n2     = middle byte of the noise's mix (bits 32 to 39)
//! code   = 1 where floor(y / 64) mod 4 = 1, 3 where it is 2; else 1 where n2 < 8, 3 where n2 < 12, 2 where n2 = 12, else 0
//! signal = (code * 2^14 + level * 2^6 + noise) xor (image_id mod 4093)
//!
//! rest   = 1000 * (gain + 1) + (7y + 3x) mod 256                           what a dark image has on average
//! dark   = code of the gain * 2^14 + rest + (image_id + y + 2x) mod 5 - 2
//! ```
//!
//! The mean of five darks in a row is `rest` exactly, and their RMS the root of 2. Code 2 is no gain: such a pixel has no
//! value. Darks hold no such pixel.

use crate::pattern::{level, mixed};

/// Codes of gains 0, 1 and 2.
const CODES: [u32; 3] = [0, 1, 3];
/// Darks of so many ids in a row differ; then they repeat.
pub(crate) const DARKS: u64 = 5;

/// A signal without the part that tells the image.
pub(crate) fn base(seed: u64, y: usize, x: usize) -> u32 {
    let mixed = mixed(seed, y, x);
    let charge = (level(y as i64, x as i64) << 6) + (mixed >> 52) as u32;
    code(mixed, y) << 14 | charge
}

fn code(mixed: u64, y: usize) -> u32 {
    match (y / 64 % 4, mixed >> 32 & 0xff) {
        (1, _) => 1,
        (2, _) => 3,
        (_, 0..8) => 1,
        (_, 8..12) => 3,
        (_, 12) => 2,
        _ => 0,
    }
}

/// A pixel of a dark image, taken with one gain.
///
/// # Panics
/// If there is no such gain: they are 0, 1 and 2.
pub fn dark(image_id: u64, y: usize, x: usize, gain: usize) -> u32 {
    let ripple = (image_id % DARKS + (y + 2 * x) as u64) % DARKS;
    CODES[gain] << 14 | (rest(y, x, gain) + ripple as u32 - 2)
}

/// What a pixel's darks are on average.
pub fn rest(y: usize, x: usize, gain: usize) -> u32 {
    1000 * (gain as u32 + 1) + ((7 * y + 3 * x) % 256) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_of_every_code_and_fit_below_it_whatever_the_image() {
        let mut codes = [0_u32; 4];
        for (y, x) in (0..514).flat_map(|y| (0..1030).map(move |x| (y, x))) {
            let pixel = base(7, y, x);
            assert!(pixel <= 0xffff && pixel & 0x3fff < 0x3000, "the key changes the lower 12 bits alone");
            codes[(pixel >> 14) as usize] += 1;
        }
        assert!(codes[0] > 200_000 && codes[1] > 100_000 && codes[3] > 100_000 && codes[2] > 500, "{codes:?}");
    }

    #[test]
    fn darks_of_five_ids_in_a_row_have_their_rest_as_mean() {
        for (y, x, gain) in [(0, 0, 0), (513, 1029, 1), (100, 7, 2)] {
            let sum: u32 = (11..11 + DARKS).map(|id| dark(id, y, x, gain) & 0x3fff).sum();
            assert_eq!(sum, 5 * rest(y, x, gain));
            assert_eq!(dark(3, y, x, gain) >> 14, [0, 1, 3][gain]);
        }
    }
}
