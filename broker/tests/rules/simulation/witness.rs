//! What must hold, seen at the broker's door.
//!
//! # Rules
//! 1  Each request that was delivered is answered exactly once: in its batch, or at its deadline at the latest; unless
//!    the broker died or the connection was gone. Nothing else is answered.
//! 2  A question's id is used once, over all restarts of the broker.
//! 3  An event's targets end once each; one told early ends the same in the answer.
//! 4  A value that was acknowledged or told is on the disk, and so is a job; both stay there.
//! 5  The revision of the kept item rises by one with each publication, over all restarts; that of others does so
//!    or begins again at 1.
//! 6  A watcher's `missed` counts what lies between, and it is not told more often than it wants, nor anything twice.
//! 7  Of the guarded sets with one revision at most one succeeds.
//! 8  A name and a UUID have one holder.
//! 9  The sums that the core keeps are right.

use super::KEEP;
use crate::world::{SECOND_NS, World};
use ecs_broker::core::Session;
use ecs_schemas::{
    envelope::{Header, KIND_ERROR, Notice, Request, decode},
    error_code::{ErrorCode, Failure},
    exchange::{CallEvent, EventResults, TargetEnd, TargetEnded},
    job::{JobId, JobRecord},
    kv::{Get, Publish, Published, Reading, Set, Unwatch, Update, Watch},
    subsystem::SubsystemList,
    telemetry::PubHeader,
    value::Value,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// A request that waits for its answers, one for each copy that was delivered.
#[derive(Default)]
struct Open {
    deadlines_ns: Vec<u64>,
    kind: String,
    body: Vec<u8>,
}

/// How the kept item was told to one watcher.
struct Watching {
    interval_ns: u64,
    told: Option<(u64, u64)>,
}

/// How much of everything a run has seen, so that nothing is proved by nothing.
#[derive(Debug, Default, Clone)]
pub struct Seen(BTreeMap<String, u64>);

impl Seen {
    fn count(&mut self, what: &str) {
        match self.0.get_mut(what) {
            Some(count) => *count += 1,
            None => drop(self.0.insert(what.to_owned(), 1)),
        }
    }

    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what.clone()).or_default() += count;
        }
    }

    /// Every kind of answer, of end and of trouble was there often.
    pub fn is_enough(&self) -> bool {
        let wanted = [
            "kv.set.reply",
            "kv.get.reply",
            "event.call.reply",
            "call.do.reply",
            "error store_failed",
            "error timeout",
            "error cancelled",
            "error agent_lost",
            "error changed",
            "error conflict",
            "error name_taken",
            "error refused",
            "end ok",
            "end refused",
            "end failed",
            "end gone",
            "end timeout",
            "end cancelled",
            "end not_handled",
            "missed",
            "guarded set",
            "restart",
            "exchange.feedback",
        ];
        wanted.iter().all(|what| self.0.get(*what).is_some_and(|count| *count >= 20))
    }
}

#[derive(Default)]
pub struct Witness {
    open: HashMap<(Session, u64), Open>,
    asked: HashSet<u64>,
    early_ends: HashMap<(Session, u64, String), TargetEnd>,
    acknowledged: u64,
    jobs: BTreeSet<JobId>,
    /// Last revision and time of each topic of a value.
    topics: HashMap<String, (u64, u64)>,
    watching: HashMap<Session, Watching>,
    guarded: HashSet<u64>,
    seen: Seen,
    /// Prints everything: one run is replayed.
    pub is_loud: bool,
}

fn kept_path() -> (String, String) {
    (KEEP.to_owned(), "p".to_owned())
}

fn kept_revision(world: &World) -> u64 {
    world.disk.values.get(&kept_path()).map_or(0, |stored| stored.reading.revision)
}

impl Witness {
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    fn print(&self, now_ns: u64, what: &str, session: &Session, header: &Header, body: &[u8]) {
        if self.is_loud {
            let body = decode::<Value>(body).map_or_else(|error| error.to_string(), |value| value.to_string());
            let (session, ms) = (String::from_utf8_lossy(session.bytes()), now_ns / 1_000_000 % 1_000_000);
            println!("{ms} {what} {session} {} {} {:?} {body}", header.kind, header.id, header.deadline_ms);
        }
    }

    pub fn note_delivered(&mut self, now_ns: u64, from: &Session, header: &Header, body: &[u8]) {
        self.print(now_ns, "<-", from, header, body);
        if header.id == 0 || header.kind == KIND_ERROR || header.kind.ends_with(".reply") {
            return;
        }
        let deadline_ns = now_ns + u64::from(header.deadline_ms.unwrap()) * 1_000_000;
        let open = self.open.entry((from.clone(), header.id)).or_default();
        open.deadlines_ns.push(deadline_ns);
        open.deadlines_ns.sort_unstable();
        (open.kind, open.body) = (header.kind.to_string(), body.to_vec());
        let keep = format!("{KEEP}/p");
        if header.kind == Watch::KIND {
            let watch: Watch = decode(body).unwrap();
            let interval_ns = watch.max_hz.map_or(0, |hz| (1e9 / hz) as u64);
            let watching = self.watching.entry(from.clone()).or_insert(Watching { interval_ns, told: None });
            watching.interval_ns = interval_ns;
        } else if header.kind == Unwatch::KIND && decode::<Unwatch>(body).unwrap().items.contains(&keep) {
            self.watching.remove(from);
        }
    }

    pub fn note_unreachable(&mut self, session: &Session) {
        self.print(0, "unreachable", session, &Header::notice(""), &[]);
        self.open.retain(|(of, _), _| of != session);
        self.early_ends.retain(|(of, ..), _| of != session);
        self.watching.remove(session);
    }

    pub fn note_restart(&mut self, world: &World) {
        self.print(world.now_ns, "restart", &Session::new(&[]), &Header::notice(""), &[]);
        self.seen.count("restart");
        self.open.clear();
        self.early_ends.clear();
        self.watching.clear();
        self.topics.retain(|topic, _| *topic == format!("{KEEP}/kv/p"));
        assert!(kept_revision(world) >= self.acknowledged, "rule 4: revision {} was acknowledged", self.acknowledged);
        for id in &self.jobs {
            assert!(world.disk.jobs.contains_key(id), "rule 4: job {id} was acknowledged");
        }
    }

    pub fn note_sent(&mut self, world: &World, to: &Session, header: &Header, body: &[u8]) {
        self.print(world.now_ns, "->", to, header, body);
        let is_answer = header.kind == KIND_ERROR || header.kind.ends_with(".reply");
        match (header.id, header.kind.as_str()) {
            (0, TargetEnded::KIND) => self.note_early_end(to, decode(body).unwrap()),
            (0, Update::KIND) => self.note_update(world.now_ns, to, &decode(body).unwrap()),
            (0, kind) => self.seen.count(kind),
            (id, _) if is_answer => self.note_answer(world, to, id, header, body),
            (id, kind) => assert!(self.asked.insert(id), "rule 2: {kind} {id}"),
        }
    }

    fn note_answer(&mut self, world: &World, to: &Session, id: u64, header: &Header, body: &[u8]) {
        let key = (to.clone(), id);
        let open = self.open.get_mut(&key);
        let open = open.unwrap_or_else(|| panic!("rule 1: {} to {to:?}, which has not asked {id}", header.kind));
        // Of two copies the later one is refused while the first is open; else the first is answered first.
        let is_copy = header.kind == KIND_ERROR && decode::<Failure>(body).unwrap().code == ErrorCode::BadMessage;
        open.deadlines_ns.remove(if is_copy { open.deadlines_ns.len() - 1 } else { 0 });
        let (kind, asked) = (open.kind.clone(), open.body.clone());
        if open.deadlines_ns.is_empty() {
            self.open.remove(&key);
        }
        match header.kind.as_str() {
            KIND_ERROR => {
                let failure: Failure = decode(body).unwrap();
                return self.seen.count(&format!("error {}", failure.code.as_str()));
            }
            answer => assert_eq!(answer, format!("{kind}.reply"), "rule 1"),
        }
        self.seen.count(&header.kind);
        match kind.as_str() {
            CallEvent::KIND => self.note_results(to, id, &decode(&asked).unwrap(), &decode(body).unwrap()),
            Publish::KIND => self.note_published(world, &decode(&asked).unwrap(), decode(body).unwrap()),
            Get::KIND if decode::<Get>(&asked).unwrap().subsystem == KEEP => check_seen(world, body),
            Set::KIND => self.note_set(world, &decode(&asked).unwrap(), body),
            "job.submit" => {
                let record: JobRecord = decode(body).unwrap();
                assert!(world.disk.jobs.contains_key(&record.id), "rule 4: job {}", record.id);
                self.jobs.insert(record.id);
            }
            "subsystem.list" => check_holders(&decode(body).unwrap()),
            _ => {}
        }
    }

    fn note_early_end(&mut self, to: &Session, told: TargetEnded) {
        let key = (to.clone(), told.id, told.result.target.clone());
        assert!(self.early_ends.insert(key, told.result.end).is_none(), "rule 3: {told:?}");
    }

    fn note_results(&mut self, to: &Session, id: u64, asked: &CallEvent, answer: &EventResults) {
        let mut names = BTreeSet::new();
        for result in &answer.results {
            self.seen.count(&format!("end {}", result.end.as_str()));
            assert!(names.insert(&result.target), "rule 3: {} ends twice", result.target);
            assert_eq!(result.end == TargetEnd::Ok, result.reason.is_none(), "rule 3: {result:?}");
            if let Some(early) = self.early_ends.remove(&(to.clone(), id, result.target.clone())) {
                assert_eq!(early, result.end, "rule 3: {}", result.target);
            }
        }
        let wanted: BTreeSet<_> = asked.targets.iter().collect();
        assert!(asked.targets.is_empty() || wanted == names, "rule 3: {wanted:?} {names:?}");
    }

    fn note_published(&mut self, world: &World, asked: &Publish, answer: Published) {
        if asked.subsystem == KEEP {
            assert!(kept_revision(world) >= answer.revision, "rule 4: {} is not on the disk", answer.revision);
            self.acknowledged = self.acknowledged.max(answer.revision);
        }
    }

    fn note_set(&mut self, world: &World, asked: &Set, body: &[u8]) {
        if asked.subsystem == KEEP {
            check_seen(world, body);
        }
        if let Some(revision) = asked.if_revision.filter(|_| asked.subsystem == KEEP) {
            self.seen.count("guarded set");
            assert!(self.guarded.insert(revision), "rule 7: two sets have replaced revision {revision}");
        }
    }

    fn note_update(&mut self, now_ns: u64, to: &Session, update: &Update) {
        self.seen.count(Update::KIND);
        if (update.subsystem.as_str(), update.item.as_str()) != (KEEP, "p") {
            return;
        }
        let watching = self.watching.get_mut(to).expect("rule 6: it does not watch");
        if let Some((revision, at_ns)) = watching.told.replace((update.revision, now_ns)) {
            assert_eq!(update.revision, revision + 1 + update.missed, "rule 6");
            assert!(now_ns - at_ns >= watching.interval_ns, "rule 6: {} ns", now_ns - at_ns);
            if update.missed > 0 {
                self.seen.count("missed");
            }
        }
    }

    /// After each batch.
    pub fn check(&mut self, world: &mut World) {
        let now_ns = world.now_ns;
        for ((session, id), open) in &self.open {
            let first_ns = open.deadlines_ns[0];
            assert!(first_ns > now_ns, "rule 1: {} {id} of {session:?} is overdue", open.kind);
        }
        for publication in std::mem::take(&mut world.published) {
            if publication.topic.ends_with("/kv/p") {
                self.check_revision(&publication.topic, &decode(&publication.header).unwrap());
            }
        }
        world.check_sums();
    }

    fn check_revision(&mut self, topic: &str, header: &PubHeader) {
        let Some((seq, time_ns)) = self.topics.insert(topic.to_owned(), (header.seq, header.time_ns)) else { return };
        let is_next = header.seq == seq + 1;
        let is_same = (header.seq, header.time_ns) == (seq, time_ns);
        let is_anew = header.seq == 1 && !topic.starts_with(KEEP);
        assert!(is_next || is_same || is_anew, "rule 5: {topic}: {seq}, then {}", header.seq);
    }

    /// Rule 6 in the end: the newest value was told to all whose interval is not longer than the calm.
    pub fn check_newest_was_told(&self, world: &World) {
        for (session, watching) in self.watching.iter().filter(|(_, watching)| watching.interval_ns < 5 * SECOND_NS) {
            let told = watching.told.map_or(0, |(revision, _)| revision);
            assert_eq!(told, kept_revision(world), "rule 6: {session:?}");
        }
    }

    pub fn check_all_is_answered(&self) {
        let open: Vec<_> = self.open.iter().map(|(key, open)| (key, &open.kind)).collect();
        assert!(open.is_empty(), "rule 1: {open:?}");
    }
}

/// Rule 4 from the other side: nobody is told of the kept item what is not on the disk.
fn check_seen(world: &World, body: &[u8]) {
    let told = decode::<Reading>(body).unwrap().revision;
    assert!(told <= kept_revision(world), "rule 4: revision {told} is not on the disk");
}

fn check_holders(list: &SubsystemList) {
    let names: BTreeSet<_> = list.subsystems.iter().map(|listed| &listed.name).collect();
    let uuids: BTreeSet<_> = list.subsystems.iter().map(|listed| &listed.uuid).collect();
    assert_eq!((names.len(), uuids.len()), (list.subsystems.len(), list.subsystems.len()), "rule 8");
}
