//! Registering, losing and finding the broker, leaving.

use crate::setup::{Beamline, CALL, Scripted, WATCHDOG, state_of, status, wait_for, wait_state};
use ecs_schemas::{
    registry::{AgentState, GetStatus, ServiceOffer},
    value::Value,
};
use ecs_sdk::{Agent, AgentConfig, StartError, Subscriber};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

fn figures(number: u64) -> BTreeMap<String, Value> {
    BTreeMap::from([("number".to_owned(), Value::from(number))])
}

#[test]
fn agent_started_before_the_broker_registers_when_it_comes() {
    let mut beamline = Beamline::without_broker();
    let agent = beamline.agent(Scripted::endless());
    assert!(!agent.is_connected());
    agent.publish(figures(1));
    agent.publish(figures(2));
    beamline.start_broker();
    wait_for("the agent is connected", || agent.is_connected());
    let client = beamline.client();
    wait_state(&client, "x01/writer", AgentState::Ready);
    wait_for("its newest figures are there", || status(&client).unwrap().agents[0].telemetry == figures(2));
    let listed = &status(&client).unwrap().agents[0];
    assert_eq!((listed.pid, &listed.services), (std::process::id(), &vec![ServiceOffer::new("write")]));
    assert!(!listed.host.is_empty());
}

#[test]
fn agent_notices_that_the_broker_is_gone_and_registers_with_the_next_one() {
    let mut beamline = Beamline::new();
    let agent = beamline.agent(Scripted::endless());
    wait_for("connected", || agent.is_connected());
    beamline.stop_broker();
    wait_for("not connected", || !agent.is_connected());
    beamline.start_broker();
    wait_for("connected again", || agent.is_connected());
    wait_state(&beamline.client(), "x01/writer", AgentState::Ready);
}

#[test]
fn agent_stays_registered_while_it_has_nothing_to_say() {
    let beamline = Beamline::new();
    let agent = beamline.agent(Scripted::endless());
    let client = beamline.client();
    wait_state(&client, "x01/writer", AgentState::Ready);
    let since_ns = status(&client).unwrap().agents[0].since_ns;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        assert_eq!(state_of(&client, "x01/writer"), Some(AgentState::Ready), "it is alive all the time");
    }
    assert_eq!(status(&client).unwrap().agents[0].since_ns, since_ns);
    assert!(agent.is_connected());
}

#[test]
fn second_agent_of_a_name_waits_until_the_first_is_gone() {
    let beamline = Beamline::new();
    let first = beamline.agent(Scripted::endless());
    wait_for("the first is connected", || first.is_connected());
    let second = beamline.agent(Scripted::endless());
    let client = beamline.client();
    let received = || client.call(&GetStatus {}, CALL).unwrap().broker.received;
    let before = received();
    wait_for("the second has tried several times", || received() > before + 50);
    assert!(first.is_connected() && !second.is_connected());
    first.stop(WATCHDOG);
    wait_for("the second is connected", || second.is_connected());
}

#[test]
fn agent_that_stops_takes_its_leave_at_once() {
    let beamline = Beamline::new();
    let agent = beamline.agent(Scripted::endless());
    let client = beamline.client();
    wait_state(&client, "x01/writer", AgentState::Ready);
    agent.stop(WATCHDOG);
    assert_eq!(state_of(&client, "x01/writer"), Some(AgentState::Gone), "before stop returned");
    agent.stop(WATCHDOG); // again: nothing to do
}

#[test]
fn agent_whose_last_handle_is_dropped_leaves() {
    let beamline = Beamline::new();
    let client = beamline.client();
    let agent = beamline.agent(Scripted::endless());
    wait_state(&client, "x01/writer", AgentState::Ready);
    drop(agent.clone());
    assert!(agent.is_connected());
    drop(agent);
    wait_state(&client, "x01/writer", AgentState::Gone);
}

#[test]
fn stop_without_a_broker_returns_at_once() {
    let beamline = Beamline::without_broker();
    let agent = beamline.agent(Scripted::endless());
    let started = Instant::now();
    agent.stop(Duration::from_secs(15));
    assert!(started.elapsed() < Duration::from_secs(5), "took {:?}", started.elapsed());
}

#[test]
fn telemetry_reaches_a_subscriber_in_order() {
    let beamline = Beamline::new();
    let agent = beamline.agent(Scripted::endless());
    let mut subscriber = Subscriber::new(&beamline.publish_endpoint(), ["x01/writer/telemetry"]).unwrap();
    agent.publish(figures(0));
    let mut last = subscriber.next(WATCHDOG).expect("the first").2.get("number").and_then(Value::as_u64).unwrap();
    for number in 1..10 {
        agent.publish(figures(number));
        let (_, header, payload) = subscriber.next(WATCHDOG).expect("the next");
        assert_eq!(header.source, "x01/writer");
        let seen = payload.get("number").and_then(Value::as_u64).unwrap();
        assert!(seen > last);
        last = seen;
    }
    assert_eq!((last, subscriber.malformed()), (9, 0));
}

#[test]
fn agent_with_a_bad_name_or_endpoint_does_not_start() {
    let config = |name: &str, endpoint: &str| AgentConfig {
        name: name.to_owned(),
        kind: "writer".to_owned(),
        request_endpoint: endpoint.to_owned(),
        ended_jobs: vec![],
    };
    assert!(matches!(Agent::start(config("writer", "tcp://127.0.0.1:1"), vec![]), Err(StartError::Name(_))));
    let error = Agent::start(config("x01/writer", "no endpoint"), vec![]).err().expect("no agent");
    assert!(error.to_string().contains("tcp://ADDRESS:PORT"), "{error}");
}
