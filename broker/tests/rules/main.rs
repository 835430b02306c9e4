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
//! | `subsystems` | who hosts what: S1 to S3, D1 to D4 |
//! | `items` | values: K1 to K4, compare-and-set, questions and their answers |
//! | `watches` | who is told of values: W1 to W5 |
//! | `events`, `calls` | asking handlers: X1 to X5, E1 to E3 |
//! | `alarms`, `traces` | A1, A2; T1 to T3 |
//! | `messages` | what is no message, and every limit that a sender can reach |
//! | `chaos` | jobs under lost, late and doubled messages, dying agents and brokers, by seed |
//! | `simulation` | everything at random at once, thousands of seeds, and what must hold at every instant |

#![allow(clippy::unwrap_used)] // a test ends at the first thing that is not as it should be

mod access;
mod alarms;
mod calls;
mod chaos;
#[path = "../../../tests/common/disk.rs"]
mod disk;
mod events;
mod follow_ups;
mod items;
mod jobs;
mod messages;
mod queries;
mod queue;
#[path = "../../../tests/common/random.rs"]
mod random;
mod registry;
mod repeats;
#[path = "../../../tests/common/seeds.rs"]
mod seeds;
mod simulation;
mod storage;
mod subsystems;
mod traces;
mod watches;
mod world;
