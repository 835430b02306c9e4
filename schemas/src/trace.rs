//! Which message led to which: every request, and what its handler sends in turn, in one tree.
//!
//! ```text
//! event.call  trace 7, span 7                       asked by a script
//!  ├ event.run x01/laser   trace 7, span 12, parent 7
//!  │   └ kv.set x01/stage  trace 7, span 30, parent 12       sent while the laser handled it
//!  └ event.run x01/stage   trace 7, span 13, parent 7
//! ```
//!
//! # Rules
//! T1  A message without a trace begins one; its span is the trace's id.
//! T2  What an agent sends while it handles a message carries that message's trace, and its span as parent.
//! T3  The broker remembers the newest spans, up to a limit, in memory: a trace helps to find out what happened
//!     just now.

use crate::envelope::Request;
use serde::{Deserialize, Serialize};

/// Where a message belongs. Random numbers that are not 0, shown as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Trace {
    pub trace: u64,
    pub span: u64,
    /// The span during whose handling this was sent; 0 for none.
    #[serde(default)]
    pub parent: u64,
}

/// Client → broker: all that is remembered of a trace, or of the trace that a span is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetTrace {
    pub id: u64,
}

impl Request for GetTrace {
    const KIND: &'static str = "trace.get";
    type Reply = Spans;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spans {
    pub trace: u64,
    /// By time.
    pub spans: Vec<Span>,
}

/// One message and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub span: u64,
    pub parent: u64,
    /// As in the envelope: `kv.set`, `event.run`, …
    pub kind: String,
    /// What it is about: an item, an event, a job.
    pub subject: String,
    /// Who sent it and to whom, by the broker's word.
    pub from: String,
    pub to: String,
    pub begin_ns: u64,
    /// 0 while it is open.
    pub end_ns: u64,
    /// `ok`, or the code of the error; empty while it is open.
    pub outcome: String,
}
