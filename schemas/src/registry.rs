//! Who is there: agents register, show that they live, and are listed.
//!
//! # Rules
//! R1  A name has one live holder; a second one is refused and told who holds it.
//! R2  An agent that was not heard for `timeout_ms` is gone, whatever its TCP connection says: a
//!     stopped process (SIGSTOP) is noticed as well as a dead one.
//! R3  Any message from a registered agent counts as a sign of life.
//! R4  `not_registered` in answer to a heartbeat means: register again (the broker came back, or took
//!     the agent for gone).

use crate::{
    envelope::Request,
    job::{Ack, JobId},
    subsystem::{Described, Description},
    value::Value,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How an agent is, by its own word or, for `gone` and `missing`, by the broker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// Connected, not yet able to do its work.
    Starting,
    Ready,
    /// It was registered and is not heard any more, or it took its leave.
    Gone,
    /// The beamline's configuration has it, and it never registered.
    Missing,
}

impl AgentState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Gone => "gone",
            Self::Missing => "missing",
        }
    }
}

/// A service as an agent offers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOffer {
    /// What jobs ask for, for example `write`.
    pub name: String,
    /// Jobs of this service that this agent takes at the same time.
    #[serde(default = "one")]
    pub jobs_at_once: u32,
    /// The service after whose jobs this one is to be done, each time (rule J7 of `job`).
    #[serde(default)]
    pub follows: Option<String>,
    /// What it does and what parameters it takes, for a person.
    #[serde(default)]
    pub help: String,
}

impl ServiceOffer {
    /// A service that takes one job at a time and follows none.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), jobs_at_once: one(), follows: None, help: String::new() }
    }
}

fn one() -> u32 {
    1
}

/// Agent → broker: I am here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Register {
    /// Path `<beamline>/<agent>`, for example `x01/writer`. See [`check_name`].
    pub name: String,
    /// What it is: `readout`, `assembler`, `writer`, …
    pub kind: String,
    pub host: String,
    pub pid: u32,
    pub version: String,
    /// Random number of this start of the process: the same process may register again over its old
    /// registration, another one may not.
    pub instance: u64,
    pub state: AgentState,
    /// What it does jobs for; each name once.
    #[serde(default)]
    pub services: Vec<ServiceOffer>,
    /// Jobs that it has and has not yet reported an end of (rule J4 of `job`).
    #[serde(default)]
    pub jobs: Vec<JobId>,
    /// All that it hosts; itself too, where it has more to say than its name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subsystems: Vec<Description>,
}

/// The broker's welcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    pub beamline: String,
    /// Send a heartbeat this often, in milliseconds.
    pub heartbeat_ms: u32,
    /// Silence for this long means gone, in milliseconds.
    pub timeout_ms: u32,
    /// When this broker started; another one has none of the questions of the one before.
    #[serde(default)]
    pub started_ns: u64,
    /// Of each subsystem that was described, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subsystems: Vec<Described>,
}

impl Request for Register {
    const KIND: &'static str = "agent.register";
    type Reply = Registered;
}

/// Agent → broker: I live, and this is how I am.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub state: AgentState,
}

impl Request for Heartbeat {
    const KIND: &'static str = "agent.heartbeat";
    type Reply = Ack;
}

/// Agent → broker: I stop now, on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {}

impl Request for Leave {
    const KIND: &'static str = "agent.leave";
    type Reply = Ack;
}

/// Client → broker: who is there and how are they.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetStatus {}

impl Request for GetStatus {
    const KIND: &'static str = "status.get";
    type Reply = Status;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub broker: BrokerStatus,
    /// Sorted by name.
    pub agents: Vec<AgentStatus>,
    /// True when every agent that the configuration names is ready (and there is at least one).
    pub ready: bool,
    /// Connections that have requests open, watch items, or have lost messages because they did not read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<ClientStatus>,
}

/// What one connection holds of the broker's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientStatus {
    /// The transport's identity of it, in hexadecimal digits.
    pub connection: String,
    /// The agent's name, or `anonymous`.
    pub name: String,
    pub requests_open: u64,
    pub watches: u64,
    /// Messages to it that were dropped because too many waited for it already.
    pub lost: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerStatus {
    pub beamline: String,
    pub version: String,
    pub pid: u32,
    /// Nanoseconds since 1970-01-01 UTC.
    pub started_ns: u64,
    /// The broker's clock at the answer, so that ages need no clock of the reader's.
    pub now_ns: u64,
    /// Messages taken in, messages refused as malformed, and messages that could not be delivered.
    pub received: u64,
    pub malformed: u64,
    pub undeliverable: u64,
    /// Jobs that have not ended.
    pub jobs_open: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    pub name: String,
    pub kind: String,
    pub state: AgentState,
    pub host: String,
    pub pid: u32,
    pub version: String,
    /// When it registered first with this instance, and when it was last heard; 0 if never.
    pub since_ns: u64,
    pub seen_ns: u64,
    pub services: Vec<ServiceOffer>,
    pub jobs: Vec<JobId>,
    /// Its newest telemetry.
    pub telemetry: BTreeMap<String, Value>,
}

/// Longest name of an agent, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Names are paths of two or more parts of letters, digits, `-`, `_` and `.`, divided by `/`.
///
/// # Errors
/// Says what is wrong with the name.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("name of {} bytes; at most {NAME_BYTES_MAX}", name.len()));
    }
    let part_ok = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    if name.split('/').count() < 2 || !name.split('/').all(part_ok) {
        return Err(format!("name {name:?} is not <beamline>/<agent> of letters, digits, '-', '_' and '.'"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_without_empty_or_strange_parts() {
        assert!(check_name("x01/readout.0").is_ok());
        for bad in ["x01", "", "x01/", "/writer", "x01/wri ter", "x01//a", "x01/ä"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
