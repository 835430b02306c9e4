//! What becomes of pixels on their way into the image: the section `[conversion]`.
//!
//! A mask applies to any detector. All else is for one that switches gains: `to` says what its pixels are made into.

use super::{
    Problem,
    section::{Report, Section},
};
use crate::detector::{Detector, PixelType};
use std::path::{Path, PathBuf};
use toml::de::DeValue;

/// Names of the files that maps come from: more than modules of any detector.
const GAIN_FILES_MAX: usize = 1024;
/// Photons that any gain of the detector can tell from none.
const PHOTON_ENERGY_KEV: std::ops::RangeInclusive<f64> = 0.001..=10_000.0;

/// How pixels are made. A file is named by its path, and `::` and the dataset behind it where it is not one of those
/// that are looked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConversionConfig {
    /// An array like the image: pixels that are not 0 there hold the fill value.
    pub mask: Option<PathBuf>,
    /// None: pixels stay as they come.
    pub convert: Option<Convert>,
}

/// What pixels of a detector that switches gains are made into.
#[derive(Debug, Clone, PartialEq)]
pub struct Convert {
    pub unit: PixelUnit,
    /// `F32`, or `I32` with rounding.
    pub pixel: PixelType,
    /// One file with the maps of all modules, or one for each.
    pub gain: Vec<PathBuf>,
    /// Until one is taken. None: pixels of which no pedestal is known hold the fill value.
    pub pedestal: Option<PathBuf>,
    /// An array like the image that pixels are multiplied with.
    pub flat_field: Option<PathBuf>,
}

/// The unit of converted pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PixelUnit {
    KeV,
    /// Photons of this energy.
    Photons {
        energy_kev: f64,
    },
}

impl PixelUnit {
    /// As files and settings name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeV => "keV",
            Self::Photons { .. } => "photons",
        }
    }

    /// Energy that is 1 in this unit, in keV.
    pub const fn one_kev(self) -> f64 {
        match self {
            Self::KeV => 1.0,
            Self::Photons { energy_kev } => energy_kev,
        }
    }
}

/// Reads the section, and makes the detector one of converted pixels where it says so.
pub(super) fn read(
    section: &Section,
    folder: &Path,
    detector: &mut Option<Detector>,
    report: &mut Report,
) -> ConversionConfig {
    let path = |report: &mut Report, key: &str| {
        section.text(report, key, "a path, relative to this file").map(|path| folder.join(path))
    };
    let mask = path(report, "mask");
    let is_converted = detector.as_ref().is_some_and(|detector| detector.detector_type == "jungfrau-converted");
    if section.value("to").is_none() && !is_converted {
        let other = ["pixel", "gain", "pedestal", "photon_energy", "flat_field"];
        if other.into_iter().any(|key| section.value(key).is_some()) {
            section.missing(report, "to", UNITS);
        }
        return ConversionConfig { mask, convert: None };
    }
    let (pedestal, flat_field) = (path(report, "pedestal"), path(report, "flat_field"));
    let (unit, pixel) = (unit(section, report), pixel(section, report));
    if section.value("gain").is_none() {
        section.missing(report, "gain", FILES);
    }
    let gain = section.get(report, "gain", FILES, files).unwrap_or_default();
    let gain = gain.into_iter().map(|path| folder.join(path)).collect();
    convert(section, detector, pixel, report);
    ConversionConfig { mask, convert: Some(Convert { unit, pixel, gain, pedestal, flat_field }) }
}

const UNITS: &str = "\"keV\" or \"photons\"";
const FILES: &str = "the path of a file with the gains of all modules, or a list with a file for each";

/// With an error noted, any: it is not used.
fn unit(section: &Section, report: &mut Report) -> PixelUnit {
    let is_photons = section.get(report, "to", UNITS, |value| match value.as_str() {
        Some("keV") => Some(false),
        Some("photons") => Some(true),
        _ => None,
    });
    let allowed = "an energy from \"1 eV\" to \"10000 keV\", with its unit";
    let energy = section.get(report, "photon_energy", allowed, |value| value.as_str().and_then(energy_kev));
    match (is_photons.unwrap_or(false), energy) {
        (true, Some(energy_kev)) => PixelUnit::Photons { energy_kev },
        (true, None) => {
            if section.value("photon_energy").is_none() {
                section.missing(report, "photon_energy", allowed);
            }
            PixelUnit::KeV
        }
        (false, energy) => {
            if energy.is_some() {
                section.wrong(report, "photon_energy", "", "only with to = \"photons\"".to_owned());
            }
            PixelUnit::KeV
        }
    }
}

fn pixel(section: &Section, report: &mut Report) -> PixelType {
    let read = |value: &DeValue| match value.as_str() {
        Some("f32") => Some(PixelType::F32),
        Some("i32") => Some(PixelType::I32),
        _ => None,
    };
    section.get(report, "pixel", "\"f32\", or \"i32\" for rounded values", read).unwrap_or(PixelType::F32)
}

fn files(value: &DeValue) -> Option<Vec<String>> {
    let text = |value: &DeValue| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    match value.as_array() {
        Some(list) if !list.is_empty() && list.len() <= GAIN_FILES_MAX => {
            list.iter().map(|value| text(value.get_ref())).collect()
        }
        Some(_) => None,
        None => text(value).map(|text| vec![text]),
    }
}

fn energy_kev(text: &str) -> Option<f64> {
    let text = text.trim();
    let (number, kev) = match text.strip_suffix("keV") {
        Some(number) => (number, 1.0),
        None => (text.strip_suffix("eV")?, 0.001),
    };
    let energy = number.trim().parse::<f64>().ok()? * kev;
    PHOTON_ENERGY_KEV.contains(&energy).then_some(energy)
}

/// Makes the detector's pixels converted ones.
fn convert(section: &Section, detector: &mut Option<Detector>, pixel: PixelType, report: &mut Report) {
    let Some(detector) = detector else { return };
    if detector.gain_maps.is_none() || detector.detector_type == "jungfrau-raw" {
        let allowed = format!(
            "only for a detector that switches gains (detector_type jungfrau); this one is {}",
            detector.detector_type
        );
        let found = section.value("to").map_or("\"keV\"", |_| "");
        return section.wrong(report, "to", found, allowed);
    }
    match detector.placement.clone().converted(pixel) {
        Ok(placement) => detector.placement = placement,
        Err(error) => report.add(section.at_byte, &section.path("pixel"), Problem::Detector(error.into())),
    }
}
