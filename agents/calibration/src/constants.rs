//! What each pixel is converted with, as it lies in memory.
//!
//! ```text
//! value = (charge - pedestal[gain]) * factor[gain]          in 32 bit floats, in this order
//!
//! low    | pedestal 0 x 8 | factor 0 x 8 |                                      a cache line for eight pixels
//! high   | pedestal 1 x 8 | factor 1 x 8 | pedestal 2 x 8 | factor 2 x 8 |      two lines, for pixels that switched
//! ```
//!
//! Nearly all pixels are of gain 0: eight of them read one line of constants, and write one of f32. The others lie
//! apart, since they would take three times as much of the memory's speed, and next to each other, since one pixel
//! of eight that has switched needs all of them. A pixel that is masked, or whose pedestal or gain is not known, has a
//! factor that is not a number: so is its value, which is then marked.

use crate::Maps;

/// Pixels that are converted at one time.
pub const LANES: usize = 8;

/// Eight pixels of gain 0.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub struct GainZero {
    pub pedestal: [f32; LANES],
    pub factor: [f32; LANES],
}

/// The same pixels with gains 1 and 2.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(128))]
pub struct GainsAbove {
    pub pedestal: [[f32; LANES]; 2],
    pub factor: [[f32; LANES]; 2],
}

/// Of one module's pixels, in the order in which they are sent.
#[derive(Debug, Clone, Default)]
pub struct ModuleConstants {
    pub low: Vec<GainZero>,
    pub high: Vec<GainsAbove>,
}

/// What a module's constants are made of.
pub struct Ingredients<'a> {
    pub gains: &'a Maps,
    pub pedestals: &'a Maps,
    /// Of which map, and from which pixel on.
    pub map: usize,
    pub first_pixel: usize,
    /// For each pixel of the module: what it is multiplied with beside its gain; NaN where it is masked.
    pub times: &'a [f64],
}

impl ModuleConstants {
    /// Works out the constants of a module.
    pub fn new(from: &Ingredients) -> Self {
        let blocks = from.times.len().div_ceil(LANES);
        let mut constants = Self { low: Vec::with_capacity(blocks), high: Vec::with_capacity(blocks) };
        for block in 0..blocks {
            let of_gain = |gain: usize| from.block(block * LANES, gain);
            let [(pedestal, factor), first, second] = [of_gain(0), of_gain(1), of_gain(2)];
            constants.low.push(GainZero { pedestal, factor });
            constants.high.push(GainsAbove { pedestal: [first.0, second.0], factor: [first.1, second.1] });
        }
        constants
    }

    /// Every constant, in a fixed order.
    pub fn values(&self) -> impl Iterator<Item = f32> {
        let high = |high: &GainsAbove| [high.pedestal, high.factor].as_flattened().as_flattened().to_vec();
        let low = |low: &GainZero| [low.pedestal, low.factor].as_flattened().to_vec();
        self.low.iter().zip(&self.high).flat_map(move |(of_low, of_high)| low(of_low).into_iter().chain(high(of_high)))
    }
}

impl Ingredients<'_> {
    /// Pedestals and factors of eight pixels; those behind the last one are marked.
    fn block(&self, first: usize, gain: usize) -> ([f32; LANES], [f32; LANES]) {
        let (gains, pedestals) = (self.gains.of(self.map, gain), self.pedestals.of(self.map, gain));
        let (mut pedestal, mut factor) = ([0.0; LANES], [f32::NAN; LANES]);
        for (lane, times) in self.times[first..].iter().take(LANES).enumerate() {
            let pixel = self.first_pixel + first + lane;
            let value = (times / gains[pixel]) as f32;
            // Of a pixel without gain, 1/0: it has no value.
            if value.is_finite() && pedestals[pixel].is_finite() {
                (pedestal[lane], factor[lane]) = (pedestals[pixel] as f32, value);
            }
        }
        (pedestal, factor)
    }
}
