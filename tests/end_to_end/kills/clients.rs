//! The clients: threads that ask, set, submit and listen all the while, and write into the ledger what they are told.
//!
//! | client | what it does |
//! |---|---|
//! | [`submit`] | jobs, some twice, some cancelled; reads old ones again |
//! | [`set`] | sets and reads the items of every agent |
//! | [`ask`] | events with many targets and one that is not there, calls |
//! | [`publish`] | an agent without an SDK: publishes an item with `persist`, and knows what was acknowledged |
//! | [`listen`], [`watch`] | all topics; all items |

use super::{
    agent_process::{SERVICE, subsystem_of},
    ledger::Ledger,
    random::Random,
};
use ecs_schemas::{
    envelope::Request,
    error_code::ErrorCode,
    exchange::{CallEvent, DoCall, EventResults, TargetEnd},
    job::{CancelJob, GetJob, JobId, JobRecord, Submit},
    kv::{Get, Item, Publish, Set},
    registry::{AgentState, Register},
    subsystem::Description,
    value::Value,
    value_type::{Form, ValueType},
};
use ecs_sdk::{CallError, Client, Subscriber, Watcher};
use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// What all clients know.
pub struct Shared {
    pub ledger: Ledger,
    pub beamline: String,
    /// Names of the agents.
    pub agents: Vec<String>,
    pub request_endpoint: String,
    pub publish_endpoint: String,
    pub seed: u64,
    pub stop: AtomicBool,
    /// Rises whenever something is done to the broker or a reader: over that, connections may be new ones.
    pub epoch: AtomicU64,
    /// Newest sequence and time of each topic.
    pub topics: Mutex<HashMap<String, (u64, u64)>>,
    /// Pause between two submissions.
    pub submit_pause: Duration,
}

/// An answer that is later than this, beyond its deadline and the grace of the client, does not come (rule L5): no busy
/// machine takes so long.
const LATE_MAX: Duration = Duration::from_secs(20);
const TIMEOUT: Duration = Duration::from_millis(1500);
/// Pause of a client between two requests.
const PAUSE: Duration = Duration::from_millis(15);

impl Shared {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Asks, and looks at how long it took (rule L5).
    pub fn call<R: Request>(&self, client: &Client, request: &R, timeout: Duration) -> Result<R::Reply, CallError> {
        let begun = Instant::now();
        let answer = client.call(request, timeout);
        let late = begun.elapsed().saturating_sub(timeout);
        if late > LATE_MAX {
            self.ledger.find(format!("L5: {} ended {late:?} after its deadline of {timeout:?}", R::KIND));
        }
        self.ledger.count(match &answer {
            Ok(_) => "requests answered",
            Err(CallError::Refused(_)) => "requests refused",
            Err(CallError::Timeout { .. }) => "requests without an answer",
            Err(_) => "requests without a broker",
        });
        if let Err(CallError::BadReply { reason, .. }) = &answer {
            self.ledger.find(format!("{}: a reply that is none: {reason}", R::KIND));
        }
        if code(&answer) == Some(ErrorCode::StoreFailed) {
            self.ledger.count("requests refused by the disk");
        }
        answer
    }

    pub fn client(&self) -> Client {
        Client::new(&self.request_endpoint).expect("an endpoint")
    }
}

pub fn code<T>(answer: &Result<T, CallError>) -> Option<ErrorCode> {
    match answer {
        Err(CallError::Refused(failure)) => Some(failure.code),
        _ => None,
    }
}

/// Submits with `prefix` and a number as the key until it is told to stop.
pub fn submit(shared: &Shared, prefix: &str, stream: u64) {
    let (client, mut random) = (shared.client(), Random::new(shared.seed, stream));
    let mut acknowledged: Vec<JobId> = Vec::new();
    let mut number = 0_i64;
    while shared.goes_on() {
        number += 1;
        let (key, params) = (format!("{prefix}{number}"), params(number, &mut random));
        let wants_end = params.get("end").and_then(Value::as_str) == Some("killed");
        let Some(id) = submit_one(shared, &client, &key, &params, random.one_in(3)) else { continue };
        acknowledged.push(id);
        if random.one_in(10) {
            submit_one(shared, &client, &key, &params, false); // once more
        }
        if wants_end {
            let asked = Instant::now();
            if let Ok(record) = shared.call(&client, &CancelJob { id }, TIMEOUT) {
                shared.ledger.job(&record, "job.cancel", Some(asked));
            }
        }
        let old = acknowledged[random.below(acknowledged.len() as u64) as usize];
        read_job(shared, &client, old);
        thread::sleep(shared.submit_pause);
    }
}

fn params(number: i64, random: &mut Random) -> Value {
    let end = ["done", "done", "done", "done", "failed", "killed"][random.below(6) as usize];
    let ms = random.below(200) as i64;
    Value::map([("n", number.into()), ("ms", ms.into()), ("end", end.into())])
}

/// Submits until it is acknowledged, refused for good, or the end of the test.
fn submit_one(shared: &Shared, client: &Client, key: &str, params: &Value, repeat_if_lost: bool) -> Option<JobId> {
    let submit = Submit {
        service: SERVICE.to_owned(),
        params: params.clone(),
        key: key.to_owned(),
        repeat_if_lost,
        ..Submit::default()
    };
    while shared.goes_on() {
        let asked = Instant::now();
        let answer = shared.call(client, &submit, TIMEOUT);
        match (code(&answer), answer) {
            (_, Ok(record)) => {
                shared.ledger.count("jobs acknowledged");
                shared.ledger.submitted(key, params, &record);
                shared.ledger.job(&record, "job.submit", Some(asked));
                return Some(record.id);
            }
            (Some(ErrorCode::StoreFailed | ErrorCode::Busy | ErrorCode::NoSuchService) | None, _) => {}
            (Some(code), _) => shared.ledger.find(format!("L1: {key} was refused with {code:?}")),
        }
        thread::sleep(10 * PAUSE); // the same key again: it may have been taken
    }
    None
}

fn read_job(shared: &Shared, client: &Client, id: JobId) {
    let asked = Instant::now();
    let answer = shared.call(client, &GetJob { id }, TIMEOUT);
    match (code(&answer), answer) {
        (_, Ok(record)) => shared.ledger.job(&record, "job.get", Some(asked)),
        (Some(ErrorCode::NoSuchJob), _) => {
            shared.ledger.find(format!("L1: job {id} was acknowledged, and is not there"))
        }
        _ => {}
    }
}

/// Sets items to numbers that rise, and reads them.
pub fn set(shared: &Shared, stream: u64) {
    let (client, mut random) = (shared.client(), Random::new(shared.seed, stream));
    let mut number = 0_i64;
    while shared.goes_on() {
        number += 1;
        let agent = &shared.agents[random.below(shared.agents.len() as u64) as usize];
        let (subsystem, item) = (subsystem_of(agent), "setpoint".to_owned());
        let path = format!("{subsystem}/{item}");
        let set = Set { subsystem: subsystem.clone(), item, value: number.into(), if_revision: None };
        if let Ok(reading) = shared.call(&client, &set, TIMEOUT) {
            shared.ledger.count("values acknowledged");
            if reading.value != Value::from(number) {
                shared.ledger.find(format!("L4: {path} was set to {number}, the answer is {reading:?}"));
            }
            shared.ledger.acknowledged(&path, reading.revision, &reading.value, "kv.set");
        }
        read_item(shared, &client, &subsystem, "setpoint");
        if random.one_in(5) {
            let get = Get { subsystem, item: "asked".to_owned() };
            if let Ok(reading) = shared.call(&client, &get, TIMEOUT)
                && reading.value != Value::from(7)
            {
                shared.ledger.find(format!("{agent} was asked for 7: {reading:?}"));
            }
        }
        thread::sleep(PAUSE);
    }
}

pub fn read_item(shared: &Shared, client: &Client, subsystem: &str, item: &str) {
    let (path, asked) = (format!("{subsystem}/{item}"), Instant::now());
    let get = Get { subsystem: subsystem.to_owned(), item: item.to_owned() };
    let answer = shared.call(client, &get, TIMEOUT);
    match (code(&answer), &answer) {
        (_, Ok(reading)) => shared.ledger.read(&path, Some(reading), asked, "kv.get"),
        (Some(ErrorCode::NotSet), _) => shared.ledger.read(&path, None, asked, "kv.get"),
        _ => {} // not listed until its agent is back (rule 5 of subsystems in registry.md)
    }
}

/// Name of a subsystem that is not there.
const NOBODY: &str = "nobody";

/// Calls events of all agents, and calls that one of them does.
pub fn ask(shared: &Shared, stream: u64) {
    let (client, mut random) = (shared.client(), Random::new(shared.seed, stream));
    let mut targets: Vec<String> = shared.agents.iter().map(|agent| subsystem_of(agent)).collect();
    targets.push(format!("{}/{NOBODY}", shared.beamline));
    let mut number = 0_i64;
    while shared.goes_on() {
        number += 1;
        let timeout = Duration::from_millis(200 + random.below(1200));
        let params = [("n".to_owned(), number.into()), ("ms".to_owned(), (random.below(150) as i64).into())];
        if random.one_in(2) {
            let call = DoCall { call: "work".to_owned(), params: params.into() };
            match shared.call(&client, &call, timeout) {
                Ok(done) if done.value != Value::from(number) => {
                    shared.ledger.find(format!("call {number} was answered with {}", done.value));
                }
                Ok(_) => shared.ledger.count("calls done"),
                Err(CallError::Refused(failure)) => shared.ledger.count(match failure.code {
                    ErrorCode::AgentLost => "calls whose worker was lost",
                    ErrorCode::Timeout => "calls not done in time",
                    ErrorCode::NotHandled => "calls that nobody handled",
                    _ => "calls refused otherwise",
                }),
                Err(_) => {}
            }
        } else {
            let event = if random.one_in(4) { "veto" } else { "tick" };
            let request = CallEvent { event: event.to_owned(), targets: targets.clone(), params: params.into() };
            if let Ok(results) = shared.call(&client, &request, timeout) {
                judge_event(shared, event, number, &targets, &results);
            }
        }
        thread::sleep(PAUSE);
    }
}

/// Every target has one end, and one that fits.
fn judge_event(shared: &Shared, event: &str, number: i64, targets: &[String], results: &EventResults) {
    let told: Vec<&str> = results.results.iter().map(|result| result.target.as_str()).collect();
    if told != targets.iter().map(String::as_str).collect::<Vec<_>>() {
        shared.ledger.find(format!("event {event} for {targets:?} has results of {told:?}"));
    }
    for result in &results.results {
        let is_nobody = result.target.ends_with(NOBODY);
        let fits = match result.end {
            TargetEnd::NotHandled => true,
            TargetEnd::Gone | TargetEnd::Timeout => !is_nobody,
            TargetEnd::Ok => !is_nobody && event == "tick" && result.value == Value::from(number),
            TargetEnd::Refused => !is_nobody && event == "veto",
            TargetEnd::Failed | TargetEnd::Cancelled => false,
        };
        if !fits {
            shared.ledger.find(format!("event {event} {number}: {result:?}"));
        }
        if !is_nobody {
            shared.ledger.count(match result.end {
                TargetEnd::Ok => "events ok",
                TargetEnd::Refused => "events refused",
                TargetEnd::Gone => "events gone",
                TargetEnd::Timeout => "events timed out",
                TargetEnd::NotHandled => "events not handled",
                TargetEnd::Failed | TargetEnd::Cancelled => "events failed",
            });
        }
    }
}

/// An agent by hand, which knows what the broker has acknowledged of its own.
pub fn publish(shared: &Shared) {
    let client = shared.client();
    let subsystem = subsystem_of(&format!("{}/ledger", shared.beamline));
    let path = format!("{subsystem}/entry");
    let mut is_registered = false;
    let mut number = 0_i64;
    // Revision of the last acknowledgement, and publications since whose answer did not come.
    let (mut revision, mut unknown) = (0, 0);
    while shared.goes_on() {
        if !is_registered {
            let asked = Instant::now();
            let register = register(&format!("{}/ledger", shared.beamline), 1, vec![entry(&subsystem, None)]);
            let Ok(welcome) = shared.call(&client, &register, TIMEOUT) else { continue };
            is_registered = true;
            let restored = welcome.subsystems.first().and_then(|its| its.restored.first()).cloned();
            let reading = restored.map(|kept| ecs_schemas::kv::Reading {
                value: kept.value,
                revision: kept.revision,
                time_ns: kept.time_ns,
            });
            shared.ledger.read(&path, reading.as_ref(), asked, "agent.register");
        }
        number += 1;
        let request =
            Publish { subsystem: subsystem.clone(), item: "entry".to_owned(), value: number.into(), skipped: 0 };
        let answer = shared.call(&client, &request, TIMEOUT);
        match (code(&answer), answer) {
            (_, Ok(published)) => {
                shared.ledger.count("publications acknowledged");
                if published.revision <= revision || published.revision > revision + unknown + 1 {
                    shared.ledger.find(format!(
                        "L4: {path} was at revision {revision}, {unknown} answers are missing, now {}",
                        published.revision
                    ));
                }
                (revision, unknown) = (published.revision, 0);
                shared.ledger.acknowledged(&path, revision, &number.into(), "kv.publish");
            }
            (Some(ErrorCode::NotRegistered), _) => is_registered = false,
            (Some(ErrorCode::StoreFailed), _) => {} // no revision was used up
            (Some(code), _) => shared.ledger.find(format!("{path} cannot be published: {code:?}")),
            (None, _) => {
                is_registered = false; // over a new connection
                unknown += 1;
            }
        }
        thread::sleep(PAUSE);
    }
}

pub fn register(name: &str, instance: u64, subsystems: Vec<Description>) -> Register {
    Register {
        name: name.to_owned(),
        kind: "by_hand".to_owned(),
        host: "here".to_owned(),
        pid: std::process::id(),
        version: "1".to_owned(),
        instance,
        state: AgentState::Ready,
        services: vec![],
        jobs: vec![],
        subsystems,
    }
}

pub fn entry(subsystem: &str, uuid: Option<&str>) -> Description {
    let item = Item { name: "entry".to_owned(), kind: ValueType::of(Form::I64), persist: true, ..Item::default() };
    Description {
        name: subsystem.to_owned(),
        uuid: uuid.map(str::to_owned),
        items: vec![item],
        ..Description::default()
    }
}

/// The path of an item with `persist` whose topic this is.
fn kept_path(topic: &str) -> Option<String> {
    let (subsystem, item) = topic.rsplit_once("/kv/")?;
    ["setpoint", "entry"].contains(&item).then(|| format!("{subsystem}/{item}"))
}

/// Listens to everything (rules L2, L3, L7).
pub fn listen(shared: &Shared) {
    let prefix = format!("{}/", shared.beamline);
    let mut subscriber = Subscriber::new(&shared.publish_endpoint, [prefix.as_str()]).expect("an endpoint");
    let jobs = format!("{}/jobs/", shared.beamline);
    let mut ended: HashMap<JobId, u64> = HashMap::new();
    while shared.goes_on() {
        let Some((topic, header, payload)) = subscriber.next(Duration::from_millis(100)) else { continue };
        shared.ledger.count("topic messages");
        let told = (header.seq, header.time_ns);
        let before = super::ledger::lock(&shared.topics).insert(topic.clone(), told);
        if let Some(before) = before {
            let is_kept = kept_path(&topic).is_some();
            if told.0 <= before.0 && (is_kept || told.1 <= before.1) {
                shared.ledger.find(format!("L7: {topic} was at (seq, time) {before:?} and then at {told:?}"));
            }
            if told.0 > before.0 + 1 {
                shared.ledger.count("gaps told by a topic's seq");
            }
        }
        if let Some(path) = kept_path(&topic) {
            shared.ledger.value(&path, header.seq, &payload, "topic");
        }
        if topic.starts_with(&jobs)
            && let Ok(record) = payload.to_typed::<JobRecord>()
        {
            shared.ledger.job(&record, "topic", None);
            let is_after = ended.get(&record.id).is_some_and(|seq| header.seq > *seq);
            if record.state.is_end() {
                ended.insert(record.id, header.seq);
            } else if is_after {
                shared.ledger.find(format!("L2: the topic of job {} told its end and then {record:?}", record.id));
            }
        }
    }
    if subscriber.malformed() > 0 {
        shared.ledger.find(format!("{} malformed messages on topics", subscriber.malformed()));
    }
}

/// Watches the items of all agents (rules L3, L7).
pub fn watch(shared: &Shared) {
    let items = shared.agents.iter().flat_map(|agent| {
        let subsystem = subsystem_of(agent);
        ["setpoint", "count"].map(|item| format!("{subsystem}/{item}"))
    });
    let mut watcher = Watcher::new(&shared.request_endpoint, items.collect(), None).expect("an endpoint");
    let mut told: HashMap<String, (u64, u64, u64)> = HashMap::new();
    while shared.goes_on() {
        let update = match watcher.next(Duration::from_millis(100)) {
            Ok(Some(update)) => update,
            Ok(None) => continue,
            Err(error) => {
                shared.ledger.find(format!("kv.watch: {error}"));
                return;
            }
        };
        shared.ledger.count("watched updates");
        let (path, epoch) = (format!("{}/{}", update.subsystem, update.item), shared.epoch.load(Ordering::Relaxed));
        let is_kept = update.item == "setpoint";
        if is_kept {
            shared.ledger.value(&path, update.revision, &update.value, "kv.update");
        }
        let before = told.insert(path.clone(), (update.revision, update.time_ns, epoch));
        let Some((revision, time_ns, epoch_before)) = before else { continue };
        let is_again = (revision, time_ns) == (update.revision, update.time_ns);
        let goes_back = update.revision <= revision && !is_again && (is_kept || update.time_ns <= time_ns);
        // Only over one connection to one broker it is known what was told before.
        let missed = update.revision.saturating_sub(revision + 1);
        let hides_gap = epoch == epoch_before && update.revision > revision && update.missed != missed;
        if goes_back || hides_gap || (is_again && epoch == epoch_before) {
            shared.ledger.find(format!("L7: {path} was told at revision {revision}, then {update:?}"));
        }
        if update.missed > 0 {
            shared.ledger.count("gaps told by a watch");
        }
    }
}
