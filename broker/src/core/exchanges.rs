//! What is asked of handlers and not answered yet: reads and writes of items, events, calls.
//!
//! ```text
//! caller's request ──▶ exchange ──▶ target, target, …      each asked under an id of the broker's own
//!                         │  ◀────── answer, error, death, deadline, cancel: the target's one end
//!                         └─▶ all targets have ended ─▶ the caller's answer
//! ```
//!
//! # Rules (X1 to X5 of `schemas::exchange` hold here; these add to them)
//! E1  A target is asked by the id in `asked`; an answer counts only from the agent that was asked, whatever
//!     connection it comes over.
//! E2  A worker that still has a call whose caller has gone stays busy until it answers or is gone.
//! E3  The number of open exchanges is limited, of one caller and of all, and so is each queue of calls.

use super::{Outgoing, Session, traces::Origin};
use crate::limits::{EXCHANGES_MAX, EXCHANGES_OF_SESSION_MAX, QUEUED_CALLS_MAX};
use ecs_schemas::{
    envelope::{Header, Notice, encode},
    error_code::{ErrorCode, Failure},
    exchange::{Cancel, EventResults, TargetEnd, TargetEnded, TargetResult},
    value::Value,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

/// An item, as subsystem and name.
pub type ItemPath = (String, String);

/// What is asked, and so what the answer looks like.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    Read,
    /// `guarded`: it names the revision that it replaces.
    Write {
        path: ItemPath,
        guarded: bool,
    },
    Event {
        name: String,
    },
    Call {
        name: String,
    },
}

/// One exchange. See the picture.
pub struct Exchange {
    pub caller: Session,
    /// Who that is.
    pub by: String,
    /// The caller's header, for its answer.
    pub header: Header,
    pub ask: Ask,
    pub deadline_ns: u64,
    pub targets: Vec<Target>,
    /// Of a call that waits for a worker: what is asked of it once one is free.
    pub waiting: Option<WaitingCall>,
    pub origin: Origin,
}

/// A call's parameters while it waits.
pub struct WaitingCall {
    pub params: ecs_schemas::exchange::Params,
    pub by: String,
}

pub struct Target {
    pub subsystem: String,
    pub agent: String,
    /// Id it was asked by; 0 if it was not asked.
    pub asked_id: u64,
    pub end: Option<TargetResult>,
}

/// A question that an agent has.
struct Asked {
    agent: String,
    /// None when the caller's exchange is over (E2).
    exchange: Option<(u64, usize)>,
    /// Of a call: the subsystem and the call that it keeps busy.
    busy: Option<(String, String)>,
    /// In the trace.
    span: u64,
}

#[derive(Default)]
pub struct Exchanges {
    open: HashMap<u64, Exchange>,
    asked: HashMap<u64, Asked>,
    by_caller: HashMap<(Session, u64), u64>,
    of_session: HashMap<Session, usize>,
    deadlines: BTreeSet<(u64, u64)>,
    /// Items that are being set, and how many sets each has; those with a guarded one.
    being_set: HashMap<ItemPath, usize>,
    guarded: HashSet<ItemPath>,
    /// Calls under way of each subsystem and call.
    busy: HashMap<(String, String), u32>,
    /// Exchanges that wait for a worker, by name of the call.
    queues: BTreeMap<String, VecDeque<u64>>,
    last_id: u64,
}

impl Exchanges {
    /// Ids rise from `first_id`, which is another one at each start: what was asked by an earlier broker and is answered
    /// late is no answer to what this one asks.
    pub fn beginning_at(first_id: u64) -> Self {
        Self { last_id: first_id, ..Self::default() }
    }

    /// Whether the caller may ask another question.
    ///
    /// # Errors
    /// `busy`, or `bad_message` for an id that it has open already.
    pub fn admit(&self, caller: &Session, id: u64) -> Result<(), Failure> {
        if self.by_caller.contains_key(&(caller.clone(), id)) {
            return Err(Failure::new(ErrorCode::BadMessage, format!("request {id} of this connection is still open")));
        }
        let own = self.of_session.get(caller).copied().unwrap_or(0);
        if own >= EXCHANGES_OF_SESSION_MAX || self.open.len() >= EXCHANGES_MAX {
            let message = format!("{own} requests of this connection and {} of all are open", self.open.len());
            return Err(Failure::new(ErrorCode::Busy, message).with_hint("wait for answers before asking more"));
        }
        Ok(())
    }

    /// An id that nobody was asked by yet.
    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Opens an exchange that was admitted. Its targets are asked with [`Exchanges::note_asked`].
    pub fn open(&mut self, exchange: Exchange) -> u64 {
        let number = self.next_id();
        self.by_caller.insert((exchange.caller.clone(), exchange.header.id), number);
        *self.of_session.entry(exchange.caller.clone()).or_default() += 1;
        self.deadlines.insert((exchange.deadline_ns, number));
        if let Ask::Write { path, guarded } = &exchange.ask {
            *self.being_set.entry(path.clone()).or_default() += 1;
            if *guarded {
                self.guarded.insert(path.clone());
            }
        }
        self.open.insert(number, exchange);
        number
    }

    /// Target `index` of an exchange is asked by `id`.
    pub fn note_asked(&mut self, number: u64, index: usize, id: u64, span: u64) {
        let Some(exchange) = self.open.get_mut(&number) else { return };
        let target = &mut exchange.targets[index];
        target.asked_id = id;
        let busy = match &exchange.ask {
            Ask::Call { name } => Some((target.subsystem.clone(), name.clone())),
            _ => None,
        };
        if let Some(busy) = &busy {
            *self.busy.entry(busy.clone()).or_default() += 1;
        }
        self.asked.insert(id, Asked { agent: target.agent.clone(), exchange: Some((number, index)), busy, span });
    }

    pub fn get(&self, number: u64) -> Option<&Exchange> {
        self.open.get(&number)
    }

    pub fn get_mut(&mut self, number: u64) -> Option<&mut Exchange> {
        self.open.get_mut(&number)
    }

    pub fn number_of(&self, caller: &Session, id: u64) -> Option<u64> {
        self.by_caller.get(&(caller.clone(), id)).copied()
    }

    /// An agent has answered question `id`: the question's span, and the exchange and target that it was for,
    /// if anybody still waits. None if the agent was not asked (E1). The agent's worker is free again.
    pub fn take_answer(&mut self, agent: &str, id: u64) -> Option<(u64, Option<(u64, usize)>)> {
        if self.asked.get(&id)?.agent != agent {
            return None;
        }
        let asked = self.asked.remove(&id)?;
        self.free(asked.busy.as_ref());
        Some((asked.span, asked.exchange))
    }

    /// The exchange and target behind a question that an agent still has.
    pub fn target_of(&self, agent: &str, id: u64) -> Option<(u64, usize)> {
        self.asked.get(&id).filter(|asked| asked.agent == agent)?.exchange
    }

    /// An agent is gone: the spans and targets of what it will not answer.
    pub fn drop_agent(&mut self, agent: &str) -> Vec<(u64, Option<(u64, usize)>)> {
        let mut ids: Vec<u64> = self.asked.iter().filter(|(_, its)| its.agent == agent).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| self.take_answer(agent, id)).collect()
    }

    fn free(&mut self, busy: Option<&(String, String)>) {
        if let Some(key) = busy
            && let Some(count) = self.busy.get_mut(key)
        {
            *count -= 1;
            if *count == 0 {
                self.busy.remove(key);
            }
        }
    }

    /// Ends one target; true if it was the last.
    pub fn end_target(
        &mut self,
        number: u64,
        index: usize,
        end: TargetEnd,
        value: Value,
        reason: Option<Failure>,
    ) -> bool {
        let Some(exchange) = self.open.get_mut(&number) else { return false };
        let target = &mut exchange.targets[index];
        if target.end.is_none() {
            target.end = Some(TargetResult { target: target.subsystem.clone(), end, value, reason });
        }
        exchange.waiting.is_none() && exchange.targets.iter().all(|target| target.end.is_some())
    }

    /// Takes out an exchange that is over. What agents still have of it has no caller any more (E2).
    pub fn close(&mut self, number: u64) -> Option<Exchange> {
        let exchange = self.open.remove(&number)?;
        self.by_caller.remove(&(exchange.caller.clone(), exchange.header.id));
        self.deadlines.remove(&(exchange.deadline_ns, number));
        if let Some(count) = self.of_session.get_mut(&exchange.caller) {
            *count -= 1;
            if *count == 0 {
                self.of_session.remove(&exchange.caller);
            }
        }
        if let Ask::Write { path, guarded } = &exchange.ask {
            if let Some(count) = self.being_set.get_mut(path) {
                *count -= 1;
                if *count == 0 {
                    self.being_set.remove(path);
                }
            }
            if *guarded {
                self.guarded.remove(path);
            }
        }
        if let (Ask::Call { name }, true) = (&exchange.ask, exchange.waiting.is_some())
            && let Some(queue) = self.queues.get_mut(name)
        {
            queue.retain(|waiting| *waiting != number);
            if queue.is_empty() {
                self.queues.remove(name);
            }
        }
        for target in &exchange.targets {
            match self.asked.get_mut(&target.asked_id) {
                Some(asked) if asked.busy.is_some() => asked.exchange = None, // E2
                _ => drop(self.asked.remove(&target.asked_id)),
            }
        }
        Some(exchange)
    }

    /// Exchanges whose deadline is over.
    pub fn overdue(&self, now_ns: u64) -> Vec<u64> {
        self.deadlines.iter().take_while(|(deadline_ns, _)| *deadline_ns <= now_ns).map(|(_, number)| *number).collect()
    }

    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline_ns, _)| *deadline_ns)
    }

    /// Exchanges of a caller that cannot be reached any more.
    pub fn of_caller(&self, caller: &Session) -> Vec<u64> {
        if !self.of_session.contains_key(caller) {
            return Vec::new();
        }
        let mut its: Vec<_> =
            self.by_caller.iter().filter(|((session, _), _)| session == caller).map(|(_, number)| *number).collect();
        its.sort_unstable();
        its
    }

    pub fn callers(&self) -> impl Iterator<Item = &Session> {
        self.of_session.keys()
    }

    pub fn count_of(&self, caller: &Session) -> usize {
        self.of_session.get(caller).copied().unwrap_or(0)
    }

    pub fn is_being_set(&self, path: &ItemPath) -> bool {
        self.being_set.contains_key(path)
    }

    pub fn is_guarded(&self, path: &ItemPath) -> bool {
        self.guarded.contains(path)
    }

    /// Calls that a subsystem has under way.
    pub fn busy(&self, subsystem: &str, call: &str) -> u32 {
        self.busy.get(&(subsystem.to_owned(), call.to_owned())).copied().unwrap_or(0)
    }

    /// Puts a call behind those that wait for a worker.
    ///
    /// # Errors
    /// `busy`: the queue is full.
    pub fn check_queue(&self, call: &str) -> Result<(), Failure> {
        if self.queues.get(call).is_some_and(|queue| queue.len() >= QUEUED_CALLS_MAX) {
            let message = format!("{QUEUED_CALLS_MAX} calls of {call} wait for a worker already");
            return Err(Failure::new(ErrorCode::Busy, message).with_hint("start another worker, or ask later"));
        }
        Ok(())
    }

    pub fn enqueue(&mut self, call: &str, number: u64) {
        self.queues.entry(call.to_owned()).or_default().push_back(number);
    }

    /// The call that has waited longest.
    pub fn dequeue(&mut self, call: &str) -> Option<u64> {
        let queue = self.queues.get_mut(call)?;
        let number = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(call);
        }
        number
    }

    pub fn waiting_calls(&self) -> Vec<String> {
        self.queues.keys().cloned().collect()
    }
}

impl Exchange {
    /// The answer to the caller, once every target has ended.
    pub fn answer(&self) -> Outgoing {
        let (header, body) = match &self.ask {
            Ask::Event { .. } => {
                let results = self.targets.iter().filter_map(|target| target.end.clone()).collect();
                (self.header.reply(), encode(&EventResults { results }))
            }
            _ => self.single_answer(),
        };
        Outgoing { session: self.caller.clone(), header, body }
    }

    fn single_answer(&self) -> (Header, Vec<u8>) {
        let end = self.targets.first().and_then(|target| target.end.as_ref());
        let failed = |failure: Option<&Failure>| {
            let unknown = Failure::new(ErrorCode::Timeout, "nobody answered in time");
            (self.header.error(), encode(failure.unwrap_or(&unknown)))
        };
        let Some(end) = end else { return failed(None) };
        match (&self.ask, end.end) {
            (Ask::Call { .. }, TargetEnd::Ok) => {
                let result = ecs_schemas::exchange::CallResult { value: end.value.clone(), by: end.target.clone() };
                (self.header.reply(), encode(&result))
            }
            (_, TargetEnd::Ok) => (self.header.reply(), encode(&end.value)),
            _ => failed(end.reason.as_ref()),
        }
    }

    /// What an event's caller is told when one target has ended.
    pub fn target_notice(&self, index: usize) -> Option<Outgoing> {
        let result = self.targets[index].end.clone().filter(|_| matches!(self.ask, Ask::Event { .. }))?;
        let body = encode(&TargetEnded { id: self.header.id, result });
        let header = Header { trace: self.header.trace, ..Header::notice(TargetEnded::KIND) };
        Some(Outgoing { session: self.caller.clone(), header, body })
    }

    /// Tells those that were asked and have not answered that nobody waits any more.
    pub fn cancels(&self, session_of: impl Fn(&str) -> Option<Session>) -> Vec<Outgoing> {
        let open = self.targets.iter().filter(|target| target.asked_id != 0 && target.end.is_none());
        let cancel = |target: &Target| {
            let body = encode(&Cancel { id: target.asked_id });
            Some(Outgoing { session: session_of(&target.agent)?, header: Header::notice(Cancel::KIND), body })
        };
        open.filter_map(cancel).collect()
    }
}
