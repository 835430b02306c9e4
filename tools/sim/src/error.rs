//! Why a simulated detector could not start, or had to end early.

use crate::dump::DumpError;
use std::{io, net::Ipv4Addr};

/// Why a run failed. What was sent before is out on the network.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// An option is out of its range. Nothing was sent.
    #[error("{option} = {found}; allowed: {allowed}")]
    Option { option: &'static str, found: String, allowed: &'static str },
    /// The recorded packets cannot be read. Nothing was sent.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// No socket towards this port. Nothing was sent.
    #[error("cannot open a socket to {host}:{port}: {source}")]
    Socket { host: Ipv4Addr, port: u16, source: io::Error },
    /// The network refuses packets for good, for example for lack of a route.
    #[error("cannot send to {host}:{port} after {packets_sent} packets: {source}")]
    Send { host: Ipv4Addr, port: u16, packets_sent: u64, source: io::Error },
}

impl SimError {
    pub(crate) fn option(option: &'static str, found: impl ToString, allowed: &'static str) -> Self {
        Self::Option { option, found: found.to_string(), allowed }
    }
}

/// Checks that an option is a probability.
pub(crate) fn check_probability(option: &'static str, value: f64) -> Result<(), SimError> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { Err(SimError::option(option, value, "0 to 1")) }
}

/// Checks that a rate can be kept or, at 0, is none.
pub(crate) fn check_rate_hz(value: f64) -> Result<(), SimError> {
    let allowed = "0 (as fast as it goes) or images per second";
    if value.is_finite() && value >= 0.0 { Ok(()) } else { Err(SimError::option("rate_hz", value, allowed)) }
}
