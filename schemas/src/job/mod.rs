//! A job: what somebody asked a service to do, and all that became of it.
//!
//! ```text
//! submitted ──▶ accepted ──▶ running ──▶ done | failed | cancelled
//!  ▲  │             │           └──────▶ lost        the agent is gone and nobody knows
//!  │  └──▶ rejected └─▶ failed | cancelled | lost
//!  └────── accepted | running: the agent is gone, and the job may be repeated (rule J5)
//! ```
//!
//! # Rules
//! J1  A state is on the broker's disk before anybody is told of it.
//! J2  A job ends exactly once; a report that would move it out of an end state is ignored.
//! J3  `key` is chosen by the submitter; the same key twice is one job.
//! J4  An agent says which jobs it has whenever it registers; a running job that its agent does not
//!     know any more is lost.
//! J5  A job with `repeat_if_lost` is queued again where it would be lost, [`REPEATS_MAX`] times at most,
//!     unless its end was asked for.
//! J6  Each service has a queue: higher [`JobRecord::priority`] first, then lower [`JobRecord::order`]. A
//!     held job keeps its place and is passed over.
//! J7  When a job ends, one job is queued for each service that follows its service; its key is
//!     [`follow_up_key`], so there is one for each job and service. After any end but `done` it fails at once.

mod messages;

pub use messages::*;

use crate::{error_code::Failure, value::Value};
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

    /// The arrows of the picture that a report may take; a state may also be reported again. The way back
    /// to `submitted` is the broker's alone.
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
    /// Why it is back in the queue, where it is: how the attempt before was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Failure>,
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
    /// Rule J6. Both are given anew by `job.move`.
    #[serde(default)]
    pub priority: i32,
    /// Rising with the id where nobody moved it.
    #[serde(default)]
    pub order: u64,
    /// In the queue, but no agent gets it until it is released.
    #[serde(default)]
    pub held: bool,
    /// Rule J5.
    #[serde(default)]
    pub repeat_if_lost: bool,
    /// How often it was given to an agent: what an agent still says of an earlier attempt is not this one's.
    #[serde(default)]
    pub attempt: u32,
    /// The job that it follows (rule J7).
    #[serde(default)]
    pub follows: Option<JobId>,
    /// It has ended, and what follows it is not queued yet. Both are one transaction of the broker, so that
    /// nobody else sees this.
    #[serde(default, skip_serializing_if = "is_false")]
    pub follow_up_due: bool,
    /// Its place in its service's queue when the answer was made, 1 for the next one; none for a job that is
    /// held or that an agent has or had. Not stored, and not in what is published: one job that leaves the
    /// queue moves all behind it.
    #[serde(default)]
    pub position: Option<u32>,
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

/// A job that is lost is queued again at most this often: a job that takes its agent down with it must come
/// to an end.
pub const REPEATS_MAX: u32 = 3;

impl JobRecord {
    /// How often it was queued again after its agent was lost.
    pub fn repeats(&self) -> u32 {
        let queued = self.history.iter().filter(|step| step.state == JobState::Submitted).count();
        u32::try_from(queued.saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// When it was submitted, in nanoseconds since 1970-01-01 UTC.
    pub fn submitted_ns(&self) -> u64 {
        self.history.first().map_or(0, |step| step.time_ns)
    }

    /// It waits in the queue, held or not: no agent has it.
    pub fn is_queued(&self) -> bool {
        self.state == JobState::Submitted && self.agent.is_none()
    }
}

/// What the broker's own keys begin with; a submission with such a key is refused.
pub const FOLLOW_UP_PREFIX: &str = "follow:";

/// Key of the job of `service` that follows job `followed` (rule J7).
pub fn follow_up_key(followed: JobId, service: &str) -> String {
    format!("{FOLLOW_UP_PREFIX}{followed}:{service}")
}

fn is_false(flag: &bool) -> bool {
    !flag
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
