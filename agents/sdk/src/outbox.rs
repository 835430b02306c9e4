//! What the threads of an agent want the broker to know: the one place where they meet the I/O thread.
//!
//! ```text
//! main thread   set_state, publish, stop ─┐
//! job threads   report, progress, end ────┴─▶ Outbox ──wake──▶ I/O thread takes all
//! ```
//!
//! # Rules
//! O1  Nobody waits here: every function takes a lock for a few instructions.
//! O2  It is bounded without a queue: state, telemetry and progress keep only the newest value, and a job
//!     reports at most three states (accepted, running, end).

use crate::{
    hosting::{HostNews, ItemPath},
    limits::HOST_NEWS_MAX,
    link::Waker,
};
use ecs_schemas::{
    job::{JobId, Progress, ReportJob},
    registry::AgentState,
    value::Value,
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// What is new since it was last taken.
#[derive(Debug, Default)]
pub struct News {
    pub state: Option<AgentState>,
    pub telemetry: Option<BTreeMap<String, Value>>,
    /// In the order in which they were made.
    pub reports: Vec<ReportJob>,
    /// What is new of hosted subsystems, in its order.
    pub hosted: Vec<HostNews>,
    /// Newest values of items for which there was no place there, and how many each replaces.
    overflow: BTreeMap<ItemPath, (Value, u64)>,
    /// The agent is to stop, at the latest at this instant.
    pub stop_by: Option<Instant>,
}

pub struct Outbox {
    news: Mutex<News>,
    /// Taken on its own, at the pace of the I/O thread: a service may report every image.
    progress: Mutex<BTreeMap<JobId, Progress>>,
    waker: Waker,
}

impl Outbox {
    pub fn new(waker: Waker) -> Self {
        Self { news: Mutex::default(), progress: Mutex::default(), waker }
    }

    pub fn set_state(&self, state: AgentState) {
        self.note(|news| news.state = Some(state));
    }

    pub fn publish(&self, values: BTreeMap<String, Value>) {
        self.note(|news| news.telemetry = Some(values));
    }

    pub fn set_progress(&self, id: JobId, progress: Progress) {
        let mut waiting = lock(&self.progress);
        if waiting.is_empty() {
            self.waker.wake(); // otherwise it was woken and will come
        }
        waiting.insert(id, progress);
    }

    pub fn report(&self, report: ReportJob) {
        self.note(|news| news.reports.push(report));
    }

    /// The last report of a job; its progress matters no more.
    pub fn end(&self, report: ReportJob) {
        lock(&self.progress).remove(&report.id);
        self.report(report);
    }

    /// News of a hosted subsystem.
    pub fn host(&self, news: HostNews) {
        let mut all = lock(&self.news);
        let is_first = all.hosted.is_empty();
        match news {
            HostNews::Publish { path, value, .. } if all.hosted.len() >= HOST_NEWS_MAX => {
                let (newest, skipped) = all.overflow.entry(path).or_insert((Value::Null, u64::MAX));
                (*newest, *skipped) = (value, skipped.wrapping_add(1));
            }
            news => all.hosted.push(news),
        }
        drop(all);
        if is_first {
            self.waker.wake(); // otherwise it was woken and will come
        }
    }

    /// There is something to do, though nothing to say.
    pub fn wake(&self) {
        self.waker.wake();
    }

    pub fn stop(&self, by: Instant) {
        self.note(|news| news.stop_by = Some(by));
    }

    /// Takes everything that is new.
    pub fn take(&self) -> News {
        let mut news = std::mem::take(&mut *lock(&self.news));
        let newest = |(path, (value, skipped))| HostNews::Publish { path, value, skipped };
        news.hosted.extend(std::mem::take(&mut news.overflow).into_iter().map(newest));
        news
    }

    pub fn has_progress(&self) -> bool {
        !lock(&self.progress).is_empty()
    }

    pub fn take_progress(&self) -> BTreeMap<JobId, Progress> {
        std::mem::take(&mut *lock(&self.progress))
    }

    fn note(&self, change: impl FnOnce(&mut News)) {
        change(&mut lock(&self.news));
        self.waker.wake();
    }
}

/// A lock is held for single assignments only, so a panic cannot leave half a change behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
