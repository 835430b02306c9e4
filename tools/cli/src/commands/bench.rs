//! `ecs-cli bench`: what this machine carries, each figure beside its baseline.

use crate::{
    exit::Exit,
    report,
    table::{Cell, Table},
};
use anyhow::Context;
use clap::{Args, Subcommand};
use ecs_bench::{Pairs, Report, Row, broker, conversion, idle, path, ring};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    env,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

const RING_EXAMPLES: &str = "\
Examples:
  ecs-cli bench ring
  ecs-cli bench ring --seconds 0.5 --pairs 3 --json
  ecs-cli bench ring --only hand-off
  ecs-cli bench ring --peers --only \"small images\"    # beside iceoryx2

That no reader is ever given a torn image as good is a test; so many checked reads:
  ECS_RING_READS=100000000 cargo test --release -p ecs-shm-buffer --test overtaken";

const CONVERT_EXAMPLES: &str = "\
Examples:
  ecs-cli bench convert
  ecs-cli bench convert --seconds 0.5 --pairs 3 --json";

const BROKER_EXAMPLES: &str = "\
Examples:
  ecs-cli bench broker
  ecs-cli bench broker --seconds 0.5 --pairs 3 --json
  ecs-cli bench broker --peers --only jobs    # also beside RabbitMQ";

const IDLE_EXAMPLES: &str = "\
Examples:
  ecs-cli bench idle
  ecs-cli bench idle --seconds 60 --agents 100 --json";

const PATH_EXAMPLES: &str = "\
Examples:
  ecs-cli bench path
  ecs-cli bench path --only drain
  ecs-cli bench path --only \"without loss\" --seconds 10
  ecs-cli bench path --only writer --folder /data --images 2000
  ecs-cli bench path --seconds 5 --pairs 9 --json";

#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The ring alone, beside memcpy, and its hand-off, beside bare ones
    Ring(RingArgs),
    /// A JUNGFRAU's pixels to floats, beside what their bytes cost and beside a plain loop
    #[command(after_help = CONVERT_EXAMPLES)]
    Convert(Legs),
    /// Calls and published values through the broker, beside libzmq's own proxies
    #[command(after_help = BROKER_EXAMPLES)]
    Broker(BrokerArgs),
    /// CPU and memory of a broker whose agents do nothing, beside one without agents
    Idle(IdleArgs),
    /// Packets to a reader, beside bare receive loops; images to a file, beside a plain write
    Path(PathArgs),
}

#[derive(Debug, Args)]
struct Legs {
    /// How long each leg runs
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = crate::options::leg_seconds)]
    seconds: f64,
    /// How many pairs of legs, ours and the baseline
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pairs: u16,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = RING_EXAMPLES)]
struct RingArgs {
    #[command(flatten)]
    legs: Legs,
    /// Only the rows whose name has this in it
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Also beside iceoryx2, which it starts and stops itself; tools/bench-peers ring builds it
    #[arg(long)]
    peers: bool,
}

#[derive(Debug, Args)]
struct BrokerArgs {
    #[command(flatten)]
    legs: Legs,
    /// Only the rows whose name has this in it
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Also beside nats-server and RabbitMQ, which it starts and stops itself; tools/bench-peers broker brings them
    #[arg(long)]
    peers: bool,
}

#[derive(Debug, Args)]
#[command(after_help = IDLE_EXAMPLES)]
struct IdleArgs {
    /// How long each leg runs
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0, value_parser = crate::options::leg_seconds)]
    seconds: f64,
    /// How many agents there are
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
    agents: u16,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = PATH_EXAMPLES)]
struct PathArgs {
    #[command(flatten)]
    legs: Legs,
    /// Only the rows whose name has this in it
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Where the files are written: its file system is measured
    #[arg(long, value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Images of each file
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    images: u64,
}

impl Bench {
    pub fn run(self) -> anyhow::Result<Exit> {
        let (is_json, report) = match self.what {
            What::Ring(RingArgs { legs, only, peers }) => {
                let options = ring::Options { leg: legs.leg(), pairs: legs.pairs(), only, with_peers: peers };
                (legs.json, ring::run(&options)?)
            }
            What::Convert(legs) => {
                let report = conversion::run(&conversion::Options { leg: legs.leg(), pairs: legs.pairs() })?;
                (legs.json, report)
            }
            What::Broker(BrokerArgs { legs, only, peers }) => {
                let (leg, pairs, program) = (legs.leg(), legs.pairs(), this_program()?);
                let options = broker::Options { leg, pairs, program, only, with_peers: peers };
                (legs.json, broker::run(&options)?)
            }
            What::Idle(IdleArgs { seconds, agents, json }) => {
                let leg = Duration::from_secs_f64(seconds);
                (json, idle::run(&idle::Options { leg, agents: agents.into(), program: this_program()? })?)
            }
            What::Path(PathArgs { legs, only, folder, images }) => {
                let (leg, pairs, program) = (legs.leg(), legs.pairs(), this_program()?);
                (legs.json, path::run(&path::Options { leg, pairs, only, folder, images, program })?)
            }
        };
        if is_json {
            report::print_json(&report)?;
        } else {
            print(&report)?;
        }
        Ok(Exit::Ok)
    }
}

fn this_program() -> anyhow::Result<PathBuf> {
    env::current_exe().context("cannot find this program's own file")
}

impl Legs {
    fn leg(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// The pairs of each figure, with a bar on stderr where that is a terminal.
    fn pairs(&self) -> Pairs {
        let bar = ProgressBar::no_length();
        let template = "{msg} {bar:24} pair {pos} of {len} ETA {eta}";
        bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
        Pairs::telling(self.pairs.into(), move |what, done, of| {
            if done == 0 {
                bar.reset();
                bar.set_length(of as u64);
                bar.set_message(what.to_owned());
            }
            bar.set_position(done as u64);
            if done == of {
                bar.finish_and_clear();
            }
        })
    }
}

fn print(report: &Report) -> io::Result<()> {
    let machine = &report.machine;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{}, {} cores, Linux {}, load {:.2} a core",
        machine.cpu, machine.cores, machine.kernel, machine.load_per_core
    )?;
    writeln!(out, "{}\n", report.payload)?;
    drop(out);
    let mut table = Table::new(["", "ECS", "baseline", "ratio (lowest to highest)", "unit", "baseline is"]);
    for row in &report.rows {
        table.row(cells(row));
    }
    table.print()
}

fn cells(row: &Row) -> [Cell; 6] {
    let figure = |value: f64| if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") };
    [
        Cell::from(row.what.as_str()),
        figure(row.value).into(),
        figure(row.baseline_value).into(),
        format!("{:.2} ({:.2} to {:.2})", row.ratio, row.ratio_low, row.ratio_high).into(),
        row.unit.into(),
        row.baseline.as_str().into(),
    ]
}
