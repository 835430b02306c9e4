//! iceoryx2 publish/subscribe between processes, beside the ring: the program of `tools/bench/iceoryx2-peer`.
//!
//! ```text
//! this process ──starts──▶ publisher ══shm══▶ subscribers
//! ```

use super::built::{Built, seconds};
use std::time::Duration;

/// The peer's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iceoryx2(Built);

impl Iceoryx2 {
    /// # Errors
    /// It is not built here, and what builds it; or it does not start.
    pub fn find() -> anyhow::Result<Self> {
        Built::find("iceoryx2", "ring").map(Self)
    }

    /// Of iceoryx2.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// Median time of one way to a subscriber that spins, without that of the clocks.
    ///
    /// # Errors
    /// It does not run to its end; its last words are told.
    pub fn handoff_ns(&self, leg: Duration, bytes: usize, pace: Duration) -> anyhow::Result<f64> {
        let (bytes, pace_ns) = (bytes.to_string(), pace.as_nanos().to_string());
        let said = self.0.run(leg, &["handoff", &bytes, &seconds(leg), &pace_ns])?;
        Ok(said.figure("p50_ns")? - said.figure("clock_ns")?)
    }

    /// Messages per second that each of `subscribers` gets.
    ///
    /// # Errors
    /// As of [`Self::handoff_ns`].
    pub fn messages_per_s(&self, leg: Duration, bytes: usize, depth: usize, subscribers: usize) -> anyhow::Result<f64> {
        let (bytes, depth, subscribers) = (bytes.to_string(), depth.to_string(), subscribers.to_string());
        self.0.run(leg, &["rate", &bytes, &seconds(leg), &depth, &subscribers])?.figure("messages_per_s")
    }
}

#[cfg(test)]
mod tests {
    use super::{super::built::scripted, *};

    #[test]
    fn figures_are_those_that_the_peer_says_less_its_clocks() {
        let script = "[ $1 = handoff ] && echo p50_ns 512 && echo clock_ns 30 || echo messages_per_s $5e6";
        let (_folder, built) = scripted("iceoryx2", script);
        let (peer, leg) = (Iceoryx2(built), Duration::from_millis(1));
        assert_eq!(peer.handoff_ns(leg, 8192, leg).unwrap(), 482.0);
        assert_eq!(peer.messages_per_s(leg, 8192, 64, 4).unwrap(), 4e6);
    }
}
