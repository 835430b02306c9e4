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
    subsystems::{ItemPath, Load},
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
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque},
    hash::{BuildHasherDefault, Hash, Hasher},
    iter,
};

/// Deadlines are cleared of those of exchanges that are over where there are so many more than twice as many as open exchanges:
/// seldom enough to cost each exchange little.
const DEADLINES_KEPT: usize = 64;

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
    /// Of a call: what counts it among those that its worker has.
    pub load: Option<Load>,
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
    /// Of a call: what counts it among those that its worker has.
    load: Option<Load>,
    /// When the agent is told again that nobody waits; 0 while somebody does.
    cancel_at_ns: u64,
    /// In the trace.
    span: SpanNumber,
}

/// Keys are names, numbers, and identities of connections: short, and not all chosen by the broker.
type Table<K, V> = HashMap<K, V, RandomState>;
/// Keys are numbers that the broker has counted.
type Numbered<V> = HashMap<u64, V, BuildHasherDefault<NumberHasher>>;

#[derive(Default)]
pub struct Exchanges {
    open: Numbered<Box<Exchange>>,
    asked: Numbered<Asked>,
    /// Of each caller that waits: its own ids, and the numbers of their exchanges.
    callers: Table<Session, Table<u64, u64>>,
    /// When and which, the first on top. Those of exchanges that are over stay for a while; see [`DEADLINES_KEPT`].
    deadlines: BinaryHeap<Reverse<(u64, u64)>>,
    /// Items that are being set, and how many sets each has; those with a guarded one.
    being_set: Table<ItemPath, usize>,
    guarded: HashSet<ItemPath>,
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
        let its = self.callers.get(caller);
        if its.is_some_and(|its| its.contains_key(&id)) {
            return Err(Failure::new(ErrorCode::BadMessage, format!("request {id} of this connection is still open")));
        }
        let own = its.map_or(0, HashMap::len);
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
    pub fn open(&mut self, exchange: Box<Exchange>) -> u64 {
        let number = self.next_id();
        match self.callers.get_mut(&exchange.caller) {
            Some(its) => drop(its.insert(exchange.header.id, number)),
            None => {
                let its = iter::once((exchange.header.id, number)).collect();
                self.callers.insert(exchange.caller.clone(), its);
            }
        }
        self.note_deadline(exchange.deadline_ns, number);
        if let Ask::Write { path, guarded } = &exchange.ask {
            *self.being_set.entry(path.clone()).or_default() += 1;
            if *guarded {
                self.guarded.insert(path.clone());
            }
        }
        self.open.insert(number, exchange);
        number
    }

    fn note_deadline(&mut self, deadline_ns: u64, number: u64) {
        if self.deadlines.len() > DEADLINES_KEPT + 2 * self.open.len() {
            self.deadlines.retain(|Reverse((_, number))| self.open.contains_key(number));
        }
        self.deadlines.push(Reverse((deadline_ns, number)));
    }

    /// Target `index` of an exchange is asked by `id`.
    pub fn note_asked(&mut self, number: u64, index: usize, id: u64, span: SpanNumber) {
        let Some(exchange) = self.open.get_mut(&number) else { return };
        let target = &mut exchange.targets[index];
        target.asked_id = id;
        let load = target.load.take().inspect(Load::take_one);
        let asked = Asked { agent: target.agent.clone(), exchange: Some((number, index)), load, cancel_at_ns: 0, span };
        self.asked.insert(id, asked);
    }

    pub fn get(&self, number: u64) -> Option<&Exchange> {
        self.open.get(&number).map(AsRef::as_ref)
    }

    pub fn get_mut(&mut self, number: u64) -> Option<&mut Exchange> {
        self.open.get_mut(&number).map(AsMut::as_mut)
    }

    pub fn number_of(&self, caller: &Session, id: u64) -> Option<u64> {
        self.callers.get(caller)?.get(&id).copied()
    }

    /// An agent has answered question `id`: the question's span, and the exchange and target that it was for,
    /// if anybody still waits. None if the agent was not asked (E1). The agent's worker is free again.
    pub fn take_answer(&mut self, agent: &str, id: u64) -> Option<(u64, Option<(u64, usize)>)> {
        if self.asked.get(&id)?.agent != agent {
            return None;
        }
        let asked = self.asked.remove(&id)?;
        if asked.cancel_at_ns != 0 {
            self.abandoned.remove(&(asked.cancel_at_ns, id));
        }
        if let Some(load) = asked.load {
            load.give_back();
        }
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
    pub fn close(&mut self, number: u64, now_ns: u64) -> Option<(Box<Exchange>, Vec<SpanNumber>)> {
        let exchange = self.open.remove(&number)?;
        if self.open.is_empty() {
            self.deadlines.clear();
        }
        if let Some(its) = self.callers.get_mut(&exchange.caller) {
            its.remove(&exchange.header.id);
            if its.is_empty() {
                self.callers.remove(&exchange.caller);
            }
        }
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
        let mut spans = Vec::new();
        for target in &exchange.targets {
            spans.extend(self.abandon(target.asked_id, now_ns));
        }
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
        if asked.load.is_none() {
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

    /// Open exchanges whose deadline is over: each is told once.
    pub fn overdue(&mut self, now_ns: u64) -> Vec<u64> {
        let mut overdue = Vec::new();
        while let Some(Reverse((deadline_ns, number))) = self.deadlines.peek().copied()
            && deadline_ns <= now_ns
        {
            self.deadlines.pop();
            overdue.extend(self.open.contains_key(&number).then_some(number));
        }
        overdue
    }

    /// Not after the first deadline of an open exchange, and none if there is no such exchange.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.deadlines.peek().map(|Reverse((deadline_ns, _))| *deadline_ns)
    }

    /// Exchanges of a caller that cannot be reached any more.
    pub fn of_caller(&self, caller: &Session) -> Vec<u64> {
        let mut its: Vec<_> = self.callers.get(caller).into_iter().flat_map(HashMap::values).copied().collect();
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
        self.callers.keys()
    }

    pub fn count_of(&self, caller: &Session) -> usize {
        self.callers.get(caller).map_or(0, HashMap::len)
    }

    pub fn is_being_set(&self, path: &ItemPath) -> bool {
        self.being_set.contains_key(path)
    }

    pub fn is_guarded(&self, path: &ItemPath) -> bool {
        self.guarded.contains(path)
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
        let open = self.open.len() + self.callers.len() + self.deadlines.len();
        let sets = self.being_set.len() + self.guarded.len();
        let calls = self.queues.len() + self.queued_bytes + self.abandoned.len();
        open + self.asked.len() + sets + calls
    }
}

/// Of numbers that are counted up: any few of them differ in their lowest bits.
#[derive(Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing; the table takes its lowest bits, and its highest seven.
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("its keys are u64");
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
    pub fn answer(&self, written: Result<u64, Failure>, now_ns: u64) -> Outgoing {
        let body = match &self.ask {
            Ask::Event { .. } => {
                let results = self.targets.iter().filter_map(Target::result).collect();
                Ok(encode(&EventResults { results }))
            }
            Ask::Call { .. } => self.single_end().map(|(by, value)| call_result(value, by)),
            Ask::Read { .. } | Ask::Write { .. } => self.single_end().and_then(|(_, value)| {
                Ok(encode(&Reading { value: decoded_value(value), revision: written?, time_ns: now_ns }))
            }),
        };
        let (header, body) = match body {
            Ok(body) => (self.header.reply(), body),
            Err(failure) => (self.header.error(), encode(&failure)),
        };
        Outgoing { session: self.caller.clone(), header, body }
    }

    /// The only target, and the value with which it has ended well.
    fn single_end(&self) -> Result<(&str, &[u8]), Failure> {
        let target = self.targets.first().and_then(|target| Some((&target.subsystem, target.end.as_ref()?)));
        let (name, ended) = target.ok_or_else(|| Failure::new(ErrorCode::Timeout, "nobody answered in time"))?;
        match (ended.end, &ended.reason) {
            (TargetEnd::Ok, _) => Ok((name, &ended.value)),
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
