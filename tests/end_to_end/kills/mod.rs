//! The control plane while its processes are killed and stopped and its disk is full, at random.
//!
//! ```text
//!  plan (from a seed) ──kill -9, SIGSTOP, full disk──▶ broker, agents in Rust and Python, a reading process
//!                                                          ▲ load
//!  ledger ◀──what was acknowledged, told, read── clients ──┘
//! ```
//!
//! | file | what it has |
//! |---|---|
//! | `schedule` | what is done to whom and when |
//! | `processes` | the processes, their restarts, the small disk |
//! | `agent_process` | an agent in Rust in a process of its own; `tests/kills_agent.py` is the same in Python |
//! | `clients`, `claims` | the load, which writes down what it is told |
//! | `ledger` | the rules L1 to L7, and what contradicts them |
//! | `afterwards` | what must be when the kills have ended |
//! | `rivals` | by plan: two processes of one name |
//! | `ends` | by plan and not at random: who is asked while stopped, killed, gone or unknown |
//!
//! `ECS_KILLS_SEED=N` gives the same plan and the same clients again, `ECS_KILLS_SECONDS=300` goes on for longer. The plan
//! is replayed to the millisecond, the threads of eight processes are not: a finding may take some runs of its seed.

mod afterwards;
mod agent_process;
mod claims;
mod clients;
mod ends;
mod ledger;
mod processes;
pub mod random;
mod rivals;
mod schedule;

use crate::support::{Beamline, Detector, PATIENCE, wait_for};
use clients::Shared;
use processes::Processes;
use schedule::Target;
use std::{
    collections::HashMap,
    env, fs,
    hash::{BuildHasher, RandomState},
    net::TcpListener,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Scope},
    time::{Duration, Instant},
};

/// How long the kills go on where nobody says so.
const SECONDS: u64 = 30;
/// The broker forgets the oldest jobs beyond 10,000; so many are submitted at most, and as many follow them.
const JOBS_MAX: u64 = 4000;
const SUBMITTERS: u64 = 2;
/// Shortest pause of a submitter: enough for a queue, and so little that it empties on two cores.
const SUBMIT_PAUSE: Duration = Duration::from_millis(40);
/// Seen were 33 to 39 MiB after 30 s with whatever seed; an idle broker has 32. Much more is something that grows.
const RSS_BYTES_MAX: u64 = 64 << 20;
const AGENTS: [&str; 5] = ["readout", "assembler", "writer", "py-1", "py-2"];

#[test]
fn control_plane_under_random_kills_keeps_what_it_acknowledged_and_is_well_afterwards() {
    let seed = number("ECS_KILLS_SEED").unwrap_or_else(|| RandomState::new().hash_one(Instant::now()) % 1_000_000);
    let duration = Duration::from_secs(number("ECS_KILLS_SECONDS").unwrap_or(SECONDS));
    println!("ECS_KILLS_SEED={seed} ECS_KILLS_SECONDS={}", duration.as_secs());
    let beamline = configured(seed);
    let shared = shared(&beamline, seed, duration);
    let mut processes = Processes::new(&beamline, &shared.agents, &shared.request_endpoint);
    processes.start_broker();
    wait_for("the broker", PATIENCE, || (beamline.call(&["status"]).code == 0).then_some(()));
    processes.start_all();
    wait_for("the agents", PATIENCE, || (beamline.call(&["status", "--wait", "5"]).code == 0).then_some(()));
    let (name, uuid) = (claims::Holder::default(), claims::Holder::default());
    thread::scope(|scope| {
        let _stop = StopAtEnd(&shared.stop);
        put_load(scope, &shared, &name, &uuid);
        torment(&shared, &mut processes, seed, duration);
        afterwards::wait_well(&beamline, &shared, &mut processes);
    });
    afterwards::check(&beamline, &shared, &mut processes);
    let (findings, counts) = (shared.ledger.findings(), shared.ledger.counts());
    println!("broker: at most {} MiB; {counts:#?}", processes.rss_bytes_max >> 20);
    if !findings.is_empty() {
        panic!("ECS_KILLS_SEED={seed}:\n{}\n{}", findings.join("\n"), processes.logs());
    }
    assert!(processes.rss_bytes_max < RSS_BYTES_MAX, "the broker needed {} bytes", processes.rss_bytes_max);
    for happened in
        ["jobs acknowledged", "values acknowledged", "calls done", "events ok", "events refused", "claims granted"]
    {
        assert!(counts.contains_key(happened), "no {happened}: the run shows nothing");
    }
}

/// Ends the clients with the scope that waits for them, also when the test fails in it.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn put_load<'scope>(
    scope: &'scope Scope<'scope, '_>,
    shared: &'scope Shared,
    name: &'scope claims::Holder,
    uuid: &'scope claims::Holder,
) {
    scope.spawn(|| clients::submit(shared, "a", 1));
    scope.spawn(|| clients::submit(shared, "b", 2));
    scope.spawn(|| clients::set(shared, 3));
    scope.spawn(|| clients::ask(shared, 4));
    scope.spawn(|| clients::ask(shared, 5));
    scope.spawn(|| clients::publish(shared));
    scope.spawn(|| clients::listen(shared));
    scope.spawn(|| clients::watch(shared));
    for (holder, instance, by_uuid) in [(name, 1, false), (name, 2, false), (uuid, 3, true), (uuid, 4, true)] {
        scope.spawn(move || claims::claim(shared, holder, instance, by_uuid));
    }
}

/// Carries the plan out, until its end or the first finding.
fn torment(shared: &Shared, processes: &mut Processes, seed: u64, duration: Duration) {
    let start = Instant::now();
    for planned in schedule::plan(seed, duration, shared.agents.len()) {
        while start.elapsed() < planned.at {
            for end in processes.unexpected_ends() {
                shared.ledger.find(format!("{:?} into the run: {end}", start.elapsed()));
            }
            thread::sleep((planned.at - start.elapsed().min(planned.at)).min(Duration::from_millis(20)));
        }
        if !shared.ledger.findings().is_empty() {
            println!("stopped {:?} into the run", start.elapsed());
            return;
        }
        if !matches!(planned.target, Target::Agent(_)) {
            shared.epoch.fetch_add(1, Ordering::Relaxed);
        }
        processes.log_step(start.elapsed(), &planned);
        processes.carry_out(&planned);
    }
}

/// A beamline with short heartbeats. Even seeds speak over TCP, odd ones over sockets of the file system.
fn configured(seed: u64) -> Beamline {
    let beamline = Beamline::configured(Detector::Quadrant, "");
    let path = beamline.path("beamline.toml");
    let text = fs::read_to_string(&path).unwrap();
    let mut text = text.replace("[broker]\n", "[broker]\nheartbeat = \"200 ms\"\ntimeout = \"1 s\"\n");
    if seed.is_multiple_of(2) {
        for socket in ["req", "pub"] {
            let ipc = format!("ipc://{}", beamline.path(socket).display());
            text = text.replace(&ipc, &format!("tcp://127.0.0.1:{}", free_port()));
        }
    }
    fs::write(path, text).unwrap();
    beamline
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn shared(beamline: &Beamline, seed: u64, duration: Duration) -> Shared {
    let text = fs::read_to_string(beamline.path("beamline.toml")).unwrap();
    let endpoint = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key} = \"")));
        line.expect("an endpoint").trim_end_matches('"').to_owned()
    };
    Shared {
        ledger: ledger::Ledger::default(),
        beamline: beamline.name.clone(),
        agents: AGENTS.iter().map(|name| format!("{}/{name}", beamline.name)).collect(),
        request_endpoint: endpoint("request_endpoint"),
        publish_endpoint: endpoint("publish_endpoint"),
        seed,
        stop: AtomicBool::new(false),
        epoch: AtomicU64::new(0),
        topics: Mutex::new(HashMap::new()),
        submit_pause: SUBMIT_PAUSE.max(duration / u32::try_from(JOBS_MAX / SUBMITTERS).expect("a few")),
    }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}: not a number")))
}
