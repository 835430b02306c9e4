//! `ecs-cli sim`: a detector that is not there, packets and all.

use crate::{beamline_file, exit::Exit, human, report};
use anyhow::Context;
use clap::{Args, Subcommand};
use ecs_schemas::detector::{self as description, DetectorConfig};
use ecs_sdk::stop;
use ecs_sim::{
    Report,
    detector::{self, DetectorSim, Ids},
    faults::{BURST_PACKETS_DEFAULT, Faults},
    record::{self, Recording},
    replay::{self, Replay},
};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    fs,
    io::{self, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

const DETECTOR_EXAMPLES: &str = "\
Examples:
  ecs-cli sim detector --config detector.json --images 1000 --rate 100
  ecs-cli sim detector --config detector.json --images 1000 --rate 100 --seed 7 --drop 0.01
  ecs-cli sim detector --config my-detector.toml --images 100000 --gigabytes 2.5
  ecs-cli sim detector --config beamline.toml --host 10.0.0.2 --images 100000 --json
  ecs-cli sim detector --config beamline.toml --images 600 --rate 100 --restart-every 200 --pause 1

The same seed makes the same images and loses the same packets, at any rate.";

const REPLAY_EXAMPLES: &str = "\
Examples:
  ecs-cli sim replay --config detector.json --dump recorded/
  ecs-cli sim replay --config detector.json --dump recorded/ --rate 100 --repeat 200
  ecs-cli sim replay --config detector.json --dump recorded/ --shuffle 7 --duplicate 0.1

DIR holds a file <port>.dat per port, a sequence of {u64 length, bytes}, little-endian. Each repetition raises
the frame numbers, so that image ids go on rising.";

const DUMP_EXAMPLES: &str = "\
Examples:
  ecs-cli sim dump --config detector.json recorded/
  ecs-cli sim dump --config beamline.toml recorded/ --packets 100000
  ecs-cli sim dump --config detector.json recorded/ --idle 5 && ecs-cli sim replay --config detector.json --dump recorded/

Takes the detector's ports, so stop the beamline first. Ends at Ctrl-C, or as asked.";

#[derive(Debug, Args)]
pub struct Sim {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Packets of any detector, with an image whose every pixel can be recomputed
    #[command(visible_alias = "eiger")]
    Detector(Made),
    /// Packets that a detector once sent
    Replay(ReplayArgs),
    /// Record the packets that come on a detector's ports
    Dump(DumpArgs),
}

#[derive(Debug, Args)]
struct Target {
    /// The detector's file (std-daq JSON, slsDetector .config, description in TOML), or a beamline's TOML file
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
#[command(after_help = DETECTOR_EXAMPLES)]
struct Made {
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
    /// Share of packets at which a burst of losses begins
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    burst: f64,
    /// Packets that are lost in a burst
    #[arg(long, value_name = "N", default_value_t = BURST_PACKETS_DEFAULT)]
    burst_packets: usize,
    /// UDP port that sends nothing; may be given several times
    #[arg(long, value_name = "PORT")]
    dead_port: Vec<u16>,
    /// Images after which ids jump; 0: never
    #[arg(long, value_name = "N", default_value_t = 0)]
    jump_every: u64,
    /// By how much ids jump
    #[arg(long, value_name = "IDS", default_value_t = 1000)]
    jump_by: u64,
    /// Images after which ids begin again; 0: never
    #[arg(long, value_name = "N", default_value_t = 0)]
    restart_every: u64,
    /// Seconds of silence before ids begin again
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pause: Duration,
    /// JUNGFRAU: dark images of this gain instead of signals
    #[arg(long, value_name = "GAIN", value_parser = clap::value_parser!(u8).range(0..=2))]
    dark: Option<u8>,
    /// Instead of --rate: 10^9 bytes of packets per second
    #[arg(long, value_name = "GB/s", conflicts_with = "rate")]
    gigabytes: Option<f64>,
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

#[derive(Debug, Args)]
#[command(after_help = DUMP_EXAMPLES)]
struct DumpArgs {
    /// The detector's file (std-daq JSON, slsDetector .config, description in TOML), or a beamline's TOML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Folder for the files, one for each port: <port>.dat
    folder: PathBuf,
    /// IPv4 address that the ports are bound to
    #[arg(long, value_name = "ADDRESS", default_value_t = Ipv4Addr::UNSPECIFIED)]
    address: Ipv4Addr,
    /// End after so many packets
    #[arg(long, value_name = "N")]
    packets: Option<u64>,
    /// End once nothing has come for so long, after the first packet
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    idle: Option<Duration>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl Sim {
    pub fn run(self) -> anyhow::Result<Exit> {
        match self.what {
            What::Detector(made) => made.run(),
            What::Replay(replay) => replay.run(),
            What::Dump(dump) => dump.run(),
        }
    }
}

impl Made {
    fn run(self) -> anyhow::Result<Exit> {
        let detector = detector(&self.target.config)?;
        anyhow::ensure!(
            self.dark.is_none() || detector.gain_maps.is_some(),
            "--dark is for a detector that switches gains (jungfrau), not for {}",
            detector.detector_type
        );
        let image_bytes = detector.placement.wire_bytes() as f64;
        let sim = DetectorSim {
            detector,
            host: self.target.host,
            images: self.images,
            first_id: self.start,
            ids: Ids {
                jump_every: self.jump_every,
                jump_by: self.jump_by,
                restart_every: self.restart_every,
                restart_pause: self.pause,
            },
            rate_hz: self.gigabytes.map_or(self.target.rate, |gigabytes| gigabytes * 1e9 / image_bytes),
            faults: Faults {
                seed: self.seed,
                drop: self.drop,
                reorder: self.reorder,
                duplicate: self.duplicate,
                burst: self.burst,
                burst_packets: self.burst_packets,
                dead_ports: self.dead_port,
            },
            dark: self.dark.map(usize::from),
        };
        let (stop, bar) = (stop::install(), bar(Some(self.images)));
        let report = detector::run(&sim, &|| stop.is_set(), &mut |report| show(&bar, report))?;
        bar.finish_and_clear();
        self.target.print(&report)
    }
}

impl ReplayArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let replay = Replay {
            detector: detector(&self.target.config)?,
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

impl DumpArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let recording = Recording {
            detector: detector(&self.config)?,
            address: self.address,
            folder: self.folder,
            packets_max: self.packets,
            idle: self.idle,
        };
        let (stop, bar) = (stop::install(), ProgressBar::new_spinner());
        let report = record::run(&recording, &|| stop.is_set(), &mut |report| {
            bar.set_message(format!("{} packets, {}", human::count(report.packets), human::bytes(report.bytes as f64)));
        })?;
        bar.finish_and_clear();
        if self.json {
            report::print_json(&report)?;
            return Ok(Exit::Ok);
        }
        let count = human::count;
        let mut out = io::stdout().lock();
        let bytes = human::bytes(report.bytes as f64);
        writeln!(out, "{} packets, {bytes}, in {:.2} s", count(report.packets), report.seconds)?;
        if report.other_packets + report.dropped_by_kernel > 0 {
            let (others, dropped) = (count(report.other_packets), count(report.dropped_by_kernel));
            writeln!(
                out,
                "not recorded: {others} of lengths that the detector does not have, {dropped} dropped by the kernel"
            )?;
        }
        Ok(Exit::Ok)
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

/// The detector of a file of its own, or of a beamline's TOML file.
fn detector(path: &Path) -> anyhow::Result<description::Detector> {
    let file = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?;
    let is_toml = path.extension().is_some_and(|extension| extension == "toml");
    if is_toml && text.lines().any(|line| line.trim_start().starts_with("[beamline]")) {
        return Ok(beamline_file::load(path)?.detector);
    }
    let detector = DetectorConfig::from_file(path, &text).and_then(|config| config.detector());
    detector.with_context(|| file.to_string())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "a number of seconds, 0 or more".to_owned())
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
