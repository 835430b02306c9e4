//! Cutting a file to the images that came, so that no kill can tear it.
//!
//! ```text
//! plan     copy of the structure in memory ──HDF5 cuts the copy──▶ what differs: patches, one for each header
//! record   the patches, with their sum, into the block behind the file's end, reserved since creation
//! apply    each patch, by one write within one page                        ◀── a kill here: recovery applies again
//! clear    the block is cut off, and the record with it
//! ```
//!
//! # Rules
//! C1  The library never writes to the file itself: in which order, and in how many writes, it puts its headers on the
//!     disk is its own affair. It did tear one: two headers in one write across a page boundary, killed in between.
//! C2  A patch lies within one block of [`BLOCK_BYTES`], since every object of the file begins at a block and
//!     headers are smaller (`create`). Pages are whole blocks, and the kernel does not stop for a kill within a page:
//!     the file opens at every instant, also before anybody has recovered it.
//! C3  No patch is written before the record is, and the record goes only when all patches are there. So recovery
//!     needs nothing of the torn file but its last bytes, whatever became of the headers: a disk that lost its
//!     power within a sector is mended too, if the file was to be synced.
//! C4  Patches say what is to be there, not what is to change: to apply them twice is to apply them once.
//! C5  The images' header comes before those of the rows, as it lies behind them: after a kill in between there
//!     are rows without an image, never images without a row.
//!
//! Why a record behind the end, and not a file beside it? On a full disk there is no room for another file, and
//! a job that ends because its disk is full is just the one that is cut.

use super::{
    disk,
    layout::{BLOCK_BYTES, Layout, shorten_arrays},
    record::{self, Patch},
    spec::Author,
};
use std::{
    fs::{self, File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::PathBuf,
};

/// Where the copy of a structure lies while it is cut: in memory, so that a full disk is not in the way.
const MEMORY: &str = "/dev/shm";

/// Why a file was not cut. It opens, and its record, if it has one, is applied by the next recovery.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The library refused, or wrote something that this module does not expect.
    #[error("{0}")]
    Library(String),
}

/// Cuts the arrays to their first `rows` of `asked` rows. With `sync`, also a loss of power is survived.
///
/// # Errors
/// See [`CutError`].
pub(super) fn cut(
    file: &File,
    layout: &Layout,
    asked: u64,
    rows: u64,
    author: &Author,
    sync: bool,
) -> Result<(), CutError> {
    let patches = plan(file, layout, asked, rows)?;
    record::write(file, author, &patches, sync)?;
    Ok(apply(file, &patches, sync)?)
}

/// Applies the patches of a record that is in the file, now or after a kill, and clears it (rules C3 to C5).
///
/// # Errors
/// Of the file system. Nothing is lost: it can be done again.
pub(super) fn apply(file: &File, patches: &[Patch], sync: bool) -> io::Result<()> {
    let write = if sync { disk::write_through } else { disk::write };
    patches.iter().rev().try_for_each(|patch| write(file, &patch.bytes, patch.offset))?;
    record::clear(file)
}

/// What the library would write to cut the file, block by block, from the lowest offset on.
fn plan(file: &File, layout: &Layout, asked: u64, rows: u64) -> Result<Vec<Patch>, CutError> {
    let end = record::structure_bytes(file)?;
    let parts = between(layout.arrays(asked), end);
    let before = parts.iter().map(|part| read(file, part)).collect::<io::Result<Vec<_>>>()?;
    let Scratch { file: copy, .. } = &Scratch::new(file)?;
    copy.set_len(end)?;
    for (part, bytes) in parts.iter().zip(&before) {
        copy.write_all_at(bytes, part.start)?;
    }
    shorten_arrays(copy, layout, rows).map_err(CutError::Library)?;
    let bytes = copy.metadata()?.len();
    if bytes != end {
        return Err(CutError::Library(format!("HDF5 made a file of {bytes} bytes of one of {end}")));
    }
    let mut patches = Vec::new();
    for (part, before) in parts.iter().zip(&before) {
        patches.extend(differences(part.start, before, &read(copy, part)?));
    }
    Ok(patches)
}

/// A file in memory, gone with this value. It has a name, as the library opens none without; that is made of
/// the file's that is cut, so that the cut after a kill finds what the one before has left.
struct Scratch {
    file: File,
    path: PathBuf,
}

impl Scratch {
    fn new(of: &File) -> io::Result<Self> {
        let of = of.metadata()?;
        let path = PathBuf::from(format!("{MEMORY}/ecs-cut.{}.{}", of.dev(), of.ino()));
        let wrong = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrong(error)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Ok(Self { file: options.open(&path).map_err(wrong)?, path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // One that cannot be removed is some KiB, until the next boot.
        let _ = fs::remove_file(&self.path);
    }
}

/// What is not in the arrays, up to `end`. Arrays may touch, and none overlaps another.
fn between(mut arrays: Vec<Range<u64>>, end: u64) -> Vec<Range<u64>> {
    arrays.sort_by_key(|array| array.start);
    let starts = std::iter::once(0).chain(arrays.iter().map(|array| array.end));
    let ends = arrays.iter().map(|array| array.start).chain(std::iter::once(end));
    starts.zip(ends).map(|(start, stop)| start..stop.min(end)).filter(|part| !part.is_empty()).collect()
}

fn read(file: &File, part: &Range<u64>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (part.end - part.start) as usize];
    file.read_exact_at(&mut bytes, part.start)?;
    Ok(bytes)
}

/// One patch for each block in which something differs, from the first byte that does to the last (rule C2).
fn differences(start: u64, before: &[u8], after: &[u8]) -> Vec<Patch> {
    let mut patches = Vec::new();
    let mut begin = 0;
    while begin < before.len() {
        let block_end = (start + begin as u64 + 1).next_multiple_of(BLOCK_BYTES);
        let end = before.len().min((block_end - start) as usize);
        let differs = |&index: &usize| before[index] != after[index];
        if let (Some(first), Some(last)) = ((begin..end).find(differs), (begin..end).rfind(differs)) {
            patches.push(Patch { offset: start + first as u64, bytes: after[first..=last].to_vec() });
        }
        begin = end;
    }
    patches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_arrays_is_all_that_is_in_none_of_them() {
        assert_eq!(between(vec![50..60, 10..20, 60..70], 100), [0..10, 20..50, 70..100]);
        assert_eq!(between(vec![0..10, 20..30, 90..100], 100), [10..20, 30..90]);
        // Arrays of a damaged file, beyond its end.
        assert_eq!(between(vec![10..20, 30..200, 300..400], 100), [0..10, 20..30]);
        assert_eq!(between(vec![], 0), []);
    }

    #[test]
    fn differences_stay_within_their_block() {
        let block = BLOCK_BYTES as usize;
        let before = vec![0; 3 * block];
        let mut after = before.clone();
        // The part begins 10 bytes before a block: these bytes are a block's end.
        for index in [2, 9, 10, 14, 10 + 2 * block, 3 * block - 1] {
            after[index] = 1;
        }
        let found = differences(BLOCK_BYTES - 10, &before, &after);
        let places: Vec<_> = found.iter().map(|patch| (patch.offset, patch.bytes.len())).collect();
        let last = 3 * BLOCK_BYTES;
        assert_eq!(places, [(BLOCK_BYTES - 8, 8), (BLOCK_BYTES, 5), (last, block - 10)]);
        assert_eq!(found[1].bytes, [1, 0, 0, 0, 1]);
    }
}
