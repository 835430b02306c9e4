//! A job: what somebody asked a service to do, and all that became of it.
//!
//! ```text
//! submitted ──▶ accepted ──▶ running ──▶ done | failed | cancelled
//!     │             │           └──────▶ lost        the agent is gone and nobody knows
//!     └──▶ rejected └─▶ failed | cancelled | lost
//! ```
//!
//! # Rules
//! J1  A state is on the broker's disk before anybody is told of it.
//! J2  A job ends exactly once; a report that would move it out of an end state is ignored.
//! J3  `key` is chosen by the submitter; the same key twice is one job.
//! J4  An agent says which jobs it has whenever it registers; a running job that its agent does not
//!     know any more is lost.

use crate::{
    envelope::{Notice, Request},
    error_code::Failure,
    value::Value,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Number of a job, given by the broker, rising from 1 and never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Where a job is in its life. See the picture in the module header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// On the broker's disk, waiting for an agent.
    Submitted,
    /// The agent has checked the parameters and will do it.
    Accepted,
    /// The agent has refused it; nothing was done.
    Rejected,
    /// Under way. For a write: armed, every image from now on counts.
    Running,
    Done,
    Failed,
    Cancelled,
    /// The agent that had it is gone and did not come back to say how it ended.
    Lost,
}

impl JobState {
    pub const ALL: [Self; 8] = [
        Self::Submitted,
        Self::Accepted,
        Self::Rejected,
        Self::Running,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
        Self::Lost,
    ];

    /// True for the states that a job never leaves.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Rejected | Self::Done | Self::Failed | Self::Cancelled | Self::Lost)
    }

    /// The arrows of the picture in the module header; a state may also be reported again.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Submitted => true,
            Self::Accepted => !matches!(next, Self::Submitted | Self::Rejected),
            Self::Running => !matches!(next, Self::Submitted | Self::Accepted | Self::Rejected),
            _ => false,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}

/// How far a running job is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done, of `total`; `unit` names a step, for example `images`.
    pub done: u64,
    pub total: u64,
    pub unit: String,
    /// Bytes moved so far, for a rate in GB/s.
    pub bytes: u64,
}

/// One step of a job's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    pub state: JobState,
    /// Nanoseconds since 1970-01-01 UTC, the broker's clock.
    pub time_ns: u64,
}

/// All that the broker knows of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    pub id: JobId,
    pub key: String,
    /// Name of the service that was asked, for example `write`.
    pub service: String,
    pub params: Value,
    pub state: JobState,
    /// True once somebody asked for its end; the agent decides when it ends.
    #[serde(default)]
    pub cancel_requested: bool,
    /// Name of the agent that has or had it.
    #[serde(default)]
    pub agent: Option<String>,
    /// Why it was rejected, failed, cancelled or lost.
    #[serde(default)]
    pub reason: Option<Failure>,
    #[serde(default)]
    pub progress: Option<Progress>,
    /// What the agent reported at the end, also of a failed or cancelled job.
    #[serde(default)]
    pub result: Option<Value>,
    /// Every state it was in, with its time, oldest first.
    pub history: Vec<Transition>,
}

/// Client → broker: do this. Answered once the job is on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submit {
    pub service: String,
    #[serde(default)]
    pub params: Value,
    /// At most [`KEY_BYTES_MAX`] bytes, not empty.
    pub key: String,
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

/// Client → broker: the newest jobs, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListJobs {
    /// At most this many; the broker returns at most [`LIST_MAX`].
    pub limit: u32,
}

/// Longest list of jobs in one answer.
pub const LIST_MAX: u32 = 1000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobList {
    pub jobs: Vec<JobRecord>,
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

/// Broker → agent: this job is yours. Sent again after a reconnect until the agent reports on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunJob {
    pub id: JobId,
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
}

impl Notice for KillJob {
    const KIND: &'static str = "job.kill";
}

/// Agent → broker: where the job is. The agent repeats it until it is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportJob {
    pub id: JobId,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_never_leaves_an_end_state_and_never_goes_back() {
        for from in JobState::ALL {
            for to in JobState::ALL {
                if from.is_end() {
                    assert!(!from.may_become(to), "{from:?} -> {to:?}");
                }
            }
            assert!(from == JobState::Submitted || !from.may_become(JobState::Submitted));
        }
        assert!(!JobState::Running.may_become(JobState::Accepted));
    }
}
