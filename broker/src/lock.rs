//! One broker per state folder: a file that is locked for as long as the process lives.
//!
//! The kernel drops the lock with the process, however it ends, so there is nothing to clean up.

use std::{
    fs::{File, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

const FILE_NAME: &str = "broker.lock";
/// A process id has at most this many digits; more of a foreign file is not read.
const PID_BYTES_MAX: u64 = 20;

/// Why a state folder cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("cannot use the state folder {folder}: {source}; make it writable or set beamline.state_folder")]
    Folder { folder: PathBuf, source: io::Error },
    #[error("a broker (process {pid}) already runs with the state folder {folder}; stop it first")]
    Held { folder: PathBuf, pid: String },
}

/// Holds the folder until it is dropped.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Makes `folder` where it is missing, and takes it.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Folder { folder: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(folder.join(FILE_NAME))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { folder: folder.to_owned(), pid: read_pid(&file) });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn read_pid(file: &File) -> String {
    let mut text = String::new();
    match file.take(PID_BYTES_MAX).read_to_string(&mut text) {
        Ok(_) if !text.is_empty() => text,
        _ => "unknown".to_owned(),
    }
}
