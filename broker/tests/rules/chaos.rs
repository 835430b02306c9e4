//! Jobs: lost, late and doubled messages, agents and brokers that die, a disk that fails: by seed.
//!
//! Two toy agents keep to the protocol (repeat reports, list their jobs); the network and the disk do what
//! they want. Then the trouble ends, and every job must have ended, once, as the disk says.

use crate::{
    random::Random,
    world::{SECOND_NS, World, register, session},
};
use ecs_broker::{core::Input, limits::LOST_GRACE};
use ecs_schemas::{
    envelope::{Header, Notice, Request, decode, encode},
    job::{CancelJob, JobId, JobState, KillJob, ReportJob, RunJob, Submit},
    registry::{AgentState, Heartbeat},
    value::Value,
};
use std::collections::BTreeMap;

/// An agent: its jobs with the state it would report, and what it still has to report.
struct ToyAgent {
    name: &'static str,
    instance: u64,
    connection: u64,
    is_registered: bool,
    jobs: BTreeMap<JobId, JobState>,
}

impl ToyAgent {
    fn session(&self) -> String {
        format!("{}#{}", self.name, self.connection)
    }

    /// A new process, which knows nothing.
    fn die(&mut self) {
        self.instance += 1;
        self.jobs.clear();
        self.reconnect();
    }

    fn reconnect(&mut self) {
        self.connection += 1;
        self.is_registered = false;
    }

    /// What it sends now.
    fn speak(&self) -> Vec<(String, Vec<u8>)> {
        if !self.is_registered {
            let listed: Vec<JobId> = self.jobs.keys().copied().collect();
            return vec![("agent.register".to_owned(), encode(&register(self.name, self.instance, &listed)))];
        }
        let reports = self.jobs.iter().filter(|(_, state)| **state != JobState::Submitted);
        let report =
            |(id, state): (&JobId, &JobState)| ReportJob { id: *id, state: *state, reason: None, result: None };
        let mut said = vec![(Heartbeat::KIND.to_owned(), encode(&Heartbeat { state: AgentState::Ready }))];
        said.extend(reports.map(|entry| (ReportJob::KIND.to_owned(), encode(&report(entry)))));
        said
    }

    fn hear(&mut self, header: &Header, body: &[u8], random: &mut Random) {
        match header.kind.as_str() {
            "agent.register.reply" => self.is_registered = true,
            "error" if code_of(body) == "not_registered" => self.reconnect(),
            RunJob::KIND => {
                let run: RunJob = decode(body).unwrap();
                self.jobs.entry(run.id).or_insert(JobState::Accepted);
            }
            KillJob::KIND => {
                let kill: KillJob = decode(body).unwrap();
                let state = self.jobs.entry(kill.id).or_insert(JobState::Cancelled);
                if !state.is_end() {
                    *state = JobState::Cancelled;
                }
            }
            "error" if code_of(body) == "store_failed" => {} // the report is repeated
            "job.report.reply" | "error" if !random.one_in(5) => {
                // The answer to the report of an end: it is not repeated any more.
                self.jobs.retain(|id, state| !state.is_end() || report_id(*id, *state) != header.id);
            }
            _ => {}
        }
    }

    fn work(&mut self, random: &mut Random) {
        for state in self.jobs.values_mut() {
            *state = match *state {
                JobState::Accepted if random.one_in(3) => JobState::Running,
                JobState::Running if random.one_in(4) => JobState::Done,
                JobState::Running if random.one_in(20) => JobState::Failed,
                state => state,
            };
        }
    }
}

fn code_of(body: &[u8]) -> String {
    decode::<Value>(body).unwrap().get("code").and_then(Value::as_str).unwrap().to_owned()
}

/// Id of the request that reports `state` of a job.
fn report_id(id: JobId, state: JobState) -> u64 {
    id.0 * 16 + state as u64
}

/// A message under way: to the broker (sender, parts).
type Flying = (String, Vec<Vec<u8>>);

struct Chaos {
    world: World,
    random: Random,
    agents: Vec<ToyAgent>,
    flying: Vec<Flying>,
    calm: bool,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let agent = |name| ToyAgent { name, instance: 1, connection: 1, is_registered: false, jobs: BTreeMap::new() };
        Self {
            world: World::new(),
            random: Random(seed),
            agents: vec![agent("x01/writer"), agent("x01/writer-b")],
            flying: vec![],
            calm: false,
        }
    }

    fn trouble(&mut self, chances: u64) -> bool {
        !self.calm && self.random.one_in(chances)
    }

    /// Half a second.
    fn step(&mut self) {
        self.world.now_ns += SECOND_NS / 2;
        self.world.disk_works = !self.trouble(8);
        if self.trouble(60) {
            self.world.restart_broker();
            self.flying.clear();
        }
        for at in 0..self.agents.len() {
            self.step_agent(at);
        }
        self.people();
        let flying = std::mem::take(&mut self.flying);
        let mut inputs = vec![];
        for (from, parts) in flying {
            match (self.trouble(6), self.trouble(6), self.trouble(6)) {
                (true, _, _) => continue,                                        // lost
                (_, true, _) => self.flying.push((from.clone(), parts.clone())), // late, or doubled
                _ => {}
            }
            inputs.push(Input::Message { session: session(&from), parts });
        }
        inputs.push(Input::Tick);
        self.world.batch(&inputs);
    }

    fn step_agent(&mut self, at: usize) {
        if self.trouble(50) {
            self.agents[at].die();
        } else if self.trouble(30) {
            self.agents[at].reconnect();
        }
        for (header, body) in self.world.take_inbox(&self.agents[at].session()) {
            if !self.trouble(6) {
                self.agents[at].hear(&header, &body, &mut self.random);
            }
        }
        self.agents[at].work(&mut self.random);
        if self.trouble(10) {
            return; // stopped for a while
        }
        for (kind, body) in self.agents[at].speak() {
            let id = decode::<ReportJob>(&body).map_or(u64::MAX, |report| report_id(report.id, report.state));
            self.flying.push((self.agents[at].session(), vec![encode(&Header::request(&kind, id, 1000)), body]));
        }
    }

    fn people(&mut self) {
        if !self.calm && self.random.one_in(4) {
            let key = (self.random.next() % 40).to_string();
            let submit = Submit { service: "write".to_owned(), params: Value::Null, key };
            let (_, Input::Message { parts, .. }) = self.world.request_input("client", &submit) else { unreachable!() };
            self.flying.push(("client".to_owned(), parts));
        }
        if self.trouble(20) {
            let cancel = CancelJob { id: JobId(self.random.next() % 40) };
            let (_, Input::Message { parts, .. }) = self.world.request_input("client", &cancel) else { unreachable!() };
            self.flying.push(("client".to_owned(), parts));
        }
    }

    /// What must hold at every instant: history on the disk only grows, and ends once.
    fn check(&self, before: &BTreeMap<JobId, ecs_schemas::job::JobRecord>, seed: u64) {
        for (id, was) in before {
            let is = &self.world.stored[id];
            assert!(is.history.starts_with(&was.history), "seed {seed}: job {id} was {was:?}, is {is:?}");
            assert!(!was.state.is_end() || was.history == is.history, "seed {seed}: job {id} left its end");
        }
        let mut keys: Vec<_> = self.world.stored.values().map(|record| &record.key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), self.world.stored.len(), "seed {seed}: one job for each key");
    }
}

#[test]
fn every_job_ends_once_whatever_the_network_the_agents_and_the_disk_do() {
    for seed in 0..200 {
        let mut chaos = Chaos::new(seed);
        for _ in 0..400 {
            let before = chaos.world.stored.clone();
            chaos.step();
            chaos.check(&before, seed);
        }
        chaos.calm = true;
        for _ in 0..(4 * LOST_GRACE.as_secs()) {
            chaos.step();
        }
        let open: Vec<_> = chaos.world.stored.values().filter(|record| !record.state.is_end()).collect();
        assert!(open.is_empty(), "seed {seed}: not ended: {open:?}");
        assert!(chaos.world.stored.len() > 10, "seed {seed}: too little happened");
        let done = chaos.world.stored.values().filter(|record| record.state == JobState::Done).count();
        assert!(done > 0, "seed {seed}: nothing was done");
    }
}
