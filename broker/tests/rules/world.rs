//! A broker core with a disk that works or does not, a clock that the test moves, and people to talk to it.

use crate::disk::Disk;
use ecs_broker::core::{Core, CoreOptions, Input, Outgoing, Publication, Sender, Session, Stored};
use ecs_schemas::{
    envelope::{DecodeError, Header, KIND_ERROR, Notice, Request, decode, encode},
    error_code::{ErrorCode, Failure},
    exchange::Done,
    job::{Ack, JobId, JobRecord, JobState, KillJob, ReportJob, RunJob, Submit},
    kv::{Get, Item, Publish, Reading},
    registry::{AgentState, AgentStatus, GetStatus, Heartbeat, Register, Registered, ServiceOffer, Status},
    subsystem::{Description, Handled},
    telemetry::PubHeader,
    value::Value,
};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

pub const SECOND_NS: u64 = 1_000_000_000;
pub const TIMEOUT_S: u64 = 3;
/// Some instant in 2023.
const START_NS: u64 = 1_700_000_000 * SECOND_NS;

pub struct World {
    pub core: Core,
    pub now_ns: u64,
    /// The disk: what a broker that starts now would read.
    pub disk: Disk,
    pub disk_works: bool,
    /// Messages that lie at each session.
    pub inboxes: BTreeMap<Session, VecDeque<(Header, Vec<u8>)>>,
    pub published: Vec<Publication>,
    last_id: u64,
    /// Who the transport says that the next messages are from.
    pub sender: Sender,
}

pub fn session(text: &str) -> Session {
    Session::new(text.as_bytes())
}

pub fn register(name: &str, instance: u64, jobs: &[JobId]) -> Register {
    Register {
        name: name.to_owned(),
        kind: "writer".to_owned(),
        host: "host".to_owned(),
        pid: 7,
        version: "1".to_owned(),
        instance,
        state: AgentState::Ready,
        services: vec![ServiceOffer::new("write")],
        jobs: jobs.to_vec(),
        subsystems: vec![],
    }
}

/// A service that follows another.
pub fn follower(name: &str, follows: &str) -> ServiceOffer {
    ServiceOffer { follows: Some(follows.to_owned()), ..ServiceOffer::new(name) }
}

pub fn submit_write(key: &str) -> Submit {
    Submit { service: "write".to_owned(), params: Value::from(1), key: key.to_owned(), ..Submit::default() }
}

pub fn subsystem(name: &str) -> Description {
    Description { name: name.to_owned(), ..Description::default() }
}

pub fn item(name: &str) -> Item {
    Item { name: name.to_owned(), writable: true, ..Item::default() }
}

pub fn handled(name: &str) -> Handled {
    Handled { name: name.to_owned(), at_once: 1, ..Handled::default() }
}

fn options() -> CoreOptions {
    CoreOptions {
        beamline: "x01".to_owned(),
        heartbeat: Duration::from_secs(1),
        timeout: Duration::from_secs(TIMEOUT_S),
        expected: vec![("x01/writer".to_owned(), "writer".to_owned())],
        pid: 1,
        seed: 1,
    }
}

impl World {
    pub fn new() -> Self {
        Self {
            core: Core::new(options(), Stored::default(), START_NS),
            now_ns: START_NS,
            disk: Disk::default(),
            disk_works: true,
            inboxes: BTreeMap::new(),
            published: vec![],
            last_id: 0,
            sender: Sender::Anyone,
        }
    }

    /// A world whose agent `x01/writer`, session `a`, instance 1, is ready.
    pub fn with_writer() -> Self {
        let mut world = Self::new();
        world.register("a", "x01/writer", 1, &[]).unwrap();
        world
    }

    /// The broker dies and starts again from what is on the disk. All sessions are gone.
    pub fn restart_broker(&mut self) {
        self.core = Core::new(options(), self.disk.stored(), self.now_ns);
        self.inboxes.clear();
    }

    /// One batch, as the broker's loop handles it.
    pub fn batch(&mut self, inputs: &[Input]) {
        let Self { core, now_ns, disk_works, disk, .. } = self;
        let outputs = core.batch(*now_ns, inputs, |changes| {
            if !changes.is_empty() && !*disk_works {
                return Err("disk full");
            }
            disk.save(changes);
            Ok(())
        });
        self.published.extend(outputs.publications);
        self.deliver(outputs.messages);
        self.store_subsystems();
    }

    fn store_subsystems(&mut self) {
        if !self.disk_works {
            return;
        }
        self.disk.save_subsystems(self.core.unstored());
        self.core.note_stored();
    }

    fn deliver(&mut self, outgoing: Vec<Outgoing>) {
        for message in outgoing {
            self.inboxes.entry(message.session).or_default().push_back((message.header, message.body));
        }
    }

    pub fn send_parts(&mut self, from: &str, parts: Vec<Vec<u8>>) {
        self.batch(&[Input::message(session(from), self.sender.clone(), parts)]);
    }

    pub fn notify<N: Notice>(&mut self, from: &str, notice: &N) {
        self.send_parts(from, vec![encode(&Header::notice(N::KIND)), encode(notice)]);
    }

    pub fn request_input<R: Request>(&mut self, from: &str, request: &R) -> (u64, Input) {
        self.last_id += 1;
        let header = Header::request(R::KIND, self.last_id, 1000);
        let parts = vec![encode(&header), encode(request)];
        let input = Input::message(session(from), self.sender.clone(), parts);
        (self.last_id, input)
    }

    /// Asks and returns the one answer; what else came for the session stays in its inbox.
    pub fn ask<R: Request>(&mut self, from: &str, request: &R) -> Result<R::Reply, Failure> {
        let (id, input) = self.request_input(from, request);
        self.batch(&[input]);
        self.take_answer::<R>(from, id)
    }

    pub fn take_answer<R: Request>(&mut self, from: &str, id: u64) -> Result<R::Reply, Failure> {
        let inbox = self.inboxes.entry(session(from)).or_default();
        let at: Vec<_> = inbox.iter().enumerate().filter(|(_, message)| message.0.id == id).map(|(at, _)| at).collect();
        assert_eq!(at.len(), 1, "rule E1: one answer to {} of {from}", R::KIND);
        let (header, body) = inbox.remove(at[0]).unwrap();
        if header.kind == KIND_ERROR {
            return Err(decode(&body).unwrap());
        }
        assert_eq!(header.kind, format!("{}.reply", R::KIND));
        Ok(decode(&body).unwrap())
    }

    /// Everything that lies at a session, and empties it.
    pub fn take_inbox(&mut self, of: &str) -> Vec<(Header, Vec<u8>)> {
        self.inboxes.remove(&session(of)).unwrap_or_default().into()
    }

    fn take_notices<N: Notice>(&mut self, of: &str) -> Vec<Result<N, DecodeError>> {
        let is_one = |message: &(Header, Vec<u8>)| message.0.kind == N::KIND;
        let (notices, others) = self.take_inbox(of).into_iter().partition(is_one);
        let others: Vec<(Header, Vec<u8>)> = others;
        self.inboxes.insert(session(of), others.into());
        let notices: Vec<(Header, Vec<u8>)> = notices;
        notices.iter().map(|(_, body)| decode(body)).collect()
    }

    /// Ids of the jobs that a session was told to run.
    pub fn runs(&mut self, of: &str) -> Vec<JobId> {
        self.take_notices::<RunJob>(of).into_iter().map(|run| run.unwrap().id).collect()
    }

    pub fn kills(&mut self, of: &str) -> Vec<JobId> {
        self.take_notices::<KillJob>(of).into_iter().map(|kill| kill.unwrap().id).collect()
    }

    pub fn register(&mut self, from: &str, name: &str, instance: u64, jobs: &[JobId]) -> Result<Registered, Failure> {
        self.ask(from, &register(name, instance, jobs))
    }

    /// Registers `x01/<from>`, instance 1, that is ready and offers these services.
    pub fn offer(&mut self, from: &str, services: &[ServiceOffer]) -> Result<Registered, Failure> {
        let name = format!("x01/{from}");
        self.ask(from, &Register { services: services.to_vec(), ..register(&name, 1, &[]) })
    }

    pub fn heartbeat(&mut self, from: &str) -> Result<Ack, Failure> {
        self.ask(from, &Heartbeat { state: AgentState::Ready })
    }

    /// Asks without waiting; the answer is taken with `take_answer`.
    pub fn begin<R: Request>(&mut self, from: &str, request: &R) -> u64 {
        self.begin_within(from, request, 1000)
    }

    pub fn begin_within<R: Request>(&mut self, from: &str, request: &R, deadline_ms: u32) -> u64 {
        self.last_id += 1;
        self.send_as(from, &Header::request(R::KIND, self.last_id, deadline_ms), request);
        self.last_id
    }

    pub fn send_as<T: serde::Serialize>(&mut self, from: &str, header: &Header, body: &T) {
        self.send_parts(from, vec![encode(header), encode(body)]);
    }

    pub fn has_answer(&self, of: &str, id: u64) -> bool {
        self.inboxes.get(&session(of)).is_some_and(|inbox| inbox.iter().any(|message| message.0.id == id))
    }

    /// What a session was asked by the broker, and takes it out of its inbox.
    pub fn questions<R: Request>(&mut self, of: &str) -> Vec<(Header, R)> {
        let (asked, others): (Vec<_>, Vec<_>) =
            self.take_inbox(of).into_iter().partition(|message| message.0.kind == R::KIND);
        self.inboxes.insert(session(of), others.into());
        asked.into_iter().map(|(header, body)| (header, decode(&body).unwrap())).collect()
    }

    /// The one question of this kind that a session has.
    pub fn question<R: Request + std::fmt::Debug>(&mut self, of: &str) -> (Header, R) {
        let mut questions = self.questions(of);
        assert_eq!(questions.len(), 1, "{} asked of {of}: {questions:?}", R::KIND);
        questions.remove(0)
    }

    pub fn reply<T: serde::Serialize>(&mut self, from: &str, question: &Header, body: &T) {
        self.send_as(from, &question.reply(), body);
    }

    pub fn done(&mut self, from: &str, question: &Header, value: impl Into<Value>) {
        self.reply(from, question, &Done { value: value.into() });
    }

    pub fn fail(&mut self, from: &str, question: &Header, code: ErrorCode, message: &str) {
        self.send_as(from, &question.error(), &Failure::new(code, message));
    }

    /// Registers an agent that hosts these subsystems.
    pub fn host(&mut self, from: &str, name: &str, instance: u64, subsystems: &[Description]) -> Registered {
        let register = Register { services: vec![], subsystems: subsystems.to_vec(), ..register(name, instance, &[]) };
        self.ask(from, &register).unwrap()
    }

    pub fn publish(&mut self, from: &str, path: (&str, &str), value: impl Into<Value>) -> Result<u64, Failure> {
        let publish =
            Publish { subsystem: path.0.to_owned(), item: path.1.to_owned(), value: value.into(), skipped: 0 };
        self.ask(from, &publish).map(|published| published.revision)
    }

    /// Publishes without an answer.
    pub fn notify_publish(&mut self, from: &str, publish: &Publish) {
        self.send_as(from, &Header::notice(Publish::KIND), publish);
    }

    pub fn get(&mut self, path: (&str, &str)) -> Result<Reading, Failure> {
        self.ask("client", &Get { subsystem: path.0.to_owned(), item: path.1.to_owned() })
    }

    pub fn notices<N: Notice>(&mut self, of: &str) -> Vec<N> {
        self.take_notices(of).into_iter().map(Result::unwrap).collect()
    }

    /// Sequence number and payload of everything that was published on a topic.
    pub fn on_topic(&self, topic: &str) -> Vec<(u64, Value)> {
        let its = self.published.iter().filter(|publication| &*publication.topic == topic);
        let seq = |header: &[u8]| decode::<PubHeader>(header).unwrap().seq;
        its.map(|publication| (seq(&publication.header), decode(&publication.payload).unwrap())).collect()
    }

    /// That all is answered and nothing is left behind (watches were taken back before).
    pub fn check_nothing_is_left(&self) {
        assert_eq!(self.core.open_entries(), 0);
        self.check_sums();
    }

    pub fn check_sums(&self) {
        let (kept, counted) = self.core.values_bytes();
        assert_eq!(kept, counted, "bytes of the kept values");
    }

    pub fn submit(&mut self, key: &str) -> Result<JobRecord, Failure> {
        self.ask("client", &submit_write(key))
    }

    pub fn report(&mut self, from: &str, id: JobId, state: JobState) -> Result<Ack, Failure> {
        self.ask(from, &ReportJob { attempt: 0, id, state, reason: None, result: None })
    }

    pub fn job(&mut self, id: JobId) -> JobRecord {
        self.ask("client", &ecs_schemas::job::GetJob { id }).unwrap()
    }

    pub fn state(&mut self, id: JobId) -> JobState {
        self.job(id).state
    }

    pub fn status(&mut self) -> Status {
        self.ask("client", &GetStatus {}).unwrap()
    }

    pub fn agent(&mut self, name: &str) -> AgentStatus {
        self.status().agents.into_iter().find(|agent| agent.name == name).unwrap()
    }

    /// Lets time pass, second by second, while the agents of `alive` show that they live.
    pub fn pass(&mut self, seconds: u64, alive: &[&str]) {
        for _ in 0..seconds {
            self.now_ns += SECOND_NS;
            for session in alive {
                self.heartbeat(session).unwrap();
            }
            self.batch(&[Input::Tick]);
        }
    }
}

pub fn code<T: std::fmt::Debug>(result: Result<T, Failure>) -> ErrorCode {
    result.unwrap_err().code
}
