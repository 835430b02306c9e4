//! `ecs-cli show`: all of one subsystem.

use crate::{
    commands::{alarms, ls},
    completing,
    connection::Connection,
    exit::Exit,
    human, report,
    table::Table,
    values::{shown_reading, shown_type},
};
use clap::Args;
use clap_complete::ArgValueCompleter;
use ecs_schemas::{
    alarm::RaisedAlarm,
    kv::{Item, ItemList, ListItems},
    subsystem::{GetSubsystem, Handled, Param, SubsystemStatus},
};
use std::io::{self, Write};

const EXAMPLES: &str = "\
Examples:
  ecs-cli show x01/pump
  ecs-cli show x01/pump --json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Show {
    /// Name or UUID of a subsystem
    #[arg(add = ArgValueCompleter::new(completing::subsystems))]
    name: String,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Show {
    pub fn run(self) -> anyhow::Result<Exit> {
        let status = self.connection.call(&GetSubsystem { name: self.name })?;
        if self.json {
            report::print_json(&status)?;
            return Ok(Exit::Ok);
        }
        let prefix = format!("{}/", status.description.name);
        let items = self.connection.call(&ListItems { prefix })?;
        print(&status, &items)?;
        Ok(Exit::Ok)
    }
}

fn print(status: &SubsystemStatus, items: &ItemList) -> io::Result<()> {
    let its = &status.description;
    let mut head = Table::new([]);
    head.row(["subsystem".into(), its.name.clone().into()]);
    head.row(["state".into(), ls::state(status.state)]);
    if status.since_ns > 0 {
        head.row(["since".into(), format!("{} ago", human::between(status.since_ns, human::now_ns())).into()]);
    }
    head.row(["agent".into(), status.agent.clone().into()]);
    head.row(["uuid".into(), its.uuid.clone().unwrap_or_default().into()]);
    if !its.help.is_empty() {
        head.row(["help".into(), its.help.clone().into()]);
    }
    head.print()?;
    print_items(&its.name, items)?;
    print_handled("event", &its.events)?;
    print_handled("call", &its.calls)?;
    let raised = |alarm: &ecs_schemas::alarm::Alarm| RaisedAlarm {
        subsystem: its.name.clone(),
        alarm: alarm.clone(),
        raised: true,
    };
    let raised: Vec<_> = its.alarms.iter().map(raised).collect();
    if !raised.is_empty() {
        writeln!(io::stdout())?;
        alarms::table(&raised).print()?;
    }
    Ok(())
}

fn print_items(name: &str, items: &ItemList) -> io::Result<()> {
    let mut table = Table::new(["item", "value", "type", "", ""]);
    for listed in items.items.iter().filter(|listed| listed.subsystem == name) {
        table.row([
            listed.item.name.clone().into(),
            shown_reading(&listed.item, listed.reading.as_ref(), listed.bytes).into(),
            shown_type(&listed.item.kind).into(),
            flags(&listed.item).into(),
            listed.item.help.clone().into(),
        ]);
    }
    print_behind_a_line(&table)
}

/// `rw` with `p` for published and `k` for kept over restarts.
pub fn flags(item: &Item) -> String {
    let flags = [(item.readable, 'r'), (item.writable, 'w'), (item.published, 'p'), (item.persist, 'k')];
    flags.iter().map(|(is_set, letter)| if *is_set { *letter } else { '-' }).collect()
}

fn print_handled(what: &'static str, handled: &[Handled]) -> io::Result<()> {
    let mut table = Table::new([what, "parameters", "result", ""]);
    for its in handled {
        let param = |param: &Param| {
            let optional = if param.optional { "?" } else { "" };
            format!("{}{optional}={}", param.name, shown_type(&param.kind))
        };
        let params: Vec<_> = its.params.iter().map(param).collect();
        table.row([
            its.name.clone().into(),
            params.join(" ").into(),
            shown_type(&its.result).into(),
            its.help.clone().into(),
        ]);
    }
    print_behind_a_line(&table)
}

fn print_behind_a_line(table: &Table) -> io::Result<()> {
    if table.is_empty() {
        return Ok(());
    }
    writeln!(io::stdout())?;
    table.print()
}
