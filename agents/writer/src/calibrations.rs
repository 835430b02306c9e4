//! What the images of a job were made with, as it stands in their file.
//!
//! One line of JSON for each number, in the order in which they came:
//! `{"number":"…16 hexadecimal digits…","unit":"keV","pixel":"f32","gain":[…],"pedestal":…}`.

use ecs_calibration::UNCONVERTED;
use ecs_shm_buffer::MADE_DIFFERENTLY;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The numbers of a job's images, and the text that tells of them.
#[derive(Debug)]
pub struct Calibrations {
    state_folder: PathBuf,
    numbers: Vec<u64>,
    text: String,
}

impl Calibrations {
    pub fn new(state_folder: &Path) -> Self {
        Self { state_folder: state_folder.to_owned(), numbers: vec![0], text: String::new() }
    }

    /// The text anew, where this number has not come before.
    pub fn note(&mut self, number: u64) -> Option<&str> {
        if self.numbers.contains(&number) {
            return None;
        }
        self.numbers.push(number);
        let mut about = self.about(number);
        about["number"] = json!(format!("{number:016x}"));
        self.text += &format!("{about}\n");
        Some(&self.text)
    }

    fn about(&self, number: u64) -> Value {
        match number {
            UNCONVERTED => json!({ "unit": "as they came" }),
            MADE_DIFFERENTLY => json!({ "unit": "parts of the image were made with different calibrations" }),
            _ => ecs_calibration::about(&self.state_folder, number)
                .and_then(|about| serde_json::to_value(about).ok())
                .unwrap_or_else(|| json!({ "unit": "not known: its description is gone from the state folder" })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_told_of_once_in_the_order_of_its_images() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let about = json!({ "unit": "keV", "pixel": "f32", "gain": ["/g.h5"], "pedestal": "/p.h5" });
        std::fs::create_dir(folder.path().join("calibrations")).expect("made");
        let path = folder.path().join("calibrations/00000000000000ab.json");
        std::fs::write(path, about.to_string()).expect("written");
        let mut calibrations = Calibrations::new(folder.path());
        assert_eq!(calibrations.note(0), None);
        assert!(calibrations.note(UNCONVERTED).is_some_and(|text| text.contains("as they came")));
        let text = calibrations.note(0xab).expect("it is new").to_owned();
        assert_eq!(calibrations.note(0xab), None);
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!((lines.len(), &lines[0]["number"]), (2, &json!("0000000000000001")));
        assert_eq!((&lines[1]["number"], &lines[1]["pedestal"]), (&json!("00000000000000ab"), &json!("/p.h5")));
        assert!(calibrations.note(0xac).is_some_and(|text| text.contains("not known")));
    }
}
