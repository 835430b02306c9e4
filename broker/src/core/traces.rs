//! The newest spans: which message led to which, and how each ended.

use crate::limits::SPANS_MAX;
use ecs_schemas::trace::{Span, Spans, Trace};
use smol_str::SmolStr;
use std::collections::VecDeque;

/// Number of a span, counted from the first ever.
pub type SpanNumber = u64;

/// Where an exchange stands in its trace.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    pub at: Trace,
    pub number: SpanNumber,
}

/// What begins: as in [`Span`]. Short texts lie in the span itself: spans are written for every message.
pub struct Begun {
    pub kind: SmolStr,
    pub subject: SmolStr,
    pub from: SmolStr,
    pub to: SmolStr,
}

/// A span as it is kept.
struct Kept {
    at: Trace,
    kind: SmolStr,
    subject: SmolStr,
    from: SmolStr,
    to: SmolStr,
    begin_ns: u64,
    end_ns: u64,
    outcome: &'static str,
}

#[derive(Default)]
pub struct Traces {
    /// State of the generator of ids.
    state: u64,
    spans: VecDeque<Kept>,
    forgotten: SpanNumber,
}

impl Traces {
    /// Ids follow from `seed`: the same in every run of a simulation.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, ..Self::default() }
    }

    fn next_id(&mut self) -> u64 {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31).max(1)
    }

    /// The place of a message that came with `given`, or with none (rule T1). If it has a span, that is the next to begin.
    pub fn origin(&mut self, given: Option<Trace>) -> Origin {
        let at = given.filter(|given| given.trace != 0 && given.span != 0).unwrap_or_else(|| {
            let id = self.next_id();
            Trace { trace: id, span: id, parent: 0 }
        });
        Origin { at, number: self.next_number() }
    }

    fn next_number(&self) -> SpanNumber {
        self.forgotten + self.spans.len() as u64
    }

    /// The place of a message that the broker sends because of another.
    pub fn child(&mut self, of: Origin) -> Trace {
        Trace { trace: of.at.trace, span: self.next_id(), parent: of.at.span }
    }

    /// A message begins.
    pub fn begin(&mut self, at: Trace, begun: Begun, now_ns: u64) -> SpanNumber {
        let number = self.next_number();
        if self.spans.len() >= SPANS_MAX {
            self.spans.pop_front();
            self.forgotten += 1;
        }
        let Begun { kind, subject, from, to } = begun;
        self.spans.push_back(Kept { at, kind, subject, from, to, begin_ns: now_ns, end_ns: 0, outcome: "" });
        number
    }

    /// What a message is about, once it was read.
    pub fn about(&mut self, span: SpanNumber, subject: SmolStr) {
        if let Some(span) = self.span_mut(span) {
            span.subject = subject;
        }
    }

    /// It has ended.
    pub fn end(&mut self, span: SpanNumber, outcome: &'static str, now_ns: u64) {
        if let Some(span) = self.span_mut(span).filter(|span| span.end_ns == 0) {
            (span.end_ns, span.outcome) = (now_ns, outcome);
        }
    }

    fn span_mut(&mut self, number: SpanNumber) -> Option<&mut Kept> {
        let index = number.checked_sub(self.forgotten)?;
        self.spans.get_mut(index as usize)
    }

    /// All spans of the trace that `id` names, or that the span `id` is of.
    pub fn find(&self, id: u64) -> Option<Spans> {
        let is_trace = self.spans.iter().any(|span| span.at.trace == id);
        let trace = match is_trace {
            true => id,
            false => self.spans.iter().find(|span| span.at.span == id)?.at.trace,
        };
        let spans = self.spans.iter().filter(|span| span.at.trace == trace).map(Kept::told).collect();
        Some(Spans { trace, spans })
    }
}

impl Kept {
    fn told(&self) -> Span {
        Span {
            span: self.at.span,
            parent: self.at.parent,
            kind: self.kind.to_string(),
            subject: self.subject.to_string(),
            from: self.from.to_string(),
            to: self.to.to_string(),
            begin_ns: self.begin_ns,
            end_ns: self.end_ns,
            outcome: self.outcome.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(kind: &'static str) -> Begun {
        Begun { kind: kind.into(), subject: SmolStr::default(), from: SmolStr::default(), to: SmolStr::default() }
    }

    #[test]
    fn spans_beyond_the_limit_push_out_the_oldest_and_ends_find_their_span() {
        let mut traces = Traces::new(1);
        let first = traces.origin(None);
        assert_eq!(traces.begin(first.at, begun("kv.set"), 1), first.number);
        let child = traces.child(first);
        let number = traces.begin(child, begun("kv.write"), 2);
        traces.end(number, "ok", 3);
        traces.end(number, "timeout", 4);
        let found = traces.find(child.span).unwrap();
        assert_eq!((found.trace, found.spans.len()), (first.at.trace, 2));
        assert_eq!((found.spans[1].parent, found.spans[1].outcome.as_str()), (first.at.span, "ok"));
        for _ in 0..SPANS_MAX {
            let next = traces.origin(None);
            traces.begin(next.at, begun("kv.get"), 5);
            traces.end(next.number, "ok", 6);
        }
        assert_eq!(traces.spans.len(), SPANS_MAX);
        assert!(traces.find(first.at.trace).is_none());
        traces.end(number, "forgotten", 7);
        assert!(traces.spans.iter().all(|span| span.outcome == "ok"));
    }
}
