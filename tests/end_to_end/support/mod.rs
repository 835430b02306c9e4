//! A beamline of a test's own, and the command line as a person calls it.

mod beamline;
mod by_hand;
mod command;
mod python;
mod small_disk;

pub use beamline::{Beamline, Detector, PATIENCE, send};
pub use by_hand::ByHand;
pub use command::{Outcome, ecs, ecs_path};
pub use python::{check_images, python};
pub use small_disk::SmallDisk;

use std::time::{Duration, Instant};

/// Looks again and again until `condition` gives something; fails the test after `patience`.
pub fn wait_for<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < patience, "waited {patience:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The repository, for test data and scripts.
pub fn repository() -> std::path::PathBuf {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests are in the repository").to_owned()
}
