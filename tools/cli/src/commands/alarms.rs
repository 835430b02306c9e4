//! `ecs-cli alarms`: what is wrong now.

use crate::{
    connection::Connection,
    exit::Exit,
    human, report,
    table::{Cell, Mood, Table},
};
use clap::Args;
use ecs_schemas::alarm::{ListAlarms, RaisedAlarm, Severity};
use std::io::Write;

const EXAMPLES: &str = "\
Examples:
  ecs-cli alarms
  ecs-cli alarms --json

`ecs-cli topic echo x01/` shows them as they come and go, under <subsystem>/alarm/<code>.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Alarms {
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Alarms {
    pub fn run(self) -> anyhow::Result<Exit> {
        let list = self.connection.call(&ListAlarms {})?;
        if self.json {
            report::print_json(&list)?;
        } else if list.alarms.is_empty() {
            writeln!(std::io::stdout(), "no alarms")?;
        } else {
            table(&list.alarms).print()?;
        }
        Ok(Exit::Ok)
    }
}

pub fn table(alarms: &[RaisedAlarm]) -> Table {
    let now_ns = human::now_ns();
    let mut table = Table::new(["severity", "subsystem", "code", "since", "text"]);
    for raised in alarms {
        let mood = match raised.alarm.severity {
            Severity::Info => Mood::Plain,
            Severity::Warn => Mood::Warning,
            Severity::Alarm => Mood::Bad,
        };
        table.row([
            Cell::new(raised.alarm.severity.as_str(), mood),
            raised.subsystem.clone().into(),
            raised.alarm.code.clone().into(),
            format!("{} ago", human::between(raised.alarm.since_ns, now_ns)).into(),
            raised.alarm.text.clone().into(),
        ]);
    }
    table
}
