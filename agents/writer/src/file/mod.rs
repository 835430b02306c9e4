//! One HDF5 file of images: readable by any HDF5 library at every instant, written at the speed of
//! plain `pwrite`.
//!
//! ```text
//! create   the HDF5 library lays out the whole file, then closes it for good:
//!
//!          | header, groups, attributes | ledger | image_id | … | status | image 0 | … | image n-1 | record |
//!                                                ^ rows of fixed size     ^ one chunk an image    ^ of the cut
//!
//! write    pwrite of the pixels at  data + row * image_bytes              no library call
//!          pwrite of the rows, in batches                                 status last
//! publish  the temporary file takes its final name with the first image
//! finish   fill what is lost, count, write the ledger, cut the tail that never came, write the state
//! ```
//!
//! The file is complete from the start and only bytes of values change in it, so there is no moment at
//! which a kill could tear its structure. What a reader sees of a row is told by the row's status. Only the
//! cut changes the structure; how it survives a kill is told in `cut`.
//!
//! # Rules
//! F1  The HDF5 library is used to create and to inspect, and to compute a cut on a copy; it never writes to a file
//!     that may have an image, nor on the path of one.
//! F2  A row's status is written after its pixels and after its other columns: a row that says
//!     `complete` or `partial` is wholly there.
//! F3  A file has its final name only once an image is in it; until then an older file of that name is
//!     untouched, and what ends before leaves nothing behind.
//! F4  The ledger is counted from the rows in the file, never from memory.
//! F5  `state` is the last value written: if it is not `writing`, everything else is in place.
//! F6  The file keeps superblock version 2, which has no "open for write" flag, and the library takes
//!     no lock: neither a kill inside the library nor a reader with the file open gets in the way.
//! F7  A file is known by its id, which is drawn anew for each. Who recovers one holds the lock of its journal.
//!
//! Why not `H5Dwrite_chunk`? It costs as much as `pwrite`, but it keeps the file open in the library,
//! with metadata in memory that a kill would lose.
//!
//! The format is normative in `schemas/spec/write.md`.

mod check;
mod columns;
mod create;
mod cut;
mod disk;
mod error;
mod finish;
mod image_file;
mod layout;
mod ledger;
mod metadata;
mod publish;
mod record;
mod recover;
mod rows;
mod spec;
mod survey;
mod time;
#[cfg(test)]
mod torn;

pub use check::{IMAGES_MAX, check};
pub use cut::CutError;
pub use error::{CreateError, FinishError, RecoverError, WriteError};
pub use image_file::ImageFile;
pub use recover::{Recovered, recover};
pub use spec::{Author, End, EndState, FileSpec, ImageRow};

// The file of pedestals is made like one of images.
pub(crate) use {create::create_by_descriptor, metadata::text_attribute, publish::publish, time::iso_utc};
