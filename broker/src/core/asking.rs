//! Asking handlers: events, calls, reads and writes, from the caller's request to its answer.

use super::{
    Core, Outgoing, Session,
    exchanges::{Ask, Ended, Exchange, Target},
    items::check_value,
    nanoseconds,
    passing::read_result,
    registry::Presence,
    requests::Call,
    traces::Begun,
};
use crate::limits::{DEADLINE_MAX, FEEDBACK_BYTES_MAX, REASON_BYTES_MAX};
use ecs_schemas::{
    envelope::{Header, KIND_ERROR, Notice, decode, encode},
    error_code::{ErrorCode, Failure},
    exchange::{EventEnded, Feedback, TargetEnd, event_topic},
};
use smol_str::SmolStr;
use std::time::Duration;

impl Core {
    /// Asks one subsystem; its answer becomes the caller's.
    ///
    /// # Errors
    /// `agent_lost` if it is not here, `busy`.
    pub(super) fn ask_one(
        &mut self,
        call: &Call<'_>,
        ask: Ask,
        subsystem: &str,
        kind: &'static str,
        body: Vec<u8>,
    ) -> Result<(), Failure> {
        let agent = self.agent_here(subsystem)?.to_owned();
        self.exchanges.admit(call.session, call.header.id)?;
        let exchange = Self::new_exchange(call, ask, vec![target(subsystem, &agent)]);
        let number = self.open(exchange);
        self.ask_target(number, 0, kind, body, call.now_ns);
        Ok(())
    }

    /// The agent that hosts a subsystem.
    fn agent_here(&self, subsystem: &str) -> Result<&str, Failure> {
        let agent = self.subsystems.agent_of(subsystem).unwrap_or_default();
        if self.registry.presence(agent) == Presence::Here {
            return Ok(agent);
        }
        Err(gone(subsystem, agent))
    }

    pub(super) fn new_exchange(call: &Call<'_>, ask: Ask, targets: Vec<Target>) -> Box<Exchange> {
        let deadline = call.header.deadline_ms.map_or(DEADLINE_MAX, |ms| Duration::from_millis(ms.into()));
        Box::new(Exchange {
            caller: call.session.clone(),
            sender: call.sender.clone(),
            by: call.by.clone(),
            header: call.header.clone(),
            ask,
            deadline_ns: call.now_ns.saturating_add(nanoseconds(deadline.min(DEADLINE_MAX))),
            targets,
            results_bytes: 0,
            waiting: None,
            origin: call.origin,
        })
    }

    pub(super) fn open(&mut self, exchange: Box<Exchange>) -> u64 {
        self.once = true; // rule C5: what was asked was asked
        self.traces.about(exchange.origin.number, exchange.ask.subject());
        self.exchanges.open(exchange)
    }

    pub(super) fn ask_target(&mut self, number: u64, index: usize, kind: &'static str, body: Vec<u8>, now_ns: u64) {
        let id = self.exchanges.next_id();
        let Some(exchange) = self.exchanges.get(number) else { return };
        let Target { subsystem, agent, .. } = &exchange.targets[index];
        let Some(session) = self.registry.session_of(agent).cloned() else {
            let failure = gone(subsystem, agent);
            self.end_target(number, index, Ended::not_ok(TargetEnd::Gone, failure), now_ns);
            return;
        };
        let kind = SmolStr::new_static(kind);
        let trace = self.traces.child(exchange.origin);
        let (subject, from, to) = (exchange.ask.subject(), exchange.by.clone(), subsystem.clone());
        let rest_ms = exchange.deadline_ns.saturating_sub(now_ns) / 1_000_000;
        let deadline_ms = u32::try_from(rest_ms).unwrap_or(u32::MAX);
        let span = self.traces.begin(trace, Begun { kind: kind.clone(), subject, from, to }, now_ns);
        self.exchanges.note_asked(number, index, id, span);
        let header = Header { trace: Some(trace), ..Header::request(kind, id, deadline_ms) };
        self.free.push(Outgoing { session, header, body });
    }

    /// An agent's answer to what the broker asked it. One that nobody waits for any more is dropped.
    pub(super) fn handler_answered(&mut self, now_ns: u64, session: &Session, header: &Header, body: &[u8]) {
        let Some(agent) = self.registry.name_of(session) else { return };
        let Some((span, asked_by)) = self.exchanges.take_answer(agent, header.id) else { return };
        let Some((number, index)) = asked_by else {
            self.traces.end(span, "late", now_ns);
            return self.dispatch_all(now_ns); // its worker is free, though its caller has gone
        };
        let ended = match read_answer(header, body) {
            Ok(value) => Ended::ok(value),
            Err(failure) => Ended::not_ok(end_by(failure.code), failure),
        };
        self.traces.end(span, ended.reason.as_ref().map_or("ok", |reason| reason.code.as_str()), now_ns);
        let call = self.exchanges.get(number).and_then(|exchange| match &exchange.ask {
            Ask::Call { name } => Some(name.clone()),
            _ => None,
        });
        self.end_target(number, index, ended, now_ns);
        if let Some(call) = call {
            self.dispatch(&call, now_ns);
        }
    }

    pub(super) fn end_target(&mut self, number: u64, index: usize, ended: Ended, now_ns: u64) {
        let Some(is_over) = self.exchanges.end_target(number, index, ended) else { return };
        self.note_ended_event(number, index);
        if let Some(notice) = self.exchanges.get(number).filter(|_| !is_over).and_then(|its| its.target_notice(index)) {
            self.free.push(notice);
        }
        if is_over {
            self.finish_exchange(number, now_ns);
        }
    }

    /// An event that a target was asked has ended for it, which is published.
    pub(super) fn note_ended_event(&mut self, number: u64, index: usize) {
        let Some(exchange) = self.exchanges.get(number) else { return };
        let (Ask::Event { name }, target) = (&exchange.ask, &exchange.targets[index]) else { return };
        if let Some(result) = target.result().filter(|_| target.asked_id != 0) {
            let ended = EventEnded { by: exchange.by.to_string(), result };
            self.ended_events.push((event_topic(&target.subsystem, name), ended));
        }
    }

    pub(super) fn finish_exchange(&mut self, number: u64, now_ns: u64) {
        let Some((exchange, spans)) = self.exchanges.close(number, now_ns) else { return };
        let failed =
            exchange.targets.iter().filter_map(|target| target.end.as_ref()).find(|end| end.end != TargetEnd::Ok);
        let outcome = failed.map_or("ok", |end| end.end.as_str());
        spans.into_iter().chain([exchange.origin.number]).for_each(|span| self.traces.end(span, outcome, now_ns));
        match exchange.ask {
            Ask::Write { .. } => self.written.push(*exchange),
            _ => self.free.push(exchange.answer(Ok(0), now_ns)),
        }
    }

    /// Answers to writes, once it is known which revision their items have.
    pub(super) fn write_answers(&mut self, now_ns: u64) -> Vec<Outgoing> {
        let answer = |exchange: Exchange| {
            let written = match &exchange.ask {
                Ask::Write { path, .. } => self.subsystems.written(path),
                _ => Ok(0),
            };
            exchange.answer(written, now_ns)
        };
        std::mem::take(&mut self.written).into_iter().map(answer).collect()
    }

    /// Passes a handler's word on to the caller.
    ///
    /// # Errors
    /// `not_registered`, `bad_parameter`. Feedback that nobody waits for any more is dropped.
    pub(super) fn feedback(&mut self, session: &Session, feedback: Feedback) -> Result<(), Failure> {
        let agent = self.registry.registered(session)?;
        check_value("feedback", &feedback.value)?;
        let bytes = feedback.value.content_bytes();
        if bytes > FEEDBACK_BYTES_MAX {
            let message = format!("feedback of {bytes} bytes; at most {FEEDBACK_BYTES_MAX}");
            return Err(Failure::new(ErrorCode::BadParameter, message));
        }
        let Some((number, index)) = self.exchanges.target_of(agent, feedback.id) else { return Ok(()) };
        let Some(exchange) = self.exchanges.get(number) else { return Ok(()) };
        let told = Feedback {
            id: exchange.header.id,
            target: exchange.targets[index].subsystem.to_string(),
            value: feedback.value,
        };
        let header = Header { trace: exchange.header.trace, ..Header::notice(Feedback::KIND) };
        self.free.push(Outgoing { session: exchange.caller.clone(), header, body: encode(&told) });
        Ok(())
    }
}

pub(super) fn target(subsystem: &str, agent: &str) -> Target {
    Target { subsystem: SmolStr::new(subsystem), agent: SmolStr::new(agent), load: None, asked_id: 0, end: None }
}

pub(super) fn gone(subsystem: &str, agent: &str) -> Failure {
    let message = format!("{subsystem} is not here: its agent {agent} is gone");
    Failure::new(ErrorCode::AgentLost, message).with_hint("`ecs-cli status` shows which agents are here")
}

pub(super) fn died(subsystem: &str, agent: &str) -> Failure {
    let message = format!("{subsystem} was asked and its agent {agent} is gone before it answered");
    Failure::new(ErrorCode::AgentLost, message)
}

/// How a target has ended that has answered with this.
fn end_by(code: ErrorCode) -> TargetEnd {
    match code {
        ErrorCode::Refused => TargetEnd::Refused,
        ErrorCode::Cancelled => TargetEnd::Cancelled,
        _ => TargetEnd::Failed,
    }
}

/// A handler's reason is passed on to everybody who asked; a short one says as much.
fn shortened(mut failure: Failure) -> Failure {
    for text in [Some(&mut failure.message), failure.hint.as_mut()].into_iter().flatten() {
        let is_end = |end: &usize| text.is_char_boundary(*end);
        let end = (0..=REASON_BYTES_MAX.min(text.len())).rev().find(is_end);
        text.truncate(end.unwrap_or(0));
    }
    failure
}

/// What an agent has answered: a value, or why there is none.
fn read_answer<'a>(header: &Header, body: &'a [u8]) -> Result<&'a [u8], Failure> {
    let broken = |what: &str, why: String| Failure::new(ErrorCode::Other, format!("{what} cannot be read: {why}"));
    if header.kind == KIND_ERROR {
        let failure = decode::<Failure>(body);
        return Err(failure.map_or_else(|error| broken("the handler's error", error.to_string()), shortened));
    }
    read_result(body).map_err(|failure| match failure.code {
        ErrorCode::BadMessage => broken("the handler's answer", failure.message),
        _ => failure,
    })
}
