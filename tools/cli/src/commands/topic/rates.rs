//! `ecs-cli topic hz` and `topic bw`: how often and how much, each second.

use super::listening::{Endpoint, Listening};
use crate::{
    completing,
    exit::Exit,
    human,
    meter::{Figures, Meter},
    table::{Cell, Mood, Table},
};
use clap::Args;
use clap_complete::ArgValueCompleter;
use ecs_sdk::{Stop, stop};
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    time::Duration,
};

/// Between two looks at the figures.
const TICK: Duration = Duration::from_secs(1);
/// A wait for messages is cut into such, so that Ctrl-C is seen.
const TURN: Duration = Duration::from_millis(100);
/// Topics that are measured at one time. Messages of others are left out, which stderr says.
const METERS_MAX: usize = 4096;

const HZ_EXAMPLES: &str = "\
Examples:
  ecs-cli topic hz x01/pump/kv/pressure
  ecs-cli topic hz x01/stage/kv/ x01/pump/kv/ --window 60
  ecs-cli topic hz x01/assembler/telemetry --seconds 10 --json

A line for each topic, anew each second, until Ctrl-C. Intervals are between arrivals here, in the window; `missed` counts
sequence numbers that never came, since the beginning. Silence that is longer than all intervals lowers the rate.";

const BW_EXAMPLES: &str = "\
Examples:
  ecs-cli topic bw x01/
  ecs-cli topic bw x01/camera/kv/snapshot --window 60
  ecs-cli topic bw x01/ --seconds 10 --json

A line for each topic, anew each second, until Ctrl-C. Bytes are those of topic, header and payload together, as they
travel without encryption.";

#[derive(Debug, Args)]
#[command(after_help = HZ_EXAMPLES)]
pub struct Hz {
    #[command(flatten)]
    rates: Rates,
}

#[derive(Debug, Args)]
#[command(after_help = BW_EXAMPLES)]
pub struct Bw {
    #[command(flatten)]
    rates: Rates,
}

#[derive(Debug, Args)]
struct Rates {
    /// Topics, or what topics begin with; all topics where none is named
    #[arg(value_name = "TOPIC|PREFIX", add = ArgValueCompleter::new(completing::topics))]
    prefixes: Vec<String>,
    /// The figures are those of so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = crate::options::seconds)]
    window: f64,
    /// End after so long
    #[arg(long, value_name = "SECONDS", value_parser = crate::options::seconds)]
    seconds: Option<f64>,
    /// End after so many messages of all topics together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// One JSON object a line for each topic each second
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    endpoint: Endpoint,
}

type ToTable = fn(&[(&str, Figures)]) -> Table;

impl Hz {
    pub fn run(self) -> anyhow::Result<Exit> {
        self.rates.run(hz_table)
    }
}

impl Bw {
    pub fn run(self) -> anyhow::Result<Exit> {
        self.rates.run(bw_table)
    }
}

/// Meters of all topics that were heard.
struct Meters {
    window: Duration,
    by_topic: BTreeMap<String, Meter>,
    messages: u64,
    /// The limit was reached and told.
    is_full: bool,
}

impl Rates {
    fn run(self, to_table: ToTable) -> anyhow::Result<Exit> {
        let stop = stop::install();
        let prefixes = if self.prefixes.is_empty() { vec![String::new()] } else { self.prefixes.clone() };
        let mut listening = self.endpoint.listen(prefixes, false)?;
        let window = Duration::from_secs_f64(self.window);
        let mut meters = Meters { window, by_topic: BTreeMap::new(), messages: 0, is_full: false };
        let mut screen = Screen::new(self.json, to_table);
        let end = self.seconds.map_or(Duration::MAX, Duration::from_secs_f64);
        let mut tick = TICK;
        while !self.is_over(&stop, &meters, listening.elapsed(), end) {
            meters.listen(&mut listening, tick.min(end));
            if listening.elapsed() >= tick {
                screen.show(&mut meters, listening.elapsed())?;
                tick = listening.elapsed() + TICK;
            }
        }
        screen.show(&mut meters, listening.elapsed())?;
        if meters.messages == 0 {
            listening.tell_why_silent();
            return Ok(Exit::Error);
        }
        Ok(Exit::Ok)
    }

    fn is_over(&self, stop: &Stop, meters: &Meters, elapsed: Duration, end: Duration) -> bool {
        stop.is_set() || elapsed >= end || self.count.is_some_and(|count| meters.messages >= count)
    }
}

impl Meters {
    /// Takes in one message, or waits for one no longer than `until` and one turn.
    fn listen(&mut self, listening: &mut Listening, until: Duration) {
        let rest = until.saturating_sub(listening.elapsed());
        let Some(message) = listening.next(rest.min(TURN)) else { return };
        if self.by_topic.len() >= METERS_MAX && !self.by_topic.contains_key(&message.topic) {
            if !std::mem::replace(&mut self.is_full, true) {
                eprintln!("warning: {METERS_MAX} topics are measured, others are left out; name a longer prefix");
            }
            return;
        }
        let is_last_value = listening.is_last_value(&message);
        let at = listening.elapsed();
        let meter = self.by_topic.entry(message.topic).or_insert_with(|| Meter::new(self.window));
        if is_last_value {
            meter.last_value(message.header.seq);
        } else {
            meter.message(at, message.header.seq, message.bytes);
            self.messages += 1;
        }
    }

    /// Of topics from which something new came.
    fn figures(&mut self, now: Duration) -> Vec<(&str, Figures)> {
        let all = self.by_topic.iter_mut().map(|(topic, meter)| (topic.as_str(), meter.figures(now)));
        all.filter(|(_, figures)| figures.messages > 0).collect()
    }
}

/// A line that is longer than the screen is cut, or the next figures would not find back to the first line.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// Where the figures appear: at a terminal each second in place of those before.
struct Screen {
    json: bool,
    to_table: ToTable,
    is_terminal: bool,
    lines_shown: usize,
}

impl Screen {
    fn new(json: bool, to_table: ToTable) -> Self {
        Self { json, to_table, is_terminal: io::stdout().is_terminal(), lines_shown: 0 }
    }

    fn show(&mut self, meters: &mut Meters, now: Duration) -> anyhow::Result<()> {
        let figures = meters.figures(now);
        if figures.is_empty() {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        if self.json {
            let time_ns = human::now_ns();
            figures.iter().try_for_each(|(topic, its)| writeln!(out, "{}", as_json(topic, its, time_ns)))?;
        } else {
            if self.is_terminal && self.lines_shown > 0 {
                write!(out, "\x1b[{}A\x1b[J", self.lines_shown)?; // up, and clear what is below
            }
            let (no_wrap, wrap) = if self.is_terminal { (NO_WRAP, WRAP) } else { ("", "") };
            write!(out, "{no_wrap}")?;
            drop(out);
            (self.to_table)(&figures).print()?;
            self.lines_shown = figures.len() + 1;
            out = io::stdout().lock();
            write!(out, "{wrap}")?;
        }
        Ok(out.flush()?)
    }
}

fn hz_table(figures: &[(&str, Figures)]) -> Table {
    let mut table = Table::new(["topic", "rate", "mean", "min", "max", "std", "messages", "missed", "seq", "silent"]);
    for (topic, its) in figures {
        let interval = |of: fn(&crate::meter::Intervals) -> f64| dash(its.intervals.as_ref().map(of), interval);
        table.row([
            (*topic).into(),
            dash(its.rate_hz, rate),
            interval(|its| its.mean_s),
            interval(|its| its.min_s),
            interval(|its| its.max_s),
            interval(|its| its.std_s),
            human::count(its.messages).into(),
            missed(its),
            dash(its.newest_seq, |seq| seq.to_string()),
            dash(its.silent_s, interval_of_silence),
        ]);
    }
    table
}

fn bw_table(figures: &[(&str, Figures)]) -> Table {
    let mut table = Table::new(["topic", "bytes/s", "messages/s", "mean size", "max size", "messages", "missed"]);
    for (topic, its) in figures {
        table.row([
            (*topic).into(),
            dash(its.bytes_per_s, |bytes| format!("{}/s", human::bytes(bytes))),
            dash(its.rate_hz, |hz| format!("{hz:.2}")),
            dash(its.bytes_mean, human::bytes),
            dash(its.bytes_max, |bytes| human::bytes(bytes as f64)),
            human::count(its.messages).into(),
            missed(its),
        ]);
    }
    table
}

fn dash<T>(figure: Option<T>, shown: impl FnOnce(T) -> String) -> Cell {
    figure.map_or_else(|| "-".to_owned(), shown).into()
}

fn missed(its: &Figures) -> Cell {
    match its.missed {
        0 => "0".into(),
        missed => Cell::new(format!("{} in {} gaps", human::count(missed), human::count(its.gaps)), Mood::Warning),
    }
}

fn rate(hz: f64) -> String {
    if hz < 10.0 { format!("{hz:.3} Hz") } else { format!("{hz:.1} Hz") }
}

fn interval(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.3} ms", seconds * 1e3) } else { format!("{seconds:.3} s") }
}

fn interval_of_silence(seconds: f64) -> String {
    human::duration(Duration::from_secs_f64(seconds))
}

fn as_json(topic: &str, its: &Figures, time_ns: u64) -> serde_json::Value {
    let intervals = its.intervals.as_ref();
    json!({
        "topic": topic, "time_ns": time_ns,
        "messages": its.messages, "gaps": its.gaps, "missed": its.missed, "seq": its.newest_seq,
        "rate_hz": its.rate_hz,
        "interval_mean_s": intervals.map(|its| its.mean_s), "interval_min_s": intervals.map(|its| its.min_s),
        "interval_max_s": intervals.map(|its| its.max_s), "interval_std_s": intervals.map(|its| its.std_s),
        "silent_s": its.silent_s,
        "bytes_per_s": its.bytes_per_s, "bytes_mean": its.bytes_mean, "bytes_max": its.bytes_max,
    })
}
