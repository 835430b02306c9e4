//! Whether a file can be written at all, asked before anything is created.

use super::{columns::Column, error::CreateError, spec::FileSpec};
use ecs_schemas::detector::placement::IMAGE_BYTES_MAX;
use rustix::fs::{Access, access, statvfs};
use std::{fs, io, path::Path};

/// Most images in one file. The rows beside them take about 100 bytes an image and are written once at
/// creation, some seconds with this many. A job that asks for more is refused.
pub const IMAGES_MAX: u64 = 10_000_000;

/// Room for what is neither pixels nor rows: headers, attributes, the ledger, and the user's metadata.
const HEADERS_BYTES: u64 = 1024 * 1024;

/// Checks parameters, folder, name and free space. It changes nothing; [`ImageFile::create`] checks again.
///
/// [`ImageFile::create`]: super::ImageFile::create
///
/// # Errors
/// The first thing that stands in the way.
pub fn check(spec: &FileSpec) -> Result<(), CreateError> {
    check_parameters(spec)?;
    let folder = folder_of(&spec.output)?;
    check_folder(folder)?;
    check_name(&spec.output, spec.overwrite)?;
    check_space(folder, bytes_needed(spec))
}

/// The folder that the output file lies in.
pub(super) fn folder_of(output: &Path) -> Result<&Path, CreateError> {
    match (output.file_name(), output.parent()) {
        (Some(_), Some(folder)) if output.is_absolute() => Ok(folder),
        _ => Err(parameter("output", output.display(), "an absolute path of a file")),
    }
}

/// Bytes that the finished file takes, if every image comes.
pub(super) fn bytes_needed(spec: &FileSpec) -> u64 {
    let row_bytes: usize = Column::ALL.iter().map(|column| column.row_bytes(spec.packets_per_image)).sum();
    spec.images
        .saturating_mul(spec.image_bytes() + row_bytes as u64)
        .saturating_add(HEADERS_BYTES + spec.pixel_mask.len() as u64)
}

fn parameter(what: &str, found: impl ToString, allowed: &str) -> CreateError {
    CreateError::Parameter { what: what.to_owned(), found: found.to_string(), allowed: allowed.to_owned() }
}

fn check_parameters(spec: &FileSpec) -> Result<(), CreateError> {
    if spec.images == 0 || spec.images > IMAGES_MAX {
        return Err(parameter("images", spec.images, &format!("1 to {IMAGES_MAX}")));
    }
    let size = format!("{} x {}", spec.height, spec.width);
    let image_bytes = spec.height.checked_mul(spec.width).and_then(|n| n.checked_mul(spec.pixel.bytes()));
    if image_bytes.is_none_or(|bytes| bytes == 0 || bytes > IMAGE_BYTES_MAX) {
        return Err(parameter("image size", size, &format!("1 to {IMAGE_BYTES_MAX} bytes")));
    }
    if !spec.pixel_mask.is_empty() && spec.pixel_mask.len() != spec.height * spec.width {
        return Err(parameter("pixel mask", format!("{} pixels", spec.pixel_mask.len()), "one for each of the image"));
    }
    if spec.packets_per_image == 0 {
        return Err(parameter("packets per image", 0, "at least 1"));
    }
    super::metadata::check(&spec.metadata)
        .map_err(|wrong| parameter(&format!("metadata {:?}", wrong.key), wrong.found, wrong.allowed))
}

fn check_folder(folder: &Path) -> Result<(), CreateError> {
    let wrong = |source: io::Error| CreateError::Folder { folder: folder.to_owned(), source };
    if !fs::metadata(folder).map_err(wrong)?.is_dir() {
        return Err(wrong(io::ErrorKind::NotADirectory.into()));
    }
    access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(|errno| wrong(errno.into()))
}

fn check_name(output: &Path, overwrite: bool) -> Result<(), CreateError> {
    // A link is looked at itself: replacing it leaves what it points to alone.
    match fs::symlink_metadata(output) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(CreateError::Io { path: output.to_owned(), source }),
        Ok(found) if !found.is_file() && !found.is_symlink() => Err(CreateError::NotAFile { path: output.to_owned() }),
        Ok(_) if !overwrite => Err(CreateError::Exists { path: output.to_owned() }),
        Ok(_) => Ok(()),
    }
}

/// Free space counts as the kernel counts it for a user without privileges, so that the reserve for
/// root is left alone. A file that is to be replaced still takes its room until the first image comes.
fn check_space(folder: &Path, needed_bytes: u64) -> Result<(), CreateError> {
    let free_bytes = free_bytes(folder)?;
    if needed_bytes > free_bytes {
        return Err(CreateError::NoSpace { folder: folder.to_owned(), needed_bytes, free_bytes });
    }
    Ok(())
}

pub(super) fn free_bytes(folder: &Path) -> Result<u64, CreateError> {
    let wrong = |errno: rustix::io::Errno| CreateError::Folder { folder: folder.to_owned(), source: errno.into() };
    let volume = statvfs(folder).map_err(wrong)?;
    Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
}
