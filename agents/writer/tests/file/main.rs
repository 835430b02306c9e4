//! The file module, on real files, read back by h5py in another process.
//!
//! | module | what it shows |
//! |---|---|
//! | [`contents`] | images, partial images and losses come back as they went in, at every size and type |
//! | [`refused`] | what cannot be written is refused, and what is there already stays |
//! | [`live`] | a reader opens the file while it is written, and is not in the way of its end |
//! | [`killed`] | `kill -9` at random points: the file opens, nothing wrong is called good, recovery completes it |
//! | [`full_disk`] | reserved space stays usable, and a refused write leaves a file that can be finished |
//! | [`metadata`] | every type of metadata, as Python sees it |

// The lint's exception for tests covers functions marked as such, not the helpers beside them.
#![allow(clippy::unwrap_used)]

mod contents;
mod full_disk;
mod killed;
mod live;
mod metadata;
mod refused;
mod support;
