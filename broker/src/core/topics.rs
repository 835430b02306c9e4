//! What is published: sequence numbers, and the last value of each topic for those who come late.
//!
//! A new subscription does not replay at once but marks the topics it selects. They are sent together,
//! at most every `REPLAY_INTERVAL`, so that a thousand subscriptions in a second cost no more than fifty.
//! A replay goes to every subscriber of the topic; it has the same `seq` and `time_ns` as the original,
//! by which those who have it already know it.

use super::nanoseconds;
use crate::limits::{REPLAY_INTERVAL, TOPICS_BYTES_MAX, TOPICS_MAX};
use ecs_schemas::telemetry::PubHeader;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
};

/// Entries of topics by age that do not count any more, before they are looked for.
const BY_AGE_SPARE: usize = 64;

/// The three parts of a PUB message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    pub topic: Arc<str>,
    pub header: Arc<[u8]>,
    pub payload: Arc<[u8]>,
}

struct Kept {
    seq: u64,
    /// Of its entry in `by_age` that counts.
    stamp: u64,
    publication: Publication,
}

#[derive(Default)]
pub struct Topics {
    kept: BTreeMap<Arc<str>, Kept>,
    /// Topics as they were published, the oldest first. An entry counts while its stamp is its topic's; the others are
    /// dropped when they are more than half.
    by_age: VecDeque<(u64, Arc<str>)>,
    stamp: u64,
    /// Of all kept payloads.
    bytes: usize,
    /// Topics that a new subscriber selected and that were not replayed yet.
    wanted: BTreeSet<Arc<str>>,
    replayed_ns: u64,
}

impl Topics {
    /// The next message on `topic`; it becomes the topic's last value.
    pub fn publish(&mut self, topic: &str, source: &str, payload: impl Into<Arc<[u8]>>, time_ns: u64) -> Publication {
        let seq = self.kept.get(topic).map_or(1, |before| before.seq + 1);
        self.publish_as(topic, source, payload, seq, time_ns)
    }

    /// The same with a sequence number that is counted elsewhere.
    pub fn publish_as(
        &mut self,
        topic: &str,
        source: &str,
        payload: impl Into<Arc<[u8]>>,
        seq: u64,
        time_ns: u64,
    ) -> Publication {
        let header = PubHeader::encoded(source, seq, time_ns).into();
        self.wanted.remove(topic);
        self.stamp += 1;
        let topic = self.kept.get(topic).map_or_else(|| topic.into(), |kept| Arc::clone(&kept.publication.topic));
        let publication = Publication { topic: Arc::clone(&topic), header, payload: payload.into() };
        self.bytes += publication.payload.len();
        let kept = Kept { seq, stamp: self.stamp, publication: publication.clone() };
        if let Some(before) = self.kept.insert(Arc::clone(&topic), kept) {
            self.bytes -= before.publication.payload.len();
        }
        self.by_age.push_back((self.stamp, topic));
        self.make_room();
        publication
    }

    /// Forgets those that have been silent longest, beyond the limits.
    fn make_room(&mut self) {
        while (self.kept.len() > TOPICS_MAX || self.bytes > TOPICS_BYTES_MAX)
            && let Some((stamp, oldest)) = self.by_age.pop_front()
        {
            if self.counts(stamp, &oldest) {
                self.forget(&oldest);
            }
        }
        if self.by_age.len() > 2 * self.kept.len() + BY_AGE_SPARE {
            let mut by_age = std::mem::take(&mut self.by_age);
            by_age.retain(|(stamp, topic)| self.counts(*stamp, topic));
            self.by_age = by_age;
        }
    }

    fn counts(&self, stamp: u64, topic: &str) -> bool {
        self.kept.get(topic).is_some_and(|kept| kept.stamp == stamp)
    }

    /// Nobody who comes later is told of this topic, until it speaks again.
    pub fn forget(&mut self, topic: &str) {
        if let Some(kept) = self.kept.remove(topic) {
            self.bytes -= kept.publication.payload.len();
        }
        self.wanted.remove(topic);
    }

    /// The same for all topics that begin so: something is no more.
    pub fn forget_below(&mut self, prefix: &str) {
        for topic in self.below(prefix).cloned().collect::<Vec<_>>() {
            self.forget(&topic);
        }
    }

    /// Marks the topics that begin with `prefix` for a replay.
    pub fn want(&mut self, prefix: &[u8]) {
        let Ok(prefix) = std::str::from_utf8(prefix) else {
            return; // topics are text: it selects none
        };
        let selected: Vec<_> = self.below(prefix).cloned().collect();
        self.wanted.extend(selected);
    }

    fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.kept.range::<str, _>(from).map(|(topic, _)| topic).take_while(move |topic| topic.starts_with(prefix))
    }

    /// The last values that are to be sent again now.
    pub fn take_replays(&mut self, now_ns: u64) -> Vec<Publication> {
        if self.wanted.is_empty() || now_ns < self.replayed_ns.saturating_add(nanoseconds(REPLAY_INTERVAL)) {
            return Vec::new();
        }
        self.replayed_ns = now_ns;
        let wanted = std::mem::take(&mut self.wanted);
        wanted.iter().filter_map(|topic| self.kept.get(topic)).map(|kept| kept.publication.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecs_schemas::envelope::decode;

    const LATER_NS: u64 = 1_000_000_000;

    fn seq(publication: &Publication) -> u64 {
        decode::<PubHeader>(&publication.header).unwrap().seq
    }

    #[test]
    fn sequence_of_a_topic_rises_by_one_and_a_replay_repeats_the_last() {
        let mut topics = Topics::default();
        assert_eq!(seq(&topics.publish("a/t", "a", [1], 1)), 1);
        let last = topics.publish("a/t", "a", [2], 2);
        assert_eq!(seq(&last), 2);
        topics.want(b"a/");
        assert_eq!(topics.take_replays(LATER_NS), vec![last]);
        assert_eq!(topics.take_replays(2 * LATER_NS), vec![], "once for each wish");
    }

    #[test]
    fn subscription_replays_only_what_its_prefix_selects() {
        let mut topics = Topics::default();
        for topic in ["a/t", "ab/t", "b/t"] {
            topics.publish(topic, "x", [], 1);
        }
        topics.want(b"a");
        topics.want(&[0xff, 0xfe]);
        let replayed = topics.take_replays(LATER_NS);
        assert_eq!(replayed.iter().map(|its| &*its.topic).collect::<Vec<_>>(), ["a/t", "ab/t"]);
    }

    #[test]
    fn many_subscriptions_at_once_replay_together_and_not_too_often() {
        let mut topics = Topics::default();
        topics.publish("a", "x", [], 1);
        topics.want(b"");
        assert_eq!(topics.take_replays(LATER_NS).len(), 1);
        topics.want(b"");
        topics.want(b"a");
        assert_eq!(topics.take_replays(LATER_NS + 1).len(), 0);
        assert_eq!(topics.take_replays(2 * LATER_NS).len(), 1);
    }

    #[test]
    fn topics_beyond_the_limit_push_out_the_one_silent_longest() {
        let mut topics = Topics::default();
        for number in 0..TOPICS_MAX {
            topics.publish(&format!("t/{number}"), "x", [], 1);
        }
        topics.publish("t/0", "x", [], 2);
        topics.publish("one more", "x", [], 3);
        assert_eq!(topics.kept.len(), TOPICS_MAX);
        assert!(topics.kept.contains_key("t/0") && !topics.kept.contains_key("t/1"));
    }

    #[test]
    fn a_topic_that_is_published_for_ever_takes_no_more_room() {
        let mut topics = Topics::default();
        topics.publish("silent", "x", [0; 10], 1);
        for time_ns in 2..10_000 {
            topics.publish("a", "x", [0; 10], time_ns);
        }
        assert!(topics.by_age.len() <= 2 * topics.kept.len() + BY_AGE_SPARE, "{}", topics.by_age.len());
        assert_eq!((topics.kept.len(), topics.bytes), (2, 20));
    }
}
