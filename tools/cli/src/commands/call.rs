//! `ecs-cli call`: have a worker do something, and print its answer.

use crate::{
    connection::Connection,
    exit::Exit,
    report,
    values::{parse_params, shown},
};
use clap::Args;
use ecs_schemas::{
    envelope::{Notice, decode},
    exchange::{DoCall, Feedback},
    value_type::ValueType,
};
use std::{io::Write, time::Duration};

const EXAMPLES: &str = "\
Examples:
  ecs-cli call measure seconds=2
  ecs-cli call db.get id=17 --json
  ecs-cli call fit @parameters.json --timeout 60";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Call {
    /// Name of the call, whoever answers it
    call: String,
    /// KEY=VALUE, or @FILE with a JSON object
    params: Vec<String>,
    /// How long to wait for the answer
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = crate::options::seconds)]
    timeout: f64,
    /// Print the value and who answered as JSON
    #[arg(long)]
    json: bool,
    /// Print the id for `ecs-cli trace` on stderr
    #[arg(long)]
    trace: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Call {
    pub fn run(self) -> anyhow::Result<Exit> {
        let client = self.connection.client()?;
        let request = DoCall { call: self.call, params: parse_params(&self.params)? };
        let on_notice = |kind: &str, body: &[u8]| {
            if let (false, Feedback::KIND, Ok(feedback)) = (self.json, kind, decode::<Feedback>(body)) {
                eprintln!("{}: {}", feedback.target, shown(&feedback.value, &ValueType::default()));
            }
        };
        let result = client.call_with(&request, Duration::from_secs_f64(self.timeout), on_notice);
        if self.trace {
            eprintln!("trace {:016x}", client.last_trace().unwrap_or(0));
        }
        let result = result?;
        if self.json {
            report::print_json(&result)?;
        } else {
            writeln!(std::io::stdout(), "{}", shown(&result.value, &ValueType::default()))?;
        }
        Ok(Exit::Ok)
    }
}
