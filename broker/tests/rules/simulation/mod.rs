//! Everything at once, at random, from one seed.
//!
//! ```text
//! agents, clients ──▶ network: loses, delays, doubles, reorders, cuts ──▶ batch ──▶ core ─┬▶ disk: takes all or nothing
//!        ▲                                                                 witness sees   │
//!        └────────────────────── network ◀─────────────────────────────── every message ◀─┘
//! ```
//!
//! The [`witness`] stands at the broker's door: it sees what was delivered to the broker and what came out, so it knows
//! what must hold whatever the network does. In the end the trouble stops, all is answered, and no table of the core
//! has an entry left.
//!
//! `ECS_SIMULATION_SEED=N` replays one run and prints its messages (with `--nocapture`); `ECS_SIMULATION_RUNS=N` makes that many.

mod agent;
mod client;
mod witness;

use crate::{
    random::Random,
    seeds::run_seeds,
    world::{SECOND_NS, World, session},
};
use agent::Agent;
use client::Client;
use ecs_broker::core::{Input, Session};
use ecs_schemas::envelope::{Header, encode};
use serde::Serialize;
use std::sync::Mutex;
use witness::Witness;

/// In CI: half a minute on two cores.
const RUNS: u64 = 3000;
const STEPS: u32 = 120;
/// Steps of the calm end: longer than any deadline, the time after which an agent is gone, and the repeat of cancels.
const CALM_STEPS: u32 = 40;

/// The subsystem whose item `p` is stored, and whose description never changes: what must hold for it is strict.
pub const KEEP: &str = "x01/keep";

/// A message under way.
struct Flying {
    /// Steps until it arrives.
    delay: u64,
    session: Session,
    header: Header,
    body: Vec<u8>,
}

/// What agents and clients do it with.
pub struct Link<'a> {
    pub random: &'a mut Random,
    pub now_ns: u64,
    /// The trouble is over: nothing new is begun, all is answered.
    pub is_calm: bool,
    last_id: &'a mut u64,
    sent: Vec<(Session, Header, Vec<u8>)>,
}

impl Link<'_> {
    pub fn request<T: Serialize>(&mut self, from: &Session, kind: &str, deadline_ms: u32, body: &T) -> u64 {
        *self.last_id += 1;
        self.send(from, Header::request(kind, *self.last_id, deadline_ms), body);
        *self.last_id
    }

    pub fn send<T: Serialize>(&mut self, from: &Session, header: Header, body: &T) {
        self.sent.push((from.clone(), header, encode(body)));
    }
}

/// What an agent or client acts with; a macro, since it borrows parts of the simulation.
macro_rules! link {
    ($simulation:expr) => {
        Link {
            random: &mut $simulation.random,
            now_ns: $simulation.world.now_ns,
            is_calm: $simulation.is_calm,
            last_id: &mut $simulation.last_id,
            sent: vec![],
        }
    };
}

struct Simulation {
    world: World,
    random: Random,
    agents: Vec<Agent>,
    clients: Vec<Client>,
    to_broker: Vec<Flying>,
    from_broker: Vec<Flying>,
    /// Connections that are gone and that the broker has not noticed.
    unnoticed: Vec<Session>,
    witness: Witness,
    last_id: u64,
    is_calm: bool,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        Self {
            world: World::new(),
            random: Random(seed),
            agents: (0..4).map(Agent::new).collect(),
            clients: (0..3).map(Client::new).collect(),
            to_broker: vec![],
            from_broker: vec![],
            unnoticed: vec![],
            witness: Witness::default(),
            last_id: 0,
            is_calm: false,
        }
    }

    fn trouble(&mut self, chances: u64) -> bool {
        !self.is_calm && self.random.one_in(chances)
    }

    fn step(&mut self) {
        self.world.now_ns += match self.is_calm {
            true => SECOND_NS / 4,
            false => self.random.below(SECOND_NS / 3),
        };
        self.world.disk_works = !self.trouble(7);
        if self.trouble(60) {
            self.restart_broker();
        }
        self.let_agents_act();
        self.let_clients_act();
        let due = take_due(&mut self.to_broker);
        let due = self.shuffled(due);
        let mut inputs: Vec<_> = due.into_iter().map(|flying| self.deliver(flying)).collect();
        if self.trouble(90) {
            self.restart_broker(); // the batch was received and is lost as a whole
            inputs.clear();
        }
        inputs.push(if self.random.one_in(2) { Input::Tick } else { Input::Wake });
        self.batch(&inputs);
        for session in std::mem::take(&mut self.unnoticed) {
            if self.trouble(3) {
                self.unnoticed.push(session);
            } else {
                self.witness.note_unreachable(&session);
                self.batch(&[Input::Unreachable { session }]);
            }
        }
    }

    fn batch(&mut self, inputs: &[Input]) {
        self.world.batch(inputs);
        if self.trouble(150) {
            self.restart_broker(); // it was stored, and nobody is told
            return;
        }
        for (session, messages) in std::mem::take(&mut self.world.inboxes) {
            if !self.is_alive(&session) && !self.unnoticed.contains(&session) {
                self.unnoticed.push(session.clone()); // as a ROUTER says it of each message
            }
            for (header, body) in messages {
                self.witness.note_sent(&self.world, &session, &header, &body);
                self.send_through(false, session.clone(), header, body);
            }
        }
        self.witness.check(&mut self.world);
    }

    fn is_alive(&self, session: &Session) -> bool {
        self.agents.iter().any(|agent| agent.session() == *session)
            || self.clients.iter().any(|client| client.session() == *session)
    }

    /// The broker dies and another one reads its disk. All connections are new.
    fn restart_broker(&mut self) {
        self.world.now_ns += SECOND_NS / 1000; // a process does not start in no time
        self.world.restart_broker();
        self.witness.note_restart(&self.world);
        self.to_broker.clear();
        self.unnoticed.clear();
        if self.random.one_in(2) {
            self.from_broker.clear();
        }
        self.agents.iter_mut().for_each(Agent::reconnect);
        self.clients.iter_mut().for_each(Client::reconnect);
    }

    fn let_agents_act(&mut self) {
        for at in 0..self.agents.len() {
            let before = self.agents[at].session();
            match (self.trouble(60), self.trouble(60)) {
                (true, _) => self.agents[at].die(),
                (_, true) => self.agents[at].reconnect(),
                _ => {}
            }
            if self.agents[at].session() != before {
                self.unnoticed.push(before);
            }
            let messages = take_due_of(&mut self.from_broker, &self.agents[at].session());
            let mut link = link!(self);
            self.agents[at].act(messages, &mut link);
            let sent = link.sent;
            self.send_all(sent);
        }
    }

    fn let_clients_act(&mut self) {
        for at in 0..self.clients.len() {
            if self.trouble(60) {
                self.unnoticed.push(self.clients[at].session());
                self.clients[at].reconnect();
            }
            let messages = take_due_of(&mut self.from_broker, &self.clients[at].session());
            let mut link = link!(self);
            self.clients[at].act(messages, &mut link);
            let sent = link.sent;
            self.send_all(sent);
        }
    }

    fn send_all(&mut self, sent: Vec<(Session, Header, Vec<u8>)>) {
        for (session, header, body) in sent {
            self.send_through(true, session, header, body);
        }
    }

    /// The network: lost, late, doubled, or in time.
    fn send_through(&mut self, is_inwards: bool, session: Session, header: Header, body: Vec<u8>) {
        if !is_inwards && !self.is_alive(&session) {
            return;
        }
        let copies = match (self.trouble(12), self.trouble(25)) {
            (true, _) => 0,
            (_, true) => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = if self.trouble(4) { self.random.below(5) } else { 0 };
            let flying = Flying { delay, session: session.clone(), header: header.clone(), body: body.clone() };
            if is_inwards { self.to_broker.push(flying) } else { self.from_broker.push(flying) }
        }
    }

    fn shuffled(&mut self, mut flying: Vec<Flying>) -> Vec<Flying> {
        if self.trouble(3) {
            for at in (1..flying.len()).rev() {
                let other = self.random.below(at as u64 + 1) as usize;
                flying.swap(at, other);
            }
        }
        flying
    }

    fn deliver(&mut self, flying: Flying) -> Input {
        self.witness.note_delivered(self.world.now_ns, &flying.session, &flying.header, &flying.body);
        let parts = [encode(&flying.header), flying.body];
        Input::message(flying.session, ecs_broker::core::Sender::Anyone, parts)
    }

    fn run(&mut self) {
        (0..STEPS).for_each(|_| self.step());
        self.is_calm = true;
        (0..CALM_STEPS).for_each(|_| self.step());
        self.witness.check_newest_was_told(&self.world);
        for client in &self.clients {
            self.unnoticed.push(client.session());
        }
        (0..CALM_STEPS).for_each(|_| self.step());
        self.witness.check_all_is_answered();
        self.world.check_nothing_is_left();
    }
}

fn take_due(all: &mut Vec<Flying>) -> Vec<Flying> {
    let (due, later) = std::mem::take(all).into_iter().partition(|flying| flying.delay == 0);
    *all = later;
    all.iter_mut().for_each(|flying| flying.delay -= 1);
    due
}

fn take_due_of(all: &mut Vec<Flying>, session: &Session) -> Vec<(Header, Vec<u8>)> {
    let (mut its, others): (Vec<_>, Vec<_>) =
        std::mem::take(all).into_iter().partition(|flying| flying.session == *session);
    *all = others;
    let due = take_due(&mut its);
    all.extend(its);
    due.into_iter().map(|flying| (flying.header, flying.body)).collect()
}

#[test]
fn whatever_happens_every_request_is_answered_once_and_nothing_acknowledged_is_lost() {
    let seen = Mutex::new(witness::Seen::default());
    let is_one = run_seeds(RUNS, |seed, is_loud| {
        let mut simulation = Simulation::new(seed);
        simulation.witness.is_loud = is_loud;
        simulation.run();
        seen.lock().unwrap().add(simulation.witness.seen());
    });
    let seen = seen.into_inner().unwrap();
    println!("{seen:?}");
    assert!(is_one || seen.is_enough(), "too little has happened to prove anything: {seen:?}");
}

fn session_of(kind: &str, number: usize, connection: u64) -> Session {
    session(&format!("{kind}{number}#{connection}"))
}
