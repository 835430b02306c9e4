//! A calibration: all that the pixels of a beamline are converted with, read and numbered.

use crate::{
    CalibrationError, ModuleConstants,
    constants::Ingredients,
    maps::{Maps, MapsShape},
    source::read_image,
    state,
};
use ecs_schemas::{
    beamline::{Beamline, Convert},
    detector::{Detector, Placement},
};
use serde::{Deserialize, Serialize};
use std::{
    ops::Range,
    path::{Path, PathBuf},
};

/// Number of images whose pixels are as they came, gain bits included.
pub const UNCONVERTED: u64 = 1;
/// Numbers from here on are made of what they stand for.
const FIRST_NUMBER: u64 = 16;

/// Datasets that are looked for: ours, those of PSI's jungfrau_utils and std-daq, and NeXus'.
const GAIN_NAMES: [&str; 2] = ["gains", "gain"];
const PEDESTAL_NAMES: [&str; 4] = ["pedestal/mean", "pedestals", "gains", "gainsRMS"];
const MASK_NAMES: [&str; 4] =
    ["mask", "pixel_mask", "entry/detector/pixel_mask", "entry/instrument/detector/pixel_mask"];
const FLAT_FIELD_NAMES: [&str; 3] = ["flat_field", "flatfield", "entry/instrument/detector/flatfield"];

/// What pixels are converted with.
#[derive(Debug)]
pub struct Calibration {
    /// Made of everything that pixels are made with: the same in every process that has read the same.
    pub number: u64,
    pub about: About,
    /// Of the modules that were asked for, in their order.
    pub modules: Vec<ModuleConstants>,
}

/// What is told of a calibration, in image files too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    pub unit: String,
    pub pixel: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub photon_energy_kev: Option<f64>,
    pub gain: Vec<PathBuf>,
    pub pedestal: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub flat_field: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mask: Option<PathBuf>,
}

impl Calibration {
    /// Reads everything that the beamline's settings name, with the pedestals in `pedestal` instead of theirs, if there
    /// are. Keeps the constants of `modules` alone.
    ///
    /// # Errors
    /// A file cannot be read, or is not of the detector's size.
    ///
    /// # Panics
    /// If the settings convert nothing.
    pub fn read(beamline: &Beamline, pedestal: Option<&Path>, modules: Range<usize>) -> Result<Self, CalibrationError> {
        let convert = beamline.conversion.convert.as_ref().expect("only called where pixels are converted");
        let detector = &beamline.detector;
        let maps = detector.gain_maps.as_ref().expect("the settings were checked");
        let shape = MapsShape::of(maps);
        let pedestal = pedestal.or(convert.pedestal.as_deref());
        let gains = Maps::read(&convert.gain, &GAIN_NAMES, shape)?;
        let pedestals = match pedestal {
            Some(path) => Maps::read(&[path.to_owned()], &PEDESTAL_NAMES, shape)?,
            None => Maps::constant(shape, f64::NAN),
        };
        let times = times(beamline, convert)?;
        let mut number = Fold::new(convert);
        let mut kept = Vec::new();
        for (module, &(map, first_pixel)) in maps.modules.iter().enumerate() {
            let times = of_module(&detector.placement, module, &times);
            let constants = ModuleConstants::new(&Ingredients {
                gains: &gains,
                pedestals: &pedestals,
                map,
                first_pixel,
                times: &times,
            });
            constants.values().for_each(|value| number.add(value.to_bits()));
            if modules.contains(&module) {
                kept.push(constants);
            }
        }
        let about = About {
            unit: convert.unit.as_str().to_owned(),
            pixel: convert.pixel.as_str().to_owned(),
            photon_energy_kev: Some(convert.unit.one_kev()).filter(|_| convert.unit.as_str() == "photons"),
            gain: convert.gain.clone(),
            pedestal: pedestal.map(Path::to_owned),
            flat_field: convert.flat_field.clone(),
            mask: beamline.conversion.mask.clone(),
        };
        Ok(Self { number: number.0.clamp(FIRST_NUMBER, u64::MAX - 1), about, modules: kept })
    }

    /// Leaves what is told of it in the state folder, for who writes image files.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn tell(&self, state_folder: &Path) -> Result<(), CalibrationError> {
        state::write(&state::about_path(state_folder, self.number), &self.about)
    }
}

/// What is told of the calibration of this number, if a readout of this host has used it.
pub fn about(state_folder: &Path, number: u64) -> Option<About> {
    state::read(&state::about_path(state_folder, number)).ok().flatten()
}

/// The pedestals in a file, for a detector that switches gains.
///
/// # Errors
/// The file cannot be read, or is not of the detector's size.
///
/// # Panics
/// If the detector does not switch gains.
pub fn pedestals(detector: &Detector, path: &Path) -> Result<Maps, CalibrationError> {
    let maps = detector.gain_maps.as_ref().expect("only such a detector has pedestals");
    Maps::read(&[path.to_owned()], &PEDESTAL_NAMES, MapsShape::of(maps))
}

/// The pixels of the image that settings mask, row by row; none where no mask is set.
///
/// # Errors
/// The file cannot be read, or is not of the image's size.
pub fn mask(path: Option<&Path>, detector: &Detector) -> Result<Option<Vec<bool>>, CalibrationError> {
    let size = (detector.placement.height, detector.placement.width);
    let Some(path) = path else { return Ok(None) };
    let values = read_image(path, &MASK_NAMES, size)?;
    Ok(Some(values.into_iter().map(|value| value != 0.0).collect()))
}

/// For each pixel of the image: what it is multiplied with beside its gain; NaN where it is masked.
fn times(beamline: &Beamline, convert: &Convert) -> Result<Vec<f64>, CalibrationError> {
    let placement = &beamline.detector.placement;
    let size = (placement.height, placement.width);
    let mut times = match &convert.flat_field {
        Some(path) => read_image(path, &FLAT_FIELD_NAMES, size)?,
        None => vec![1.0; size.0 * size.1],
    };
    times.iter_mut().for_each(|times| *times /= convert.unit.one_kev());
    if let Some(mask) = mask(beamline.conversion.mask.as_deref(), &beamline.detector)? {
        times.iter_mut().zip(mask).filter(|(_, is_masked)| *is_masked).for_each(|(times, _)| *times = f64::NAN);
    }
    Ok(times)
}

/// Those of a module, in the order in which it sends its pixels.
fn of_module(placement: &Placement, module: usize, of_image: &[f64]) -> Vec<f64> {
    let bytes = placement.pixel.bytes();
    let packets = module * placement.packets_per_module..(module + 1) * placement.packets_per_module;
    let segments = packets.flat_map(|packet| placement.segments(packet));
    let pixels = segments.flat_map(|segment| {
        let first = segment.offset_bytes as usize / bytes;
        &of_image[first..first + segment.len_bytes as usize / bytes]
    });
    pixels.copied().collect()
}

/// A number of many (FNV-1a, by words).
struct Fold(u64);

impl Fold {
    fn new(convert: &Convert) -> Self {
        let mut fold = Self(0xcbf2_9ce4_8422_2325);
        fold.add(convert.pixel as u32);
        let unit = convert.unit.one_kev().to_bits();
        fold.add(unit as u32);
        fold.add((unit >> 32) as u32);
        fold
    }

    fn add(&mut self, word: u32) {
        self.0 = (self.0 ^ u64::from(word)).wrapping_mul(0x100_0000_01b3);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LANES;

    fn beamline(folder: &Path, conversion: &str) -> Beamline {
        let text = format!(
            "[beamline]\nname = \"x01\"\n[detector]\ndetector_type = \"jungfrau\"\nmodel = \"500K\"\n\
             start_udp_port = 5000\nnuminterfaces = 2\nreadnrows = 16\n[conversion]\n{conversion}"
        );
        let none = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        Beamline::parse(&text, &folder.join("x01.toml"), &none).unwrap()
    }

    fn write(folder: &Path, name: &str, dataset: &str, shape: &[usize], of: impl Fn(usize) -> f64) {
        let file = hdf5_metno::File::create(folder.join(name)).unwrap();
        let values: Vec<f64> = (0..shape.iter().product()).map(of).collect();
        file.new_dataset::<f64>().shape(shape).create(dataset).unwrap().write_raw(&values).unwrap();
    }

    const GAINS: [usize; 4] = [1, 3, 512, 1024];

    #[test]
    fn constants_are_those_of_the_rows_read_in_the_order_of_each_interface() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(folder, "g.h5", "gains", &GAINS, |at| [41.0, -1.5, -0.25][at / (512 * 1024)]);
        write(folder, "p.h5", "pedestal/mean", &GAINS, |at| (at / 1024) as f64); // its row in the three maps
        // The image has 18 rows: 8, the gap, 8, and runs upwards.
        write(folder, "f.h5", "flat_field", &[18, 1030], |at| if at / 1030 == 17 { 2.0 } else { 1.0 });
        write(folder, "m.h5", "mask", &[18, 1030], |at| if at == 16 * 1030 + 2 { 8.0 } else { 0.0 });
        let text = "to = \"photons\"\nphoton_energy = \"2 keV\"\ngain = \"g.h5\"\npedestal = \"p.h5\"\n\
            flat_field = \"f.h5\"\nmask = \"m.h5\"";
        let beamline = beamline(folder, text);
        let calibration = Calibration::read(&beamline, None, 0..2).unwrap();
        let [first, second] = calibration.modules.as_slice() else { panic!("two interfaces") };
        assert_eq!((first.low.len(), second.low.len()), (8 * 1024 / LANES, 8 * 1024 / LANES));
        // The first interface begins with row 248 of the module, the second with row 256.
        assert_eq!((first.low[0].pedestal[7], second.low[0].pedestal[0]), (248.0, 256.0));
        assert_eq!(first.high[0].pedestal.map(|of_gain| of_gain[3]), [512.0 + 248.0, 1024.0 + 248.0]);
        assert_eq!(first.low[0].factor[0], (2.0 / 2.0 / 41.0) as f32, "flat field, photons, gain");
        assert_eq!(first.low[1024 / LANES].factor[0], (0.5 / 41.0) as f32);
        assert_eq!(first.high[1024 / LANES].factor.map(|of_gain| of_gain[0]), [(0.5 / -1.5) as f32, -2.0]);
        assert!(first.low[1024 / LANES].factor[2].is_nan() && first.high[1024 / LANES].factor[1][2].is_nan());
        assert_eq!(first.low.iter().flat_map(|low| low.factor).filter(|factor| factor.is_nan()).count(), 1);
        let alone = Calibration::read(&beamline, None, 1..2).unwrap();
        assert_eq!((alone.number, alone.modules[0].low.as_slice()), (calibration.number, second.low.as_slice()));
    }

    #[test]
    fn each_module_has_the_gains_of_its_own_number_and_the_mask_of_its_own_place() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        // Of three modules in the form of jungfrau_utils, the detector has the second and the third.
        write(folder, "g.h5", "gains", &[3, 3 * 512, 1024], |at| {
            let (gain, row) = (at / (3 * 512 * 1024), at / 1024 % (3 * 512));
            [10.0, -20.0, -40.0][gain] * (1 + row / 512) as f64
        });
        write(folder, "p.h5", "gainsRMS", &[3, 3, 512, 1024], |at| (at / (3 * 512 * 1024)) as f64);
        write(folder, "m.h5", "mask", &[1024, 1024], |at| if at == 512 * 1024 { 1.0 } else { 0.0 });
        let text = "[beamline]\nname = \"x01\"\n[detector]\ndetector_type = \"jungfrau\"\nstart_udp_port = 5000\n\
            n_modules = 3\nimage_pixel_height = 1024\nimage_pixel_width = 1024\n[detector.module_positions]\n\
            1 = [0, 0, 1023, 511]\n2 = [0, 512, 1023, 1023]\n[conversion]\nto = \"keV\"\ngain = \"g.h5\"\n\
            pedestal = \"p.h5\"\nmask = \"m.h5\"";
        let none = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        let beamline = Beamline::parse(text, &folder.join("x01.toml"), &none).unwrap();
        let calibration = Calibration::read(&beamline, None, 0..2).unwrap();
        for (module, number) in [(0, 1.0), (1, 2.0)] {
            let constants = &calibration.modules[module];
            assert_eq!(constants.low[77].pedestal, [number as f32; LANES], "module {number}");
            assert_eq!(constants.low[77].factor, [(1.0 / (10.0 * (1.0 + number))) as f32; LANES]);
            assert_eq!(constants.high[77].factor[1], [(1.0 / (-40.0 * (1.0 + number))) as f32; LANES]);
            assert_eq!(constants.low[0].factor[0].is_nan(), module == 1, "masked is the first pixel of the upper one");
        }
    }

    #[test]
    fn number_is_another_when_anything_that_pixels_are_made_with_is() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(folder, "g.h5", "gains", &GAINS, |_| 40.0);
        write(folder, "p.h5", "pedestals", &GAINS, |_| 1000.0);
        write(folder, "q.h5", "pedestals", &GAINS, |at| if at == 512 * 1024 + 250 * 1024 { 1001.0 } else { 1000.0 });
        write(folder, "same.h5", "gains", &GAINS, |_| 1000.0);
        let number = |text: &str, pedestal: Option<&str>| {
            let pedestal = pedestal.map(|name| folder.join(name));
            let text = format!("gain = \"g.h5\"\n{text}");
            Calibration::read(&beamline(folder, &text), pedestal.as_deref(), 0..0).unwrap().number
        };
        let kev = "to = \"keV\"\npedestal = \"p.h5\"\n";
        let first = number(kev, None);
        assert_eq!(first, number(kev, Some("same.h5")), "the same numbers under another name");
        assert_ne!(first, number(kev, Some("q.h5")), "one pixel's pedestal of gain 1");
        assert_ne!(first, number("to = \"keV\"", None), "no pedestals");
        assert_ne!(first, number(&format!("{kev}pixel = \"i32\""), None));
        let photons = kev.replace("keV", "photons");
        assert_ne!(number(&format!("{photons}photon_energy = \"2 keV\""), None), first);
    }

    #[test]
    fn what_is_told_of_a_calibration_is_found_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(folder, "g.h5", "gains", &GAINS, |_| 40.0);
        let calibration = Calibration::read(&beamline(folder, "to = \"keV\"\ngain = \"g.h5\""), None, 0..0).unwrap();
        assert_eq!(about(folder, calibration.number), None);
        calibration.tell(folder).unwrap();
        assert_eq!(about(folder, calibration.number).as_ref(), Some(&calibration.about));
        assert_eq!(calibration.about.gain, [folder.join("g.h5")]);
    }
}
