//! Where the broker is, and calls to it.

use crate::{beamline_file, identity};
use anyhow::{Context, anyhow};
use clap::Args;
use ecs_schemas::{beamline::BrokerConfig, envelope::Request};
use ecs_sdk::{CallError, Client};
use std::{path::PathBuf, time::Duration};

/// How long a person waits before being told that nobody answers.
pub const CALL_TIMEOUT: Duration = Duration::from_millis(1500);

#[derive(Debug, Args)]
#[command(next_help_heading = "Where the broker is")]
pub struct Connection {
    /// The beamline's file [default: ./beamline.toml where there is one]
    #[arg(long, env = "ECS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its request endpoint, instead of a file [default: tcp://127.0.0.1:7750]
    #[arg(long, env = "ECS_BROKER", value_name = "ENDPOINT")]
    broker: Option<String>,
}

impl Connection {
    /// The beamline's file, where one is named.
    pub fn config(&self) -> Option<PathBuf> {
        self.config.clone()
    }

    /// The broker's endpoints: what `--broker` says, else what the file says, else the defaults. From here on
    /// this process connects with its key, if it has one.
    ///
    /// # Errors
    /// The file is wrong, `--broker` is not an endpoint whose port tells the publish endpoint, or the key file
    /// cannot be used.
    pub fn endpoints(&self) -> anyhow::Result<BrokerConfig> {
        let broker = self.broker_config()?;
        identity::of_tool(&broker)?;
        Ok(broker)
    }

    fn broker_config(&self) -> anyhow::Result<BrokerConfig> {
        if let Some(endpoint) = &self.broker {
            let publish_endpoint = publish_endpoint(endpoint)?;
            return Ok(BrokerConfig {
                request_endpoint: endpoint.clone(),
                publish_endpoint,
                ..BrokerConfig::default()
            });
        }
        match beamline_file::find(self.config.as_deref()) {
            Some(path) => Ok(beamline_file::load(&path)?.broker),
            None => Ok(BrokerConfig::default()),
        }
    }

    /// # Errors
    /// As [`Connection::endpoints`], or the endpoint cannot be used.
    pub fn client(&self) -> anyhow::Result<Client> {
        let endpoint = self.endpoints()?.request_endpoint;
        Client::new(&endpoint).with_context(|| format!("cannot use the endpoint {endpoint}"))
    }

    /// Asks the broker one thing.
    ///
    /// # Errors
    /// Nobody answers, or the broker refuses.
    pub fn call<R: Request>(&self, request: &R) -> anyhow::Result<R::Reply> {
        Ok(call(&self.client()?, request)?)
    }
}

/// One request with the timeout of a person at a terminal.
pub fn call<R: Request>(client: &Client, request: &R) -> Result<R::Reply, CallError> {
    client.call(request, CALL_TIMEOUT)
}

/// The broker publishes one port above the one of its requests, where nothing else is said.
fn publish_endpoint(request_endpoint: &str) -> anyhow::Result<String> {
    let wrong = || anyhow!("--broker {request_endpoint}: give tcp://HOST:PORT, for example tcp://127.0.0.1:7750");
    let (host, port) = request_endpoint.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse::<u16>().ok().and_then(|port| port.checked_add(1)).ok_or_else(wrong)?;
    if !host.starts_with("tcp://") {
        return Err(wrong());
    }
    Ok(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_endpoint_is_one_port_above() {
        assert_eq!(publish_endpoint("tcp://10.0.0.1:9000").expect("valid"), "tcp://10.0.0.1:9001");
        for wrong in ["10.0.0.1", "tcp://host", "tcp://host:65535", "host:7750"] {
            assert!(publish_endpoint(wrong).is_err(), "{wrong}");
        }
    }
}
