//! The core against messages that nobody should send: golden ones, changed by chance, from agents, clients and strangers,
//! as requests, notices and answers to what was asked.
//!
//! It never panics, its sums stay right, its memory bounded, and it goes on to serve.
//!
//! The same seeds each time, however fast the machine is. `ECS_FUZZ_SECONDS=N` goes on for so long instead;
//! `ECS_FUZZ_SEED=N` is that seed alone, or where it begins.

#![allow(clippy::unwrap_used)] // a test ends at the first thing that is not as it should be

#[path = "../../../schemas/tests/vectors/mutation.rs"]
mod mutation;

use ecs_broker::core::{Changes, Core, CoreOptions, Input, Outgoing, Sender, Session, Stored};
use ecs_schemas::{
    envelope::{Header, KIND_ERROR, encode},
    registry::{AgentState, GetStatus, Register, ServiceOffer},
    subsystem::{Description, Handled},
    trace::Trace,
};
use mutation::{Random, for_seeds, mutated};
use serde_json::Value as Json;
use std::{fs, time::Duration};

const START_NS: u64 = 1_700_000_000_000_000_000;
/// Runs, one for each seed: some seconds on two cores.
const RUNS: u64 = 1000;
/// Messages of one run.
const MESSAGES: usize = 400;
/// Far above what some hundred messages of some hundred bytes leave behind.
const PEAK_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// A kind, or what else the vector is of, and bytes.
type Sample = (String, Vec<u8>);

fn samples() -> Vec<Sample> {
    let file: Json = serde_json::from_str(include_str!("../../../schemas/vectors/messages.json")).unwrap();
    let cases = ["exact", "accepted", "refused"].into_iter().flat_map(|list| file[list].as_array().unwrap().clone());
    cases.map(|case| (case["type"].as_str().unwrap().to_owned(), bytes_of(case["hex"].as_str().unwrap()))).collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn session(name: &str) -> Session {
    Session::new(name.as_bytes())
}

/// An agent that hosts what the vectors speak of.
fn register() -> Register {
    let described = include_str!("../../../schemas/vectors/messages.json");
    let file: Json = serde_json::from_str(described).unwrap();
    let of = |case: &&Json| case["type"] == "subsystem.describe";
    let vector = file["exact"].as_array().unwrap().iter().find(of).unwrap();
    let mut pump: Description = serde_json::from_value(vector["value"]["description"].clone()).unwrap();
    pump.events.push(Handled { name: "arm".to_owned(), at_once: 1, ..Handled::default() });
    Register {
        name: "x01/pumps".to_owned(),
        kind: "pumps".to_owned(),
        host: "host".to_owned(),
        pid: 7,
        version: "1".to_owned(),
        instance: 1,
        state: AgentState::Ready,
        services: vec![ServiceOffer::new("write")],
        jobs: vec![],
        subsystems: vec![pump],
    }
}

struct Fuzz {
    core: Core,
    now_ns: u64,
    random: Random,
    /// Questions that agents were asked.
    questions: Vec<(Session, Header)>,
    asked: usize,
    answers: usize,
}

impl Fuzz {
    fn new(seed: u64) -> Self {
        let options = CoreOptions {
            beamline: "x01".to_owned(),
            heartbeat: Duration::from_secs(1),
            timeout: Duration::from_secs(3),
            expected: vec![],
            pid: 1,
            seed,
        };
        let core = Core::new(options, Stored::default(), START_NS);
        Self { core, now_ns: START_NS, random: Random(seed), questions: vec![], asked: 0, answers: 0 }
    }

    /// One batch of one input; the disk takes it or not.
    fn handle(&mut self, input: &Input) -> Vec<Outgoing> {
        let random = &mut self.random;
        let save = |changes: &Changes| match changes.is_empty() || random.index(5) > 0 {
            true => Ok(()),
            false => Err("full"),
        };
        let out = self.core.batch(self.now_ns, std::slice::from_ref(input), save).messages;
        let (kept, counted) = self.core.values_bytes();
        assert_eq!(kept, counted);
        for message in &out {
            let is_answer = message.header.kind == KIND_ERROR || message.header.kind.ends_with(".reply");
            match (message.header.id, is_answer) {
                (0, _) => {}
                (_, true) => self.answers += 1,
                (_, false) => {
                    self.asked += 1;
                    self.questions.push((message.session.clone(), message.header.clone()));
                }
            }
        }
        out
    }

    fn send(&mut self, from: &Session, header: Vec<u8>, body: Vec<u8>) -> Vec<Outgoing> {
        self.handle(&Input::message(from.clone(), Sender::Anyone, [header, body]))
    }

    fn some_message(&mut self, samples: &[Sample]) {
        let random = &mut self.random;
        let (kind, bytes) = &samples[random.index(samples.len())];
        let other = &samples[random.index(samples.len())].1;
        let body = mutated(bytes, other, random);
        let mut from = session(["pumps", "client", "stranger"][random.index(3)]);
        let mut header = some_header(kind, random);
        if random.index(4) == 0 && !self.questions.is_empty() {
            let question;
            (from, question) = self.questions.swap_remove(random.index(self.questions.len()));
            header = if random.index(3) == 0 { question.error() } else { question.reply() };
        }
        let mut header = encode(&header);
        if random.index(10) == 0 {
            header = mutated(&header, other, random);
        }
        self.send(&from, header, body);
    }

    fn time_goes_on(&mut self) {
        self.now_ns += [0, 1, 1_000_000, 100_000_000, 4_000_000_000][self.random.index(5)];
        let input = match self.random.index(4) {
            0 => Input::Tick,
            1 => Input::Unreachable { session: session(["pumps", "client"][self.random.index(2)]) },
            2 => Input::Subscribed { prefix: vec![self.random.next() as u8; self.random.index(4)] },
            _ => Input::Wake,
        };
        self.handle(&input);
    }

    fn register(&mut self) {
        let header = encode(&Header::request("agent.register", 1, 1000));
        self.send(&session("pumps"), header, encode(&register()));
    }

    /// After everything: an agent registers and somebody asks how things are.
    fn check_it_serves(&mut self) {
        self.now_ns += 10_000_000_000;
        self.handle(&Input::Tick);
        self.register();
        let header = encode(&Header::request("status.get", 77, 1000));
        let out = self.send(&session("last"), header, encode(&GetStatus {}));
        let answer = out.iter().find(|message| message.session == session("last")).unwrap();
        assert_eq!((answer.header.kind.as_str(), answer.header.id), ("status.get.reply", 77));
    }
}

fn some_header(kind: &str, random: &mut Random) -> Header {
    let id = [0, 1, random.next() % 50, u64::MAX][random.index(4)];
    let deadline_ms = [None, Some(0), Some(1000), Some(u32::MAX)][random.index(4)];
    let trace = Trace { trace: random.next() % 4, span: random.next() % 4, parent: 1 };
    let trace = (random.index(3) == 0).then_some(trace);
    Header { id, deadline_ms, trace, ..Header::notice(kind) }
}

/// The most memory that this process has had, in bytes.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn the_core_goes_on_whatever_it_is_sent() {
    let samples = samples();
    let (mut runs, mut answers, mut asked) = (0, 0, 0);
    for_seeds(RUNS, |random| {
        let mut fuzz = Fuzz::new(random.0);
        for at in 0..MESSAGES {
            if at % 100 == 0 {
                fuzz.register();
            }
            match fuzz.random.index(10) {
                0 => fuzz.time_goes_on(),
                _ => fuzz.some_message(&samples),
            }
        }
        fuzz.check_it_serves();
        (answers, asked) = (answers + fuzz.answers, asked + fuzz.asked);
        runs += 1;
    });
    assert!(peak_bytes() < PEAK_BYTES_MAX, "{} bytes for messages of hundreds", peak_bytes());
    assert!(answers > 100 && asked > 10, "{answers} answers and {asked} questions: nothing was reached");
    println!("{runs} runs, {answers} answers, {asked} questions");
}
