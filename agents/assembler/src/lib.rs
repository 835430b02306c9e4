//! Assembler: the owner of the ring. It opens and closes images, fills what is missing, counts every
//! loss and commits in order. It never copies pixels.
//!
//! The protocol is `ecs-shm-buffer`'s ([`ecs_shm_buffer::Owner`]); what is added here is the detector's
//! geometry, the fill value, the loop and its telemetry.
//!
//! | module | what it does |
//! |---|---|
//! | `run` | makes or takes over the ring, steps and sleeps until stopped, removes the ring |
//! | `fill` | writes the fill value into a missing packet's place |
//! | `metrics` | images, losses by cause and the ring's level, as telemetry |

mod fill;
mod metrics;
mod run;

pub use run::{AssemblerError, geometry, run};
