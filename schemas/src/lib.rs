//! The contract of ECS: what goes over the wire, what a detector's packets look like, and what a
//! beamline's configuration may say.
//!
//! Everything here is a plain value with a documented form. Nothing here opens a socket, a file or a
//! clock, so that the same definitions serve the broker's core under simulation, the agents, the tools
//! and the tests. The normative text, with tables that another language can be written from, is in
//! `schemas/spec/`; the golden vectors in `schemas/vectors/` pin the bytes.
//!
//! | module | what it defines | spec |
//! |---|---|---|
//! | [`envelope`] | the two parts of every message, and how they are decoded safely | `spec/envelope.md` |
//! | [`bundle`] | several small messages in one part | `spec/envelope.md` |
//! | [`raw`] | reading and writing without a tree, where speed matters | `spec/envelope.md` |
//! | [`error_code`] | the stable codes of refusals and failures | `spec/envelope.md` |
//! | [`registry`] | agents, heartbeats, status | `spec/registry.md` |
//! | [`subsystem`] | what there is and what it can do | `spec/registry.md` |
//! | [`kv`] | named values: get, set, publish, watch | `spec/kv.md` |
//! | [`exchange`], `call_body` | events and calls | `spec/exchange.md` |
//! | [`alarm`] | conditions that people must know | `spec/alarm.md` |
//! | [`trace`] | which message led to which | `spec/trace.md` |
//! | [`value_type`] | types, units and ranges of values | `spec/kv.md` |
//! | [`value`] | the self-describing value of job parameters, results and telemetry | `spec/kv.md` |
//! | [`telemetry`] | what agents publish, and the PUB header | `spec/telemetry.md` |
//! | [`job`] | a job and its life, its queue, and what follows it | `spec/job.md` |
//! | [`write_job`] | parameters and ledger of the writer's job | `spec/write.md` |
//! | [`pedestal_job`] | parameters and result of the job that takes pedestals | `spec/pedestal.md` |
//! | [`nearest`] | which name somebody may have meant | |
//! | [`image`] | status of an image and why one is lost | `spec/image.md` |
//! | [`detector`] | detector geometry: which packet lands where | `spec/image.md` |
//! | [`keys`] | keys, roles, and the files that hold them | `spec/security.md` |
//! | [`beamline`] | the TOML file that describes a beamline | `spec/beamline.md` |

pub mod alarm;
pub mod beamline;
pub mod bundle;
mod call_body;
pub mod detector;
pub mod envelope;
pub mod error_code;
pub mod exchange;
pub mod image;
pub mod job;
pub mod keys;
pub mod kv;
pub mod nearest;
#[cfg(test)]
mod noise;
pub mod packets;
pub mod pedestal_job;
pub mod raw;
pub mod registry;
pub mod subsystem;
pub mod telemetry;
pub mod trace;
pub mod value;
pub mod value_type;
pub mod write_job;

/// Version of ECS, as `ecs-cli --version` prints it and as agents report it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
