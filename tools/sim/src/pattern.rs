//! The simulated image: powder rings, Bragg spots and noise, each pixel a closed formula.
//!
//! ```text
//! bits   8, 16, 32    key_bits = 6, 12, 24
//! r      = floor(sqrt((y - 257)^2 + (x - 515)^2))                  the beam hits the middle of a 500K module
//! ring   = 10 * max(0, 6 - |r mod 64 - 32|)                        a ring every 64 pixels
//! spot   = max(0, 400 - ((7x + 3y) mod 211 - 105)^2 - ((7y - 3x) mod 211 - 105)^2) / 2    a tilted lattice
//! level  = min(127, (8 + ring + spot) * 400 / (400 + r))           dimmer outwards
//! noise  = upper key_bits of mix((seed * A) ^ (y * 2^32 + x))      mix(n): n *= B; n ^= n >> 32; n *= B
//! base   = level * 2^(bits - 8) + noise
//! pixel  = base xor (image_id mod (2^key_bits - 3))
//! ```
//!
//! Integers throughout, divisions rounded down, `mod` never negative, products modulo 2^64;
//! A = 0x9e3779b97f4a7c15, B = 0xd6e8feb86659fd93. `tests/check_pattern.py` is the same in numpy.
//!
//! # Rules
//! P1  Two images whose ids differ, by less than 2^key_bits - 3, differ at every pixel: a pixel that was
//!     left over from an earlier image is noticed. The period is a prime, so that it shares no factor
//!     with the number of slots of a ring.
//! P2  No pixel is all ones, the mark of one that is missing: `base` ends at 127 levels plus the noise,
//!     so the bits above the key are never all set, and the xor leaves those bits alone.
//! P3  The bytes of an image are those of `base` under one xor, which costs as much as a copy.

use ecs_schemas::detector::{PixelType, Placement};

/// Pixel of the beam, the middle of an image of 514 x 1030.
const BEAM_Y: i64 = 257;
const BEAM_X: i64 = 515;
const LEVEL_MAX: i64 = 127;
const SEED_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
const NOISE_FACTOR: u64 = 0xd6e8_feb8_6659_fd93;

/// The value of pixel (`y`, `x`) of image `image_id`: what a checker compares with.
pub fn pixel(seed: u64, image_id: u64, y: usize, x: usize, pixel: PixelType) -> u32 {
    base(seed, y, x, pixel) ^ key(image_id, pixel)
}

/// How many consecutive ids have images that all differ at every pixel: 61, 4093 or 16,777,213.
pub fn period(pixel: PixelType) -> u64 {
    (1 << key_bits(pixel)) - 3
}

/// The part of a pixel that is the same in every image.
fn base(seed: u64, y: usize, x: usize, pixel: PixelType) -> u32 {
    let place = seed.wrapping_mul(SEED_FACTOR) ^ ((y as u64) << 32 | x as u64);
    let mixed = place.wrapping_mul(NOISE_FACTOR);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(NOISE_FACTOR);
    let noise = (mixed >> (64 - key_bits(pixel))) as u32;
    (level(y as i64, x as i64) << (8 * pixel.bytes() - 8)) + noise
}

/// The part of every pixel that says which image it is of.
fn key(image_id: u64, pixel: PixelType) -> u32 {
    (image_id % period(pixel)) as u32
}

const fn key_bits(pixel: PixelType) -> u32 {
    match pixel {
        PixelType::U8 => 6,
        PixelType::U16 => 12,
        PixelType::U32 => 24,
    }
}

/// Brightness without noise, 0 to [`LEVEL_MAX`].
fn level(y: i64, x: i64) -> u32 {
    let radius = (((y - BEAM_Y).pow(2) + (x - BEAM_X).pow(2)) as f64).sqrt() as i64;
    let ring = 10 * (6 - (radius % 64 - 32).abs()).max(0);
    let from_spot = |along: i64| (along.rem_euclid(211) - 105).pow(2);
    let spot = (400 - from_spot(7 * x + 3 * y) - from_spot(7 * y - 3 * x)).max(0) / 2;
    ((8 + ring + spot) * 400 / (400 + radius)).min(LEVEL_MAX) as u32
}

/// The payloads of every image of a detector, ready but for the image id.
pub struct Pattern {
    /// `base` of every pixel as it lies in the payloads, packet by packet.
    base: Vec<u64>,
    words_per_packet: usize,
    pixel: PixelType,
}

impl Pattern {
    /// Works out every pixel of a detector once, which takes as long as to send some tens of images.
    ///
    /// # Panics
    /// If payloads are not a multiple of 8 bytes; an EIGER's are 4096.
    pub fn new(placement: &Placement, seed: u64) -> Self {
        assert_eq!(placement.payload_bytes % size_of::<u64>(), 0, "payloads are not whole words");
        let mut bytes = Vec::with_capacity(placement.packets_per_image() * placement.payload_bytes);
        for segment in (0..placement.packets_per_image()).flat_map(|packet| placement.segments(packet)) {
            let first = segment.offset_bytes as usize / placement.pixel.bytes();
            for at in first..first + segment.len_bytes as usize / placement.pixel.bytes() {
                let value = base(seed, at / placement.width, at % placement.width, placement.pixel);
                bytes.extend_from_slice(&value.to_le_bytes()[..placement.pixel.bytes()]);
            }
        }
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("chunks of the size of a word"));
        Self {
            base: bytes.chunks_exact(size_of::<u64>()).map(word).collect(),
            words_per_packet: placement.payload_bytes / size_of::<u64>(),
            pixel: placement.pixel,
        }
    }

    /// Writes the payload of packet `packet_index` of image `image_id`.
    ///
    /// # Panics
    /// If there is no such packet, or `payload` is not of the detector's size.
    pub fn write_payload(&self, image_id: u64, packet_index: usize, payload: &mut [u8]) {
        assert_eq!(payload.len(), self.words_per_packet * size_of::<u64>(), "payload of another detector");
        let base = &self.base[packet_index * self.words_per_packet..][..self.words_per_packet];
        let key = self.key_word(image_id);
        for (out, word) in payload.chunks_exact_mut(size_of::<u64>()).zip(base) {
            out.copy_from_slice(&(word ^ key).to_ne_bytes());
        }
    }

    /// The key of an image, repeated over the pixels of one word.
    fn key_word(&self, image_id: u64) -> u64 {
        let pixel_bytes = self.pixel.bytes();
        let key = key(image_id, self.pixel).to_le_bytes();
        u64::from_ne_bytes(std::array::from_fn(|at| key[at % pixel_bytes]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecs_schemas::detector::DetectorConfig;
    use proptest::prelude::*;

    const ALL: [PixelType; 3] = [PixelType::U8, PixelType::U16, PixelType::U32];

    fn placement(bit_depth: u32) -> Placement {
        let text = include_str!("../../../tests/data/eiger-500k/detector.json");
        let mut config = DetectorConfig::from_json(text).expect("valid");
        config.bit_depth = bit_depth;
        config.placement().expect("valid")
    }

    #[test]
    fn brightest_pixel_at_every_depth_stays_below_the_mark_of_a_missing_one() {
        let levels = (0..1030).flat_map(|y| (0..1030).map(move |x| level(y, x)));
        assert_eq!(levels.max(), Some(LEVEL_MAX as u32));
        for pixel in ALL {
            let base_max = ((LEVEL_MAX as u32) << (8 * pixel.bytes() - 8)) + (1 << key_bits(pixel)) - 1;
            assert!(base_max >> key_bits(pixel) < pixel.all_ones() >> key_bits(pixel), "{pixel:?}");
        }
    }

    #[test]
    fn period_of_every_depth_is_a_prime() {
        for pixel in ALL {
            let period = period(pixel);
            assert!((2..).take_while(|n| n * n <= period).all(|n| !period.is_multiple_of(n)), "{period}");
        }
    }

    #[test]
    fn payload_bytes_equal_the_pixels_at_their_places() {
        for bit_depth in [8, 16, 32] {
            let placement = placement(bit_depth);
            let pattern = Pattern::new(&placement, 42);
            let mut payload = vec![0; placement.payload_bytes];
            for packet in (0..placement.packets_per_image()).step_by(7) {
                pattern.write_payload(1_000_003, packet, &mut payload);
                assert_eq!(payload, payload_by_pixels(&placement, 1_000_003, packet), "{bit_depth} bit, {packet}");
            }
        }
    }

    /// The slow way: pixel by pixel, from the placement alone.
    fn payload_by_pixels(placement: &Placement, image_id: u64, packet: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for segment in placement.segments(packet) {
            for offset in
                (segment.offset_bytes..segment.offset_bytes + segment.len_bytes).step_by(placement.pixel.bytes())
            {
                let at = offset as usize / placement.pixel.bytes();
                let value = pixel(42, image_id, at / placement.width, at % placement.width, placement.pixel);
                bytes.extend_from_slice(&value.to_le_bytes()[..placement.pixel.bytes()]);
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn pixel_of_any_two_near_images_differs_and_is_never_all_ones(
            seed: u64, id in 0..u64::MAX / 2, apart: u64, y in 0..4000_usize, x in 0..4000_usize, depth in 0..3_usize
        ) {
            let of = |id| pixel(seed, id, y, x, ALL[depth]);
            prop_assert!(of(id) < ALL[depth].all_ones());
            prop_assert_ne!(of(id), of(id + 1));
            prop_assert_ne!(of(id), of(id + 1 + apart % (period(ALL[depth]) - 1)));
        }
    }
}
