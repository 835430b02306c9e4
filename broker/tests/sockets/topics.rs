//! What is published, and to whom.

use crate::peers::{TestBroker, WATCHDOG, next_message, options, register, wait_for};
use ecs_schemas::{
    envelope::{decode, encode},
    error_code::{ErrorCode, Failure},
    exchange::{CallEvent, Done, EventEnded, RunEvent, TargetEnd},
    job::{CancelJob, JobState, ReportJob, Submit},
    registry::Register,
    subsystem::{Description, Handled},
    telemetry::Telemetry,
    value::Value,
};
use std::{collections::BTreeMap, time::Duration};

fn telemetry(number: u64) -> Telemetry {
    Telemetry { values: BTreeMap::from([("number".to_owned(), Value::from(number))]) }
}

#[test]
fn late_subscriber_gets_the_last_value_of_what_it_subscribed_to_and_only_that() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(options(folder.path()));
    let (mut agent, mut other) = (broker.peer(), broker.peer());
    agent.register("x01/writer", 1);
    other.register("x01/other", 1);
    agent.notify(&telemetry(1));
    agent.notify(&telemetry(2));
    other.notify(&telemetry(3));
    wait_for("telemetry arrived", || {
        let status = agent.ask(&ecs_schemas::registry::GetStatus {}).unwrap();
        status.agents.iter().all(|agent| !agent.telemetry.is_empty())
    });
    let mut earlier = vec![]; // stays subscribed, so the second is not the first of its prefix
    for _ in 0..2 {
        let late = broker.subscriber("x01/writer/telemetry");
        let (topic, header, payload) = next_message(&late, WATCHDOG).expect("the last value");
        assert_eq!(topic, "x01/writer/telemetry");
        assert_eq!(payload.get("number"), Some(&Value::from(2)));
        assert_eq!(header.get("source"), Some(&"x01/writer".into()));
        assert!(next_message(&late, Duration::from_millis(100)).is_none(), "nothing else is selected");
        earlier.push(late);
    }
}

#[test]
fn subscriber_sees_every_message_of_a_topic_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(options(folder.path()));
    let mut agent = broker.peer();
    agent.register("x01/writer", 1);
    agent.notify(&telemetry(0));
    let subscriber = broker.subscriber("x01/writer/telemetry");
    let next = || {
        let (_, header, payload) = next_message(&subscriber, WATCHDOG).expect("each message");
        (header.get("seq").and_then(Value::as_u64).unwrap(), payload)
    };
    let (first, _) = next();
    for number in 1..=20 {
        agent.notify(&telemetry(number));
        let (mut seq, mut payload) = next();
        if (number, seq) == (1, first) {
            (seq, payload) = next(); // it saw the first one, and its repetition for those who come late
        }
        assert_eq!(seq, first + number);
        assert_eq!(payload.get("number").and_then(Value::as_u64), Some(number));
    }
}

#[test]
fn subscriber_that_comes_after_the_end_of_a_job_still_sees_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(options(folder.path()));
    let (mut agent, mut client) = (broker.peer(), broker.peer());
    agent.register("x01/writer", 1);
    let submit = |key: &str| Submit { service: "write".to_owned(), key: key.to_owned(), ..Submit::default() };
    let (done, killed) = (client.ask(&submit("1")).unwrap().id, client.ask(&submit("2")).unwrap().id);
    client.ask(&CancelJob { id: killed }).unwrap();
    agent.ask(&ReportJob { id: done, attempt: 1, state: JobState::Done, reason: None, result: None }).unwrap();
    for (id, state) in [(done, "done"), (killed, "cancelled")] {
        let late = broker.subscriber(&format!("x01/jobs/{id}"));
        let (_, _, record) = next_message(&late, WATCHDOG).expect("the last word on the job");
        assert_eq!(record.get("state"), Some(&state.into()), "job {id}");
    }
}

#[test]
fn end_of_an_event_is_told_to_whoever_listens_and_to_those_who_come_later() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(options(folder.path()));
    let (mut agent, mut client) = (broker.peer(), broker.peer());
    let arm = Handled { name: "arm".to_owned(), at_once: 1, ..Handled::default() };
    let laser = Description { name: "x01/laser".to_owned(), events: vec![arm], ..Description::default() };
    agent.ask(&Register { subsystems: vec![laser], ..register("x01/lasers", 1) }).unwrap();
    let call = CallEvent { event: "arm".to_owned(), targets: vec!["x01/laser".to_owned()], params: BTreeMap::new() };
    let early = broker.subscriber("x01/laser/event/");
    for (count, end) in [(1, TargetEnd::Ok), (2, TargetEnd::Refused)] {
        let asked = client.send(&call);
        let question = agent.await_question::<RunEvent>();
        match end {
            TargetEnd::Ok => agent.answer(&question.reply(), &Done { value: Value::from(7) }),
            _ => agent.answer(&question.error(), &Failure::new(ErrorCode::Refused, "the door is open")),
        }
        assert_eq!(client.receive().0.id, asked);
        for subscriber in [&early, &broker.subscriber("x01/laser/event/arm")] {
            let (topic, header, payload) = next_message(subscriber, WATCHDOG).expect("the end");
            assert_eq!((topic.as_str(), header.get("source")), ("x01/laser/event/arm", Some(&"x01/laser".into())));
            let ended: EventEnded = decode(&encode(&payload)).unwrap();
            assert_eq!((ended.by.as_str(), ended.result.target.as_str()), ("anonymous", "x01/laser"));
            let reason = ended.result.reason.map(|reason| reason.message);
            let expected = match end {
                TargetEnd::Ok => (Value::from(7), None),
                _ => (Value::Null, Some("the door is open".to_owned())),
            };
            assert_eq!((ended.result.end, (ended.result.value, reason)), (end, expected));
            assert_eq!(header.get("seq").and_then(Value::as_u64), Some(count));
        }
        let replayed = next_message(&early, WATCHDOG).expect("again, for the one that came late").1;
        assert_eq!(replayed.get("seq").and_then(Value::as_u64), Some(count));
    }
}
