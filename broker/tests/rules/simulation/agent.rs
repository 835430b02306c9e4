//! An agent that keeps to the protocol, more or less: it hosts what it wants, answers now, later, wrongly or never,
//! dies, and comes back.

use super::{KEEP, Link, session_of};
use crate::world::{handled, item, register, subsystem};
use ecs_broker::core::Session;
use ecs_schemas::{
    alarm::{Alarm, Clear, Raise, Severity},
    envelope::{Header, KIND_ERROR, Notice, Request, decode},
    error_code::{ErrorCode, Failure},
    exchange::{Cancel, Done, Feedback, RunCall, RunEvent},
    job::{JobState, ReportJob, RunJob},
    kv::{Item, Publish, Read, Taken, Write},
    registry::{AgentState, Heartbeat, Leave, Register},
    subsystem::{Describe, Description, Handled, Remove},
    value::Value,
    value_type::{Form, ValueType},
};
use std::collections::BTreeMap;

const DEADLINE_MS: u32 = 2000;
/// Names and UUIDs that agents fight for.
const NAMES: [&str; 4] = ["x01/s0", "x01/s1", "x01/s2", "x01/agent1"];
const UUIDS: [&str; 2] = ["0f8fad5b-d9cb-469f-a165-70867728950e", "1f8fad5b-d9cb-469f-a165-70867728950e"];

pub struct Agent {
    number: usize,
    instance: u64,
    connection: u64,
    is_registered: bool,
    /// Steps for which it does and hears nothing.
    silent: u64,
    hosts: BTreeMap<String, Description>,
    /// What it was asked and has not answered.
    questions: Vec<(Header, Vec<u8>)>,
    /// Writes that are answered when their value was published, by the id of the publication.
    writes: BTreeMap<u64, (Header, Value)>,
}

impl Agent {
    pub fn new(number: usize) -> Self {
        let mut hosts = BTreeMap::new();
        if number == 0 {
            let kept = Item { persist: true, kind: ValueType::of(Form::I64), ..item("p") };
            let keep = Description { items: vec![kept], events: vec![handled("arm")], ..subsystem(KEEP) };
            hosts.insert(KEEP.to_owned(), keep);
        }
        Self {
            number,
            instance: 1,
            connection: 1,
            is_registered: false,
            silent: 0,
            hosts,
            questions: vec![],
            writes: BTreeMap::new(),
        }
    }

    pub fn session(&self) -> Session {
        session_of("agent", self.number, self.connection)
    }

    fn name(&self) -> String {
        format!("x01/agent{}", self.number)
    }

    fn is_keeper(&self) -> bool {
        self.number == 0
    }

    pub fn die(&mut self) {
        self.instance += 1;
        self.questions.clear();
        self.writes.clear();
        self.reconnect();
    }

    pub fn reconnect(&mut self) {
        self.connection += 1;
        self.is_registered = false;
    }

    pub fn act(&mut self, messages: Vec<(Header, Vec<u8>)>, link: &mut Link<'_>) {
        if self.silent > 0 && !link.is_calm {
            self.silent -= 1; // stopped, or cut off: what came is lost
            return;
        }
        if link.random.one_in(60) {
            self.silent = link.random.below(20);
        }
        for (header, body) in messages {
            self.hear(header, &body, link);
        }
        if !self.is_registered {
            self.register(link);
            return;
        }
        let state = if link.random.one_in(20) { AgentState::Starting } else { AgentState::Ready };
        link.request(&self.session(), Heartbeat::KIND, DEADLINE_MS, &Heartbeat { state });
        self.answer_some(link);
        if !link.is_calm {
            self.do_something(link);
        }
    }

    fn register(&self, link: &mut Link<'_>) {
        let subsystems = self.hosts.values().cloned().collect();
        let register = Register { subsystems, ..register(&self.name(), self.instance, &[]) };
        link.request(&self.session(), Register::KIND, DEADLINE_MS, &register);
    }

    fn hear(&mut self, header: Header, body: &[u8], link: &mut Link<'_>) {
        match header.kind.as_str() {
            "agent.register.reply" => self.is_registered = true,
            "kv.publish.reply" | KIND_ERROR if self.writes.contains_key(&header.id) => {
                let (question, value) = self.writes.remove(&header.id).unwrap();
                match header.kind.as_str() {
                    KIND_ERROR => self.refuse(&question, ErrorCode::Other, link),
                    _ => link.send(&self.session(), question.reply(), &Taken { value }),
                }
            }
            KIND_ERROR => self.hear_error(body, link),
            Cancel::KIND => self.hear_cancel(decode(body).unwrap(), link),
            RunJob::KIND => {
                let run: RunJob = decode(body).unwrap();
                let done =
                    ReportJob { id: run.id, attempt: run.attempt, state: JobState::Done, reason: None, result: None };
                link.request(&self.session(), ReportJob::KIND, DEADLINE_MS, &done);
            }
            Read::KIND | Write::KIND | RunEvent::KIND | RunCall::KIND => self.questions.push((header, body.to_vec())),
            _ => {}
        }
    }

    fn hear_error(&mut self, body: &[u8], link: &mut Link<'_>) {
        let failure: Failure = decode(body).unwrap();
        match failure.code {
            ErrorCode::NotRegistered => self.is_registered = false,
            // It may want something that another one has.
            ErrorCode::NameTaken if !self.is_keeper() && link.random.one_in(2) => self.hosts.clear(),
            _ => {}
        }
    }

    /// Whether it has the question or not: it answers, so that the broker knows that it is free.
    fn hear_cancel(&mut self, cancel: Cancel, link: &mut Link<'_>) {
        let at = self.questions.iter().position(|(header, _)| header.id == cancel.id);
        if at.is_some() && !link.is_calm && link.random.one_in(3) {
            return; // it is not heard, for now
        }
        at.map(|at| self.questions.remove(at));
        let question = Header { id: cancel.id, ..Header::notice("cancelled") };
        self.refuse(&question, ErrorCode::Cancelled, link);
    }

    fn refuse(&self, question: &Header, code: ErrorCode, link: &mut Link<'_>) {
        link.send(&self.session(), question.error(), &Failure::new(code, "no"));
    }

    fn answer_some(&mut self, link: &mut Link<'_>) {
        for (header, body) in std::mem::take(&mut self.questions) {
            match if link.is_calm { 9 } else { link.random.below(20) } {
                0..8 => self.questions.push((header, body)), // later
                8 => self.refuse(&header, ErrorCode::Refused, link),
                9..16 => self.answer(header, &body, link),
                16 => link.send(&self.session(), header.reply(), &"broken"),
                17 => {
                    let told = Feedback { id: header.id, target: String::new(), value: link.now_ns.into() };
                    link.send(&self.session(), Header::notice(Feedback::KIND), &told);
                    self.questions.push((header, body));
                }
                18 => {
                    self.answer(header.clone(), &body, link);
                    self.answer(header, &body, link); // twice
                }
                _ => {} // forgotten
            }
        }
    }

    fn answer(&mut self, header: Header, body: &[u8], link: &mut Link<'_>) {
        match header.kind.as_str() {
            Read::KIND => link.send(&self.session(), header.reply(), &Taken { value: link.now_ns.into() }),
            Write::KIND => {
                let Write { subsystem, item, value, .. } = decode(body).unwrap();
                let publish = Publish { subsystem, item, value: value.clone(), skipped: 0 };
                let id = link.request(&self.session(), Publish::KIND, DEADLINE_MS, &publish);
                self.writes.insert(id, (header, value));
            }
            _ => link.send(&self.session(), header.reply(), &Done { value: link.now_ns.into() }),
        }
    }

    fn do_something(&mut self, link: &mut Link<'_>) {
        let session = self.session();
        let name = link.random.pick(&NAMES).to_owned();
        match link.random.below(if self.is_keeper() { 4 } else { 14 }) {
            0..2 => self.publish(link),
            2 if link.random.one_in(20) => drop(link.request(&session, Leave::KIND, DEADLINE_MS, &Leave {})),
            2..4 => {}
            4..7 => {
                let description = random_description(&name, link);
                self.hosts.insert(name, description.clone());
                link.request(&session, Describe::KIND, DEADLINE_MS, &Describe { description });
            }
            7 => {
                self.hosts.remove(&name);
                link.request(&session, Remove::KIND, DEADLINE_MS, &Remove { name });
            }
            8 => {
                let alarm =
                    Alarm { code: "HOT".to_owned(), severity: Severity::Warn, text: "!".to_owned(), since_ns: 0 };
                link.request(&session, Raise::KIND, DEADLINE_MS, &Raise { subsystem: name, alarm });
            }
            9 => {
                let clear = Clear { subsystem: name, code: "HOT".to_owned() };
                link.request(&session, Clear::KIND, DEADLINE_MS, &clear);
            }
            _ => self.publish(link),
        }
    }

    fn publish(&mut self, link: &mut Link<'_>) {
        let all: Vec<_> = self.hosts.keys().cloned().collect();
        if all.is_empty() {
            return;
        }
        let subsystem = all[link.random.below(all.len() as u64) as usize].clone();
        let publish = Publish { subsystem, item: "p".to_owned(), value: (link.now_ns as i64).into(), skipped: 0 };
        if link.random.one_in(3) {
            link.send(&self.session(), Header::notice(Publish::KIND), &publish);
        } else {
            link.request(&self.session(), Publish::KIND, DEADLINE_MS, &publish);
        }
    }
}

fn random_description(name: &str, link: &mut Link<'_>) -> Description {
    let random = &mut *link.random;
    let temporary = random.one_in(4);
    let kind = ValueType::of(random.pick(&[Form::I64, Form::I64, Form::Any, Form::String]));
    let published = Item { persist: !temporary && random.one_in(2), kind, ..item("p") };
    let read = Item { published: false, ..item("r") };
    let calls = vec![Handled { at_once: 1 + random.below(2) as u32, ..handled("fit") }];
    Description {
        uuid: random.one_in(3).then(|| random.pick(&UUIDS).to_owned()),
        temporary,
        items: if random.one_in(5) { vec![] } else { vec![published, read] },
        events: if random.one_in(3) { vec![] } else { vec![handled("arm")] },
        calls: if random.one_in(3) { vec![] } else { calls },
        ..subsystem(name)
    }
}
