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

use crate::{
    envelope::{Notice, PROTOCOL_VERSION},
    raw::Writer,
    value::Value,
};
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

/// All of a [`PubHeader`] but its source needs less.
const PUB_HEADER_BYTES_USUAL: usize = 64;

impl PubHeader {
    /// The second part of a PUB message: the same bytes as [`encode`](crate::envelope::encode) gives of this version's header.
    pub fn encoded(source: &str, seq: u64, time_ns: u64) -> Vec<u8> {
        let mut writer = Writer::with_capacity(PUB_HEADER_BYTES_USUAL + source.len());
        writer.map(4);
        writer.text("v");
        writer.unsigned(PROTOCOL_VERSION.into());
        writer.text("source");
        writer.text(source);
        writer.text("seq");
        writer.unsigned(seq);
        writer.text("time_ns");
        writer.unsigned(time_ns);
        writer.finish()
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::encode;

    #[test]
    fn written_header_is_the_encoded_one() {
        let long = "x01/".repeat(40);
        for (source, seq, time_ns) in [("broker", 1, 0), ("", 200, 70_000), (&long, u64::MAX, 1 << 40)] {
            let header = PubHeader { v: PROTOCOL_VERSION, source: source.to_owned(), seq, time_ns };
            assert_eq!(PubHeader::encoded(source, seq, time_ns), encode(&header));
        }
    }
}
