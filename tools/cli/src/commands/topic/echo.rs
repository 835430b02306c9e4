//! `ecs-cli topic echo`: messages as they come.

use super::listening::Endpoint;
use crate::{completing, exit::Exit, human::printable};
use clap::Args;
use clap_complete::ArgValueCompleter;
use ecs_schemas::{envelope::decode, value::Value};
use ecs_sdk::Published;
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
  ecs-cli topic echo x01/jobs/ --json | head -3
  ecs-cli topic echo x01/pump/kv/pressure --count 1

The last value of each topic comes at once, then every message, until Ctrl-C. A line is topic, sequence, payload.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Echo {
    /// A topic, or what topics begin with: a beamline, an agent; all topics where it is empty
    #[arg(default_value = "", hide_default_value = true, add = ArgValueCompleter::new(completing::topics))]
    prefix: String,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    endpoint: Endpoint,
}

impl Echo {
    pub fn run(self) -> anyhow::Result<Exit> {
        let mut listening = self.endpoint.listen(vec![self.prefix], true)?;
        let mut printed = 0;
        while self.count.is_none_or(|count| printed < count) {
            let Some(message) = listening.next(TURN) else { continue };
            // Of another encoding than ours: nothing that a person could read.
            let Ok(value) = decode::<Value>(&message.payload) else { continue };
            print(self.json, &message, &value)?;
            printed += 1;
        }
        Ok(Exit::Ok)
    }
}

fn print(json: bool, message: &Published, value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let payload = serde_json::to_value(value).map_err(io::Error::from)?;
    let Published { topic, header, .. } = message;
    if json {
        let line = json!({"topic": topic, "source": header.source, "seq": header.seq, "time_ns": header.time_ns, "payload": payload});
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "{topic} {} {}", header.seq, printable(&payload.to_string()))?;
    }
    out.flush()
}
