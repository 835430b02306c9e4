//! KV items at a rate that the reader chooses.

use crate::{
    key,
    limits::{AGENT_DEADLINE_MS, BLOCKED_LOOK, WATCH_PING, WATCH_SILENCE},
    link::{Link, LinkError},
};
use ecs_schemas::{
    envelope::{Header, KIND_ERROR, Notice, Request, decode, encode},
    error_code::{ErrorCode, Failure},
    kv::{Update, Watch},
};
use std::time::{Duration, Instant};

/// Watches items over a connection of its own. It connects and reconnects by itself, and gets the current value of
/// each item when it does.
pub struct Watcher {
    endpoint: String,
    watch: Watch,
    link: Link,
    last_id: u64,
    /// When the broker was heard, and last asked to watch; none before it was over this connection.
    heard: Instant,
    asked: Option<Instant>,
}

/// Why items are not watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("{0}")]
    Refused(Failure),
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl Watcher {
    /// Watches `items`, each `<subsystem>/<item>`, at most `max_hz` updates per second of each.
    ///
    /// # Errors
    /// The endpoint is not one, or no socket could be made.
    pub fn new(endpoint: &str, items: Vec<String>, max_hz: Option<f64>) -> Result<Self, LinkError> {
        let now = Instant::now();
        Ok(Self {
            endpoint: endpoint.to_owned(),
            watch: Watch { items, max_hz },
            link: Link::connect(endpoint, key::of_process())?,
            last_id: 0,
            heard: now,
            asked: None,
        })
    }

    /// The next update; none if none came within `timeout`.
    ///
    /// # Errors
    /// The broker refuses to watch; or no socket could be made.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Update>, WatchError> {
        let deadline = Instant::now() + timeout;
        loop {
            // What waits is taken first: a caller that comes seldom has heard the broker all the same.
            while let Some((header, body)) = self.link.receive() {
                self.heard = Instant::now();
                if let Some(update) = self.read(&header, &body)? {
                    return Ok(Some(update));
                }
            }
            self.keep_up(Instant::now())?;
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Ok(None);
            }
            let look = if self.asked.is_none() { 10 * BLOCKED_LOOK } else { WATCH_PING };
            self.link.wait_readable(rest.min(look));
        }
    }

    /// Asks to watch, and again every second: the broker may be a new one. Begins anew when it is silent.
    fn keep_up(&mut self, now: Instant) -> Result<(), LinkError> {
        if now.duration_since(self.heard) >= WATCH_SILENCE {
            self.link = Link::connect(&self.endpoint, key::of_process())?;
            (self.asked, self.heard) = (None, now);
        }
        let is_due = self.asked.is_none_or(|asked| now.duration_since(asked) >= WATCH_PING);
        if is_due && self.link.wait_writable(Duration::ZERO) {
            self.last_id += 1;
            let header = Header::request(Watch::KIND, self.last_id, AGENT_DEADLINE_MS);
            self.link.send(&header, &encode(&self.watch));
            self.asked = Some(now);
        }
        Ok(())
    }

    fn read(&self, header: &[u8], body: &[u8]) -> Result<Option<Update>, WatchError> {
        let Ok(header) = Header::decode(header) else { return Ok(None) };
        match header.kind.as_str() {
            Update::KIND => Ok(decode(body).ok()),
            KIND_ERROR => {
                let unreadable = |error| Failure::new(ErrorCode::Other, format!("{error}"));
                Err(WatchError::Refused(decode(body).unwrap_or_else(unreadable)))
            }
            _ => Ok(None),
        }
    }
}
