//! What agents tell the world at a steady pace, and the form in which the broker publishes it.
//!
//! PUB messages have three parts: the topic, the [`PubHeader`], the payload. A topic is a path, so a
//! SUB prefix selects a beamline, an agent or one item:
//!
//! | topic | payload | when |
//! |---|---|---|
//! | `<beamline>/<agent>/telemetry` | map of name to value | every second, and on change of state |
//! | `<beamline>/<agent>/state` | `AgentStatus` without telemetry | on change |
//! | `<beamline>/jobs/<id>` | `JobRecord` | on change of state, and with progress |

use crate::{envelope::Notice, value::Value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Agent → broker: its figures now. Published under `<name>/telemetry`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Telemetry {
    /// At most [`VALUES_MAX`] entries. Rates end in their unit: `images_per_s`, `bytes_per_s`.
    pub values: BTreeMap<String, Value>,
}

/// More values than this in one message are refused.
pub const VALUES_MAX: usize = 1024;

impl Notice for Telemetry {
    const KIND: &'static str = "telemetry";
}

/// Second part of every published message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PubHeader {
    pub v: u16,
    /// The agent that this comes from, by the broker's word, or `broker`.
    pub source: String,
    /// Rises by one with each message on this topic: a jump is a gap, the same again is the kept
    /// last value, sent for a new subscriber.
    pub seq: u64,
    /// Nanoseconds since 1970-01-01 UTC at the broker.
    pub time_ns: u64,
}

pub fn telemetry_topic(agent: &str) -> String {
    format!("{agent}/telemetry")
}

pub fn state_topic(agent: &str) -> String {
    format!("{agent}/state")
}

pub fn job_topic(beamline: &str, id: crate::job::JobId) -> String {
    format!("{beamline}/jobs/{id}")
}
