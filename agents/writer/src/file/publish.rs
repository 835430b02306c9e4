//! Names of a file: the temporary one until an image is in it, then the final one.

use super::spec::Author;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

/// `.<name>.<job>.<file id>.tmp` beside the output, the id in 16 hexadecimal digits.
pub(super) fn temporary_path(output: &Path, author: &Author) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(output.file_name().unwrap_or_default());
    name.push(format!(".{}.{:016x}.tmp", author.job, author.file_id));
    output.with_file_name(name)
}

/// Gives the file its final name. Without `overwrite` a file that has it already stays.
///
/// # Errors
/// `AlreadyExists`, or what the file system says; the temporary name is then still there.
pub(crate) fn publish(temporary: &Path, output: &Path, overwrite: bool) -> io::Result<()> {
    if overwrite {
        return fs::rename(temporary, output);
    }
    match renameat_with(CWD, temporary, CWD, output, RenameFlags::NOREPLACE) {
        // Some file systems, NFS among them, do not know the flag, but all of these have links, which
        // do not replace either. A kill in between leaves both names; recovery removes the first.
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::hard_link(temporary, output)?;
            fs::remove_file(temporary)
        }
        result => Ok(result?),
    }
}
