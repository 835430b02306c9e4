//! Calls through a nats-server with NATS' own Rust client, which programs use: the program of `tools/bench/nats-peer`.

use super::{
    built::{Built, seconds},
    nats_server::NatsServer,
};
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

    /// Calls per second with many under way, to a worker of the same client.
    ///
    /// # Errors
    /// It does not run to its end; its last words are told.
    pub fn calls_per_s(
        &self,
        server: &NatsServer,
        bytes: usize,
        in_flight: usize,
        leg: Duration,
    ) -> anyhow::Result<f64> {
        let (port, bytes, in_flight) = (server.port().to_string(), bytes.to_string(), in_flight.to_string());
        self.0.run(leg, &["calls", &port, &bytes, &in_flight, &seconds(leg)])?.figure("calls_per_s")
    }
}
