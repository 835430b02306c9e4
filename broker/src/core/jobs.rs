//! The table of jobs, with its indexes, its limits, and the way back to before the batch.
//!
//! # Rules
//! T1  Every change goes through [`Jobs::put`], which keeps the indexes and remembers what was there
//!     before the batch. Two things go past it, since neither is stored: progress, which needs no undo, and when
//!     something was sent ([`Jobs::note_sent`]), which nobody is told.
//! T2  The newest job is never forgotten, so the next id is always one above the largest kept.
//! T3  A job that is still to be followed is never forgotten. What follows it is younger, so it is forgotten
//!     later: while a job is kept, the jobs that follow it are.

use crate::limits::{KEPT_JOBS_BYTES_MAX, KEPT_JOBS_MAX};
use ecs_schemas::{
    envelope::encode,
    job::{JobId, JobRecord, Progress},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
};

/// What the store is to do. All changes of a batch are one transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The record as it is now, without its progress.
    Save(Box<JobRecord>),
    /// The job is older than what is kept.
    Forget(JobId),
    /// What a service follows from now on, or that it follows none.
    Follow { service: String, follows: Option<String> },
}

/// Place of a queued job: the queue of its service, and rule J6 within it. The id decides between records
/// that an older version stored without an order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    service: String,
    priority: Reverse<i32>,
    order: u64,
    id: JobId,
}

impl Place {
    /// Before all of a service.
    fn first(service: &str) -> Self {
        Self { service: service.to_owned(), priority: Reverse(i32::MAX), order: 0, id: JobId(0) }
    }

    fn of(record: &JobRecord) -> Self {
        let (priority, order) = (Reverse(record.priority), record.order);
        Self { service: record.service.clone(), priority, order, id: record.id }
    }
}

/// A job, and what is known of it in memory only.
#[derive(Debug, Clone)]
pub struct Job {
    pub record: JobRecord,
    pub sent: Sent,
    /// Size of the encoded record, for the limits on lists and on all of them.
    pub bytes: usize,
}

/// When `job.run` or `job.kill` was last sent to the agent's present session.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sent {
    pub run_ns: Option<u64>,
    pub kill_ns: Option<u64>,
}

#[derive(Default)]
pub struct Jobs {
    all: BTreeMap<JobId, Job>,
    open: BTreeSet<JobId>,
    /// Open ones that an agent has.
    given: BTreeSet<JobId>,
    /// Open ones that follow others.
    open_followers: BTreeSet<JobId>,
    /// Those that no agent has, held ones included; and without these.
    queue: BTreeSet<Place>,
    waiting: BTreeSet<Place>,
    /// Ended, and still to be followed.
    due: BTreeSet<JobId>,
    /// A job and one that follows it.
    followers: BTreeSet<(JobId, JobId)>,
    by_key: HashMap<String, JobId>,
    bytes: usize,
    /// What each job that this batch touched was before it; none for a new one.
    undo: BTreeMap<JobId, Option<Job>>,
    /// When something was last sent before this batch, of jobs that it did not touch otherwise.
    undo_sent: BTreeMap<JobId, Sent>,
    /// Jobs to publish at the end of the batch.
    dirty: BTreeSet<JobId>,
}

impl Job {
    pub fn new(record: JobRecord) -> Self {
        Self { record, sent: Sent::default(), bytes: 0 }
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

    pub fn open(&self) -> impl Iterator<Item = &JobRecord> {
        self.open.iter().filter_map(|id| self.all.get(id)).map(|job| &job.record)
    }

    /// Ids of the jobs that an agent has, oldest first.
    pub fn given_ids(&self) -> Vec<JobId> {
        self.given.iter().copied().collect()
    }

    pub fn given(&self) -> impl Iterator<Item = &JobRecord> {
        self.given.iter().filter_map(|id| self.all.get(id)).map(|job| &job.record)
    }

    /// Services with jobs that wait for an agent.
    pub fn waiting_services(&self) -> Vec<String> {
        let mut services = Vec::new();
        let mut first = self.waiting.first();
        while let Some(place) = first {
            services.push(place.service.clone());
            let (priority, order, id) = (Reverse(i32::MIN), u64::MAX, JobId(u64::MAX));
            let last = Place { service: place.service.clone(), priority, order, id };
            first = self.waiting.range((Bound::Excluded(last), Bound::Unbounded)).next();
        }
        services
    }

    /// Ids of the jobs of one service that wait for an agent, in the order of its queue.
    pub fn waiting_ids(&self, service: &str) -> Vec<JobId> {
        let places = self.waiting.range(Place::first(service)..);
        places.take_while(|place| place.service == service).map(|place| place.id).collect()
    }

    /// The queue of one service in its order, held jobs included.
    pub fn queue_of<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a JobRecord> {
        let places = self.queue.range(Place::first(service)..).take_while(move |place| place.service == service);
        places.filter_map(|place| self.all.get(&place.id)).map(|job| &job.record)
    }

    /// The oldest job that has ended and is still to be followed.
    pub fn first_due(&self) -> Option<JobId> {
        self.due.first().copied()
    }

    /// Open jobs that follow others.
    pub fn open_follower_count(&self) -> usize {
        self.open_followers.len()
    }

    /// Ids of the jobs that directly follow this one.
    pub fn followers_of(&self, id: JobId) -> impl Iterator<Item = JobId> {
        self.followers.range((id, JobId(0))..=(id, JobId(u64::MAX))).map(|(_, follower)| *follower)
    }

    /// Jobs, newest first, older than `before`.
    pub fn newest(&self, before: Option<JobId>) -> impl Iterator<Item = &Job> {
        self.all.range(..before.unwrap_or(JobId(u64::MAX))).rev().map(|(_, job)| job)
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

    /// Notes that something was sent, or that it must be sent again (rule T1). A batch that fails has sent nothing.
    pub fn note_sent(&mut self, id: JobId, note: impl FnOnce(&mut Sent)) {
        let Some(job) = self.all.get_mut(&id) else { return };
        if !self.undo.contains_key(&id) {
            self.undo_sent.entry(id).or_insert(job.sent);
        }
        note(&mut job.sent);
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
            self.unindex(&before.record);
        }
        if let Some(mut job) = job {
            job.bytes = encode(&job.record).len();
            self.bytes += job.bytes;
            self.index(&job.record);
            self.all.insert(id, job);
        }
        before
    }

    fn index(&mut self, record: &JobRecord) {
        let id = record.id;
        if !record.state.is_end() {
            self.open.insert(id);
            if record.agent.is_some() {
                self.given.insert(id);
            }
            if record.follows.is_some() {
                self.open_followers.insert(id);
            }
        }
        if record.is_queued() {
            self.queue.insert(Place::of(record));
            if !record.held {
                self.waiting.insert(Place::of(record));
            }
        }
        if record.follow_up_due {
            self.due.insert(id);
        }
        if let Some(followed) = record.follows {
            self.followers.insert((followed, id));
        }
        self.by_key.insert(record.key.clone(), id);
    }

    fn unindex(&mut self, record: &JobRecord) {
        let id = record.id;
        self.open.remove(&id);
        self.given.remove(&id);
        self.open_followers.remove(&id);
        if record.is_queued() {
            self.queue.remove(&Place::of(record));
            self.waiting.remove(&Place::of(record));
        }
        self.due.remove(&id);
        if let Some(followed) = record.follows {
            self.followers.remove(&(followed, id));
        }
        if self.by_key.get(&record.key) == Some(&id) {
            self.by_key.remove(&record.key); // else it is a younger job's by now
        }
    }

    fn forget_old(&mut self) {
        while self.all.len() > KEPT_JOBS_MAX || self.bytes > KEPT_JOBS_BYTES_MAX {
            let newest = self.all.last_key_value().map(|(id, _)| *id);
            let is_needed = |id: &JobId| self.open.contains(id) || self.due.contains(id);
            let ended = |id: &JobId| Some(*id) != newest && !is_needed(id);
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
        self.undo_sent.clear();
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().filter_map(|id| self.all.get(&id)).map(|job| &job.record).collect()
    }

    /// Back to before the batch, the youngest first: a key may have gone from an old job that was forgotten to a new one.
    pub fn rollback(&mut self) {
        for (id, before) in std::mem::take(&mut self.undo).into_iter().rev() {
            self.swap(id, before);
            self.dirty.remove(&id);
        }
        for (id, sent) in std::mem::take(&mut self.undo_sent) {
            self.all.entry(id).and_modify(|job| job.sent = sent);
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
            priority: 0,
            order: id,
            held: false,
            repeat_if_lost: false,
            attempt: 0,
            follows: None,
            follow_up_due: false,
            position: None,
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
        assert_eq!((jobs.next_id(), jobs.open().map(|job| job.id).collect()), (JobId(2), vec![JobId(1)]));
        assert_eq!(jobs.by_key("key 2"), None);
        assert_eq!(jobs.get(JobId(1)).map(|job| job.record.state), Some(JobState::Running));
        assert_eq!(jobs.changes(), vec![]);
    }

    /// The table is full: the oldest is pushed out, and its key is used again in the same batch.
    #[test]
    fn rollback_gives_a_key_back_to_the_job_that_had_it() {
        let mut jobs = Jobs::load((1..=KEPT_JOBS_MAX as u64).map(|id| record(id, JobState::Done)).collect());
        for _ in 0..2 {
            let next = jobs.next_id().0;
            jobs.insert(record(next, JobState::Submitted));
            assert_eq!(jobs.by_key("key 1"), None, "it was pushed out");
            jobs.insert(JobRecord { key: "key 1".to_owned(), ..record(next + 1, JobState::Submitted) });
            assert_eq!(jobs.by_key("key 1").map(|job| job.id), Some(JobId(next + 1)));
            jobs.rollback();
            assert_eq!(jobs.by_key("key 1").map(|job| job.id), Some(JobId(1)));
        }
    }

    #[test]
    fn rollback_restores_every_queue_and_what_is_to_be_followed() {
        let waiting = JobRecord { follows: Some(JobId(1)), ..record(2, JobState::Submitted) };
        let mut jobs = Jobs::load(vec![record(1, JobState::Running), waiting, record(3, JobState::Submitted)]);
        jobs.change(JobId(3), |job| job.record.priority = 1);
        jobs.change(JobId(2), |job| job.record.agent = Some("x01/a".to_owned()));
        jobs.change(JobId(1), |job| (job.record.state, job.record.follow_up_due) = (JobState::Done, true));
        jobs.insert(JobRecord { follows: Some(JobId(1)), ..record(4, JobState::Submitted) });
        assert_eq!((jobs.waiting_ids("write"), jobs.first_due()), (vec![JobId(3), JobId(4)], Some(JobId(1))));
        assert_eq!(jobs.followers_of(JobId(1)).collect::<Vec<_>>(), [JobId(2), JobId(4)]);
        assert_eq!((jobs.given_ids(), jobs.open_follower_count()), (vec![JobId(2)], 2));
        jobs.rollback();
        assert_eq!((jobs.given_ids(), jobs.open_follower_count()), (vec![], 1));
        assert_eq!((jobs.waiting_ids("write"), jobs.first_due()), (vec![JobId(2), JobId(3)], None));
        assert_eq!(jobs.followers_of(JobId(1)).collect::<Vec<_>>(), [JobId(2)]);
    }

    #[test]
    fn services_with_jobs_that_wait_are_named_once_and_those_with_held_ones_only_are_not() {
        let of = |id, service: &str| JobRecord { service: service.to_owned(), ..record(id, JobState::Submitted) };
        let held = JobRecord { held: true, ..of(5, "held") };
        let given = JobRecord { agent: Some("x01/a".to_owned()), ..of(6, "given") };
        let last = JobRecord { priority: i32::MIN, ..of(3, "b") };
        let mut jobs = Jobs::load(vec![of(1, "b"), of(2, "a"), last, of(4, "b/c"), held, given]);
        assert_eq!(jobs.waiting_services(), ["a", "b", "b/c"]);
        assert_eq!(jobs.waiting_ids("b"), [JobId(1), JobId(3)]);
        jobs.change(JobId(5), |job| job.record.held = false);
        jobs.change(JobId(2), |job| job.record.state = JobState::Cancelled);
        assert_eq!(jobs.waiting_services(), ["b", "b/c", "held"]);
    }

    #[test]
    fn queue_of_a_service_has_higher_priorities_first_then_lower_orders_and_no_other_services_jobs() {
        let queued = |id, priority, order| JobRecord { priority, order, ..record(id, JobState::Submitted) };
        let mut other = queued(9, i32::MAX, 0);
        other.service = "write ".to_owned();
        let jobs = Jobs::load(vec![queued(1, 0, 5), queued(2, 0, 4), queued(3, i32::MAX, 9), queued(4, -1, 0), other]);
        let ids: Vec<u64> = jobs.queue_of("write").map(|record| record.id.0).collect();
        assert_eq!(ids, [3, 2, 1, 4]);
    }

    #[test]
    fn what_was_sent_is_neither_stored_nor_told_and_is_undone_as_all_else() {
        let mut jobs = Jobs::load(vec![record(1, JobState::Running)]);
        jobs.commit();
        let run_ns = |jobs: &Jobs| jobs.get(JobId(1)).unwrap().sent.run_ns;
        jobs.note_sent(JobId(1), |sent| sent.run_ns = Some(5));
        assert_eq!((jobs.changes(), jobs.commit().len(), run_ns(&jobs)), (vec![], 0, Some(5)));
        jobs.note_sent(JobId(1), |sent| sent.run_ns = Some(6));
        jobs.change(JobId(1), |job| job.record.cancel_requested = true);
        jobs.note_sent(JobId(1), |sent| sent.run_ns = Some(7));
        jobs.rollback();
        assert_eq!((run_ns(&jobs), jobs.commit().len()), (Some(5), 0));
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
    fn jobs_beyond_the_limit_push_out_the_oldest_that_ended_and_is_followed() {
        let mut stored: Vec<_> = (1..=KEPT_JOBS_MAX as u64).map(|id| record(id, JobState::Done)).collect();
        stored[0].state = JobState::Running;
        stored[1].follow_up_due = true;
        let mut jobs = Jobs::load(stored);
        let next = jobs.next_id();
        jobs.insert(record(next.0, JobState::Submitted));
        assert_eq!(jobs.all.len(), KEPT_JOBS_MAX);
        assert!(jobs.get(JobId(1)).is_some(), "an open job is never forgotten");
        assert!(jobs.get(JobId(2)).is_some(), "nor one that is still to be followed");
        assert!(jobs.get(JobId(3)).is_none() && jobs.by_key("key 3").is_none());
        assert!(jobs.changes().contains(&Change::Forget(JobId(3))));
    }
}
