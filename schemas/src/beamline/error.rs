//! What is wrong with a beamline's file: all of it, each with its place.

use crate::detector::DetectorConfigError;
use std::{fmt, path::PathBuf};

/// One thing that is wrong. Prints as `beamline.toml:12:3: ring.sise: unknown key; did you mean
/// ring.size?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeamlineError {
    /// The TOML file, or the detector's JSON file.
    pub file: PathBuf,
    /// Both from 1; the column counts characters.
    pub line: usize,
    pub column: usize,
    /// `section.key`, or empty where the text is not TOML at all.
    pub key: String,
    pub problem: Problem,
}

/// The kinds of error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The text is not TOML or JSON at this place.
    #[error("{0}")]
    Syntax(String),
    /// No such key or section; `hint` has the nearest one, or all that there are.
    #[error("unknown {what}; {hint}")]
    Unknown { what: &'static str, hint: String },
    /// It has no default and is not there.
    #[error("missing; allowed: {allowed}")]
    Missing { allowed: String },
    /// A value of the wrong type or outside its range.
    #[error("found {found}; allowed: {allowed}")]
    Value { found: String, allowed: String },
    /// The file that is named here cannot be read.
    #[error("cannot read {path}: {reason}")]
    Unreadable { path: PathBuf, reason: String },
    /// Each field is right by itself, and together they are not a detector.
    #[error("{0}")]
    Detector(DetectorConfigError),
}

/// All errors of a beamline's file, in the order of their places. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeamlineErrors(pub Vec<BeamlineError>);

impl fmt::Display for BeamlineError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}: ", self.file.display(), self.line, self.column)?;
        if !self.key.is_empty() {
            write!(formatter, "{}: ", self.key)?;
        }
        self.problem.fmt(formatter)
    }
}

impl fmt::Display for BeamlineErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for BeamlineErrors {}
