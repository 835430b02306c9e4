//! A job's life: what submissions, cancels and reports do to it, and what follows from who is here.
//!
//! ```text
//!            assign (agent ready, has room)        report
//! submitted ─────────────────────────────▶ submitted + agent ──▶ accepted ──▶ running ──▶ end
//!     ▲                                          │                   └─ agent gone ─ LOST_GRACE ─▶ lost
//!     └────────── agent gone: to the queue ──────┘                   └─ agent here, knows it not ▶ lost
//!     └────────── lost, and it may be repeated (rule J5) ────────────────────────────────────────┘
//! ```
//!
//! Rules J1 to J7 of `schemas::job` hold here and in `queue` and `follow_ups`. What depends on time or on agents is decided in
//! [`Core::reconcile`] alone, which looks at the state only (rule C3).

use super::{
    Core, Outgoing, Session,
    jobs::{Job, Sent},
    nanoseconds,
    queue::order_of,
    registry::Presence,
};
use crate::limits::{JOB_VALUE_BYTES_MAX, LOST_GRACE, OPEN_JOBS_MAX, REPEAT_INTERVAL, TEXT_BYTES_MAX, VALUE_DEPTH_MAX};
use ecs_schemas::{
    envelope::{Header, Notice, encode},
    error_code::{ErrorCode, Failure},
    job::{
        Ack, CancelJob, FOLLOW_UP_PREFIX, JobId, JobRecord, JobState, KEY_BYTES_MAX, KillJob, REPEATS_MAX, ReportJob,
        ReportProgress, RunJob, Submit, Transition,
    },
    nearest::nearest,
    registry::Register,
    value::Value,
};
use std::collections::BTreeSet;

impl Core {
    /// # Errors
    /// `bad_parameter`, `no_such_service`, `busy`.
    pub(super) fn submit(&mut self, now_ns: u64, submit: Submit) -> Result<JobRecord, Failure> {
        check_submit(&submit)?;
        if let Some(record) = self.jobs.by_key(&submit.key) {
            return Ok(self.answered(record)); // rule J3
        }
        self.check_service(&submit.service)?;
        if self.jobs.open_count() - self.jobs.open_follower_count() >= OPEN_JOBS_MAX {
            let message = format!("{OPEN_JOBS_MAX} jobs wait or run already");
            return Err(Failure::new(ErrorCode::Busy, message).with_hint("cancel some, or submit again later"));
        }
        let record = new_record(self.jobs.next_id(), submit, now_ns);
        self.jobs.insert(record.clone());
        Ok(self.answered(&record))
    }

    fn check_service(&self, service: &str) -> Result<(), Failure> {
        let services = self.registry.services();
        if services.contains(service) {
            return Ok(());
        }
        let offered = services.iter().copied().collect::<Vec<_>>().join(", ");
        let hint = match (offered.as_str(), nearest(service, services.iter().copied())) {
            ("", _) => "no agent that offers a service is here; see `ecs-cli status`".to_owned(),
            (offered, None) => format!("services that are offered now: {offered}"),
            (offered, Some(near)) => format!("did you mean {near}? services that are offered now: {offered}"),
        };
        Err(Failure::new(ErrorCode::NoSuchService, format!("no agent offers {service:?}")).with_hint(hint))
    }

    /// # Errors
    /// `no_such_job`.
    pub(super) fn cancel(&mut self, now_ns: u64, cancel: &CancelJob) -> Result<JobRecord, Failure> {
        let record = &self.find_job(cancel.id)?.record;
        if record.state.is_end() || record.cancel_requested {
            return Ok(self.answered(record));
        }
        let waits_for_nobody = record.agent.is_none();
        self.jobs.change(cancel.id, |job| {
            job.record.cancel_requested = true;
            if waits_for_nobody {
                end(job, JobState::Cancelled, cancelled("cancelled before an agent had it"), now_ns);
            }
        });
        self.find_job(cancel.id).map(|job| self.answered(&job.record))
    }

    pub(super) fn find_job(&self, id: JobId) -> Result<&Job, Failure> {
        self.jobs.get(id).ok_or_else(|| {
            Failure::new(ErrorCode::NoSuchJob, format!("no job {id}"))
                .with_hint("`ecs-cli jobs` lists those that are kept")
        })
    }

    /// # Errors
    /// `not_registered`, `no_such_job`, `conflict` (another agent's job, an attempt that is over, or an end that cannot be),
    /// `bad_parameter`.
    pub(super) fn report(&mut self, now_ns: u64, session: &Session, report: ReportJob) -> Result<Ack, Failure> {
        let agent = self.registry.registered(session)?.to_owned();
        check_report(&report)?;
        if report.state.is_end() {
            self.registry.settle(&agent, report.id);
        }
        let record = &self.find_job(report.id)?.record;
        if record.agent.as_deref() != Some(&agent) {
            return Err(Failure::new(ErrorCode::Conflict, format!("job {} is not {agent}'s", report.id)));
        }
        if !record.state.is_end() && ![0, record.attempt].contains(&report.attempt) {
            return Err(self.refuse_attempt(&agent, &report));
        }
        if report.state == JobState::Rejected && matches!(record.state, JobState::Accepted | JobState::Running) {
            let message = format!("job {} is {}: it can fail, it cannot be rejected", report.id, record.state.as_str());
            return Err(Failure::new(ErrorCode::Conflict, message));
        }
        let moves_on = record.state.may_become(report.state) && record.state != report.state;
        self.registry.note_job(&agent, report.id);
        if moves_on {
            self.jobs.change(report.id, |job| apply(job, report, now_ns));
        }
        Ok(Ack {}) // rule J2: what would leave an end state is understood and ignored
    }

    /// A report of an attempt that is over: late, or of an agent that came back with it. Where this attempt was
    /// not spoken of yet, the agent is not known to have it, and is told to run it again.
    fn refuse_attempt(&mut self, agent: &str, report: &ReportJob) -> Failure {
        let record = &self.jobs.get(report.id).expect("the caller found it").record;
        if record.state == JobState::Submitted {
            self.registry.forget_job(agent, report.id);
        }
        let (id, is, was) = (report.id, record.attempt, report.attempt);
        Failure::new(ErrorCode::Conflict, format!("job {id} is at attempt {is}, this report is of attempt {was}"))
    }

    /// # Errors
    /// `not_registered`. Progress of a job that is not the sender's, or has ended, is ignored.
    pub(super) fn progress(&mut self, session: &Session, report: ReportProgress) -> Result<(), Failure> {
        let agent = self.registry.registered(session)?;
        if report.progress.unit.len() > TEXT_BYTES_MAX {
            return Err(bad(format!("a unit has at most {TEXT_BYTES_MAX} bytes")));
        }
        let is_its_own = |job: &Job| !job.record.state.is_end() && job.record.agent.as_deref() == Some(agent);
        if self.jobs.get(report.id).is_some_and(is_its_own) {
            self.jobs.note_progress(report.id, report.progress);
        }
        Ok(())
    }

    /// Sorts the jobs that a registering agent says it has: its own, and those it must end because they
    /// have ended, belong to another, are held, or are unknown. A queued one becomes its own again, if it can have been
    /// given to it: a number alone is no claim to what waits.
    pub(super) fn claim(&mut self, register: &Register) -> (BTreeSet<JobId>, BTreeSet<JobId>) {
        let (mut own, mut foreign) = (BTreeSet::new(), BTreeSet::new());
        let name = &register.name;
        let was_given = |record: &JobRecord| {
            record.attempt > 0 && register.services.iter().any(|offer| offer.name == record.service)
        };
        for id in &register.jobs {
            match self.jobs.get(*id).map(|job| &job.record) {
                Some(record) if !record.state.is_end() && record.agent.as_ref() == Some(name) => {
                    own.insert(*id);
                }
                Some(record) if record.is_queued() && !record.held && was_given(record) => {
                    self.jobs.change(*id, |job| job.record.agent = Some(name.clone()));
                    own.insert(*id);
                }
                _ => {
                    foreign.insert(*id);
                }
            }
        }
        (own, foreign)
    }

    /// An agent has a new session: what was sent to the old one is not known to have arrived.
    pub(super) fn forget_sent(&mut self, name: &str) {
        for id in self.jobs.given_ids() {
            if self.jobs.get(id).is_some_and(|job| job.record.agent.as_deref() == Some(name)) {
                self.jobs.note_sent(id, |sent| *sent = Sent::default());
            }
        }
    }

    /// Does what follows from the state: repeats, kills, losses; then what follows ended jobs; then the queues.
    pub(super) fn reconcile(&mut self, now_ns: u64, out: &mut Vec<Outgoing>) {
        for id in self.jobs.given_ids() {
            self.attend(id, now_ns, out);
        }
        self.learn_followers();
        self.queue_follow_ups(now_ns);
        self.assign(now_ns, out);
    }

    /// What follows from time and presence for a job that has an agent.
    fn attend(&mut self, id: JobId, now_ns: u64, out: &mut Vec<Outgoing>) {
        let Some(record) = self.jobs.get(id).map(|job| &job.record) else { return };
        let Some(agent) = record.agent.clone() else { return };
        let (is_queued, is_killed) = (record.state == JobState::Submitted, record.cancel_requested);
        let knows = self.registry.knows(&agent, id);
        match self.registry.presence(&agent) {
            Presence::Away { since_ns } if is_queued && now_ns >= since_ns => self.requeue(id, now_ns),
            Presence::Away { since_ns } if !is_queued && now_ns >= since_ns + nanoseconds(LOST_GRACE) => {
                self.lose(
                    id,
                    format!("{agent} is gone and did not come back within {} s", LOST_GRACE.as_secs()),
                    now_ns,
                );
            }
            Presence::Away { .. } => {}
            Presence::Here if !is_queued && !knows => {
                self.lose(id, format!("{agent} was started again and does not know the job any more"), now_ns);
            }
            Presence::Here if is_killed => self.send_kill(id, &agent, now_ns, out),
            Presence::Here if is_queued && !knows => self.send_run(id, &agent, now_ns, out),
            Presence::Here => {}
        }
    }

    /// The agent of a job that it never accepted is gone.
    fn requeue(&mut self, id: JobId, now_ns: u64) {
        self.jobs.change(id, |job| {
            job.record.agent = None;
            job.sent = Sent::default();
            if job.record.cancel_requested {
                end(job, JobState::Cancelled, cancelled("cancelled before an agent had accepted it"), now_ns);
            }
        });
    }

    /// The agent of a job that it had accepted is gone: the end of the job, or of this attempt (rule J5).
    fn lose(&mut self, id: JobId, message: String, now_ns: u64) {
        self.jobs.change(id, |job| match repeat_of(&job.record) {
            Some(repeat) => {
                let message = format!("{message}; queued again, {repeat} of {REPEATS_MAX}");
                queue_again(job, Failure::new(ErrorCode::AgentLost, message), now_ns);
            }
            None => end(job, JobState::Lost, Some(Failure::new(ErrorCode::AgentLost, message)), now_ns),
        });
    }

    pub(super) fn send_run(&mut self, id: JobId, agent: &str, now_ns: u64, out: &mut Vec<Outgoing>) {
        let Some(job) = self.jobs.get(id).filter(|job| is_due(job.sent.run_ns, now_ns)) else { return };
        let record = &job.record;
        let attempt = record.attempt;
        let run = RunJob { id, attempt, service: record.service.clone(), params: record.params.clone() };
        self.notify(agent, &run, out);
        self.jobs.note_sent(id, |sent| sent.run_ns = Some(now_ns));
    }

    fn send_kill(&mut self, id: JobId, agent: &str, now_ns: u64, out: &mut Vec<Outgoing>) {
        if self.jobs.get(id).is_some_and(|job| is_due(job.sent.kill_ns, now_ns)) {
            self.notify(agent, &self.kill_of(id), out);
            self.jobs.note_sent(id, |sent| sent.kill_ns = Some(now_ns));
        }
    }

    pub(super) fn kill_of(&self, id: JobId) -> KillJob {
        KillJob { id, attempt: self.jobs.get(id).map_or(0, |job| job.record.attempt) }
    }

    pub(super) fn notify<N: Notice>(&self, agent: &str, notice: &N, out: &mut Vec<Outgoing>) {
        if let Some(session) = self.registry.session_of(agent) {
            out.push(Outgoing { session: session.clone(), header: Header::notice(N::KIND), body: encode(notice) });
        }
    }
}

fn is_due(sent_ns: Option<u64>, now_ns: u64) -> bool {
    sent_ns.is_none_or(|sent_ns| now_ns >= sent_ns + nanoseconds(REPEAT_INTERVAL))
}

pub(super) fn new_record(id: JobId, submit: Submit, now_ns: u64) -> JobRecord {
    JobRecord {
        id,
        key: submit.key,
        service: submit.service,
        params: submit.params,
        state: JobState::Submitted,
        priority: submit.priority,
        order: order_of(id),
        held: submit.hold,
        repeat_if_lost: submit.repeat_if_lost,
        attempt: 0,
        follows: None,
        follow_up_due: false,
        position: None,
        cancel_requested: false,
        agent: None,
        reason: None,
        progress: None,
        result: None,
        history: vec![Transition { state: JobState::Submitted, time_ns: now_ns, reason: None }],
    }
}

fn enter(job: &mut Job, state: JobState, now_ns: u64) {
    job.record.state = state;
    job.record.history.push(Transition { state, time_ns: now_ns, reason: None });
    if state.is_end() {
        job.record.held = false;
        job.record.follow_up_due = true;
    }
}

/// Which repeat it would be, if the job may be repeated.
fn repeat_of(record: &JobRecord) -> Option<u32> {
    let may = record.repeat_if_lost && !record.cancel_requested && record.repeats() < REPEATS_MAX;
    may.then(|| record.repeats() + 1)
}

fn queue_again(job: &mut Job, reason: Failure, now_ns: u64) {
    let record = &mut job.record;
    record.state = JobState::Submitted;
    (record.agent, record.progress) = (None, None);
    record.history.push(Transition { state: JobState::Submitted, time_ns: now_ns, reason: Some(reason) });
    job.sent = Sent::default();
}

pub(super) fn end(job: &mut Job, state: JobState, reason: Option<Failure>, now_ns: u64) {
    enter(job, state, now_ns);
    job.record.reason = reason;
}

fn apply(job: &mut Job, report: ReportJob, now_ns: u64) {
    enter(job, report.state, now_ns);
    if report.state.is_end() {
        job.record.reason = report.reason;
        job.record.result = report.result;
    }
}

fn cancelled(message: &str) -> Option<Failure> {
    Some(Failure::new(ErrorCode::Cancelled, message))
}

fn bad(message: String) -> Failure {
    Failure::new(ErrorCode::BadParameter, message)
}

fn check_submit(submit: &Submit) -> Result<(), Failure> {
    if submit.key.is_empty() || submit.key.len() > KEY_BYTES_MAX {
        return Err(bad(format!("a key has 1 to {KEY_BYTES_MAX} bytes, this one {}", submit.key.len())));
    }
    if submit.key.starts_with(FOLLOW_UP_PREFIX) {
        return Err(bad(format!("a key that begins with {FOLLOW_UP_PREFIX:?} is given by the broker alone")));
    }
    if submit.service.is_empty() || submit.service.len() > TEXT_BYTES_MAX {
        return Err(bad(format!("a service has 1 to {TEXT_BYTES_MAX} bytes, this one {}", submit.service.len())));
    }
    check_value("params", &submit.params, encode(&submit.params).len())
}

fn check_report(report: &ReportJob) -> Result<(), Failure> {
    if matches!(report.state, JobState::Submitted | JobState::Lost) {
        return Err(bad(format!("only the broker says {}", report.state.as_str())));
    }
    let bytes = encode(&report.result).len() + encode(&report.reason).len();
    check_value("result and reason", report.result.as_ref().unwrap_or(&Value::Null), bytes)
}

/// Checks a value that others will be given again.
pub(super) fn check_value(what: &str, value: &Value, bytes: usize) -> Result<(), Failure> {
    if bytes > JOB_VALUE_BYTES_MAX {
        return Err(bad(format!("{what} of {bytes} bytes; at most {JOB_VALUE_BYTES_MAX}")));
    }
    if depth(value) > VALUE_DEPTH_MAX {
        return Err(bad(format!("{what} nest deeper than {VALUE_DEPTH_MAX}")));
    }
    Ok(())
}

/// Nesting of a value: 0 for a scalar. The decoder bounds it, so that the recursion is bounded.
fn depth(value: &Value) -> usize {
    match value {
        Value::List(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
