//! Who is told of an item's values over its own connection, and how often.
//!
//! ```text
//! published ─▶ every value wanted? ── yes ─▶ kv.update with this very value
//!                 └─ no: pending; the newest value goes when the interval is over
//! ```
//!
//! # Rules
//! W1  A watch may come before the item; it is told as soon as there is a value.
//! W2  With `max_hz` the newest value is always told in the end, at most one interval late.
//! W3  A watcher that cannot be reached any more, or whose key was taken away or changed, is forgotten.
//! W4  Without `max_hz` every value is told, also several of one batch; only beyond `UPDATES_BYTES_MAX` the newest.
//! W5  A watcher has at most one entry in `pending`, and none when it is forgotten.
//! W6  Watching again what is watched changes its rate and tells nothing twice: a reader says it again every second, and
//!     so finds a broker that is a new one.

use super::{Sender, Session};
use crate::limits::{WATCHES_MAX, WATCHES_OF_SESSION_MAX};
use ecs_schemas::{
    error_code::{ErrorCode, Failure},
    keys::PublicKey,
    kv::{Reading, Watch},
    registry::check_name,
    subsystem::check_part,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// `<subsystem>/<item>`.
type Path = String;

struct Watcher {
    interval_ns: u64,
    /// None before the first value.
    told: Option<Told>,
    /// Its entry in `pending`: the newest value was not told yet, and may be then.
    due_ns: Option<u64>,
}

impl Watcher {
    fn next_due_ns(&self, now_ns: u64) -> u64 {
        self.told.map_or(0, |told| told.at_ns.saturating_add(self.interval_ns)).max(now_ns)
    }
}

/// What a watcher was told last. The time tells values apart where revisions began again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    at_ns: u64,
    revision: u64,
    time_ns: u64,
}

/// Somebody who is to be told of an item.
#[derive(Debug, PartialEq, Eq)]
pub struct Due {
    pub session: Session,
    pub path: Path,
}

/// What a connection watches, and the key that it watched with last.
struct Own {
    paths: BTreeSet<Path>,
    sender: Sender,
}

#[derive(Default)]
pub struct Watches {
    by_path: BTreeMap<Path, HashMap<Session, Watcher>>,
    by_session: HashMap<Session, Own>,
    count: usize,
    /// See W5.
    pending: BTreeSet<(u64, Path, Session)>,
}

impl Watches {
    /// # Errors
    /// `bad_parameter` for a rate or a path that is none, `busy` at a limit; nothing has changed.
    pub fn add(&mut self, session: &Session, sender: &Sender, watch: Watch, now_ns: u64) -> Result<(), Failure> {
        let interval_ns = interval_ns(watch.max_hz)?;
        watch.items.iter().try_for_each(|path| check_path(path))?;
        let own = self.by_session.get(session).map(|own| &own.paths);
        let paths = BTreeSet::from_iter(watch.items);
        let new = paths.iter().filter(|path| own.is_none_or(|own| !own.contains(*path))).count();
        if own.map_or(0, BTreeSet::len) + new > WATCHES_OF_SESSION_MAX || self.count + new > WATCHES_MAX {
            let message = format!("{WATCHES_OF_SESSION_MAX} watches of one connection, {WATCHES_MAX} of all");
            return Err(Failure::new(ErrorCode::Busy, format!("too many watches; at most {message}")));
        }
        for path in paths {
            if self.has_new_rate(session, &path, interval_ns, now_ns) {
                continue;
            }
            let watcher = Watcher { interval_ns, told: None, due_ns: Some(now_ns) };
            self.by_path.entry(path.clone()).or_default().insert(session.clone(), watcher);
            let new_own = || Own { paths: BTreeSet::new(), sender: sender.clone() };
            self.by_session.entry(session.clone()).or_insert_with(new_own).paths.insert(path.clone());
            self.pending.insert((now_ns, path, session.clone()));
            self.count += 1;
        }
        if let Some(own) = self.by_session.get_mut(session) {
            own.sender = sender.clone();
        }
        Ok(())
    }

    /// Rule W6: false if it does not watch. What is pending goes when the new interval is over.
    fn has_new_rate(&mut self, session: &Session, path: &str, interval_ns: u64, now_ns: u64) -> bool {
        let watcher = self.by_path.get_mut(path).and_then(|watchers| watchers.get_mut(session));
        let Some(watcher) = watcher else { return false };
        watcher.interval_ns = interval_ns;
        if let Some(before_ns) = watcher.due_ns {
            let due_ns = watcher.next_due_ns(now_ns);
            watcher.due_ns = Some(due_ns);
            self.pending.remove(&(before_ns, path.to_owned(), session.clone()));
            self.pending.insert((due_ns, path.to_owned(), session.clone()));
        }
        true
    }

    pub fn remove(&mut self, session: &Session, paths: &[Path]) {
        paths.iter().for_each(|path| self.remove_one(session, path));
    }

    /// Rule W3.
    pub fn forget(&mut self, session: &Session) {
        for path in self.by_session.get(session).map(|own| own.paths.clone()).unwrap_or_default() {
            self.remove_one(session, &path);
        }
    }

    /// Rule W3.
    pub fn revoke(&mut self, key: &PublicKey) {
        let has_it = |own: &Own| own.sender.key() == Some(key);
        let its: Vec<_> =
            self.by_session.iter().filter(|(_, own)| has_it(own)).map(|(session, _)| session.clone()).collect();
        its.iter().for_each(|session| self.forget(session));
    }

    fn remove_one(&mut self, session: &Session, path: &str) {
        let Some(watchers) = self.by_path.get_mut(path) else { return };
        let Some(watcher) = watchers.remove(session) else { return };
        self.count -= 1;
        if watchers.is_empty() {
            self.by_path.remove(path);
        }
        if let Some(due_ns) = watcher.due_ns {
            self.pending.remove(&(due_ns, path.to_owned(), session.clone()));
        }
        if let Some(own) = self.by_session.get_mut(session) {
            own.paths.remove(path);
            if own.paths.is_empty() {
                self.by_session.remove(session);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.by_path.is_empty()
    }

    /// An item has a new value. Returns those who want every one (W4); the others are due when their interval is over.
    pub fn note_published(&mut self, path: &str, now_ns: u64) -> Vec<Due> {
        let Some(watchers) = self.by_path.get_mut(path) else { return Vec::new() };
        let mut at_once = Vec::new();
        for (session, watcher) in watchers {
            let due = Due { session: session.clone(), path: path.to_owned() };
            if watcher.interval_ns == 0 {
                at_once.push(due);
            } else if watcher.due_ns.is_none() {
                let due_ns = watcher.next_due_ns(now_ns);
                watcher.due_ns = Some(due_ns);
                self.pending.insert((due_ns, due.path, due.session));
            }
        }
        at_once.sort_by(|left, right| left.session.cmp(&right.session));
        at_once
    }

    /// The newest value is to be told as soon as there is room for it.
    pub fn put_off(&mut self, due: Due, now_ns: u64) {
        let watcher = self.by_path.get_mut(&due.path).and_then(|watchers| watchers.get_mut(&due.session));
        if let Some(watcher) = watcher.filter(|watcher| watcher.due_ns.is_none()) {
            watcher.due_ns = Some(now_ns);
            self.pending.insert((now_ns, due.path, due.session));
        }
    }

    /// Somebody who may be told the newest value of an item now.
    pub fn take_due(&mut self, now_ns: u64) -> Option<Due> {
        if self.pending.first()?.0 > now_ns {
            return None;
        }
        let (_, path, session) = self.pending.pop_first()?;
        let watcher = self.by_path.get_mut(&path).and_then(|watchers| watchers.get_mut(&session));
        watcher.expect("rule W5: what is pending is watched").due_ns = None;
        Some(Due { session, path })
    }

    /// `due` is told this value: how many it has missed, or nothing if it was told this one already.
    pub fn tell(&mut self, due: &Due, reading: &Reading, now_ns: u64) -> Option<u64> {
        let watcher = self.by_path.get_mut(&due.path)?.get_mut(&due.session)?;
        let told = Told { at_ns: now_ns, revision: reading.revision, time_ns: reading.time_ns };
        match watcher.told {
            Some(before) if (before.revision, before.time_ns) == (told.revision, told.time_ns) => None,
            before => {
                watcher.told = Some(told);
                Some(before.map_or(0, |before| told.revision.saturating_sub(before.revision.saturating_add(1))))
            }
        }
    }

    pub fn next_due_ns(&self) -> Option<u64> {
        self.pending.first().map(|(due_ns, ..)| *due_ns)
    }

    pub fn watchers(&self) -> impl Iterator<Item = &Session> {
        self.by_session.keys()
    }

    pub fn count_of(&self, session: &Session) -> usize {
        self.by_session.get(session).map_or(0, |own| own.paths.len())
    }

    /// Entries in all tables, for a test that nothing is left behind.
    pub fn entries(&self) -> usize {
        self.by_path.len() + self.by_session.len() + self.pending.len() + self.count
    }
}

fn interval_ns(max_hz: Option<f64>) -> Result<u64, Failure> {
    match max_hz {
        None => Ok(0),
        Some(hz) if hz.is_finite() && hz > 0.0 => Ok((1e9 / hz) as u64), // `as` ends at u64::MAX
        Some(hz) => Err(Failure::new(ErrorCode::BadParameter, format!("max_hz = {hz}; a rate above 0"))),
    }
}

fn check_path(path: &str) -> Result<(), Failure> {
    let bad = |message: String| Failure::new(ErrorCode::BadParameter, message);
    let (subsystem, item) =
        path.rsplit_once('/').ok_or_else(|| bad("a watched item is <subsystem>/<item>".to_owned()))?;
    check_name(subsystem).and_then(|()| check_part("item", item)).map_err(bad)
}
