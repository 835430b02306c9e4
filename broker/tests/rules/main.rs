//! The broker's rules, over its sans-io core: no socket, no disk, and time as the test wants it.
//!
//! | module | rules |
//! |---|---|
//! | `registry` | who is there: R1 to R4 |
//! | `access` | who may do what: A1 to A4, G4 |
//! | `jobs` | a job's life: J1 to J4, cancel, loss, restart |
//! | `repeats` | jobs that may be repeated when they are lost: J5 |
//! | `queue` | who gets the next job; priority, hold, release, move: J6 |
//! | `follow_ups` | what follows a job, and what became of all: J7 |
//! | `queries` | lists by state, service, time and text, page by page |
//! | `storage` | what holds when the disk fails |
//! | `messages` | what is no message, and every limit that a sender can reach |
//! | `chaos` | lost, late and doubled messages, dying agents and brokers, by seed |

#![allow(clippy::unwrap_used)] // a test ends at the first thing that is not as it should be

mod access;
mod chaos;
mod follow_ups;
mod jobs;
mod messages;
mod queries;
mod queue;
mod registry;
mod repeats;
mod storage;
mod world;
