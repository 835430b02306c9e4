//! Jobs: lost, late and doubled messages, agents and brokers that die, a disk that fails: by seed.
//!
//! Toy agents keep to the protocol (repeat reports, list their jobs), people submit, cancel, hold, release and
//! move; the network and the disk do what they want. At every instant the disk must be what was acknowledged,
//! queues must be in their order, and every ended write must have the jobs that follow it. Then the trouble
//! ends, and every job must have ended, once.

use crate::{
    random::Random,
    world::{SECOND_NS, World, follower, register, session},
};
use ecs_broker::core::{Input, Sender};
use ecs_schemas::{
    envelope::{Header, KIND_ERROR, Notice, Request, decode, encode},
    job::{
        CancelJob, HoldJob, JobId, JobRecord, JobState, KillJob, MoveJob, REPEATS_MAX, ReleaseJob, ReportJob, RunJob,
        Submit,
    },
    registry::{AgentState, Heartbeat, Leave, Register, ServiceOffer},
    value::Value,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// Steps of trouble, and those after it in which all must come to an end.
const TROUBLED_STEPS: usize = 400;
const CALM_STEPS_MAX: usize = 2000;
/// Services that follow `write`.
const FOLLOWERS: [&str; 2] = ["copy", "reduce"];

/// An agent: its jobs with the state it would report, and what it still has to report.
struct ToyAgent {
    name: &'static str,
    instance: u64,
    connection: u64,
    is_registered: bool,
    offers: Vec<ServiceOffer>,
    /// With the attempt.
    jobs: BTreeMap<JobId, (u32, JobState)>,
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
            let services = self.offers.clone();
            let register = Register { services, ..register(self.name, self.instance, &listed) };
            return vec![(Register::KIND.to_owned(), encode(&register))];
        }
        let reports = self.jobs.iter().filter(|(_, (_, state))| *state != JobState::Submitted);
        let report = |(id, (attempt, state)): (&JobId, &(u32, JobState))| {
            let (id, attempt, state) = (*id, *attempt, *state);
            ReportJob { id, attempt, state, reason: None, result: None }
        };
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
                self.jobs.entry(run.id).or_insert((run.attempt, JobState::Accepted));
            }
            KillJob::KIND => {
                let kill: KillJob = decode(body).unwrap();
                let (_, state) = self.jobs.entry(kill.id).or_insert((kill.attempt, JobState::Cancelled));
                if !state.is_end() {
                    *state = JobState::Cancelled;
                }
            }
            "error" if code_of(body) == "store_failed" => {} // the report is repeated
            "job.report.reply" | "error" if !random.one_in(5) => {
                // The answer to the report of an end: it is not repeated any more.
                self.jobs.retain(|id, job| !job.1.is_end() || report_id(*id, *job) != header.id);
            }
            _ => {}
        }
    }

    fn work(&mut self, random: &mut Random) {
        for (_, state) in self.jobs.values_mut() {
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

/// Id of the request that reports the state of an attempt of a job.
fn report_id(id: JobId, (attempt, state): (u32, JobState)) -> u64 {
    (id.0 * 64 + u64::from(attempt)) * 16 + state as u64
}

/// A message under way: to the broker (sender, parts).
type Flying = (String, Vec<Vec<u8>>);

struct Chaos {
    world: World,
    random: Random,
    agents: Vec<ToyAgent>,
    flying: Vec<Flying>,
    /// Priority and hold of each job as the answers said them, and nothing else.
    acknowledged: BTreeMap<JobId, (i32, bool)>,
    /// Jobs that people asked something of in this step, and those that any agent ever had.
    touched: BTreeSet<JobId>,
    given: BTreeSet<JobId>,
    calm: bool,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let at_once = |jobs_at_once, offer| ServiceOffer { jobs_at_once, ..offer };
        let write = || ServiceOffer::new("write");
        let agents = [
            ("x01/writer", vec![write()]),
            ("x01/writer-b", vec![at_once(2, write()), at_once(2, follower("copy", "write"))]),
            ("x01/reducer", vec![at_once(3, follower("reduce", "write"))]),
        ];
        let mut world = World::new();
        for (name, offers) in &agents {
            let services = offers.clone();
            world.ask(name, &Register { services, ..register(name, 0, &[]) }).unwrap();
            world.ask(name, &Leave {}).unwrap();
        }
        let agent = |(name, offers)| {
            let jobs = BTreeMap::new();
            ToyAgent { name, instance: 1, connection: 1, is_registered: false, offers, jobs }
        };
        Self {
            world,
            random: Random(seed),
            agents: agents.into_iter().map(agent).collect(),
            flying: vec![],
            acknowledged: BTreeMap::new(),
            touched: BTreeSet::new(),
            given: BTreeSet::new(),
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
            inputs.push(Input::message(session(&from), Sender::Anyone, parts));
        }
        inputs.push(Input::Tick);
        self.given.extend(self.agents.iter().flat_map(|agent| agent.jobs.keys()));
        self.world.batch(&inputs);
        self.hear_answers();
    }

    /// What people are told, in its order: the last word on each job must be what the disk says.
    fn hear_answers(&mut self) {
        self.touched.clear();
        for (header, body) in self.world.take_inbox("client") {
            if header.kind == KIND_ERROR {
                continue;
            }
            let record: JobRecord = decode(&body).unwrap();
            self.touched.insert(record.id);
            self.acknowledged.insert(record.id, (record.priority, record.held));
        }
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
            let id = decode::<ReportJob>(&body)
                .map_or(u64::MAX, |report| report_id(report.id, (report.attempt, report.state)));
            self.flying.push((self.agents[at].session(), vec![encode(&Header::request(&kind, id, 1000)), body]));
        }
    }

    fn people(&mut self) {
        if !self.calm && self.random.one_in(4) {
            let submit = Submit {
                service: "write".to_owned(),
                params: Value::Null,
                key: (self.random.next() % 40).to_string(),
                priority: (self.random.next() % 3) as i32 - 1,
                hold: self.random.one_in(8),
                repeat_if_lost: self.random.one_in(2),
            };
            self.ask(&submit);
        }
        let (id, other) = (self.any_job(), self.any_job());
        if self.trouble(20) {
            self.ask(&CancelJob { id });
        }
        if self.trouble(6) {
            self.ask(&HoldJob { id });
        }
        if self.trouble(6) {
            self.ask(&ReleaseJob { id: other });
        }
        if self.trouble(8) {
            let priority = (self.random.next() % 3) as i32 - 1;
            self.ask(&MoveJob { id, priority: Some(priority), before: None });
        }
        if self.trouble(4) {
            self.ask(&MoveJob { id, priority: None, before: Some(other) });
        }
        if self.calm {
            let held = self.acknowledged.iter().filter(|(_, (_, held))| *held).map(|(id, _)| *id);
            held.collect::<Vec<_>>().into_iter().for_each(|id| self.ask(&ReleaseJob { id }));
        }
    }

    fn any_job(&mut self) -> JobId {
        JobId(self.random.next() % (self.world.disk.jobs.len() as u64 + 2))
    }

    fn ask<R: Request>(&mut self, request: &R) {
        let (_, Input::Message { parts, .. }) = self.world.request_input("client", request) else { unreachable!() };
        self.flying.push(("client".to_owned(), parts.iter().map(|part| part.to_vec()).collect()));
    }

    /// What must hold at every instant.
    fn check(&self, before: &BTreeMap<JobId, JobRecord>, seed: u64) {
        for (id, was) in before {
            check_step(was, &self.world.disk.jobs[id], seed);
        }
        for record in self.world.disk.jobs.values() {
            let is_queued = record.state == JobState::Submitted && record.agent.is_none();
            let is_asked = record.state != JobState::Cancelled || record.cancel_requested;
            assert!(is_asked, "seed {seed}: cancelled, and nobody asked: {record:?}");
            assert!(!record.held || is_queued, "seed {seed}: held, but an agent has it: {record:?}");
            self.check_acknowledged(record, seed);
            self.check_followers(record, seed);
        }
        let mut keys: Vec<_> = self.world.disk.jobs.values().map(|record| &record.key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), self.world.disk.jobs.len(), "seed {seed}: one job for each key");
        let lost: Vec<_> = self.acknowledged.keys().filter(|id| !self.world.disk.jobs.contains_key(id)).collect();
        assert!(lost.is_empty(), "seed {seed}: acknowledged and not on the disk: {lost:?}");
        self.check_order(before, seed);
    }

    /// The disk has the priority and the hold that the last answer said; the end of a job ends its hold.
    fn check_acknowledged(&self, record: &JobRecord, seed: u64) {
        let Some((priority, held)) = self.acknowledged.get(&record.id) else {
            let is_plain = record.follows.is_some();
            return assert!(is_plain, "seed {seed}: a job that nobody was told of: {record:?}");
        };
        assert_eq!(record.priority, *priority, "seed {seed}: {record:?}");
        assert!(record.held == *held || record.state.is_end(), "seed {seed}: hold said {held}, is {record:?}");
    }

    /// An ended write is followed once by each following service, and nothing else is followed.
    fn check_followers(&self, record: &JobRecord, seed: u64) {
        let following: Vec<_> =
            self.world.disk.jobs.values().filter(|other| other.follows == Some(record.id)).collect();
        let services: Vec<_> = following.iter().map(|other| other.service.as_str()).collect();
        match record.state.is_end() && record.service == "write" {
            true => assert_eq!(services, FOLLOWERS, "seed {seed}: what follows {record:?}"),
            false => assert!(services.is_empty(), "seed {seed}: {services:?} follow {record:?}"),
        }
        if record.state.is_end() && record.state != JobState::Done {
            let failed_at_once = |other: &&&JobRecord| other.state == JobState::Failed && other.agent.is_none();
            assert_eq!(following.iter().filter(failed_at_once).count(), following.len(), "seed {seed}: {following:?}");
        }
    }

    /// No job was given to an agent while one of its queue that comes before it could have been. Left out are
    /// those that people touched meanwhile, and those that an agent may still have to end from before.
    fn check_order(&self, before: &BTreeMap<JobId, JobRecord>, seed: u64) {
        let stored = &self.world.disk.jobs;
        let place = |record: &JobRecord| (Reverse(record.priority), record.order, record.id);
        let is_free = |record: &&JobRecord| record.is_queued() && !record.held;
        let waited = before.values().filter(is_free).filter(|was| {
            let is = &stored[&was.id];
            let is_new = !self.given.contains(&was.id) && !self.touched.contains(&was.id);
            is_new && is_free(&is) && place(is) == place(was)
        });
        let waited: Vec<_> = waited.collect();
        let was_queued = |id: &JobId| before.get(id).is_none_or(JobRecord::is_queued);
        let taken =
            stored.values().filter(|is| is.agent.is_some() && was_queued(&is.id) && !self.given.contains(&is.id));
        for taken in taken {
            let passed_over = |was: &&&JobRecord| was.service == taken.service && place(was) < place(taken);
            let first = waited.iter().find(passed_over);
            assert!(first.is_none(), "seed {seed}: {taken:?} was taken before {first:?}");
        }
    }
}

/// What one job may have become in one step: history only grows, and ends once; repeats have their limits.
fn check_step(was: &JobRecord, is: &JobRecord, seed: u64) {
    let id = was.id;
    assert!(is.history.starts_with(&was.history), "seed {seed}: job {id} was {was:?}, is {is:?}");
    assert!(!was.state.is_end() || was.history == is.history, "seed {seed}: job {id} left its end");
    let is_repeated = is.repeats() > was.repeats();
    let may_be = is.repeat_if_lost && is.repeats() <= REPEATS_MAX && !was.cancel_requested;
    assert!(!is_repeated || may_be, "seed {seed}: repeated: {was:?}, is {is:?}");
}

/// What happened in all seeds together, so that a test of nothing is noticed.
#[derive(Debug, Default)]
struct Happened {
    repeated: usize,
    lost: usize,
    followers_done: usize,
}

impl Happened {
    fn add(&mut self, stored: &BTreeMap<JobId, JobRecord>) {
        let count = |is: &dyn Fn(&JobRecord) -> bool| stored.values().filter(|record| is(record)).count();
        self.repeated += count(&|record| record.repeats() > 0);
        self.lost += count(&|record| record.state == JobState::Lost);
        self.followers_done += count(&|record| record.follows.is_some() && record.state == JobState::Done);
    }
}

#[test]
fn every_job_ends_once_in_order_and_is_followed_once_whatever_network_agents_and_disk_do() {
    let mut happened = Happened::default();
    for seed in 0..200 {
        let mut chaos = Chaos::new(seed);
        let is_open = |chaos: &Chaos| chaos.world.disk.jobs.values().any(|record| !record.state.is_end());
        let mut steps = 0;
        while steps < TROUBLED_STEPS || (is_open(&chaos) && steps < TROUBLED_STEPS + CALM_STEPS_MAX) {
            chaos.calm = steps >= TROUBLED_STEPS;
            let before = chaos.world.disk.jobs.clone();
            chaos.step();
            chaos.check(&before, seed);
            steps += 1;
        }
        let open: Vec<_> = chaos.world.disk.jobs.values().filter(|record| !record.state.is_end()).collect();
        assert!(open.is_empty(), "seed {seed}: not ended: {open:?}");
        assert!(chaos.world.disk.jobs.len() > 60, "seed {seed}: too little happened");
        let done = chaos.world.disk.jobs.values().filter(|record| record.state == JobState::Done).count();
        assert!(done > 0, "seed {seed}: nothing was done");
        happened.add(&chaos.world.disk.jobs);
    }
    assert!(happened.repeated > 100 && happened.lost > 100 && happened.followers_done > 100, "{happened:?}");
}
