//! An agent's side of the conversation with the broker. It sees no socket and no clock.
//!
//! ```text
//! greeting ──register──▶ registered ──heartbeat, report, telemetry──▶ … ──leave──▶ leaving ──▶ left
//!    ▲                       │
//!    └── no connection, ─────┘   silence, or `not_registered`: everything unanswered is sent again
//! ```
//!
//! # Rules
//! A1  A report is kept until it was answered, over any number of connections and brokers. Reports leave in
//!     the order in which they were made; the answer to one settles those before it of the same job.
//! A2  A job is this agent's from `job.run` until the report of its end was answered; all of these are
//!     listed at every registration (rule J4 of `schemas::job`). A `job.run` for one of them changes
//!     nothing. After the answer none can come: the broker sent it before, on the same connection.
//! A3  Whatever the broker says, the agent goes on: an answer that it does not understand is logged.

use crate::{
    hosting::Hosting,
    limits::{
        AGENT_DEADLINE_MS, BACKOFF_MAX, BACKOFF_MIN, BLOCKED_LOOK, BLOCKED_PATIENCE, LEAVE_PATIENCE, PROGRESS_INTERVAL,
        REPEAT_INTERVAL, SILENCE_DEFAULT,
    },
    outbox::{News, Outbox},
};
use ecs_schemas::{
    envelope::{Header, KIND_ERROR, Notice, Request, decode, encode},
    error_code::{ErrorCode, Failure},
    exchange::Cancel,
    job::{JobId, JobState, KillJob, ReportJob, ReportProgress, RunJob},
    kv::Restored,
    registry::{AgentState, Heartbeat, Leave, Register, Registered},
    subsystem::Describe,
    telemetry::Telemetry,
    value::Value,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// What the broker wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    Run(RunJob),
    Kill(KillJob),
    /// A question for a hosted subsystem.
    Ask(Header, Vec<u8>),
    /// Nobody waits for the answer to this question any more.
    Cancel(u64),
    /// The agent is registered: values that the broker has kept, by subsystem.
    Welcome {
        /// Questions with an id up to this are of a broker that is gone (rule 4 of `registry.md`).
        broker_started_ns: u64,
        kept: Vec<(String, Vec<Restored>)>,
    },
    /// What the broker has kept of a subsystem that it was told of since.
    Restore(String, Vec<Restored>),
}

/// A message to the broker.
pub type Message = (Header, Vec<u8>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not registered; the next attempt is at `attempt_at`.
    Greeting {
        attempt_at: Instant,
        pause: Duration,
    },
    Registered {
        heartbeat_at: Instant,
        heartbeat: Duration,
    },
    Leaving {
        until: Instant,
    },
    Left,
}

struct Pending {
    report: ReportJob,
    /// None when it is to be sent at once.
    sent: Option<Instant>,
}

pub struct Session {
    endpoint: String,
    /// What is said at each registration; state and jobs are filled in.
    register: Register,
    phase: Phase,
    last_id: u64,
    register_id: u64,
    leave_id: u64,
    heard: Instant,
    silence: Duration,
    /// Rule A2.
    jobs: BTreeSet<JobId>,
    /// Reports that were not answered, by request id, so in their order. At most three for each job.
    pending: BTreeMap<u64, Pending>,
    telemetry: Option<BTreeMap<String, Value>>,
    progress_at: Instant,
    stop_by: Option<Instant>,
    hosting: Hosting,
    /// Since when nothing can be sent.
    blocked_since: Option<Instant>,
    /// The last refusal that was logged, so that it is logged once.
    refusal: String,
}

impl Session {
    /// A conversation that begins now; `ended` are reports from before this start of the process.
    pub fn new(endpoint: String, register: Register, ended: Vec<ReportJob>, now: Instant) -> Self {
        let mut session = Self {
            endpoint,
            register,
            phase: Phase::Greeting { attempt_at: now, pause: BACKOFF_MIN },
            last_id: 0,
            register_id: 0,
            leave_id: 0,
            heard: now,
            silence: SILENCE_DEFAULT,
            jobs: BTreeSet::new(),
            pending: BTreeMap::new(),
            telemetry: None,
            progress_at: now,
            stop_by: None,
            hosting: Hosting::default(),
            blocked_since: None,
            refusal: String::new(),
        };
        for report in ended {
            session.keep(report);
        }
        session
    }

    pub fn is_registered(&self) -> bool {
        matches!(self.phase, Phase::Registered { .. })
    }

    pub fn is_greeting(&self) -> bool {
        matches!(self.phase, Phase::Greeting { .. })
    }

    pub fn is_left(&self) -> bool {
        self.phase == Phase::Left
    }

    pub fn is_stopping(&self) -> bool {
        self.stop_by.is_some()
    }

    /// Whether a job is this agent's (rule A2).
    pub fn has(&self, id: JobId) -> bool {
        self.jobs.contains(&id)
    }

    /// The agent has taken a job.
    pub fn add(&mut self, id: JobId) {
        self.jobs.insert(id);
    }

    /// Takes in what the agent's threads said.
    pub fn take(&mut self, news: News, now: Instant) {
        if let Some(state) = news.state.filter(|state| *state != self.register.state) {
            self.register.state = state;
            if let Phase::Registered { heartbeat_at, .. } = &mut self.phase {
                *heartbeat_at = now;
            }
        }
        self.telemetry = news.telemetry.or(self.telemetry.take());
        self.stop_by = news.stop_by.or(self.stop_by);
        news.reports.into_iter().for_each(|report| self.keep(report));
        let Self { hosting, last_id, .. } = self;
        for news in news.hosted {
            hosting.take(news, || {
                *last_id += 1;
                *last_id
            });
        }
    }

    /// Answers to what the broker has asked.
    pub fn answer(&mut self, answers: impl Iterator<Item = Message>) {
        self.hosting.answer(answers);
    }

    /// Keeps a report until it is answered.
    pub fn keep(&mut self, report: ReportJob) {
        self.jobs.insert(report.id);
        let request_id = self.next_id();
        self.pending.insert(request_id, Pending { report, sent: None });
    }

    /// What is known of a job is to be reported again at once.
    pub fn repeat(&mut self, id: JobId) {
        self.pending.values_mut().filter(|pending| pending.report.id == id).for_each(|pending| pending.sent = None);
    }

    /// True when the broker was silent for so long that the connection is to be made anew.
    pub fn is_link_dead(&self, now: Instant) -> bool {
        now.duration_since(self.heard) >= self.silence
    }

    /// The connection was made anew.
    pub fn link_renewed(&mut self, now: Instant) {
        self.heard = now;
        self.lost("the broker does not answer", now);
    }

    /// The broker does not take this agent's key; told once, tried for ever.
    pub fn not_let_in(&mut self, why: &str) {
        self.log_refusal(why);
    }

    /// All that is to be said now. `can_send` is whether there is a connection.
    pub fn due(&mut self, now: Instant, outbox: &Outbox, is_idle: bool, can_send: bool) -> Vec<Message> {
        let mut out = Vec::new();
        // A full queue is not a lost connection: it empties within milliseconds.
        self.blocked_since = if can_send { None } else { self.blocked_since.or(Some(now)) };
        if self.blocked_since.is_some_and(|since| now >= since + BLOCKED_PATIENCE) {
            self.lost("no connection to the broker", now);
        }
        match self.phase {
            Phase::Greeting { attempt_at, pause } if can_send && now >= attempt_at => self.greet(pause, now, &mut out),
            Phase::Registered { heartbeat_at, heartbeat } if can_send => {
                self.tell(now, outbox, &mut out); // first: what is hosted is described before the agent is ready
                if now >= heartbeat_at {
                    let state = self.register.state;
                    self.ask(&Heartbeat { state }, &mut out);
                    self.phase = Phase::Registered { heartbeat_at: now + heartbeat, heartbeat };
                }
            }
            _ => {}
        }
        self.leave_if_due(now, is_idle, can_send, &mut out);
        out
    }

    /// Messages of [`Session::due`] that did not fit into the connection's queue.
    pub fn keep_unsent(&mut self, messages: impl Iterator<Item = Message>) {
        self.hosting.keep_unsent(messages);
    }

    fn greet(&mut self, pause: Duration, now: Instant, out: &mut Vec<Message>) {
        self.register.jobs = self.jobs.iter().copied().collect();
        self.register.subsystems = self.hosting.descriptions();
        let register = self.register.clone();
        self.register_id = self.ask(&register, out);
        self.phase = Phase::Greeting { attempt_at: now + pause, pause: (pause * 2).min(BACKOFF_MAX) };
    }

    /// Reports, telemetry and progress of a registered agent.
    fn tell(&mut self, now: Instant, outbox: &Outbox, out: &mut Vec<Message>) {
        for (request_id, pending) in &mut self.pending {
            if pending.sent.is_none_or(|sent| now >= sent + REPEAT_INTERVAL) {
                pending.sent = Some(now);
                out.push((request_header::<ReportJob>(*request_id), encode(&pending.report)));
            }
        }
        self.hosting.due(now, out);
        if let Some(values) = self.telemetry.take() {
            out.push((Header::notice(Telemetry::KIND), encode(&Telemetry { values })));
        }
        if now >= self.progress_at && outbox.has_progress() {
            self.progress_at = now + PROGRESS_INTERVAL;
            for (id, progress) in outbox.take_progress() {
                out.push((Header::notice(ReportProgress::KIND), encode(&ReportProgress { id, progress })));
            }
        }
    }

    /// Takes leave once nothing is left to do or to say, or when the time is over.
    fn leave_if_due(&mut self, now: Instant, is_idle: bool, can_send: bool, out: &mut Vec<Message>) {
        let Some(stop_by) = self.stop_by else { return };
        match self.phase {
            Phase::Leaving { until } if now >= until => self.phase = Phase::Left,
            Phase::Leaving { .. } | Phase::Left => {}
            _ if now < stop_by && !(is_idle && self.pending.is_empty()) => {}
            // Also while greeting: a registration may be under way, and the leave follows it.
            _ if can_send => {
                self.leave_id = self.ask(&Leave {}, out);
                self.phase = Phase::Leaving { until: stop_by.min(now + LEAVE_PATIENCE) };
            }
            _ => self.phase = Phase::Left,
        }
    }

    /// When to look again while there is no connection.
    pub fn connect_wake(&self) -> Instant {
        let silence_ends = self.heard + self.silence;
        self.stop_by.map_or(silence_ends, |stop_by| stop_by.min(silence_ends))
    }

    /// When [`Session::due`] has something to say next, if nothing happens before.
    pub fn next_wake(&self, now: Instant, outbox: &Outbox) -> Instant {
        let mut wake = self.heard + self.silence;
        let mut sooner = |at: Instant| wake = wake.min(at);
        match self.phase {
            Phase::Greeting { attempt_at, .. } => sooner(attempt_at),
            Phase::Registered { .. } if self.blocked_since.is_some() => sooner(now + BLOCKED_LOOK),
            Phase::Registered { heartbeat_at, .. } => {
                sooner(heartbeat_at);
                self.pending
                    .values()
                    .for_each(|pending| sooner(pending.sent.map_or(now, |sent| sent + REPEAT_INTERVAL)));
                self.hosting.next_wake(now).into_iter().for_each(&mut sooner);
                if outbox.has_progress() {
                    sooner(self.progress_at);
                }
            }
            Phase::Leaving { until } => sooner(until),
            Phase::Left => sooner(now),
        }
        self.stop_by.into_iter().for_each(sooner);
        wake
    }

    /// Takes a message of the broker's.
    pub fn received(&mut self, header: &[u8], body: &[u8], now: Instant) -> Option<Order> {
        let Ok(header) = Header::decode(header) else { return None };
        self.heard = now;
        match header.kind.as_str() {
            RunJob::KIND => decode(body).ok().map(Order::Run),
            KillJob::KIND => decode(body).ok().map(Order::Kill),
            Cancel::KIND => decode(body).ok().map(|cancel: Cancel| Order::Cancel(cancel.id)),
            KIND_ERROR => {
                let failure = decode(body).unwrap_or_else(|error| Failure::new(ErrorCode::Other, error.to_string()));
                self.refused(header.id, failure, now);
                None
            }
            _ if header.is_answer() => self.answered(header.id, body, now),
            _ if header.id == 0 => None, // a notice of a later version
            _ => Some(Order::Ask(header, body.to_vec())),
        }
    }

    fn answered(&mut self, id: u64, body: &[u8], now: Instant) -> Option<Order> {
        if id == self.register_id && self.is_greeting() {
            match decode(body) {
                Ok(welcome) => return Some(self.welcome(&welcome, now)),
                Err(error) => self.log_refusal(&error.to_string()),
            }
        } else if id == self.leave_id && matches!(self.phase, Phase::Leaving { .. }) {
            self.phase = Phase::Left;
        } else if let Some(kind) = self.hosting.settle(id) {
            let described = decode(body).ok().filter(|_| kind == Describe::KIND);
            let restored = described.and_then(|described| self.hosting.restore(described));
            return restored.map(|(name, values)| Order::Restore(name, values));
        } else {
            self.settle(id);
        }
        None
    }

    fn welcome(&mut self, welcome: &Registered, now: Instant) -> Order {
        let heartbeat = Duration::from_millis(welcome.heartbeat_ms.into());
        self.silence = Duration::from_millis(welcome.timeout_ms.into()).max(heartbeat);
        self.phase = Phase::Registered { heartbeat_at: now + heartbeat, heartbeat };
        self.pending.values_mut().for_each(|pending| pending.sent = None);
        self.refusal.clear();
        tracing::info!(agent = self.register.name, broker = self.endpoint, "registered");
        let Self { hosting, last_id, register_id, .. } = self;
        let kept = hosting.welcomed(*register_id, welcome, || {
            *last_id += 1;
            *last_id
        });
        Order::Welcome { broker_started_ns: welcome.started_ns, kept }
    }

    fn refused(&mut self, id: u64, failure: Failure, now: Instant) {
        let is_forbidden = failure.code == ErrorCode::Forbidden;
        if id == self.register_id && self.is_greeting() {
            self.log_refusal(&described(&failure));
        } else if failure.code == ErrorCode::NotRegistered {
            self.lost("the broker does not know this agent (any more)", now);
        } else if id == self.leave_id && matches!(self.phase, Phase::Leaving { .. }) {
            self.phase = Phase::Left;
        } else if self.pending.contains_key(&id) {
            self.report_refused(id, &failure);
        } else if self.hosting.has(id) && is_for_now(&failure) && (!is_forbidden || self.hosting.is_value(id)) {
            // sent again after REPEAT_INTERVAL; but what a key may not describe it may not describe later
        } else {
            self.hosting.settle(id);
            tracing::warn!(agent = self.register.name, code = failure.code.as_str(), "refused: {failure}");
        }
    }

    /// The report that was sent as request `id` needs no repeating, nor do those before it of its job.
    fn settle(&mut self, id: u64) -> Option<ReportJob> {
        let report = self.pending.remove(&id)?.report;
        self.pending.retain(|other_id, other| *other_id > id || other.report.id != report.id);
        if report.state.is_end() {
            self.jobs.remove(&report.id);
        }
        Some(report)
    }

    /// A report that may be taken later stays; one that never will ends, but a job's end must be known.
    fn report_refused(&mut self, id: u64, failure: &Failure) {
        if is_for_now(failure) {
            return; // repeated after REPEAT_INTERVAL
        }
        let Some(report) = self.settle(id) else { return };
        tracing::warn!(agent = self.register.name, job = report.id.0, "report refused: {}", described(failure));
        let is_too_much = matches!(failure.code, ErrorCode::BadParameter | ErrorCode::BadMessage);
        if is_too_much && report.state.is_end() && has_content(&report) {
            let message = format!("{}, but its report was refused: {failure}", report.state.as_str());
            let reason = Some(shortened(Failure::new(failure.code, message)));
            let (id, attempt) = (report.id, report.attempt);
            self.keep(ReportJob { id, attempt, state: JobState::Failed, reason, result: None });
        }
    }

    /// Begins again with registering; nothing if that is going on.
    fn lost(&mut self, why: &str, now: Instant) {
        if self.is_registered() {
            tracing::warn!(
                agent = self.register.name,
                broker = self.endpoint,
                "{why}; registering again until it does"
            );
            self.phase = Phase::Greeting { attempt_at: now, pause: BACKOFF_MIN };
            self.hosting.lost();
        }
    }

    fn log_refusal(&mut self, refusal: &str) {
        if self.refusal != refusal {
            tracing::warn!(agent = self.register.name, "not registered, trying again: {refusal}");
            refusal.clone_into(&mut self.refusal);
        }
    }

    fn ask<R: Request>(&mut self, request: &R, out: &mut Vec<Message>) -> u64 {
        let id = self.next_id();
        out.push((request_header::<R>(id), encode(request)));
        id
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

/// Later the same request may be taken: also a key that was taken away may be given back, and the end of a job or a
/// value is not lost by that.
fn is_for_now(failure: &Failure) -> bool {
    matches!(failure.code, ErrorCode::StoreFailed | ErrorCode::Busy | ErrorCode::Timeout | ErrorCode::Forbidden)
}

fn request_header<R: Request>(id: u64) -> Header {
    Header::request(R::KIND, id, AGENT_DEADLINE_MS)
}

fn described(failure: &Failure) -> String {
    match &failure.hint {
        Some(hint) => format!("{} ({hint})", failure.message),
        None => failure.message.clone(),
    }
}

/// There is something that can be left out of the report.
fn has_content(report: &ReportJob) -> bool {
    report.result.is_some() || report.reason.as_ref().is_some_and(|reason| *reason != shortened(reason.clone()))
}

/// The longest reason that is always taken, in characters.
const REASON_CHARS_MAX: usize = 1000;

fn shortened(reason: Failure) -> Failure {
    Failure { code: reason.code, message: reason.message.chars().take(REASON_CHARS_MAX).collect(), hint: None }
}

/// The state that an agent registers with before it said another.
pub const FIRST_STATE: AgentState = AgentState::Starting;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosting::HostNews;
    use ecs_schemas::{
        kv::{Item, Publish},
        registry::ServiceOffer,
        subsystem::{Describe, Description},
    };

    /// A session that is registered, and the moment of that.
    fn registered() -> (Session, Outbox, Instant) {
        let now = Instant::now();
        let register = Register {
            name: "x01/writer".to_owned(),
            kind: "writer".to_owned(),
            host: "host".to_owned(),
            pid: 1,
            version: "1".to_owned(),
            instance: 1,
            state: FIRST_STATE,
            services: vec![ServiceOffer::new("write")],
            jobs: vec![],
            subsystems: vec![],
        };
        let (mut session, outbox) =
            (Session::new(String::new(), register, vec![], now), Outbox::new(crate::link::waker().unwrap().0));
        let greeting = session.due(now, &outbox, false, true).remove(0).0;
        let welcome = Registered {
            beamline: "x01".to_owned(),
            heartbeat_ms: 60_000,
            timeout_ms: 60_000,
            started_ns: 1,
            subsystems: vec![],
        };
        session.received(&encode(&greeting.reply()), &encode(&welcome), now);
        assert!(session.is_registered());
        (session, outbox, now)
    }

    /// What is said again after every request was answered with this error.
    fn said_again_after(code: ErrorCode) -> Vec<String> {
        let (mut session, outbox, now) = registered();
        let items = vec![Item { name: "speed".to_owned(), persist: true, ..Item::default() }];
        let description = Description { name: "x01/pump".to_owned(), items, ..Description::default() };
        let path = ("x01/pump".to_owned(), "speed".to_owned());
        let end = ReportJob { id: JobId(1), attempt: 1, state: JobState::Done, reason: None, result: None };
        let hosted = vec![
            HostNews::Describe(Box::new(description)),
            HostNews::Publish { path, value: Value::from(1), skipped: 0 },
        ];
        let mut news = News::default();
        (news.reports, news.hosted) = (vec![end], hosted);
        session.take(news, now);
        let kinds =
            |messages: &[Message]| messages.iter().map(|(header, _)| header.kind.to_string()).collect::<Vec<_>>();
        let said = session.due(now, &outbox, false, true);
        assert_eq!(kinds(&said), [ReportJob::KIND, Describe::KIND, Publish::KIND]);
        for (header, _) in said {
            session.received(&encode(&header.error()), &encode(&Failure::new(code, "no")), now);
        }
        kinds(&session.due(now + REPEAT_INTERVAL, &outbox, false, true))
    }

    /// A key may be given back; what is hosted under a name that it does not allow is not allowed later either.
    #[test]
    fn ends_of_jobs_and_kept_values_outlast_a_key_that_is_taken_away() {
        assert_eq!(said_again_after(ErrorCode::Forbidden), [ReportJob::KIND, Publish::KIND]);
        assert_eq!(said_again_after(ErrorCode::StoreFailed), [ReportJob::KIND, Describe::KIND, Publish::KIND]);
        assert_eq!(said_again_after(ErrorCode::Conflict), Vec::<String>::new());
    }
}
