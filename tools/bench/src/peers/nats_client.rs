//! Calls through a nats-server with NATS' own Rust client, which programs use: the program of `tools/bench/nats-peer`.

use super::built::{Built, seconds};
use std::time::Duration;

/// The peer's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsClient(Built);

impl NatsClient {
    /// # Errors
    /// It is not built here, and what builds it; or it does not start.
    pub fn find() -> anyhow::Result<Self> {
        Built::find("nats", "broker").map(Self)
    }

    /// Of async-nats.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// Calls per second with many under way, to a worker of the same client, through the server on this port.
    ///
    /// # Errors
    /// It does not run to its end; its last words are told.
    pub fn calls_per_s(&self, port: u16, bytes: usize, in_flight: usize, leg: Duration) -> anyhow::Result<f64> {
        let (port, bytes, in_flight) = (port.to_string(), bytes.to_string(), in_flight.to_string());
        self.0.run(leg, &["calls", &port, &bytes, &in_flight, &seconds(leg)])?.figure("calls_per_s")
    }
}

#[cfg(test)]
mod tests {
    use super::{super::built::scripted, *};

    #[test]
    fn the_peer_is_told_server_bytes_and_how_many_and_its_figure_is_read() {
        let (_folder, built) =
            scripted("nats", r#"[ "$*" = "calls 4222 64 1000 0.5" ] && echo calls_per_s 2e5 && echo p50_us 3"#);
        let rate = NatsClient(built).calls_per_s(4222, 64, 1000, Duration::from_millis(500)).unwrap();
        assert_eq!(rate, 2e5);
    }
}
