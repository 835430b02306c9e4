//! A detector's configuration: the std-daq JSON file, or the same fields inline in the beamline's TOML.
//!
//! | field | meaning |
//! |---|---|
//! | `detector_name` | name for people |
//! | `detector_type` | `eiger` |
//! | `n_modules` | number of modules, each with a UDP port of its own |
//! | `bit_depth` | 8, 16 or 32 |
//! | `image_pixel_height`, `image_pixel_width` | size of the assembled image, gaps included |
//! | `start_udp_port` | module `m` sends to port `start_udp_port + m` |
//! | `module_positions` | `"m": [x0, y0, x1, y1]`, first and last pixel, both included; `y1 < y0`: rows run upwards |
//!
//! Other fields of a std-daq file concern processes that ECS does not have; they are accepted and
//! ignored.

use super::{
    eiger,
    placement::{Placement, PlacementError},
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// What a detector's configuration says. See the module header.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DetectorConfig {
    pub detector_name: String,
    pub detector_type: String,
    pub n_modules: u32,
    pub bit_depth: u32,
    pub image_pixel_height: usize,
    pub image_pixel_width: usize,
    pub start_udp_port: u16,
    pub module_positions: BTreeMap<u32, [i64; 4]>,
}

/// Rows and columns that an image may have, and modules that a detector may have: far above any real
/// one, and low enough that no product of them overflows.
pub const IMAGE_PIXELS_MAX: usize = 65_535;
pub const MODULES_MAX: u32 = 1024;

/// Why a detector's configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DetectorConfigError {
    /// Not JSON, a field is missing, or a field has the wrong type; the text has line and column.
    #[error("not a detector configuration: {0}")]
    Json(String),
    #[error("{field} = {found}; allowed: {allowed}")]
    Field { field: String, found: String, allowed: String },
    #[error("module_positions: {0}")]
    Placement(#[from] PlacementError),
}

impl DetectorConfigError {
    pub fn field(field: &str, found: String, allowed: &str) -> Self {
        Self::Field { field: field.to_owned(), found, allowed: allowed.to_owned() }
    }
}

impl DetectorConfig {
    /// Reads a std-daq JSON file's text.
    ///
    /// # Errors
    /// Names what is missing or wrong, with line and column for syntax.
    pub fn from_json(text: &str) -> Result<Self, DetectorConfigError> {
        let config: Self = serde_json::from_str(text).map_err(|error| DetectorConfigError::Json(error.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// Checks what the types do not, down to the place of every packet.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn check(&self) -> Result<(), DetectorConfigError> {
        let wrong = DetectorConfigError::field;
        let sizes = [("image_pixel_height", self.image_pixel_height), ("image_pixel_width", self.image_pixel_width)];
        if let Some((field, pixels)) = sizes.into_iter().find(|(_, pixels)| !(1..=IMAGE_PIXELS_MAX).contains(pixels)) {
            return Err(wrong(field, pixels.to_string(), &format!("1 to {IMAGE_PIXELS_MAX}")));
        }
        if self.n_modules > MODULES_MAX {
            return Err(wrong("n_modules", self.n_modules.to_string(), &format!("1 to {MODULES_MAX}")));
        }
        let modules = self.module_positions.len() as u32;
        if modules == 0 || modules > self.n_modules {
            let allowed = format!("1 to n_modules = {} entries", self.n_modules);
            return Err(wrong("module_positions", format!("{modules} entries"), &allowed));
        }
        if let Some(module) = self.module_positions.keys().find(|&&module| module >= self.n_modules) {
            let allowed = format!("modules 0 to n_modules - 1 = {}", i64::from(self.n_modules) - 1);
            return Err(wrong(&format!("module_positions.{module}"), module.to_string(), &allowed));
        }
        if self.start_udp_port == 0 {
            return Err(wrong("start_udp_port", "0".to_owned(), "1 to 65535"));
        }
        self.placement().map(|_| ())
    }

    /// The place of every packet.
    ///
    /// # Errors
    /// As [`DetectorConfig::check`].
    pub fn placement(&self) -> Result<Placement, DetectorConfigError> {
        match self.detector_type.as_str() {
            "eiger" => eiger::placement(self),
            other => Err(DetectorConfigError::field("detector_type", other.to_owned(), "eiger")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EIGER: &str = include_str!("../../../tests/data/eiger-500k/detector.json");

    #[test]
    fn a_std_daq_file_with_fields_of_other_processes_is_accepted() {
        let text = EIGER.replacen('{', r#"{"log_level": "debug", "number_of_writers": 2,"#, 1);
        assert_eq!(DetectorConfig::from_json(&text), DetectorConfig::from_json(EIGER));
    }

    #[test]
    fn each_wrong_field_is_named_with_what_is_allowed() {
        let cases = [
            (r#""n_modules": 4"#, r#""n_modules": 2"#, "n_modules = 2"),
            (r#""bit_depth": 32"#, r#""bit_depth": 12"#, "8, 16 or 32"),
            (r#""detector_type": "eiger""#, r#""detector_type": "pco""#, "allowed: eiger"),
            (r#""start_udp_port": 50028"#, r#""start_udp_port": 65534"#, "65535"),
            (r#""image_pixel_width": 1030"#, r#""image_pixel_width": 1000"#, "inside the image"),
            (r#""detector_name": "EG05M","#, "", "detector_name"),
            ("1029,\n      513", "1028,\n      513", "x1 - x0 = 513"),
            ("516,\n      258,\n      1029", "515,\n      258,\n      1028", ""),
        ];
        for (from, to, expected) in cases {
            let text = EIGER.replacen(from, to, 1);
            assert_ne!(text, EIGER, "{from} is not in the file");
            match DetectorConfig::from_json(&text) {
                Err(error) => assert!(error.to_string().contains(expected), "{error}"),
                Ok(_) => assert_eq!(expected, "", "{to} was accepted"),
            }
        }
    }

    #[test]
    fn overlapping_modules_are_refused() {
        let mut config = DetectorConfig::from_json(EIGER).expect("valid");
        config.module_positions.insert(1, [0, 258, 513, 513]);
        assert!(matches!(
            config.check(),
            Err(DetectorConfigError::Placement(PlacementError::Overlap { module: 1, .. }))
        ));
    }
}
