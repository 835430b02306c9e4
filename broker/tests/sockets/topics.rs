//! What is published, and to whom.

use crate::peers::{TestBroker, WATCHDOG, next_message, options, wait_for};
use ecs_schemas::{
    job::{CancelJob, JobState, ReportJob, Submit},
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
    let first =
        next_message(&subscriber, WATCHDOG).expect("the last value").1.get("seq").and_then(Value::as_u64).unwrap();
    for number in 1..=20 {
        agent.notify(&telemetry(number));
        let (_, header, payload) = next_message(&subscriber, WATCHDOG).expect("each message");
        assert_eq!(header.get("seq").and_then(Value::as_u64), Some(first + number));
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
