//! The messages about jobs. Who sends which to whom, and what is refused: `spec/job.md`.

use super::{JobId, JobRecord, JobState, Progress};
use crate::{
    envelope::{Notice, Request},
    error_code::Failure,
    value::Value,
};
use serde::{Deserialize, Serialize};

/// Client → broker: do this. Answered once the job is on disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Submit {
    pub service: String,
    #[serde(default)]
    pub params: Value,
    /// At most [`KEY_BYTES_MAX`] bytes, not empty, not beginning with [`FOLLOW_UP_PREFIX`](super::FOLLOW_UP_PREFIX).
    pub key: String,
    /// Higher first (rule J6).
    #[serde(default)]
    pub priority: i32,
    /// No agent gets it until it is released.
    #[serde(default)]
    pub hold: bool,
    /// Rule J5. Only for what may be done twice.
    #[serde(default)]
    pub repeat_if_lost: bool,
}

/// A key names a job for its submitter; a UUID or a path fits.
pub const KEY_BYTES_MAX: usize = 256;

impl Request for Submit {
    const KIND: &'static str = "job.submit";
    type Reply = JobRecord;
}

/// Client → broker: the record of one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetJob {
    pub id: JobId,
}

impl Request for GetJob {
    const KIND: &'static str = "job.get";
    type Reply = JobRecord;
}

/// Client → broker: jobs for which all of this holds, newest first, of all that are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListJobs {
    /// At most this many, not 0; the broker returns at most [`LIST_MAX`].
    pub limit: u32,
    /// In one of these states; empty for any.
    #[serde(default)]
    pub states: Vec<JobState>,
    #[serde(default)]
    pub service: Option<String>,
    /// Submitted at this time or later, and before that one, in nanoseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub since_ns: Option<u64>,
    #[serde(default)]
    pub until_ns: Option<u64>,
    /// Somewhere in the key, the parameters, the reason or the agent's name, in any case of its letters.
    #[serde(default)]
    pub text: Option<String>,
    /// Older than this job: [`JobList::next`] of the page before.
    #[serde(default)]
    pub before: Option<JobId>,
}

/// Longest list of jobs in one answer.
pub const LIST_MAX: u32 = 1000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobList {
    pub jobs: Vec<JobRecord>,
    /// Where the next page begins; none when there is nothing older. A page may have fewer jobs than were
    /// asked for, and none at all, though there is a next one: the broker stops at a limit of its own.
    #[serde(default)]
    pub next: Option<JobId>,
}

impl Request for ListJobs {
    const KIND: &'static str = "job.list";
    type Reply = JobList;
}

/// Client → broker: end this job. A job that waits is cancelled at once; for one that an agent has,
/// the answer has `cancel_requested` and the end follows from the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelJob {
    pub id: JobId,
}

impl Request for CancelJob {
    const KIND: &'static str = "job.cancel";
    type Reply = JobRecord;
}

/// Client → broker: no agent is to get this job until it is released.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldJob {
    pub id: JobId,
}

impl Request for HoldJob {
    const KIND: &'static str = "job.hold";
    type Reply = JobRecord;
}

/// Client → broker: a held job may be given to an agent again. Changes nothing for any other job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseJob {
    pub id: JobId,
}

impl Request for ReleaseJob {
    const KIND: &'static str = "job.release";
    type Reply = JobRecord;
}

/// Client → broker: another place in the queue. Exactly one of the two is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveJob {
    pub id: JobId,
    /// Among the jobs of this priority, by its age.
    #[serde(default)]
    pub priority: Option<i32>,
    /// Directly before this queued job of the same service, with its priority.
    #[serde(default)]
    pub before: Option<JobId>,
}

impl Request for MoveJob {
    const KIND: &'static str = "job.move";
    type Reply = JobRecord;
}

/// Client → broker: what became of a job and of all that follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetOutcome {
    pub id: JobId,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// All of them have ended; nothing more follows.
    pub ended: bool,
    /// Any of them has ended other than `done`.
    pub failed: bool,
    /// The job, then what follows it, then what follows that: oldest first.
    pub jobs: Vec<JobRecord>,
}

impl Request for GetOutcome {
    const KIND: &'static str = "job.outcome";
    type Reply = Outcome;
}

/// Broker → agent: this job is yours. Sent again after a reconnect until the agent reports on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunJob {
    pub id: JobId,
    /// [`JobRecord::attempt`]; the agent's reports carry it back.
    pub attempt: u32,
    pub service: String,
    pub params: Value,
}

impl Notice for RunJob {
    const KIND: &'static str = "job.run";
}

/// Broker → agent: end this job cleanly. Sent again after a reconnect until the job has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillJob {
    pub id: JobId,
    /// What the report of an agent carries that does not know the job.
    #[serde(default)]
    pub attempt: u32,
}

impl Notice for KillJob {
    const KIND: &'static str = "job.kill";
}

/// Agent → broker: where the job is. The agent repeats it until it is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportJob {
    pub id: JobId,
    /// Of `job.run` or `job.kill`; 0 where it is not known any more. A report of an attempt that is over is
    /// refused.
    #[serde(default)]
    pub attempt: u32,
    pub state: JobState,
    #[serde(default)]
    pub reason: Option<Failure>,
    #[serde(default)]
    pub result: Option<Value>,
}

/// The empty answer: it was understood and, where it matters, stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ack {}

impl Request for ReportJob {
    const KIND: &'static str = "job.report";
    type Reply = Ack;
}

/// Agent → broker: how far it is. Not stored, not answered, newest wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportProgress {
    pub id: JobId,
    pub progress: Progress,
}

impl Notice for ReportProgress {
    const KIND: &'static str = "job.progress";
}
