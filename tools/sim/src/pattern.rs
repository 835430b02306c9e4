//! The simulated image: powder rings, Bragg spots and noise, each pixel a closed formula.
//!
//! ```text
//! bits   4, 8, 12, 16, 32    key_bits = 4, 6, 10, 12, 24
//! r      = floor(sqrt((y - 257)^2 + (x - 515)^2))                  the beam hits the middle of a 500K module
//! ring   = 10 * max(0, 6 - |r mod 64 - 32|)                        a ring every 64 pixels
//! spot   = max(0, 400 - ((7x + 3y) mod 211 - 105)^2 - ((7y - 3x) mod 211 - 105)^2) / 2    a tilted lattice
//! level  = min(127, (8 + ring + spot) * 400 / (400 + r))           dimmer outwards
//! noise  = upper key_bits of mix((seed * A) ^ (y * 2^32 + x))      mix(n): n *= B; n ^= n >> 32; n *= B
//! base   = level * 2^(bits - 8) + noise                            at 4 bit: noise alone
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
//!     so the bits above the key are never all set, and the xor leaves those bits alone. Pixels of 4 and 12 bit
//!     do not fill their type, all ones of which is the mark.
//! P3  The bytes of an image are those of `base` under one xor, which costs as much as a copy, packed or not.

use crate::gains;
use ecs_schemas::detector::{Packing, Placement};

/// Pixel of the beam, the middle of an image of 514 x 1030.
const BEAM_Y: i64 = 257;
const BEAM_X: i64 = 515;
const LEVEL_MAX: i64 = 127;
const SEED_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
const NOISE_FACTOR: u64 = 0xd6e8_feb8_6659_fd93;

/// The value of pixel (`y`, `x`) of image `image_id` at a bit depth: what a checker compares with.
pub fn pixel(seed: u64, image_id: u64, y: usize, x: usize, bits: u32) -> u32 {
    base(seed, y, x, bits) ^ key(image_id, bits)
}

/// How many consecutive ids have images that all differ at every pixel: 13, 61, 1021, 4093 or 16,777,213.
pub fn period(bits: u32) -> u64 {
    (1 << key_bits(bits)) - 3
}

/// Bits of a pixel on the wire.
pub fn bits(placement: &Placement) -> u32 {
    placement.packing.bits(placement.pixel) as u32
}

/// The part of a pixel that is the same in every image.
fn base(seed: u64, y: usize, x: usize, bits: u32) -> u32 {
    let noise = (mixed(seed, y, x) >> (64 - key_bits(bits))) as u32;
    if bits < 8 { noise } else { (level(y as i64, x as i64) << (bits - 8)) + noise }
}

/// Noise of a place, in all bits.
pub(crate) fn mixed(seed: u64, y: usize, x: usize) -> u64 {
    let place = seed.wrapping_mul(SEED_FACTOR) ^ ((y as u64) << 32 | x as u64);
    let mixed = place.wrapping_mul(NOISE_FACTOR);
    (mixed ^ (mixed >> 32)).wrapping_mul(NOISE_FACTOR)
}

/// The part of every pixel that says which image it is of.
fn key(image_id: u64, bits: u32) -> u32 {
    (image_id % period(bits)) as u32
}

const fn key_bits(bits: u32) -> u32 {
    match bits {
        4 => 4,
        8 => 6,
        12 => 10,
        16 => 12,
        _ => 24,
    }
}

/// Brightness without noise, 0 to [`LEVEL_MAX`].
pub(crate) fn level(y: i64, x: i64) -> u32 {
    let radius = (((y - BEAM_Y).pow(2) + (x - BEAM_X).pow(2)) as f64).sqrt() as i64;
    let ring = 10 * (6 - (radius % 64 - 32).abs()).max(0);
    let from_spot = |along: i64| (along.rem_euclid(211) - 105).pow(2);
    let spot = (400 - from_spot(7 * x + 3 * y) - from_spot(7 * y - 3 * x)).max(0) / 2;
    ((8 + ring + spot) * 400 / (400 + radius)).min(LEVEL_MAX) as u32
}

/// Bytes after which the keys of all bit depths repeat: 192 bits are whole pixels and whole words.
const KEY_BYTES: usize = 24;

/// The payloads of every image of a detector, ready but for the image id.
pub struct Pattern {
    /// `base` of every pixel as it lies in the payloads, packet by packet.
    base: Vec<u8>,
    /// Of each packet; and the end of the last one.
    offsets: Vec<usize>,
    /// Of each packet number: how much of a pixel its first one lacks, in bits.
    phases: Vec<u32>,
    bits: u32,
    /// Of darks: the pixels of as many ids as differ, one behind the other; nothing else tells the image.
    darks: u64,
}

impl Pattern {
    /// Works out every pixel of a detector once, which takes as long as to send some tens of images.
    pub fn new(placement: &Placement, seed: u64) -> Self {
        let bits = bits(placement);
        match placement.packing {
            Packing::Gain14 => Self::of(placement, 0, &|_, y, x| gains::base(seed, y, x)),
            _ => Self::of(placement, 0, &|_, y, x| base(seed, y, x, bits)),
        }
    }

    /// Dark images of a detector that switches gains, taken with one of them; see [`gains::dark`].
    pub fn dark(placement: &Placement, gain: usize) -> Self {
        Self::of(placement, gains::DARKS, &|id, y, x| gains::dark(id, y, x, gain))
    }

    /// Each pixel is `pixel(id, y, x)`, for ids below `darks`.
    fn of(placement: &Placement, darks: u64, pixel: &dyn Fn(u64, usize, usize) -> u32) -> Self {
        let bits = bits(placement);
        let phase = |number: usize| (bits - placement.lead_bits(number)) % bits;
        let mut pattern = Self {
            base: Vec::with_capacity(placement.packets_per_image() * placement.payload_bytes),
            offsets: vec![0],
            phases: (0..placement.packets_per_module).map(phase).collect(),
            bits,
            darks,
        };
        let ids = (0..darks.max(1)).flat_map(|id| (0..placement.packets_per_image()).map(move |packet| (id, packet)));
        for (id, packet) in ids {
            let number = packet % placement.packets_per_module;
            let begin = pattern.base.len();
            pattern.base.resize(begin + placement.payload_bytes_of(number), 0);
            let values = pixels_of(placement, packet).map(|(y, x)| pixel(id, y, x));
            pack(&mut pattern.base[begin..], values, placement, pattern.phases[number]);
            pattern.offsets.push(pattern.base.len());
        }
        pattern
    }

    /// Writes the payload of packet `packet_index` of image `image_id`.
    ///
    /// # Panics
    /// If there is no such packet, or `payload` is not of its size.
    pub fn write_payload(&self, image_id: u64, packet_index: usize, payload: &mut [u8]) {
        let packets = (self.offsets.len() - 1) / self.darks.max(1) as usize;
        let of_image = packets * image_id.checked_rem(self.darks).unwrap_or(0) as usize;
        let base = &self.base[self.offsets[of_image + packet_index]..self.offsets[of_image + packet_index + 1]];
        assert_eq!(payload.len(), base.len(), "payload of another packet");
        if self.darks > 0 {
            return payload.copy_from_slice(base);
        }
        let key = self.key_bytes(image_id, self.phases[packet_index % self.phases.len()]);
        let mut out = payload.chunks_exact_mut(KEY_BYTES);
        let mut from = base.chunks_exact(KEY_BYTES);
        for (out, from) in out.by_ref().zip(from.by_ref()) {
            (0..KEY_BYTES).for_each(|at| out[at] = from[at] ^ key[at]);
        }
        let rest = out.into_remainder().iter_mut().zip(from.remainder()).zip(key);
        rest.for_each(|((out, from), key)| *out = from ^ key);
    }

    /// The key of an image, repeated over the pixels, from `phase` bits of a pixel on.
    fn key_bytes(&self, image_id: u64, phase: u32) -> [u8; KEY_BYTES] {
        let key = u64::from(key(image_id, self.bits));
        std::array::from_fn(|byte| {
            let bit = |at: u32| (key >> ((phase + 8 * byte as u32 + at) % self.bits) & 1) << at;
            (0..8).map(bit).sum::<u64>() as u8
        })
    }
}

/// Row and column of each pixel of a packet, those that it has only a part of among them.
fn pixels_of(placement: &Placement, packet: usize) -> impl Iterator<Item = (usize, usize)> {
    let (bytes, width) = (placement.pixel.bytes(), placement.width);
    placement.segments(packet).iter().flat_map(move |segment| {
        let first = segment.offset_bytes as usize / bytes;
        (first..first + segment.len_bytes as usize / bytes).map(move |at| (at / width, at % width))
    })
}

/// Writes pixels into a payload that lacks the first `phase` bits of the first one.
fn pack(payload: &mut [u8], values: impl Iterator<Item = u32>, placement: &Placement, phase: u32) {
    let bits = bits(placement) as usize;
    for (index, value) in values.enumerate() {
        for bit in (0..bits).filter(|bit| value >> bit & 1 != 0) {
            let at = match placement.packing {
                // The first of two pixels has the upper half.
                Packing::Packed4 => Some((index ^ 1) * bits + bit),
                _ => (index * bits + bit).checked_sub(phase as usize),
            };
            if let Some(byte) = at.and_then(|at| payload.get_mut(at / 8)) {
                *byte |= 1 << (at.unwrap_or(0) % 8);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecs_schemas::detector::DetectorConfig;
    use proptest::prelude::*;

    const ALL: [u32; 5] = [4, 8, 12, 16, 32];

    fn all_ones(bits: u32) -> u32 {
        placement(bits).pixel.all_ones()
    }

    fn placement(bit_depth: u32) -> Placement {
        let text = include_str!("../../../tests/data/eiger-500k/detector.json");
        let mut config = DetectorConfig::from_json(text).expect("valid");
        config.bit_depth = Some(bit_depth);
        config.placement().expect("valid")
    }

    #[test]
    fn brightest_pixel_at_every_depth_stays_below_the_mark_of_a_missing_one() {
        let levels = (0..1030).flat_map(|y| (0..1030).map(move |x| level(y, x)));
        assert_eq!(levels.max(), Some(LEVEL_MAX as u32));
        for bits in [8, 12, 16, 32] {
            let base_max = ((LEVEL_MAX as u32) << (bits - 8)) + (1 << key_bits(bits)) - 1;
            assert!(base_max >> key_bits(bits) < u32::MAX >> (32 - bits) >> key_bits(bits), "{bits}");
        }
    }

    #[test]
    fn period_of_every_depth_is_a_prime() {
        for bits in ALL {
            let period = period(bits);
            assert!((2..).take_while(|n| n * n <= period).all(|n| !period.is_multiple_of(n)), "{period}");
        }
    }

    #[test]
    fn payload_bytes_equal_the_pixels_at_their_places() {
        for bit_depth in ALL {
            let placement = placement(bit_depth);
            let pattern = Pattern::new(&placement, 42);
            let mut payload = vec![0; placement.payload_bytes];
            for packet in (0..placement.packets_per_image()).step_by(7) {
                pattern.write_payload(1_000_003, packet, &mut payload);
                assert_eq!(payload, payload_by_pixels(&placement, 1_000_003, packet), "{bit_depth} bit, {packet}");
            }
        }
    }

    /// The slow way: the bits of all pixels of a module as one number after the other, cut.
    fn payload_by_pixels(placement: &Placement, image_id: u64, packet: usize) -> Vec<u8> {
        let bits = bits(placement);
        let (module, number) = (packet / placement.packets_per_module, packet % placement.packets_per_module);
        let mut stream: Vec<bool> = Vec::new();
        for packet in module * placement.packets_per_module..=packet {
            let shared = usize::from(placement.lead_bits(packet) > 0);
            for (y, x) in pixels_of(placement, packet).skip(shared) {
                let value = pixel(42, image_id, y, x, bits);
                stream.extend((0..bits).map(|bit| value >> bit & 1 != 0));
            }
        }
        let begin = number * placement.payload_bytes * 8;
        let of_packet = &stream[begin..begin + placement.payload_bytes * 8];
        let byte = |bits: &[bool]| bits.iter().rev().fold(0_u8, |byte, &bit| byte << 1 | u8::from(bit));
        let bytes = of_packet.chunks(8).map(byte);
        if bits == 4 { bytes.map(|byte| byte.rotate_left(4)).collect() } else { bytes.collect() }
    }

    proptest! {
        #[test]
        fn pixel_of_any_two_near_images_differs_and_is_never_all_ones(
            seed: u64, id in 0..u64::MAX / 2, apart: u64, y in 0..4000_usize, x in 0..4000_usize, depth in 0..5_usize
        ) {
            let of = |id| pixel(seed, id, y, x, ALL[depth]);
            prop_assert!(of(id) < all_ones(ALL[depth]));
            prop_assert_ne!(of(id), of(id + 1));
            prop_assert_ne!(of(id), of(id + 1 + apart % (period(ALL[depth]) - 1)));
        }
    }
}
