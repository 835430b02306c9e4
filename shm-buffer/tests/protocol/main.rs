//! The protocol, one scripted case at a time: clock, liveness and every step are the script's.
//!
//! | module | what is in it |
//! |---|---|
//! | `opening` | windows, slots reused many times over, ids and sequence numbers at their ends |
//! | `closing` | deadlines, silent ports, contributors that are inside while an image closes |
//! | `packets` | late, early, doubled, refused packets, and uses that only a bug can make |
//! | `losses` | full rings and gaps: what is lost, why, and that readers are told once |
//! | `readers` | starting, holding, being overtaken, waiting |
//! | `runs` | new runs, the same ids again, ids that jump |
//! | `deaths` | contributors, readers and owners that are gone at any moment |

#[path = "../common/mod.rs"]
mod common;

mod closing;
mod deaths;
mod losses;
mod opening;
mod packets;
mod readers;
mod runs;
