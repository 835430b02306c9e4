//! The readers that users use, in the Python environment that `tools/setup --tests` makes.

use super::{Outcome, repository};
use serde_json::Value;
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Python with h5py, numpy, pyzmq and msgpack.
pub fn python() -> Command {
    let own = repository().join(".tools/bin/python");
    let path = env::var_os("ECS_PYTHON").map(PathBuf::from);
    let path = path.unwrap_or(if own.exists() { own } else { PathBuf::from("python3") });
    let mut command = Command::new(path);
    command.current_dir(repository());
    command
}

/// Opens a file with h5py and compares every image that is marked good with the simulated detector's,
/// and the ledger with the rows. Returns what the script counted. See `tests/check_images.py`.
pub fn check_images(file: &Path, arguments: &[&str]) -> Value {
    let mut command = python();
    command.arg("tests/check_images.py").arg(file).args(arguments);
    Outcome::of(&mut command).ok().json()
}
