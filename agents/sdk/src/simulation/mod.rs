//! The sessions of agents and the core of a broker, with all that can happen between them, from one seed.
//!
//! ```text
//! processes: session, questions, jobs ──▶ connections: stall, break, are partitioned ──▶ batch ──▶ core ──▶ disk: takes all or nothing
//!      ▲                                                                                  │
//!      └──────────────── connections; one message of a queue that is full is dropped ◀────┘
//! ```
//!
//! Connections are ZeroMQ's: in order, and a message is lost with its connection only, or where a queue is full. (The core alone
//! is driven with doubled and reordered messages too, in the broker's own tests.)
//!
//! # What must hold
//! S1  A job that was accepted is on the disk for ever, and has one end: what is done was done by an agent, with that result.
//! S2  An agent begins each attempt of a job once.
//! S3  A set that was acknowledged is never undone: the revision of its item does not go back.
//! S4  When the trouble is over, all are registered and ready, every item has the value that its owner told last, alarms are those
//!     that are raised, every job and every request has its end, and nobody has anything left to say.
//! S5  Kept values are given to a process once, and are values that were told.
//!
//! `ECS_SIMULATION_SEED=N` replays one run; `ECS_SIMULATION_RUNS=N` makes that many.

#[path = "../../../../tests/common/disk.rs"]
mod disk;
mod person;
mod process;
#[path = "../../../../tests/common/random.rs"]
mod random;
#[path = "../../../../tests/common/seeds.rs"]
mod seeds;

use crate::session::Message;
use disk::Disk;
use ecs_broker::core::{Core, CoreOptions, Input, Outgoing, Sender, Session as Connection, Stored};
use ecs_schemas::{
    alarm::ListAlarms,
    envelope::{Header, Request, decode, encode},
    job::{JobId, JobRecord},
    kv::Get,
    registry::{AgentState, GetStatus},
    value::Value,
};
use person::Person;
use process::{Expected, Process};
use random::Random;
use seeds::run_seeds;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Mutex,
    time::{Duration, Instant},
};

/// In CI: some twenty seconds on two cores.
const RUNS: u64 = 2000;
const STEPS: u32 = 150;
/// Longer than all deadlines, repeats and timeouts, and than the time after which a job is lost.
const CALM_STEPS: u32 = 400;
const START_NS: u64 = 1_700_000_000_000_000_000;
const STEP: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(3);

/// What is under way over one connection, in its order.
#[derive(Default)]
struct Wire {
    to_broker: VecDeque<Message>,
    from_broker: VecDeque<Message>,
    /// Steps for which nothing moves.
    stalled: u64,
}

/// What happened, to show that enough has.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    jobs_done: u64,
    jobs_lost: u64,
    broker_starts: u64,
    process_starts: u64,
    breaks: u64,
    dropped: u64,
    sets: u64,
    restored: u64,
}

struct Simulation {
    core: Core,
    disk: Disk,
    random: Random,
    start: Instant,
    now_ns: u64,
    wires: BTreeMap<Connection, Wire>,
    processes: Vec<Process>,
    people: Vec<Person>,
    /// Records of jobs that have ended, as they were first seen on the disk (S1).
    ended: BTreeMap<JobId, JobRecord>,
    /// Revisions that were seen (S3).
    revisions: BTreeMap<(String, String), u64>,
    is_calm: bool,
    seen: Seen,
}

fn options() -> CoreOptions {
    CoreOptions {
        beamline: "x01".to_owned(),
        heartbeat: Duration::from_millis(500),
        timeout: TIMEOUT,
        expected: vec![],
        pid: 1,
        seed: 1,
    }
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let start = Instant::now();
        Self {
            core: Core::new(options(), Stored::default(), START_NS),
            disk: Disk::default(),
            random: Random(seed),
            start,
            now_ns: START_NS,
            wires: BTreeMap::new(),
            processes: (0..3).map(|number| Process::new(number, start)).collect(),
            people: (0..2).map(Person::new).collect(),
            ended: BTreeMap::new(),
            revisions: BTreeMap::new(),
            is_calm: false,
            seen: Seen::default(),
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_nanos(self.now_ns - START_NS)
    }

    fn trouble(&mut self, chances: u64) -> bool {
        !self.is_calm && self.random.one_in(chances)
    }

    fn step(&mut self) {
        self.now_ns += STEP.as_nanos() as u64;
        if self.trouble(60) {
            self.restart_broker();
        }
        self.trouble_processes();
        self.let_all_act();
        let disk_works = !self.trouble(6);
        let mut inputs = self.take_arrived();
        if self.trouble(80) {
            self.restart_broker(); // what was received is lost with it
            inputs.clear();
        }
        inputs.push(if self.random.one_in(2) { Input::Tick } else { Input::Wake });
        self.batch(&inputs, disk_works);
        self.check();
    }

    fn batch(&mut self, inputs: &[Input], disk_works: bool) {
        let Self { core, disk, now_ns, .. } = self;
        let outputs = core.batch(*now_ns, inputs, |changes| {
            if !changes.is_empty() && !disk_works {
                return Err("disk full");
            }
            disk.save(changes);
            Ok(())
        });
        if disk_works {
            self.disk.save_subsystems(self.core.unstored());
            self.core.note_stored();
        }
        if self.trouble(120) {
            return self.restart_broker(); // it is stored, and nobody is told
        }
        let follow_ups = self.send(outputs.messages);
        self.send(follow_ups);
    }

    /// As the broker's loop does it; returns what follows from messages that could not be delivered.
    fn send(&mut self, messages: Vec<Outgoing>) -> Vec<Outgoing> {
        let mut follow_ups = Vec::new();
        for message in messages {
            if self.trouble(60) && self.wires.contains_key(&message.session) {
                self.seen.dropped += 1;
                follow_ups.extend(self.core.note_lost(&message, self.now_ns)); // its queue is full
            } else if let Some(wire) = self.wires.get_mut(&message.session) {
                wire.from_broker.push_back((message.header, message.body));
            } else {
                let gone = Input::Unreachable { session: message.session };
                follow_ups.extend(self.core.step(self.now_ns, &gone).free);
            }
        }
        follow_ups
    }

    /// The broker dies and another one reads its disk. All connections are new.
    fn restart_broker(&mut self) {
        self.seen.broker_starts += 1;
        self.now_ns += 1_000_000; // a process does not start in no time
        self.core = Core::new(options(), self.disk.stored(), self.now_ns);
        self.wires.clear();
        self.processes.iter_mut().for_each(Process::reconnect);
        self.people.iter_mut().for_each(Person::reconnect);
    }

    fn trouble_processes(&mut self) {
        for at in 0..self.processes.len() {
            let connection = self.processes[at].connection();
            match (self.trouble(50), self.trouble(50), self.trouble(40)) {
                (true, ..) => {
                    self.seen.process_starts += 1;
                    self.wires.remove(&connection);
                    let now = self.now();
                    self.processes[at].restart(now);
                }
                (_, true, _) => {
                    self.seen.breaks += 1;
                    self.wires.remove(&connection);
                    self.processes[at].reconnect();
                }
                (.., true) => self.wires.entry(connection).or_default().stalled = self.random.below(60),
                _ => {}
            }
        }
        for at in 0..self.people.len() {
            if self.trouble(50) {
                self.wires.remove(&self.people[at].connection());
                self.people[at].reconnect();
            }
        }
    }

    fn let_all_act(&mut self) {
        let now = self.now();
        for at in 0..self.processes.len() {
            let before = self.processes[at].connection();
            let heard = self.arrived_for(&before);
            let said = self.processes[at].act(heard, now, self.is_calm, &mut self.random);
            let connection = self.processes[at].connection();
            if connection != before {
                self.wires.remove(&before); // it was silent for too long, and made a new one
            }
            self.wires.entry(connection).or_default().to_broker.extend(said);
        }
        for at in 0..self.people.len() {
            let connection = self.people[at].connection();
            let heard = self.arrived_for(&connection);
            let said = self.people[at].act(heard, now, self.is_calm, &mut self.random);
            self.wires.entry(connection).or_default().to_broker.extend(said);
        }
    }

    fn arrived_for(&mut self, connection: &Connection) -> Vec<Message> {
        let is_calm = self.is_calm;
        let Some(wire) = self.wires.get_mut(connection).filter(|wire| wire.stalled == 0 || is_calm) else {
            return vec![];
        };
        let late = if is_calm { 0 } else { self.random.index(1 + wire.from_broker.len()) / 3 };
        let count = wire.from_broker.len() - late;
        wire.from_broker.drain(..count).collect()
    }

    fn take_arrived(&mut self) -> Vec<Input> {
        let mut inputs = Vec::new();
        for (session, wire) in &mut self.wires {
            if wire.stalled > 0 && !self.is_calm {
                wire.stalled -= 1;
                continue;
            }
            let late = if self.is_calm { 0 } else { self.random.index(1 + wire.to_broker.len()) / 3 };
            let count = wire.to_broker.len() - late;
            inputs.extend(
                wire.to_broker
                    .drain(..count)
                    .map(|(header, body)| Input::message(session.clone(), Sender::Anyone, [header.encode(), body])),
            );
        }
        inputs
    }

    fn check(&mut self) {
        for record in self.disk.jobs.values().filter(|record| record.state.is_end()) {
            let first = self.ended.entry(record.id).or_insert_with(|| record.clone());
            assert_eq!((first.state, &first.result), (record.state, &record.result), "S1: {record:?}");
        }
        for person in &mut self.people {
            for job in &person.accepted {
                assert!(self.disk.jobs.contains_key(job), "S1: job {} was accepted", job.0);
            }
            for (path, revision) in person.written.drain(..) {
                let seen = self.revisions.entry(path).or_default();
                *seen = (*seen).max(revision);
            }
        }
        for (path, seen) in &self.revisions {
            let kept = self.disk.values.get(path).map_or(0, |value| value.reading.revision);
            assert!(kept >= *seen, "S3: {path:?} is at {kept}, and {seen} was acknowledged");
        }
    }

    /// Asks the broker, past all trouble.
    fn ask<R: Request>(&mut self, request: &R) -> R::Reply {
        let (session, header) = (Connection::new(b"witness"), Header::request(R::KIND, 1, 1000));
        let input = Input::message(session, Sender::Anyone, [header.encode(), encode(request)]);
        let outputs = self.core.batch(self.now_ns, &[input], |_| Ok::<(), String>(()));
        decode(&outputs.messages[0].body).unwrap()
    }

    fn run(&mut self) {
        (0..STEPS).for_each(|_| self.step());
        self.is_calm = true;
        (0..CALM_STEPS).for_each(|_| self.step());
        self.check_end();
    }

    /// S4.
    fn check_end(&mut self) {
        let agents = self.ask(&GetStatus {}).agents;
        assert!(agents.iter().all(|agent| agent.state == AgentState::Ready), "S4: {agents:?}");
        let alarms = self.ask(&ListAlarms {}).alarms;
        for expected in self.processes.iter().map(Process::expected).collect::<Vec<_>>() {
            let Expected { name, last, has_alarm, restored } = expected;
            for (item, value) in last {
                let reading = self.ask(&Get { subsystem: name.clone(), item: item.clone() });
                assert_eq!(reading.value, Value::from(value), "S4: {name} {item}");
            }
            assert_eq!(alarms.iter().any(|alarm| alarm.subsystem == name), has_alarm, "S4: the alarm of {name}");
            self.seen.restored += restored;
        }
        let done: BTreeMap<JobId, Vec<i64>> =
            self.processes.iter().flat_map(|process| process.done()).fold(BTreeMap::new(), |mut all, (id, result)| {
                all.entry(id).or_insert_with(Vec::new).push(result);
                all
            });
        for record in self.disk.jobs.values() {
            assert!(record.state.is_end(), "S4: {record:?}");
            match (record.state.as_str(), &record.result) {
                ("done", Some(result)) => {
                    let result = result.as_f64().expect("a number") as i64;
                    assert!(done.get(&record.id).is_some_and(|all| all.contains(&result)), "S1: {record:?}");
                    self.seen.jobs_done += 1;
                }
                ("done", None) => panic!("S1: {record:?}"),
                _ => self.seen.jobs_lost += 1,
            }
        }
        for person in &self.people {
            person.check_end();
            self.seen.sets += person.sets;
        }
        assert_eq!(self.core.open_entries(), 0, "S4: the broker has nothing open");
    }
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.jobs_done += other.jobs_done;
        self.jobs_lost += other.jobs_lost;
        self.broker_starts += other.broker_starts;
        self.process_starts += other.process_starts;
        self.breaks += other.breaks;
        self.dropped += other.dropped;
        self.sets += other.sets;
        self.restored += other.restored;
    }

    fn is_enough(&self) -> bool {
        let all = [self.jobs_done, self.jobs_lost, self.broker_starts, self.process_starts, self.breaks, self.dropped];
        all.into_iter().chain([self.sets, self.restored]).all(|count| count > 100)
    }
}

#[test]
fn whatever_happens_between_agents_and_broker_all_agree_in_the_end_and_nothing_is_lost_or_done_twice() {
    let all_seen = Mutex::new(Seen::default());
    let is_one = run_seeds(RUNS, |seed, _| {
        let mut simulation = Simulation::new(seed);
        simulation.run();
        all_seen.lock().unwrap().add(simulation.seen);
    });
    let seen = all_seen.into_inner().unwrap();
    println!("{seen:?}");
    assert!(is_one || seen.is_enough(), "too little has happened to prove anything: {seen:?}");
}
