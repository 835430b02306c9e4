//! The session's part for what an agent hosts: descriptions, published values, alarms, and answers to what it was asked.
//!
//! # Rules
//! H1  A registration carries everything that is described and every alarm that is raised; what is changed later is told
//!     at once, and again until it is answered.
//! H2  Published values leave in their order. What could not leave (no connection, a full queue) is replaced by the newest
//!     value of its item, which says how many were skipped: readers see the gap. Feedback that could not leave is dropped.
//! H3  After each registration the last value of every item is published again: the broker may be a new one.
//! H4  A value of an item with `persist` is sent again until the broker has it on disk.
//! H5  Values that the broker has kept are given to a subsystem once in the life of this process: later the process knows
//!     better.
//! H6  Of requests about one thing (a description, an alarm, a kept value) only the newest is sent again: an older one that
//!     is repeated behind it would undo it.

use crate::{
    limits::{AGENT_DEADLINE_MS, HOST_NEWS_MAX, REPEAT_INTERVAL},
    session::Message,
};
use ecs_schemas::{
    alarm::{Alarm, Clear, Raise},
    envelope::{Header, Notice, Request, encode},
    exchange::Feedback,
    kv::{Publish, Restored},
    registry::Registered,
    subsystem::{Describe, Described, Description, Remove},
    value::Value,
};
use smol_str::SmolStr;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};

/// Subsystem and item.
pub type ItemPath = (String, String);

/// What a thread of the agent wants told.
#[derive(Debug, Clone, PartialEq)]
pub enum HostNews {
    Describe(Box<Description>),
    Remove(String),
    Publish {
        path: ItemPath,
        value: Value,
        skipped: u64,
    },
    Raise(String, Alarm),
    Clear(String, String),
    /// An answer to the broker, or feedback.
    Say(Box<Message>),
}

/// A request that is sent again until it is answered.
struct Pending {
    header: Header,
    body: Vec<u8>,
    sent: Option<Instant>,
    about: About,
}

/// What a request is about (H6).
#[derive(PartialEq)]
enum About {
    /// That a subsystem is there, and how, or is not there any more; a description has the alarms in it.
    Description(String),
    /// Subsystem and code.
    Alarm(String, String),
    /// A value that is kept, and how many before it were never sent. All else is superfluous after a registration.
    Value { path: ItemPath, skipped: u64 },
}

impl About {
    fn is_of(&self, subsystem: &str) -> bool {
        matches!(self, Self::Description(name) if name == subsystem)
    }

    fn is_value(&self) -> bool {
        matches!(self, Self::Value { .. })
    }
}

/// The newest value of an item, for H3.
struct Latest {
    value: Value,
    /// Values that were not sent since the last that was, this one among them.
    unsent: u64,
}

#[derive(Default)]
pub struct Hosting {
    descriptions: BTreeMap<String, Description>,
    values: BTreeMap<ItemPath, Latest>,
    /// Subsystems that have been given what was kept of them (H5).
    restored: BTreeSet<String>,
    is_registered: bool,
    queue: VecDeque<HostNews>,
    pending: BTreeMap<u64, Pending>,
}

impl Hosting {
    pub fn descriptions(&self) -> Vec<Description> {
        self.descriptions.values().cloned().collect()
    }

    /// Takes in what a thread said. What it asks for is asked by ids of `next_id`.
    pub fn take(&mut self, news: HostNews, mut next_id: impl FnMut() -> u64) {
        match news {
            HostNews::Describe(description) => {
                let name = description.name.clone();
                self.forget_pending(&name);
                self.keep(
                    next_id(),
                    &Describe { description: (*description).clone() },
                    About::Description(name.clone()),
                );
                self.descriptions.insert(name, *description);
            }
            HostNews::Remove(name) => {
                self.descriptions.remove(&name);
                self.values.retain(|(subsystem, _), _| *subsystem != name);
                self.restored.remove(&name);
                self.forget_pending(&name);
                self.keep(next_id(), &Remove { name: name.clone() }, About::Description(name));
            }
            HostNews::Raise(subsystem, alarm) => {
                if let Some(description) = self.descriptions.get_mut(&subsystem) {
                    description.alarms.retain(|raised| raised.code != alarm.code);
                    description.alarms.push(alarm.clone());
                }
                let about = self.about_alarm(&subsystem, &alarm.code);
                self.keep(next_id(), &Raise { subsystem, alarm }, about);
            }
            HostNews::Clear(subsystem, code) => {
                if let Some(description) = self.descriptions.get_mut(&subsystem) {
                    description.alarms.retain(|raised| raised.code != code);
                }
                let about = self.about_alarm(&subsystem, &code);
                self.keep(next_id(), &Clear { subsystem, code }, about);
            }
            HostNews::Publish { path, value, skipped } => {
                let is_kept = self.is_kept(&path);
                let unsent = if is_kept { 0 } else { skipped.saturating_add(1) };
                match self.values.get_mut(&path) {
                    Some(latest) => {
                        latest.value = value.clone();
                        latest.unsent = latest.unsent.saturating_add(unsent);
                    }
                    None => drop(self.values.insert(path.clone(), Latest { value: value.clone(), unsent })),
                }
                if is_kept {
                    self.publish_kept(path, value, skipped, next_id());
                } else if self.is_registered {
                    self.queue.push_back(HostNews::Publish { path, value, skipped });
                }
            }
            HostNews::Say(message) if message.0.kind == Feedback::KIND && !self.has_room() => {}
            say @ HostNews::Say(_) => self.queue.push_back(say),
        }
    }

    /// H6, for a description: it replaces what was said before, and the alarms with it.
    fn forget_pending(&mut self, name: &str) {
        self.pending.retain(|_, pending| match &pending.about {
            About::Description(of) | About::Alarm(of, _) => of != name,
            About::Value { .. } => true,
        });
    }

    /// H6, for an alarm that was raised or cleared: a description that may be sent again has it too.
    fn about_alarm(&mut self, subsystem: &str, code: &str) -> About {
        let alarm = About::Alarm(subsystem.to_owned(), code.to_owned());
        self.pending.retain(|_, pending| pending.about != alarm);
        let is_its = |pending: &&mut Pending| pending.header.kind == Describe::KIND && pending.about.is_of(subsystem);
        if let (Some(description), Some(pending)) =
            (self.descriptions.get(subsystem), self.pending.values_mut().find(is_its))
        {
            pending.body = encode(&Describe { description: description.clone() });
        }
        alarm
    }

    /// H2.
    fn has_room(&self) -> bool {
        self.is_registered && self.queue.len() < HOST_NEWS_MAX
    }

    /// The broker does not know this agent any more.
    pub fn lost(&mut self) {
        self.is_registered = false;
        self.queue.retain(|news| matches!(news, HostNews::Say(_)));
    }

    /// Answers to what the broker has asked, behind all that was taken in before.
    pub fn answer(&mut self, answers: impl Iterator<Item = Message>) {
        self.queue.extend(answers.map(|answer| HostNews::Say(Box::new(answer))));
    }

    fn is_kept(&self, (subsystem, item): &ItemPath) -> bool {
        let description = self.descriptions.get(subsystem);
        description.is_some_and(|description| description.items.iter().any(|its| its.persist && its.name == *item))
    }

    fn publish_kept(&mut self, path: ItemPath, value: Value, skipped: u64, id: u64) {
        let unsent = match self.pending_value(&path).and_then(|id| self.pending.remove(&id)) {
            Some(Pending { sent: None, about: About::Value { skipped, .. }, .. }) => skipped.saturating_add(1),
            _ => 0, // one that was sent may have been taken
        };
        let (skipped, (subsystem, item)) = (skipped.saturating_add(unsent), path.clone());
        self.keep(id, &Publish { subsystem, item, value, skipped }, About::Value { path, skipped });
    }

    /// The request that tells the value of a kept item.
    fn pending_value(&self, path: &ItemPath) -> Option<u64> {
        let is_its = |pending: &Pending| matches!(&pending.about, About::Value { path: of, .. } if of == path);
        self.pending.iter().find(|(_, pending)| is_its(pending)).map(|(id, _)| *id)
    }

    fn keep<R: Request>(&mut self, id: u64, request: &R, about: About) {
        let header = Header::request(R::KIND, id, AGENT_DEADLINE_MS);
        self.pending.insert(id, Pending { header, body: encode(request), sent: None, about });
    }

    /// The agent is registered by request `register_id`: what was said before it need not be said again (H1), values are
    /// (H3). Returns the values that the broker has kept.
    pub fn welcomed(
        &mut self,
        register_id: u64,
        welcome: &Registered,
        next_id: impl FnMut() -> u64,
    ) -> Vec<(String, Vec<Restored>)> {
        self.pending.retain(|id, pending| pending.about.is_value() || *id > register_id);
        self.pending.values_mut().for_each(|pending| pending.sent = None);
        self.lost();
        self.is_registered = true;
        self.publish_again(next_id);
        welcome.subsystems.iter().filter_map(|described| self.restore(described.clone())).collect()
    }

    /// The kept values of a subsystem, if it is to be given them now (H5).
    pub fn restore(&mut self, described: Described) -> Option<(String, Vec<Restored>)> {
        let Described { name, restored, .. } = described;
        (self.restored.insert(name.clone()) && !restored.is_empty()).then_some((name, restored))
    }

    fn publish_again(&mut self, mut next_id: impl FnMut() -> u64) {
        let paths: Vec<ItemPath> = self.values.keys().cloned().collect();
        for path in paths {
            let Latest { value, unsent } = &self.values[&path];
            let (value, skipped) = (value.clone(), unsent.saturating_sub(1));
            if !self.is_kept(&path) {
                self.queue.push_back(HostNews::Publish { path, value, skipped });
            } else if self.pending_value(&path).is_none() {
                self.publish_kept(path, value, 0, next_id());
            }
        }
    }

    /// All that is to be said now by an agent that is registered.
    pub fn due(&mut self, now: Instant, out: &mut Vec<Message>) {
        for pending in self.pending.values_mut() {
            if pending.sent.is_none_or(|sent| now >= sent + REPEAT_INTERVAL) {
                pending.sent = Some(now);
                out.push((pending.header.clone(), pending.body.clone()));
            }
        }
        for news in self.queue.drain(..) {
            out.push(match news {
                HostNews::Publish { path, value, skipped } => {
                    if let Some(latest) = self.values.get_mut(&path) {
                        latest.unsent = latest.unsent.saturating_sub(skipped.saturating_add(1));
                    }
                    let (subsystem, item) = path;
                    (Header::notice(Publish::KIND), encode(&Publish { subsystem, item, value, skipped }))
                }
                HostNews::Say(message) => *message,
                _ => continue,
            });
        }
    }

    /// Messages that did not fit into the connection's queue: they go first, in their order. Requests are repeated
    /// anyway.
    pub fn keep_unsent(&mut self, messages: impl Iterator<Item = Message>) {
        let again = messages.filter(|(header, _)| header.id == 0 || header.is_answer());
        let again: Vec<_> = again.map(|message| HostNews::Say(Box::new(message))).collect();
        for news in again.into_iter().rev() {
            self.queue.push_front(news);
        }
    }

    /// When [`Hosting::due`] has something to say, if nothing happens before.
    pub fn next_wake(&self, now: Instant) -> Option<Instant> {
        if !self.queue.is_empty() {
            return Some(now);
        }
        self.pending.values().map(|pending| pending.sent.map_or(now, |sent| sent + REPEAT_INTERVAL)).min()
    }

    /// Request `id` was answered, or refused for good; its kind, if it was one of these.
    pub fn settle(&mut self, id: u64) -> Option<SmolStr> {
        self.pending.remove(&id).map(|pending| pending.header.kind)
    }

    pub fn has(&self, id: u64) -> bool {
        self.pending.contains_key(&id)
    }

    /// Whether request `id` tells a kept value (H4).
    pub fn is_value(&self, id: u64) -> bool {
        self.pending.get(&id).is_some_and(|pending| pending.about.is_value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecs_schemas::{alarm::Severity, kv::Item};

    fn described(name: &str) -> HostNews {
        let items = vec![Item { name: "kept".to_owned(), persist: true, ..Item::default() }];
        HostNews::Describe(Box::new(Description { name: name.to_owned(), items, ..Description::default() }))
    }

    fn welcome() -> Registered {
        Registered { beamline: "x01".to_owned(), heartbeat_ms: 1, timeout_ms: 1, started_ns: 1, subsystems: vec![] }
    }

    fn kinds(hosting: &mut Hosting) -> Vec<String> {
        let mut out = Vec::new();
        hosting.due(Instant::now(), &mut out);
        out.into_iter().map(|(header, _)| header.kind.to_string()).collect()
    }

    #[test]
    fn what_is_described_while_a_registration_is_under_way_is_told_after_it() {
        let mut hosting = Hosting::default();
        hosting.take(described("x01/before"), || 1);
        hosting.take(described("x01/after"), || 3); // request 2 is the registration
        hosting.welcomed(2, &welcome(), || 4);
        assert_eq!(kinds(&mut hosting), [Describe::KIND]);
        assert_eq!(hosting.pending.keys().copied().collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn a_kept_value_waits_for_its_answer_and_a_newer_one_replaces_it_and_says_so() {
        let mut hosting = Hosting::default();
        let path = ("x01/a".to_owned(), "kept".to_owned());
        let publish = |value: i64| HostNews::Publish { path: path.clone(), value: value.into(), skipped: 0 };
        hosting.take(described("x01/a"), || 1);
        hosting.settle(1);
        hosting.take(publish(1), || 2);
        hosting.take(publish(2), || 3);
        let mut out = Vec::new();
        hosting.due(Instant::now(), &mut out);
        let [(header, body)] = &out[..] else { panic!("{out:?}") };
        let sent: Publish = ecs_schemas::envelope::decode(body).unwrap();
        assert_eq!((header.id, sent.value, sent.skipped), (3, 2.into(), 1));
        assert!(kinds(&mut hosting).is_empty(), "not again before REPEAT_INTERVAL");
        assert!(hosting.settle(3).is_some() && hosting.settle(3).is_none());
    }

    fn counted(n: i64) -> HostNews {
        HostNews::Publish { path: ("x01/a".to_owned(), "count".to_owned()), value: n.into(), skipped: 0 }
    }

    fn published(hosting: &mut Hosting) -> Vec<(Value, u64)> {
        let mut out = Vec::new();
        hosting.due(Instant::now(), &mut out);
        let publish = |(_, body): &Message| ecs_schemas::envelope::decode::<Publish>(body);
        out.iter().filter_map(|message| publish(message).ok()).map(|sent| (sent.value, sent.skipped)).collect()
    }

    #[test]
    fn values_while_nobody_is_there_leave_the_newest_that_says_how_many_it_replaces_and_take_no_room() {
        let mut hosting = Hosting::default();
        hosting.take(described("x01/a"), || 1);
        (0..100_000).for_each(|n| hosting.take(counted(n), || 2));
        let feedback = || HostNews::Say(Box::new((Header::notice(Feedback::KIND), vec![])));
        (0..100).for_each(|_| hosting.take(feedback(), || 2));
        assert!(hosting.queue.is_empty());
        hosting.welcomed(3, &welcome(), || 4);
        assert_eq!(published(&mut hosting), [(99_999.into(), 99_999)]);
        hosting.take(counted(5), || 4);
        hosting.lost();
        hosting.take(counted(6), || 4);
        hosting.welcomed(5, &welcome(), || 6);
        assert_eq!(published(&mut hosting), [(6.into(), 1)], "5 was not sent");
        hosting.welcomed(7, &welcome(), || 8);
        assert_eq!(published(&mut hosting), [(6.into(), 0)], "nothing was skipped");
        (0..2 * HOST_NEWS_MAX).for_each(|_| hosting.take(feedback(), || 2));
        assert_eq!(hosting.queue.len(), HOST_NEWS_MAX);
    }

    #[test]
    fn gaps_of_a_kept_value_add_up_and_a_new_connection_makes_none() {
        let mut hosting = Hosting::default();
        let kept = |value: i64| HostNews::Publish {
            path: ("x01/a".to_owned(), "kept".to_owned()),
            value: value.into(),
            skipped: 0,
        };
        hosting.take(described("x01/a"), || 1);
        let mut last_id = 10;
        let mut next_id = || {
            last_id += 1;
            last_id
        };
        (1..=3).for_each(|n| hosting.take(kept(n), &mut next_id));
        hosting.welcomed(2, &welcome(), &mut next_id);
        assert_eq!(published(&mut hosting), [(3.into(), 2)]);
        hosting.welcomed(3, &welcome(), &mut next_id);
        assert_eq!(published(&mut hosting), [(3.into(), 2)], "not answered: the same again");
        let id = *hosting.pending.keys().next().unwrap();
        hosting.settle(id);
        hosting.welcomed(4, &welcome(), &mut next_id);
        assert_eq!(published(&mut hosting), [(3.into(), 0)]);
    }

    #[test]
    fn what_was_kept_is_given_back_once() {
        let mut hosting = Hosting::default();
        let kept = Restored { item: "kept".to_owned(), value: 3.into(), revision: 1, time_ns: 1 };
        let described = Described { name: "x01/a".to_owned(), uuid: String::new(), restored: vec![kept.clone()] };
        let welcome = Registered { subsystems: vec![described.clone()], ..welcome() };
        assert_eq!(hosting.welcomed(1, &welcome, || 2), [("x01/a".to_owned(), vec![kept.clone()])]);
        assert_eq!(hosting.welcomed(3, &welcome, || 4), []);
        assert_eq!(hosting.restore(described.clone()), None);
        hosting.take(HostNews::Remove("x01/a".to_owned()), || 5);
        assert_eq!(hosting.restore(described), Some(("x01/a".to_owned(), vec![kept])), "it is another one");
    }

    /// All are answered but the older ones, whose answers are lost: these are said again.
    #[test]
    fn an_older_request_is_not_said_again_behind_a_newer_one_that_it_would_undo() {
        let alarm = || Alarm { code: "HOT".to_owned(), severity: Severity::Warn, text: String::new(), since_ns: 0 };
        let raise = || HostNews::Raise("x01/a".to_owned(), alarm());
        let clear = || HostNews::Clear("x01/a".to_owned(), "HOT".to_owned());
        let remove = || HostNews::Remove("x01/a".to_owned());
        let rows: [(Vec<HostNews>, &[&str]); 4] = [
            (vec![raise(), clear()], &[]),
            (vec![clear(), raise()], &[]),
            (vec![remove(), described("x01/a")], &[]),
            (vec![described("x01/a"), raise()], &[Describe::KIND]),
        ];
        for (news, expected) in rows {
            let mut hosting = Hosting::default();
            hosting.take(described("x01/a"), || 1);
            hosting.settle(1);
            let (mut last_id, now) = (1, Instant::now());
            for one in news {
                last_id += 1;
                hosting.take(one, || last_id);
                hosting.due(now, &mut Vec::new());
            }
            hosting.settle(last_id);
            let mut again = Vec::new();
            hosting.due(now + REPEAT_INTERVAL, &mut again);
            assert_eq!(again.iter().map(|(header, _)| header.kind.as_str()).collect::<Vec<_>>(), expected);
            for (_, body) in again {
                let description: Describe = ecs_schemas::envelope::decode(&body).unwrap();
                assert_eq!(description.description.alarms, [alarm()], "it has what was raised since");
            }
        }
    }
}
