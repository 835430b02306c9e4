//! The fields of a detector's configuration, from one table of values: a std-daq JSON file, a TOML file, or the `[detector]` of
//! a beamline. One reader for all of them, so a field means the same wherever it stands, and is refused in the same words.
//!
//! Fields that nobody knows are ignored: std-daq's files have more of them. Who does not want that looks before.

use super::{
    config::{DetectorConfig, DetectorConfigError, types_text},
    grid::Position,
};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::collections::BTreeMap;

pub(crate) type Fields = serde_json::Map<String, Json>;

const POSITIONS: &str = "\"module\" = [x0, y0, x1, y1] for each module";

/// Reads all fields. They are not checked against each other.
///
/// # Errors
/// Every field that is missing or wrong, not only the first.
pub(crate) fn read(fields: &Fields) -> Result<DetectorConfig, Vec<DetectorConfigError>> {
    let mut reader = Reader { fields, errors: Vec::new() };
    let config = reader.config();
    reader.require_geometry(&config.detector_type);
    if reader.errors.is_empty() { Ok(config) } else { Err(reader.errors) }
}

struct Reader<'a> {
    fields: &'a Fields,
    errors: Vec<DetectorConfigError>,
}

impl Reader<'_> {
    fn config(&mut self) -> DetectorConfig {
        DetectorConfig {
            detector_type: self.field("detector_type", &types_text()).unwrap_or_default(),
            detector_name: self.optional("detector_name", "a name").unwrap_or_default(),
            start_udp_port: self.optional("start_udp_port", "a port from 1 to 65535"),
            n_modules: self.optional("n_modules", "the number of modules"),
            bit_depth: self.optional("bit_depth", "8, 16 or 32; EIGER: 4 and 12 as well"),
            image_pixel_height: self.optional("image_pixel_height", "rows of the image"),
            image_pixel_width: self.optional("image_pixel_width", "columns of the image"),
            model: self.optional("model", "a name, for example \"9M\""),
            modules: self.optional("modules", "[columns, rows] of modules"),
            udp_ports: self.optional("udp_ports", "[port, ...], each 1 to 65535").unwrap_or_default(),
            deactivate: self.optional("deactivate", "[module, ...]").unwrap_or_default(),
            tengiga: self.optional("tengiga", "true or false"),
            readnrows: self.optional("readnrows", "rows that are read"),
            numinterfaces: self.optional("numinterfaces", "1 or 2"),
            octets: self.optional("octets", "1 or 2"),
            image_id: self.optional("image_id", "\"frame_number\", \"bunch_id\" or \"bunch_id_f64\""),
            module_positions: self.module_positions(),
            ..DetectorConfig::default()
        }
    }

    /// What a std-daq file of an EIGER or JUNGFRAU must have, each named, where nothing stands in for it.
    fn require_geometry(&mut self, detector_type: &str) {
        let is_one = detector_type == "eiger" || detector_type.starts_with("jungfrau");
        if !is_one || self.fields.contains_key("model") || self.fields.contains_key("modules") {
            return;
        }
        for (name, allowed) in [
            ("n_modules", "the number of modules"),
            ("image_pixel_height", "rows of the image"),
            ("image_pixel_width", "columns of the image"),
            ("module_positions", POSITIONS),
        ] {
            if !self.fields.contains_key(name) {
                let allowed = format!("{allowed}; or model = \"9M\" or modules = [columns, rows] instead of all four");
                self.errors.push(DetectorConfigError::missing(name, &allowed));
            }
        }
    }

    /// A field that may be absent. Where it is there and wrong, that is noted.
    fn optional<T: DeserializeOwned>(&mut self, name: &str, allowed: &str) -> Option<T> {
        self.fields.contains_key(name).then(|| self.field(name, allowed)).flatten()
    }

    fn field<T: DeserializeOwned>(&mut self, name: &str, allowed: &str) -> Option<T> {
        let Some(value) = self.fields.get(name) else {
            self.errors.push(DetectorConfigError::missing(name, allowed));
            return None;
        };
        let read = serde_json::from_value(value.clone()).ok();
        if read.is_none() {
            self.errors.push(DetectorConfigError::field(name, value.to_string(), allowed));
        }
        read
    }

    fn module_positions(&mut self) -> BTreeMap<u32, Position> {
        let positions: Fields = self.optional("module_positions", POSITIONS).unwrap_or_default();
        let mut read = BTreeMap::new();
        for (module, position) in &positions {
            match (module.parse(), serde_json::from_value(position.clone())) {
                (Ok(module), Ok(position)) => {
                    read.insert(module, position);
                }
                _ => {
                    let field = format!("module_positions.{module}");
                    let found = format!("{module:?} = {position}");
                    let allowed = "\"module number\" = [x0, y0, x1, y1]";
                    self.errors.push(DetectorConfigError::field(&field, found, allowed));
                }
            }
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::{super::config::KEYS, *};

    #[test]
    fn every_field_that_a_file_may_have_is_read_and_all_that_are_wrong_are_named() {
        let wrong: Fields = KEYS[1..].iter().map(|key| ((*key).to_owned(), serde_json::json!([{}]))).collect();
        let errors = read(&wrong).expect_err("each of them is wrong");
        for key in &KEYS[1..] {
            let begin = format!("{key} = [{{}}]; allowed: ");
            assert!(errors.iter().any(|error| error.to_string().starts_with(&begin)), "{key}: {errors:?}");
        }
        assert_eq!(errors.len(), KEYS.len() - 1, "{errors:?}");
    }
}
