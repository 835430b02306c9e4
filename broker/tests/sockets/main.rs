//! The broker as a whole, over real sockets and a real disk, with plain ZeroMQ peers.
//!
//! | module | what |
//! |---|---|
//! | `requests` | answers, silence, strangers and what they send |
//! | `topics` | what is published, and to whom |
//! | `start` | what can keep a broker from starting, and what it finds when it starts again |

mod peers;
mod requests;
mod start;
mod topics;
