//! Somebody who submits, sets, calls and cancels, and asks again what was not answered.

use super::{
    Connection,
    process::{CALL, SERVICE},
    random::Random,
};
use crate::session::Message;
use ecs_schemas::{
    envelope::{Header, Request, decode, encode},
    exchange::{CallEvent, DoCall},
    job::{CancelJob, JobId, JobRecord, Submit},
    kv::{Reading, Set},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

const DEADLINE: Duration = Duration::from_secs(2);
/// The broker's word at the deadline may be late, or lost with a connection.
const GRACE: Duration = Duration::from_secs(3);

pub struct Person {
    number: usize,
    connections: u64,
    last_id: u64,
    open: BTreeMap<u64, Open>,
    keys: u64,
    pub accepted: Vec<JobId>,
    /// Items with `persist` whose set was acknowledged with this revision.
    pub written: Vec<((String, String), u64)>,
    pub sets: u64,
}

struct Open {
    until: Instant,
    kind: &'static str,
    /// Of a submission, which is made again until it is answered: with the same key.
    submit: Option<Submit>,
    /// The item that a set is for.
    item: Option<(String, String)>,
}

impl Person {
    pub fn new(number: usize) -> Self {
        Self {
            number,
            connections: 1,
            last_id: 0,
            open: BTreeMap::new(),
            keys: 0,
            accepted: vec![],
            written: vec![],
            sets: 0,
        }
    }

    pub fn connection(&self) -> Connection {
        Connection::new(format!("person{}#{}", self.number, self.connections).as_bytes())
    }

    pub fn reconnect(&mut self) {
        self.connections += 1;
    }

    pub fn act(&mut self, heard: Vec<Message>, now: Instant, is_calm: bool, random: &mut Random) -> Vec<Message> {
        let mut said = Vec::new();
        for (header, body) in heard {
            if let Some(open) = self.open.get(&header.id).filter(|_| header.is_answer()) {
                assert!(header.kind == "error" || header.kind.strip_suffix(".reply") == Some(open.kind));
                let open = self.open.remove(&header.id).unwrap();
                self.answered(open, &header, &body);
            }
        }
        let over: Vec<u64> = self.open.iter().filter(|(_, open)| open.until <= now).map(|(id, _)| *id).collect();
        for id in over {
            if let Some(Open { submit: Some(submit), .. }) = self.open.remove(&id) {
                self.submit(submit, now, &mut said);
            }
        }
        if !is_calm {
            self.do_something(now, random, &mut said);
        }
        said
    }

    fn answered(&mut self, open: Open, header: &Header, body: &[u8]) {
        if header.kind == "error" {
            return;
        }
        if open.submit.is_some() {
            self.accepted.push(decode::<JobRecord>(body).unwrap().id);
        }
        if let Some(item) = open.item {
            self.sets += 1;
            self.written.push((item, decode::<Reading>(body).unwrap().revision));
        }
    }

    fn do_something(&mut self, now: Instant, random: &mut Random, said: &mut Vec<Message>) {
        let device = format!("x01/device{}", random.below(3));
        match random.below(10) {
            0 => {
                self.keys += 1;
                let key = format!("{}-{}", self.number, self.keys);
                let repeat_if_lost = random.one_in(2);
                let submit = Submit { service: SERVICE.to_owned(), key, repeat_if_lost, ..Submit::default() };
                self.submit(submit, now, said);
            }
            1 | 2 => {
                let item = random.pick(&["kept", "kept", "free"]).to_owned();
                let value = (random.below(1000) as i64).into();
                let set = Set { subsystem: device.clone(), item: item.clone(), value, if_revision: None };
                let persists = (item == "kept").then_some((device, item));
                self.ask(&set, now, said, |open| open.item = persists);
            }
            3 => {
                let params = [("n".to_owned(), 3.into())].into();
                self.ask(&DoCall { call: CALL.to_owned(), params }, now, said, |_| {});
            }
            4 => {
                let event = CallEvent { event: "arm".to_owned(), targets: vec![], params: [].into() };
                self.ask(&event, now, said, |_| {});
            }
            5 if !self.accepted.is_empty() && random.one_in(4) => {
                let id = self.accepted[random.index(self.accepted.len())];
                self.ask(&CancelJob { id }, now, said, |_| {});
            }
            _ => {}
        }
    }

    fn submit(&mut self, submit: Submit, now: Instant, said: &mut Vec<Message>) {
        self.ask(&submit.clone(), now, said, |open| open.submit = Some(submit));
    }

    fn ask<R: Request>(&mut self, request: &R, now: Instant, said: &mut Vec<Message>, note: impl FnOnce(&mut Open)) {
        self.last_id += 1;
        let mut open = Open { until: now + DEADLINE + GRACE, kind: R::KIND, submit: None, item: None };
        note(&mut open);
        self.open.insert(self.last_id, open);
        let header = Header::request(R::KIND, self.last_id, DEADLINE.as_millis() as u32);
        said.push((header, encode(request)));
    }

    pub fn check_end(&self) {
        let kinds: Vec<_> = self.open.values().map(|open| open.kind).collect();
        assert_eq!(kinds, [""; 0], "S4: all is answered");
    }
}
