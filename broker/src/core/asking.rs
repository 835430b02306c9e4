//! Asking handlers: events, calls, reads and writes, from the caller's request to its answer.

use super::{
    ANONYMOUS, Core, Outgoing, Session,
    exchanges::{Ask, Exchange, Target, WaitingCall},
    items::check_value,
    nanoseconds,
    registry::Presence,
    requests::{Answer, Call},
    subsystems::Handles,
};
use crate::limits::{DEADLINE_MAX, FEEDBACK_BYTES_MAX, PARAMS_MAX, TARGETS_MAX};
use ecs_schemas::{
    envelope::{Header, KIND_ERROR, Notice, Request, decode, encode},
    error_code::{ErrorCode, Failure},
    exchange::{
        CallEvent, Cancel, DoCall, Done, EventEnded, Feedback, Params, RunCall, RunEvent, TargetEnd, TargetResult,
        event_topic,
    },
    kv::{Reading, Taken},
    nearest::nearest,
    subsystem::Handled,
    value::Value,
};
use std::{collections::BTreeSet, time::Duration};

impl Core {
    /// Who asks, by the broker's word: an agent's name, a key's, or nobody known.
    pub(super) fn by(&self, call: &Call<'_>) -> String {
        let key = || call.sender.name().unwrap_or(ANONYMOUS);
        self.registry.name_of(call.session).unwrap_or_else(key).to_owned()
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
        let number = self.exchanges.open(exchange);
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
            by: self.by(call),
            header: call.header.clone(),
            ask,
            deadline_ns: call.now_ns.saturating_add(nanoseconds(deadline.min(DEADLINE_MAX))),
            targets,
            waiting: None,
            origin: call.origin,
        }
    }

    fn ask_target(&mut self, number: u64, index: usize, kind: &str, body: Vec<u8>, now_ns: u64) {
        let id = self.exchanges.next_id();
        let Some(exchange) = self.exchanges.get(number) else { return };
        let target = &exchange.targets[index];
        let (subsystem, agent) = (target.subsystem.clone(), target.agent.clone());
        let (origin, from, deadline_ns) = (exchange.origin, exchange.by.clone(), exchange.deadline_ns);
        let Some(session) = self.registry.session_of(&agent).cloned() else {
            let failure = gone(&subsystem, &agent);
            self.end_target(number, index, TargetEnd::Gone, Value::Null, Some(failure), now_ns);
            return;
        };
        let trace = self.traces.child(origin);
        self.traces.begin(trace, kind, String::new(), from, subsystem, now_ns);
        self.exchanges.note_asked(number, index, id, trace.span);
        let rest_ms = deadline_ns.saturating_sub(now_ns) / 1_000_000;
        let deadline_ms = u32::try_from(rest_ms).unwrap_or(u32::MAX);
        let header = Header { trace: Some(trace), ..Header::request(kind, id, deadline_ms) };
        self.free.push(Outgoing { session, header, body });
    }

    /// # Errors
    /// `bad_parameter`, `busy`. What is wrong for one target is that target's end.
    pub(super) fn call_event(&mut self, call: &Call<'_>, event: CallEvent) -> Answer {
        check_params(&event.params)?;
        let targets = self.event_targets(&event)?;
        self.exchanges.admit(call.session, call.header.id)?;
        let CallEvent { event, params, .. } = event;
        let by = self.by(call);
        let mut asks = Vec::new();
        let mut all = Vec::new();
        for (index, name) in targets.into_iter().enumerate() {
            let agent = self.subsystems.agent_of(&name).unwrap_or_default().to_owned();
            let end = self.cannot_handle(&name, &agent, &event, &params);
            if end.is_none() {
                let run =
                    RunEvent { subsystem: name.clone(), event: event.clone(), params: params.clone(), by: by.clone() };
                asks.push((index, encode(&run)));
            }
            all.push(Target { end, ..target(&name, &agent) });
        }
        let exchange = self.new_exchange(call, Ask::Event { name: event }, all);
        if asks.is_empty() {
            return Ok(Some(exchange.answer().body));
        }
        let number = self.exchanges.open(exchange);
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
            let known = |name: &String| self.subsystems.resolve(name).map_or_else(|_| name.clone(), str::to_owned);
            let mut seen = BTreeSet::new();
            return Ok(event.targets.iter().map(known).filter(|name| seen.insert(name.clone())).collect());
        }
        let handlers = self.subsystems.handlers(&event.event, Handles::Events, &self.registry);
        Ok(handlers.map(str::to_owned).collect())
    }

    /// Why a target is not even asked.
    fn cannot_handle(&self, name: &str, agent: &str, event: &str, params: &Params) -> Option<TargetResult> {
        let ended =
            |end, reason| Some(TargetResult { target: name.to_owned(), end, value: Value::Null, reason: Some(reason) });
        let Some(description) = self.subsystems.description(name) else {
            let reason = self.subsystems.resolve(name).err();
            return ended(TargetEnd::NotHandled, reason.unwrap_or_else(|| gone(name, agent)));
        };
        let Some(handled) = description.events.iter().find(|handled| handled.name == event) else {
            return ended(TargetEnd::NotHandled, not_handled(name, event, &description.events));
        };
        if self.registry.presence(agent) != Presence::Here {
            return ended(TargetEnd::Gone, gone(name, agent));
        }
        let wrong = check_against(&format!("{name} {event}"), handled, params).err()?;
        ended(TargetEnd::Refused, wrong)
    }

    /// # Errors
    /// `not_handled`, `wrong_type`, `out_of_range`, `bad_parameter`, `busy`.
    pub(super) fn do_call(&mut self, call: &Call<'_>, wanted: DoCall) -> Answer {
        check_params(&wanted.params)?;
        let DoCall { call: name, params } = wanted;
        let worker = self.subsystems.handlers(&name, Handles::Calls, &self.registry).next();
        let worker = worker.ok_or_else(|| self.nobody_answers(&name))?;
        let description = self.subsystems.description(worker).expect("it is a handler");
        let handled = description.calls.iter().find(|handled| handled.name == name).expect("it is a handler");
        check_against(&name, handled, &params)?;
        self.exchanges.admit(call.session, call.header.id)?;
        self.exchanges.check_queue(&name)?;
        let by = self.by(call);
        let mut exchange = self.new_exchange(call, Ask::Call { name: name.clone() }, Vec::new());
        exchange.waiting = Some(WaitingCall { params, by });
        let number = self.exchanges.open(exchange);
        self.exchanges.enqueue(&name, number);
        self.dispatch(&name, call.now_ns);
        Ok(None)
    }

    fn nobody_answers(&self, name: &str) -> Failure {
        let known = self.subsystems.handled_names(Handles::Calls);
        let failure = Failure::new(ErrorCode::NotHandled, format!("nobody here answers the call {name:?}"));
        match nearest(name, known.iter().copied()) {
            Some(near) => failure.with_hint(format!("the nearest is {near}")),
            None if known.is_empty() => failure.with_hint("no agent that answers calls is here"),
            None => failure.with_hint(format!("calls that are answered: {}", Vec::from_iter(known).join(", "))),
        }
    }

    /// Gives waiting calls to workers that are free, the least busy first.
    fn dispatch(&mut self, name: &str, now_ns: u64) {
        while let Some(worker) = self.free_worker(name)
            && let Some(number) = self.exchanges.dequeue(name)
        {
            let agent = self.subsystems.agent_of(&worker).unwrap_or_default().to_owned();
            let Some(exchange) = self.exchanges.get_mut(number) else { continue };
            let Some(WaitingCall { params, by }) = exchange.waiting.take() else { continue };
            exchange.targets.push(target(&worker, &agent));
            let run = RunCall { subsystem: worker, call: name.to_owned(), params, by };
            self.ask_target(number, 0, RunCall::KIND, encode(&run), now_ns);
        }
    }

    fn free_worker(&self, name: &str) -> Option<String> {
        let load = |worker: &str| {
            let description = self.subsystems.description(worker)?;
            let at_once = description.calls.iter().find(|handled| handled.name == name)?.at_once;
            let busy = self.exchanges.busy(worker, name);
            (busy < at_once).then(|| (busy * 1000 / at_once, worker.to_owned()))
        };
        let free = self.subsystems.handlers(name, Handles::Calls, &self.registry).filter_map(load);
        free.min().map(|(_, worker)| worker)
    }

    /// Calls that wait, after a worker has come.
    pub(super) fn dispatch_all(&mut self, now_ns: u64) {
        for name in self.exchanges.waiting_calls() {
            self.dispatch(&name, now_ns);
        }
    }

    /// An agent's answer to what the broker asked it. One that nobody waits for any more is dropped.
    pub(super) fn handler_answered(&mut self, now_ns: u64, session: &Session, header: &Header, body: &[u8]) {
        let Some(agent) = self.registry.name_of(session).map(str::to_owned) else { return };
        let Some((span, asked_by)) = self.exchanges.take_answer(&agent, header.id) else { return };
        let Some((number, index)) = asked_by else {
            self.traces.end(span, "late", now_ns);
            return self.dispatch_all(now_ns); // its worker is free, though its caller has gone
        };
        let (end, value, reason) = self.read_answer(number, header, body);
        self.traces.end(span, reason.as_ref().map_or("ok", |reason| reason.code.as_str()), now_ns);
        let call = self.exchanges.get(number).and_then(|exchange| match &exchange.ask {
            Ask::Call { name } => Some(name.clone()),
            _ => None,
        });
        self.end_target(number, index, end, value, reason, now_ns);
        if let Some(call) = call {
            self.dispatch(&call, now_ns);
        }
    }

    fn read_answer(&self, number: u64, header: &Header, body: &[u8]) -> (TargetEnd, Value, Option<Failure>) {
        let broken = |message: String| (TargetEnd::Failed, Value::Null, Some(Failure::new(ErrorCode::Other, message)));
        let Some(exchange) = self.exchanges.get(number) else { return (TargetEnd::Failed, Value::Null, None) };
        if header.kind == KIND_ERROR {
            return match decode::<Failure>(body) {
                Ok(failure) if failure.code == ErrorCode::Refused => (TargetEnd::Refused, Value::Null, Some(failure)),
                Ok(failure) if failure.code == ErrorCode::Cancelled => {
                    (TargetEnd::Cancelled, Value::Null, Some(failure))
                }
                Ok(failure) => (TargetEnd::Failed, Value::Null, Some(failure)),
                Err(error) => broken(format!("the handler's error cannot be read: {error}")),
            };
        }
        let value = match &exchange.ask {
            Ask::Read | Ask::Write { .. } => decode::<Taken>(body).map(|taken| taken.value),
            _ => decode::<Done>(body).map(|done| done.value),
        };
        let value = match value {
            Ok(value) => value,
            Err(error) => return broken(format!("the handler's answer cannot be read: {error}")),
        };
        if let Err(failure) = check_value("the handler's answer", &value) {
            return (TargetEnd::Failed, Value::Null, Some(failure));
        }
        (TargetEnd::Ok, value, None)
    }

    #[allow(clippy::too_many_arguments, reason = "one target's end, where it is, and when")]
    fn end_target(
        &mut self,
        number: u64,
        index: usize,
        end: TargetEnd,
        value: Value,
        reason: Option<Failure>,
        now_ns: u64,
    ) {
        let value = match self.exchanges.get(number).map(|exchange| &exchange.ask) {
            Some(Ask::Read | Ask::Write { .. }) if end == TargetEnd::Ok => self.reading_of(number, value, now_ns),
            _ => value,
        };
        let is_over = self.exchanges.end_target(number, index, end, value, reason);
        if let Some(notice) = self.exchanges.get(number).filter(|_| !is_over).and_then(|its| its.target_notice(index)) {
            self.free.push(notice);
        }
        if is_over {
            self.finish_exchange(number, now_ns);
        }
    }

    /// The answer to a read or write: with the revision that the item has now, if it is published.
    fn reading_of(&self, number: u64, value: Value, now_ns: u64) -> Value {
        let path = self.exchanges.get(number).and_then(|exchange| match &exchange.ask {
            Ask::Write { path, .. } => Some(path),
            _ => None,
        });
        let revision = path.and_then(|(subsystem, item)| self.subsystems.reading(subsystem, item));
        let revision = revision.map_or(0, |reading| reading.revision);
        Value::from_typed(&Reading { value, revision, time_ns: now_ns })
    }

    fn finish_exchange(&mut self, number: u64, now_ns: u64) {
        let Some(exchange) = self.exchanges.close(number) else { return };
        let failed =
            exchange.targets.iter().filter_map(|target| target.end.as_ref()).find(|end| end.end != TargetEnd::Ok);
        self.traces.end(exchange.origin.span, failed.map_or("ok", |end| end.end.as_str()), now_ns);
        if let Ask::Event { name } = &exchange.ask {
            let by = &exchange.by;
            for target in exchange.targets.iter().filter(|target| target.asked_id != 0) {
                let ended = target.end.clone().map(|result| EventEnded { by: by.clone(), result });
                self.ended_events.extend(ended.map(|ended| (event_topic(&target.subsystem, name), ended)));
            }
        }
        self.free.push(exchange.answer());
    }

    /// Ends every target that has not ended, for a reason of the caller's side.
    fn end_rest(&mut self, number: u64, end: TargetEnd, reason: impl Fn(&str) -> Failure, now_ns: u64) {
        let Some(exchange) = self.exchanges.get_mut(number) else { return };
        if let (Some(_), Ask::Call { name }) = (&exchange.waiting, &exchange.ask) {
            let mut waited = target(name, "");
            let message = format!("no worker of the call {name} was free in time");
            let failure = Failure::new(reason(name).code, message);
            waited.end = Some(TargetResult { target: name.clone(), end, value: Value::Null, reason: Some(failure) });
            exchange.targets.push(waited);
        }
        self.free.extend(exchange.cancels(|agent| self.registry.session_of(agent).cloned()));
        let open: Vec<_> = (0..exchange.targets.len()).filter(|index| exchange.targets[*index].end.is_none()).collect();
        for index in open {
            let failure = self.exchanges.get(number).map(|exchange| reason(&exchange.targets[index].subsystem));
            self.exchanges.end_target(number, index, end, Value::Null, failure);
        }
        self.finish_exchange(number, now_ns);
    }

    /// Exchanges whose time is over (X1).
    pub(super) fn end_overdue(&mut self, now_ns: u64) {
        for number in self.exchanges.overdue(now_ns) {
            let late = |target: &str| Failure::new(ErrorCode::Timeout, format!("{target} did not answer in time"));
            self.end_rest(number, TargetEnd::Timeout, late, now_ns);
        }
    }

    /// The caller wants no more of it (X5).
    pub(super) fn cancel_exchange(&mut self, now_ns: u64, session: &Session, cancel: Cancel) {
        if let Some(number) = self.exchanges.number_of(session, cancel.id) {
            let cancelled = |target: &str| {
                Failure::new(ErrorCode::Cancelled, format!("cancelled by the caller before {target} had answered"))
            };
            self.end_rest(number, TargetEnd::Cancelled, cancelled, now_ns);
        }
    }

    /// A caller that cannot be reached: its handlers need not go on.
    pub(super) fn drop_caller(&mut self, session: &Session) {
        for number in self.exchanges.of_caller(session) {
            if let Some(exchange) = self.exchanges.close(number) {
                self.free.extend(exchange.cancels(|agent| self.registry.session_of(agent).cloned()));
            }
        }
    }

    /// A question did not reach its agent, which does not read what it is sent.
    pub(super) fn end_unread(&mut self, session: &Session, id: u64, now_ns: u64) {
        let Some(agent) = self.registry.name_of(session).map(str::to_owned) else { return };
        let Some((span, asked_by)) = self.exchanges.take_answer(&agent, id) else { return };
        self.traces.end(span, ErrorCode::Busy.as_str(), now_ns);
        if let Some((number, index)) = asked_by {
            let message = format!("{agent} does not read: too many messages wait for it already");
            let failure = Failure::new(ErrorCode::Busy, message).with_hint("ask less at one time, or later");
            self.end_target(number, index, TargetEnd::Failed, Value::Null, Some(failure), now_ns);
        }
    }

    /// An agent is gone: what it was asked ends now (X3).
    pub(super) fn end_of_agent(&mut self, agent: &str, now_ns: u64) {
        for (span, asked_by) in self.exchanges.drop_agent(agent) {
            self.traces.end(span, TargetEnd::Gone.as_str(), now_ns);
            let Some((number, index)) = asked_by else { continue };
            let subsystem = self.exchanges.get(number).map(|exchange| exchange.targets[index].subsystem.clone());
            let failure = died(&subsystem.unwrap_or_default(), agent);
            self.end_target(number, index, TargetEnd::Gone, Value::Null, Some(failure), now_ns);
        }
        self.dispatch_all(now_ns);
    }

    /// Passes a handler's word on to the caller.
    ///
    /// # Errors
    /// `not_registered`, `bad_parameter`. Feedback that nobody waits for any more is dropped.
    pub(super) fn feedback(&mut self, session: &Session, feedback: Feedback) -> Result<(), Failure> {
        let agent = self.registry.registered(session)?;
        check_value("feedback", &feedback.value)?;
        let bytes = feedback.value.heap_bytes();
        if bytes > FEEDBACK_BYTES_MAX {
            let message = format!("feedback of {bytes} bytes; at most {FEEDBACK_BYTES_MAX}");
            return Err(Failure::new(ErrorCode::BadParameter, message));
        }
        let Some((number, index)) = self.exchanges.target_of(agent, feedback.id) else { return Ok(()) };
        let Some(exchange) = self.exchanges.get(number) else { return Ok(()) };
        let told = Feedback {
            id: exchange.header.id,
            target: exchange.targets[index].subsystem.clone(),
            value: feedback.value,
        };
        let header = Header { trace: exchange.header.trace, ..Header::notice(Feedback::KIND) };
        self.free.push(Outgoing { session: exchange.caller.clone(), header, body: encode(&told) });
        Ok(())
    }
}

fn target(subsystem: &str, agent: &str) -> Target {
    Target { subsystem: subsystem.to_owned(), agent: agent.to_owned(), asked_id: 0, end: None }
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
    let failure = Failure::new(ErrorCode::NotHandled, format!("{name} does not handle the event {event:?}"));
    match nearest(event, events.iter().map(|handled| handled.name.as_str())) {
        Some(near) => failure.with_hint(format!("the nearest is {near}")),
        None => failure.with_hint(format!("`ecs-cli show {name}` lists what it handles")),
    }
}

fn check_params(params: &Params) -> Result<(), Failure> {
    if params.len() > PARAMS_MAX {
        let message = format!("{} parameters; at most {PARAMS_MAX}", params.len());
        return Err(Failure::new(ErrorCode::BadParameter, message));
    }
    params.iter().try_for_each(|(name, value)| check_value(&format!("parameter {name}"), value))
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
            let failure = bad(format!("{what} has no parameter {name:?}"));
            return Err(match near {
                Some(near) => failure.with_hint(format!("the nearest is {near}")),
                None => failure,
            });
        };
        param.kind.check(&format!("{what}: parameter {name}"), value)?;
    }
    match handled.params.iter().find(|param| !param.optional && !params.contains_key(&param.name)) {
        Some(missing) => {
            Err(bad(format!("{what}: parameter {} is missing ({})", missing.name, missing.kind.allowed())))
        }
        None => Ok(()),
    }
}
