//! Every figure that ECS claims, with its baseline from the same run beside it.
//!
//! A machine is noisy and two machines differ; so nothing here is an absolute claim. Each leg of ours
//! runs next to a leg of its baseline (the bare operation that limits it), in alternating order, and
//! what is reported is the median of each and the median of the ratios of neighbours.
//!
//! | benchmark | ours | baseline |
//! |---|---|---|
//! | [`ring::run`] | images through the ring, in place, and copied in and read out | memcpy of the same bytes |
//! | | a committed image to a reader that spins, or sleeps | a word to a thread that spins, or sleeps |
//! | | hand-off and small images, where peers are wanted | iceoryx2's publish/subscribe ([`peers`]) |
//! | [`broker::run`] | calls and published values through the broker | libzmq's proxies with the same hops |
//! | | the same, where peers are wanted | nats-server and RabbitMQ ([`peers`]) |
//! | | a call while the image path runs at full rate | the same call without it |
//! | | images of that path while calls are made | as many without calls |
//! | [`conversion::run`] | a JUNGFRAU's pixels from the cache to floats in memory | the same bytes through memory; a plain loop |
//! | [`idle::run`] | a broker with agents that do nothing: CPU and memory | the same broker without agents |
//! | [`path::run`] | generator → readout → assembler → reader, as processes | a bare `recvmmsg` loop, same generator |
//! | | filled sockets, drained by the readout on one core | bare loops into the same memory: scattering, copying, peeking |
//! | | the highest rate at which nothing is lost | that of a bare loop |
//! | | images from the ring into an HDF5 file | `write` of the same bytes to the same file system |

mod bare_proxy;
pub mod broker;
pub mod conversion;
mod cores;
mod crowd;
mod detectors;
mod drain;
mod handoff;
pub mod idle;
mod image_path;
mod jobs;
mod live;
mod pairs;
pub mod path;
pub mod peers;
mod receive_floor;
pub mod report;
pub mod ring;
mod rows;
mod running;
mod small_images;
mod write_leg;

pub use pairs::Pairs;
pub use report::{Machine, Report, Row};
