//! The table of jobs, with its indexes, its limits, and the way back to before the batch.
//!
//! # Rules
//! T1  Every change goes through [`Jobs::put`], which keeps the indexes and remembers what was there
//!     before the batch. Progress alone goes past it: it is not stored and needs no undo.
//! T2  The newest job is never forgotten, so the next id is always one above the largest kept.

use crate::limits::{KEPT_JOBS_BYTES_MAX, KEPT_JOBS_MAX};
use ecs_schemas::{
    envelope::encode,
    job::{JobId, JobRecord, Progress},
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What the store is to do. All changes of a batch are one transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The record as it is now, without its progress.
    Save(Box<JobRecord>),
    /// The job is older than what is kept.
    Forget(JobId),
}

/// A job, and what is known of it in memory only.
#[derive(Debug, Clone)]
pub struct Job {
    pub record: JobRecord,
    /// When `job.run` or `job.kill` was last sent to the agent's present session.
    pub run_sent_ns: Option<u64>,
    pub kill_sent_ns: Option<u64>,
    /// Size of the encoded record, for the limit on all of them.
    bytes: usize,
}

#[derive(Default)]
pub struct Jobs {
    all: BTreeMap<JobId, Job>,
    open: BTreeSet<JobId>,
    by_key: HashMap<String, JobId>,
    bytes: usize,
    /// What each job that this batch touched was before it; none for a new one.
    undo: BTreeMap<JobId, Option<Job>>,
    /// Jobs to publish at the end of the batch.
    dirty: BTreeSet<JobId>,
}

impl Job {
    pub fn new(record: JobRecord) -> Self {
        Self { record, run_sent_ns: None, kill_sent_ns: None, bytes: 0 }
    }
}

impl Jobs {
    /// The table as it was stored. What is open is published again, for those who subscribe later.
    pub fn load(stored: Vec<JobRecord>) -> Self {
        let mut jobs = Self::default();
        for record in stored {
            jobs.put(record.id, Some(Job::new(record)));
        }
        jobs.undo.clear();
        jobs.dirty = jobs.open.clone();
        jobs
    }

    pub fn get(&self, id: JobId) -> Option<&Job> {
        self.all.get(&id)
    }

    pub fn by_key(&self, key: &str) -> Option<&JobRecord> {
        self.by_key.get(key).and_then(|id| self.all.get(id)).map(|job| &job.record)
    }

    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Ids of the jobs that have not ended, oldest first.
    pub fn open_ids(&self) -> Vec<JobId> {
        self.open.iter().copied().collect()
    }

    pub fn open(&self) -> impl Iterator<Item = &JobRecord> {
        self.open.iter().filter_map(|id| self.all.get(id)).map(|job| &job.record)
    }

    /// Records, newest first.
    pub fn newest(&self) -> impl Iterator<Item = &JobRecord> {
        self.all.values().rev().map(|job| &job.record)
    }

    pub fn next_id(&self) -> JobId {
        JobId(self.all.last_key_value().map_or(1, |(id, _)| id.0 + 1))
    }

    pub fn insert(&mut self, record: JobRecord) {
        self.put(record.id, Some(Job::new(record)));
        self.forget_old();
    }

    /// Changes a job that is there.
    pub fn change(&mut self, id: JobId, change: impl FnOnce(&mut Job)) {
        let mut job = self.all.get(&id).expect("only jobs that are there are changed").clone();
        change(&mut job);
        self.put(id, Some(job));
    }

    /// Notes progress of a job: published, not stored (rule T1).
    pub fn note_progress(&mut self, id: JobId, progress: Progress) {
        if let Some(job) = self.all.get_mut(&id) {
            job.record.progress = Some(progress);
            self.dirty.insert(id);
        }
    }

    fn put(&mut self, id: JobId, job: Option<Job>) {
        let before = self.swap(id, job);
        self.undo.entry(id).or_insert(before);
        self.dirty.insert(id);
    }

    /// Replaces an entry and its index entries; returns what was there.
    fn swap(&mut self, id: JobId, job: Option<Job>) -> Option<Job> {
        let before = self.all.remove(&id);
        if let Some(before) = &before {
            self.bytes -= before.bytes;
            self.open.remove(&id);
            self.by_key.remove(&before.record.key);
        }
        if let Some(mut job) = job {
            job.bytes = encode(&job.record).len();
            self.bytes += job.bytes;
            if !job.record.state.is_end() {
                self.open.insert(id);
            }
            self.by_key.insert(job.record.key.clone(), id);
            self.all.insert(id, job);
        }
        before
    }

    fn forget_old(&mut self) {
        while self.all.len() > KEPT_JOBS_MAX || self.bytes > KEPT_JOBS_BYTES_MAX {
            let newest = self.all.last_key_value().map(|(id, _)| *id);
            let ended = |id: &JobId| Some(*id) != newest && !self.open.contains(id);
            let Some(oldest) = self.all.keys().copied().find(ended) else {
                return; // all are open: OPEN_JOBS_MAX limits them
            };
            self.put(oldest, None);
        }
    }

    /// What the store must do for this batch.
    pub fn changes(&self) -> Vec<Change> {
        self.undo.iter().filter_map(|(id, before)| self.change_of(*id, before.as_ref())).collect()
    }

    fn change_of(&self, id: JobId, before: Option<&Job>) -> Option<Change> {
        let durable = |job: &Job| JobRecord { progress: None, ..job.record.clone() };
        match (before.map(durable), self.all.get(&id).map(durable)) {
            (before, Some(now)) if before.as_ref() != Some(&now) => Some(Change::Save(Box::new(now))),
            (Some(_), None) => Some(Change::Forget(id)),
            _ => None,
        }
    }

    /// Ends the batch and returns the records to publish.
    pub fn commit(&mut self) -> Vec<&JobRecord> {
        self.undo.clear();
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().filter_map(|id| self.all.get(&id)).map(|job| &job.record).collect()
    }

    /// Back to before the batch.
    pub fn rollback(&mut self) {
        for (id, before) in std::mem::take(&mut self.undo) {
            self.swap(id, before);
            self.dirty.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecs_schemas::{job::JobState, value::Value};

    fn record(id: u64, state: JobState) -> JobRecord {
        JobRecord {
            id: JobId(id),
            key: format!("key {id}"),
            service: "write".to_owned(),
            params: Value::Null,
            state,
            cancel_requested: false,
            agent: None,
            reason: None,
            progress: None,
            result: None,
            history: vec![],
        }
    }

    #[test]
    fn rollback_restores_jobs_keys_and_the_next_id() {
        let mut jobs = Jobs::load(vec![record(1, JobState::Running)]);
        jobs.insert(record(2, JobState::Submitted));
        jobs.change(JobId(1), |job| job.record.state = JobState::Done);
        assert_eq!(jobs.changes().len(), 2);
        jobs.rollback();
        assert_eq!((jobs.next_id(), jobs.open_ids()), (JobId(2), vec![JobId(1)]));
        assert_eq!(jobs.by_key("key 2"), None);
        assert_eq!(jobs.get(JobId(1)).map(|job| job.record.state), Some(JobState::Running));
        assert_eq!(jobs.changes(), vec![]);
    }

    #[test]
    fn progress_is_published_but_not_stored() {
        let mut jobs = Jobs::load(vec![record(1, JobState::Running)]);
        jobs.commit();
        jobs.note_progress(JobId(1), Progress { done: 5, ..Progress::default() });
        assert_eq!(jobs.changes(), vec![]);
        assert_eq!(jobs.commit().len(), 1);
        jobs.change(JobId(1), |job| job.record.cancel_requested = true);
        let stored = JobRecord { cancel_requested: true, ..record(1, JobState::Running) };
        assert_eq!(jobs.changes(), vec![Change::Save(Box::new(stored))]);
    }

    #[test]
    fn jobs_beyond_the_limit_push_out_the_oldest_that_ended() {
        let mut stored: Vec<_> = (1..=KEPT_JOBS_MAX as u64).map(|id| record(id, JobState::Done)).collect();
        stored[0].state = JobState::Running;
        let mut jobs = Jobs::load(stored);
        let next = jobs.next_id();
        jobs.insert(record(next.0, JobState::Submitted));
        assert_eq!(jobs.all.len(), KEPT_JOBS_MAX);
        assert!(jobs.get(JobId(1)).is_some(), "an open job is never forgotten");
        assert!(jobs.get(JobId(2)).is_none() && jobs.by_key("key 2").is_none());
        assert!(jobs.changes().contains(&Change::Forget(JobId(2))));
    }
}
