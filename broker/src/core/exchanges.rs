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
//!     connection it comes over. No id is used again, not after a restart of the broker either: a late answer to the
//!     broker before is none to this one.
//! E2  A worker that still has a call whose caller has gone stays busy until it answers or is gone. It is told again and
//!     again that nobody waits, and answers also if it never had the call: so no worker stays busy by a lost message.
//! E3  The number of open exchanges is limited, of one caller and of all, and so is each queue of calls.

use super::{
    Outgoing, Sender, Session, nanoseconds,
    passing::{NIL, call_result, content_bytes, decoded_value},
    subsystems::ItemPath,
    traces::{Origin, SpanNumber},
};
use crate::limits::{
    EXCHANGES_MAX, EXCHANGES_OF_SESSION_MAX, QUEUED_BYTES_MAX, QUEUED_CALLS_MAX, REPEAT_INTERVAL, RESULTS_BYTES_MAX,
};
use ecs_schemas::{
    envelope::{Header, Notice, encode},
    error_code::{ErrorCode, Failure},
    exchange::{Cancel, EventResults, TargetEnd, TargetEnded, TargetResult},
    keys::PublicKey,
    kv::Reading,
    value::Value,
};
use foldhash::quality::RandomState;
use smol_str::{SmolStr, format_smolstr};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    hash::Hash,
};

/// What is asked, and so what the answer looks like.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    Read {
        path: ItemPath,
    },
    /// `guarded`: it names the revision that it replaces.
    Write {
        path: ItemPath,
        guarded: bool,
    },
    Event {
        name: SmolStr,
    },
    Call {
        name: SmolStr,
    },
}

/// One exchange. See the picture.
pub struct Exchange {
    pub caller: Session,
    /// The key that the caller asked with, and who that is.
    pub sender: Sender,
    pub by: SmolStr,
    /// The caller's header, for its answer.
    pub header: Header,
    pub ask: Ask,
    pub deadline_ns: u64,
    pub targets: Vec<Target>,
    /// Of what its targets have answered.
    pub results_bytes: usize,
    /// Of a call that waits for a worker: the encoded `call.run` without its subsystem is made when one is free.
    pub waiting: Option<WaitingCall>,
    pub origin: Origin,
}

/// A call's parameters while it waits.
pub struct WaitingCall {
    /// As they came.
    pub params: Vec<u8>,
    pub by: SmolStr,
}

pub struct Target {
    pub subsystem: SmolStr,
    pub agent: SmolStr,
    /// Id it was asked by; 0 if it was not asked.
    pub asked_id: u64,
    pub end: Option<Ended>,
}

/// How a target has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub end: TargetEnd,
    /// Of `ok`: the value as it came; else a nil.
    pub value: Vec<u8>,
    /// Of all others.
    pub reason: Option<Failure>,
}

impl Ended {
    pub fn ok(value: &[u8]) -> Self {
        Self { end: TargetEnd::Ok, value: value.to_vec(), reason: None }
    }

    pub fn not_ok(end: TargetEnd, reason: Failure) -> Self {
        Self { end, value: NIL.to_vec(), reason: Some(reason) }
    }

    fn decoded(&self) -> Value {
        decoded_value(&self.value)
    }
}

/// A question that an agent has.
struct Asked {
    agent: SmolStr,
    /// None when the caller's exchange is over (E2).
    exchange: Option<(u64, usize)>,
    /// Of a call: the subsystem and the call that it keeps busy.
    busy: Option<(SmolStr, SmolStr)>,
    /// When the agent is told again that nobody waits; 0 while somebody does.
    cancel_at_ns: u64,
    /// In the trace.
    span: SpanNumber,
}

/// Keys are names, numbers, and identities of connections: short, and not all chosen by the broker.
type Table<K, V> = HashMap<K, V, RandomState>;

#[derive(Default)]
pub struct Exchanges {
    open: Table<u64, Exchange>,
    asked: Table<u64, Asked>,
    by_caller: Table<(Session, u64), u64>,
    of_session: Table<Session, usize>,
    deadlines: BTreeSet<(u64, u64)>,
    /// Items that are being set, and how many sets each has; those with a guarded one.
    being_set: Table<ItemPath, usize>,
    guarded: HashSet<ItemPath>,
    /// Calls under way of each subsystem and call.
    busy: Table<(SmolStr, SmolStr), usize>,
    /// Exchanges that wait for a worker, by name of the call.
    queues: BTreeMap<SmolStr, VecDeque<u64>>,
    queued_bytes: usize,
    /// Calls that workers have for nobody, by when they are told again (E2).
    abandoned: BTreeSet<(u64, u64)>,
    last_id: u64,
}

impl Exchanges {
    /// Ids begin with the time: in a nanosecond less than one is used, so no broker uses those of the one before.
    pub fn new(now_ns: u64) -> Self {
        Self { last_id: now_ns, ..Self::default() }
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
    pub fn note_asked(&mut self, number: u64, index: usize, id: u64, span: SpanNumber) {
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
        let asked = Asked { agent: target.agent.clone(), exchange: Some((number, index)), busy, cancel_at_ns: 0, span };
        self.asked.insert(id, asked);
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
        self.abandoned.remove(&(asked.cancel_at_ns, id));
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

    fn free(&mut self, busy: Option<&(SmolStr, SmolStr)>) {
        if let Some(key) = busy {
            count_down(&mut self.busy, key);
        }
    }

    /// Ends one target: true if it was the last, none if it has ended before.
    pub fn end_target(&mut self, number: u64, index: usize, mut ended: Ended) -> Option<bool> {
        let exchange = self.open.get_mut(&number).filter(|exchange| exchange.targets[index].end.is_none())?;
        let bytes = content_bytes(&ended.value);
        if exchange.targets.len() > 1 && exchange.results_bytes + bytes > RESULTS_BYTES_MAX {
            let message = format!("its answer of {bytes} bytes found no room beside those of the other targets");
            let reason = Failure::new(ErrorCode::Busy, message).with_hint("ask fewer targets at a time");
            ended = Ended::not_ok(TargetEnd::Failed, reason);
        } else {
            exchange.results_bytes += bytes;
        }
        exchange.targets[index].end = Some(ended);
        Some(exchange.waiting.is_none() && exchange.targets.iter().all(|target| target.end.is_some()))
    }

    /// Takes out an exchange that is over, with the spans of what was not answered. A worker that has its call keeps it
    /// for nobody (E2).
    pub fn close(&mut self, number: u64, now_ns: u64) -> Option<(Exchange, Vec<u64>)> {
        let exchange = self.open.remove(&number)?;
        self.by_caller.remove(&(exchange.caller.clone(), exchange.header.id));
        self.deadlines.remove(&(exchange.deadline_ns, number));
        count_down(&mut self.of_session, &exchange.caller);
        match &exchange.ask {
            Ask::Write { path, guarded } => {
                count_down(&mut self.being_set, path);
                if *guarded {
                    self.guarded.remove(path);
                }
            }
            Ask::Call { name } => self.leave_queue(name, number, exchange.waiting.as_ref()),
            Ask::Read { .. } | Ask::Event { .. } => {}
        }
        let spans = exchange.targets.iter().filter_map(|target| self.abandon(target.asked_id, now_ns)).collect();
        Some((exchange, spans))
    }

    fn leave_queue(&mut self, call: &str, number: u64, waiting: Option<&WaitingCall>) {
        if let (Some(waiting), Some(queue)) = (waiting, self.queues.get_mut(call)) {
            queue.retain(|other| *other != number);
            self.queued_bytes -= waiting.params.len();
            if queue.is_empty() {
                self.queues.remove(call);
            }
        }
    }

    /// Nobody waits for the answer to a question any more. Its span, if it was not answered.
    fn abandon(&mut self, id: u64, now_ns: u64) -> Option<u64> {
        let asked = self.asked.get_mut(&id)?;
        let span = asked.span;
        if asked.busy.is_none() {
            self.asked.remove(&id);
        } else {
            asked.exchange = None;
            asked.cancel_at_ns = now_ns + nanoseconds(REPEAT_INTERVAL);
            self.abandoned.insert((asked.cancel_at_ns, id));
        }
        Some(span)
    }

    /// Agents that are to be told again that nobody waits for a question's answer.
    pub fn take_repeated_cancels(&mut self, now_ns: u64) -> Vec<(SmolStr, u64)> {
        let mut due = Vec::new();
        while self.abandoned.first().is_some_and(|(at_ns, _)| *at_ns <= now_ns)
            && let Some((_, id)) = self.abandoned.pop_first()
        {
            let asked = self.asked.get_mut(&id).expect("what is abandoned was asked");
            asked.cancel_at_ns = now_ns + nanoseconds(REPEAT_INTERVAL);
            self.abandoned.insert((asked.cancel_at_ns, id));
            due.push((asked.agent.clone(), id));
        }
        due
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

    /// Exchanges of whoever asked with this key.
    pub fn of_key(&self, key: &PublicKey) -> Vec<u64> {
        let mut its: Vec<_> =
            self.open.iter().filter(|(_, open)| open.sender.key() == Some(key)).map(|(number, _)| *number).collect();
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
    pub fn busy(&self, subsystem: &SmolStr, call: &SmolStr) -> usize {
        self.busy.get(&(subsystem.clone(), call.clone())).copied().unwrap_or(0)
    }

    /// Whether another call may wait for a worker.
    ///
    /// # Errors
    /// `busy`: the queue is full.
    pub fn check_queue(&self, call: &str, bytes: usize) -> Result<(), Failure> {
        let hint = "start another worker, or ask later";
        if self.queues.get(call).is_some_and(|queue| queue.len() >= QUEUED_CALLS_MAX) {
            let message = format!("{QUEUED_CALLS_MAX} calls of {call} wait for a worker already");
            return Err(Failure::new(ErrorCode::Busy, message).with_hint(hint));
        }
        if self.queued_bytes + bytes > QUEUED_BYTES_MAX {
            let message = format!("calls with {} bytes of parameters wait for workers already", self.queued_bytes);
            return Err(Failure::new(ErrorCode::Busy, message).with_hint(hint));
        }
        Ok(())
    }

    /// Puts an open call behind those that wait for a worker.
    pub fn enqueue(&mut self, call: &SmolStr, number: u64, waiting: WaitingCall) {
        let Some(exchange) = self.open.get_mut(&number) else { return };
        self.queued_bytes += waiting.params.len();
        exchange.waiting = Some(waiting);
        self.queues.entry(call.clone()).or_default().push_back(number);
    }

    /// The call that has waited longest.
    pub fn dequeue(&mut self, call: &str) -> Option<(u64, WaitingCall)> {
        let number = *self.queues.get(call)?.front()?;
        let waiting = self.open.get_mut(&number).and_then(|exchange| exchange.waiting.take());
        let waiting = waiting.expect("a call in the queue is open and waits");
        self.queued_bytes -= waiting.params.len();
        let queue = self.queues.get_mut(call)?;
        queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(call);
        }
        Some((number, waiting))
    }

    /// Whether nobody waits for a worker of this call.
    pub fn is_queue_empty(&self, call: &str) -> bool {
        !self.queues.contains_key(call)
    }

    pub fn waiting_calls(&self) -> Vec<SmolStr> {
        self.queues.keys().cloned().collect()
    }

    /// Entries in all tables, for a test that nothing is left behind.
    pub fn entries(&self) -> usize {
        let open = self.open.len() + self.by_caller.len() + self.of_session.len() + self.deadlines.len();
        let sets = self.being_set.len() + self.guarded.len();
        let calls = self.busy.len() + self.queues.len() + self.queued_bytes + self.abandoned.len();
        open + self.asked.len() + sets + calls
    }
}

fn count_down<K: Eq + Hash>(counts: &mut Table<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Ask {
    /// What it is about, for the trace.
    pub fn subject(&self) -> SmolStr {
        match self {
            Self::Read { path } | Self::Write { path, .. } => format_smolstr!("{}/{}", path.0, path.1),
            Self::Event { name } | Self::Call { name } => name.clone(),
        }
    }
}

impl Target {
    /// How it has ended, as its caller is told.
    pub fn result(&self) -> Option<TargetResult> {
        let ended = self.end.as_ref()?;
        Some(TargetResult {
            target: self.subsystem.to_string(),
            end: ended.end,
            value: ended.decoded(),
            reason: ended.reason.clone(),
        })
    }
}

impl Exchange {
    /// The answer to the caller, once every target has ended. `written`: the revision of the item that was written, or why
    /// what its owner has taken is not kept.
    pub fn answer(mut self, written: Result<u64, Failure>, now_ns: u64) -> Outgoing {
        let body = match &self.ask {
            Ask::Event { .. } => {
                let results = self.targets.iter().filter_map(Target::result).collect();
                Ok(encode(&EventResults { results }))
            }
            Ask::Call { .. } => self.single_end().map(|(by, end)| call_result(&end.value, &by)),
            Ask::Read { .. } | Ask::Write { .. } => self.single_end().and_then(|(_, end)| {
                Ok(encode(&Reading { value: end.decoded(), revision: written?, time_ns: now_ns }))
            }),
        };
        let (header, body) = match body {
            Ok(body) => (self.header.reply(), body),
            Err(failure) => (self.header.error(), encode(&failure)),
        };
        Outgoing { session: self.caller, header, body }
    }

    /// The only target, and how it has ended well.
    fn single_end(&mut self) -> Result<(SmolStr, Ended), Failure> {
        let target = self.targets.first_mut().and_then(|target| Some((target.subsystem.clone(), target.end.take()?)));
        let (name, ended) = target.ok_or_else(|| Failure::new(ErrorCode::Timeout, "nobody answered in time"))?;
        match (ended.end, &ended.reason) {
            (TargetEnd::Ok, _) => Ok((name, ended)),
            (_, Some(reason)) => Err(reason.clone()),
            (other, None) => Err(Failure::new(ErrorCode::Other, format!("{name}: {}", other.as_str()))),
        }
    }

    /// What an event's caller is told when one target has ended.
    pub fn target_notice(&self, index: usize) -> Option<Outgoing> {
        let result = self.targets[index].result().filter(|_| matches!(self.ask, Ask::Event { .. }))?;
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
