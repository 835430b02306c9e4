//! Agents and tools against a real broker, over real sockets.
//!
//! | module | what |
//! |---|---|
//! | `connection` | registering, losing and finding the broker, leaving |
//! | `hosting` | subsystems: values, events, calls, alarms, traces |
//! | `jobs` | services: ends, kills, panics, restarts of the broker |
//! | `questions` | what a broker asks that loses its words, or is another one |
//! | `tools` | clients and subscribers |
//! | `security` | keys: who is not let in is told why |
//! | `signals` | the wish to stop |

#![allow(clippy::unwrap_used)] // a test ends at the first thing that is not as it should be

mod connection;
mod hosting;
mod jobs;
mod questions;
mod security;
mod setup;
mod signals;
mod tools;
