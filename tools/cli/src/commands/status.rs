//! `ecs-cli status`: who is there, how they are, and where images are lost.

use crate::{
    commands::topic,
    connection::{Connection, call},
    exit::Exit,
    human, report,
    table::{Cell, Mood, Table},
};
use clap::Args;
use ecs_schemas::{
    registry::{AgentState, AgentStatus, GetStatus, Status as Answer},
    value::Value,
};
use ecs_sdk::{CallError, Client};
use std::{
    io::{self, Write},
    thread,
    time::{Duration, Instant},
};

/// How often `--wait` asks.
const POLL: Duration = Duration::from_millis(100);
/// Figures of the ring and of losses start with one of these.
const FIGURE_PREFIXES: [&str; 6] = ["ring_", "images_", "packets_", "lost_", "dropped_", "missing_"];
/// Those that are losses where they are not 0.
const LOSS_PREFIXES: [&str; 3] = ["lost_", "dropped_", "missing_"];

const EXAMPLES: &str = "\
Examples:
  ecs-cli status
  ecs-cli status --wait 30 && ecs-cli submit write --output run7.h5 --images 1000
  ecs-cli status --json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Status {
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    /// Wait until every agent is ready; exit 1 if that takes longer
    #[arg(long, value_name = "SECONDS")]
    wait: Option<f64>,
    #[command(flatten)]
    connection: Connection,
}

impl Status {
    pub fn run(self) -> anyhow::Result<Exit> {
        let client = self.connection.client()?;
        let answer = match self.wait {
            Some(seconds) => wait_until_ready(&client, seconds)?,
            None => call(&client, &GetStatus {})?,
        };
        if self.json {
            report::print_json(&answer)?;
        } else {
            print(&lasting(answer.clone()))?;
        }
        let is_late = self.wait.is_some() && !answer.ready;
        Ok(if is_late { Exit::Error } else { Exit::Ok })
    }
}

/// The status once all are ready, or the last one at the end of the time. A broker that is not there yet is waited for, one that
/// does not accept the key is not.
fn wait_until_ready(client: &Client, seconds: f64) -> Result<Answer, CallError> {
    let patience = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    let start = Instant::now();
    loop {
        match call(client, &GetStatus {}) {
            Ok(answer) if answer.ready || start.elapsed() >= patience => return Ok(answer),
            Err(error @ CallError::NotAccepted { .. }) => return Err(error),
            Err(error) if start.elapsed() >= patience => return Err(error),
            _ => thread::sleep(POLL),
        }
    }
}

/// Without those that were there only for the time: a value that somebody published by hand.
fn lasting(mut answer: Answer) -> Answer {
    answer.agents.retain(|agent| agent.kind != topic::PUBLISHER_KIND || agent.state != AgentState::Gone);
    answer
}

fn print(answer: &Answer) -> io::Result<()> {
    let broker = &answer.broker;
    let uptime = human::between(broker.started_ns, broker.now_ns);
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "beamline {}: broker {} (process {}) up {uptime}, {} {} open, {} messages in, {} malformed, {} undeliverable",
        broker.beamline,
        broker.version,
        broker.pid,
        broker.jobs_open,
        if broker.jobs_open == 1 { "job" } else { "jobs" },
        broker.received,
        broker.malformed,
        broker.undeliverable,
    )?;
    writeln!(out)?;
    drop(out);
    agents(answer).print()?;
    let figures = figures(answer);
    if !figures.is_empty() {
        writeln!(io::stdout())?;
        figures.print()?;
    }
    let readers = readers(answer);
    if !readers.is_empty() {
        writeln!(io::stdout())?;
        readers.print()?;
    }
    let not_ready =
        answer.agents.iter().filter(|agent| agent.state != AgentState::Ready).map(|agent| agent.name.as_str());
    let not_ready: Vec<&str> = not_ready.collect();
    if !not_ready.is_empty() {
        writeln!(io::stdout(), "\nnot ready: {}", not_ready.join(", "))?;
    }
    Ok(())
}

fn agents(answer: &Answer) -> Table {
    let mut table = Table::new(["agent", "state", "up", "process", "jobs", "rates"]);
    for agent in &answer.agents {
        let is_there = matches!(agent.state, AgentState::Starting | AgentState::Ready);
        let since = if is_there { human::between(agent.since_ns, answer.broker.now_ns) } else { String::new() };
        let process = if agent.pid > 0 { format!("{}:{}", agent.host, agent.pid) } else { String::new() };
        let jobs: Vec<String> = agent.jobs.iter().map(ToString::to_string).collect();
        let rates = if is_there { rates(agent) } else { String::new() };
        table.row([
            agent.name.as_str().into(),
            state(agent),
            since.into(),
            process.into(),
            jobs.join(" ").into(),
            rates.into(),
        ]);
    }
    table
}

fn state(agent: &AgentStatus) -> Cell {
    let mood = match agent.state {
        AgentState::Ready => Mood::Good,
        AgentState::Starting => Mood::Warning,
        AgentState::Gone | AgentState::Missing => Mood::Bad,
    };
    Cell::new(agent.state.as_str(), mood)
}

/// Every figure per second that the agent tells: `1,000 images/s, 2.12 GB/s`.
fn rates(agent: &AgentStatus) -> String {
    let rate = |(name, value): (&String, &Value)| {
        let (unit, value) = (name.strip_suffix("_per_s")?, value.as_f64()?);
        Some(match unit {
            "bytes" => format!("{}/s", human::bytes(value)),
            _ => format!("{} {}/s", human::count(value.max(0.0).round() as u64), unit.replace('_', " ")),
        })
    };
    agent.telemetry.iter().filter_map(rate).collect::<Vec<_>>().join(", ")
}

/// The figures of the ring and of losses. The ring counts for all readouts, and its owner tells.
fn figures(answer: &Answer) -> Table {
    let mut table = Table::new(["ring and losses", ""]);
    for agent in answer.agents.iter().filter(|agent| agent.kind == "assembler") {
        let begins = |name: &str, prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let is_figure = |name: &str| begins(name, &FIGURE_PREFIXES) && !name.ends_with("_per_s");
        for (name, value) in agent.telemetry.iter().filter(|(name, _)| is_figure(name)) {
            let is_loss = begins(name, &LOSS_PREFIXES) && value.as_f64().is_some_and(|value| value > 0.0);
            let mood = if is_loss { Mood::Warning } else { Mood::Plain };
            table.row([name.replace('_', " ").into(), Cell::new(figure(name, value), mood)]);
        }
    }
    table
}

/// What each reader of the ring was given, and what it was not; the ring's owner tells.
fn readers(answer: &Answer) -> Table {
    let mut table = Table::new(["reader", "delivered", "behind", "overtaken", "refused"]);
    let assemblers = answer.agents.iter().filter(|agent| agent.kind == "assembler");
    for reader in assemblers.filter_map(|agent| agent.telemetry.get("readers")?.as_list()).flatten() {
        let name = reader.get("name").and_then(Value::as_str).unwrap_or_default();
        let count = |what: &str| reader.get(what).and_then(Value::as_u64).unwrap_or(0);
        let loss = |what: &str| {
            Cell::new(human::count(count(what)), if count(what) > 0 { Mood::Warning } else { Mood::Plain })
        };
        table.row([
            name.into(),
            human::count(count("delivered")).into(),
            human::count(count("behind")).into(),
            loss("overtaken"),
            loss("refused"),
        ]);
    }
    table
}

fn figure(name: &str, value: &Value) -> String {
    match value {
        Value::Int(_) | Value::Uint(_) if name.ends_with("_bytes") => human::bytes(value.as_f64().unwrap_or(0.0)),
        Value::Int(_) | Value::Uint(_) => value.as_u64().map_or_else(|| format!("{value:?}"), human::count),
        Value::Float(value) => format!("{value:.3}"),
        Value::Text(text) => text.clone(),
        other => serde_json::to_string(other).unwrap_or_default(),
    }
}
