//! The broker as a whole, over real sockets and a real disk, with plain ZeroMQ peers.
//!
//! | module | what |
//! |---|---|
//! | `bundles` | several messages in one part |
//! | `requests` | answers, silence, strangers and what they send |
//! | `topics` | what is published, and to whom |
//! | `start` | what can keep a broker from starting, and what it finds when it starts again |
//! | `security` | keys: who is let in, for what, for how long |

#![allow(clippy::unwrap_used)] // a test ends at the first thing that is not as it should be

mod bundles;
mod peers;
mod requests;
mod security;
mod start;
mod topics;
