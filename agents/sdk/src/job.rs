//! What a service sees of a job, and what it says at its end.

use crate::outbox::Outbox;
use ecs_schemas::{
    error_code::{ErrorCode, Failure},
    job::{JobId, JobState, Progress, ReportJob, RunJob},
    value::Value,
};
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Something that an agent does on request.
pub trait Service: Send + Sync + 'static {
    /// Name that jobs ask for, for example `write`.
    fn name(&self) -> &str;

    /// Jobs of this service that run here at the same time, 1 to 32; others wait in the broker's queue.
    fn jobs_at_once(&self) -> u32 {
        1
    }

    /// The service after whose jobs this one is to be done: it is then asked once for each of them that is done,
    /// with parameters that say what became of it (`job`, `service`, `state`, `params`, `result`, `reason`).
    fn follows(&self) -> Option<&str> {
        None
    }

    /// What it does and what parameters it takes, in at most 256 bytes, for a person.
    fn help(&self) -> &str {
        ""
    }

    /// Does the job, on a thread of its own, and says how it ended. It may take as long as it needs, but
    /// must end soon after the job was killed. A panic becomes `Failed`.
    fn on_request(&self, job: &Job) -> JobEnd;

    /// The job is to end: called on another thread while `on_request` runs; `job.is_killed()` is true
    /// already. Only needed by a service that waits for something else than the job.
    fn on_kill(&self, _job: &Job) {}
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub enum JobEnd {
    /// All that was asked is done.
    Done(Value),
    /// It cannot be done, and nothing was. A job that was accepted fails instead.
    Rejected(Failure),
    /// It could not be done, or not all of it.
    Failed { failure: Failure, result: Option<Value> },
    /// It ended because it was killed.
    Cancelled { result: Option<Value> },
}

/// One job while it runs. None of its functions waits for the broker.
pub struct Job {
    id: JobId,
    attempt: u32,
    service: String,
    params: Value,
    killed: Mutex<bool>,
    kill_signal: Condvar,
    /// The last state that was reported; `Submitted` before the first.
    reported: Mutex<JobState>,
    outbox: Arc<Outbox>,
}

impl Job {
    pub(crate) fn new(run: RunJob, outbox: Arc<Outbox>) -> Self {
        Self {
            id: run.id,
            attempt: run.attempt,
            service: run.service,
            params: run.params,
            killed: Mutex::new(false),
            kill_signal: Condvar::new(),
            reported: Mutex::new(JobState::Submitted),
            outbox,
        }
    }

    pub fn id(&self) -> JobId {
        self.id
    }

    pub fn service(&self) -> &str {
        &self.service
    }

    pub fn params(&self) -> &Value {
        &self.params
    }

    /// The parameters are good and the job will be done. Says so once.
    pub fn accept(&self) {
        self.advance(JobState::Accepted);
    }

    /// The job is under way; accepts it first where that was not done.
    pub fn running(&self) {
        self.advance(JobState::Accepted);
        self.advance(JobState::Running);
    }

    /// How far it is. The newest wins; call it as often as it is convenient.
    pub fn progress(&self, progress: Progress) {
        self.outbox.set_progress(self.id, progress);
    }

    pub fn is_killed(&self) -> bool {
        *lock(&self.killed)
    }

    /// Waits until the job is killed, at most for `patience`; true when it is.
    pub fn wait_killed(&self, patience: Duration) -> bool {
        let waited = self.kill_signal.wait_timeout_while(lock(&self.killed), patience, |killed| !*killed);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Marks the job killed; true the first time.
    pub(crate) fn kill(&self) -> bool {
        let mut killed = lock(&self.killed);
        let is_first = !*killed;
        *killed = true;
        self.kill_signal.notify_all();
        is_first
    }

    fn advance(&self, state: JobState) {
        let mut reported = lock(&self.reported);
        if reported.may_become(state) && *reported != state {
            *reported = state;
            self.outbox.report(ReportJob { id: self.id, attempt: self.attempt, state, reason: None, result: None });
        }
    }

    /// Runs the service's code on this thread and reports the end.
    pub(crate) fn run(&self, service: &dyn Service) {
        let end = catch_unwind(AssertUnwindSafe(|| service.on_request(self))).unwrap_or_else(|panic| failed(&*panic));
        let was_accepted = *lock(&self.reported) != JobState::Submitted;
        self.outbox.end(report_of(self.id, self.attempt, end, was_accepted));
    }

    /// Tells the service that its job was killed; a panic there is logged and changes nothing.
    pub(crate) fn run_kill(&self, service: &dyn Service) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| service.on_kill(self))) {
            tracing::error!(job = self.id.0, "on_kill panicked: {}", text_of(&*panic));
        }
    }
}

/// The report of a job's end. What was accepted is not rejected any more: it fails.
pub(crate) fn report_of(id: JobId, attempt: u32, end: JobEnd, was_accepted: bool) -> ReportJob {
    let (state, reason, result) = match end {
        JobEnd::Done(result) => (JobState::Done, None, Some(result)),
        JobEnd::Rejected(reason) if was_accepted => (JobState::Failed, Some(reason), None),
        JobEnd::Rejected(reason) => (JobState::Rejected, Some(reason), None),
        JobEnd::Failed { failure, result } => (JobState::Failed, Some(failure), result),
        JobEnd::Cancelled { result } => {
            (JobState::Cancelled, Some(Failure::new(ErrorCode::Cancelled, "ended on request")), result)
        }
    };
    ReportJob { id, attempt, state, reason, result }
}

fn failed(panic: &(dyn Any + Send)) -> JobEnd {
    let message = format!("the job's code panicked: {}", text_of(panic));
    JobEnd::Failed { failure: Failure::new(ErrorCode::Other, message), result: None }
}

pub(crate) fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// A service that panics while it holds one of a job's locks has changed nothing there.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
