//! Calls: which worker does which, and those that wait for one.

use super::{
    Core,
    exchanges::{Ask, Ended, Target, WaitingCall},
    parameters::check_against,
    passing::{CallWanted, decoded, read_call, run_call},
    requests::{Answer, Call},
};
use ecs_schemas::{
    envelope::Request,
    error_code::{ErrorCode, Failure},
    exchange::{RunCall, TargetEnd},
    nearest::{nearest, quoted},
    subsystem::Handled,
};
use smol_str::SmolStr;

struct FreeWorker {
    subsystem: SmolStr,
    agent: SmolStr,
}

impl Core {
    /// # Errors
    /// `not_handled`, `wrong_type`, `out_of_range`, `bad_parameter`, `busy`.
    pub(super) fn do_call(&mut self, call: &Call<'_>, body: &[u8]) -> Answer {
        let CallWanted { call: name, params } = read_call(body)?;
        let worker = self.subsystems.workers(name, &self.registry).next();
        let worker = worker.ok_or_else(|| self.nobody_answers(name))?;
        check_raw(name, worker.handled, params)?;
        self.exchanges.admit(call.session, call.header.id)?;
        self.exchanges.check_queue(name, params.len())?;
        let waiting = WaitingCall { params: params.to_vec(), by: self.by(call) };
        let name = SmolStr::new(name);
        let exchange = self.new_exchange(call, Ask::Call { name: name.clone() }, Vec::new());
        let number = self.open(exchange);
        let is_next = self.exchanges.is_queue_empty(&name);
        match self.free_worker(&name).filter(|_| is_next) {
            Some(worker) => self.give(number, waiting, &name, worker, call.now_ns),
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
    pub(super) fn dispatch(&mut self, name: &SmolStr, now_ns: u64) {
        while !self.exchanges.is_queue_empty(name)
            && let Some(worker) = self.free_worker(name)
            && let Some((number, waiting)) = self.exchanges.dequeue(name)
        {
            self.give(number, waiting, name, worker, now_ns);
        }
    }

    /// The worker may be described otherwise than the one that was there when the call came (X2).
    fn give(&mut self, number: u64, waiting: WaitingCall, name: &str, worker: FreeWorker, now_ns: u64) {
        let FreeWorker { subsystem, agent } = worker;
        let handled = self.subsystems.call_of(&subsystem, name).expect("it is a free worker");
        let wrong = check_raw(name, handled, &waiting.params).err();
        let Some(exchange) = self.exchanges.get_mut(number) else { return };
        let body = run_call(&subsystem, name, &waiting.params, &waiting.by);
        exchange.targets.push(Target { subsystem, agent, asked_id: 0, end: None });
        match wrong {
            Some(wrong) => self.end_target(number, 0, Ended::not_ok(TargetEnd::Refused, wrong), now_ns),
            None => self.ask_target(number, 0, RunCall::KIND, body, now_ns),
        }
    }

    /// The least busy of those that may take a call.
    fn free_worker(&self, name: &SmolStr) -> Option<FreeWorker> {
        let free = self.subsystems.workers(name, &self.registry).filter_map(|worker| {
            let (busy, at_once) = (self.exchanges.busy(worker.name, name), worker.handled.at_once as usize);
            (busy < at_once).then(|| (busy * 1000 / at_once, worker))
        });
        let (_, worker) = free.min_by_key(|(load, worker)| (*load, worker.name))?;
        Some(FreeWorker { subsystem: worker.name.clone(), agent: SmolStr::new(worker.agent) })
    }

    /// Calls that wait, after a worker has come.
    pub(super) fn dispatch_all(&mut self, now_ns: u64) {
        for name in self.exchanges.waiting_calls() {
            self.dispatch(&name, now_ns);
        }
    }
}

/// As [`check_against`], of parameters as they came.
fn check_raw(what: &str, handled: &Handled, params: &[u8]) -> Result<(), Failure> {
    if handled.params.is_empty() { Ok(()) } else { check_against(what, handled, &decoded(params)) }
}
