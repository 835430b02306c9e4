//! Why a file could not be created, written, ended or recovered: one enum each, and its form on the wire.

use super::cut::CutError;
use ecs_schemas::error_code::{ErrorCode, Failure};
use std::{io, path::PathBuf};

/// Why a file was not created. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A value of the [`FileSpec`](super::FileSpec) is out of its range.
    #[error("{what} = {found}; allowed: {allowed}")]
    Parameter { what: String, found: String, allowed: String },
    /// The folder is missing, is not a folder, or the writer's user may not write there.
    #[error("cannot write to folder {}: {source}", folder.display())]
    Folder { folder: PathBuf, source: io::Error },
    /// The path names a folder, a device or the like, which must not be replaced.
    #[error("{} is there and is not a file", path.display())]
    NotAFile { path: PathBuf },
    /// The file is there and is not to be replaced.
    #[error("{} exists", path.display())]
    Exists { path: PathBuf },
    #[error("{needed_bytes} bytes do not fit into {}, which has {free_bytes} bytes free", folder.display())]
    NoSpace { folder: PathBuf, needed_bytes: u64, free_bytes: u64 },
    #[error("cannot create {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The HDF5 library refused, or laid out the file in another way than this module relies on.
    #[error("cannot lay out {} as HDF5: {reason}", path.display())]
    Layout { path: PathBuf, reason: String },
}

/// Why an image was not written. The file is valid without it and can be finished.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The ids asked for do not fit into 64 bits.
    #[error("{images} image ids from {first_id} on do not fit into 64 bits")]
    IdRange { first_id: u64, images: u64 },
    /// The pixels of an image; its row stays pending.
    #[error("cannot write image {image_id} to {}: {source}", path.display())]
    Pixels { path: PathBuf, image_id: u64, source: io::Error },
    /// Rows of the arrays beside the images; they are kept and written again with the next ones.
    #[error("cannot write to {}: {source}", path.display())]
    Rows { path: PathBuf, source: io::Error },
    /// Another file took the final name since the job began, and it is not to be replaced.
    #[error("{} exists; it was created since the job began", path.display())]
    Exists { path: PathBuf },
    #[error("cannot give the file its name {}: {source}", path.display())]
    Publish { path: PathBuf, source: io::Error },
}

/// Why a file could not be ended. It opens, its state is `writing`, and [`recover`](super::recover()) can
/// end it later.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    #[error("cannot read or write {what} of {}: {source}", path.display())]
    Io { path: PathBuf, what: &'static str, source: io::Error },
    #[error("cannot cut {} to {images} images: {source}", path.display())]
    Cut { path: PathBuf, images: u64, source: CutError },
}

/// Why a file that a writer left behind could not be recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("cannot open {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// It is not a file of this module, or it is damaged.
    #[error("{} is not a file of this writer: {reason}", path.display())]
    Layout { path: PathBuf, reason: String },
    #[error(transparent)]
    Finish(#[from] FinishError),
}

/// The stable code of a system error on an output file.
fn code_of(source: &io::Error) -> ErrorCode {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorCode::DiskFull,
        _ => ErrorCode::Output,
    }
}

const HINT_EXISTS: &str = "pass --overwrite or choose another name";
const HINT_SPACE: &str = "free some space, ask for fewer images or choose another disk";
const HINT_FOLDER: &str = "create the folder, or let the writer's user write there";

fn failure_of_io(source: &io::Error, message: String) -> Failure {
    let failure = Failure::new(code_of(source), message);
    if failure.code == ErrorCode::DiskFull { failure.with_hint(HINT_SPACE) } else { failure }
}

impl From<&CreateError> for Failure {
    fn from(error: &CreateError) -> Self {
        let message = error.to_string();
        match error {
            CreateError::Parameter { .. } => Self::new(ErrorCode::BadParameter, message),
            CreateError::Folder { .. } => Self::new(ErrorCode::Output, message).with_hint(HINT_FOLDER),
            CreateError::NotAFile { .. } => Self::new(ErrorCode::Output, message).with_hint("choose another name"),
            CreateError::Exists { .. } => Self::new(ErrorCode::OutputExists, message).with_hint(HINT_EXISTS),
            CreateError::NoSpace { .. } => Self::new(ErrorCode::DiskFull, message).with_hint(HINT_SPACE),
            CreateError::Io { source, .. } => failure_of_io(source, message),
            CreateError::Layout { .. } => Self::new(ErrorCode::Output, message),
        }
    }
}

impl From<&WriteError> for Failure {
    fn from(error: &WriteError) -> Self {
        let message = error.to_string();
        match error {
            WriteError::IdRange { .. } => Self::new(ErrorCode::BadParameter, message),
            WriteError::Exists { .. } => Self::new(ErrorCode::OutputExists, message).with_hint(HINT_EXISTS),
            WriteError::Pixels { source, .. }
            | WriteError::Rows { source, .. }
            | WriteError::Publish { source, .. } => failure_of_io(source, message),
        }
    }
}

impl From<&FinishError> for Failure {
    fn from(error: &FinishError) -> Self {
        match error {
            FinishError::Io { source, .. } => failure_of_io(source, error.to_string()),
            FinishError::Cut { source: CutError::Io(source), .. } => failure_of_io(source, error.to_string()),
            FinishError::Cut { .. } => Self::new(ErrorCode::Output, error.to_string()),
        }
    }
}

impl From<&RecoverError> for Failure {
    fn from(error: &RecoverError) -> Self {
        match error {
            RecoverError::Io { source, .. } => failure_of_io(source, error.to_string()),
            RecoverError::Layout { .. } => Self::new(ErrorCode::Output, error.to_string()),
            RecoverError::Finish(error) => Self::from(error),
        }
    }
}
