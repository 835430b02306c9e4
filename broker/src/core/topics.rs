//! What is published: sequence numbers, and the last value of each topic for those who come late.
//!
//! A new subscription does not replay at once but marks the topics it selects. They are sent together,
//! at most every `REPLAY_INTERVAL`, so that a thousand subscriptions in a second cost no more than fifty.
//! A replay goes to every subscriber of the topic; it has the same `seq` and `time_ns` as the original,
//! by which those who have it already know it.

use super::nanoseconds;
use crate::limits::{REPLAY_INTERVAL, TOPICS_BYTES_MAX, TOPICS_MAX};
use ecs_schemas::{
    envelope::{PROTOCOL_VERSION, encode},
    telemetry::PubHeader,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The three parts of a PUB message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    pub topic: String,
    pub header: Vec<u8>,
    pub payload: Arc<[u8]>,
}

struct Kept {
    seq: u64,
    /// Place in `by_age`.
    stamp: u64,
    publication: Publication,
}

#[derive(Default)]
pub struct Topics {
    kept: BTreeMap<String, Kept>,
    /// Topics by when they were published last, oldest first.
    by_age: BTreeMap<u64, String>,
    stamp: u64,
    /// Of all kept payloads.
    bytes: usize,
    /// Topics that a new subscriber selected and that were not replayed yet.
    wanted: BTreeSet<String>,
    replayed_ns: u64,
}

impl Topics {
    /// The next message on `topic`; it becomes the topic's last value.
    pub fn publish(&mut self, topic: String, source: &str, payload: Vec<u8>, time_ns: u64) -> Publication {
        let seq = self.kept.get(&topic).map_or(1, |before| before.seq + 1);
        self.publish_as(topic, source, payload, seq, time_ns)
    }

    /// The same with a sequence number that is counted elsewhere.
    pub fn publish_as(&mut self, topic: String, source: &str, payload: Vec<u8>, seq: u64, time_ns: u64) -> Publication {
        self.forget(&topic);
        let header = PubHeader { v: PROTOCOL_VERSION, source: source.to_owned(), seq, time_ns };
        let publication = Publication { topic: topic.clone(), header: encode(&header), payload: payload.into() };
        self.keep(topic, seq, publication.clone());
        publication
    }

    fn keep(&mut self, topic: String, seq: u64, publication: Publication) {
        self.stamp += 1;
        self.bytes += publication.payload.len();
        self.by_age.insert(self.stamp, topic.clone());
        self.kept.insert(topic, Kept { seq, stamp: self.stamp, publication });
        while (self.kept.len() > TOPICS_MAX || self.bytes > TOPICS_BYTES_MAX)
            && let Some((_, oldest)) = self.by_age.first_key_value()
        {
            self.forget(&oldest.clone());
        }
    }

    /// Nobody who comes later is told of this topic, until it speaks again.
    pub fn forget(&mut self, topic: &str) {
        if let Some(kept) = self.kept.remove(topic) {
            self.by_age.remove(&kept.stamp);
            self.bytes -= kept.publication.payload.len();
        }
        self.wanted.remove(topic);
    }

    /// The same for all topics that begin so: something is no more.
    pub fn forget_below(&mut self, prefix: &str) {
        let below = self.kept.range(prefix.to_owned()..).take_while(|(topic, _)| topic.starts_with(prefix));
        for topic in below.map(|(topic, _)| topic.clone()).collect::<Vec<_>>() {
            self.forget(&topic);
        }
    }

    /// Marks the topics that begin with `prefix` for a replay.
    pub fn want(&mut self, prefix: &[u8]) {
        let Ok(prefix) = std::str::from_utf8(prefix) else {
            return; // topics are text: it selects none
        };
        let selected = self.kept.range(prefix.to_owned()..).take_while(|(topic, _)| topic.starts_with(prefix));
        self.wanted.extend(selected.map(|(topic, _)| topic.clone()));
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
        assert_eq!(seq(&topics.publish("a/t".to_owned(), "a", vec![1], 1)), 1);
        let last = topics.publish("a/t".to_owned(), "a", vec![2], 2);
        assert_eq!(seq(&last), 2);
        topics.want(b"a/");
        assert_eq!(topics.take_replays(LATER_NS), vec![last]);
        assert_eq!(topics.take_replays(2 * LATER_NS), vec![], "once for each wish");
    }

    #[test]
    fn subscription_replays_only_what_its_prefix_selects() {
        let mut topics = Topics::default();
        for topic in ["a/t", "ab/t", "b/t"] {
            topics.publish(topic.to_owned(), "x", vec![], 1);
        }
        topics.want(b"a");
        topics.want(&[0xff, 0xfe]);
        let replayed: Vec<_> = topics.take_replays(LATER_NS).into_iter().map(|p| p.topic).collect();
        assert_eq!(replayed, ["a/t", "ab/t"]);
    }

    #[test]
    fn many_subscriptions_at_once_replay_together_and_not_too_often() {
        let mut topics = Topics::default();
        topics.publish("a".to_owned(), "x", vec![], 1);
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
            topics.publish(format!("t/{number}"), "x", vec![], 1);
        }
        topics.publish("t/0".to_owned(), "x", vec![], 2);
        topics.publish("one more".to_owned(), "x", vec![], 3);
        assert_eq!(topics.kept.len(), TOPICS_MAX);
        assert!(topics.kept.contains_key("t/0") && !topics.kept.contains_key("t/1"));
    }
}
