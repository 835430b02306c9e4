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
//! C1  Nothing that a step returned leaves before [`Core::changes`] is on disk and [`Core::commit`] was called.
//! C2  After [`Core::rollback`] the jobs, and what follows what, are exactly as before the batch. What the registry learned (who
//!     is there, who was heard) stays: it is true whatever the disk does, and it is not stored.
//! C3  Whatever follows from the state follows from the state alone ([`Core::reconcile`]), not from the
//!     moment at which it changed: so a decision that could not be stored is taken again at the next tick.
//! C4  Publications are made in `commit`, from what has changed: an undone change is never published.
//!
//! | file | what |
//! |---|---|
//! | `requests` | which message does what, and the error for what is no message |
//! | `registry` | agents and their sessions |
//! | `jobs` | the table of jobs: undo, indexes, limits |
//! | `job_life` | submit, cancel, report, and what follows from time and presence |
//! | `queue` | who gets the next job of a service; hold, release, move |
//! | `followers`, `follow_ups` | which service follows which; the jobs that follow a job, and what became of all |
//! | `job_query` | which of the kept jobs somebody wants to see |
//! | `topics` | sequence numbers and last values of what is published |

mod follow_ups;
mod followers;
mod job_life;
mod job_query;
mod jobs;
mod queue;
mod registry;
mod requests;
mod topics;

pub use jobs::Change;
pub use topics::Publication;

use ecs_schemas::{
    envelope::{Header, encode},
    job::JobRecord,
    registry::BrokerStatus,
    telemetry::{job_topic, state_topic, telemetry_topic},
};
use followers::Followers;
use jobs::Jobs;
use registry::Registry;
use std::time::Duration;
use topics::Topics;

/// Source of what the broker publishes by its own word.
const SOURCE_BROKER: &str = "broker";

/// A connection of the ROUTER, by the identity that the transport gave it. What a message says of its
/// sender is never believed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Session(pub Vec<u8>);

/// What happens to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A message from `session`: the parts behind the identity, at most `PARTS_MAX` of them.
    Message { session: Session, parts: Vec<Vec<u8>> },
    /// Somebody subscribed to all topics that begin with `prefix`.
    Subscribed { prefix: Vec<u8> },
    /// Time went on.
    Tick,
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
}

/// What a core remembers from its last life.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    pub jobs: Vec<JobRecord>,
    /// A service, and the one that it follows.
    pub followers: Vec<(String, String)>,
}

/// Messages by what became of them, for `status.get`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counters {
    received: u64,
    malformed: u64,
    undeliverable: u64,
}

pub struct Core {
    options: CoreOptions,
    started_ns: u64,
    registry: Registry,
    jobs: Jobs,
    followers: Followers,
    topics: Topics,
    counters: Counters,
    /// The counters at the start of the batch, so that a message that is handled twice counts once.
    counters_before: Counters,
}

impl Core {
    /// A core at `now_ns` (nanoseconds since 1970-01-01 UTC) that remembers what is `stored`.
    pub fn new(options: CoreOptions, stored: Stored, now_ns: u64) -> Self {
        let registry = Registry::new(&options, now_ns);
        let counters = Counters::default();
        let (jobs, followers) = (Jobs::load(stored.jobs), Followers::load(stored.followers));
        let topics = Topics::default();
        Self { options, started_ns: now_ns, registry, jobs, followers, topics, counters, counters_before: counters }
    }

    /// Takes one input and returns what is to be sent once the batch is on disk (rule C1).
    pub fn step(&mut self, now_ns: u64, input: &Input) -> Vec<Outgoing> {
        let mut out = Vec::new();
        match input {
            Input::Message { session, parts } => self.message(now_ns, session, parts, &mut out),
            Input::Subscribed { prefix } => self.topics.want(prefix),
            Input::Tick => {
                self.registry.expire(now_ns);
                self.reconcile(now_ns, &mut out);
            }
        }
        out
    }

    /// What must be on disk before anything of this batch leaves. Empty for most batches.
    pub fn changes(&self) -> Vec<Change> {
        let mut changes = self.jobs.changes();
        changes.extend(self.followers.changes());
        changes
    }

    /// The batch is on disk: forgets how to undo it and returns what is to be published.
    pub fn commit(&mut self, now_ns: u64) -> Vec<Publication> {
        let mut out = Vec::new();
        for name in self.registry.take_changed() {
            let status = self.registry.status_of(&name, Vec::new());
            out.push(self.topics.publish(state_topic(&name), SOURCE_BROKER, encode(&status), now_ns));
        }
        for (name, telemetry) in self.registry.take_telemetry() {
            out.push(self.topics.publish(telemetry_topic(&name), &name, encode(&telemetry), now_ns));
        }
        self.followers.commit();
        for record in self.jobs.commit() {
            let topic = job_topic(&self.options.beamline, record.id);
            out.push(self.topics.publish(topic, SOURCE_BROKER, encode(record), now_ns));
        }
        out.extend(self.topics.take_replays(now_ns));
        self.counters_before = self.counters;
        out
    }

    /// The batch could not be stored: its jobs are undone (rule C2).
    pub fn rollback(&mut self) {
        self.jobs.rollback();
        self.followers.rollback();
        self.counters = self.counters_before;
    }

    /// Counts messages that the transport could not deliver.
    pub fn count_undeliverable(&mut self, messages: u64) {
        self.counters.undeliverable += messages;
        self.counters_before.undeliverable += messages;
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
