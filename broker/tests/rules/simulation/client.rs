//! A client: it asks for anything at any time, changes its mind, and is gone.

use super::{KEEP, Link, session_of};
use ecs_broker::core::Session;
use ecs_schemas::{
    alarm::ListAlarms,
    envelope::{Header, Notice, Request, decode},
    exchange::{CallEvent, Cancel, DoCall, Params},
    job::{CancelJob, JobId, Submit},
    kv::{Get, ListItems, Reading, Set, Unwatch, Update, Watch},
    registry::GetStatus,
    subsystem::{GetSubsystem, ListSubsystems},
    trace::GetTrace,
    value::Value,
};

const TARGETS: [&str; 6] = [KEEP, "x01/s0", "x01/s1", "x01/s2", "x01/agent2", "x01/nobody"];

pub struct Client {
    number: usize,
    connection: u64,
    asked: Vec<u64>,
    /// The revision of the kept item that it knows.
    revision: u64,
}

impl Client {
    pub fn new(number: usize) -> Self {
        Self { number, connection: 1, asked: vec![], revision: 0 }
    }

    pub fn session(&self) -> Session {
        session_of("client", self.number, self.connection)
    }

    pub fn reconnect(&mut self) {
        self.connection += 1;
        self.asked.clear();
    }

    pub fn act(&mut self, messages: Vec<(Header, Vec<u8>)>, link: &mut Link<'_>) {
        for (header, body) in messages {
            match header.kind.as_str() {
                "kv.get.reply" => self.revision = decode::<Reading>(&body).map_or(self.revision, |got| got.revision),
                Update::KIND => self.revision = decode::<Update>(&body).unwrap().revision,
                _ => {}
            }
        }
        if !link.is_calm {
            for _ in 0..link.random.below(3) {
                self.ask_something(link);
            }
        }
    }

    fn ask_something(&mut self, link: &mut Link<'_>) {
        let (subsystem, name) = (link.random.pick(&TARGETS).to_owned(), link.random.pick(&TARGETS).to_owned());
        let item = link.random.pick(&["p", "p", "r", "q"]).to_owned();
        let path = format!("{subsystem}/{item}");
        match link.random.below(16) {
            0 => self.ask(link, &Get { subsystem, item }),
            1 => self.ask(link, &Get { subsystem: KEEP.to_owned(), item: "p".to_owned() }),
            2 => self.ask(link, &Set { subsystem, item, value: (link.now_ns as i64).into(), if_revision: None }),
            3..5 => {
                let if_revision = Some(self.revision);
                let value = (link.now_ns as i64).into();
                self.ask(link, &Set { subsystem: KEEP.to_owned(), item: "p".to_owned(), value, if_revision });
            }
            5 => {
                let max_hz = link.random.pick(&[None, Some(2.0), Some(0.5), Some(1e-300)]);
                self.ask(link, &Watch { items: vec![path, format!("{KEEP}/p")], max_hz });
            }
            6 => self.ask(link, &Unwatch { items: vec![path] }),
            7 => self.ask(link, &CallEvent { event: "arm".to_owned(), targets: vec![], params: Params::new() }),
            8 => {
                let targets = vec![subsystem, name, KEEP.to_owned()];
                self.ask(link, &CallEvent { event: "arm".to_owned(), targets, params: Params::new() });
            }
            9..12 => self.ask(link, &DoCall { call: "fit".to_owned(), params: Params::new() }),
            12 => {
                if let Some(id) = self.asked.last().copied() {
                    link.send(&self.session(), Header::notice(Cancel::KIND), &Cancel { id });
                }
            }
            13 => {
                let key = link.random.below(10).to_string();
                self.ask(link, &Submit { service: "write".to_owned(), params: Value::Null, key, ..Submit::default() });
            }
            14 => {
                let id = JobId(link.random.below(10));
                self.ask(link, &CancelJob { id });
            }
            _ => self.look(link),
        }
    }

    fn look(&mut self, link: &mut Link<'_>) {
        match link.random.below(6) {
            0 => self.ask(link, &GetStatus {}),
            1 => self.ask(link, &ListSubsystems { prefix: String::new() }),
            2 => self.ask(link, &GetSubsystem { name: "x01/s1".to_owned() }),
            3 => self.ask(link, &ListItems { prefix: String::new() }),
            4 => self.ask(link, &ListAlarms {}),
            _ => self.ask(link, &GetTrace { id: 1 }),
        }
    }

    fn ask<R: Request>(&mut self, link: &mut Link<'_>, request: &R) {
        let deadline_ms = link.random.pick(&[0, 100, 1000, 3000]);
        let id = link.request(&self.session(), R::KIND, deadline_ms, request);
        self.asked.push(id);
    }
}
