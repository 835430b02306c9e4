//! Finding and reading the beamline's TOML file.

use ecs_schemas::beamline::{Beamline, BeamlineErrors};
use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// Read when no other file is named and it is in the current folder.
pub const DEFAULT_FILE: &str = "beamline.toml";

/// Why there is no configuration. Prints one line per error.
#[derive(Debug, thiserror::Error)]
pub enum BeamlineFileError {
    #[error("cannot read the beamline file {path}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Wrong(BeamlineErrors),
}

/// Reads a beamline file. Paths that come out are absolute.
///
/// # Errors
/// It cannot be read, or all that is wrong with it, with paths as short as they can be.
pub fn load(path: &Path) -> Result<Beamline, BeamlineFileError> {
    let unreadable = |source| BeamlineFileError::Unreadable { path: path.to_owned(), source };
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let absolute = std::path::absolute(path).map_err(unreadable)?;
    Beamline::parse(&text, &absolute, &|path| fs::read_to_string(path)).map_err(|mut errors| {
        let here = env::current_dir().unwrap_or_default();
        for error in &mut errors.0 {
            if let Ok(short) = error.file.strip_prefix(&here) {
                error.file = short.to_owned();
            }
        }
        BeamlineFileError::Wrong(errors)
    })
}

/// The file that was named, or the default one where it exists.
pub fn find(named: Option<&Path>) -> Option<PathBuf> {
    named.map(Path::to_owned).or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.is_file()))
}
