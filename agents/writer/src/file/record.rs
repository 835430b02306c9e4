//! The record of a cut, in a block behind the end of the file (rule C3 of `cut`).
//!
//! ```text
//! | structure, as HDF5 knows it        | block of RECORD_BYTES                                                 |
//!                                      | magic | structure_bytes | payload_bytes | sum | payload | zeros …     |
//!
//! payload  job u64, file id u64, length u32, writer, then for each patch: offset u64, length u32, bytes
//! ```
//!
//! Numbers are little-endian. The block is written at creation without a payload, so that its space is there when
//! the disk is full. HDF5 ignores what lies behind its end; a file that has ended has no such block any more.
//! A record whose sum is wrong was torn while it was written: then no patch was, and it counts as none.

use super::{disk, layout::BLOCK_BYTES, spec::Author};
use std::{fs::File, io, os::unix::fs::FileExt};

/// Room for a patch of a whole block for each of the eleven arrays, and the author: 12 KiB at most, 4 KiB as a rule.
pub(super) const RECORD_BYTES: u64 = 16 * BLOCK_BYTES;

const MAGIC: &[u8; 16] = b"ECS cut record 1";
const HEAD_BYTES: usize = 40;

/// Bytes of the file that the cut changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Patch {
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// A cut that may have begun.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub author: Author,
    pub patches: Vec<Patch>,
}

/// Reserves the block behind the end of the file.
pub(super) fn reserve(file: &File) -> io::Result<()> {
    let end = file.metadata()?.len();
    disk::write(file, &block(end, &[])?, end)
}

/// Bytes of the file without the block.
pub(super) fn structure_bytes(file: &File) -> io::Result<u64> {
    Ok(read_block(file)?.map_or(file.metadata()?.len(), |block| block.structure_bytes))
}

/// Writes the record into its block, with `sync` through to the disk; a block that somebody has cut off is
/// appended again.
///
/// # Errors
/// Of the file system, or the record is larger than its block.
pub(super) fn write(file: &File, author: &Author, patches: &[Patch], sync: bool) -> io::Result<()> {
    let structure_bytes = structure_bytes(file)?;
    let bytes = block(structure_bytes, &encode(author, patches))?;
    let write = if sync { disk::write_through } else { disk::write };
    write(file, &bytes, structure_bytes)
}

/// The record that is there, whole.
///
/// # Errors
/// Of the file system.
pub(super) fn read(file: &File) -> io::Result<Option<Record>> {
    Ok(read_block(file)?.and_then(|block| {
        let record = decode(&block.payload?)?;
        // What a record may change lies in the structure: a sum is no proof against a clever file.
        let inside = |patch: &Patch| {
            patch.offset.checked_add(patch.bytes.len() as u64).is_some_and(|end| end <= block.structure_bytes)
        };
        record.patches.iter().all(inside).then_some(record)
    }))
}

/// Cuts the block off.
pub(super) fn clear(file: &File) -> io::Result<()> {
    match read_block(file)? {
        Some(block) => disk::shorten(file, block.structure_bytes),
        None => Ok(()),
    }
}

struct Block {
    structure_bytes: u64,
    /// None where it is empty or torn.
    payload: Option<Vec<u8>>,
}

fn block(structure_bytes: u64, payload: &[u8]) -> io::Result<Vec<u8>> {
    if HEAD_BYTES + payload.len() > RECORD_BYTES as usize {
        return Err(io::Error::other(format!("a record of {} bytes does not fit into its block", payload.len())));
    }
    let mut bytes = Vec::with_capacity(RECORD_BYTES as usize);
    bytes.extend(MAGIC);
    bytes.extend(structure_bytes.to_le_bytes());
    bytes.extend((payload.len() as u64).to_le_bytes());
    bytes.extend(sum(payload).to_le_bytes());
    bytes.extend(payload);
    bytes.resize(RECORD_BYTES as usize, 0);
    Ok(bytes)
}

/// The file's last bytes, if they are such a block.
fn read_block(file: &File) -> io::Result<Option<Block>> {
    let Some(start) = file.metadata()?.len().checked_sub(RECORD_BYTES) else { return Ok(None) };
    let mut bytes = vec![0; RECORD_BYTES as usize];
    file.read_exact_at(&mut bytes, start)?;
    Ok(parse_block(&bytes).filter(|block| block.structure_bytes == start))
}

fn parse_block(mut bytes: &[u8]) -> Option<Block> {
    let bytes = &mut bytes;
    if take(bytes, MAGIC.len())? != MAGIC {
        return None;
    }
    let (structure_bytes, payload_bytes, expected) = (number(bytes)?, number(bytes)?, number(bytes)?);
    let payload = usize::try_from(payload_bytes).ok().and_then(|length| take(bytes, length));
    let payload = payload.filter(|payload| !payload.is_empty() && sum(payload) == expected);
    Some(Block { structure_bytes, payload: payload.map(<[u8]>::to_vec) })
}

fn encode(author: &Author, patches: &[Patch]) -> Vec<u8> {
    let mut bytes = [author.job, author.file_id].map(u64::to_le_bytes).concat();
    append_counted(&mut bytes, author.writer.as_bytes());
    for patch in patches {
        bytes.extend(patch.offset.to_le_bytes());
        append_counted(&mut bytes, &patch.bytes);
    }
    bytes
}

fn append_counted(bytes: &mut Vec<u8>, content: &[u8]) {
    bytes.extend((content.len() as u32).to_le_bytes());
    bytes.extend(content);
}

fn decode(mut bytes: &[u8]) -> Option<Record> {
    let bytes = &mut bytes;
    let (job, file_id) = (number(bytes)?, number(bytes)?);
    let writer = String::from_utf8(counted(bytes)?.to_vec()).ok()?;
    let mut patches = Vec::new();
    while !bytes.is_empty() {
        patches.push(Patch { offset: number(bytes)?, bytes: counted(bytes)?.to_vec() });
    }
    Some(Record { author: Author { job, writer, file_id }, patches })
}

fn take<'b>(bytes: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes, 8)?.try_into().ok().map(u64::from_le_bytes)
}

fn counted<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = take(bytes, 4)?.try_into().ok().map(u32::from_le_bytes)?;
    take(bytes, length as usize)
}

/// FNV-1a, 64 bit: it is to notice a torn write, not an enemy, who could write the file itself.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRUCTURE_BYTES: u64 = 5000;

    fn author() -> Author {
        Author { job: 7, writer: "x01/writer".to_owned(), file_id: 9 }
    }

    fn patches() -> Vec<Patch> {
        [(4000, 3), (100, 900)].map(|(offset, length)| Patch { offset, bytes: vec![9; length] }).to_vec()
    }

    fn file_with_room() -> File {
        let file = tempfile::tempfile().expect("a temporary file");
        file.set_len(STRUCTURE_BYTES).expect("it grows");
        reserve(&file).expect("it has room");
        file
    }

    fn bytes_of(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().expect("its size").len() as usize];
        file.read_exact_at(&mut bytes, 0).expect("it can be read");
        bytes
    }

    #[test]
    fn record_comes_back_as_it_was_and_goes_with_its_block() {
        let file = file_with_room();
        assert_eq!(read(&file).unwrap(), None);
        assert_eq!(structure_bytes(&file).unwrap(), STRUCTURE_BYTES);
        write(&file, &author(), &patches(), false).unwrap();
        assert_eq!(file.metadata().unwrap().len(), STRUCTURE_BYTES + RECORD_BYTES);
        assert_eq!(read(&file).unwrap(), Some(Record { author: author(), patches: patches() }));
        clear(&file).unwrap();
        clear(&file).unwrap();
        assert_eq!(file.metadata().unwrap().len(), STRUCTURE_BYTES);
        assert_eq!(read(&file).unwrap(), None);
        write(&file, &author(), &patches(), true).unwrap();
        assert_eq!(read(&file).unwrap().map(|record| record.patches), Some(patches()));
    }

    #[test]
    fn record_torn_at_any_byte_counts_as_none_and_keeps_its_block() {
        let file = file_with_room();
        let empty = bytes_of(&file);
        write(&file, &author(), &patches(), false).unwrap();
        let full = bytes_of(&file);
        let last = full.iter().zip(&empty).rposition(|(full, empty)| full != empty).unwrap();
        let first = full.iter().zip(&empty).position(|(full, empty)| full != empty).unwrap();
        for torn_at in first..=last {
            for (begin, end, is_whole) in [(&full, &empty, false), (&empty, &full, torn_at == first)] {
                file.write_all_at(&begin[..torn_at], 0).unwrap();
                file.write_all_at(&end[torn_at..], torn_at as u64).unwrap();
                assert_eq!(read(&file).unwrap().is_some(), is_whole, "torn at {torn_at}");
                assert_eq!(structure_bytes(&file).unwrap(), STRUCTURE_BYTES);
            }
        }
    }

    #[test]
    fn record_that_points_out_of_the_file_or_is_too_large_is_none() {
        let file = file_with_room();
        for offset in [STRUCTURE_BYTES, u64::MAX] {
            write(&file, &author(), &[Patch { offset, bytes: vec![1] }], false).unwrap();
            assert_eq!(read(&file).unwrap(), None);
        }
        let large = Patch { offset: 0, bytes: vec![0; RECORD_BYTES as usize] };
        assert!(write(&file, &author(), &[large], false).is_err());
    }

    #[test]
    fn sum_is_that_of_fnv_1a() {
        // The test vector of the algorithm's authors for "foobar".
        assert_eq!(sum(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
