//! Conversion of a JUNGFRAU's pixels, beside what its bytes cost and beside a plain loop.
//!
//! ```text
//! ours    staging (in the cache) ─┐
//!         constants (in memory) ──┴─▶ (charge - pedestal) * factor ─▶ image (in memory)
//! bytes                 constants ───▶ nothing is worked out ───────▶ image
//! loop    as ours, pixel by pixel, as a compiler makes it of the definition
//! ```
//!
//! A 4M: constants and images are far larger than the caches, a batch of packets is not. All on one core, as in a readout.

use crate::{
    pairs::Pairs,
    report::{Machine, Report, Row},
};
use anyhow::ensure;
use ecs_calibration::{GainZero, GainsAbove, LANES, ModuleConstants};
use ecs_readout::convert::{BLOCKS_AHEAD, Constants, Output, convert, scalar};
use std::{
    cell::RefCell,
    hint::black_box,
    time::{Duration, Instant},
};

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    pub leg: Duration,
    pub pairs: Pairs,
}

const MODULES: usize = 8;
const MODULE_PIXELS: usize = 512 * 1024;
/// Of a packet of 8192 bytes.
const PACKET_PIXELS: usize = 4096;
/// Packets of a staged batch: half of the processor's second cache.
const STAGED_PACKETS: usize = 32;
/// Images that are written in turn: many times the caches.
const IMAGES: usize = 8;
/// What marked pixels become.
const FILL: u32 = 0x7fc0_0000;

/// A way to make pixels: constants, raw pixels, and where they go.
type Make<'a> = &'a dyn Fn(Constants, &[GainZero], &[u8], &mut [u32]);

/// Measures the conversion.
///
/// # Errors
/// The vectors give other bits than the plain loop.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let machine = Machine::read();
    let mut lab = Lab::new();
    let mut rows = Vec::new();
    for (what, output, switched) in [
        ("to f32, all of gain 0", Output::F32, None),
        ("to f32, one pixel of 100 switched", Output::F32, Some(100)),
        ("to i32, all of gain 0", Output::I32, None),
    ] {
        lab.stage(switched);
        lab.check_bits(output)?;
        let ours = |constants: Constants, _: &[GainZero], raw: &[u8], out: &mut [u32]| {
            convert(output, constants, raw, FILL, out);
        };
        let plain = |constants: Constants, _: &[GainZero], raw: &[u8], out: &mut [u32]| {
            scalar(output, constants, raw, FILL, out);
        };
        let bytes = |_: Constants, low: &[GainZero], _: &[u8], out: &mut [u32]| pass_bytes(low, out);
        let baselines: [(&str, Make); 2] = [("its bytes through memory", &bytes), ("a plain loop", &plain)];
        for (baseline, floor) in baselines {
            let speed = |make: Make| Ok(lab.megapixels_per_s(make, options.leg));
            let pairs = options.pairs.run(&format!("{what}, {baseline}"), || speed(&ours), || speed(floor))?;
            rows.push(Row::from_pairs(&format!("JUNGFRAU {what}"), "Mpixel/s", baseline, &pairs));
        }
    }
    let payload = format!(
        "{MODULES} modules, packets of {} bytes, one core; {} pairs of {:?}",
        2 * PACKET_PIXELS,
        options.pairs.count,
        options.leg
    );
    Ok(Report { machine, payload, rows })
}

struct Lab {
    constants: Vec<ModuleConstants>,
    staging: Vec<u8>,
    images: RefCell<Vec<u32>>,
}

impl Lab {
    fn new() -> Self {
        let block = |at: usize| {
            let pedestal: [f32; LANES] = std::array::from_fn(|lane| 1000.0 + ((at * LANES + lane) % 977) as f32);
            let factor: [f32; LANES] = std::array::from_fn(|lane| 0.01 + ((at * LANES + lane) % 89) as f32 * 1e-4);
            (GainZero { pedestal, factor }, GainsAbove { pedestal: [pedestal; 2], factor: [factor.map(|f| -f); 2] })
        };
        let module = |module: usize| {
            let (low, high) = (0..MODULE_PIXELS / LANES).map(|at| block(module + at)).unzip();
            ModuleConstants { low, high }
        };
        Self {
            constants: (0..MODULES).map(module).collect(),
            staging: vec![0; STAGED_PACKETS * 2 * PACKET_PIXELS],
            images: vec![1; IMAGES * MODULES * MODULE_PIXELS].into(),
        }
    }

    /// Raw pixels, of which one in `switched` has gain 1 or 2.
    fn stage(&mut self, switched: Option<usize>) {
        for (at, pixel) in self.staging.chunks_exact_mut(2).enumerate() {
            let code = match switched {
                Some(of) if at * 7 % of == 0 => [1, 3][at % 2],
                _ => 0,
            };
            pixel.copy_from_slice(&((at * 31 % 16_000) as u16 | code << 14).to_le_bytes());
        }
    }

    fn check_bits(&self, output: Output) -> anyhow::Result<()> {
        let (mut ours, mut plain) = (vec![0; PACKET_PIXELS], vec![0; PACKET_PIXELS]);
        for (packet, raw) in self.staging.chunks_exact(2 * PACKET_PIXELS).enumerate() {
            let constants = Constants::from_pixel(&self.constants[packet % MODULES], packet * PACKET_PIXELS);
            convert(output, constants, raw, FILL, &mut ours);
            scalar(output, constants, raw, FILL, &mut plain);
            ensure!(ours == plain, "the vectors give other bits than the plain loop in packet {packet}");
        }
        Ok(())
    }

    fn megapixels_per_s(&self, make: Make, leg: Duration) -> f64 {
        let mut images = self.images.borrow_mut();
        let (start, mut made) = (Instant::now(), 0);
        for image in 0.. {
            let image = &mut images[image % IMAGES * MODULES * MODULE_PIXELS..][..MODULES * MODULE_PIXELS];
            for (packet, out) in image.chunks_exact_mut(PACKET_PIXELS).enumerate() {
                let (module, first) = (packet * PACKET_PIXELS / MODULE_PIXELS, packet * PACKET_PIXELS % MODULE_PIXELS);
                let raw = &self.staging[packet % STAGED_PACKETS * 2 * PACKET_PIXELS..][..2 * PACKET_PIXELS];
                let module = &self.constants[module];
                let low = &module.low[first / LANES..][..PACKET_PIXELS / LANES];
                make(Constants::from_pixel(module, first), low, raw, out);
            }
            made += MODULES * MODULE_PIXELS;
            if start.elapsed() >= leg {
                break;
            }
        }
        made as f64 / 1e6 / start.elapsed().as_secs_f64()
    }
}

/// Reads the constants and writes as many pixels, past the cache where the processor can; it asks for the constants as
/// early as the conversion does.
fn pass_bytes(low: &[GainZero], out: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && out.as_ptr().cast::<std::arch::x86_64::__m256i>().is_aligned() {
        // SAFETY: the processor has AVX2, and `out` is aligned.
        return unsafe { pass_bytes_avx2(low, out) };
    }
    for (block, out) in low.iter().zip(out.chunks_exact_mut(LANES)) {
        out.iter_mut().zip(block.pedestal).zip(block.factor).for_each(|((out, a), b)| *out = a.to_bits() | b.to_bits());
    }
    black_box(out);
}

/// # Safety
/// The processor has AVX2; `out` is aligned to 32 bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn pass_bytes_avx2(low: &[GainZero], out: &mut [u32]) {
    use ecs_shm_buffer::prefetch;
    use std::arch::x86_64::*;
    for (block, out) in low.iter().zip(out.chunks_exact_mut(LANES)) {
        prefetch(std::ptr::from_ref(block).wrapping_add(BLOCKS_AHEAD).cast());
        // SAFETY: a block is aligned and has eight of each; `out` is aligned by the caller's promise, and so is each of its parts.
        unsafe {
            let bits = _mm256_or_ps(_mm256_load_ps(block.pedestal.as_ptr()), _mm256_load_ps(block.factor.as_ptr()));
            _mm256_stream_si256(out.as_mut_ptr().cast(), _mm256_castps_si256(bits));
        }
    }
    _mm_sfence();
}
