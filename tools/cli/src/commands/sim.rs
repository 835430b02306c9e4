//! `ecs-cli sim`: a detector that is not there, packets and all.

use crate::{beamline_file, exit::Exit, human, report};
use anyhow::Context;
use clap::{Args, Subcommand};
use ecs_schemas::detector::DetectorConfig;
use ecs_sdk::stop;
use ecs_sim::{
    Report,
    eiger::{self, EigerSim},
    replay::{self, Replay},
};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    fs,
    io::{self, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

const EIGER_EXAMPLES: &str = "\
Examples:
  ecs-cli sim eiger --config detector.json --images 1000 --rate 100
  ecs-cli sim eiger --config detector.json --images 1000 --rate 100 --seed 7 --drop 0.01
  ecs-cli sim eiger --config beamline.toml --host 10.0.0.2 --images 100000 --json

The same seed makes the same images and loses the same packets, at any rate.";

const REPLAY_EXAMPLES: &str = "\
Examples:
  ecs-cli sim replay --config detector.json --dump recorded/
  ecs-cli sim replay --config detector.json --dump recorded/ --rate 100 --repeat 200
  ecs-cli sim replay --config detector.json --dump recorded/ --shuffle 7 --duplicate 0.1

DIR holds a file <port>.dat per port, a sequence of {u64 length, bytes}, little-endian. Each repetition raises
the frame numbers, so that image ids go on rising.";

#[derive(Debug, Args)]
pub struct Sim {
    #[command(subcommand)]
    detector: Detector,
}

#[derive(Debug, Subcommand)]
enum Detector {
    /// EIGER packets with an image whose every pixel can be recomputed
    Eiger(Eiger),
    /// Packets that a detector once sent
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
struct Target {
    /// The detector's JSON file, or a beamline's TOML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where the packets go
    #[arg(long, value_name = "ADDRESS", default_value_t = Ipv4Addr::LOCALHOST)]
    host: Ipv4Addr,
    /// Images per second; 0: as fast as it goes
    #[arg(long, value_name = "HZ", default_value_t = 0.0)]
    rate: f64,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = EIGER_EXAMPLES)]
struct Eiger {
    #[command(flatten)]
    target: Target,
    /// How many images
    #[arg(long, value_name = "N")]
    images: u64,
    /// Id of the first image
    #[arg(long, value_name = "ID", default_value_t = 1)]
    start: u64,
    /// Seed of the noise in the images and of the faults
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Share of packets that are not sent, 0 to 1
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    drop: f64,
    /// Share of packets that are sent late
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    reorder: f64,
    /// Share of packets that are sent twice
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    duplicate: f64,
}

#[derive(Debug, Args)]
#[command(after_help = REPLAY_EXAMPLES)]
struct ReplayArgs {
    #[command(flatten)]
    target: Target,
    /// Folder with the recorded packets
    #[arg(long, value_name = "DIR")]
    dump: PathBuf,
    /// How many times the record is played
    #[arg(long, value_name = "K", default_value_t = 1)]
    repeat: u64,
    /// Shuffle the packets of each frame, over all ports, by this seed
    #[arg(long, value_name = "SEED")]
    shuffle: Option<u64>,
    /// Share of packets that are sent twice
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    duplicate: f64,
    /// Which packets are sent twice
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Packets of one port in a row before it is the next port's turn
    #[arg(long, value_name = "PACKETS", default_value_t = 8)]
    interleave: usize,
}

impl Sim {
    pub fn run(self) -> anyhow::Result<Exit> {
        match self.detector {
            Detector::Eiger(eiger) => eiger.run(),
            Detector::Replay(replay) => replay.run(),
        }
    }
}

impl Eiger {
    fn run(self) -> anyhow::Result<Exit> {
        let sim = EigerSim {
            config: detector(&self.target.config)?,
            host: self.target.host,
            images: self.images,
            first_id: self.start,
            rate_hz: self.target.rate,
            seed: self.seed,
            drop: self.drop,
            reorder: self.reorder,
            duplicate: self.duplicate,
        };
        let (stop, bar) = (stop::install(), bar(Some(self.images)));
        let report = eiger::run(&sim, &|| stop.is_set(), &mut |report| show(&bar, report))?;
        bar.finish_and_clear();
        self.target.print(&report)
    }
}

impl ReplayArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let replay = Replay {
            config: detector(&self.target.config)?,
            host: self.target.host,
            dump: self.dump,
            rate_hz: self.target.rate,
            repeat: self.repeat,
            shuffle: self.shuffle,
            duplicate: self.duplicate,
            seed: self.seed,
            interleave_packets: self.interleave,
        };
        let (stop, bar) = (stop::install(), bar(None));
        let report = replay::run(&replay, &|| stop.is_set(), &mut |report| show(&bar, report))?;
        bar.finish_and_clear();
        self.target.print(&report)
    }
}

impl Target {
    fn print(&self, report: &Report) -> anyhow::Result<Exit> {
        if self.json {
            report::print_json(report)?;
            return Ok(Exit::Ok);
        }
        let count = human::count;
        let mut out = io::stdout().lock();
        let (images, rates) = (count(report.images), rates(report));
        writeln!(out, "{images} images sent in {:.2} s ({rates})", report.seconds)?;
        writeln!(
            out,
            "packets: {} sent = {} made - {} dropped + {} doubled; {} late",
            count(report.packets_sent),
            count(report.packets_made),
            count(report.packets_dropped),
            count(report.packets_duplicated),
            count(report.packets_reordered),
        )?;
        if report.refusals > 0 {
            writeln!(out, "nobody listened: {} times", count(report.refusals))?;
        }
        Ok(Exit::Ok)
    }
}

/// The detector of a JSON file, or of a beamline's TOML file.
fn detector(path: &Path) -> anyhow::Result<DetectorConfig> {
    if path.extension().is_some_and(|extension| extension == "toml") {
        return Ok(beamline_file::load(path)?.detector);
    }
    let file = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?;
    DetectorConfig::from_json(&text).with_context(|| file.to_string())
}

fn bar(images: Option<u64>) -> ProgressBar {
    let (bar, template) = match images {
        Some(images) => (ProgressBar::new(images), "{bar:32} {human_pos}/{human_len} images {msg} ETA {eta}"),
        None => (ProgressBar::no_length(), "{spinner} {human_pos} images {msg}"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("a valid template"))
}

fn show(bar: &ProgressBar, report: &Report) {
    bar.set_position(report.images);
    bar.set_message(rates(report));
}

fn rates(report: &Report) -> String {
    let seconds = report.seconds.max(f64::MIN_POSITIVE);
    format!("{:.0} images/s, {}/s", report.images as f64 / seconds, human::bytes(report.bytes_sent as f64 / seconds))
}
