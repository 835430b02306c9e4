//! The ring: detector images in shared memory, from the sockets to every reader of the host, without a
//! copy in between.
//!
//! ```text
//!  contributors (readout)            owner (assembler)                 readers (writer, preview, …)
//!  packets ──▶ their place in   opens a window of images ahead,    reliable: hold what they still need
//!              an OPEN slot      closes, fills, COMMITs in order    lossy: are overtaken, and know it
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | `layout` | the file, byte for byte |
//! | `geometry` | sizes, and their checks |
//! | `owner` | opening, closing, committing, losses, runs, recovery (rules O1 to O5) |
//! | `contributor` | hazard words and marks (rules R1, R3, R4) |
//! | `reader` | delivery in order, holding and being overtaken (rules R2, R5, R6) |
//! | `participant`, `process` | places in the ring, and freeing those of the dead |
//! | `huge` | whether its pixels lie in huge pages |
//! | `mapping` | the file: made, locked, opened, removed (rules M1 to M3) |
//! | `inspect` | a look from outside at any ring, and whether its invariants hold (rules K1 to K10) |
//! | `status` | counters and levels for people and tests |
//!
//! Nobody waits for the dead, and for the living only a bounded time: an owner that dies is replaced,
//! a contributor that hangs costs the slots in its hands, a reliable reader that is slow costs the
//! newest images, a lossy one costs nothing.
//!
//! This crate depends on nothing of ours: not on messages, detectors or ZeroMQ. What a pixel's place
//! is, and what fills a missing one, the caller tells.
//!
//! # Example
//! ```
//! use ecs_shm_buffer::{Contributor, Geometry, Now, Owner, PacketInfo, Reader, Ring, Start, Surroundings};
//! use ecs_shm_buffer::{Assume, ProcessId};
//! use std::time::Duration;
//!
//! let me = ProcessId::current();
//! let geometry = Geometry { slots: 8, window: 4, height: 1, width: 4, pixel_bytes: 2, packets_per_image: 2, fill: 0xffff, placement_hash: 7 };
//! let ring = Ring::on_heap(geometry)?;
//! let mut owner = Owner::take_over(&ring, me, Duration::ZERO, &Assume(true));
//! let mut contributor = Contributor::join(&ring, me, "readout")?;
//! let mut reader = Reader::reliable(&ring, me, "writer", Start::Next)?;
//! let mut fill = |pixels: &mut [u8], packet: usize| pixels[packet * 4..][..4].fill(0xff);
//! let mut step = |owner: &mut Owner| {
//!     owner.step(&mut Surroundings { now: Now::read(), liveness: &Assume(true), fill: &mut fill })
//! };
//!
//! contributor.request_run(17); // the detector's first image has id 17
//! step(&mut owner);
//! for packet in 0..2 {
//!     let access = contributor.protect(&[17]);
//!     let image = access.image(17).expect("it is open");
//!     let pixels = access.pixels(image);
//!     // SAFETY: the access protects the image, and no other contributor has these packets.
//!     unsafe { pixels.add(packet * 4).write_bytes(packet as u8 + 1, 4) };
//!     access.mark(image, packet, PacketInfo::default());
//! }
//! step(&mut owner);
//! let image = reader.try_next().and_then(|delivery| delivery.image).expect("committed");
//! assert_eq!((image.id, reader.pixels(&image)), (17, &[1, 1, 1, 1, 2, 2, 2, 2][..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bitmap;
mod contributor;
mod control;
mod crash;
mod futex;
mod geometry;
mod huge;
pub mod inspect;
mod layout;
pub mod limits;
mod loss;
mod mapping;
#[cfg(feature = "model")]
pub mod model;
mod owner;
mod participant;
mod process;
mod reader;
mod status;
mod sync;

pub use bitmap::Bitmap;
pub use contributor::{Access, Contributor, Lookup, MADE_DIFFERENTLY, Mark, OpenImage, PacketFate, PacketInfo};
pub use control::Ring;
pub use geometry::{Geometry, GeometryError};
pub use huge::HugePages;
pub use loss::{LossCause, LostRange};
pub use mapping::{OwnerLock, PixelAccess, RingError, create_or_take_over, is_current, open, remove_left_over};
pub use owner::{Now, Owner, StepOutcome, Surroundings, is_image_id, monotonic_ns};
pub use participant::{Role, TooManyParticipants};
pub use process::{Assume, Liveness, Proc, ProcessId};
pub use reader::{Delivery, Image, Overtaken, Reader, Start};
pub use status::{PacketCounts, ParticipantStatus, RingStatus};
pub use sync::prefetch;
