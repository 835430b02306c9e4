//! What follows a job: one job for each service that follows its service (rule J7), and what became of all.
//!
//! ```text
//! end (follow_up_due on) ──reconcile──▶ a job per following service, follow_up_due off     one transaction
//! ```
//!
//! Why a flag in the record, when both are one transaction? Then what is owed can be read from the disk
//! alone, by whatever broker comes next, and the key makes a second job for it impossible.

use super::{
    Core,
    job_life::{end, new_record},
    jobs::Job,
};
use crate::limits::{FOLLOWED_REASON_CHARS_MAX, LIST_BYTES_MAX, OPEN_FOLLOWERS_MAX};
use ecs_schemas::{
    envelope::encode,
    error_code::{ErrorCode, Failure},
    job::{GetOutcome, JobId, JobRecord, JobState, Outcome, Submit, follow_up_key},
    value::Value,
};
use std::collections::BTreeSet;

impl Core {
    /// Takes in what the agents that are here say of what follows what (rule F1).
    pub(super) fn learn_followers(&mut self) {
        self.followers.learn(self.registry.offers());
    }

    /// Queues what follows the jobs that have ended, and what follows of that at once. It comes to an end
    /// because no service follows itself (rule F2).
    pub(super) fn queue_follow_ups(&mut self, now_ns: u64) {
        while let Some(id) = self.jobs.first_due() {
            let followed = self.jobs.get(id).expect("a job that is due is there").record.clone();
            for service in self.followers.after(&followed.service) {
                self.queue_follow_up(&followed, service, now_ns);
            }
            self.jobs.change(id, |job| job.record.follow_up_due = false);
        }
    }

    fn queue_follow_up(&mut self, followed: &JobRecord, service: String, now_ns: u64) {
        let key = follow_up_key(followed.id, &service);
        if self.jobs.by_key(&key).is_some() {
            return;
        }
        let is_full = self.jobs.open_follower_count() >= OPEN_FOLLOWERS_MAX;
        let id = self.jobs.next_id();
        let submit =
            Submit { service, params: params_after(followed), key, priority: followed.priority, ..Submit::default() };
        let mut job = Job::new(new_record(id, submit, now_ns));
        job.record.follows = Some(followed.id);
        if let Some(reason) = reason_not_to_follow(followed, is_full) {
            end(&mut job, JobState::Failed, Some(reason), now_ns);
        }
        self.jobs.insert(job.record);
    }

    /// # Errors
    /// `no_such_job`.
    pub(super) fn outcome(&self, get: &GetOutcome) -> Result<Outcome, Failure> {
        self.find_job(get.id)?;
        let mut ids = BTreeSet::from([get.id]);
        let mut last = ids.clone();
        while !last.is_empty() {
            last = last.iter().flat_map(|id| self.jobs.followers_of(*id)).collect();
            ids.extend(&last);
        }
        let records: Vec<&JobRecord> = ids.iter().filter_map(|id| self.jobs.get(*id)).map(|job| &job.record).collect();
        let ended = records.iter().all(|record| record.state.is_end());
        let failed = records.iter().any(|record| record.state.is_end() && record.state != JobState::Done);
        Ok(Outcome { ended, failed, jobs: self.shortened(&ids) })
    }

    /// Records of a job and its followers. Beyond the limit they come without parameters and results, so that
    /// all fit into one body.
    fn shortened(&self, ids: &BTreeSet<JobId>) -> Vec<JobRecord> {
        let mut bytes = 0;
        let mut jobs = Vec::new();
        for job in ids.iter().filter_map(|id| self.jobs.get(*id)) {
            let mut record = self.answered(&job.record);
            bytes += encode(&record).len();
            if bytes > LIST_BYTES_MAX {
                (record.params, record.result) = (Value::Null, None);
            }
            jobs.push(record);
        }
        jobs
    }
}

/// What a following service is told of the job that it follows.
fn params_after(followed: &JobRecord) -> Value {
    Value::map([
        ("job", followed.id.0.into()),
        ("service", followed.service.as_str().into()),
        ("state", followed.state.as_str().into()),
        ("params", followed.params.clone()),
        ("result", followed.result.clone().unwrap_or_default()),
        ("reason", followed.reason.as_ref().map(Value::from_typed).unwrap_or_default()),
    ])
}

/// Why a job that follows fails without reaching an agent.
fn reason_not_to_follow(followed: &JobRecord, is_full: bool) -> Option<Failure> {
    if followed.state != JobState::Done {
        let (code, why) = match &followed.reason {
            Some(reason) => (reason.code, reason.message.chars().take(FOLLOWED_REASON_CHARS_MAX).collect()),
            None => (ErrorCode::Other, "no reason was given".to_owned()),
        };
        let (id, service, state) = (followed.id, &followed.service, followed.state.as_str());
        return Some(Failure::new(code, format!("job {id} ({service}) ended {state}: {why}")));
    }
    let busy = Failure::new(ErrorCode::Busy, format!("{OPEN_FOLLOWERS_MAX} jobs that follow others wait already"));
    is_full.then(|| busy.with_hint("start the agents whose services follow, or let them offer them without `follows`"))
}

// The parameters of each step have those of the step before inside, and lie this deep in an answer.
const _: () =
    assert!(crate::limits::VALUE_DEPTH_MAX + crate::limits::FOLLOW_DEPTH_MAX + 8 < ecs_schemas::envelope::DEPTH_MAX);
