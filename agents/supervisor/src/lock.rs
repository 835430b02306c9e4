//! One supervisor per state folder: a file there that its holder keeps locked.
//!
//! The kernel drops the lock with the process, so a killed supervisor never blocks the next one. The
//! file stays: removing it would let two processes lock two files of the same name.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

const LOCK_FILE: &str = "up.lock";

/// Why the state folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Stop the other one first, or give this beamline a state folder of its own.
    #[error("this beamline is up already (process {holder}, state folder {folder}); stop it there with Ctrl-C")]
    Held { folder: PathBuf, holder: String },
    #[error("cannot use the state folder {folder}: {source}")]
    Folder { folder: PathBuf, source: io::Error },
}

/// Held as long as this lives.
#[derive(Debug)]
pub(crate) struct StateLock {
    _file: File,
}

impl StateLock {
    /// Makes the folder if need be and takes its lock.
    ///
    /// # Errors
    /// Names the process that holds it, or why the folder cannot be used.
    pub(crate) fn acquire(folder: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Folder { folder: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(folder.join(LOCK_FILE)).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder); // the pid is a courtesy, the lock is the fact
                return Err(LockError::Held { folder: folder.to_owned(), holder: holder.trim().to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        write_pid(&mut file).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}
