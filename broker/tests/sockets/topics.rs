//! What is published, and to whom.

use crate::peers::{TestBroker, WATCHDOG, next_message, options, wait_for};
use ecs_schemas::{telemetry::Telemetry, value::Value};
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
