//! What was acknowledged, and whatever contradicts it.
//!
//! # Rules (findings cite these)
//! L1  A job that was acknowledged is there, under its id and key, with its parameters. One key is one job.
//! L2  A job that was told or read as ended stays as it ended, in every answer and on its topic.
//! L3  A revision of an item with `persist` has one value, whoever tells it and however often the broker restarts.
//! L4  What is read after an acknowledgement is at its revision or a later one.
//! L5  An answer to a request comes before its deadline and a margin.
//! L6  An identity has one holder.
//! L7  What was missed is told: revisions and sequences rise by one, or the reader is told by how much more.

use ecs_schemas::{
    error_code::Failure,
    job::{JobId, JobRecord, JobState},
    kv::Reading,
    value::Value,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// More than this many findings say the same.
const FINDINGS_MAX: usize = 20;

#[derive(Default)]
pub struct Ledger {
    findings: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    jobs: Mutex<Jobs>,
    items: Mutex<Items>,
}

#[derive(Default)]
struct Jobs {
    acknowledged: HashMap<String, (JobId, Value)>,
    keys: HashMap<JobId, String>,
    ends: HashMap<JobId, End>,
}

/// How a job ended, and when that was first known here.
#[derive(Clone)]
struct End {
    state: JobState,
    reason: Option<Failure>,
    result: Option<Value>,
    known: Instant,
}

#[derive(Default)]
struct Items {
    /// Of items with `persist`, by item and revision.
    values: HashMap<(String, u64), Value>,
    /// The newest acknowledgement of an item, and when it was.
    newest: HashMap<String, (u64, Value, Instant)>,
}

impl Ledger {
    pub fn find(&self, finding: String) {
        let mut findings = lock(&self.findings);
        if findings.len() < FINDINGS_MAX {
            findings.push(finding);
        }
    }

    pub fn findings(&self) -> Vec<String> {
        lock(&self.findings).clone()
    }

    /// Counts what happened, so that a run in which nothing happened is seen.
    pub fn count(&self, what: &'static str) {
        *lock(&self.counts).entry(what).or_default() += 1;
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.counts).clone()
    }

    /// The broker has acknowledged a submission.
    pub fn submitted(&self, key: &str, params: &Value, record: &JobRecord) {
        let known = lock(&self.jobs).acknowledged.insert(key.to_owned(), (record.id, params.clone()));
        if let Some((id, _)) = known.filter(|(id, _)| *id != record.id) {
            self.find(format!("L1: key {key} was job {id} and is job {} now", record.id));
        }
        if record.key != key {
            self.find(format!("L1: submitted {key}, the answer is job {} with the key {}", record.id, record.key));
        }
    }

    /// A record that was told or read; `asked` is when it was asked for, if it is an answer.
    pub fn job(&self, record: &JobRecord, from: &str, asked: Option<Instant>) {
        let mut jobs = lock(&self.jobs);
        let key = jobs.keys.entry(record.id).or_insert_with(|| record.key.clone()).clone();
        if key != record.key {
            self.find(format!("L1: job {} had the key {key}, and {} by {from}", record.id, record.key));
        }
        if let Some((id, params)) = jobs.acknowledged.get(&record.key)
            && (*id != record.id || *params != record.params)
        {
            self.find(format!("L1: {} was job {id} with {params}; by {from} it is {record:?}", record.key));
        }
        let end = record.state.is_end().then(|| End {
            state: record.state,
            reason: record.reason.clone(),
            result: record.result.clone(),
            known: Instant::now(),
        });
        match (jobs.ends.get(&record.id), end) {
            (None, Some(end)) => drop(jobs.ends.insert(record.id, end)),
            (Some(known), Some(end))
                if (known.state, &known.reason, &known.result) != (end.state, &end.reason, &end.result) =>
            {
                let was = (known.state, &known.reason, &known.result);
                self.find(format!("L2: job {} ended as {was:?}; by {from} it is {record:?}", record.id));
            }
            (Some(known), None) if asked.is_some_and(|asked| asked > known.known) => {
                self.find(format!("L2: job {} ended as {:?}; by {from} it is {record:?}", record.id, known.state));
            }
            _ => {}
        }
    }

    pub fn acknowledged_jobs(&self) -> Vec<(String, JobId)> {
        lock(&self.jobs).acknowledged.iter().map(|(key, (id, _))| (key.clone(), *id)).collect()
    }

    /// A value of an item with `persist`, from whoever told it.
    pub fn value(&self, path: &str, revision: u64, value: &Value, from: &str) {
        let mut items = lock(&self.items);
        let known = items.values.entry((path.to_owned(), revision)).or_insert_with(|| value.clone());
        if known != value {
            let known = known.clone();
            self.find(format!("L3: {path} at revision {revision} was {known}; by {from} it is {value}"));
        }
    }

    /// The broker has acknowledged that the item has this value; values rise.
    pub fn acknowledged(&self, path: &str, revision: u64, value: &Value, from: &str) {
        self.value(path, revision, value, from);
        let newest = (revision, value.clone(), Instant::now());
        if let Some((before, ..)) = lock(&self.items).newest.insert(path.to_owned(), newest)
            && before > revision
        {
            self.find(format!("L4: {path} was acknowledged at revision {before}, and then at {revision} ({from})"));
        }
    }

    /// What was read of an item with `persist`, by a request that was sent at `asked`. None: it has no value.
    pub fn read(&self, path: &str, reading: Option<&Reading>, asked: Instant, from: &str) {
        if let Some(reading) = reading {
            self.value(path, reading.revision, &reading.value, from);
        }
        let items = lock(&self.items);
        let Some((revision, value, at)) = items.newest.get(path).filter(|newest| newest.2 < asked) else { return };
        let is_older = reading.is_none_or(|its| its.revision < *revision || its.value.as_f64() < value.as_f64());
        if is_older {
            let ago = asked.duration_since(*at);
            self.find(format!(
                "L4: {path} was acknowledged as {value} at revision {revision} {ago:?} before; {from}: {reading:?}"
            ));
        }
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
