//! Calls: which worker does which, and those that wait for one.

use super::{
    Core,
    exchanges::{Ask, Ended, Target, WaitingCall},
    parameters::check_against,
    passing::{CallWanted, decoded, read_call, run_call},
    requests::{Answer, Call},
    subsystems::{Load, Worker},
};
use ecs_schemas::{
    envelope::Request,
    error_code::{ErrorCode, Failure},
    exchange::{RunCall, TargetEnd},
    nearest::{nearest, quoted},
    subsystem::Handled,
};
use smol_str::SmolStr;

/// The worker that a call goes to.
struct FreeWorker {
    subsystem: SmolStr,
    agent: SmolStr,
    load: Load,
}

impl Core {
    /// # Errors
    /// `not_handled`, `wrong_type`, `out_of_range`, `bad_parameter`, `busy`.
    pub(super) fn do_call(&mut self, call: &Call<'_>, body: &[u8]) -> Answer {
        let CallWanted { call: name, params } = read_call(body)?;
        let free = if self.exchanges.is_queue_empty(name) { self.free_worker(name, params)? } else { None };
        self.exchanges.admit(call.session, call.header.id)?;
        let by = call.by.clone();
        let name = SmolStr::new(name);
        let Some(worker) = free else {
            let first = self.subsystems.workers(&name, &self.registry).next();
            check_raw(&name, first.ok_or_else(|| self.nobody_answers(&name))?.handled, params)?;
            self.exchanges.check_queue(&name, params.len())?;
            let number = self.open(Self::new_exchange(call, Ask::Call { name: name.clone() }, Vec::new()));
            self.exchanges.enqueue(&name, number, WaitingCall { params: params.to_vec(), by });
            return Ok(None);
        };
        let body = run_call(&worker.subsystem, &name, params, &by);
        let target = worker.asked();
        let number = self.open(Self::new_exchange(call, Ask::Call { name }, vec![target]));
        self.ask_target(number, 0, RunCall::KIND, body, call.now_ns);
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
    pub(super) fn dispatch(&mut self, name: &SmolStr, now_ns: u64) {
        while !self.exchanges.is_queue_empty(name)
            && let Some(worker) = self.least_busy(name).map(FreeWorker::from)
            && let Some((number, waiting)) = self.exchanges.dequeue(name)
        {
            self.give(number, &waiting, name, worker, now_ns);
        }
    }

    /// The worker may be described otherwise than the one that was there when the call came (X2).
    fn give(&mut self, number: u64, waiting: &WaitingCall, name: &str, worker: FreeWorker, now_ns: u64) {
        let handled = self.subsystems.call_of(&worker.subsystem, name).expect("it is a free worker");
        let wrong = check_raw(name, handled, &waiting.params).err();
        let Some(exchange) = self.exchanges.get_mut(number) else { return };
        let body = run_call(&worker.subsystem, name, &waiting.params, &waiting.by);
        exchange.targets.push(worker.asked());
        match wrong {
            Some(wrong) => self.end_target(number, 0, Ended::not_ok(TargetEnd::Refused, wrong), now_ns),
            None => self.ask_target(number, 0, RunCall::KIND, body, now_ns),
        }
    }

    /// The least busy of those that may take a call.
    ///
    /// # Errors
    /// The parameters are not as it wants them.
    fn free_worker(&self, name: &str, params: &[u8]) -> Result<Option<FreeWorker>, Failure> {
        let Some(worker) = self.least_busy(name) else { return Ok(None) };
        check_raw(name, worker.handled, params)?;
        Ok(Some(worker.into()))
    }

    fn least_busy<'a>(&'a self, name: &'a str) -> Option<Worker<'a>> {
        let free = self.subsystems.workers(name, &self.registry).filter_map(|worker| {
            let (busy, at_once) = (worker.load.count(), worker.handled.at_once as usize);
            (busy < at_once).then(|| (busy * 1000 / at_once, worker))
        });
        // Of several the first by name: they come sorted.
        Some(free.min_by_key(|(load, _)| *load)?.1)
    }

    /// Calls that wait, after a worker has come.
    pub(super) fn dispatch_all(&mut self, now_ns: u64) {
        for name in self.exchanges.waiting_calls() {
            self.dispatch(&name, now_ns);
        }
    }
}

impl From<Worker<'_>> for FreeWorker {
    fn from(worker: Worker<'_>) -> Self {
        Self { subsystem: worker.name.clone(), agent: worker.agent.clone(), load: worker.load.clone() }
    }
}

impl FreeWorker {
    fn asked(self) -> Target {
        let Self { subsystem, agent, load } = self;
        Target { subsystem, agent, load: Some(load), asked_id: 0, end: None }
    }
}

/// As [`check_against`], of parameters as they came.
fn check_raw(what: &str, handled: &Handled, params: &[u8]) -> Result<(), Failure> {
    if handled.params.is_empty() { Ok(()) } else { check_against(what, handled, &decoded(params)) }
}
