//! Packed pixels, from a payload in the cache into the image, in one pass.
//!
//! ```text
//! 12 bit   byte    b0       b1       b2          4 bit   byte    b0
//!          pixel   |---p0------|---p1------|             pixel   |p1 |p0 |   the upper half is the first
//! ```
//!
//! # Rules
//! U1  Every bit of the result is that of [`pixels12`] and [`pixels4`] without vector instructions, whichever
//!     ones the processor has.
//! U2  A pixel that begins in one packet and ends in the next is written by both, each its own bits: the rest of the
//!     pixel is kept, so that the order does not matter. Both come on ports of this process (R4 of the ring).

use ecs_schemas::detector::Segment;

/// Bits of a packed pixel of 12 bit.
const BITS: usize = 12;
/// Half bytes of it: pixels begin at any of them.
const NIBBLES: usize = BITS / 4;

/// Unpacks the pixels of 12 bit in `payload` to their places. The first `lead_bits` bits end a pixel of the packet
/// before; where the payload ends within the last pixel, its first bits are there.
///
/// # Safety
/// `segments` are places of pixels in an image at `pixels` that this thread may read and write.
///
/// # Panics
/// If the payload is shorter than the segments ask for.
pub unsafe fn unpack12(payload: &[u8], lead_bits: u32, segments: &[Segment], pixels: *mut u8) {
    let lead_nibbles = lead_bits as usize / 4;
    let mut nibble = lead_nibbles;
    let mut is_led = lead_nibbles > 0;
    for segment in segments {
        // SAFETY: the caller's promise; offsets of pixels are even, as the begin of an image is.
        let mut out: &mut [u16] = unsafe {
            let first = pixels.add(segment.offset_bytes as usize).cast();
            std::slice::from_raw_parts_mut(first, segment.len_bytes as usize / size_of::<u16>())
        };
        if is_led {
            let (first, rest) = out.split_first_mut().expect("a segment has pixels");
            let above = BITS - 4 * lead_nibbles;
            *first = *first & !(u16::MAX << above) | bits(payload, 0, lead_nibbles) << above;
            (out, is_led) = (rest, false);
        }
        let whole = ((2 * payload.len() - nibble) / NIBBLES).min(out.len());
        let (whole, cut) = out.split_at_mut(whole);
        pixels12(payload, nibble, whole);
        nibble += NIBBLES * whole.len();
        if let [last] = cut {
            let left = 2 * payload.len() - nibble;
            *last = *last & (u16::MAX >> (16 - BITS)) & u16::MAX << (4 * left) | bits(payload, nibble, left);
            nibble += left;
        } else {
            assert!(cut.is_empty(), "a payload is shorter than its place");
        }
    }
}

/// Unpacks the pixels of 4 bit in `payload` to their places.
///
/// # Safety
/// As [`unpack12`].
///
/// # Panics
/// If the payload is shorter than the segments ask for.
pub unsafe fn unpack4(payload: &[u8], segments: &[Segment], pixels: *mut u8) {
    let mut nibble = 0;
    for segment in segments {
        // SAFETY: the caller's promise.
        let out = unsafe {
            std::slice::from_raw_parts_mut(pixels.add(segment.offset_bytes as usize), segment.len_bytes as usize)
        };
        pixels4(payload, nibble, out);
        nibble += out.len();
    }
}

/// `count` half bytes (at most 3) from `nibble` on, lowest first.
fn bits(payload: &[u8], nibble: usize, count: usize) -> u16 {
    let half = |at: usize| u16::from(payload[at / 2]) >> (4 * (at % 2)) & 0xf;
    (0..count).fold(0, |value, index| value | half(nibble + index) << (4 * index))
}

/// Whole pixels of 12 bit, from half byte `nibble` on.
fn pixels12(payload: &[u8], nibble: usize, mut out: &mut [u16]) {
    let mut from = nibble;
    if !from.is_multiple_of(2) && !out.is_empty() {
        out[0] = bits(payload, from, NIBBLES);
        (from, out) = (from + NIBBLES, &mut out[1..]);
    }
    let source = &payload[from / 2..];
    let done = pairs12(source, out);
    for (index, pixel) in out.iter_mut().enumerate().skip(done) {
        *pixel = bits(source, NIBBLES * index, NIBBLES);
    }
}

/// Unpacks as many pixels as go many at a time; returns how many.
fn pairs12(source: &[u8], out: &mut [u16]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        let done = unsafe { avx2::pixels12(source, out) };
        return done + fours12(&source[done * BITS / 8..], &mut out[done..]);
    }
    fours12(source, out)
}

/// Four pixels at a time, in one word.
fn fours12(source: &[u8], out: &mut [u16]) -> usize {
    const FOUR: u64 = 0xfff;
    let mut done = 0;
    for (four, at) in out.chunks_exact_mut(4).zip((0..).step_by(6)) {
        let Some(word) = source.get(at..).and_then(<[u8]>::first_chunk) else { break };
        let word = u64::from_le_bytes(*word);
        for (index, pixel) in four.iter_mut().enumerate() {
            *pixel = (word >> (BITS * index) & FOUR) as u16;
        }
        done += 4;
    }
    done
}

/// Pixels of 4 bit, from half byte `nibble` on: the upper half of a byte is the first.
fn pixels4(payload: &[u8], nibble: usize, mut out: &mut [u8]) {
    let mut from = nibble;
    if !from.is_multiple_of(2) && !out.is_empty() {
        out[0] = payload[from / 2] & 0xf;
        (from, out) = (from + 1, &mut out[1..]);
    }
    let source = &payload[from / 2..][..out.len().div_ceil(2)];
    // The compiler makes vector instructions of this.
    for (pair, byte) in out.chunks_exact_mut(2).zip(source) {
        pair[0] = byte >> 4;
        pair[1] = byte & 0xf;
    }
    if let ([last], Some(byte)) = (out.chunks_exact_mut(2).into_remainder(), source.last()) {
        *last = byte >> 4;
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    /// Pixels of one round, and the bytes that it reads: two loads of 16 bytes, 12 bytes apart.
    const PIXELS: usize = 16;
    const BYTES_READ: usize = 28;
    const BYTES_USED: usize = 24;

    /// Unpacks rounds of 16 pixels as long as there is room; returns how many pixels.
    ///
    /// # Safety
    /// The processor has AVX2.
    #[target_feature(enable = "avx2")]
    pub unsafe fn pixels12(source: &[u8], out: &mut [u16]) -> usize {
        // Of each 12 bytes, the two that hold a pixel: b0 b1, b1 b2, b3 b4, b4 b5, …
        let pair = _mm_setr_epi8(0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 10, 11);
        let pairs = _mm256_broadcastsi128_si256(pair);
        let low = _mm256_set1_epi16(0xfff);
        let rounds = (out.len() / PIXELS).min(source.len().saturating_sub(BYTES_READ - BYTES_USED) / BYTES_USED);
        for round in 0..rounds {
            // SAFETY: `rounds` rounds of BYTES_USED, and BYTES_READ - BYTES_USED more, lie in the source, and as many
            // pixels in `out`.
            unsafe {
                let from = source.as_ptr().add(round * BYTES_USED);
                let halves = _mm256_loadu2_m128i(from.add(12).cast(), from.cast());
                let words = _mm256_shuffle_epi8(halves, pairs);
                // The first of a pair has its bits below, the second above.
                let pixels =
                    _mm256_blend_epi16::<0b1010_1010>(_mm256_and_si256(words, low), _mm256_srli_epi16::<4>(words));
                _mm256_storeu_si256(out.as_mut_ptr().add(round * PIXELS).cast(), pixels);
            }
        }
        rounds * PIXELS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u64, bytes: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        (0..bytes).map(|_| next()).collect()
    }

    /// The formula, pixel by pixel, of a stream of bits.
    fn pixel12(stream: &[u8], pixel: usize) -> u16 {
        let bit = |at: usize| u16::from(stream[at / 8] >> (at % 8) & 1);
        (0..12).map(|index| bit(12 * pixel + index) << index).sum()
    }

    #[test]
    fn twelve_bit_pixels_of_the_cameras_documentation() {
        // std-data-convert-gf, test_converter.cpp.
        for (bytes, pixels) in [
            ([0x01, 0x22, 0x20, 0x03, 0x42, 0x20], [513, 514, 515, 516]),
            ([0x02, 0x36, 0x60, 0x04, 0x56, 0x60], [1538, 1539, 1540, 1541]),
        ] {
            let mut out = [0; 4];
            pixels12(&bytes, 0, &mut out);
            assert_eq!(out, pixels);
        }
    }

    #[test]
    fn four_bit_pixels_have_the_upper_half_first() {
        let mut out = [0; 5];
        pixels4(&[0x12, 0x34, 0x56], 0, &mut out);
        assert_eq!(out, [1, 2, 3, 4, 5]);
        pixels4(&[0x12, 0x34, 0x56], 1, &mut out);
        assert_eq!(out, [2, 3, 4, 5, 6]);
    }

    #[test]
    fn every_length_and_begin_gives_the_bits_of_the_formula_with_and_without_vectors() {
        let stream = random(1, 200);
        for first in 0..5 {
            for count in 0..120 {
                let wanted: Vec<u16> = (first..first + count).map(|pixel| pixel12(&stream, pixel)).collect();
                let mut out = vec![0xffff; count];
                // The source ends where the pixels do: nothing behind it may be read.
                let source = &stream[..((first + count) * 12).div_ceil(8)];
                pixels12(source, 3 * first, &mut out);
                assert_eq!(out, wanted, "{count} pixels from {first}");
                if first == 0 {
                    let mut portable = vec![0xffff; count];
                    let done = fours12(source, &mut portable);
                    assert_eq!(portable[..done], wanted[..done], "without vectors");
                    assert!(done + 8 > count, "{done} of {count}");
                }
            }
        }
    }

    #[test]
    fn packets_that_cut_pixels_give_the_stream_in_whatever_order_they_come() {
        // Payloads of every length end in every place of a pixel; the image is full of old bits.
        for payload_bytes in [4, 5, 6, 7, 16, 31, 32] {
            let stream = random(payload_bytes as u64, 3 * payload_bytes * 4);
            let pixels = stream.len() * 8 / 12;
            let wanted: Vec<u16> = (0..pixels).map(|pixel| pixel12(&stream, pixel)).collect();
            for reversed in [false, true] {
                let mut image = vec![0xa5a5_u16; pixels];
                let mut packets: Vec<(usize, &[u8])> = stream.chunks(payload_bytes).enumerate().collect();
                if reversed {
                    packets.reverse();
                }
                for (number, payload) in packets {
                    let (begin, end) = (number * payload_bytes * 8, (number * payload_bytes + payload.len()) * 8);
                    let (first, last) = (begin / 12, end.div_ceil(12));
                    // Two segments, so that one ends in the middle of the packet.
                    let middle = (first + last).div_ceil(2);
                    let segment = |from: usize, to: usize| Segment {
                        offset_bytes: 2 * from as u32,
                        len_bytes: 2 * (to - from) as u32,
                    };
                    let segments: Vec<Segment> = [segment(first, middle), segment(middle, last)]
                        .into_iter()
                        .filter(|segment| segment.len_bytes > 0)
                        .collect();
                    let lead_bits = (12 - begin % 12) % 12;
                    // SAFETY: the segments lie in the image.
                    unsafe { unpack12(payload, lead_bits as u32, &segments, image.as_mut_ptr().cast()) };
                }
                assert_eq!(image, wanted, "payloads of {payload_bytes} bytes, reversed: {reversed}");
            }
        }
    }
}
