//! The simulator as a readout sees it: over real sockets on the loopback.
//!
//! | file | what it shows |
//! |---|---|
//! | `pattern_vectors.rs` | pixels are those of the numpy formula |
//! | `eiger.rs` | every packet and pixel, faults to the packet, stop, refusals, bad options |
//! | `replay.rs` | recorded packets come back; repeated, shuffled, doubled; broken dumps |
//! | `receiver.rs` | the receiving side of all of them |

#![allow(clippy::unwrap_used, reason = "what the shared parts of a test do not expect fails it")]

mod eiger;
mod pattern_vectors;
mod receiver;
mod replay;
