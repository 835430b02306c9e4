//! Pixels as a PNG: logarithmic, in perceptually uniform colours, with missing pixels set apart.

use png::{BitDepth, ColorType, Encoder, EncodingError};

/// Wider images are shown smaller: one pixel of the picture is then the brightest of a square, so that
/// single bright spots stay.
const WIDTH_MAX: usize = 2048;
/// The brightest pixels have the same colour, one in a thousand: a few hot ones do not darken the rest.
const WHITE_QUANTILE: f64 = 0.999;
/// So have the darkest, one in fifty: gaps between chips do not brighten a background above them.
const BLACK_QUANTILE: f64 = 0.02;
/// Outside the colour map, so that no value looks like a missing one.
const MISSING_RGB: [u8; 3] = [255, 0, 255];
/// Viridis (matplotlib) at nine equal steps; between them it is near enough to straight.
const VIRIDIS_RGB: [[u8; 3]; 9] = [
    [0x44, 0x01, 0x54],
    [0x47, 0x2d, 0x7b],
    [0x3b, 0x52, 0x8b],
    [0x2c, 0x72, 0x8e],
    [0x21, 0x91, 0x8c],
    [0x28, 0xae, 0x80],
    [0x5e, 0xc9, 0x62],
    [0xad, 0xdc, 0x30],
    [0xfd, 0xe7, 0x25],
];

/// Draws `height` rows of `width` pixels. `missing` is the value that marks a missing pixel; so does one that is not a
/// number. What is below zero is as dark as zero.
///
/// # Errors
/// The image is empty.
///
/// # Panics
/// If there are not `height * width` pixels.
pub fn png(pixels: &[f64], height: usize, width: usize, missing: f64) -> Result<Vec<u8>, EncodingError> {
    assert_eq!(pixels.len(), height * width, "pixels do not fill the image");
    let step = width.div_ceil(WIDTH_MAX).max(1);
    let (rows, columns) = (height.div_ceil(step), width.div_ceil(step));
    let shown: Vec<Option<f64>> = (0..rows * columns)
        .map(|at| brightest(pixels, height, width, (at / columns * step, at % columns * step), step, missing))
        .collect();
    let (black, white) = levels(&shown);
    let scale = (white - black).max(f64::MIN_POSITIVE);
    let colour = |value: f64| viridis((value.ln_1p() - black) / scale);
    let rgb: Vec<u8> = shown.iter().flat_map(|value| value.map_or(MISSING_RGB, colour)).collect();
    encode(&rgb, rows, columns)
}

/// The largest value of a square, or none where every pixel of it is missing.
fn brightest(
    pixels: &[f64],
    height: usize,
    width: usize,
    (y, x): (usize, usize),
    step: usize,
    missing: f64,
) -> Option<f64> {
    let rows = y..(y + step).min(height);
    let columns = x..(x + step).min(width);
    let there = rows.flat_map(|y| &pixels[y * width..][columns.clone()]).copied();
    let there = there.filter(|&value| value != missing && !value.is_nan());
    there.map(|value| value.max(0.0)).max_by(f64::total_cmp)
}

/// Logarithms of the values that are shown darkest and brightest.
fn levels(shown: &[Option<f64>]) -> (f64, f64) {
    let mut values: Vec<f64> = shown.iter().flatten().copied().collect();
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let last = (values.len() - 1) as f64;
    let mut level = |quantile: f64| {
        let at = (last * quantile).round() as usize;
        values.select_nth_unstable_by(at, f64::total_cmp).1.ln_1p()
    };
    (level(BLACK_QUANTILE), level(WHITE_QUANTILE))
}

/// The colour of a value from 0 to 1; beyond them it is that of the end.
fn viridis(value: f64) -> [u8; 3] {
    let position = value.clamp(0.0, 1.0) * (VIRIDIS_RGB.len() - 1) as f64;
    let below = (position as usize).min(VIRIDIS_RGB.len() - 2);
    let share = position - below as f64;
    let mix = |channel: usize| {
        let (low, high) = (f64::from(VIRIDIS_RGB[below][channel]), f64::from(VIRIDIS_RGB[below + 1][channel]));
        (low + (high - low) * share).round() as u8
    };
    [mix(0), mix(1), mix(2)]
}

fn encode(rgb: &[u8], rows: usize, columns: usize) -> Result<Vec<u8>, EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, columns as u32, rows as u32);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(rgb)?;
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// The picture's size and its RGB bytes.
    fn decode(png: Vec<u8>) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(Cursor::new(png)).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut rgb).unwrap();
        (info.height, info.width, rgb)
    }

    #[test]
    fn zero_is_darkest_the_largest_brightest_and_missing_stands_apart() {
        let (height, width, rgb) = decode(png(&[0.0, 1000.0, 65535.0, 10.0], 2, 2, 65535.0).unwrap());
        assert_eq!((height, width), (2, 2));
        let pixel = |at: usize| [rgb[3 * at], rgb[3 * at + 1], rgb[3 * at + 2]];
        assert_eq!((pixel(0), pixel(1), pixel(2)), (VIRIDIS_RGB[0], VIRIDIS_RGB[8], MISSING_RGB));
        assert!(pixel(3)[1] > pixel(0)[1] && pixel(3)[1] < pixel(1)[1], "10 lies between");
    }

    #[test]
    fn converted_pixels_below_zero_are_dark_and_those_that_are_no_number_are_missing() {
        let (_, _, rgb) = decode(png(&[-3.5, 0.0, 0.25, f64::NAN, 8.5, 0.0], 2, 3, f64::NAN).unwrap());
        let pixel = |at: usize| [rgb[3 * at], rgb[3 * at + 1], rgb[3 * at + 2]];
        assert_eq!((pixel(0), pixel(3), pixel(4)), (pixel(1), MISSING_RGB, VIRIDIS_RGB[8]));
        assert!(pixel(2) != pixel(1) && pixel(2) != pixel(4), "fractions have colours of their own");
    }

    #[test]
    fn wide_image_is_shown_smaller_and_keeps_a_single_bright_pixel() {
        let (height, width) = (3, 4100);
        let mut pixels = vec![0.0; height * width];
        pixels[2 * width + 4098] = 500.0;
        let (rows, columns, rgb) = decode(png(&pixels, height, width, f64::from(u32::MAX)).unwrap());
        assert_eq!((rows, columns), (1, 1367));
        assert_eq!(rgb[3 * 1366..], VIRIDIS_RGB[8]);
        assert_eq!(rgb[..3], VIRIDIS_RGB[0]);
    }

    #[test]
    fn image_without_any_value_is_drawn() {
        let (_, _, rgb) = decode(png(&[7.0, 7.0], 1, 2, 7.0).unwrap());
        assert_eq!(rgb, [MISSING_RGB, MISSING_RGB].concat());
        assert!(png(&[], 0, 0, 7.0).is_err());
    }
}
