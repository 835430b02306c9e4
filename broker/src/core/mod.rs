//! What the broker knows and decides. It never sees a socket, a disk or a clock.
//!
//! ```text
//!            ┌───────────────────── one batch ──────────────────────┐
//! inputs ──▶ step ──▶ answers (held back)      changes() ──▶ store ─┤ written ──▶ commit ──▶ answers leave,
//!            step ──▶ answers (held back)                           │             publications leave
//!            …                                                      └ failed ───▶ rollback; nothing leaves
//! ```
//!
//! # Rules
//! C1  Nothing that a step holds back leaves before [`Core::changes`] is on disk and [`Core::commit`] was called.
//! C2  After [`Core::rollback`] the jobs, and what follows what, are exactly as before the batch. What the registry learned (who
//!     is there, who was heard) stays: it is true whatever the disk does, and it is not stored.
//! C3  Whatever follows from the state follows from the state alone ([`Core::reconcile`]), not from the
//!     moment at which it changed: so a decision that could not be stored is taken again at the next tick.
//! C4  Publications are made in `commit`, from what has changed: an undone change is never published.
//! C5  A rollback undoes what is stored and nothing else. So an input is either replayed after it, and leaves no
//!     trace but what is undone or may happen twice; or it is done once, and its outputs leave in any case.
//! C6  No disk keeps an agent from coming, going or being ready: what becomes of jobs then is put off to the next tick if
//!     it cannot be stored with it ([`Core::put_off_jobs`]). Except one that claims a queued job, or says anew what a
//!     service follows: that is its own word, and must be on the disk before it is answered.
//!
//! | file | what |
//! |---|---|
//! | [`batch`] | one batch, from its inputs to what leaves |
//! | `requests` | which message does what, and the error for what is no message |
//! | [`access`] | who may do what |
//! | `session` | a connection |
//! | `registry` | agents and their sessions |
//! | `subsystems` | descriptions, alarms, and the last value of each item |
//! | `describing` | registering, describing, raising alarms; what follows when an agent is gone |
//! | `items` | get, set, publish, watch |
//! | `watches` | who is told of an item's values, and how often |
//! | `exchanges` | what is asked of handlers and not answered yet |
//! | `asking` | asking handlers, from request to answer |
//! | `events`, `calls`, `parameters` | whom an event or call goes to, and with what |
//! | `ending` | what ends before it was answered |
//! | `passing` | bodies whose values are passed on as they came |
//! | `traces` | which message led to which |
//! | `jobs` | the table of jobs: undo, indexes, limits |
//! | `job_life` | submit, cancel, report, and what follows from time and presence |
//! | `queue` | who gets the next job of a service; hold, release, move |
//! | `followers`, `follow_ups` | which service follows which; the jobs that follow a job, and what became of all |
//! | `job_query` | which of the kept jobs somebody wants to see |
//! | `topics` | sequence numbers and last values of what is published |

pub mod access;
mod asking;
mod batch;
mod calls;
mod describing;
mod ending;
mod events;
mod exchanges;
mod follow_ups;
mod followers;
mod items;
mod job_life;
mod job_query;
mod jobs;
mod parameters;
mod passing;
mod queue;
mod registry;
mod requests;
mod session;
mod subsystems;
mod topics;
mod traces;
mod watches;

pub use access::Sender;
pub use batch::Outputs;
pub use jobs::Change;
pub use session::Session;
pub use subsystems::{StoredSubsystem, StoredValue, Unstored};
pub use topics::Publication;

use crate::limits::{CLIENTS_MAX, UPDATES_BYTES_MAX};
use bytes::Bytes;
use ecs_schemas::{
    alarm::alarm_topic,
    envelope::{Header, Notice, encode},
    exchange::{EventEnded, event_topic},
    job::JobRecord,
    keys::PublicKey,
    kv::{Reading, Update, item_topic},
    registry::BrokerStatus,
    subsystem::description_topic,
    telemetry::{job_topic, state_topic, telemetry_topic},
};
use exchanges::{Exchange, Exchanges};
use followers::Followers;
use jobs::Jobs;
use registry::Registry;
use smallvec::SmallVec;
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};
use subsystems::{PublishedValue, Subsystems};
use topics::Topics;
use traces::Traces;
use watches::{Due, Watches};

/// Source of what the broker publishes by its own word.
const SOURCE_BROKER: &str = "broker";
/// Who asks over a connection that has not registered and has no key.
const ANONYMOUS: &str = "anonymous";

/// What a message consists of, at most `PARTS_MAX` of them.
pub type Parts = SmallVec<[Bytes; 2]>;

/// What happens to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A message from `session`: header and body, or whatever came instead.
    Message { session: Session, sender: Sender, parts: Parts },
    /// Somebody subscribed to all topics that begin with `prefix`.
    Subscribed { prefix: Vec<u8> },
    /// A message to `session` could not be delivered, because there is no such connection any more.
    Unreachable { session: Session },
    /// A key opens nothing any more, or no longer what it did: whoever registered with it is gone.
    Revoked { key: PublicKey },
    /// Time went on: look at everything.
    Tick,
    /// The moment of [`Core::wake_ns`] has come, perhaps.
    Wake,
}

impl Input {
    /// A message of these parts.
    pub fn message(session: Session, sender: Sender, parts: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self::Message { session, sender, parts: parts.into_iter().map(Bytes::from).collect() }
    }
}

/// What a step returned.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stepped {
    /// To be sent once the batch is on disk (rule C1).
    pub held: Vec<Outgoing>,
    /// To be sent whatever the disk does: what is asked of handlers, and their answers, is in memory alone.
    pub free: Vec<Outgoing>,
    /// The input must not be handled again after a rollback: it asked handlers, or was their answer (rule C5).
    pub once: bool,
}

/// A message to one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub session: Session,
    pub header: Header,
    pub body: Vec<u8>,
}

/// What a core is told once, at its start.
#[derive(Debug, Clone)]
pub struct CoreOptions {
    pub beamline: String,
    pub heartbeat: Duration,
    pub timeout: Duration,
    /// Name and kind of the agents that the configuration has.
    pub expected: Vec<(String, String)>,
    pub pid: u32,
    /// The ids of traces follow from it.
    pub seed: u64,
}

/// What a broker remembered when it ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stored {
    pub jobs: Vec<JobRecord>,
    /// A service, and the one that it follows.
    pub followers: Vec<(String, String)>,
    pub subsystems: Vec<StoredSubsystem>,
    pub values: Vec<StoredValue>,
}

/// What must be on disk before a batch is answered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    pub jobs: Vec<Change>,
    pub values: Vec<StoredValue>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.values.is_empty()
    }
}

/// Messages by what became of them, for `status.get`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counters {
    received: u64,
    malformed: u64,
    undeliverable: u64,
}

/// What leaves with a commit.
struct Updates {
    messages: Vec<Outgoing>,
    /// Of the values in it; see `UPDATES_BYTES_MAX`.
    bytes: usize,
}

pub struct Core {
    options: CoreOptions,
    started_ns: u64,
    registry: Registry,
    jobs: Jobs,
    followers: Followers,
    topics: Topics,
    subsystems: Subsystems,
    exchanges: Exchanges,
    watches: Watches,
    traces: Traces,
    /// Messages that each session has lost because it did not read.
    lost: HashMap<Session, u64>,
    /// Rule C6.
    are_jobs_put_off: bool,
    /// Outputs that leave whatever the disk does; whether this step is done once (rule C5).
    free: Vec<Outgoing>,
    once: bool,
    /// Subsystems whose descriptions of this batch are handled again if the disk fails: what follows them is, too.
    redescribed: BTreeSet<String>,
    /// Events that have ended since the last commit, by their topic.
    ended_events: Vec<(String, EventEnded)>,
    /// Writes whose owner has answered: the revision in the caller's answer is that of after the batch.
    written: Vec<Exchange>,
    counters: Counters,
    /// The counters at the start of the batch, so that a message that is handled twice counts once.
    counters_before: Counters,
}

impl Core {
    /// A core at `now_ns` (nanoseconds since 1970-01-01 UTC) that remembers what is `stored`.
    pub fn new(options: CoreOptions, stored: Stored, now_ns: u64) -> Self {
        Self {
            started_ns: now_ns,
            registry: Registry::new(&options, now_ns),
            jobs: Jobs::load(stored.jobs),
            followers: Followers::load(stored.followers),
            topics: Topics::default(),
            subsystems: Subsystems::load(stored.subsystems, stored.values),
            exchanges: Exchanges::new(now_ns),
            watches: Watches::default(),
            traces: Traces::new(options.seed),
            lost: HashMap::new(),
            are_jobs_put_off: false,
            free: Vec::new(),
            once: false,
            redescribed: BTreeSet::new(),
            ended_events: Vec::new(),
            written: Vec::new(),
            counters: Counters::default(),
            counters_before: Counters::default(),
            options,
        }
    }

    /// Takes one input and returns what is to be sent.
    pub fn step(&mut self, now_ns: u64, input: &Input) -> Stepped {
        let mut held = Vec::new();
        let once = self.take(now_ns, input, &mut held);
        Stepped { held, free: std::mem::take(&mut self.free), once }
    }

    /// Takes one input. What may leave in any case is in `self.free`, all else is appended to `held`; true if it is done once.
    fn take(&mut self, now_ns: u64, input: &Input, held: &mut Vec<Outgoing>) -> bool {
        let (before, first) = (self.counters, held.len());
        self.once = matches!(input, Input::Unreachable { .. });
        match input {
            Input::Message { session, sender, parts } => self.message(now_ns, session, sender, parts, held),
            Input::Subscribed { prefix } => self.topics.want(prefix),
            Input::Unreachable { session } => {
                self.watches.forget(session);
                self.lost.remove(session);
                self.drop_caller(session, now_ns);
            }
            Input::Revoked { key } => {
                self.registry.revoke(key, now_ns);
                self.watches.revoke(key);
                self.end_of_key(key, now_ns);
                self.reconcile(now_ns, held);
            }
            Input::Tick => {
                self.registry.expire(now_ns);
                self.repeat_cancels(now_ns);
                self.dispatch_all(now_ns); // workers that were freed by a question which was lost
                self.reconcile(now_ns, held);
            }
            Input::Wake => {}
        }
        self.follow_parted(now_ns);
        self.end_overdue(now_ns);
        if self.once {
            self.free.extend(held.drain(first..));
            self.counters_before.received += self.counters.received - before.received;
            self.counters_before.malformed += self.counters.malformed - before.malformed;
        }
        self.once
    }

    /// From now on steps leave alone what becomes of jobs when agents come and go, or not any more (rule C6).
    fn put_off_jobs(&mut self, are_put_off: bool) {
        self.are_jobs_put_off = are_put_off;
    }

    /// When [`Core::step`] has something to do though nothing came in, if before the next tick.
    pub fn wake_ns(&self) -> Option<u64> {
        [self.exchanges.next_deadline_ns(), self.watches.next_due_ns()].into_iter().flatten().min()
    }

    /// What must be on disk before anything of this batch leaves. Empty for most batches.
    pub fn changes(&self) -> Changes {
        let mut jobs = self.jobs.changes();
        jobs.extend(self.followers.changes());
        Changes { jobs, values: self.subsystems.changed_values() }
    }

    /// Descriptions to be stored when there is time (rule D2).
    pub fn unstored(&self) -> Vec<Unstored> {
        self.subsystems.unstored()
    }

    /// What [`Core::unstored`] returned is on disk.
    pub fn note_stored(&mut self) {
        self.subsystems.note_stored();
    }

    /// The batch is on disk: forgets how to undo it and returns what is to be published.
    /// Watchers are told too, and those whose writes were answered: those are the messages.
    fn commit(&mut self, now_ns: u64) -> (Vec<Publication>, Vec<Outgoing>) {
        let mut out = Vec::new();
        self.subsystems.commit();
        let answers = self.write_answers(now_ns);
        let mut updates = Updates { messages: answers, bytes: 0 };
        self.publish_subsystems(now_ns, &mut out);
        self.publish_values(now_ns, &mut out, &mut updates);
        for name in self.registry.take_changed() {
            let status = self.registry.status_of(&name, Vec::new());
            out.push(self.topics.publish(&state_topic(&name), SOURCE_BROKER, encode(&status), now_ns));
        }
        for (name, telemetry) in self.registry.take_telemetry() {
            out.push(self.topics.publish(&telemetry_topic(&name), &name, encode(&telemetry), now_ns));
        }
        self.followers.commit();
        for record in self.jobs.commit() {
            let topic = job_topic(&self.options.beamline, record.id);
            out.push(self.topics.publish(&topic, SOURCE_BROKER, encode(record), now_ns));
        }
        out.extend(self.topics.take_replays(now_ns));
        self.counters_before = self.counters;
        self.redescribed.clear();
        self.tell_due(now_ns, &mut updates);
        (out, updates.messages)
    }

    fn publish_subsystems(&mut self, now_ns: u64, out: &mut Vec<Publication>) {
        for name in self.subsystems.take_changed() {
            let body = self.subsystems.status(&name, &self.registry).map_or_else(|| encode(&()), |its| encode(&its));
            out.push(self.topics.publish(&description_topic(&name), SOURCE_BROKER, body, now_ns));
            if self.subsystems.description(&name).is_none() {
                self.topics.forget(&description_topic(&name));
                self.topics.forget_below(&alarm_topic(&name, ""));
                self.topics.forget_below(&event_topic(&name, ""));
            }
        }
        for told in self.subsystems.take_alarms() {
            let topic = alarm_topic(&told.subsystem, &told.alarm.code);
            out.push(self.topics.publish(&topic, &told.subsystem, encode(&told), now_ns));
            if self.subsystems.description(&told.subsystem).is_none() {
                self.topics.forget(&topic);
            }
        }
        for (topic, ended) in std::mem::take(&mut self.ended_events) {
            out.push(self.topics.publish(&topic, &ended.result.target, encode(&ended), now_ns));
            if self.subsystems.description(&ended.result.target).is_none() {
                self.topics.forget(&topic);
            }
        }
    }

    fn publish_values(&mut self, now_ns: u64, out: &mut Vec<Publication>, updates: &mut Updates) {
        for PublishedValue { path: (subsystem, item), reading, encoded, .. } in self.subsystems.take_published() {
            let topic = item_topic(&subsystem, &item);
            out.push(self.topics.publish_as(&topic, &subsystem, encoded, reading.revision, reading.time_ns));
            if self.watches.is_empty() {
                continue;
            }
            for due in self.watches.note_published(&[&subsystem, "/", &item].concat(), now_ns) {
                self.tell(due, &reading, now_ns, updates);
            }
        }
        for (subsystem, item) in self.subsystems.take_dropped() {
            self.topics.forget(&item_topic(&subsystem, &item));
        }
    }

    /// Watchers whose interval is over.
    fn tell_due(&mut self, now_ns: u64, updates: &mut Updates) {
        while updates.bytes < UPDATES_BYTES_MAX
            && let Some(due) = self.watches.take_due(now_ns)
        {
            let reading =
                due.path.rsplit_once('/').and_then(|(subsystem, item)| self.subsystems.reading(subsystem, item));
            if let Some(reading) = reading.cloned() {
                self.tell(due, &reading, now_ns, updates);
            }
        }
    }

    fn tell(&mut self, due: Due, reading: &Reading, now_ns: u64, updates: &mut Updates) {
        if updates.bytes >= UPDATES_BYTES_MAX {
            return self.watches.put_off(due, now_ns);
        }
        let Some(missed) = self.watches.tell(&due, reading, now_ns) else { return };
        let Some((subsystem, item)) = due.path.rsplit_once('/') else { return };
        let Reading { value, revision, time_ns } = reading.clone();
        let update =
            Update { subsystem: subsystem.to_owned(), item: item.to_owned(), value, revision, time_ns, missed };
        let body = encode(&update);
        updates.bytes += body.len();
        updates.messages.push(Outgoing { session: due.session, header: Header::notice(Update::KIND), body });
    }

    /// The batch could not be stored: its jobs are undone (rule C2).
    fn rollback(&mut self) {
        self.jobs.rollback();
        self.subsystems.rollback();
        self.followers.rollback();
        self.counters = self.counters_before;
    }

    /// Counts messages that the transport could not deliver.
    pub fn count_undeliverable(&mut self, messages: u64) {
        self.counters.undeliverable += messages;
        self.counters_before.undeliverable += messages;
    }

    /// A message was dropped because its receiver does not read: it is told with the next one. If it was a question,
    /// whoever asked hears of it at once.
    pub fn note_lost(&mut self, message: &Outgoing, now_ns: u64) -> Vec<Outgoing> {
        let session = &message.session;
        if self.lost.len() < CLIENTS_MAX || self.lost.contains_key(session) {
            *self.lost.entry(session.clone()).or_default() += 1;
        }
        if message.header.id != 0 && message.header.deadline_ms.is_some() {
            self.end_unread(session, message.header.id, now_ns);
        }
        std::mem::take(&mut self.free)
    }

    pub fn lost_of(&self, session: &Session) -> u64 {
        self.lost.get(session).copied().unwrap_or(0)
    }

    /// Who watches, or waits for an answer: what is kept for them is of use only as long as they are there.
    pub fn waiting_sessions(&self) -> BTreeSet<Session> {
        self.watches.watchers().chain(self.exchanges.callers()).cloned().collect()
    }

    /// Entries in the tables of exchanges and watches: none when all is answered and nobody watches.
    pub fn open_entries(&self) -> usize {
        self.exchanges.entries() + self.watches.entries() + self.written.len()
    }

    /// The sum of bytes that is kept of all values, and the sum that they have: always the same.
    pub fn values_bytes(&self) -> (usize, usize) {
        self.subsystems.counted_bytes()
    }

    /// Counts a message whose handling was undone for good.
    fn count_received(&mut self) {
        self.counters.received += 1;
        self.counters_before.received += 1;
    }

    fn broker_status(&self, now_ns: u64) -> BrokerStatus {
        BrokerStatus {
            beamline: self.options.beamline.clone(),
            version: ecs_schemas::VERSION.to_owned(),
            pid: self.options.pid,
            started_ns: self.started_ns,
            now_ns,
            received: self.counters.received,
            malformed: self.counters.malformed,
            undeliverable: self.counters.undeliverable,
            jobs_open: self.jobs.open_count() as u64,
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
