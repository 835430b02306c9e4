//! Who is told of an item's values over its own connection, and how often.
//!
//! ```text
//! published ─▶ due now? ── yes ─▶ kv.update
//!                 └─ no: pending; the newest value goes when the interval is over
//! ```
//!
//! # Rules
//! W1  A watch may come before the item; it is told as soon as there is a value.
//! W2  With `max_hz` the newest value is always told in the end, at most one interval late.
//! W3  Watching again what is watched changes its rate and nothing else: a reader says it again every second, and so
//!     finds a broker that is a new one.
//! W4  A watcher that cannot be reached any more is forgotten.

use super::Session;
use crate::limits::{WATCHES_MAX, WATCHES_OF_SESSION_MAX};
use ecs_schemas::{
    error_code::{ErrorCode, Failure},
    kv::Watch,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// `<subsystem>/<item>`.
type Path = String;

struct Watcher {
    interval_ns: u64,
    /// When the last value was told, and its revision; none before the first.
    told: Option<(u64, u64)>,
}

/// An update that is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Due {
    pub session: Session,
    pub path: Path,
    /// Revision that was told before.
    pub told_revision: Option<u64>,
}

#[derive(Default)]
pub struct Watches {
    by_path: BTreeMap<Path, HashMap<Session, Watcher>>,
    by_session: HashMap<Session, BTreeSet<Path>>,
    count: usize,
    /// Watchers whose newest value was not told yet, by when it may be.
    pending: BTreeSet<(u64, Path, Session)>,
}

impl Watches {
    /// # Errors
    /// `bad_parameter` for a rate that is none, `busy` at a limit; nothing has changed.
    pub fn add(&mut self, session: &Session, watch: Watch, now_ns: u64) -> Result<(), Failure> {
        let interval_ns = match watch.max_hz {
            None => 0,
            Some(hz) if hz.is_finite() && hz > 0.0 => (1e9 / hz).min(u64::MAX as f64) as u64,
            Some(hz) => {
                let message = format!("max_hz = {hz}; a rate above 0");
                return Err(Failure::new(ErrorCode::BadParameter, message));
            }
        };
        let own = self.by_session.get(session);
        let new = watch.items.iter().filter(|path| own.is_none_or(|own| !own.contains(*path))).count();
        if own.map_or(0, BTreeSet::len) + new > WATCHES_OF_SESSION_MAX || self.count + new > WATCHES_MAX {
            let message = format!("{WATCHES_OF_SESSION_MAX} watches of one connection, {WATCHES_MAX} of all");
            return Err(Failure::new(ErrorCode::Busy, format!("too many watches; at most {message}")));
        }
        for path in watch.items {
            let watchers = self.by_path.entry(path.clone()).or_default();
            if let Some(watcher) = watchers.get_mut(session) {
                watcher.interval_ns = interval_ns; // said again, to be sure of it: nothing is told twice
                continue;
            }
            watchers.insert(session.clone(), Watcher { interval_ns, told: None });
            self.count += 1;
            self.by_session.entry(session.clone()).or_default().insert(path.clone());
            self.pending.insert((now_ns, path, session.clone()));
        }
        Ok(())
    }

    pub fn remove(&mut self, session: &Session, paths: &[Path]) {
        for path in paths {
            self.remove_one(session, path);
            if let Some(own) = self.by_session.get_mut(session) {
                own.remove(path);
            }
        }
    }

    /// Rule W4.
    pub fn forget(&mut self, session: &Session) {
        for path in self.by_session.remove(session).unwrap_or_default() {
            self.remove_one(session, &path);
        }
    }

    fn remove_one(&mut self, session: &Session, path: &str) {
        let Some(watchers) = self.by_path.get_mut(path) else { return };
        if watchers.remove(session).is_some() {
            self.count -= 1;
        }
        if watchers.is_empty() {
            self.by_path.remove(path);
        }
    }

    /// An item has a new value.
    pub fn note_published(&mut self, path: &str, now_ns: u64) {
        let Some(watchers) = self.by_path.get(path) else { return };
        for (session, watcher) in watchers {
            let due_ns = watcher.told.map_or(now_ns, |(told_ns, _)| (told_ns + watcher.interval_ns).max(now_ns));
            self.pending.insert((due_ns, path.to_owned(), session.clone()));
        }
    }

    /// Updates that may be sent now. The caller says what was told with [`Watches::told`].
    pub fn take_due(&mut self, now_ns: u64) -> Vec<Due> {
        let mut due = BTreeMap::new();
        while self.pending.first().is_some_and(|(due_ns, ..)| *due_ns <= now_ns)
            && let Some((_, path, session)) = self.pending.pop_first()
        {
            let Some(watcher) = self.by_path.get(&path).and_then(|watchers| watchers.get(&session)) else { continue };
            let told_revision = watcher.told.map(|(_, revision)| revision);
            due.insert((path, session), told_revision);
        }
        due.into_iter().map(|((path, session), told_revision)| Due { session, path, told_revision }).collect()
    }

    pub fn told(&mut self, due: &Due, revision: u64, now_ns: u64) {
        let watcher = self.by_path.get_mut(&due.path).and_then(|watchers| watchers.get_mut(&due.session));
        if let Some(watcher) = watcher {
            watcher.told = Some((now_ns, revision));
        }
    }

    pub fn next_due_ns(&self) -> Option<u64> {
        self.pending.first().map(|(due_ns, ..)| *due_ns)
    }

    pub fn watchers(&self) -> impl Iterator<Item = &Session> {
        self.by_session.keys()
    }

    pub fn count_of(&self, session: &Session) -> usize {
        self.by_session.get(session).map_or(0, BTreeSet::len)
    }
}
