//! Pixels of 14 bit of charge and 2 of gain, from a payload in the cache into the image, in one pass.
//!
//! ```text
//! bits     15 14 | 13 … 0          value = (charge - pedestal[gain]) * factor[gain]       32 bit floats, rounded after
//!          code  | charge          code 0, 1, 3: gain 0, 1, 2; code 2 is none             each of the two operations
//! ```
//!
//! # Rules
//! C1  Every bit of the result is that of [`scalar`], whichever vector instructions the processor has.
//! C2  A value that is not a number is marked: it becomes the fill value. So are values with code 2, and those that do not
//!     fit into a rounded pixel. Rounding is to the nearest integer, halves to the even one.
//! C3  Values that pass the cache by ([`_mm_sfence`](std::arch::x86_64::_mm_sfence)) are in memory before this returns: a
//!     packet is marked afterwards (R4 of the ring).
//!
//! These are functions over slices, so that a benchmark can call them alone.

use ecs_calibration::{GainZero, GainsAbove, LANES, ModuleConstants};

/// Bits of charge of a raw pixel; the gain's code is above them.
const CHARGE: u16 = 0x3fff;
const CODE_SHIFT: u32 = 14;

/// What pixels become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    F32,
    /// Rounded.
    I32,
}

/// What a run of pixels is converted with, from its first pixel on.
#[derive(Debug, Clone, Copy)]
pub struct Constants<'a> {
    low: &'a [GainZero],
    high: &'a [GainsAbove],
    /// Lane of the first pixel in the first block.
    lane: usize,
}

impl<'a> Constants<'a> {
    /// Of a module's pixels from `first` on.
    ///
    /// # Panics
    /// If the module has no such pixel.
    pub fn from_pixel(module: &'a ModuleConstants, first: usize) -> Self {
        let block = first / LANES;
        Self { low: &module.low[block..], high: &module.high[block..], lane: first % LANES }
    }
}

/// Converts `raw`, two bytes a pixel, into `out`: the bits of a float or of an integer. `fill` are the bits of a pixel
/// that is marked (C2).
///
/// # Panics
/// If there are not as many raw pixels, or fewer constants.
pub fn convert(output: Output, constants: Constants, raw: &[u8], fill: u32, out: &mut [u32]) {
    assert!(raw.len() == 2 * out.len(), "{} bytes for {} pixels", raw.len(), out.len());
    let blocks = (constants.lane + out.len()).div_ceil(LANES);
    assert!(constants.low.len() >= blocks && constants.high.len() >= blocks, "constants of fewer pixels");
    #[cfg(target_arch = "x86_64")]
    if constants.lane == 0 && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2; there are as many raw pixels and constants.
        let done = unsafe {
            match output {
                Output::F32 => avx2::convert::<false>(constants, raw, fill, out),
                Output::I32 => avx2::convert::<true>(constants, raw, fill, out),
            }
        };
        let left = Constants { low: &constants.low[done / LANES..], high: &constants.high[done / LANES..], lane: 0 };
        return scalar(output, left, &raw[2 * done..], fill, &mut out[done..]);
    }
    scalar(output, constants, raw, fill, out);
}

/// The same, pixel by pixel.
///
/// # Panics
/// If there are fewer constants.
pub fn scalar(output: Output, constants: Constants, raw: &[u8], fill: u32, out: &mut [u32]) {
    for ((out, raw), at) in out.iter_mut().zip(raw.as_chunks::<2>().0).zip(constants.lane..) {
        let raw = u16::from_le_bytes(*raw);
        let (low, high, lane) = (&constants.low[at / LANES], &constants.high[at / LANES], at % LANES);
        let (pedestal, factor) = match raw >> CODE_SHIFT {
            0 => (low.pedestal[lane], low.factor[lane]),
            1 => (high.pedestal[0][lane], high.factor[0][lane]),
            3 => (high.pedestal[1][lane], high.factor[1][lane]),
            _ => (0.0, f32::NAN),
        };
        let value = (f32::from(raw & CHARGE) - pedestal) * factor;
        *out = match output {
            Output::F32 if value.is_nan() => fill,
            Output::F32 => value.to_bits(),
            Output::I32 => rounded(value).map_or(fill, |value| value as u32),
        };
    }
}

/// C2. The lowest integer is what the processor makes of all that does not fit, so it does not fit either.
fn rounded(value: f32) -> Option<i32> {
    const END: f32 = 2_147_483_648.0;
    let value = value.round_ties_even();
    (value > -END && value < END).then_some(value as i32)
}

/// Pixels as they come, gain code and all, in the type of converted ones.
///
/// # Panics
/// If there are not as many raw pixels.
pub fn unconverted(output: Output, raw: &[u8], out: &mut [u32]) {
    assert!(raw.len() == 2 * out.len(), "{} bytes for {} pixels", raw.len(), out.len());
    for (out, raw) in out.iter_mut().zip(raw.as_chunks::<2>().0) {
        let raw = u16::from_le_bytes(*raw);
        *out = match output {
            Output::F32 => f32::from(raw).to_bits(),
            Output::I32 => raw.into(),
        };
    }
}

/// So many blocks ahead their constants are asked for, two pages: what the processor asks for by itself ends with a page.
pub const BLOCKS_AHEAD: usize = 128;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{BLOCKS_AHEAD, CHARGE, CODE_SHIFT, Constants, LANES};
    use ecs_shm_buffer::prefetch;
    use std::arch::x86_64::*;

    /// Converts as many whole blocks as there are; returns how many pixels. Whole lines of the image are written past
    /// the cache where they begin at a line's begin: nobody on this core reads them.
    ///
    /// # Safety
    /// The processor has AVX2; there are as many raw pixels, two bytes each, as in `out`, and their constants.
    #[target_feature(enable = "avx2")]
    pub unsafe fn convert<const ROUND: bool>(constants: Constants, raw: &[u8], fill: u32, out: &mut [u32]) -> usize {
        let blocks = out.len() / LANES;
        let is_aligned = out.as_ptr().cast::<__m256i>().is_aligned();
        for block in 0..blocks {
            prefetch(constants.low.as_ptr().wrapping_add(block + BLOCKS_AHEAD).cast());
            // SAFETY: the block's pixels and constants are there, by the caller's promise; only stores past the cache
            // need an aligned place.
            unsafe {
                let raw = _mm_loadu_si128(raw.as_ptr().add(block * 2 * LANES).cast());
                let bits = convert_block::<ROUND>(constants, block, raw, fill);
                let to = out.as_mut_ptr().add(block * LANES).cast();
                if is_aligned { _mm256_stream_si256(to, bits) } else { _mm256_storeu_si256(to, bits) }
            }
        }
        if is_aligned {
            _mm_sfence(); // C3
        }
        blocks * LANES
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn convert_block<const ROUND: bool>(constants: Constants, block: usize, raw: __m128i, fill: u32) -> __m256i {
        // SAFETY: the caller's promise: there is such a block; a block is aligned.
        let (mut pedestal, mut factor) = unsafe {
            let low = constants.low.get_unchecked(block);
            (_mm256_load_ps(low.pedestal.as_ptr()), _mm256_load_ps(low.factor.as_ptr()))
        };
        let wide = _mm256_cvtepu16_epi32(raw);
        let mut charge = wide;
        if _mm_testz_si128(raw, _mm_set1_epi16(!CHARGE as i16)) == 0 {
            charge = _mm256_and_si256(wide, _mm256_set1_epi32(CHARGE.into()));
            let code = _mm256_srli_epi32::<{ CODE_SHIFT as i32 }>(wide);
            let is = |number| _mm256_castsi256_ps(_mm256_cmpeq_epi32(code, _mm256_set1_epi32(number)));
            let (first, second, none) = (is(1), is(3), is(2));
            // SAFETY: as above.
            unsafe {
                let high = constants.high.get_unchecked(block);
                pedestal = _mm256_blendv_ps(pedestal, _mm256_load_ps(high.pedestal[0].as_ptr()), first);
                pedestal = _mm256_blendv_ps(pedestal, _mm256_load_ps(high.pedestal[1].as_ptr()), second);
                factor = _mm256_blendv_ps(factor, _mm256_load_ps(high.factor[0].as_ptr()), first);
                factor = _mm256_blendv_ps(factor, _mm256_load_ps(high.factor[1].as_ptr()), second);
            }
            factor = _mm256_blendv_ps(factor, _mm256_set1_ps(f32::NAN), none);
        }
        let value = _mm256_mul_ps(_mm256_sub_ps(_mm256_cvtepi32_ps(charge), pedestal), factor);
        let fill = _mm256_set1_epi32(fill as i32);
        if ROUND {
            let rounded = _mm256_cvtps_epi32(value); // to the nearest, halves to even: MXCSR as every process has it
            let does_not_fit = _mm256_cmpeq_epi32(rounded, _mm256_set1_epi32(i32::MIN));
            _mm256_blendv_epi8(rounded, fill, does_not_fit)
        } else {
            let is_none = _mm256_cmp_ps::<_CMP_UNORD_Q>(value, value);
            _mm256_blendv_epi8(_mm256_castps_si256(value), fill, _mm256_castps_si256(is_none))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        /// Small and large ones, none, and those that make a value that does not fit.
        fn factor(&mut self) -> f32 {
            match self.next() % 16 {
                0 => f32::NAN,
                1 => 1e9,
                2 => -1e9,
                3 => 0.5, // halves
                _ => (self.next() % 2_000_000) as f32 / 1e6 - 1.0,
            }
        }

        fn pedestal(&mut self) -> f32 {
            match self.next() % 8 {
                0 => (self.next() % 16384) as f32,
                _ => (self.next() % 16_000_000) as f32 / 1000.0,
            }
        }
    }

    fn constants(random: &mut Random, blocks: usize) -> ModuleConstants {
        let mut module = ModuleConstants::default();
        for _ in 0..blocks {
            let mut pedestals = || std::array::from_fn(|_| random.pedestal());
            let (low, high) = (pedestals(), [pedestals(), pedestals()]);
            let mut factors = || std::array::from_fn(|_| random.factor());
            module.low.push(GainZero { pedestal: low, factor: factors() });
            module.high.push(GainsAbove { pedestal: high, factor: [factors(), factors()] });
        }
        module
    }

    /// Raw pixels of which one in `switched` has another gain than 0.
    fn raw(random: &mut Random, pixels: usize, switched: u64) -> Vec<u8> {
        let mut pixel = || {
            let code = if random.next().is_multiple_of(switched) { random.next() as u16 & 3 } else { 0 };
            (random.next() as u16 & CHARGE) | code << CODE_SHIFT
        };
        (0..pixels).flat_map(|_| pixel().to_le_bytes()).collect()
    }

    /// One pixel after the definition, written apart from `scalar`.
    fn wanted(output: Output, module: &ModuleConstants, at: usize, raw: u16, fill: u32) -> u32 {
        let (block, lane) = (at / 8, at % 8);
        let tables = [
            Some((module.low[block].pedestal, module.low[block].factor)),
            Some((module.high[block].pedestal[0], module.high[block].factor[0])),
            None,
            Some((module.high[block].pedestal[1], module.high[block].factor[1])),
        ];
        let Some((pedestal, factor)) = tables[usize::from(raw / 16384)] else { return fill };
        let difference = f32::from(raw % 16384) - pedestal[lane];
        let value = difference * factor[lane];
        match output {
            _ if value.is_nan() => fill,
            Output::F32 => value.to_bits(),
            Output::I32 if value.abs() >= 2_147_483_648.0 => fill,
            Output::I32 => value.round_ties_even() as i32 as u32,
        }
    }

    #[test]
    fn every_length_begin_and_place_gives_the_bits_of_the_definition_with_and_without_vectors() {
        let mut random = Random(0x1234_5678_9abc_def1);
        let module = constants(&mut random, 64);
        for switched in [1, 3, 100, u64::MAX] {
            for (first, pixels, shift) in
                [(0, 256, 0), (0, 256, 1), (0, 255, 4), (0, 7, 0), (8, 64, 2), (3, 100, 0), (256, 250, 7), (13, 1, 1)]
            {
                let raw = raw(&mut random, pixels, switched);
                for (output, fill) in
                    [(Output::F32, 0x7fc0_0000), (Output::F32, 7), (Output::I32, 0x8000_0000), (Output::I32, 77)]
                {
                    let code = |at: usize| u16::from_le_bytes([raw[2 * at], raw[2 * at + 1]]);
                    let wanted: Vec<u32> =
                        (0..pixels).map(|at| wanted(output, &module, first + at, code(at), fill)).collect();
                    // Where the image's pixels begin at no multiple of a vector, and nothing beside them is written.
                    let mut out = vec![0xdead_beef; shift + pixels + 9];
                    convert(output, Constants::from_pixel(&module, first), &raw, fill, &mut out[shift..][..pixels]);
                    assert_eq!(out[shift..][..pixels], wanted, "{output:?}, {pixels} from {first}, 1/{switched}");
                    assert!(out[..shift].iter().chain(&out[shift + pixels..]).all(|&bits| bits == 0xdead_beef));
                    let mut plain = vec![0; pixels];
                    scalar(output, Constants::from_pixel(&module, first), &raw, fill, &mut plain);
                    assert_eq!(plain, wanted, "without vectors");
                }
            }
        }
    }

    #[test]
    fn gain_codes_and_rounding_are_those_of_the_detectors_documents() {
        // std-data-convert-jf tests gains (factor, pedestal) such as (1, 0) and (2, -1); code 3 is gain 2.
        let module = ModuleConstants {
            low: vec![GainZero { pedestal: [0.0; 8], factor: [1.0; 8] }],
            high: vec![GainsAbove { pedestal: [[-1.0; 8], [100.0; 8]], factor: [[2.0; 8], [-0.25; 8]] }],
        };
        let raw: Vec<u8> =
            [5_u16, 5 | 1 << 14, 5 | 3 << 14, 5 | 2 << 14, 102 | 3 << 14, 106 | 3 << 14, 90 | 3 << 14, 0]
                .iter()
                .flat_map(|raw| raw.to_le_bytes())
                .collect();
        let mut out = [0; 8];
        convert(Output::F32, Constants::from_pixel(&module, 0), &raw, f32::NAN.to_bits(), &mut out);
        let values = out.map(f32::from_bits);
        assert_eq!((values[0], values[1], values[2], values[4]), (5.0, 12.0, 23.75, -0.5));
        assert!(values[3].is_nan(), "code 2 is no gain");
        convert(Output::I32, Constants::from_pixel(&module, 0), &raw, i32::MIN as u32, &mut out);
        assert_eq!(out.map(|bits| bits as i32), [5, 12, 24, i32::MIN, 0, -2, 2, 0], "halves go to the even one");
        unconverted(Output::F32, &raw, &mut out);
        assert_eq!(out.map(f32::from_bits)[..4], [5.0, 16389.0, 49157.0, 32773.0]);
    }
}
