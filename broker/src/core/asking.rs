//! Asking handlers: events, calls, reads and writes, from the caller's request to its answer.

use super::{
    ANONYMOUS, Core, Outgoing, Session,
    exchanges::{Ask, Ended, Exchange, Target, WaitingCall},
    items::check_value,
    nanoseconds,
    passing::{CallWanted, decoded, read_call, read_result, run_call},
    registry::Presence,
    requests::{Answer, Call},
    subsystems::no_such_subsystem,
    traces::Begun,
};
use crate::limits::{
    DEADLINE_MAX, FANOUT_BYTES_MAX, FEEDBACK_BYTES_MAX, PARAMS_MAX, REASON_BYTES_MAX, SUGGESTIONS_MAX, TARGETS_MAX,
};
use ecs_schemas::{
    envelope::{Header, KIND_ERROR, Notice, Request, VALUE_BYTES_MAX, decode, encode},
    error_code::{ErrorCode, Failure},
    exchange::{CallEvent, Cancel, EventEnded, Feedback, Params, RunCall, RunEvent, TargetEnd, event_topic},
    keys::PublicKey,
    nearest::{nearest, quoted},
    registry::NAME_BYTES_MAX,
    subsystem::{Description, Handled},
};
use smol_str::SmolStr;
use std::{collections::BTreeSet, time::Duration};

impl Core {
    /// Who asks, by the broker's word: an agent's name, a key's, or nobody known.
    pub(super) fn by(&self, call: &Call<'_>) -> SmolStr {
        let key = || call.sender.name().unwrap_or(ANONYMOUS);
        SmolStr::new(self.registry.name_of(call.session).unwrap_or_else(key))
    }

    /// Asks one subsystem; its answer becomes the caller's.
    ///
    /// # Errors
    /// `agent_lost` if it is not here, `busy`.
    pub(super) fn ask_one(
        &mut self,
        call: &Call<'_>,
        ask: Ask,
        subsystem: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Result<(), Failure> {
        let agent = self.agent_here(subsystem)?;
        self.exchanges.admit(call.session, call.header.id)?;
        let exchange = self.new_exchange(call, ask, vec![target(subsystem, &agent)]);
        let number = self.open(exchange);
        self.ask_target(number, 0, kind, body, call.now_ns);
        Ok(())
    }

    /// The agent that hosts a subsystem.
    fn agent_here(&self, subsystem: &str) -> Result<String, Failure> {
        let agent = self.subsystems.agent_of(subsystem).unwrap_or_default();
        if self.registry.presence(agent) == Presence::Here {
            return Ok(agent.to_owned());
        }
        Err(gone(subsystem, agent))
    }

    fn new_exchange(&self, call: &Call<'_>, ask: Ask, targets: Vec<Target>) -> Exchange {
        let deadline = call.header.deadline_ms.map_or(DEADLINE_MAX, |ms| Duration::from_millis(ms.into()));
        Exchange {
            caller: call.session.clone(),
            sender: call.sender.clone(),
            by: self.by(call),
            header: call.header.clone(),
            ask,
            deadline_ns: call.now_ns.saturating_add(nanoseconds(deadline.min(DEADLINE_MAX))),
            targets,
            results_bytes: 0,
            waiting: None,
            origin: call.origin,
        }
    }

    fn open(&mut self, exchange: Exchange) -> u64 {
        self.once = true; // rule C5: what was asked was asked
        self.traces.about(exchange.origin.number, exchange.ask.subject());
        self.exchanges.open(exchange)
    }

    fn ask_target(&mut self, number: u64, index: usize, kind: &str, body: Vec<u8>, now_ns: u64) {
        let id = self.exchanges.next_id();
        let Some(exchange) = self.exchanges.get(number) else { return };
        let target = &exchange.targets[index];
        let (subsystem, agent) = (target.subsystem.clone(), target.agent.clone());
        let (origin, from, deadline_ns) = (exchange.origin, exchange.by.clone(), exchange.deadline_ns);
        let subject = exchange.ask.subject();
        let Some(session) = self.registry.session_of(&agent).cloned() else {
            let failure = gone(&subsystem, &agent);
            self.end_target(number, index, Ended::not_ok(TargetEnd::Gone, failure), now_ns);
            return;
        };
        let trace = self.traces.child(origin);
        let span = self.traces.begin(trace, Begun { kind, subject, from, to: subsystem }, now_ns);
        self.exchanges.note_asked(number, index, id, span);
        let rest_ms = deadline_ns.saturating_sub(now_ns) / 1_000_000;
        let deadline_ms = u32::try_from(rest_ms).unwrap_or(u32::MAX);
        let header = Header { trace: Some(trace), ..Header::request(kind, id, deadline_ms) };
        self.free.push(Outgoing { session, header, body });
    }

    /// # Errors
    /// `bad_parameter`, `busy`. What is wrong for one target is that target's end.
    pub(super) fn call_event(&mut self, call: &Call<'_>, event: CallEvent) -> Answer {
        let bytes = check_params(&event.params)?;
        let targets = self.event_targets(&event)?;
        if bytes.saturating_mul(targets.len()) > FANOUT_BYTES_MAX {
            let message =
                format!("{bytes} bytes of parameters to {} targets; at most {FANOUT_BYTES_MAX}", targets.len());
            return Err(Failure::new(ErrorCode::BadParameter, message).with_hint("publish large values as an item"));
        }
        self.exchanges.admit(call.session, call.header.id)?;
        let CallEvent { event, params, .. } = event;
        let by = self.by(call);
        let (mut asks, mut all, mut unknown) = (Vec::new(), Vec::new(), 0);
        for (index, name) in targets.into_iter().enumerate() {
            let agent = self.subsystems.agent_of(&name).unwrap_or_default().to_owned();
            let end = match self.subsystems.description(&name) {
                Some(description) => self.cannot_handle(description, &agent, &event, &params),
                None => {
                    unknown += 1;
                    Some(self.unknown_target(&name, unknown <= SUGGESTIONS_MAX))
                }
            };
            if end.is_none() {
                let run = RunEvent {
                    subsystem: name.clone(),
                    event: event.clone(),
                    params: params.clone(),
                    by: by.to_string(),
                };
                asks.push((index, encode(&run)));
            }
            all.push(Target { end, ..target(&name, &agent) });
        }
        let exchange = self.new_exchange(call, Ask::Event { name: event.into() }, all);
        if asks.is_empty() {
            return Ok(Some(exchange.answer(Ok(0), call.now_ns).body));
        }
        let number = self.open(exchange);
        for (index, body) in asks {
            self.ask_target(number, index, RunEvent::KIND, body, call.now_ns);
        }
        Ok(None)
    }

    fn event_targets(&self, event: &CallEvent) -> Result<Vec<String>, Failure> {
        if event.targets.len() > TARGETS_MAX {
            let message = format!("{} targets; at most {TARGETS_MAX}", event.targets.len());
            return Err(Failure::new(ErrorCode::BadParameter, message));
        }
        if !event.targets.is_empty() {
            if let Some(long) = event.targets.iter().find(|name| name.len() > NAME_BYTES_MAX) {
                return Err(no_such_subsystem(long));
            }
            let known = |name: &String| self.subsystems.find(name).unwrap_or(name).to_owned();
            let mut seen = BTreeSet::new();
            return Ok(event.targets.iter().map(known).filter(|name| seen.insert(name.clone())).collect());
        }
        let handlers = self.subsystems.handlers(&event.event, &self.registry);
        Ok(handlers.map(str::to_owned).collect())
    }

    fn unknown_target(&self, name: &str, with_nearest: bool) -> Ended {
        let suggested = || self.subsystems.resolve(name).err();
        let reason = with_nearest.then(suggested).flatten().unwrap_or_else(|| no_such_subsystem(name));
        Ended::not_ok(TargetEnd::NotHandled, reason)
    }

    /// Why a target is not even asked.
    fn cannot_handle(&self, description: &Description, agent: &str, event: &str, params: &Params) -> Option<Ended> {
        let name = &description.name;
        let Some(handled) = description.events.iter().find(|handled| handled.name == event) else {
            let reason = not_handled(name, event, &description.events);
            return Some(Ended::not_ok(TargetEnd::NotHandled, reason));
        };
        if self.registry.presence(agent) != Presence::Here {
            return Some(Ended::not_ok(TargetEnd::Gone, gone(name, agent)));
        }
        let wrong = check_against(&format!("{name} {event}"), handled, params).err()?;
        Some(Ended::not_ok(TargetEnd::Refused, wrong))
    }

    /// # Errors
    /// `not_handled`, `wrong_type`, `out_of_range`, `bad_parameter`, `busy`.
    pub(super) fn do_call(&mut self, call: &Call<'_>, body: &[u8]) -> Answer {
        let CallWanted { call: name, params } = read_call(body)?;
        let worker = self.subsystems.workers(name, &self.registry).next();
        let worker = worker.ok_or_else(|| self.nobody_answers(name))?;
        check_raw(name, self.subsystems.call_of(worker, name).expect("it is a handler"), params)?;
        self.exchanges.admit(call.session, call.header.id)?;
        self.exchanges.check_queue(name, params.len())?;
        let waiting = WaitingCall { params: params.to_vec(), by: self.by(call) };
        let name = SmolStr::new(name);
        let exchange = self.new_exchange(call, Ask::Call { name: name.clone() }, Vec::new());
        let number = self.open(exchange);
        let worker = self.free_worker(&name).filter(|_| self.exchanges.is_queue_empty(&name));
        match worker {
            Some(worker) => self.give(number, waiting, &name, &worker, call.now_ns),
            None => self.exchanges.enqueue(&name, number, waiting),
        }
        Ok(None)
    }

    fn nobody_answers(&self, name: &str) -> Failure {
        let known = self.subsystems.call_names(&self.registry);
        let failure = Failure::new(ErrorCode::NotHandled, format!("nobody here answers the call {}", quoted(name)));
        match nearest(name, known.iter().copied()) {
            Some(near) => failure.with_hint(format!("the nearest is {near}")),
            None if known.is_empty() => failure.with_hint("no agent that answers calls is here"),
            None => failure.with_hint(format!("calls that are answered: {}", Vec::from_iter(known).join(", "))),
        }
    }

    /// Gives waiting calls to workers that are free, the least busy first.
    fn dispatch(&mut self, name: &SmolStr, now_ns: u64) {
        while !self.exchanges.is_queue_empty(name)
            && let Some(worker) = self.free_worker(name)
            && let Some((number, waiting)) = self.exchanges.dequeue(name)
        {
            self.give(number, waiting, name, &worker, now_ns);
        }
    }

    /// The worker may be described otherwise than the one that was there when the call came (X2).
    fn give(&mut self, number: u64, waiting: WaitingCall, name: &str, worker: &str, now_ns: u64) {
        let agent = SmolStr::new(self.subsystems.agent_of(worker).unwrap_or_default());
        let handled = self.subsystems.call_of(worker, name).expect("it is a free worker");
        let wrong = check_raw(name, handled, &waiting.params).err();
        let Some(exchange) = self.exchanges.get_mut(number) else { return };
        exchange.targets.push(target(worker, &agent));
        if let Some(wrong) = wrong {
            return self.end_target(number, 0, Ended::not_ok(TargetEnd::Refused, wrong), now_ns);
        }
        let body = run_call(worker, name, &waiting.params, &waiting.by);
        self.ask_target(number, 0, RunCall::KIND, body, now_ns);
    }

    fn free_worker(&self, name: &SmolStr) -> Option<SmolStr> {
        let free = self.subsystems.workers(name, &self.registry).filter_map(|worker| {
            let at_once = self.subsystems.call_of(worker, name)?.at_once as usize;
            let busy = self.exchanges.busy(worker, name);
            (busy < at_once).then(|| (busy * 1000 / at_once, worker))
        });
        free.min().map(|(_, worker)| SmolStr::new(worker))
    }

    /// Calls that wait, after a worker has come.
    pub(super) fn dispatch_all(&mut self, now_ns: u64) {
        for name in self.exchanges.waiting_calls() {
            self.dispatch(&name, now_ns);
        }
    }

    /// An agent's answer to what the broker asked it. One that nobody waits for any more is dropped.
    pub(super) fn handler_answered(&mut self, now_ns: u64, session: &Session, header: &Header, body: &[u8]) {
        let Some(agent) = self.registry.name_of(session).map(SmolStr::new) else { return };
        let Some((span, asked_by)) = self.exchanges.take_answer(&agent, header.id) else { return };
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

    fn end_target(&mut self, number: u64, index: usize, ended: Ended, now_ns: u64) {
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
    fn note_ended_event(&mut self, number: u64, index: usize) {
        let Some(exchange) = self.exchanges.get(number) else { return };
        let (Ask::Event { name }, target) = (&exchange.ask, &exchange.targets[index]) else { return };
        if let Some(result) = target.result().filter(|_| target.asked_id != 0) {
            let ended = EventEnded { by: exchange.by.to_string(), result };
            self.ended_events.push((event_topic(&target.subsystem, name), ended));
        }
    }

    fn finish_exchange(&mut self, number: u64, now_ns: u64) {
        let Some((exchange, spans)) = self.exchanges.close(number, now_ns) else { return };
        let failed =
            exchange.targets.iter().filter_map(|target| target.end.as_ref()).find(|end| end.end != TargetEnd::Ok);
        let outcome = failed.map_or("ok", |end| end.end.as_str());
        spans.into_iter().chain([exchange.origin.number]).for_each(|span| self.traces.end(span, outcome, now_ns));
        match exchange.ask {
            Ask::Write { .. } => self.written.push(exchange),
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
    fn abandon(&mut self, number: u64, outcome: &str, now_ns: u64) -> Option<Exchange> {
        let nobody = |target: &str| Failure::new(ErrorCode::Cancelled, format!("nobody waits for {target} any more"));
        self.end_rest(number, TargetEnd::Cancelled, nobody);
        let (exchange, spans) = self.exchanges.close(number, now_ns)?;
        let all = spans.into_iter().chain([exchange.origin.number]);
        all.for_each(|span| self.traces.end(span, outcome, now_ns));
        Some(exchange)
    }

    /// A question did not reach its agent, which does not read what it is sent.
    pub(super) fn end_unread(&mut self, session: &Session, id: u64, now_ns: u64) {
        let Some(agent) = self.registry.name_of(session).map(SmolStr::new) else { return };
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

fn target(subsystem: &str, agent: &str) -> Target {
    Target { subsystem: SmolStr::new(subsystem), agent: SmolStr::new(agent), asked_id: 0, end: None }
}

fn gone(subsystem: &str, agent: &str) -> Failure {
    let message = format!("{subsystem} is not here: its agent {agent} is gone");
    Failure::new(ErrorCode::AgentLost, message).with_hint("`ecs-cli status` shows which agents are here")
}

fn died(subsystem: &str, agent: &str) -> Failure {
    let message = format!("{subsystem} was asked and its agent {agent} is gone before it answered");
    Failure::new(ErrorCode::AgentLost, message)
}

fn not_handled(name: &str, event: &str, events: &[Handled]) -> Failure {
    let failure = Failure::new(ErrorCode::NotHandled, format!("{name} does not handle the event {}", quoted(event)));
    match nearest(event, events.iter().map(|handled| handled.name.as_str())) {
        Some(near) => failure.with_hint(format!("the nearest is {near}")),
        None => failure.with_hint(format!("`ecs-cli show {name}` lists what it handles")),
    }
}

/// Checks number and size of parameters; returns their bytes.
fn check_params(params: &Params) -> Result<usize, Failure> {
    let bad = |message: String| Failure::new(ErrorCode::BadParameter, message);
    if params.len() > PARAMS_MAX {
        return Err(bad(format!("{} parameters; at most {PARAMS_MAX}", params.len())));
    }
    params.iter().try_for_each(|(name, value)| check_value(format_args!("parameter {}", quoted(name)), value))?;
    let bytes = params.iter().map(|(name, value)| name.len() + value.content_bytes()).sum();
    if bytes > VALUE_BYTES_MAX {
        return Err(bad(format!("parameters of {bytes} bytes; at most {VALUE_BYTES_MAX}")));
    }
    Ok(bytes)
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

/// As [`check_against`], of parameters as they came.
fn check_raw(what: &str, handled: &Handled, params: &[u8]) -> Result<(), Failure> {
    if handled.params.is_empty() { Ok(()) } else { check_against(what, handled, &decoded(params)) }
}

/// Rule X2. A handler that describes no parameters takes any.
fn check_against(what: &str, handled: &Handled, params: &Params) -> Result<(), Failure> {
    if handled.params.is_empty() {
        return Ok(());
    }
    let bad = |message: String| Failure::new(ErrorCode::BadParameter, message);
    for (name, value) in params {
        let Some(param) = handled.params.iter().find(|param| param.name == *name) else {
            let near = nearest(name, handled.params.iter().map(|param| param.name.as_str()));
            let failure = bad(format!("{what} has no parameter {}", quoted(name)));
            return Err(match near {
                Some(near) => failure.with_hint(format!("the nearest is {near}")),
                None => failure,
            });
        };
        param.kind.check(format_args!("{what}: parameter {name}"), value)?;
    }
    match handled.params.iter().find(|param| !param.optional && !params.contains_key(&param.name)) {
        Some(missing) => {
            Err(bad(format!("{what}: parameter {} is missing ({})", missing.name, missing.kind.allowed())))
        }
        None => Ok(()),
    }
}
