//! `ecs-cli event` and `ecs-cli sync`: tell subsystems of something, and hear what each says to it.

use crate::{
    asking::Asking,
    completing,
    connection::{CALL_TIMEOUT, Connection},
    exit::Exit,
    human,
    registered::{Registered, near, what},
    report,
    table::{Cell, Mood, Table},
    values::shown_short,
};
use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use ecs_schemas::{
    error_code::Failure,
    exchange::{CallEvent, EventResults, TargetEnd},
    telemetry::PubHeader,
    value::Value,
    value_type::ValueType,
};
use ecs_sdk::{Client, Subscriber};
use serde_json::json;
use std::{
    io::{self, Write},
    time::Duration,
};

const TURN: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  ecs-cli event call can_begin
  ecs-cli event call vent --to x01/pump speed=2
  ecs-cli event watch x01/pump

Exit code 3: not everybody said ok; the table says who and why.";

const SYNC_EXAMPLES: &str = "\
Examples:
  ecs-cli sync prepare_trial
  ecs-cli sync prepare_trial trial=17 --timeout 5 --json

It is done when all who handle the event have answered. Exit code 3: not everybody said ok.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Event {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Tell subsystems of an event and wait for the answer of each
    Call(EventCall),
    /// Print how events end, as they do, until Ctrl-C
    Watch(EventWatch),
}

#[derive(Debug, Args)]
struct EventCall {
    /// Name of the event
    #[arg(add = ArgValueCompleter::new(completing::events))]
    event: String,
    /// Only these subsystems; all that handle the event otherwise
    #[arg(long = "to", value_name = "SUBSYSTEM", add = ArgValueCompleter::new(completing::subsystems))]
    targets: Vec<String>,
    #[command(flatten)]
    asking: Asking,
}

/// A barrier: an event to all who handle it.
#[derive(Debug, Args)]
#[command(after_help = SYNC_EXAMPLES)]
pub struct Sync {
    /// Name of the event that they wait for
    #[arg(add = ArgValueCompleter::new(completing::events))]
    event: String,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Args)]
struct EventWatch {
    /// Only subsystems whose names begin so
    #[arg(default_value = "", hide_default_value = true, add = ArgValueCompleter::new(completing::subsystems))]
    prefix: String,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Event {
    pub fn run(self) -> anyhow::Result<Exit> {
        match self.action {
            Action::Call(EventCall { event, targets, asking }) => ask(&asking, event, targets),
            Action::Watch(watch) => watch.run(),
        }
    }
}

impl Sync {
    pub fn run(self) -> anyhow::Result<Exit> {
        ask(&self.asking, self.event, Vec::new())
    }
}

/// Without targets it goes to all who handle it, and somebody must.
fn ask(asking: &Asking, event: String, targets: Vec<String>) -> anyhow::Result<Exit> {
    let is_broadcast = targets.is_empty();
    let results = asking.ask(&CallEvent { event: event.clone(), targets, params: asking.params()? })?;
    if asking.json {
        report::print_json(&results)?;
    } else if results.results.is_empty() {
        writeln!(io::stdout(), "nobody who is here handles the event {event}{}", asking.near_event(&event))?;
    } else {
        table(&results).print()?;
    }
    let is_good = results.objections().count() == 0 && !(is_broadcast && results.results.is_empty());
    Ok(if is_good { Exit::Ok } else { Exit::NotWhole })
}

fn table(results: &EventResults) -> Table {
    let mut table = Table::new(["subsystem", "", "answer"]);
    for result in &results.results {
        let mood = match result.end {
            TargetEnd::Ok => Mood::Good,
            TargetEnd::Refused | TargetEnd::Cancelled => Mood::Warning,
            _ => Mood::Bad,
        };
        let answer = match &result.reason {
            Some(Failure { message, hint: Some(hint), .. }) => format!("{message}: {hint}"),
            Some(reason) => reason.message.clone(),
            None if result.value == Value::Null => String::new(),
            None => shown_short(&result.value, &ValueType::default()),
        };
        table.row([result.target.clone().into(), Cell::new(result.end.as_str(), mood), answer.into()]);
    }
    table
}

impl EventWatch {
    fn run(self) -> anyhow::Result<Exit> {
        let client = self.connection.client()?;
        tell_unknown(&client, &self.prefix)?;
        let endpoint = self.connection.endpoints()?.publish_endpoint;
        let mut subscriber = Subscriber::new(&endpoint, [&self.prefix])?;
        loop {
            let Some((topic, header, ended)) = subscriber.next(TURN) else { continue };
            if what::of(&topic) == what::EVENT {
                self.print(&topic, &header, &ended)?;
            }
        }
    }

    fn print(&self, topic: &str, header: &PubHeader, ended: &Value) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", json!({"topic": topic, "time_ns": header.time_ns, "ended": ended}))?;
        } else {
            let text = |name: &str| ended.get(name).and_then(|value| value.as_str()).unwrap_or_default();
            let reason = ended.get("reason").and_then(|reason| reason.get("message"));
            let reason = reason.and_then(|message| message.as_str()).map(|why| format!(": {why}")).unwrap_or_default();
            let clock = human::clock(header.time_ns);
            let line = format!("{topic} {}{reason} (asked by {})", text("end"), text("by"));
            writeln!(out, "{clock} {}", human::printable(&line))?;
        }
        out.flush()
    }
}

/// Says on stderr that no subsystem begins so, since what never comes does not say it.
fn tell_unknown(client: &Client, prefix: &str) -> anyhow::Result<()> {
    let all = Registered::new(client, CALL_TIMEOUT).subsystems("")?;
    if !all.iter().any(|its| its.name.starts_with(prefix) || prefix.starts_with(&format!("{}/", its.name))) {
        let near = near(prefix, all.iter().map(|its| its.name.as_str()));
        eprintln!("no subsystem begins with {prefix:?}{near}; `ecs-cli ls` lists all");
    }
    Ok(())
}
