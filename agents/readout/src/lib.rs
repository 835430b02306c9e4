//! Readout: detector packets from the kernel straight into their place in the open image.
//!
//! ```text
//! UDP port ─▶ recvmmsg ─▶ header | payload ─scatter─▶ rows of the open image in the ring
//!                              │  as predicted: marked, nothing is copied again
//!                              └▶ another packet than predicted (stray): copied to its own place
//! ```
//!
//! One process receives some ports (all, by default). For each batch it predicts which packets come
//! next on that port and gives the kernel the places of those; what came instead is moved. Where packets
//! come faster than one by one, the kernel hands over many in one message (`UDP_GRO`). A packet may
//! be late, early, doubled, cut, foreign or hostile: each is counted by cause, and none is written
//! outside its own place in its own image. Pixels that are packed (12 and 4 bit), or have a gain, go through a staging
//! buffer that stays in the cache, and are unpacked or converted from there.
//!
//! Nothing here knows which detector it is: `ecs_schemas::detector` describes headers and places.
//!
//! | module | what it does |
//! |---|---|
//! | `run` | attaches to the ring, waits for packets, goes round the ports |
//! | `socket` | the UDP socket: buffer size, `recvmmsg`, the kernel's drop counter |
//! | `batch` | the memory of one batch, and the scatter lists of its messages |
//! | `receive` | one turn of a port: predict, receive, mark, move strays |
//! | `predict` | which packet is expected at each place of a batch |
//! | `take` | what a packet is that was received; marks those that came as expected |
//! | `tally` | what became of packets, counted once a turn |
//! | `senders` | whose packets count |
//! | `runs` | what an id outside the window means: late, early, or a new run |
//! | `laps` | ids that wrap their field of the header |
//! | `overload` | when to give whole images up, so that others stay whole |
//! | `port` | what is known of one port: what comes next, how far it is, what waits |
//! | `decode` | a packet's header, and why it is dropped |
//! | `place`, `unpack` | a payload from staging to its place; packed pixels; masked ones |
//! | [`convert`] | pixels with gains to floats and integers |
//! | `converter`, `watch` | which calibration an image is made with; new ones, while packets come |

mod batch;
pub mod convert;
mod converter;
mod decode;
#[cfg(test)]
mod fuzz;
mod laps;
mod metrics;
mod overload;
mod place;
mod port;
mod predict;
mod receive;
mod run;
mod runs;
#[cfg(test)]
mod scripted;
mod senders;
mod socket;
mod take;
mod tally;
mod unpack;
mod watch;

pub use receive::Receiver;
pub use run::{ReadoutError, run};
pub use socket::{ReceiveBuffer, SocketError};
