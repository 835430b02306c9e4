//! `ecs-cli ls`: the subsystems.

use crate::{
    completing,
    connection::Connection,
    exit::Exit,
    human,
    registered::near,
    report,
    table::{Cell, Mood, Table},
};
use clap::Args;
use clap_complete::ArgValueCompleter;
use ecs_schemas::{
    registry::AgentState,
    subsystem::{ListSubsystems, Listed},
};
use std::io::Write;

const EXAMPLES: &str = "\
Examples:
  ecs-cli ls
  ecs-cli ls x01/laser
  ecs-cli ls --json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Ls {
    /// Only names that begin so
    #[arg(default_value = "", hide_default_value = true, add = ArgValueCompleter::new(completing::subsystems))]
    prefix: String,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Ls {
    pub fn run(self) -> anyhow::Result<Exit> {
        let list = self.connection.call(&ListSubsystems { prefix: self.prefix.clone() })?;
        if self.json {
            report::print_json(&list)?;
        } else if list.subsystems.is_empty() {
            let which = self.which_not();
            writeln!(std::io::stdout(), "no subsystem{which}; agents bring them: see `ecs-cli status`")?;
        } else {
            table(&list.subsystems).print()?;
        }
        Ok(Exit::Ok)
    }
}

impl Ls {
    /// That none begins so, and which one is near.
    fn which_not(&self) -> String {
        let all = self
            .connection
            .call(&ListSubsystems { prefix: String::new() })
            .map(|list| list.subsystems)
            .unwrap_or_default();
        match self.prefix.as_str() {
            "" => String::new(),
            prefix => format!(" begins with {prefix:?}{}", near(prefix, all.iter().map(|its| its.name.as_str()))),
        }
    }
}

fn table(subsystems: &[Listed]) -> Table {
    let now_ns = human::now_ns();
    let mut table = Table::new(["subsystem", "state", "for", "agent", "items", "events", "calls", "alarms", ""]);
    for its in subsystems {
        let since = if its.since_ns == 0 { "-".to_owned() } else { human::between(its.since_ns, now_ns) };
        let alarms = if its.alarms > 0 { Mood::Bad } else { Mood::Plain };
        table.row([
            its.name.clone().into(),
            state(its.state),
            since.into(),
            its.agent.clone().into(),
            its.items.to_string().into(),
            its.events.to_string().into(),
            its.calls.to_string().into(),
            Cell::new(its.alarms.to_string(), alarms),
            its.help.clone().into(),
        ]);
    }
    table
}

/// The state of an agent or subsystem.
pub fn state(state: AgentState) -> Cell {
    let mood = match state {
        AgentState::Ready => Mood::Good,
        AgentState::Starting => Mood::Warning,
        AgentState::Gone | AgentState::Missing => Mood::Bad,
    };
    Cell::new(state.as_str(), mood)
}
