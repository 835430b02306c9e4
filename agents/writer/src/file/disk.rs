//! The changes that a file sees once an image may be in it: each goes through here.
//!
//! A kill can come between two of them, and within a write between two pages of the kernel's. That is all: the HDF5
//! library is no longer at the file then (rule F1). A test therefore keeps a list of them, makes every file that
//! a kill could leave, and recovers each (`torn.rs`).

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::{Errno, ReadWriteFlags, pwritev2},
};
use std::{
    fs::File,
    io::{self, IoSlice},
    ops::Range,
    os::unix::fs::FileExt,
};

/// Writes `bytes` at `offset`.
pub(super) fn write(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(test)]
    log::add(|| log::Change::Write { offset, bytes: bytes.to_vec() });
    file.write_all_at(bytes, offset)
}

/// As [`write`], and returns once these bytes are on the disk: these alone, where a sync of the file would wait for
/// all of its images.
pub(super) fn write_through(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(test)]
    log::add(|| log::Change::Write { offset, bytes: bytes.to_vec() });
    match pwritev2(file, &[IoSlice::new(bytes)], offset, ReadWriteFlags::DSYNC) {
        Ok(written) if written == bytes.len() => Ok(()),
        // A file system without such writes, or a part of one.
        Ok(_) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => {
            file.write_all_at(bytes, offset)?;
            file.sync_data()
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Cuts off what lies behind `bytes`.
pub(super) fn shorten(file: &File, bytes: u64) -> io::Result<()> {
    #[cfg(test)]
    log::add(|| log::Change::Shorten { bytes });
    file.set_len(bytes)
}

/// Gives the space of a range back, which reads as zeros then. Where the file system has no holes, none was
/// reserved either, and the range keeps what it holds.
pub(super) fn give_back(file: &File, range: Range<u64>) {
    #[cfg(test)]
    log::add(|| log::Change::GiveBack { range: range.clone() });
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let _ = fallocate(file, hole, range.start, range.end.saturating_sub(range.start));
}

/// The changes that this thread made since the test asked for them.
#[cfg(test)]
pub(super) mod log {
    use std::{cell::RefCell, ops::Range};

    #[derive(Debug, Clone)]
    pub enum Change {
        Write { offset: u64, bytes: Vec<u8> },
        Shorten { bytes: u64 },
        GiveBack { range: Range<u64> },
    }

    thread_local! {
        static CHANGES: RefCell<Option<Vec<Change>>> = const { RefCell::new(None) };
    }

    pub(in crate::file) fn add(change: impl FnOnce() -> Change) {
        CHANGES.with_borrow_mut(|changes| changes.as_mut().map(|changes| changes.push(change())));
    }

    /// What `work` changes, in order.
    pub fn of(work: impl FnOnce()) -> Vec<Change> {
        CHANGES.set(Some(Vec::new()));
        work();
        CHANGES.take().expect("the log was begun above")
    }
}
