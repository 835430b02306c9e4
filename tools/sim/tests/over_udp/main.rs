//! The simulator as a readout sees it: over real sockets on the loopback.
//!
//! | file | what it shows |
//! |---|---|
//! | `pattern_vectors.rs` | pixels are those of the numpy formula |
//! | `detector.rs` | every packet and pixel of every detector, faults to the packet, stop, refusals, bad options |
//! | `replay.rs` | recorded packets come back; repeated, shuffled, doubled; broken dumps |
//! | `record.rs` | what is recorded is what was sent, and plays again |
//! | `receiver.rs` | the receiving side of all of them |

#![allow(clippy::unwrap_used, reason = "what the shared parts of a test do not expect fails it")]

mod detector;
mod pattern_vectors;
mod receiver;
mod record;
mod replay;
