//! Simulated detectors: packets on real UDP sockets, each pixel of which can be recomputed.
//!
//! ```text
//! pattern ─┐                                          one socket per port, batches of up to 15 packets
//! faults  ─┼─▶ eiger ──┐
//! pace    ─┤           ├──▶ sender ──▶ socket ══UDP══▶ the readout of a beamline
//! dump    ─┴─▶ replay ─┘       └──▶ report
//! ```
//!
//! [`eiger`] sends images made by [`pattern`]; [`replay`] sends what a detector once sent. Both are
//! seeded: the same options send, lose, double and delay the same packets, however slow the machine,
//! so that a checker knows what must arrive without asking the sender.
//!
//! ```no_run
//! use ecs_schemas::detector::DetectorConfig;
//! use ecs_sim::eiger::{self, EigerSim};
//! use std::net::Ipv4Addr;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = DetectorConfig::from_json(&std::fs::read_to_string("detector.json")?)?;
//! let sim = EigerSim { drop: 0.01, seed: 7, ..EigerSim::new(config, Ipv4Addr::LOCALHOST, 3) };
//! let report = eiger::run(&sim, &|| false, &mut |_| ())?;
//! assert_eq!(report.packets_sent, report.packets_made - report.packets_dropped);
//! # Ok(())
//! # }
//! ```

pub mod dump;
pub mod eiger;
pub mod error;
pub mod faults;
mod pace;
pub mod pattern;
pub mod replay;
pub mod report;
mod sender;
mod socket;

pub use error::SimError;
pub use report::Report;
