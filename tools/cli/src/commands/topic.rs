//! `ecs-cli topic`: what agents publish, as it comes.

use crate::{
    connection::{Connection, call},
    exit::Exit,
};
use clap::{Args, Subcommand};
use ecs_schemas::{registry::GetStatus, telemetry::PubHeader, value::Value};
use ecs_sdk::Subscriber;
use serde_json::json;
use std::{
    io::{self, Write},
    time::Duration,
};

/// `next` comes back this often without a message; there is nothing else to do meanwhile.
const TURN: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  ecs-cli topic echo x01/
  ecs-cli topic echo x01/assembler/telemetry
  ecs-cli topic echo x01/jobs/ --json | head -3";

#[derive(Debug, Args)]
pub struct Topic {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print every message whose topic starts with PREFIX, until Ctrl-C
    Echo(Echo),
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct Echo {
    /// For example a beamline or an agent; all topics where it is empty
    #[arg(default_value = "")]
    prefix: String,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// The broker's publish endpoint [default: as the beamline's file says, or one port above --broker]
    #[arg(long, value_name = "ENDPOINT")]
    publish: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

impl Topic {
    pub fn run(self) -> anyhow::Result<Exit> {
        let Action::Echo(echo) = self.action;
        echo.run()
    }
}

impl Echo {
    fn run(self) -> anyhow::Result<Exit> {
        // A subscriber alone cannot tell a silent broker from one that is not there.
        call(&self.connection.client()?, &GetStatus {})?;
        let endpoint = match self.publish {
            Some(endpoint) => endpoint,
            None => self.connection.endpoints()?.publish_endpoint,
        };
        let mut subscriber = Subscriber::new(&endpoint, [&self.prefix])?;
        loop {
            if let Some((topic, header, value)) = subscriber.next(TURN) {
                print(self.json, &topic, &header, &value)?;
            }
        }
    }
}

fn print(json: bool, topic: &str, header: &PubHeader, value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let payload = serde_json::to_value(value).map_err(io::Error::from)?;
    if json {
        let line = json!({"topic": topic, "source": header.source, "seq": header.seq, "time_ns": header.time_ns, "payload": payload});
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "{topic} {} {payload}", header.seq)?;
    }
    out.flush()
}
