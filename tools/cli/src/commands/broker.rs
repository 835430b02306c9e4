//! `ecs-cli broker`: the broker of a beamline as a process of its own.

use crate::{beamline_file, cores, exit::Exit, realtime};
use clap::Args;
use ecs_broker::BrokerOptions;
use ecs_schemas::beamline::Beamline;
use ecs_sdk::stop;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  ecs-cli broker --config beamline.toml
  ECS_LOG=debug ecs-cli broker

`ecs-cli up` starts it together with the agents. Exit code 78: the configuration cannot work, or a port is
taken.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Broker {
    /// The beamline's file
    #[arg(long, env = "ECS_CONFIG", value_name = "FILE", default_value = beamline_file::DEFAULT_FILE)]
    config: PathBuf,
    /// Listen to other machines without keys: everyone who reaches the broker may do everything
    #[arg(long)]
    insecure: bool,
}

impl Broker {
    pub fn run(self) -> anyhow::Result<Exit> {
        let beamline = beamline_file::load(&self.config)?;
        cores::keep(&beamline)?;
        let stop = stop::install();
        allow_all_files();
        let _realtime = realtime::of_broker(&beamline);
        let mut options = options(beamline);
        options.insecure |= self.insecure;
        ecs_broker::run(options, || stop.is_set())?;
        Ok(Exit::Ok)
    }
}

/// Each connection is a file. *Why?* Many systems allow 1024 unless a process asks for what it may have.
fn allow_all_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!("at most {:?} files, so as many connections: {error}", limit.current);
    }
}

fn options(beamline: Beamline) -> BrokerOptions {
    let expected = beamline.agents().into_iter().map(|agent| (agent.name, agent.kind.to_owned())).collect();
    // A folder that is there and cannot be read is an error of the broker's, not a beamline without keys.
    let folder = beamline.key_folder();
    let keys = (beamline.broker.keys.is_some() || folder.try_exists().unwrap_or(true)).then_some(folder);
    BrokerOptions {
        beamline: beamline.name,
        request_endpoint: beamline.broker.request_endpoint,
        publish_endpoint: beamline.broker.publish_endpoint,
        heartbeat: beamline.broker.heartbeat,
        timeout: beamline.broker.timeout,
        state_folder: beamline.state_folder,
        expected,
        keys,
        insecure: beamline.broker.insecure,
    }
}
