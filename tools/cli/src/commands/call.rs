//! `ecs-cli call`: have a worker do something, and print its answer.

use crate::{asking::Asking, completing, exit::Exit, report, values};
use clap::Args;
use clap_complete::ArgValueCompleter;
use ecs_schemas::{exchange::DoCall, value_type::ValueType};

const EXAMPLES: &str = "\
Examples:
  ecs-cli call measure seconds=2
  ecs-cli call db.get id=17 --json
  ecs-cli call fit @parameters.json --timeout 60";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Call {
    /// Name of the call, whoever answers it
    #[arg(add = ArgValueCompleter::new(completing::calls))]
    call: String,
    #[command(flatten)]
    asking: Asking,
}

impl Call {
    pub fn run(self) -> anyhow::Result<Exit> {
        let result = self.asking.ask(&DoCall { call: self.call, params: self.asking.params()? })?;
        if self.asking.json {
            report::print_json(&result)?;
        } else {
            values::print(&result.value, &ValueType::default())?;
        }
        Ok(Exit::Ok)
    }
}
