//! Who is there.

use crate::world::{TIMEOUT_S, World, code, follower, register, subsystem};
use ecs_broker::limits::AGENTS_MAX;
use ecs_schemas::{
    envelope::decode,
    error_code::ErrorCode,
    registry::{AgentState, AgentStatus, Heartbeat, Leave, Register, ServiceOffer},
};

#[test]
fn second_holder_of_a_name_is_refused_and_told_who_has_it() {
    let mut world = World::with_writer();
    let refusal = world.register("b", "x01/writer", 2, &[]).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::NameTaken);
    assert!(refusal.message.contains("process 7 on host"), "{refusal}");
    assert!(world.heartbeat("a").is_ok(), "the holder keeps the name");
}

#[test]
fn same_instance_takes_its_name_over_to_a_new_connection() {
    let mut world = World::with_writer();
    let since_ns = world.agent("x01/writer").since_ns;
    world.pass(1, &["a"]);
    world.register("b", "x01/writer", 1, &[]).unwrap();
    assert!(world.heartbeat("b").is_ok());
    assert_eq!(code(world.heartbeat("a")), ErrorCode::NotRegistered, "the old connection is nobody now");
    assert_eq!(world.agent("x01/writer").since_ns, since_ns, "it is the same start of the process");
}

#[test]
fn silent_agent_is_gone_after_the_timeout_and_its_name_is_free() {
    let mut world = World::with_writer();
    world.pass(TIMEOUT_S - 1, &[]);
    assert_eq!(world.agent("x01/writer").state, AgentState::Ready);
    world.pass(1, &[]);
    assert_eq!(world.agent("x01/writer").state, AgentState::Gone);
    assert_eq!(code(world.heartbeat("a")), ErrorCode::NotRegistered);
    world.register("b", "x01/writer", 2, &[]).unwrap();
    assert_eq!(world.agent("x01/writer").state, AgentState::Ready);
}

#[test]
fn any_message_of_an_agent_is_a_sign_of_life() {
    let mut world = World::with_writer();
    for _ in 0..2 * TIMEOUT_S {
        world.pass(1, &[]);
        world.send_parts("a", vec![b"not even a header".to_vec()]);
    }
    assert_eq!(world.agent("x01/writer").state, AgentState::Ready);
}

#[test]
fn agent_that_takes_its_leave_is_gone_at_once() {
    let mut world = World::with_writer();
    world.ask("a", &Leave {}).unwrap();
    assert_eq!(world.agent("x01/writer").state, AgentState::Gone);
    world.register("b", "x01/writer", 2, &[]).unwrap();
}

#[test]
fn beamline_is_ready_when_every_agent_of_its_configuration_is() {
    let mut world = World::new();
    let missing = world.agent("x01/writer");
    assert_eq!((missing.state, missing.kind.as_str(), missing.seen_ns), (AgentState::Missing, "writer", 0));
    world.register("b", "x01/other", 5, &[]).unwrap();
    assert!(!world.status().ready, "the one that is asked for is not there");
    world.register("a", "x01/writer", 1, &[]).unwrap();
    assert!(world.status().ready);
    world.ask("a", &Heartbeat { state: AgentState::Starting }).unwrap();
    assert!(!world.status().ready);
}

#[test]
fn changes_of_state_are_published_once_each() {
    let mut world = World::new();
    world.register("a", "x01/writer", 1, &[]).unwrap();
    world.pass(2, &["a"]);
    world.pass(TIMEOUT_S, &[]);
    let states: Vec<AgentState> = world
        .published
        .iter()
        .filter(|publication| &*publication.topic == "x01/writer/state")
        .map(|publication| decode::<AgentStatus>(&publication.payload).unwrap().state)
        .collect();
    assert_eq!(states.last(), Some(&AgentState::Gone));
    assert_eq!(states.iter().filter(|state| **state == AgentState::Gone).count(), 1);
    assert!(states.contains(&AgentState::Ready));
}

#[test]
fn registration_with_a_bad_field_is_refused_and_changes_nothing() {
    let mut world = World::new();
    let good = register("x01/new", 1, &[]);
    let with_services = |services| Register { services, ..good.clone() };
    let bad = [
        register("x02/new", 1, &[]),
        register("x01/jobs/7", 1, &[]),
        register("new", 1, &[]),
        Register { state: AgentState::Gone, ..good.clone() },
        Register { kind: "k".repeat(1000), ..good.clone() },
        with_services((0..17).map(|number| ServiceOffer::new(number.to_string())).collect()),
        with_services(vec![ServiceOffer::new("twice"), ServiceOffer::new("twice")]),
        with_services(vec![ServiceOffer::new("")]),
        with_services(vec![ServiceOffer::new("s".repeat(129))]),
        with_services(vec![follower("s", "")]),
        with_services(vec![follower("s", "s")]),
        with_services(vec![ServiceOffer { jobs_at_once: 0, ..ServiceOffer::new("s") }]),
        with_services(vec![ServiceOffer { jobs_at_once: 33, ..ServiceOffer::new("s") }]),
        with_services(vec![ServiceOffer { help: "h".repeat(257), ..ServiceOffer::new("s") }]),
    ];
    for register in bad {
        assert_eq!(code(world.ask("n", &register)), ErrorCode::BadParameter, "{register:?}");
    }
    assert_eq!(world.status().agents.len(), 1);
    world.ask("n", &good).unwrap();
    assert_eq!(code(world.register("n", "x01/another", 1, &[])), ErrorCode::Conflict, "one connection, one name");
}

#[test]
fn agents_beyond_the_limit_push_out_gone_ones_and_are_refused_when_there_are_none() {
    let mut world = World::new();
    for number in 1..AGENTS_MAX {
        world.register(&format!("s{number}"), &format!("x01/agent-{number}"), 1, &[]).unwrap();
    }
    assert_eq!(code(world.register("late", "x01/late", 1, &[])), ErrorCode::Busy);
    world.ask("s5", &Leave {}).unwrap();
    world.register("late", "x01/late", 1, &[]).unwrap();
    let names: Vec<String> = world.status().agents.into_iter().map(|agent| agent.name).collect();
    assert_eq!(names.len(), AGENTS_MAX);
    assert!(!names.contains(&"x01/agent-5".to_owned()) && names.contains(&"x01/writer".to_owned()));
}

/// The limits come before everything that walks what was brought: a hundred thousand rows would take days.
#[test]
fn registration_with_too_many_services_that_follow_is_refused_at_once() {
    let mut world = World::new();
    for count in [17, 33, 100_000] {
        let services = (0..count).map(|number| follower(&number.to_string(), "x")).collect();
        let refusal = world.ask("n", &Register { services, ..register("x01/new", 1, &[]) }).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::BadParameter, "{count}");
        assert!(refusal.message.starts_with("at most 16 services"), "{count}: {refusal}");
    }
}

/// Every place is taken, one by an agent that is gone: what is refused for its subsystems does not cost that one its place.
#[test]
fn registration_that_is_refused_pushes_no_agent_out() {
    let mut world = World::new();
    for number in 1..AGENTS_MAX {
        world.register(&format!("s{number}"), &format!("x01/agent-{number}"), 1, &[]).unwrap();
    }
    world.ask("s5", &Leave {}).unwrap();
    let bad = Register { subsystems: vec![subsystem("x02/pump")], ..register("x01/late", 1, &[]) };
    assert_eq!(code(world.ask("late", &bad)), ErrorCode::BadParameter);
    assert_eq!(world.agent("x01/agent-5").state, AgentState::Gone);
}
