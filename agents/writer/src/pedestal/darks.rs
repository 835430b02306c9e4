//! What dark images add up to, for each pixel and gain.

use ecs_calibration::{GAINS, MapsShape};
use ecs_schemas::detector::{Detector, PixelType};

/// Codes of gains 0, 1 and 2; one that is none has the number of no gain.
const GAIN_OF_CODE: [usize; 4] = [0, 1, GAINS, 2];
const CHARGE: u16 = 0x3fff;
/// Of how many pixels one is looked at to find an image's gain: coprime to chips and rows.
const LOOK_STEP: usize = 61;

/// Sums over the dark images so far.
pub struct Darks {
    detector: Detector,
    shape: MapsShape,
    /// Of each gain and pixel of the maps.
    sums: Vec<Sum>,
    pub images: [u64; GAINS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    charge: u32,
    frames: u32,
    squares: u64,
}

/// A pixel's charge over its frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mean {
    pub frames: u32,
    pub mean: f64,
    /// About the mean.
    pub rms: f64,
}

impl Darks {
    /// # Panics
    /// If the detector does not switch gains.
    pub fn new(detector: &Detector) -> Self {
        let shape = MapsShape::of(detector.gain_maps.as_ref().expect("only such a detector is converted"));
        let sums = vec![Sum::default(); GAINS * shape.maps * shape.pixels()];
        Self { detector: detector.clone(), shape, sums, images: [0; GAINS] }
    }

    pub fn shape(&self) -> MapsShape {
        self.shape
    }

    /// The gain that most of an image's pixels have, of those that are there.
    pub fn gain_of(&self, pixels: &[u8], bitmap: &[u64]) -> Option<usize> {
        let mut counts = [0_u64; GAINS + 1];
        for packet in self.packets_there(bitmap) {
            for segment in self.detector.placement.segments(packet) {
                let pixels = &pixels[segment.offset_bytes as usize..][..segment.len_bytes as usize];
                for pixel in pixels.as_chunks::<4>().0.iter().step_by(LOOK_STEP) {
                    counts[GAIN_OF_CODE[usize::from(self.raw(*pixel) >> 14)]] += 1;
                }
            }
        }
        let gain = (0..=GAINS).max_by_key(|&gain| counts[gain])?;
        (gain < GAINS && counts[gain] > 0).then_some(gain)
    }

    /// Adds an image of a gain; `pixels` are as they came, in the type of converted ones.
    pub fn add(&mut self, gain: usize, pixels: &[u8], bitmap: &[u64]) {
        self.images[gain] += 1;
        let Self { detector, shape, sums, .. } = self;
        let (placement, float) = (&detector.placement, detector.placement.pixel == PixelType::F32);
        let maps = detector.gain_maps.as_ref().expect("checked in new");
        let pixels_per_packet = placement.payload_bytes / 2;
        for packet in (0..placement.packets_per_image()).filter(|packet| is_there(bitmap, *packet)) {
            let (map, first) = maps.modules[packet / placement.packets_per_module];
            let first = first + packet % placement.packets_per_module * pixels_per_packet;
            let mut sums = sums[(gain * shape.maps + map) * shape.pixels() + first..].iter_mut();
            for segment in placement.segments(packet) {
                let pixels = &pixels[segment.offset_bytes as usize..][..segment.len_bytes as usize];
                for (pixel, sum) in pixels.as_chunks::<4>().0.iter().zip(&mut sums) {
                    let raw = raw(*pixel, float);
                    if GAIN_OF_CODE[usize::from(raw >> 14)] == gain {
                        let charge = u32::from(raw & CHARGE);
                        sum.charge += charge;
                        sum.squares += u64::from(charge) * u64::from(charge);
                        sum.frames += 1;
                    }
                }
            }
        }
    }

    /// What a pixel of a map has on average; none where it was there, with this gain, in fewer than half of the images.
    pub fn mean(&self, gain: usize, map: usize, pixel: usize) -> Option<Mean> {
        let sum = self.sums[(gain * self.shape.maps + map) * self.shape.pixels() + pixel];
        if sum.frames == 0 || u64::from(sum.frames) * 2 < self.images[gain] {
            return None;
        }
        let frames = f64::from(sum.frames);
        let mean = f64::from(sum.charge) / frames;
        let variance = (sum.squares as f64 / frames - mean * mean).max(0.0);
        Some(Mean { frames: sum.frames, mean, rms: variance.sqrt() })
    }

    /// Whether settings let packets bring this pixel of a map at all: rows that are not read have none.
    pub fn is_read(&self, map: usize, pixel: usize) -> bool {
        let placement = &self.detector.placement;
        let pixels = placement.packets_per_module * placement.payload_bytes / 2;
        let maps = self.detector.gain_maps.as_ref().expect("checked in new");
        maps.modules.iter().any(|&(of, first)| of == map && (first..first + pixels).contains(&pixel))
    }

    fn packets_there<'a>(&self, bitmap: &'a [u64]) -> impl Iterator<Item = usize> + use<'a> {
        (0..self.detector.placement.packets_per_image()).filter(|packet| is_there(bitmap, *packet))
    }

    fn raw(&self, pixel: [u8; 4]) -> u16 {
        raw(pixel, self.detector.placement.pixel == PixelType::F32)
    }
}

fn is_there(bitmap: &[u64], packet: usize) -> bool {
    bitmap[packet / 64] >> (packet % 64) & 1 == 1
}

/// A raw pixel of those that are as they came: exact in either type.
fn raw(pixel: [u8; 4], float: bool) -> u16 {
    if float { f32::from_le_bytes(pixel) as u16 } else { u32::from_le_bytes(pixel) as u16 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecs_schemas::detector::DetectorConfig;

    fn darks(pixel: PixelType) -> Darks {
        let text = "detector_type = \"jungfrau\"\nmodel = \"500K\"\nstart_udp_port = 1\nreadnrows = 16\n\
            numinterfaces = 2";
        let mut detector = DetectorConfig::from_toml(text).and_then(|config| config.detector()).expect("valid");
        detector.placement = detector.placement.converted(pixel).expect("small");
        Darks::new(&detector)
    }

    /// An image of one raw value, but for the pixels named.
    fn image(darks: &Darks, raw: u16, others: &[(usize, u16)]) -> Vec<u8> {
        let placement = &darks.detector.placement;
        let bits = |raw: u16| match placement.pixel {
            PixelType::F32 => f32::from(raw).to_le_bytes(),
            _ => u32::from(raw).to_le_bytes(),
        };
        let mut image = bits(raw).repeat(placement.height * placement.width);
        for &(pixel, raw) in others {
            image[4 * pixel..4 * pixel + 4].copy_from_slice(&bits(raw));
        }
        image
    }

    const ALL: [u64; 1] = [u64::MAX];

    #[test]
    fn mean_and_rms_are_those_of_the_frames_that_had_the_gain_and_of_packets_that_were_there() {
        for pixel in [PixelType::F32, PixelType::I32] {
            let mut darks = darks(pixel);
            // 18 rows upwards: the first pixel of the first interface is row 17, in the map row 248.
            let (at, first) = (17 * 1030, 248 * 1024);
            for charge in [100, 102, 104, 106] {
                let image = image(&darks, charge | 1 << 14, &[(at, (charge + 7) | 1 << 14), (at + 1, 5)]);
                assert_eq!(darks.gain_of(&image, &ALL), Some(1));
                darks.add(1, &image, &ALL);
            }
            let rms = 5.0_f64.sqrt();
            assert_eq!(darks.mean(1, 0, first), Some(Mean { frames: 4, mean: 110.0, rms }));
            assert_eq!(darks.mean(1, 0, first + 1), None, "it had another gain");
            assert_eq!(darks.mean(1, 0, first + 2).map(|mean| mean.mean), Some(103.0));
            assert_eq!(darks.mean(1, 0, 264 * 1024 - 1).map(|mean| mean.mean), Some(103.0), "the last row");
            assert_eq!((darks.mean(1, 0, first - 1), darks.mean(0, 0, first)), (None, None));
            assert!(darks.is_read(0, first) && !darks.is_read(0, first - 1) && !darks.is_read(0, 264 * 1024));
            // Without its first packet of four: three images of seven have it then.
            (0..3).for_each(|_| darks.add(1, &image(&darks, 1 << 14, &[]), &[0b1110]));
            assert_eq!(darks.mean(1, 0, first).map(|mean| mean.frames), Some(4));
            (0..2).for_each(|_| darks.add(1, &image(&darks, 1 << 14, &[]), &[0b1110]));
            assert_eq!(darks.mean(1, 0, first), None, "4 of 9");
        }
    }

    #[test]
    fn gain_of_an_image_is_that_of_most_pixels_and_code_two_is_none() {
        let darks = darks(PixelType::F32);
        assert_eq!(darks.gain_of(&image(&darks, 77 | 3 << 14, &[(0, 1), (1, 1)]), &ALL), Some(2));
        assert_eq!(darks.gain_of(&image(&darks, 77, &[]), &ALL), Some(0));
        assert_eq!(darks.gain_of(&image(&darks, 2 << 14, &[]), &ALL), None);
        assert_eq!(darks.gain_of(&image(&darks, 77, &[]), &[0]), None, "no packet is there");
    }
}
