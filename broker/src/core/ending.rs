//! What was asked and ends before it was answered: late, cancelled, its caller or its agent gone.

use super::{
    Core, Outgoing, Session,
    asking::{died, target},
    exchanges::{Ask, Ended, Exchange, Target},
};
use ecs_schemas::{
    envelope::{Header, Notice, encode},
    error_code::{ErrorCode, Failure},
    exchange::{Cancel, TargetEnd},
    keys::PublicKey,
};

impl Core {
    /// Ends an exchange before all have answered, for a reason of the caller's side.
    fn end_early(&mut self, number: u64, end: TargetEnd, reason: impl Fn(&str) -> Failure, now_ns: u64) {
        self.end_rest(number, end, reason);
        self.finish_exchange(number, now_ns);
    }

    /// Ends every target that has not ended.
    fn end_rest(&mut self, number: u64, end: TargetEnd, reason: impl Fn(&str) -> Failure) {
        let Some(exchange) = self.exchanges.get_mut(number) else { return };
        if let (Some(_), Ask::Call { name }) = (&exchange.waiting, &exchange.ask) {
            let failure = Failure::new(reason(name).code, format!("no worker of the call {name} has become free"));
            exchange.targets.push(Target { end: Some(Ended::not_ok(end, failure)), ..target(name, "") });
        }
        self.free.extend(exchange.cancels(|agent| self.registry.session_of(agent).cloned()));
        let open: Vec<_> = (0..exchange.targets.len()).filter(|index| exchange.targets[*index].end.is_none()).collect();
        for index in open {
            let Some(exchange) = self.exchanges.get(number) else { return };
            let failure = reason(&exchange.targets[index].subsystem);
            self.exchanges.end_target(number, index, Ended::not_ok(end, failure));
            self.note_ended_event(number, index);
        }
    }

    /// Workers that keep calls for nobody are told so again (E2).
    pub(super) fn repeat_cancels(&mut self, now_ns: u64) {
        for (agent, id) in self.exchanges.take_repeated_cancels(now_ns) {
            if let Some(session) = self.registry.session_of(&agent).cloned() {
                let (header, body) = (Header::notice(Cancel::KIND), encode(&Cancel { id }));
                self.free.push(Outgoing { session, header, body });
            }
        }
    }

    /// Exchanges whose time is over (X1).
    pub(super) fn end_overdue(&mut self, now_ns: u64) {
        for number in self.exchanges.overdue(now_ns) {
            let late = |target: &str| Failure::new(ErrorCode::Timeout, format!("{target} did not answer in time"));
            self.end_early(number, TargetEnd::Timeout, late, now_ns);
        }
    }

    /// The caller wants no more of it (X5).
    pub(super) fn cancel_exchange(&mut self, now_ns: u64, session: &Session, cancel: Cancel) {
        if let Some(number) = self.exchanges.number_of(session, cancel.id) {
            let cancelled = |target: &str| {
                Failure::new(ErrorCode::Cancelled, format!("cancelled by the caller before {target} had answered"))
            };
            self.end_early(number, TargetEnd::Cancelled, cancelled, now_ns);
        }
    }

    /// A caller that cannot be reached: its handlers need not go on.
    pub(super) fn drop_caller(&mut self, session: &Session, now_ns: u64) {
        for number in self.exchanges.of_caller(session) {
            self.abandon(number, "caller_gone", now_ns);
        }
    }

    /// Whoever asked with this key gets no more answers, only that word.
    pub(super) fn end_of_key(&mut self, key: &PublicKey, now_ns: u64) {
        for number in self.exchanges.of_key(key) {
            if let Some(exchange) = self.abandon(number, ErrorCode::Forbidden.as_str(), now_ns) {
                let message = "the key of this connection was taken away or changed before the answer came";
                let body = encode(&Failure::new(ErrorCode::Forbidden, message));
                self.free.push(Outgoing { session: exchange.caller, header: exchange.header.error(), body });
            }
        }
    }

    /// Closes an exchange without an answer; its handlers need not go on.
    fn abandon(&mut self, number: u64, outcome: &'static str, now_ns: u64) -> Option<Box<Exchange>> {
        let nobody = |target: &str| Failure::new(ErrorCode::Cancelled, format!("nobody waits for {target} any more"));
        self.end_rest(number, TargetEnd::Cancelled, nobody);
        let (exchange, spans) = self.exchanges.close(number, now_ns)?;
        let all = spans.into_iter().chain([exchange.origin.number]);
        all.for_each(|span| self.traces.end(span, outcome, now_ns));
        Some(exchange)
    }

    /// A question did not reach its agent, which does not read what it is sent.
    pub(super) fn end_unread(&mut self, session: &Session, id: u64, now_ns: u64) {
        let Some(agent) = self.registry.name_of(session).cloned() else { return };
        let Some((span, asked_by)) = self.exchanges.take_answer(&agent, id) else { return };
        self.traces.end(span, ErrorCode::Busy.as_str(), now_ns);
        if let Some((number, index)) = asked_by {
            let message = format!("{agent} does not read: too many messages wait for it already");
            let failure = Failure::new(ErrorCode::Busy, message).with_hint("ask less at one time, or later");
            self.end_target(number, index, Ended::not_ok(TargetEnd::Failed, failure), now_ns);
        }
    }

    /// An agent is gone: what it was asked ends now (X3).
    pub(super) fn end_of_agent(&mut self, agent: &str, now_ns: u64) {
        for (span, asked_by) in self.exchanges.drop_agent(agent) {
            self.traces.end(span, TargetEnd::Gone.as_str(), now_ns);
            let Some((number, index)) = asked_by else { continue };
            let subsystem = self.exchanges.get(number).map(|exchange| exchange.targets[index].subsystem.clone());
            let failure = died(&subsystem.unwrap_or_default(), agent);
            self.end_target(number, index, Ended::not_ok(TargetEnd::Gone, failure), now_ns);
        }
    }
}
