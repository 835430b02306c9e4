//! Why files are not a calibration.

use std::path::{Path, PathBuf};

/// What is wrong with a file of gains, pedestals, a mask or a flat field.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    #[error("cannot read {path}: {reason}")]
    Read { path: PathBuf, reason: String },
    /// Name it behind the path, after `::`.
    #[error("{path} has none of the datasets {names}; name it, as in {path}::/dataset", path = path.display())]
    NoDataset { path: PathBuf, names: String },
    #[error("{path} holds {found}; needed: {needed}", path = path.display())]
    Shape { path: PathBuf, found: String, needed: String },
    #[error("cannot write {path}: {reason}", path = path.display())]
    Write { path: PathBuf, reason: String },
    /// The pedestals that were taken last, which nobody has named in the settings.
    #[error("{what}; put the right file there, or remove {named_by}, by which these pedestals are to be used", named_by = named_by.display())]
    Active { what: Box<CalibrationError>, named_by: PathBuf },
}

impl CalibrationError {
    /// The file that is wrong.
    pub fn path(&self) -> &Path {
        match self {
            Self::Read { path, .. }
            | Self::NoDataset { path, .. }
            | Self::Shape { path, .. }
            | Self::Write { path, .. } => path,
            Self::Active { what, .. } => what.path(),
        }
    }
}
