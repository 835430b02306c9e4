//! What the broker publishes, for tools.

use crate::{
    key,
    limits::TOPICS_MAX,
    link::{Feed, LinkError},
};
use bytes::Bytes;
use ecs_schemas::{
    envelope::{PROTOCOL_VERSION, decode},
    keys::ClientKey,
    telemetry::PubHeader,
    value::Value,
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// A message as it was published; its payload is not looked at yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    pub topic: String,
    pub header: PubHeader,
    /// One encoded value.
    pub payload: Bytes,
    /// Length of the three parts together.
    pub bytes: usize,
}

/// Listens to all topics that begin with one of some prefixes. It connects and reconnects by itself, and
/// gets the last value of each topic when it does.
pub struct Subscriber {
    feed: Feed,
    /// Sequence number and time of the newest message of each topic.
    newest: HashMap<String, (u64, u64)>,
    malformed: u64,
}

impl Subscriber {
    /// Subscribes at `publish_endpoint` with the key of this process; an empty prefix selects everything.
    ///
    /// # Errors
    /// The endpoint is not one, or no socket could be made.
    pub fn new<P: AsRef<str>>(
        publish_endpoint: &str,
        prefixes: impl IntoIterator<Item = P>,
    ) -> Result<Self, LinkError> {
        Self::with_key(publish_endpoint, prefixes, key::of_process())
    }

    /// As [`Subscriber::new`], with a key of its own or none.
    ///
    /// # Errors
    /// As there.
    pub fn with_key<P: AsRef<str>>(
        publish_endpoint: &str,
        prefixes: impl IntoIterator<Item = P>,
        key: Option<&ClientKey>,
    ) -> Result<Self, LinkError> {
        let prefixes: Vec<P> = prefixes.into_iter().collect();
        let feed = Feed::connect(publish_endpoint, prefixes.iter().map(|prefix| prefix.as_ref().as_bytes()), key)?;
        Ok(Self { feed, newest: HashMap::new(), malformed: 0 })
    }

    /// The next message: topic, header and payload; none if none came within `timeout`. Last values that
    /// the broker repeats for others are skipped.
    pub fn next(&mut self, timeout: Duration) -> Option<(String, PubHeader, Value)> {
        let message = self.next_as(timeout, |message| Some((decode(&message.payload).ok()?, message)));
        message.map(|(value, message)| (message.topic, message.header, value))
    }

    /// As [`Subscriber::next`], without decoding the payload: for who counts messages and does not read them.
    pub fn next_published(&mut self, timeout: Duration) -> Option<Published> {
        self.next_as(timeout, |message| Some(((), message))).map(|((), message)| message)
    }

    /// The next message of which `read` makes something; others are malformed, whatever their sequence says.
    fn next_as<T>(
        &mut self,
        timeout: Duration,
        read: impl Fn(Published) -> Option<(T, Published)>,
    ) -> Option<(T, Published)> {
        let deadline = Instant::now() + timeout;
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            match self.feed.next(rest).map(|parts| published(parts).and_then(&read)) {
                Some(Some((_, message))) if self.is_repeat(&message.topic, &message.header) => {}
                Some(message @ Some(_)) => return message,
                Some(None) => self.malformed += 1,
                None if rest.is_zero() => return None,
                None => {}
            }
            if rest.is_zero() {
                return None;
            }
        }
    }

    /// Messages that were not of the published form and were skipped.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    fn is_repeat(&mut self, topic: &str, header: &PubHeader) -> bool {
        let seen = (header.seq, header.time_ns);
        if self.newest.get(topic) == Some(&seen) {
            return true;
        }
        if self.newest.len() >= TOPICS_MAX {
            self.newest.clear();
        }
        self.newest.insert(topic.to_owned(), seen);
        false
    }
}

fn published(parts: Vec<Bytes>) -> Option<Published> {
    let [topic, header, payload] = <[Bytes; 3]>::try_from(parts).ok()?;
    let bytes = topic.len() + header.len() + payload.len();
    let header = decode(&header).ok().filter(|header: &PubHeader| header.v == PROTOCOL_VERSION)?;
    Some(Published { topic: String::from_utf8(topic.to_vec()).ok()?, header, payload, bytes })
}
