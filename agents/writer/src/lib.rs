//! Writer: takes jobs, and leaves HDF5 files that can be trusted.
//!
//! ```text
//! broker ──job──▶ service ──▶ take: ring reader ──image by image──▶ file (pwrite from the ring's slot)
//!                    │                                               │
//!                    └ journal: which file this process owes an end ─┘ recover, after a kill
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | [`mod@file`] | the file: laid out once, then only plain writes; its ledger; recovery |
//! | `service` | a job from its parameters to its end, as the broker sees it |
//! | `take` | which images belong to the job, and what became of each id |
//! | `calibrations` | what the images of a job were made with |
//! | `pedestal` | the job that takes pedestals from dark images |
//! | `packets` | what the readouts counted while the job ran |
//! | `journal` | the job in hand, on disk, for the next start of this process |
//! | `run` | the process |
//!
//! The reader in the ring is reliable: while a job runs, the ring keeps what the writer has still to
//! read, and what it cannot keep is lost by count, never by silence.

// The tests of `file` share their helpers with `tests/file`, which know the crate by its name.
#[cfg(test)]
extern crate self as ecs_writer;

mod calibrations;
pub mod file;
mod journal;
mod packets;
mod pedestal;
mod run;
mod service;
mod take;

pub use run::{WriterError, run};
