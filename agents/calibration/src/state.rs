//! What is active on this host: small files in the state folder, which readout and writer share.
//!
//! | file | says |
//! |---|---|
//! | `pedestal.active` | the file of pedestals to convert with instead of the settings', and from when on |
//! | `unconverted.wanted` | the process that wants pixels as they come |
//! | `calibrations/<number>.json` | what images of this number were converted with |
//!
//! # Rules
//! S1  A file is replaced by renaming a whole one: whoever reads it sees the old one or the new one.
//! S2  A new file of pedestals is written before it is active. Every readout process reads it as soon as it is named, and
//!     begins to use it at the time that is named with it: by then, all of them have it.
//! S3  Pixels come unconverted only while the process that wants it lives: a job that is killed leaves nothing switched.
//!
//! Why files, and not the broker? A readout that is started again while the broker is away must convert as before.

use crate::CalibrationError;
use ecs_shm_buffer::{Liveness, Proc, ProcessId};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const PEDESTAL: &str = "pedestal.active";
const UNCONVERTED: &str = "unconverted.wanted";
const CALIBRATIONS: &str = "calibrations";

/// Reading pedestals takes a second for the largest detector, and processes look for new ones every half second.
pub const APPLY_AFTER: Duration = Duration::from_secs(3);

/// Which pedestals are active.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivePedestal {
    pub path: PathBuf,
    /// To be used from this time on, in nanoseconds since 1970-01-01 UTC.
    pub from_utc_ns: u64,
}

/// Who wants pixels as they come.
#[derive(Serialize, Deserialize)]
struct Wanted {
    pid: u32,
    start_time: u64,
}

/// Names a file of pedestals that is to be used in [`APPLY_AFTER`].
///
/// # Errors
/// The state folder cannot be written.
pub fn activate(state_folder: &Path, path: &Path) -> Result<ActivePedestal, CalibrationError> {
    let from_utc_ns = utc_ns() + APPLY_AFTER.as_nanos() as u64;
    let active = ActivePedestal { path: path.to_owned(), from_utc_ns };
    write(&state_folder.join(PEDESTAL), &active)?;
    Ok(active)
}

/// The pedestals that are to be used instead of the settings', if any are.
///
/// # Errors
/// The file cannot be read, or is not one of ours.
pub fn active_pedestal(state_folder: &Path) -> Result<Option<ActivePedestal>, CalibrationError> {
    read(&state_folder.join(PEDESTAL))
}

/// Says of an error about the file of `active` what has named that file: the settings do not.
pub fn explained(error: CalibrationError, active: Option<&ActivePedestal>, state_folder: &Path) -> CalibrationError {
    match active {
        Some(active) if active.path == error.path() => {
            CalibrationError::Active { what: Box::new(error), named_by: state_folder.join(PEDESTAL) }
        }
        _ => error,
    }
}

/// Asks the readout for pixels as they come, until the value is dropped or this process ends.
///
/// # Errors
/// The state folder cannot be written, or another process has asked and lives.
pub fn want_unconverted(state_folder: &Path) -> Result<Unconverted, CalibrationError> {
    let ProcessId { pid, start_time } = ProcessId::current();
    let path = state_folder.join(UNCONVERTED);
    if let Some(other) = unconverted_wanted(state_folder).filter(|other| other.pid != pid) {
        let reason = format!("process {} takes pedestals already", other.pid);
        return Err(CalibrationError::Write { path, reason });
    }
    write(&path, &Wanted { pid, start_time })?;
    Ok(Unconverted { path })
}

/// Pixels come as they are while it is there.
#[derive(Debug)]
pub struct Unconverted {
    path: PathBuf,
}

impl Drop for Unconverted {
    fn drop(&mut self) {
        // What stays behind counts for nothing once this process has ended (S3).
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether a living process wants pixels as they come.
pub fn is_unconverted_wanted(state_folder: &Path) -> bool {
    unconverted_wanted(state_folder).is_some()
}

/// The living process that wants it.
fn unconverted_wanted(state_folder: &Path) -> Option<Wanted> {
    let wanted: Option<Wanted> = read(&state_folder.join(UNCONVERTED)).ok().flatten();
    wanted.filter(|&Wanted { pid, start_time }| Proc.is_alive(ProcessId { pid, start_time }))
}

pub(crate) fn about_path(state_folder: &Path, number: u64) -> PathBuf {
    state_folder.join(CALIBRATIONS).join(format!("{number:016x}.json"))
}

pub(crate) fn utc_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Writes a file beside its place and renames it (S1).
pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<(), CalibrationError> {
    let failed = |error: io::Error| CalibrationError::Write { path: path.to_owned(), reason: error.to_string() };
    let folder = path.parent().expect("it lies in the state folder");
    fs::create_dir_all(folder).map_err(failed)?;
    // Two processes may write the same at one time.
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let text = serde_json::to_vec_pretty(value).map_err(|error| failed(error.into()))?;
    fs::write(&temporary, text).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}

pub(crate) fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, CalibrationError> {
    let failed = |reason: String| CalibrationError::Read { path: path.to_owned(), reason };
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.to_string())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pedestals_named_last_are_active_and_what_is_no_file_of_ours_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert_eq!(active_pedestal(folder).unwrap(), None);
        activate(folder, Path::new("/d/first.h5")).unwrap();
        let second = activate(folder, Path::new("/d/second.h5")).unwrap();
        assert_eq!(active_pedestal(folder).unwrap(), Some(second));
        fs::write(folder.join(PEDESTAL), "second.h5").unwrap();
        assert!(active_pedestal(folder).unwrap_err().to_string().contains("pedestal.active"));
    }

    #[test]
    fn unconverted_pixels_are_wanted_by_the_living_only() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let wanted = want_unconverted(folder).unwrap();
        assert!(is_unconverted_wanted(folder));
        drop(wanted);
        assert!(!is_unconverted_wanted(folder));
        // As after a kill: the file is there, its process is not.
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        write(&folder.join(UNCONVERTED), &Wanted { pid: child.id(), start_time: 1 }).unwrap();
        assert!(!is_unconverted_wanted(folder));
        // Another one that lives: the first process of the host.
        write(&folder.join(UNCONVERTED), &Wanted { pid: 1, start_time: 0 }).unwrap();
        assert!(want_unconverted(folder).unwrap_err().to_string().contains("process 1 takes"));
    }
}
