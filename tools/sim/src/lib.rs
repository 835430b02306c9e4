//! Simulated detectors: packets on real UDP sockets, each pixel of which can be recomputed.
//!
//! ```text
//! pattern ─┐                                          one socket per port, batches of up to 15 packets
//! faults  ─┼▶ detector ┐
//! pace    ─┤           ├──▶ sender ──▶ socket ══UDP══▶ the readout of a beamline
//! dump    ─┴─▶ replay ─┘       └──▶ report
//!   ▲
//!   └──── record ◀══UDP══ whatever comes on a detector's ports
//! ```
//!
//! [`detector`] sends images made by [`pattern`], as packets of any detector that can be described; [`replay`] sends what a detector once sent. Both are
//! seeded: the same options send, lose, double and delay the same packets, however slow the machine,
//! so that a checker knows what must arrive without asking the sender.
//!
//! ```no_run
//! use ecs_schemas::detector::DetectorConfig;
//! use ecs_sim::{detector::{self, DetectorSim}, faults::Faults};
//! use std::net::Ipv4Addr;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let eiger = DetectorConfig::from_json(&std::fs::read_to_string("detector.json")?)?.detector()?;
//! let sim = DetectorSim { faults: Faults { drop: 0.01, seed: 7, ..Faults::default() }, ..DetectorSim::new(eiger, Ipv4Addr::LOCALHOST, 3) };
//! let report = detector::run(&sim, &|| false, &mut |_| ())?;
//! assert_eq!(report.packets_sent, report.packets_made - report.packets_dropped);
//! # Ok(())
//! # }
//! ```

pub mod detector;
pub mod dump;
pub mod error;
pub mod faults;
pub mod gains;
mod pace;
pub mod pattern;
pub mod record;
pub mod replay;
pub mod report;
mod sender;
mod socket;

pub use error::SimError;
pub use report::Report;
