//! The session's part for what an agent hosts: descriptions, published values, alarms, and answers to what it was asked.
//!
//! # Rules
//! H1  A registration carries everything that is described and every alarm that is raised; what is changed later is told
//!     at once, and again until it is answered.
//! H2  Published values leave in their order. What could not leave (no connection, a full queue) is replaced by the newest
//!     value of its item, which says how many were skipped: readers see the gap.
//! H3  After each registration the last value of every item is published again: the broker may be a new one.
//! H4  A value of an item with `persist` is sent again until the broker has it on disk.

use crate::{
    limits::{AGENT_DEADLINE_MS, REPEAT_INTERVAL},
    session::Message,
};
use ecs_schemas::{
    alarm::{Alarm, Clear, Raise},
    envelope::{Header, KIND_ERROR, Request, encode},
    kv::{Publish, Restored},
    registry::Registered,
    subsystem::{Describe, Description, Remove},
    value::Value,
};
use std::{
    collections::{BTreeMap, VecDeque},
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
    /// The item of a kept value, which is replaced by a newer one; none for what a registration makes superfluous.
    kept: Option<ItemPath>,
}

fn is_answer(header: &Header) -> bool {
    header.kind == KIND_ERROR || header.kind.ends_with(".reply")
}

#[derive(Default)]
pub struct Hosting {
    descriptions: BTreeMap<String, Description>,
    /// The newest value of each item, for H3.
    values: BTreeMap<ItemPath, Value>,
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
                self.keep(next_id(), &Describe { description: (*description).clone() }, None);
                self.descriptions.insert(description.name.clone(), *description);
            }
            HostNews::Remove(name) => {
                self.descriptions.remove(&name);
                self.values.retain(|(subsystem, _), _| *subsystem != name);
                self.keep(next_id(), &Remove { name }, None);
            }
            HostNews::Raise(subsystem, alarm) => {
                if let Some(description) = self.descriptions.get_mut(&subsystem) {
                    description.alarms.retain(|raised| raised.code != alarm.code);
                    description.alarms.push(alarm.clone());
                }
                self.keep(next_id(), &Raise { subsystem, alarm }, None);
            }
            HostNews::Clear(subsystem, code) => {
                if let Some(description) = self.descriptions.get_mut(&subsystem) {
                    description.alarms.retain(|raised| raised.code != code);
                }
                self.keep(next_id(), &Clear { subsystem, code }, None);
            }
            HostNews::Publish { path, value, skipped } => {
                self.values.insert(path.clone(), value.clone());
                if self.is_kept(&path) {
                    self.publish_kept(path, value, skipped, next_id());
                } else {
                    self.queue.push_back(HostNews::Publish { path, value, skipped });
                }
            }
            say @ HostNews::Say(_) => self.queue.push_back(say),
        }
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
        let replaced: Vec<u64> =
            self.pending.iter().filter(|(_, its)| its.kept.as_ref() == Some(&path)).map(|(id, _)| *id).collect();
        let unsent = replaced.iter().filter(|id| self.pending[id].sent.is_none()).count() as u64;
        replaced.iter().for_each(|id| drop(self.pending.remove(id)));
        let (subsystem, item) = path.clone();
        self.keep(id, &Publish { subsystem, item, value, skipped: skipped + unsent }, Some(path));
    }

    fn keep<R: Request>(&mut self, id: u64, request: &R, kept: Option<ItemPath>) {
        let header = Header::request(R::KIND, id, AGENT_DEADLINE_MS);
        self.pending.insert(id, Pending { header, body: encode(request), sent: None, kept });
    }

    /// The agent is registered by request `register_id`: what was said before it need not be said again (H1), values are
    /// (H3). Returns the values that the broker has kept.
    pub fn welcomed(
        &mut self,
        register_id: u64,
        welcome: &Registered,
        next_id: impl FnMut() -> u64,
    ) -> Vec<(String, Vec<Restored>)> {
        self.pending.retain(|id, pending| pending.kept.is_some() || *id > register_id);
        self.pending.values_mut().for_each(|pending| pending.sent = None);
        self.queue.retain(|news| matches!(news, HostNews::Say(_)));
        self.publish_again(next_id);
        let restored = welcome.subsystems.iter().filter(|described| !described.restored.is_empty());
        restored.map(|described| (described.name.clone(), described.restored.clone())).collect()
    }

    fn publish_again(&mut self, mut next_id: impl FnMut() -> u64) {
        for (path, value) in self.values.clone() {
            if self.is_kept(&path) {
                self.publish_kept(path, value, 0, next_id());
            } else {
                self.queue.push_back(HostNews::Publish { path, value, skipped: 0 });
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
                HostNews::Publish { path: (subsystem, item), value, skipped } => {
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
        let again = messages.filter(|(header, _)| header.id == 0 || is_answer(header));
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

    /// Request `id` was answered, or refused for good; true if it was one of these.
    pub fn settle(&mut self, id: u64) -> bool {
        self.pending.remove(&id).is_some()
    }

    pub fn has(&self, id: u64) -> bool {
        self.pending.contains_key(&id)
    }

    /// Whether request `id` tells a kept value (H4).
    pub fn is_value(&self, id: u64) -> bool {
        self.pending.get(&id).is_some_and(|pending| pending.kept.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecs_schemas::kv::Item;

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
        out.into_iter().map(|(header, _)| header.kind).collect()
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
        assert!(hosting.settle(3) && !hosting.settle(3));
    }
}
