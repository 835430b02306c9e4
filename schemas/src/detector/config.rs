//! A detector's configuration: the std-daq JSON file, a slsDetector `.config` file, a description in TOML, or the same
//! fields inline in the beamline's TOML.
//!
//! | field | meaning |
//! |---|---|
//! | `detector_name` | name for people; default: its type |
//! | `detector_type` | `eiger`, `jungfrau` (or std-daq's `jungfrau-raw`, `jungfrau-converted`), `gigafrost`, or a description that ships with ECS |
//! | `n_modules` | number of modules |
//! | `bit_depth` | bits of a pixel |
//! | `image_pixel_height`, `image_pixel_width` | size of the assembled image, gaps included |
//! | `start_udp_port` | the first module's port; the others follow it |
//! | `module_positions` | `"m": [x0, y0, x1, y1]`, first and last pixel, both included; `y1 < y0`: rows run upwards |
//! | `model`, `modules` | instead of sizes and positions: `"9M"`, or `[columns, rows]` of modules |
//! | `udp_ports` | instead: the ports one by one, where they do not follow each other |
//! | `deactivate` | modules that are off: masked, and never waited for |
//! | `tengiga` | EIGER: payloads of 4096 bytes (the default) or 1024 |
//! | `readnrows` | EIGER, JUNGFRAU: rows that are read |
//! | `numinterfaces` | JUNGFRAU: 1 (the default) or 2 |
//! | `octets` | GigaFRoST: sets of eight ports, 1 or 2 (the default) |
//! | `image_id` | `frame_number` (the default), `bunch_id` or `bunch_id_f64` |
//!
//! Other fields of a std-daq file concern processes that ECS does not have; they are accepted and
//! ignored.

use super::{
    Detector,
    described::{self, Description},
    eiger,
    fields::{self, Fields},
    gigafrost,
    grid::Position,
    jungfrau,
    placement::{Placement, PlacementError},
    sls_config,
};
use std::{collections::BTreeMap, path::Path};

/// Every key that the `[detector]` section of a beamline's file may have: a file's name, and the fields.
pub const KEYS: [&str; 18] = [
    "config",
    "detector_name",
    "detector_type",
    "n_modules",
    "bit_depth",
    "image_pixel_height",
    "image_pixel_width",
    "start_udp_port",
    "module_positions",
    "model",
    "modules",
    "udp_ports",
    "deactivate",
    "tengiga",
    "readnrows",
    "numinterfaces",
    "octets",
    "image_id",
];

/// What a detector's configuration says. See the module header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DetectorConfig {
    pub detector_name: String,
    pub detector_type: String,
    pub n_modules: Option<u32>,
    pub bit_depth: Option<u32>,
    pub image_pixel_height: Option<usize>,
    pub image_pixel_width: Option<usize>,
    pub start_udp_port: Option<u16>,
    pub module_positions: BTreeMap<u32, Position>,
    pub model: Option<String>,
    pub modules: Option<[u32; 2]>,
    pub udp_ports: Vec<u16>,
    pub deactivate: Vec<u32>,
    pub tengiga: Option<bool>,
    pub readnrows: Option<u32>,
    pub numinterfaces: Option<u32>,
    pub octets: Option<u32>,
    pub image_id: Option<String>,
    /// EIGER, from an slsDetector file: columns of modules, and half modules above each other.
    pub(crate) half_modules: Option<[u32; 2]>,
    /// What no detector module knows.
    pub(crate) description: Option<Box<Description>>,
}

/// Rows and columns that an image may have, and modules that a detector may have: far above any real
/// one, and low enough that no product of them overflows.
pub const IMAGE_PIXELS_MAX: usize = 65_535;
pub const MODULES_MAX: u32 = 1024;

/// Why a detector's configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DetectorConfigError {
    /// Not JSON or TOML, or a description with a field that is missing or of the wrong type; the text has line and column.
    #[error("not a detector configuration: {0}")]
    Syntax(String),
    #[error("{field} is missing; allowed: {allowed}")]
    Missing { field: String, allowed: String },
    #[error("{field} = {found}; allowed: {allowed}")]
    Field { field: String, found: String, allowed: String },
    #[error("module_positions: {0}")]
    Placement(#[from] PlacementError),
}

impl DetectorConfigError {
    pub fn field(field: &str, found: String, allowed: &str) -> Self {
        Self::Field { field: field.to_owned(), found, allowed: allowed.to_owned() }
    }

    pub fn missing(field: &str, allowed: &str) -> Self {
        Self::Missing { field: field.to_owned(), allowed: allowed.to_owned() }
    }
}

impl DetectorConfig {
    /// Reads a std-daq JSON file's text.
    ///
    /// # Errors
    /// Names what is missing or wrong, with line and column for syntax.
    pub fn from_json(text: &str) -> Result<Self, DetectorConfigError> {
        let fields = serde_json::from_str(text).map_err(|error| DetectorConfigError::Syntax(error.to_string()))?;
        let config = Self::from_fields(&fields)?;
        config.check()?;
        Ok(config)
    }

    /// Reads a TOML file's text: a description (it has a `[packet]`), or the fields of a known detector.
    ///
    /// # Errors
    /// Names what is missing or wrong, with line and column for syntax.
    pub fn from_toml(text: &str) -> Result<Self, DetectorConfigError> {
        let config = Self::read_toml(text)?;
        config.check()?;
        Ok(config)
    }

    /// Reads a file's text by the ending of its name: `.json` (std-daq), `.config` (slsDetector), `.toml`.
    ///
    /// # Errors
    /// Names what is missing or wrong.
    pub fn from_file(path: &Path, text: &str) -> Result<Self, DetectorConfigError> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Self::from_toml(text),
            Some("config") => {
                let config = sls_config::read(text)?;
                config.check()?;
                Ok(config)
            }
            _ => Self::from_json(text),
        }
    }

    /// As [`Self::from_file`] for what is not JSON, without checking the fields against each other.
    pub(crate) fn read_file(path: &Path, text: &str) -> Result<Self, DetectorConfigError> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("config") => sls_config::read(text),
            _ => Self::read_toml(text),
        }
    }

    fn from_fields(fields: &Fields) -> Result<Self, DetectorConfigError> {
        fields::read(fields).map_err(|mut errors| errors.swap_remove(0))
    }

    fn read_toml(text: &str) -> Result<Self, DetectorConfigError> {
        let fields: Fields = toml::from_str(text).map_err(|error| DetectorConfigError::Syntax(error.to_string()))?;
        if fields.contains_key("packet") {
            return described::read(text);
        }
        if let Some(key) = fields.keys().find(|key| !is_field(key)) {
            return Err(DetectorConfigError::field(key, "an unknown key".to_owned(), &KEYS[1..].join(", ")));
        }
        Self::from_fields(&fields)
    }

    /// Checks what the types do not, down to the place of every packet.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn check(&self) -> Result<(), DetectorConfigError> {
        self.detector().map(|_| ())
    }

    /// The detector that this describes.
    ///
    /// # Errors
    /// As [`DetectorConfig::check`].
    pub fn detector(&self) -> Result<Detector, DetectorConfigError> {
        if let Some(description) = &self.description {
            return described::detector(self, description);
        }
        match self.detector_type.as_str() {
            "eiger" => eiger::detector(self),
            "jungfrau" | "jungfrau-raw" | "jungfrau-converted" => jungfrau::detector(self),
            "gigafrost" => gigafrost::detector(self),
            other => match described::shipped(other) {
                Some(text) => described::detector(self, &described::parse(text)?),
                None => Err(DetectorConfigError::field("detector_type", other.to_owned(), &types_text())),
            },
        }
    }

    /// The place of every packet.
    ///
    /// # Errors
    /// As [`DetectorConfig::check`].
    pub fn placement(&self) -> Result<Placement, DetectorConfigError> {
        Ok(self.detector()?.placement)
    }

    pub(super) fn name(&self) -> &str {
        if self.detector_name.is_empty() { &self.detector_type } else { &self.detector_name }
    }

    pub(super) fn required_bit_depth(&self, allowed: &str) -> Result<u32, DetectorConfigError> {
        self.bit_depth.ok_or_else(|| DetectorConfigError::missing("bit_depth", allowed))
    }

    /// Sizes and positions as the fields of std-daq give them, each module with `interfaces` ports.
    pub(super) fn given_positions(&self, interfaces: u32) -> Result<Base<'_>, DetectorConfigError> {
        let (wrong, missing) = (DetectorConfigError::field, DetectorConfigError::missing);
        if self.module_positions.is_empty() && self.n_modules.is_none() {
            let allowed = "\"module\" = [x0, y0, x1, y1] for each module; or model, or modules, instead";
            return Err(missing("module_positions", allowed));
        }
        let n_modules = self.n_modules.ok_or_else(|| missing("n_modules", "the number of modules"))?;
        let height = self.image_pixel_height.ok_or_else(|| missing("image_pixel_height", "rows of the image"))?;
        let width = self.image_pixel_width.ok_or_else(|| missing("image_pixel_width", "columns of the image"))?;
        if n_modules > MODULES_MAX / interfaces {
            return Err(wrong("n_modules", n_modules.to_string(), &format!("1 to {}", MODULES_MAX / interfaces)));
        }
        let modules = self.module_positions.len() as u32;
        if modules == 0 || modules > n_modules {
            let allowed = format!("1 to n_modules = {n_modules} entries");
            return Err(wrong("module_positions", format!("{modules} entries"), &allowed));
        }
        if let Some(module) = self.module_positions.keys().find(|&&module| module >= n_modules) {
            let allowed = format!("modules 0 to n_modules - 1 = {}", i64::from(n_modules) - 1);
            return Err(wrong(&format!("module_positions.{module}"), module.to_string(), &allowed));
        }
        self.base(height, width, self.module_positions.clone(), n_modules)
    }

    /// Sizes and positions that follow from something else; `positions` has every module.
    pub(super) fn with_positions(
        &self,
        height: usize,
        width: usize,
        positions: BTreeMap<u32, Position>,
    ) -> Result<Base<'_>, DetectorConfigError> {
        let n_modules = positions.len() as u32;
        self.base(height, width, positions, n_modules)
    }

    fn base(
        &self,
        height: usize,
        width: usize,
        positions: BTreeMap<u32, Position>,
        n_modules: u32,
    ) -> Result<Base<'_>, DetectorConfigError> {
        let wrong = DetectorConfigError::field;
        let sizes = [("image_pixel_height", height), ("image_pixel_width", width)];
        if let Some((field, pixels)) = sizes.into_iter().find(|(_, pixels)| !(1..=IMAGE_PIXELS_MAX).contains(pixels)) {
            return Err(wrong(field, pixels.to_string(), &format!("1 to {IMAGE_PIXELS_MAX}")));
        }
        self.check_ports()?;
        if let Some(module) = self.deactivate.iter().find(|&&module| module >= n_modules) {
            return Err(wrong("deactivate", module.to_string(), &format!("modules 0 to {}", n_modules - 1)));
        }
        if positions.keys().all(|module| self.deactivate.contains(module)) {
            return Err(wrong("deactivate", "every module".to_owned(), "at least one module that is on"));
        }
        Ok(Base { config: self, height, width, positions })
    }
}

impl DetectorConfig {
    /// Each port is one, and nobody else's: two modules on one would be taken for one another.
    fn check_ports(&self) -> Result<(), DetectorConfigError> {
        let wrong = DetectorConfigError::field;
        match (self.start_udp_port, &self.udp_ports[..]) {
            (None, []) => {
                return Err(DetectorConfigError::missing("start_udp_port", "1 to 65535; or udp_ports instead"));
            }
            (Some(0), _) => return Err(wrong("start_udp_port", "0".to_owned(), "1 to 65535")),
            (Some(start), [_, ..]) => {
                let allowed = "start_udp_port or udp_ports, not both";
                return Err(wrong("start_udp_port", start.to_string(), allowed));
            }
            _ => {}
        }
        let mut indexes = BTreeMap::new();
        for (index, &port) in self.udp_ports.iter().enumerate() {
            if port == 0 {
                return Err(wrong("udp_ports", format!("port 0 at index {index}"), "ports from 1 to 65535"));
            }
            if let Some(other) = indexes.insert(port, index) {
                let found = format!("port {port} at the indexes {other} and {index}");
                return Err(wrong("udp_ports", found, "each port once"));
            }
        }
        Ok(())
    }

    /// Settings that not every detector has, and whether each is given.
    fn settings(&self) -> [(&'static str, bool); 8] {
        [
            ("model", self.model.is_some()),
            ("modules", self.modules.is_some()),
            ("deactivate", !self.deactivate.is_empty()),
            ("tengiga", self.tengiga.is_some()),
            ("readnrows", self.readnrows.is_some()),
            ("numinterfaces", self.numinterfaces.is_some()),
            ("octets", self.octets.is_some()),
            ("image_id", self.image_id.is_some()),
        ]
    }

    /// A setting that has no effect is a wrong run: of those that not all have, this detector has `used`.
    pub(super) fn check_settings(&self, used: &[&str]) -> Result<(), DetectorConfigError> {
        let unused = self.settings().into_iter().find(|(name, is_given)| *is_given && !used.contains(name));
        if let Some((name, _)) = unused {
            let allowed = format!("no such setting for {}", self.detector_type);
            return Err(DetectorConfigError::field(name, "a value".to_owned(), &allowed));
        }
        if (self.model.is_some() || self.modules.is_some()) && !self.module_positions.is_empty() {
            let found = format!("{} entries", self.module_positions.len());
            let allowed = "none beside model or modules, from which the positions follow";
            return Err(DetectorConfigError::field("module_positions", found, allowed));
        }
        Ok(())
    }
}

/// What every detector module asks of a configuration: the image, its modules and their ports.
pub(super) struct Base<'a> {
    config: &'a DetectorConfig,
    pub height: usize,
    pub width: usize,
    pub positions: BTreeMap<u32, Position>,
}

impl Base<'_> {
    pub fn is_off(&self, module: u32) -> bool {
        self.config.deactivate.contains(&module)
    }

    /// The `index`th port.
    pub fn port(&self, index: u32) -> Result<u16, DetectorConfigError> {
        if !self.config.udp_ports.is_empty() {
            let count = self.config.udp_ports.len();
            return self.config.udp_ports.get(index as usize).copied().ok_or_else(|| {
                DetectorConfigError::field("udp_ports", format!("{count} ports"), "a port for every module")
            });
        }
        let port = u32::from(self.config.start_udp_port.unwrap_or_default()) + index;
        u16::try_from(port).map_err(|_| {
            DetectorConfigError::field("start_udp_port", port.to_string(), "ports up to 65535 for every module")
        })
    }

    pub fn wrong_position(&self, module: u32, allowed: &str) -> DetectorConfigError {
        let [x0, y0, x1, y1] = self.positions[&module];
        let found = format!("[{x0}, {y0}, {x1}, {y1}]");
        DetectorConfigError::field(&format!("module_positions.{module}"), found, allowed)
    }

    pub fn check_inside(&self, module: u32) -> Result<(), DetectorConfigError> {
        let [x0, y0, x1, y1] = self.positions[&module];
        let (height, width) = (self.height as i64, self.width as i64);
        if x0 >= 0 && x1 < width && y0.min(y1) >= 0 && y0.max(y1) < height {
            return Ok(());
        }
        let allowed = format!("a position inside the image of {height} rows and {width} columns");
        Err(self.wrong_position(module, &allowed))
    }
}

/// Whether a key of `[detector]` is a field of a detector.
pub(crate) fn is_field(key: &str) -> bool {
    KEYS[1..].contains(&key)
}

/// The types of detectors that there are.
pub(crate) fn types_text() -> String {
    let shipped = described::SHIPPED.iter().map(|(name, _)| *name);
    let all = ["eiger", "jungfrau", "jungfrau-raw", "jungfrau-converted", "gigafrost"].into_iter().chain(shipped);
    all.collect::<Vec<_>>().join(", ")
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
            (r#""n_modules": 4,"#, "", "n_modules is missing"),
            (r#""bit_depth": 32"#, r#""bit_depth": 10"#, "8, 12, 16 or 32"),
            (r#""detector_type": "eiger""#, r#""detector_type": "pco""#, "allowed: eiger"),
            (r#""detector_type": "eiger","#, "", "detector_type"),
            (r#""start_udp_port": 50028"#, r#""start_udp_port": 65534"#, "65535"),
            (r#""start_udp_port": 50028"#, r#""start_udp_port": 0"#, "1 to 65535"),
            ("      513,\n      513\n", "      513,\n      512\n", "|y1 - y0| = 255"),
            ("513,\n      0\n", "513,\n      1\n", "module_positions.2 = [0, 255, 513, 1]"),
            (r#""image_pixel_width": 1030"#, r#""image_pixel_width": 1000"#, "inside the image"),
            ("1029,\n      513", "1028,\n      513", "x1 - x0 = 513"),
            ("1029,\n      513\n", "513\n", "\"1\" = [516,258,513]; allowed: \"module number\" = [x0, y0, x1, y1]"),
        ];
        for (from, to, expected) in cases {
            let text = EIGER.replacen(from, to, 1);
            assert_ne!(text, EIGER, "{from} is not in the file");
            let error = DetectorConfig::from_json(&text).expect_err(to);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn each_key_that_is_missing_is_named() {
        let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(EIGER).expect("an object");
        let needed = [
            "bit_depth",
            "detector_type",
            "image_pixel_height",
            "image_pixel_width",
            "module_positions",
            "n_modules",
            "start_udp_port",
        ];
        for key in needed {
            let mut without = fields.clone();
            assert!(without.remove(key).is_some(), "{key} is not in the file");
            let error = DetectorConfig::from_json(&serde_json::json!(without).to_string()).expect_err(key).to_string();
            let (what, _) = error.split_once("; allowed").unwrap_or((&error, ""));
            assert!(what.contains(key) && (what.contains("missing") || what.ends_with("0 entries")), "{key}: {error}");
        }
        let mut without = fields;
        without.remove("detector_name");
        assert!(DetectorConfig::from_json(&serde_json::json!(without).to_string()).is_ok(), "a name is for people");
    }

    #[test]
    fn modules_that_are_missing_in_between_keep_their_ports() {
        // std-daq: a module's number is its port's, whichever others there are.
        let mut config = DetectorConfig::from_json(EIGER).expect("valid");
        config.n_modules = Some(8);
        config.module_positions = [0, 2, 7].into_iter().zip(config.module_positions.into_values()).collect();
        assert_eq!(config.placement().map(|placement| placement.ports), Ok(vec![50028, 50030, 50035]));
    }

    #[test]
    fn a_module_number_beyond_their_count_is_refused_instead_of_sharing_another_ones_place() {
        // std-daq takes 15 modulo 8: its mask of modules is 133, and the bits of two modules may be one.
        let mut config = DetectorConfig::from_json(EIGER).expect("valid");
        config.n_modules = Some(8);
        config.module_positions = [0, 2, 15].into_iter().zip(config.module_positions.into_values()).collect();
        let error = config.check().expect_err("15 is no module of 8").to_string();
        assert_eq!(error, "module_positions.15 = 15; allowed: modules 0 to n_modules - 1 = 7");
        config.n_modules = Some(16);
        assert_eq!(config.placement().map(|placement| placement.modules), Ok(3));
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

    #[test]
    fn a_file_is_read_by_the_ending_of_its_name() {
        let read = |name: &str, text: &str| DetectorConfig::from_file(Path::new(name), text);
        assert_eq!(read("a/detector.json", EIGER), DetectorConfig::from_json(EIGER));
        let short = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 32\nstart_udp_port = 50028";
        assert_eq!(
            read("b.toml", short).and_then(|config| config.placement()),
            read("a.json", EIGER).and_then(|config| config.placement())
        );
        let misspelt = read("b.toml", &format!("{short}\nbitdepth = 3")).expect_err("unknown");
        assert!(misspelt.to_string().starts_with("bitdepth = an unknown key; allowed: detector_name"), "{misspelt}");
        let sls = "hostname beb1+beb2+\ndr 32\ntengiga 1\nudp_dstport 50028";
        assert_eq!(
            read("c.config", sls).and_then(|config| config.placement()),
            read("a.json", EIGER).and_then(|config| config.placement())
        );
    }

    #[test]
    fn ports_may_be_given_one_by_one() {
        let short = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 32\n";
        let ports = |ports: &str| {
            DetectorConfig::from_toml(&format!("{short}udp_ports = {ports}")).map(|config| config.placement())
        };
        assert_eq!(ports("[7, 9, 8, 11]").expect("valid").map(|placement| placement.ports), Ok(vec![7, 9, 8, 11]));
        for (wrong, expected) in [
            ("[7, 9, 7, 8]", "udp_ports = port 7 at the indexes 0 and 2; allowed: each port once"),
            ("[7, 0, 8, 9]", "udp_ports = port 0 at index 1"),
            ("[7, 9, 8, 11]\nstart_udp_port = 7", "start_udp_port or udp_ports, not both"),
            ("[]", "start_udp_port is missing; allowed: 1 to 65535; or udp_ports instead"),
        ] {
            let error = ports(wrong).expect_err(wrong).to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(ports("[7, 9]").is_err_and(|error| error.to_string().contains("a port for every module")));
    }

    #[test]
    fn a_setting_that_has_no_effect_is_refused() {
        let cases = [
            ("detector_type = \"gigafrost\"\nimage_pixel_height = 252\nimage_pixel_width = 504", "readnrows = 8"),
            (
                "detector_type = \"gigafrost\"\nimage_pixel_height = 252\nimage_pixel_width = 504",
                "image_id = \"bunch_id\"",
            ),
            ("detector_type = \"jungfrau\"\nmodel = \"500K\"", "tengiga = true"),
            ("detector_type = \"jungfrau\"\nmodel = \"500K\"", "octets = 2"),
            ("detector_type = \"eiger\"\nbit_depth = 16\nmodel = \"500K\"", "numinterfaces = 2"),
            ("detector_type = \"eiger\"\nbit_depth = 16\nmodel = \"500K\"", "octets = 1"),
            ("detector_type = \"moench\"", "readnrows = 8"),
        ];
        for (detector, setting) in cases {
            let text = format!("{detector}\nstart_udp_port = 50000");
            assert_eq!(DetectorConfig::from_toml(&text).err(), None, "{text}");
            let error = DetectorConfig::from_toml(&format!("{text}\n{setting}")).expect_err(setting).to_string();
            let (name, _) = setting.split_once(' ').expect("a setting");
            assert!(error.starts_with(name) && error.contains("no such setting for"), "{error}");
        }
        let both = EIGER.replacen('{', r#"{"model": "500K","#, 1);
        let error = DetectorConfig::from_json(&both).expect_err("both").to_string();
        assert_eq!(
            error,
            "module_positions = 4 entries; allowed: none beside model or modules, from which the positions follow"
        );
    }
}
