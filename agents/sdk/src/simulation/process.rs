//! One agent's process: the real session, questions, jobs and outbox, without their threads.

use super::{Connection, random::Random};
use crate::{
    host::{Asked, Handler, Handlers, Host, Params},
    job::{Job, JobEnd, Service, report_of},
    link::waker,
    outbox::Outbox,
    questions::{Questions, Task},
    session::{FIRST_STATE, Message, Order, Session},
};
use ecs_schemas::{
    alarm::Severity,
    error_code::{ErrorCode, Failure},
    job::{JobId, RunJob},
    kv::{Item, Restored},
    registry::{AgentState, Register, ServiceOffer},
    subsystem::{Description, Handled},
    value::Value,
    value_type::{Form, ValueType},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

pub const SERVICE: &str = "count";
pub const CALL: &str = "fit";

/// What the subsystem of a process has done, over all its starts.
#[derive(Default)]
struct Notes {
    /// Values that were told of each item; the last of this start is what all must agree on.
    told: BTreeMap<String, Vec<i64>>,
    /// Of this start.
    last: BTreeMap<String, i64>,
    /// How often this start was given kept values.
    restored: usize,
    restored_ever: u64,
    has_alarm: bool,
    count: i64,
}

struct Device {
    host: Host,
    notes: Arc<Mutex<Notes>>,
}

impl Device {
    fn tell(&self, item: &str, value: i64) {
        let mut notes = self.notes.lock().unwrap();
        notes.told.entry(item.to_owned()).or_default().push(value);
        notes.last.insert(item.to_owned(), value);
        self.host.publish(item, value).unwrap();
    }
}

impl Handler for Device {
    fn on_write(&self, item: &str, value: Value, _asked: &Asked) -> Result<Value, Failure> {
        let number = value.as_f64().unwrap() as i64;
        if number % 7 == 0 {
            return Err(Failure::new(ErrorCode::Refused, "no sevens"));
        }
        self.tell(item, number);
        Ok(value)
    }

    fn on_event(&self, _event: &str, _params: &Params, asked: &Asked) -> Result<Value, Failure> {
        asked.feedback(1);
        Ok(Value::Null)
    }

    fn on_call(&self, _call: &str, params: &Params, _asked: &Asked) -> Result<Value, Failure> {
        Ok(params["n"].clone())
    }

    fn on_restored(&self, values: &[Restored]) {
        let mut notes = self.notes.lock().unwrap();
        notes.restored += 1;
        notes.restored_ever += 1;
        assert_eq!(notes.restored, 1, "S5: once in a process");
        for value in values {
            let number = value.value.as_f64().unwrap() as i64;
            assert!(notes.told[&value.item].contains(&number), "S5: {value:?} was never told");
            // Told anew while the kept one was under way, or what was kept.
            notes.last.entry(value.item.clone()).or_insert(number);
        }
    }
}

/// Does every job at once; its result is what makes this doing of it unlike any other.
struct Counting(i64);

impl Service for Counting {
    fn name(&self) -> &str {
        SERVICE
    }

    fn on_request(&self, job: &Job) -> JobEnd {
        if job.is_killed() { JobEnd::Cancelled { result: None } } else { JobEnd::Done(self.0.into()) }
    }
}

/// What the subsystem of a process has told.
pub struct Expected {
    pub name: String,
    pub last: BTreeMap<String, i64>,
    pub has_alarm: bool,
    /// How often kept values were given back.
    pub restored: u64,
}

pub struct Process {
    number: usize,
    connections: u64,
    starts: u64,
    session: Session,
    outbox: Arc<Outbox>,
    questions: Questions,
    device: Arc<Device>,
    notes: Arc<Mutex<Notes>>,
    /// What is being worked on.
    tasks: Vec<Task>,
    answers: Vec<Message>,
    jobs: BTreeMap<JobId, Job>,
    /// Attempts that this start has begun (S2).
    begun: BTreeSet<(JobId, u32)>,
    done: Vec<(JobId, i64)>,
}

fn description(name: &str) -> Description {
    let item = |name: &str, persist| Item {
        name: name.to_owned(),
        kind: ValueType::of(Form::I64),
        writable: true,
        persist,
        ..Item::default()
    };
    let handled = |name: &str| Handled { name: name.to_owned(), at_once: 2, ..Handled::default() };
    Description {
        name: name.to_owned(),
        items: vec![item("kept", true), item("free", false)],
        events: vec![handled("arm")],
        calls: vec![handled(CALL)],
        ..Description::default()
    }
}

impl Process {
    pub fn new(number: usize, now: Instant) -> Self {
        let notes = Arc::default();
        let (session, outbox, questions, device) = parts(number, 1, &notes, now);
        Self {
            number,
            connections: 1,
            starts: 1,
            session,
            outbox,
            questions,
            device,
            notes,
            tasks: vec![],
            answers: vec![],
            jobs: BTreeMap::new(),
            begun: BTreeSet::new(),
            done: vec![],
        }
    }

    pub fn connection(&self) -> Connection {
        Connection::new(format!("process{}#{}", self.number, self.connections).as_bytes())
    }

    /// The transport makes a new connection by itself; the session learns of it by what it is answered.
    pub fn reconnect(&mut self) {
        self.connections += 1;
    }

    /// It is killed, and started again.
    pub fn restart(&mut self, now: Instant) {
        self.reconnect();
        self.starts += 1;
        {
            let mut notes = self.notes.lock().unwrap();
            notes.last.clear();
            (notes.restored, notes.has_alarm) = (0, false);
        }
        (self.session, self.outbox, self.questions, self.device) = parts(self.number, self.starts, &self.notes, now);
        self.tasks.clear();
        self.answers.clear();
        self.jobs.clear();
        self.begun.clear();
    }

    /// One turn, as the thread that leads makes it. Returns what it says.
    pub fn act(&mut self, heard: Vec<Message>, now: Instant, is_calm: bool, random: &mut Random) -> Vec<Message> {
        for (header, body) in heard {
            if let Some(order) = self.session.received(&header.encode(), &body, now) {
                self.obey(order);
            }
        }
        self.work(is_calm, random);
        if !is_calm {
            self.do_something(random);
        }
        self.session.take(self.outbox.take(), now);
        self.session.answer(self.answers.drain(..));
        if self.session.is_link_dead(now) {
            self.reconnect();
            self.session.link_renewed(now);
        }
        self.session.due(now, &self.outbox, self.jobs.is_empty(), true)
    }

    /// As `Connection` does it.
    fn obey(&mut self, order: Order) {
        match order {
            Order::Ask(header, body) => self.questions.ask(header, &body),
            Order::Cancel(id) => self.questions.cancel(id),
            Order::Restore(name, values) => self.questions.restore(name, values),
            Order::Welcome { broker_started_ns, kept } => {
                self.questions.cancel_until(broker_started_ns);
                kept.into_iter().for_each(|(name, values)| self.questions.restore(name, values));
            }
            Order::Run(run) if self.session.has(run.id) => self.session.repeat(run.id),
            Order::Run(run) => self.begin(run),
            Order::Kill(kill) if self.jobs.contains_key(&kill.id) => drop(self.jobs[&kill.id].kill()),
            Order::Kill(kill) if self.session.has(kill.id) => self.session.repeat(kill.id),
            Order::Kill(kill) => {
                let end = JobEnd::Cancelled { result: None };
                self.session.keep(report_of(kill.id, kill.attempt, end, false));
            }
        }
    }

    fn begin(&mut self, run: RunJob) {
        assert!(self.begun.insert((run.id, run.attempt)), "S2: attempt {} of job {}", run.attempt, run.id.0);
        self.session.add(run.id);
        self.jobs.insert(run.id, Job::new(run, Arc::clone(&self.outbox)));
    }

    /// Begins and ends some of what is to be done.
    fn work(&mut self, is_calm: bool, random: &mut Random) {
        self.tasks.extend(std::iter::from_fn(|| self.questions.next()));
        for task in std::mem::take(&mut self.tasks) {
            if is_calm || random.one_in(3) {
                self.answers.extend(self.questions.work_on(task));
            } else {
                self.tasks.push(task);
            }
        }
        for (id, job) in std::mem::take(&mut self.jobs) {
            if is_calm || random.one_in(6) {
                let result = self.next_number();
                job.running();
                job.run(&Counting(result));
                if !job.is_killed() {
                    self.done.push((id, result));
                }
                continue;
            }
            if random.one_in(3) {
                job.running();
            }
            self.jobs.insert(id, job);
        }
    }

    fn next_number(&mut self) -> i64 {
        let mut notes = self.notes.lock().unwrap();
        notes.count += 10;
        notes.count + self.number as i64 // of this process alone
    }

    fn do_something(&mut self, random: &mut Random) {
        match random.below(12) {
            0 => {
                let number = self.next_number();
                self.device.tell("kept", number);
            }
            1..4 => {
                let number = self.next_number();
                self.device.tell("free", number);
            }
            4 => {
                self.device.host.raise("HOT", Severity::Warn, "too hot");
                self.notes.lock().unwrap().has_alarm = true;
            }
            5 => {
                self.device.host.clear("HOT");
                self.notes.lock().unwrap().has_alarm = false;
            }
            6 => self.device.host.describe(self.described()).unwrap(),
            _ => {}
        }
    }

    /// A new description replaces the alarms.
    fn described(&self) -> Description {
        self.notes.lock().unwrap().has_alarm = false;
        description(self.device.host.name())
    }

    pub fn done(&self) -> impl Iterator<Item = (JobId, i64)> {
        self.done.iter().copied()
    }

    /// S4: what all must agree on in the end.
    pub fn expected(&self) -> Expected {
        let (name, notes) = (self.device.host.name().to_owned(), self.notes.lock().unwrap());
        assert!(self.session.is_registered() && self.jobs.is_empty() && self.tasks.is_empty(), "S4: {name}");
        Expected { name, last: notes.last.clone(), has_alarm: notes.has_alarm, restored: notes.restored_ever }
    }
}

fn parts(
    number: usize,
    start: u64,
    notes: &Arc<Mutex<Notes>>,
    now: Instant,
) -> (Session, Arc<Outbox>, Questions, Arc<Device>) {
    let name = format!("x01/device{number}");
    let outbox = Arc::new(Outbox::new(waker().unwrap().0));
    let host = Host::new(name.clone(), Arc::clone(&outbox), Weak::new());
    host.describe(description(&name)).unwrap();
    let device = Arc::new(Device { host, notes: Arc::clone(notes) });
    let handlers: Handlers = [(name, Arc::clone(&device) as Arc<dyn Handler>)].into();
    let questions = Questions::new(Arc::clone(&outbox), Arc::new(Mutex::new(handlers)));
    let register = Register {
        name: format!("x01/agent{number}"),
        kind: "device".to_owned(),
        host: "host".to_owned(),
        pid: 1,
        version: "1".to_owned(),
        instance: start,
        state: FIRST_STATE,
        services: vec![ServiceOffer { jobs_at_once: 2, ..ServiceOffer::new(SERVICE) }],
        jobs: vec![],
        subsystems: vec![],
    };
    outbox.set_state(AgentState::Ready);
    let session = Session::new(String::new(), register, vec![], now + Duration::from_millis(number as u64));
    (session, outbox, questions, device)
}
