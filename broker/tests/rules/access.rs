//! Who may do what: rules A1 to A4, G4. Every kind of the table with every role, without a socket.

use crate::world::{World, code, handled, item, register, subsystem};
use ecs_broker::core::{
    Input, Sender,
    access::{NEEDS, role_needed},
};
use ecs_schemas::{
    envelope::{Header, decode},
    error_code::{ErrorCode, Failure},
    exchange::{Cancel, DoCall, Params, RunCall},
    job::{JobState, Submit},
    keys::{KeyHolder, NamePattern, PublicKey, Role},
    kv::{Unwatch, Update, Watch},
    registry::{AgentState, GetStatus},
    subsystem::Description,
    value::Value,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

fn holder(role: Role, names: &[&str]) -> Sender {
    let name = role.as_str().to_owned();
    let public = PublicKey::new(&format!("{name:0>40}")).unwrap();
    let names: Vec<NamePattern> = names.iter().map(|name| name.parse().unwrap()).collect();
    Sender::Holder(Arc::new(KeyHolder { name, public, role, names }))
}

fn agent(names: &[&str]) -> Sender {
    holder(Role::Agent, names)
}

/// What a request or notice of `kind` with an empty body is answered with.
fn answer_to(sender: Sender, kind: &str, id: u64) -> Option<ErrorCode> {
    let mut world = World::new();
    world.sender = sender;
    let header = Header { id, ..Header::request(kind, 1, 1000) };
    world.send_parts("somebody", vec![ecs_schemas::envelope::encode(&header), vec![0x80]]);
    let answers = world.take_inbox("somebody");
    assert!(answers.len() <= 1, "{kind}");
    answers.first().and_then(|(_, body)| decode::<Failure>(body).ok()).map(|failure| failure.code)
}

/// The table is what the rule says, and nothing else decides: forbidden exactly below the role that is needed.
#[test]
fn every_kind_is_forbidden_to_the_roles_below_the_one_it_needs_and_to_no_other() {
    for (kind, needed) in NEEDS {
        for role in Role::ALL {
            for id in [0, 7] {
                let is_forbidden = answer_to(holder(role, &["x01/*"]), kind, id) == Some(ErrorCode::Forbidden);
                assert_eq!(is_forbidden, role < *needed, "{kind} as {}, id {id}", role.as_str());
            }
        }
        assert_ne!(answer_to(Sender::Anyone, kind, 7), Some(ErrorCode::Forbidden), "{kind}");
        assert_eq!(answer_to(Sender::Revoked, kind, 7), Some(ErrorCode::Forbidden), "{kind}");
    }
}

/// The text for people has the same table, with no row more and no row less.
#[test]
fn table_of_the_specification_is_the_table_of_the_broker() {
    let spec = include_str!("../../../schemas/spec/security.md");
    let (_, behind) = spec.split_once("| kind | role |\n").unwrap();
    let rows = behind.lines().skip(1).take_while(|line| line.starts_with('|'));
    let told: BTreeSet<String> = rows.map(str::to_owned).collect();
    let needed = NEEDS.iter().map(|(kind, role)| format!("| `{kind}` | {} |", role.as_str()));
    assert_eq!(told, needed.collect());
}

#[test]
fn kind_that_is_not_in_the_table_needs_the_highest_role() {
    assert_eq!(role_needed("no.such"), Role::Agent);
    assert_eq!(answer_to(holder(Role::Operator, &[]), "no.such", 7), Some(ErrorCode::Forbidden));
    assert_eq!(answer_to(agent(&[]), "no.such", 7), Some(ErrorCode::UnknownKind));
}

#[test]
fn refusal_names_the_role_that_is_needed_and_how_to_get_it() {
    let mut world = World::with_writer();
    world.sender = holder(Role::Viewer, &[]);
    let failure = world.submit("k").unwrap_err();
    assert_eq!(failure.code, ErrorCode::Forbidden);
    assert_eq!(failure.message, "job.submit needs the role operator; the key viewer has the role viewer");
    assert!(failure.hint.unwrap().contains("ecs-cli keys add"));
    assert_eq!(world.status().broker.jobs_open, 0);
    world.sender = holder(Role::Operator, &[]);
    world.submit("k").unwrap();
}

#[test]
fn agent_registers_only_the_names_that_its_key_allows() {
    let mut world = World::new();
    world.sender = agent(&["x01/laser", "x01/stage-*"]);
    for name in ["x01/laser", "x01/laser/shutter", "x01/stage-1"] {
        world.register(name, name, 1, &[]).unwrap();
    }
    for name in ["x01/writer", "x01/laser2", "x01/stage"] {
        let failure = world.register(name, name, 1, &[]).unwrap_err();
        assert_eq!(failure.code, ErrorCode::Forbidden, "{name}");
        assert!(failure.message.contains(name) && failure.message.contains("x01/laser, x01/stage-*"), "{failure}");
    }
    assert_eq!(world.status().agents.iter().filter(|agent| agent.state == AgentState::Ready).count(), 3);
}

#[test]
fn agent_whose_key_is_taken_away_is_gone_at_once_and_gets_no_more_jobs() {
    let mut world = World::new();
    world.sender = agent(&["x01/*"]);
    world.register("a", "x01/writer", 1, &[]).unwrap();
    world.register("b", "x01/other", 2, &[]).unwrap();
    let other = PublicKey::new(&"x".repeat(40)).unwrap();
    world.batch(&[Input::Revoked { key: other }]);
    assert_eq!(world.agent("x01/writer").state, AgentState::Ready, "another key");
    let key = world.sender.key().unwrap().clone();
    world.batch(&[Input::Revoked { key }]);
    for name in ["x01/writer", "x01/other"] {
        assert_eq!(world.agent(name).state, AgentState::Gone);
    }
    world.sender = holder(Role::Operator, &[]);
    let submit = Submit { service: "write".to_owned(), params: Value::Null, key: "k".to_owned(), ..Submit::default() };
    assert_eq!(code(world.ask("client", &submit)), ErrorCode::NoSuchService);
    assert_eq!(world.runs("a"), []);
}

/// A job that runs goes the way of every agent that is gone.
#[test]
fn job_of_an_agent_whose_key_is_taken_away_is_lost_after_the_grace() {
    let mut world = World::new();
    world.sender = agent(&["x01/*"]);
    world.register("a", "x01/writer", 1, &[]).unwrap();
    let job = world.submit("k").unwrap().id;
    world.report("a", job, JobState::Running).unwrap();
    let key = world.sender.key().unwrap().clone();
    world.batch(&[Input::Revoked { key }]);
    world.sender = Sender::Revoked;
    assert_eq!(code(world.heartbeat("a")), ErrorCode::Forbidden);
    world.sender = holder(Role::Viewer, &[]);
    assert_eq!(world.state(job), JobState::Running);
    world.pass(60, &[]);
    assert_eq!(world.state(job), JobState::Lost);
}

/// The agent's connection ended, and somebody else's took its routing id: what it says is neither a sign of life nor the
/// agent's word, of whatever role it is.
#[test]
fn another_key_over_the_session_of_an_agent_does_not_go_on_as_that_agent() {
    let writer = agent(&["x01/*"]);
    let public = PublicKey::new(&"l".repeat(40)).unwrap();
    let names = vec!["x01/laser".parse().unwrap()];
    let laser = Sender::Holder(Arc::new(KeyHolder { name: "laser".to_owned(), public, role: Role::Agent, names }));
    for stranger in [laser, holder(Role::Viewer, &[]), Sender::Revoked] {
        let mut world = World::new();
        world.sender = writer.clone();
        world.host("h", "x01/pumps", 1, &[Description { calls: vec![handled("go")], ..subsystem("x01/pump") }]);
        world.register("a", "x01/writer", 1, &[]).unwrap();
        let job = world.submit("k").unwrap().id;
        world.report("a", job, JobState::Running).unwrap();
        let call = DoCall { call: "go".to_owned(), params: BTreeMap::new() };
        let asked = world.begin("client", &call);
        let (question, _) = world.question::<RunCall>("h");
        world.sender = stranger.clone();
        world.done("h", &question, 1);
        let refusal = world.report("a", job, JobState::Done).unwrap_err();
        assert!([ErrorCode::NotRegistered, ErrorCode::Forbidden].contains(&refusal.code), "{refusal}");
        world.ask("h", &GetStatus {}).ok();
        world.sender = writer.clone();
        assert_eq!(world.agent("x01/writer").state, AgentState::Gone, "it is no sign of life");
        assert_eq!(world.agent("x01/pumps").state, AgentState::Gone);
        assert_eq!(world.state(job), JobState::Running);
        assert_eq!(code(world.take_answer::<DoCall>("client", asked)), ErrorCode::AgentLost);
        world.register("b", "x01/writer", 2, &[job]).unwrap();
        world.report("b", job, JobState::Done).unwrap();
    }
}

#[test]
fn what_a_revoked_sender_says_is_no_sign_of_life() {
    let mut world = World::with_writer();
    for _ in 0..4 {
        world.sender = Sender::Revoked;
        world.now_ns += crate::world::SECOND_NS;
        assert_eq!(code(world.heartbeat("a")), ErrorCode::Forbidden);
        assert_eq!(code(world.ask("a", &register("x01/writer", 1, &[]))), ErrorCode::Forbidden);
        world.batch(&[Input::Tick]);
    }
    world.sender = Sender::Anyone;
    assert_eq!(world.agent("x01/writer").state, AgentState::Gone);
}

#[test]
fn who_asks_or_watches_with_a_key_that_is_taken_away_gets_nothing_more_but_that_word() {
    let mut world = World::new();
    world.host(
        "p",
        "x01/pump",
        1,
        &[Description { items: vec![item("speed")], calls: vec![handled("fit")], ..subsystem("x01/pump") }],
    );
    world.sender = holder(Role::Operator, &[]);
    let watch = Watch { items: vec!["x01/pump/speed".to_owned()], max_hz: None };
    world.ask("eve", &watch).unwrap();
    world.sender = Sender::Anyone;
    world.ask("bob", &watch).unwrap();
    world.publish("p", ("x01/pump", "speed"), 1).unwrap();
    assert_eq!((world.notices::<Update>("eve").len(), world.notices::<Update>("bob").len()), (1, 1));
    world.sender = holder(Role::Operator, &[]);
    let fit = DoCall { call: "fit".to_owned(), params: Params::new() };
    let id = world.begin("eve", &fit);
    let key = world.sender.key().unwrap().clone();
    world.sender = Sender::Anyone;
    let (question, _) = world.question::<RunCall>("p");
    world.batch(&[Input::Revoked { key }]);
    assert_eq!(code(world.take_answer::<DoCall>("eve", id)), ErrorCode::Forbidden);
    assert_eq!(world.notices::<Cancel>("p").len(), 1, "its worker need not go on");
    world.done("p", &question, 3);
    world.publish("p", ("x01/pump", "speed"), 2).unwrap();
    assert_eq!((world.take_inbox("eve").len(), world.notices::<Update>("bob").len()), (0, 1));
    world.ask("bob", &Unwatch { items: watch.items }).unwrap();
    world.check_nothing_is_left();
}
