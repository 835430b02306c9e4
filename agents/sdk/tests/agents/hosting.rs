//! Subsystems that an agent hosts, over real sockets: the stories of an exposure with a veto, of a data service under
//! abuse, and of trials that wait for each other.

use crate::setup::{Beamline, CALL, WATCHDOG, wait_for};
use ecs_schemas::{
    alarm::{ListAlarms, Severity},
    envelope::{BODY_BYTES_MAX, Notice, decode},
    error_code::{ErrorCode, Failure},
    exchange::{CallEvent, DoCall, EventResults, Feedback, TargetEnd},
    kv::{Get, Item, Reading, Restored, Set},
    registry::{AgentState, Register},
    subsystem::{Describe, Description, GetSubsystem, Handled, Param},
    trace::GetTrace,
    value::Value,
    value_type::{Form, ValueType},
};
use ecs_sdk::{Agent, AgentConfig, Asked, CallError, Client, Handler, Host, Params, Subscriber, Watcher};
use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

/// A part of an experiment: it may object, it holds a value that may be set, it answers calls.
#[derive(Default)]
struct Device {
    door_open: AtomicBool,
    host: OnceLock<Host>,
    /// For what its handlers ask in turn.
    endpoint: String,
    restored: Mutex<Vec<Restored>>,
    /// How long it takes to take them.
    restoring: Duration,
    writes: AtomicUsize,
}

impl Handler for Device {
    fn on_write(&self, item: &str, value: Value, _asked: &Asked) -> Result<Value, Failure> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        if value.as_f64() == Some(6.0) {
            return Err(Failure::new(ErrorCode::Refused, "six is blocked by the interlock"));
        }
        assert!(value.as_f64() != Some(7.0), "a handler breaks");
        let taken = Value::from((value.as_f64().unwrap_or(0.0) * 2.0).round() / 2.0); // it moves in steps of a half
        if let Some(host) = self.host.get() {
            host.publish(item, taken.clone())?;
        }
        Ok(taken)
    }

    fn on_read(&self, _item: &str, asked: &Asked) -> Result<Value, Failure> {
        Ok(asked.by().into())
    }

    fn on_event(&self, event: &str, params: &Params, asked: &Asked) -> Result<Value, Failure> {
        match event {
            "can_begin" if self.door_open.load(Ordering::Relaxed) => Err(Failure::new(ErrorCode::Refused, "Door open")),
            "prepare_trial" => {
                let seconds = params.get("seconds").and_then(Value::as_f64).unwrap_or(0.0);
                asked.feedback("preparing");
                if asked.wait_cancelled(Duration::from_secs_f64(seconds)) {
                    return Err(Failure::new(ErrorCode::Cancelled, "stopped waiting"));
                }
                Ok("ready".into())
            }
            "break" => panic!("a handler breaks"),
            _ => Ok(Value::Null),
        }
    }

    fn on_call(&self, call: &str, params: &Params, _asked: &Asked) -> Result<Value, Failure> {
        match call {
            "slow" => sleep(Duration::from_millis(600)),
            "chain" => {
                let client = Client::new(&self.endpoint).expect("an endpoint");
                let get = Get { subsystem: "x01/stage".to_owned(), item: "who".to_owned() };
                return client
                    .call(&get, CALL)
                    .map(|reading| reading.value)
                    .map_err(|error| Failure::new(ErrorCode::Other, error.to_string()));
            }
            _ => {}
        }
        Ok(params.get("n").cloned().unwrap_or_default())
    }

    fn on_restored(&self, values: &[Restored]) {
        sleep(self.restoring);
        self.restored.lock().unwrap().extend_from_slice(values);
    }
}

fn handled(name: &str, at_once: u32) -> Handled {
    Handled { name: name.to_owned(), at_once, ..Handled::default() }
}

fn description(name: &str) -> Description {
    let range = ValueType { min: Some((-10).into()), max: Some(10.into()), ..ValueType::of(Form::F64) };
    let n = Param { name: "n".to_owned(), kind: ValueType::of(Form::I64), optional: true, ..Param::default() };
    Description {
        name: name.to_owned(),
        items: vec![
            Item { name: "position".to_owned(), kind: range, writable: true, persist: true, ..Item::default() },
            Item { name: "count".to_owned(), kind: ValueType::of(Form::I64), ..Item::default() },
            Item { name: "who".to_owned(), published: false, ..Item::default() },
        ],
        events: ["can_begin", "prepare_trial", "break"].map(|name| handled(name, 1)).into(),
        calls: vec![Handled { params: vec![n], ..handled("echo", 4) }, handled("slow", 1), handled("chain", 1)],
        ..Description::default()
    }
}

fn agent(beamline: &Beamline, name: &str) -> (Agent, Arc<Device>) {
    let config = AgentConfig { name: format!("x01/agent-{name}"), kind: "device".to_owned(), ..beamline.config() };
    let agent = Agent::start(config, vec![]).unwrap();
    let device = Arc::new(Device { endpoint: beamline.request_endpoint(), ..Device::default() });
    let host = agent.host(description(&format!("x01/{name}")), Arc::clone(&device) as Arc<dyn Handler>).unwrap();
    device.host.set(host).ok().unwrap();
    agent.set_state(AgentState::Ready);
    wait_for("the subsystem is known", || {
        let get = GetSubsystem { name: format!("x01/{name}") };
        beamline.client().call(&get, CALL).is_ok_and(|status| status.state == AgentState::Ready)
    });
    (agent, device)
}

fn event(client: &Client, name: &str, params: Params, timeout: Duration) -> EventResults {
    let event = CallEvent { event: name.to_owned(), targets: vec![], params };
    client.call(&event, timeout).unwrap()
}

fn ends(results: &EventResults) -> Vec<(&str, TargetEnd)> {
    results.results.iter().map(|result| (result.target.as_str(), result.end)).collect()
}

fn code<T: std::fmt::Debug>(result: Result<T, CallError>) -> ErrorCode {
    match result {
        Err(CallError::Refused(failure)) => failure.code,
        other => panic!("{other:?}"),
    }
}

fn set(client: &Client, value: f64) -> Result<Reading, CallError> {
    let (subsystem, item) = ("x01/stage".to_owned(), "position".to_owned());
    client.call(&Set { subsystem, item, value: value.into(), if_revision: None }, CALL)
}

fn get(client: &Client, item: &str) -> Result<Reading, CallError> {
    client.call(&Get { subsystem: "x01/stage".to_owned(), item: item.to_owned() }, CALL)
}

#[test]
fn one_subsystem_objects_and_nothing_begins_until_it_does_not() {
    let beamline = Beamline::new();
    let client = beamline.client();
    let (_laser, _) = agent(&beamline, "laser");
    let (stage_agent, stage) = agent(&beamline, "stage");
    stage.door_open.store(true, Ordering::Relaxed);
    let results = event(&client, "can_begin", Params::new(), CALL);
    assert_eq!(ends(&results), [("x01/laser", TargetEnd::Ok), ("x01/stage", TargetEnd::Refused)]);
    let objection = results.objections().next().unwrap();
    assert_eq!(objection.reason.as_ref().unwrap().message, "Door open");
    stage.door_open.store(false, Ordering::Relaxed);
    assert_eq!(event(&client, "can_begin", Params::new(), CALL).objections().count(), 0);

    // Gone without a word, in the middle of an event: the caller hears of it within the heartbeat's time.
    let pending = client
        .start(
            &CallEvent {
                event: "prepare_trial".to_owned(),
                targets: vec!["x01/stage".to_owned(), "x01/laser".to_owned(), "x01/nobody".to_owned()],
                params: [("seconds".to_owned(), 0.3.into())].into(),
            },
            CALL,
        )
        .unwrap();
    sleep(Duration::from_millis(100));
    stage_agent.stop(Duration::ZERO);
    let results = client.finish(pending).unwrap();
    let wanted = [TargetEnd::Gone, TargetEnd::Ok, TargetEnd::NotHandled];
    let found: Vec<_> = results.results.iter().map(|result| result.end).collect();
    assert!(found == wanted || found[0] == TargetEnd::Cancelled && found[1..] == wanted[1..], "{results:?}");
}

#[test]
fn a_value_is_checked_then_taken_changed_or_refused_by_its_owner() {
    let beamline = Beamline::new();
    let client = beamline.client();
    let (_agent, stage) = agent(&beamline, "stage");
    assert_eq!(code(get(&client, "position")), ErrorCode::NotSet);
    let taken = set(&client, -3.3).unwrap();
    assert_eq!((taken.value, taken.revision), (Value::from(-3.5), 1));
    assert_eq!(get(&client, "position").unwrap().value, Value::from(-3.5));
    assert_eq!(code(set(&client, 11.0)), ErrorCode::OutOfRange);
    let CallError::Refused(failure) = set(&client, 6.0).unwrap_err() else { panic!() };
    assert_eq!((failure.code, failure.message.as_str()), (ErrorCode::Refused, "six is blocked by the interlock"));
    assert_eq!(stage.writes.load(Ordering::Relaxed), 2, "what is out of range does not reach the owner");
    let CallError::Refused(failure) = set(&client, 7.0).unwrap_err() else { panic!() };
    assert!(failure.message.contains("a handler breaks"), "{failure:?}");
    assert_eq!(set(&client, 2.0).unwrap().value, Value::from(2.0), "and nobody else hears of it");
    let (subsystem, item) = ("x01/stage".to_owned(), "count".to_owned());
    let read_only = Set { subsystem, item, value: 1.into(), if_revision: None };
    assert_eq!(code(client.call(&read_only, CALL)), ErrorCode::ReadOnly);
    assert_eq!(get(&client, "who").unwrap().value, Value::from("anonymous"));
    let CallError::Refused(failure) = get(&client, "positoin").unwrap_err() else { panic!() };
    assert!(failure.hint.unwrap().contains("position"));
}

#[test]
fn two_sets_of_one_revision_are_one_set_and_one_refusal() {
    let beamline = Beamline::new();
    let (_agent, _stage) = agent(&beamline, "stage");
    let client = beamline.client();
    let revision = set(&client, 1.0).unwrap().revision;
    let at = |value: f64| Set {
        subsystem: "x01/stage".to_owned(),
        item: "position".to_owned(),
        value: value.into(),
        if_revision: Some(revision),
    };
    let (first, second) = (client.start(&at(2.0), CALL).unwrap(), client.start(&at(3.0), CALL).unwrap());
    assert_eq!(client.finish(first).unwrap().revision, revision + 1);
    assert!(matches!(code(client.finish(second)), ErrorCode::Conflict | ErrorCode::Changed));
    assert_eq!(code(client.call(&at(4.0), CALL)), ErrorCode::Changed);
}

#[test]
fn slow_calls_delay_nobody_else_and_each_answer_is_its_own() {
    let beamline = Beamline::new();
    let (_agent, _stage) = agent(&beamline, "stage");
    let client = beamline.client();
    let call = |name: &str, n: i64| DoCall { call: name.to_owned(), params: [("n".to_owned(), n.into())].into() };
    let started = Instant::now();
    assert_eq!(code(client.call(&call("slow", 0), Duration::from_millis(100))), ErrorCode::Timeout);
    assert!(started.elapsed() < Duration::from_millis(350), "{:?}", started.elapsed());
    for n in 0..100 {
        let begun = Instant::now();
        assert_eq!(client.call(&call("echo", n), CALL).unwrap().value, Value::from(n));
        assert!(begun.elapsed() < Duration::from_millis(200), "{:?} for a fast call", begun.elapsed());
    }
    // More than leave in one part.
    let calls: Vec<_> = (0..300).map(|n| call("echo", n)).collect();
    for (n, pending) in client.start_all(&calls, CALL).unwrap().into_iter().enumerate().rev() {
        assert_eq!(client.finish(pending).unwrap().value, Value::from(n), "collected in another order");
    }
    let long = DoCall { params: [("n".to_owned(), "n".repeat(BODY_BYTES_MAX).into())].into(), ..call("echo", 0) };
    let refused = client.start_all(&[call("slow", 0), long], CALL).unwrap_err();
    assert!(matches!(refused, CallError::TooLong { .. }), "{refused}");
    assert_eq!(client.start_all::<DoCall>(&[], CALL).unwrap().len(), 0);
    let bad = DoCall { call: "echo".to_owned(), params: [("n".to_owned(), "seven".into())].into() };
    let CallError::Refused(failure) = client.call(&bad, CALL).unwrap_err() else { panic!() };
    assert_eq!((failure.code, failure.message.as_str()), (ErrorCode::WrongType, "echo: parameter n is text, not i64"));
    assert_eq!(code(client.call(&call("ecko", 1), CALL)), ErrorCode::NotHandled);
}

#[test]
fn several_workers_share_a_call_and_one_that_is_gone_fails_its_caller_at_once() {
    let beamline = Beamline::new();
    let (first, _) = agent(&beamline, "a");
    let (_second, _) = agent(&beamline, "b");
    let client = beamline.client();
    let slow = DoCall { call: "slow".to_owned(), params: Params::new() };
    let started = Instant::now();
    let pending: Vec<_> = (0..3).map(|_| client.start(&slow, CALL).unwrap()).collect();
    let by: Vec<_> = pending.into_iter().map(|pending| client.finish(pending).unwrap().by).collect();
    assert!(by.contains(&"x01/a".to_owned()) && by.contains(&"x01/b".to_owned()), "{by:?}");
    assert!(started.elapsed() < Duration::from_millis(1700), "two at a time: {:?}", started.elapsed());

    let pending: Vec<_> = (0..2).map(|_| client.start(&slow, CALL).unwrap()).collect();
    sleep(Duration::from_millis(100));
    first.stop(Duration::ZERO);
    let results: Vec<_> = pending.into_iter().map(|pending| client.finish(pending)).collect();
    let lost = results.iter().filter(|result| result.is_err()).count();
    assert!(lost == 1 && results.iter().any(|result| result.as_ref().is_ok_and(|result| result.by == "x01/b")));
    wait_for("the other one goes on", || client.call(&slow, CALL).is_ok_and(|result| result.by == "x01/b"));
}

#[test]
fn many_agents_that_come_at_once_are_all_taken_in_and_all_asked() {
    let beamline = Beamline::new();
    let names: Vec<_> = (0..60).map(|number| format!("n{number}")).collect();
    let agents: Vec<_> = thread::scope(|scope| {
        let started: Vec<_> = names.iter().map(|name| scope.spawn(|| agent(&beamline, name))).collect();
        started.into_iter().map(|agent| agent.join().unwrap()).collect()
    });
    let at_once = [("seconds".to_owned(), 0.0.into())].into();
    let results = event(&beamline.client(), "prepare_trial", at_once, WATCHDOG);
    assert_eq!((results.results.len(), agents.len()), (60, 60));
    assert!(results.results.iter().all(|result| result.end == TargetEnd::Ok), "{:?}", ends(&results));
}

#[test]
fn a_barrier_waits_for_the_slowest_and_names_who_broke() {
    let beamline = Beamline::new();
    let agents: Vec<_> = ["a", "b", "c"].iter().map(|name| agent(&beamline, name)).collect();
    let client = beamline.client();
    let mut feedback = Vec::new();
    let prepare = CallEvent {
        event: "prepare_trial".to_owned(),
        targets: vec![],
        params: [("seconds".to_owned(), 0.5.into())].into(),
    };
    let started = Instant::now();
    let results = client
        .call_with(&prepare, CALL, |kind, body| {
            if kind == Feedback::KIND {
                feedback.push(decode::<Feedback>(body).unwrap());
            }
        })
        .unwrap();
    assert!(started.elapsed() >= Duration::from_millis(500));
    assert_eq!(results.objections().count(), 0);
    feedback.sort_by(|left, right| left.target.cmp(&right.target));
    let told: Vec<_> = feedback.iter().map(|feedback| feedback.target.as_str()).collect();
    assert_eq!(told, ["x01/a", "x01/b", "x01/c"]);

    let results = event(&client, "break", Params::new(), CALL);
    assert!(results.results.iter().all(|result| result.end == TargetEnd::Failed), "{results:?}");
    assert!(results.results[0].reason.as_ref().unwrap().message.contains("a handler breaks"));
    assert_eq!(event(&client, "can_begin", Params::new(), CALL).objections().count(), 0, "it lives on");
    let timed_out =
        event(&client, "prepare_trial", [("seconds".to_owned(), 5.into())].into(), Duration::from_millis(200));
    assert!(timed_out.results.iter().all(|result| result.end == TargetEnd::Timeout));
    drop(agents);
}

#[test]
fn what_a_handler_asks_in_turn_is_in_the_trace_of_what_asked_it() {
    let beamline = Beamline::new();
    let (_agent, _stage) = agent(&beamline, "stage");
    let client = beamline.client();
    let chain = DoCall { call: "chain".to_owned(), params: Params::new() };
    assert_eq!(client.call(&chain, CALL).unwrap().value, Value::from("anonymous"));
    let id = client.last_trace().unwrap();
    let spans = client.call(&GetTrace { id }, CALL).unwrap().spans;
    let kinds: Vec<_> = spans.iter().map(|span| span.kind.as_str()).collect();
    assert_eq!(kinds, ["call.do", "call.run", "kv.get", "kv.read"]);
    for pair in spans.windows(2) {
        assert_eq!(pair[1].parent, pair[0].span, "{spans:#?}");
    }
    assert!(spans.iter().all(|span| span.outcome == "ok" && span.end_ns >= span.begin_ns), "{spans:#?}");
}

#[test]
fn values_and_alarms_come_back_with_the_broker_and_kept_ones_with_the_agent() {
    let mut beamline = Beamline::new();
    let (stage_agent, stage) = agent(&beamline, "stage");
    let client = beamline.client();
    let host = stage.host.get().unwrap();
    host.publish("count", 7).unwrap();
    host.raise("OVERTEMP", Severity::Alarm, "65 degrees in the mirror box");
    set(&client, 2.0).unwrap();
    wait_for("the count", || get(&client, "count").is_ok());
    let alarms = || client.call(&ListAlarms {}, CALL).map(|list| list.alarms).unwrap_or_default();
    wait_for("the alarm", || alarms().len() == 1);

    beamline.stop_broker();
    beamline.start_broker();
    wait_for("the values are back", || {
        get(&client, "count").is_ok_and(|reading| reading.value == Value::from(7)) && alarms().len() == 1
    });
    let kept = get(&client, "position").unwrap();
    assert_eq!(kept.value, Value::from(2.0));
    assert!(kept.revision >= 2, "the revision goes on over a restart: {}", kept.revision);

    stage_agent.stop(Duration::from_secs(1));
    let gone = client.call(&GetSubsystem { name: "x01/stage".to_owned() }, CALL).unwrap();
    assert_eq!(gone.state, AgentState::Gone);
    assert_eq!(code(set(&client, 1.0)), ErrorCode::AgentLost);
    assert_eq!(get(&client, "position").unwrap().value, Value::from(2.0), "its last value is still known");
    let (_agent, again) = agent(&beamline, "stage");
    wait_for("what was kept", || !again.restored.lock().unwrap().is_empty());
    let restored = again.restored.lock().unwrap().clone();
    assert_eq!((restored.len(), &restored[0].value), (1, &Value::from(2.0)), "{restored:?}");
    wait_for("the alarm of before is over", || alarms().is_empty());
}

/// Also one that is hosted long after the registration, whose description goes by itself.
#[test]
fn what_was_kept_is_given_to_a_subsystem_that_is_hosted_late() {
    let beamline = Beamline::new();
    let (first, _stage) = agent(&beamline, "stage");
    set(&beamline.client(), 2.0).unwrap();
    first.stop(Duration::from_secs(1));
    let config = AgentConfig { name: "x01/agent-stage".to_owned(), kind: "device".to_owned(), ..beamline.config() };
    let late = Agent::start(config, vec![]).unwrap();
    wait_for("the registration", || late.is_connected());
    let device = Arc::new(Device { endpoint: beamline.request_endpoint(), ..Device::default() });
    let _host = late.host(description("x01/stage"), Arc::clone(&device) as Arc<dyn Handler>).unwrap();
    wait_for("what was kept", || !device.restored.lock().unwrap().is_empty());
    assert_eq!(device.restored.lock().unwrap()[0].value, Value::from(2.0));
}

#[test]
fn a_burst_of_values_arrives_in_order_and_every_gap_can_be_seen() {
    let beamline = Beamline::new();
    let (_agent, stage) = agent(&beamline, "stage");
    let mut topics = Subscriber::new(&beamline.publish_endpoint(), ["x01/stage/kv/count"]).unwrap();
    let host = stage.host.get().unwrap();
    host.publish("count", -1).unwrap();
    wait_for("the subscription", || topics.next(Duration::from_millis(100)).is_some());
    const COUNT: i64 = 30_000;
    (0..COUNT).for_each(|n| host.publish("count", n).unwrap());
    let started = Instant::now();
    let (mut seen, mut last, mut gaps, mut published) = (0, (0, -1), 0, COUNT);
    while last.1 != published - 1 {
        assert!(started.elapsed() < WATCHDOG);
        let Some((_, header, value)) = topics.next(Duration::from_millis(500)) else {
            host.publish("count", published).unwrap(); // the newest was dropped too: the next one tells
            published += 1;
            continue;
        };
        let n = value.as_u64().unwrap() as i64;
        assert!(n > last.1 && header.seq > last.0, "in order");
        if last.0 > 0 {
            assert_eq!((header.seq - last.0) as i64, n - last.1, "revisions count what was skipped");
            gaps += header.seq - last.0 - 1;
        }
        (seen, last) = (seen + 1, (header.seq, n));
    }
    println!("{seen} of {COUNT} values seen, {gaps} skipped and told");
}

#[test]
fn a_watcher_gets_the_newest_at_its_rate_and_goes_on_with_the_next_broker() {
    let mut beamline = Beamline::new();
    let items = vec!["x01/stage/count".to_owned()];
    let mut slow = Watcher::new(&beamline.request_endpoint(), items.clone(), Some(5.0)).unwrap();
    assert!(slow.next(Duration::from_millis(200)).unwrap().is_none(), "it is not there yet");
    let (_agent, stage) = agent(&beamline, "stage");
    let host = stage.host.get().unwrap();
    let begun = Instant::now();
    let mut updates = Vec::new();
    for n in 0..1000 {
        host.publish("count", n).unwrap();
        updates.extend(slow.next(Duration::from_millis(1)).unwrap());
    }
    let took_s = begun.elapsed().as_secs_f64();
    while updates.last().is_none_or(|update| update.value != Value::from(999)) {
        updates.push(slow.next(WATCHDOG).unwrap().expect("the newest is told in the end"));
    }
    assert!(updates.len() as f64 <= took_s * 5.0 + 3.0, "{} updates in {took_s} s", updates.len());
    let told: u64 = updates[1..].iter().map(|update| update.missed + 1).sum();
    assert_eq!(updates[0].revision + told, 1000, "each update says how many it leaves out");

    beamline.stop_broker();
    beamline.start_broker();
    let update = slow.next(WATCHDOG).unwrap().expect("the current value, of the next broker");
    assert_eq!(update.value, Value::from(999));
    let mut late = Watcher::new(&beamline.request_endpoint(), items, None).unwrap();
    assert_eq!(late.next(WATCHDOG).unwrap().unwrap().value, Value::from(999));
    let mut bad = Watcher::new(&beamline.request_endpoint(), vec![], Some(-1.0)).unwrap();
    assert!(bad.next(WATCHDOG).unwrap_err().to_string().contains("a rate above 0"));
}

#[test]
fn a_value_of_64_mib_passes_and_a_longer_one_is_refused() {
    let beamline = Beamline::new();
    let (_agent, stage) = agent(&beamline, "stage");
    let client = beamline.client();
    let host = stage.host.get().unwrap();
    let mut description = description("x01/stage");
    description.items.push(Item { name: "image".to_owned(), kind: ValueType::of(Form::Bytes), ..Item::default() });
    host.describe(description).unwrap();
    let long: Vec<u8> = (0..64 << 20).map(|n: u32| n as u8).collect();
    assert!(host.publish("image", Value::Bytes(vec![0; long.len() + 1])).is_err());
    host.publish("image", Value::Bytes(long.clone())).unwrap();
    wait_for("the image", || get(&client, "image").is_ok());
    assert!(get(&client, "image").unwrap().value == Value::Bytes(long));
}

#[test]
fn a_second_owner_of_a_subsystem_is_refused_and_told_who_holds_it() {
    let beamline = Beamline::new();
    let (_agent, _stage) = agent(&beamline, "stage");
    let client = beamline.client();
    let thief = |subsystems| Register {
        name: "x01/thief".to_owned(),
        kind: "device".to_owned(),
        host: "host".to_owned(),
        pid: 1,
        version: "1".to_owned(),
        instance: 1,
        state: AgentState::Ready,
        services: vec![],
        jobs: vec![],
        subsystems,
    };
    let refusal = |answer: Result<(), CallError>| match answer {
        Err(CallError::Refused(failure)) => (failure.code, failure.message.contains("x01/agent-stage")),
        other => panic!("{other:?}"),
    };
    let stolen = thief(vec![description("x01/stage")]);
    assert_eq!(refusal(client.call(&stolen, CALL).map(drop)), (ErrorCode::NameTaken, true));
    client.call(&thief(vec![]), CALL).unwrap();
    let describe = Describe { description: description("x01/stage") };
    assert_eq!(refusal(client.call(&describe, CALL).map(drop)), (ErrorCode::NameTaken, true));
    let listed = beamline.client().call(&GetSubsystem { name: "x01/stage".to_owned() }, CALL).unwrap();
    assert_eq!(listed.agent, "x01/agent-stage");
}

/// Restoring takes no answer: what waits behind it is begun all the same, and not when something else wakes the agent.
#[test]
fn what_waited_for_kept_values_is_begun_at_once_behind_them() {
    let mut beamline = Beamline::without_broker();
    beamline.heartbeat = Duration::from_secs(5);
    beamline.start_broker();
    let (first, _stage) = agent(&beamline, "stage");
    set(&beamline.client(), 2.0).unwrap();
    first.stop(Duration::from_secs(1));
    let config = AgentConfig { name: "x01/agent-stage".to_owned(), kind: "device".to_owned(), ..beamline.config() };
    let again = Agent::start(config, vec![]).unwrap();
    let slow =
        Device { endpoint: beamline.request_endpoint(), restoring: Duration::from_millis(300), ..Device::default() };
    let slow = Arc::new(slow);
    let _host = again.host(description("x01/stage"), Arc::clone(&slow) as Arc<dyn Handler>).unwrap();
    let get = Get { subsystem: "x01/stage".to_owned(), item: "who".to_owned() };
    let client = beamline.client();
    let begun = Instant::now();
    wait_for("its answer", || client.call(&get, CALL).is_ok());
    assert!(!slow.restored.lock().unwrap().is_empty(), "answered before it had its values");
    assert!(begun.elapsed() < beamline.heartbeat, "it waited for the next sign of life");
    again.stop(Duration::ZERO);
}
