//! The broker's rules, over its sans-io core: no socket, no disk, and time as the test wants it.
//!
//! | module | rules |
//! |---|---|
//! | `registry` | who is there: R1 to R4 |
//! | `jobs` | a job's life: J1 to J4, queue, cancel, loss, restart |
//! | `storage` | what holds when the disk fails |
//! | `messages` | what is no message, and every limit that a sender can reach |
//! | `chaos` | lost, late and doubled messages, dying agents and brokers, by seed |

#![allow(clippy::unwrap_used)] // a test ends at the first thing that is not as it should be

mod alarms;
mod chaos;
mod jobs;
mod messages;
mod registry;
mod storage;
mod subsystems;
mod world;
