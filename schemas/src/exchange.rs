//! Events and calls: somebody asks, one or many answer, each with a result or a reason.
//!
//! ```text
//!            event.call {event, targets}               event.run                 one for each target
//! caller ───────────────────────────────▶ broker ───────────────────▶ handler
//!        ◀── exchange.feedback, exchange.result ──┤ ◀── exchange.feedback ──┤
//!        ◀── event.call.reply: every target's end ┘ ◀── event.run.reply ────┘
//!
//!            call.do {call, params}                     call.run                 one worker, the least busy
//! caller ───────────────────────────────▶ broker ───────────────────▶ worker
//!        ◀── call.do.reply ───────────────────────┘ ◀── call.run.reply ─────┘
//! ```
//!
//! # Rules
//! X1  Every target has exactly one end: `ok`, `refused` (by its own sentence), `failed`, `not_handled`,
//!     `gone`, `timeout` or `cancelled`. The answer comes when all have one, at the deadline at the latest.
//! X2  Parameters are checked against the handler's description before it is asked.
//! X3  A target that dies ends at once, and only for those who asked it.
//! X4  A slow handler delays nobody but its own callers.
//! X5  Cancelling reaches the handlers; what they have not answered ends as `cancelled`.

use crate::{
    envelope::{DecodeError, Notice, Request},
    error_code::Failure,
    value::Value,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Parameters by name.
pub type Params = BTreeMap<String, Value>;

/// Client → broker: tell subsystems of an event and gather what they answer. With no targets it goes to all that
/// are here and handle it: a broadcast, a veto round, a barrier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallEvent {
    pub event: String,
    /// Names or UUIDs.
    #[serde(default)]
    pub targets: Vec<String>,
    #[serde(default)]
    pub params: Params,
}

impl Request for CallEvent {
    const KIND: &'static str = "event.call";
    type Reply = EventResults;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventResults {
    /// In the order of the targets, or sorted by name.
    pub results: Vec<TargetResult>,
}

/// How it ended for one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetResult {
    pub target: String,
    pub end: TargetEnd,
    /// Of `ok`.
    #[serde(default)]
    pub value: Value,
    /// Of all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Failure>,
}

/// See X1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetEnd {
    Ok,
    /// Its handler said no: a veto.
    Refused,
    /// Its handler broke.
    Failed,
    /// It is there and does not know this event, or there is no such subsystem.
    NotHandled,
    /// It was not there, or died before it answered.
    Gone,
    Timeout,
    Cancelled,
}

impl TargetEnd {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::NotHandled => "not_handled",
            Self::Gone => "gone",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
        }
    }
}

impl EventResults {
    /// Those who did not say `ok`.
    pub fn objections(&self) -> impl Iterator<Item = &TargetResult> {
        self.results.iter().filter(|result| result.end != TargetEnd::Ok)
    }
}

/// Payload of the topic `<subsystem>/event/<event>`: an event has ended for this subsystem.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventEnded {
    /// Who asked, by the broker's word.
    pub by: String,
    #[serde(flatten)]
    pub result: TargetResult,
}

pub fn event_topic(subsystem: &str, event: &str) -> String {
    format!("{subsystem}/event/{event}")
}

/// Client → broker: have one worker do this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DoCall {
    /// Name of the call, whoever answers it.
    pub call: String,
    #[serde(default)]
    pub params: Params,
}

impl Request for DoCall {
    const KIND: &'static str = "call.do";
    type Reply = CallResult;

    fn to_body(&self) -> Vec<u8> {
        Self::to_body(self)
    }

    fn read_reply(body: &[u8]) -> Result<CallResult, DecodeError> {
        CallResult::from_body(body)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallResult {
    pub value: Value,
    /// The subsystem that did it.
    pub by: String,
}

/// Broker → handler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEvent {
    /// The target.
    pub subsystem: String,
    pub event: String,
    #[serde(default)]
    pub params: Params,
    /// Who asks, by the broker's word.
    pub by: String,
}

impl Request for RunEvent {
    const KIND: &'static str = "event.run";
    type Reply = Done;
}

/// Broker → worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunCall {
    pub subsystem: String,
    pub call: String,
    #[serde(default)]
    pub params: Params,
    pub by: String,
}

impl Request for RunCall {
    const KIND: &'static str = "call.run";
    type Reply = Done;
}

/// The good answer of a handler. A handler that says no answers with an `error` whose code is `refused`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Done {
    #[serde(default)]
    pub value: Value,
}

/// How far it is: from a handler to the broker under the `id` that it was asked with, and on to the caller under the
/// caller's own. Any number of them, none is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    pub id: u64,
    /// Filled in by the broker.
    #[serde(default)]
    pub target: String,
    pub value: Value,
}

impl Notice for Feedback {
    const KIND: &'static str = "exchange.feedback";
}

/// Broker → caller of an event: one target has ended; all come again in the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetEnded {
    pub id: u64,
    #[serde(flatten)]
    pub result: TargetResult,
}

impl Notice for TargetEnded {
    const KIND: &'static str = "exchange.result";
}

/// Caller → broker, under its own `id`, and broker → handler, under the one it asked with: no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    pub id: u64,
}

impl Notice for Cancel {
    const KIND: &'static str = "exchange.cancel";
}
