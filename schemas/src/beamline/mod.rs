//! A beamline: everything that its processes must agree on, from one TOML file.
//!
//! `spec/beamline.md` has the table of keys. Every key but `beamline.name` and the detector has a
//! default, so two sections are a whole file:
//!
//! ```toml
//! [beamline]
//! name = "x01"
//! [detector]
//! config = "detector.json"      # relative to this file
//! ```
//!
//! [`Beamline::parse`] reads it. It reports every error at once, each with its line, its key, what was
//! found and what is allowed.

mod conversion;
mod detector_section;
mod error;
mod keys;
mod parse;
mod section;
mod sender;
#[cfg(test)]
mod tests;
mod units;

pub use conversion::{ConversionConfig, Convert, PixelUnit};
pub use error::{BeamlineError, BeamlineErrors, Problem};
pub use sender::{AllowedSender, SENDERS_MAX};
pub use units::{bytes_text, duration_text};

use crate::detector::Detector;
use std::{path::PathBuf, time::Duration};

/// A beamline's configuration, complete and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Beamline {
    /// First part of every name: letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Output paths of jobs are relative to this folder. Default: the folder of the TOML file.
    pub data_folder: PathBuf,
    /// What the broker and the writer must remember over a restart. Default: `.ecs/<name>` beside the
    /// TOML file. Made when it is missing.
    pub state_folder: PathBuf,
    /// Cores that every process stays on but readouts and an assembler with cores of their own; empty: the scheduler chooses.
    pub cores: Vec<u32>,
    /// Whether threads that messages pass take real-time priority while no core is idle. Default false.
    pub realtime: bool,
    pub broker: BrokerConfig,
    /// Its placement is that of converted pixels, where they are.
    pub detector: Detector,
    pub conversion: ConversionConfig,
    pub ring: RingConfig,
    pub readout: ReadoutConfig,
    pub assembler: AssemblerConfig,
    pub writer: WriterConfig,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerConfig {
    /// ZeroMQ endpoint of requests (ROUTER). Default `tcp://127.0.0.1:7750`.
    pub request_endpoint: String,
    /// ZeroMQ endpoint of topics (PUB). Default `tcp://127.0.0.1:7751`.
    pub publish_endpoint: String,
    /// How often an agent shows that it lives. Default 1 s.
    pub heartbeat: Duration,
    /// Silence after which it is gone. Default 3 s; at least twice the heartbeat.
    pub timeout: Duration,
    /// The key folder. Default: see [`Beamline::key_folder`], used where it is there.
    pub keys: Option<PathBuf>,
    /// The key file with which processes of this file connect. Default: none.
    pub key: Option<PathBuf>,
    /// Whether the broker may listen to other machines without keys. Default false.
    pub insecure: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingConfig {
    /// The file. Default `/dev/shm/ecs-<name>.ring`.
    pub path: PathBuf,
    /// Bytes of pixels. Default 1 GiB, never fewer than 8 images.
    pub size_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadoutConfig {
    /// Processes, each with an equal share of the modules. Default 1.
    pub processes: u32,
    /// IPv4 address that the ports are bound to. Default `0.0.0.0`.
    pub address: std::net::Ipv4Addr,
    /// Receive buffer asked of the kernel for each port. Default 64 MiB.
    pub receive_buffer_bytes: u64,
    /// Senders whose packets count; all others' are counted and thrown away. Default: none named, everybody counts.
    pub senders: Vec<AllowedSender>,
    /// Whether the kernel may hand over many packets in one message. Default true. Without it, its count of dropped
    /// packets is exact, and receiving costs more than twice as much.
    pub coalesce: bool,
    /// Cores that the processes stay on, one after the other and around. Default: none named, the scheduler chooses.
    pub cores: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssemblerConfig {
    /// How long after its first packet an image may stay open. Default 200 ms.
    pub deadline: Duration,
    /// Bits of a pixel whose packet is missing, or that is masked. Default: [`PixelType::missing`].
    ///
    /// [`PixelType::missing`]: crate::detector::PixelType::missing
    pub fill: u32,
    /// Images that may be open at the same time. Default 32, at most 64 and half the ring's slots.
    pub open_images: u32,
    /// The core that it stays on. Default: the scheduler chooses.
    pub core: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterConfig {
    /// Processes; each does one job at a time. Default 1.
    pub processes: u32,
    /// A job fails when no image came for this long. Default 30 s.
    pub image_timeout: Duration,
    /// Whether a job ends only when its bytes are on the disk (fdatasync). Default true.
    pub sync: bool,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            request_endpoint: "tcp://127.0.0.1:7750".to_owned(),
            publish_endpoint: "tcp://127.0.0.1:7751".to_owned(),
            heartbeat: Duration::from_secs(1),
            timeout: Duration::from_secs(3),
            keys: None,
            key: None,
            insecure: false,
        }
    }
}

/// Name and kind of an agent that a beamline runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSlot {
    /// Full name, for example `x01/readout` or, where there are several, `x01/readout-1`.
    pub name: String,
    /// `assembler`, `readout` or `writer`.
    pub kind: &'static str,
    /// Which one of its kind, from 0.
    pub index: u32,
}

impl Beamline {
    /// The agents that this beamline runs, in the order in which they start.
    pub fn agents(&self) -> Vec<AgentSlot> {
        let kinds = [("assembler", 1), ("readout", self.readout.processes), ("writer", self.writer.processes)];
        kinds
            .into_iter()
            .flat_map(|(kind, count)| (0..count).map(move |index| self.agent(kind, index, count)))
            .collect()
    }

    fn agent(&self, kind: &'static str, index: u32, count: u32) -> AgentSlot {
        let suffix = if count > 1 { format!("-{index}") } else { String::new() };
        AgentSlot { name: format!("{}/{kind}{suffix}", self.name), kind, index }
    }

    /// Where the broker's keys are, or would be: `broker.keys`, else beside the state folder, with `-keys`
    /// behind its name.
    pub fn key_folder(&self) -> PathBuf {
        let beside = || {
            let mut name = self.state_folder.file_name().unwrap_or_default().to_owned();
            name.push("-keys");
            self.state_folder.with_file_name(name)
        };
        self.broker.keys.clone().unwrap_or_else(beside)
    }

    /// The modules of the readout process `index`. All ports of a module are one process's: no two write into the
    /// same pixels.
    pub fn readout_modules(&self, index: u32) -> std::ops::Range<usize> {
        let (modules, processes) = (self.detector.placement.modules, self.readout.processes as usize);
        let first = |index: usize| index * modules / processes;
        first(index as usize)..first(index as usize + 1)
    }
}
