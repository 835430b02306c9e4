//! The key with which this process connects, from its file.
//!
//! A process is one somebody: all its connections have the same key, so it is chosen once
//! ([`use_for_process`]) and whoever makes a connection need not hand it on.

use ecs_schemas::keys::{ClientKey, KeyFileError};
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// The bits of a file's mode that let others in.
const OTHERS: u32 = 0o077;

static PROCESS_KEY: OnceLock<ClientKey> = OnceLock::new();

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read the key file {path}: {source}; keys are made with: ecs-cli keys add NAME --role ROLE")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the key file {path}: {source}; ask whoever made it for another")]
    Wrong { path: PathBuf, source: KeyFileError },
}

/// Reads a key file. One that others can read is used, with a warning that says how to mend it.
///
/// # Errors
/// See [`KeyError`]; none shows what is in the file.
pub fn load(path: &Path) -> Result<ClientKey, KeyError> {
    let unreadable = |source| KeyError::Unreadable { path: path.to_owned(), source };
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        let path = path.display();
        tracing::warn!("{path} has mode {mode:04o}, so others can read a secret key; mend it with: chmod 600 {path}");
    }
    ClientKey::parse(&text).map_err(|source| KeyError::Wrong { path: path.to_owned(), source })
}

/// All connections that this process makes from now on have this key; false if it has one already, which
/// it keeps.
pub fn use_for_process(key: ClientKey) -> bool {
    PROCESS_KEY.set(key).is_ok()
}

/// The key of this process, if it has one.
pub fn of_process() -> Option<&'static ClientKey> {
    PROCESS_KEY.get()
}
