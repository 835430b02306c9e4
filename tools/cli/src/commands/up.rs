//! `ecs-cli up`: a whole beamline in the foreground.
//!
//! The supervisor runs on the main thread, which the kernel ties the processes to. A second thread asks
//! the broker how the agents are, and tells when they are ready.

use crate::{
    beamline_file, cores,
    exit::Exit,
    human, identity,
    logging::Logging,
    table::{Cell, Table},
};
use anyhow::Context;
use clap::Args;
use ecs_schemas::{
    beamline::{Beamline, bytes_text},
    registry::{AgentState, GetStatus, Status},
};
use ecs_sdk::{
    Client,
    stop::{self, Stop},
};
use ecs_supervisor::{END_PATIENCE, Event, Plan, ProcessSpec, SupervisorError};
use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// How often the broker is asked how the agents are, and how long it may take to answer.
const WATCH_PERIOD: Duration = Duration::from_millis(300);

const EXAMPLES: &str = "\
Examples:
  ecs-cli up beamline.toml
  ecs-cli up beamline.toml --verbose
  ecs-cli up beamline.toml > up.log 2>&1 &

Ctrl-C ends all in order: writers finish their files first. A second Ctrl-C kills what is left.
What does not end within 10 s is killed, too; then the exit code is 1, and the last message names it.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Up {
    /// The beamline's file
    #[arg(env = "ECS_CONFIG", default_value = beamline_file::DEFAULT_FILE)]
    file: PathBuf,
    /// Let the broker listen to other machines without keys: everyone who reaches it may do everything
    #[arg(long)]
    insecure: bool,
}

impl Up {
    pub fn run(self, logging: &Logging) -> anyhow::Result<Exit> {
        let beamline = beamline_file::load(&self.file)?;
        cores::keep(&beamline)?;
        identity::of_beamline(&beamline)?;
        summary(&beamline).print()?;
        let plan = self.plan(&beamline, logging)?;
        let (stop, done) = (stop::install(), Stop::new());
        let result = thread::scope(|scope| {
            scope.spawn(|| watch(&beamline, &self.file, &done));
            let mut wait = |patience| wait(&stop, patience);
            let result = ecs_supervisor::run(plan, &mut wait, &mut |event| tell(&line(&event)));
            done.request();
            result
        });
        if !matches!(result, Err(SupervisorError::Lock(_))) {
            // The assembler removes its ring when it ends well; one that was killed could not.
            let _ = fs::remove_file(&beamline.ring.path);
        }
        result?;
        Ok(Exit::Ok)
    }

    /// The broker first, then the agents in their order.
    fn plan(&self, beamline: &Beamline, logging: &Logging) -> anyhow::Result<Plan> {
        let config = std::path::absolute(&self.file)?;
        let process = |name: String, command: &[&str], own: &[OsString]| {
            let common = ["--config".into(), config.clone().into_os_string()];
            let args = logging.args().into_iter().chain(command.iter().copied()).map(OsString::from);
            ProcessSpec { name, args: args.chain(common).chain(own.iter().cloned()).collect() }
        };
        let insecure = if self.insecure { vec![OsString::from("--insecure")] } else { vec![] };
        let mut processes = vec![process("broker".to_owned(), &["broker"], &insecure)];
        let key = identity::for_agents(beamline);
        let key: Vec<OsString> = key.map_or(vec![], |key| vec!["--key".into(), key.into_os_string()]);
        for agent in beamline.agents() {
            let index = agent.index.to_string();
            processes.push(process(agent.name, &["agent", agent.kind, "--index", &index], &key));
        }
        let program = env::current_exe().context("cannot find this program's own file")?;
        Ok(Plan { program, processes, state_folder: beamline.state_folder.clone(), end_patience: END_PATIENCE })
    }
}

/// Waits for a request to stop, the first or a further one, and returns how many there were.
fn wait(stop: &Stop, patience: Duration) -> u32 {
    if stop.is_set() {
        thread::sleep(patience); // `Stop::wait` would come back at once
    } else {
        stop.wait(patience);
    }
    stop.count()
}

fn summary(beamline: &Beamline) -> Table {
    let placement = &beamline.detector.placement;
    let ports: Vec<String> = placement.ports.iter().map(ToString::to_string).collect();
    let images = u64::from(ecs_assembler::geometry(beamline).slots);
    let mut table = Table::new([]);
    let mut row = |name: &str, value: String| table.row([name.into(), Cell::from(value)]);
    row("beamline", beamline.name.clone());
    row("broker", format!("{}, topics {}", beamline.broker.request_endpoint, beamline.broker.publish_endpoint));
    row(
        "detector",
        format!(
            "{}, {} x {} pixels of {}",
            beamline.detector.name,
            placement.height,
            placement.width,
            placement.pixel.as_str()
        ),
    );
    row("UDP ports", format!("{} at {}", ports.join(" "), beamline.readout.address));
    row(
        "ring",
        format!(
            "{}, {}: {} images",
            beamline.ring.path.display(),
            bytes_text(beamline.ring.size_bytes),
            human::count(images)
        ),
    );
    row("data folder", beamline.data_folder.display().to_string());
    row("state folder", beamline.state_folder.display().to_string());
    table
}

fn line(event: &Event) -> String {
    match event {
        Event::LeftoverEnded { name, pid } => format!("{name}: ended process {pid} of an earlier run"),
        Event::Started { name, pid } => format!("{name}: started, process {pid}"),
        Event::NotStarted { name, error, restart_in } => {
            format!("{name}: cannot be started: {error}; next try in {restart_in:?}")
        }
        Event::Exited { name, status, restart_in } => format!("{name}: ended ({status}); restart in {restart_in:?}"),
        Event::Stopping { name } => format!("{name}: stopping"),
        Event::Stopped { name, status } if status.success() => format!("{name}: stopped"),
        Event::Stopped { name, status } => format!("{name}: stopped ({status})"),
        Event::Killed { name } => format!("{name}: killed, it did not stop"),
    }
}

/// Prints a line. A reader that went away must not end the beamline.
fn tell(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Tells of each agent that becomes ready, and when all are.
fn watch(beamline: &Beamline, file: &Path, done: &Stop) {
    let Ok(client) = Client::new(&beamline.broker.request_endpoint) else { return };
    let mut seen = Readiness::default();
    while !done.wait(WATCH_PERIOD) {
        // No answer is no news: the supervisor tells when the broker ends.
        let Ok(status) = client.call(&GetStatus {}, WATCH_PERIOD) else { continue };
        for line in seen.news(&status) {
            tell(&line);
        }
        if seen.is_news_that_all_are_ready(&status) {
            tell("all agents are ready; Ctrl-C stops them. Next, in another terminal:");
            tell(&format!("  ecs-cli submit write --config {} --output run.h5 --images 1000 --wait", file.display()));
        }
    }
}

/// What has been told so far.
#[derive(Default)]
struct Readiness {
    /// Name and process of every agent that is ready.
    ready: BTreeSet<(String, u32)>,
    all: bool,
}

impl Readiness {
    fn news(&mut self, status: &Status) -> Vec<String> {
        let is_ready = status.agents.iter().filter(|agent| agent.state == AgentState::Ready);
        let now: BTreeSet<(String, u32)> = is_ready.map(|agent| (agent.name.clone(), agent.pid)).collect();
        let news = now.difference(&self.ready).map(|(name, _)| format!("{name}: ready")).collect();
        self.ready = now;
        news
    }

    fn is_news_that_all_are_ready(&mut self, status: &Status) -> bool {
        let was = std::mem::replace(&mut self.all, status.ready);
        status.ready && !was
    }
}
