//! Who hosts what: rules S1 to S3, D1, D2, D4 and D5, and every limit of descriptions.

use crate::world::{SECOND_NS, TIMEOUT_S, World, code, handled, item, register, session, subsystem};
use ecs_broker::{
    core::{Input, Outgoing},
    limits::{DESCRIPTION_BYTES_MAX, SUBSYSTEMS_MAX, SUBSYSTEMS_OF_AGENT_MAX},
};
use ecs_schemas::{
    envelope::decode,
    error_code::ErrorCode,
    kv::{Get, Item, ListItems, Publish, Restored},
    registry::{AgentState, Heartbeat, Leave, Register},
    subsystem::{Describe, Description, GetSubsystem, HELP_BYTES_MAX, ListSubsystems, Listed, Remove, SubsystemStatus},
    value::Value,
    value_type::{Form, ValueType},
};

const UUID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const OTHER_UUID: &str = "1f8fad5b-d9cb-469f-a165-70867728950e";
const PUMP: &str = "x01/pump";

fn pump() -> Description {
    Description { uuid: Some(UUID.to_owned()), items: vec![item("pressure")], ..subsystem(PUMP) }
}

fn describe(description: Description) -> Describe {
    Describe { description }
}

fn listed(world: &mut World, prefix: &str) -> Vec<Listed> {
    world.ask("client", &ListSubsystems { prefix: prefix.to_owned() }).unwrap().subsystems
}

fn names(world: &mut World, prefix: &str) -> Vec<String> {
    listed(world, prefix).into_iter().map(|listed| listed.name).collect()
}

fn get(world: &mut World, name: &str) -> SubsystemStatus {
    world.ask("client", &GetSubsystem { name: name.to_owned() }).unwrap()
}

fn has_item(name: &str) -> impl Fn(&Description) -> bool {
    move |description| description.items.iter().any(|item| item.name == name)
}

#[test]
fn an_agent_is_listed_with_all_that_it_hosts_and_found_by_name_and_uuid() {
    let mut world = World::new();
    let registered = world.host("p", "x01/pumps", 1, &[pump()]);
    let told: Vec<_> = registered.subsystems.iter().map(|its| its.name.as_str()).collect();
    assert_eq!(told, [PUMP, "x01/pumps"], "in their order, and itself");
    assert_eq!(names(&mut world, ""), ["x01/pump", "x01/pumps"]);
    assert_eq!(names(&mut world, "x01/pumps"), ["x01/pumps"]);
    assert_eq!(get(&mut world, PUMP), get(&mut world, UUID));
    assert_eq!(get(&mut world, PUMP).agent, "x01/pumps");
    let given = &registered.subsystems[1].uuid;
    assert_eq!(&get(&mut world, given).description.name, "x01/pumps");
    assert_eq!((given.len(), given.as_bytes()[14], given.as_bytes()[8]), (36, b'8', b'-'), "{given}");
}

#[test]
fn an_unknown_name_is_told_with_the_nearest_and_a_huge_one_costs_nothing() {
    let mut world = World::new();
    world.host("p", "x01/pumps", 1, &[pump()]);
    let ask = |world: &mut World, name: &str| world.ask("client", &GetSubsystem { name: name.to_owned() }).unwrap_err();
    let failure = ask(&mut world, "x01/pmup");
    assert_eq!(failure.code, ErrorCode::NoSuchSubsystem);
    assert!(failure.hint.unwrap().contains("x01/pump"));
    let failure = ask(&mut world, &"x".repeat(10_000_000));
    assert!(failure.message.len() < 1000 && failure.message.contains("10000000 bytes"), "{}", failure.message.len());
}

#[test]
fn a_name_or_uuid_of_a_live_owner_is_refused_and_free_when_it_is_gone() {
    let mut world = World::new();
    world.host("p", "x01/pumps", 1, &[pump()]);
    world.host("e", "x01/evil", 1, &[]);
    for (what, thief) in [
        ("the name", Description { uuid: Some(OTHER_UUID.to_owned()), ..pump() }),
        ("the name", pump()),
        ("the UUID", Description { name: "x01/other".to_owned(), ..pump() }),
        ("the name", subsystem("x01/pumps")),
    ] {
        let failure = world.ask("e", &describe(thief.clone())).unwrap_err();
        assert_eq!(failure.code, ErrorCode::NameTaken, "{thief:?}");
        assert!(failure.message.contains(what) && failure.message.contains("x01/pumps"), "{failure}");
        let register = Register { subsystems: vec![thief], ..register("x01/new", 1, &[]) };
        assert_eq!(code(world.ask("n", &register)), ErrorCode::NameTaken);
        assert!(!names(&mut world, "").contains(&"x01/new".to_owned()), "nothing of it was taken in");
    }
    world.pass(TIMEOUT_S, &["e"]);
    world.ask("e", &describe(pump())).unwrap();
    assert_eq!(get(&mut world, PUMP).agent, "x01/evil");
    let back = Register { subsystems: vec![pump()], ..register("x01/pumps", 2, &[]) };
    assert_eq!(code(world.ask("p2", &back)), ErrorCode::NameTaken);
}

#[test]
fn an_agent_gives_its_own_subsystem_another_uuid_but_not_two_of_them_one() {
    let mut world = World::new();
    world.host("p", "x01/pumps", 1, &[pump()]);
    world.ask("p", &describe(Description { uuid: Some(OTHER_UUID.to_owned()), ..pump() })).unwrap();
    assert_eq!(code(world.ask("c", &GetSubsystem { name: UUID.to_owned() })), ErrorCode::NoSuchSubsystem);
    assert_eq!(get(&mut world, OTHER_UUID).description.name, PUMP);
    let second = Description { name: "x01/second".to_owned(), uuid: Some(OTHER_UUID.to_owned()), ..pump() };
    assert_eq!(code(world.ask("p", &describe(second.clone()))), ErrorCode::NameTaken);
    for twice in [vec![pump(), pump()], vec![pump(), Description { uuid: Some(UUID.to_owned()), ..second }]] {
        let register = Register { subsystems: twice, ..register("x01/pumps", 1, &[]) };
        assert_eq!(code(world.ask("p", &register)), ErrorCode::BadParameter);
    }
}

#[test]
fn a_bad_description_is_refused_whole_and_changes_nothing() {
    let mut world = World::new();
    world.host("p", "x01/pumps", 1, &[pump()]);
    let wide = |name: &str| Description { name: name.to_owned(), ..pump() };
    let choices = (0..DESCRIPTION_BYTES_MAX / 8).map(|at| format!("{at:08}")).collect();
    let huge = ValueType { choices, ..ValueType::of(Form::Enum) };
    let bad = [
        wide("x02/pump"),
        wide("pump"),
        wide("x01/kv/pump"),
        wide("x01/pu mp"),
        Description { uuid: Some("A".repeat(36)), ..pump() },
        Description { items: vec![item("a"), item("a")], ..pump() },
        Description { events: vec![handled("")], ..pump() },
        Description { calls: vec![ecs_schemas::subsystem::Handled { at_once: 0, ..handled("go") }], ..pump() },
        Description { help: "h".repeat(HELP_BYTES_MAX + 1), ..pump() },
        Description { items: vec![Item { kind: huge, ..item("huge") }], ..pump() },
    ];
    for description in bad {
        let told = format!("{:?}", description.name);
        assert_eq!(code(world.ask("p", &describe(description.clone()))), ErrorCode::BadParameter, "{told}");
        let register = Register { subsystems: vec![description], ..register("x01/new", 1, &[]) };
        assert_eq!(code(world.ask("n", &register)), ErrorCode::BadParameter, "{told}");
    }
    assert_eq!(names(&mut world, ""), ["x01/pump", "x01/pumps"]);
    assert!(has_item("pressure")(&get(&mut world, PUMP).description));
    assert_eq!(code(world.ask("stranger", &describe(pump()))), ErrorCode::NotRegistered);
}

#[test]
fn a_subsystem_of_five_thousand_items_is_described_listed_and_told() {
    let mut world = World::new();
    let items: Vec<_> = (0..5000).map(|number| item(&format!("channel_{number:04}"))).collect();
    world.host("p", "x01/pumps", 1, &[Description { items, ..pump() }]);
    assert_eq!(get(&mut world, PUMP).description.items.len(), 5000);
    let list = ListItems { prefix: PUMP.to_owned() };
    assert_eq!(world.ask("client", &list).unwrap().items.len(), 5000);
    let last = Publish { subsystem: PUMP.to_owned(), item: "channel_4999".to_owned(), value: 0.5.into(), skipped: 0 };
    assert_eq!(world.ask("p", &last).unwrap().revision, 1);
    let get = Get { subsystem: PUMP.to_owned(), item: "channel_4999".to_owned() };
    assert_eq!(world.ask("client", &get).unwrap().value, Value::from(0.5));
}

#[test]
fn a_description_is_replaced_as_a_whole_and_published_at_once() {
    let mut world = World::new();
    world.host("p", "x01/pumps", 1, &[pump()]);
    world.published.clear();
    world.ask("p", &describe(Description { items: vec![item("speed")], ..pump() })).unwrap();
    let now = get(&mut world, PUMP).description;
    assert!(has_item("speed")(&now) && !has_item("pressure")(&now));
    let told: Vec<SubsystemStatus> = world
        .published
        .iter()
        .filter(|publication| &*publication.topic == "x01/pump/description")
        .map(|publication| decode(&publication.payload).unwrap())
        .collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].description, now);
}

#[test]
fn what_an_agent_does_not_bring_any_more_and_what_it_removes_is_forgotten() {
    let mut world = World::new();
    world.host("p", "x01/pumps", 1, &[pump(), subsystem("x01/valve")]);
    world.host("p", "x01/pumps", 1, &[pump()]);
    assert_eq!(names(&mut world, ""), ["x01/pump", "x01/pumps"]);
    let remove = |name: &str| Remove { name: name.to_owned() };
    world.host("e", "x01/evil", 1, &[]);
    assert_eq!(code(world.ask("e", &remove(PUMP))), ErrorCode::Conflict);
    assert_eq!(code(world.ask("stranger", &remove(PUMP))), ErrorCode::NotRegistered);
    assert_eq!(code(world.ask("p", &remove("x01/no"))), ErrorCode::NoSuchSubsystem);
    assert_eq!(code(world.ask("p", &remove("x01/pumps"))), ErrorCode::Conflict, "the agent itself");
    world.published.clear();
    world.ask("p", &remove(PUMP)).unwrap();
    assert_eq!(world.on_topic("x01/pump/description").last().unwrap().1, Value::Null, "its end is told");
    assert_eq!(code(world.ask("c", &GetSubsystem { name: UUID.to_owned() })), ErrorCode::NoSuchSubsystem);
}

/// An agent starts again and describes its pump after its registration, as an SDK does whose user is slow.
#[test]
fn what_an_agent_describes_before_it_is_ready_keeps_its_values_and_the_rest_is_forgotten_then() {
    let mut world = World::new();
    let kept = Description { items: vec![Item { persist: true, ..item("speed") }], ..subsystem("x01/pump") };
    world.host("p", "x01/pumps", 1, &[kept.clone(), subsystem("x01/valve")]);
    world.publish("p", (PUMP, "speed"), 5).unwrap();
    world.pass(TIMEOUT_S, &[]);
    let starting = Register { state: AgentState::Starting, ..register("x01/pumps", 2, &[]) };
    world.ask("q", &starting).unwrap();
    world.batch(&[Input::Tick]);
    world.restart_broker(); // also on the disk they are still there
    world.ask("q", &starting).unwrap();
    assert_eq!(names(&mut world, ""), ["x01/pump", "x01/pumps", "x01/valve"]);
    let described = world.ask("q", &Describe { description: kept }).unwrap();
    assert_eq!(described.restored.iter().map(|its| &its.value).collect::<Vec<_>>(), [&Value::from(5)]);
    world.ask("q", &Heartbeat { state: AgentState::Ready }).unwrap();
    assert_eq!(names(&mut world, ""), ["x01/pump", "x01/pumps"]);
    assert_eq!(world.get((PUMP, "speed")).unwrap().value, 5.into());
}

#[test]
fn a_subsystem_of_an_agent_that_is_gone_stays_listed_and_a_temporary_one_does_not() {
    let mut world = World::new();
    let tool = Description { temporary: true, ..subsystem("x01/tool") };
    world.host("p", "x01/pumps", 1, &[pump(), tool]);
    world.pass(TIMEOUT_S, &[]);
    let after = listed(&mut world, "");
    let names: Vec<_> = after.iter().map(|listed| (listed.name.as_str(), listed.state)).collect();
    assert_eq!(names, [("x01/pump", AgentState::Gone), ("x01/pumps", AgentState::Gone)]);
    assert_eq!(after[0].since_ns, world.now_ns);
    assert_eq!(world.on_topic("x01/tool/description").last().unwrap().1, Value::Null);
    assert!(!world.disk.subsystems.contains_key("x01/tool"));
    world.restart_broker();
    world.batch(&[Input::Tick]);
    assert_eq!(listed(&mut world, "").iter().map(|listed| listed.state).collect::<Vec<_>>(), [AgentState::Gone; 2]);
    assert_eq!(get(&mut world, PUMP).description.items, pump().items);
}

#[test]
fn a_reconnect_changes_nothing_for_whoever_looks_and_another_start_does() {
    let mut world = World::new();
    world.host("p", "x01/pumps", 1, &[pump()]);
    let since_ns = get(&mut world, PUMP).since_ns;
    world.now_ns += SECOND_NS;
    world.host("q", "x01/pumps", 1, &[pump()]);
    assert_eq!(get(&mut world, PUMP).since_ns, since_ns);
    world.ask("q", &Leave {}).unwrap();
    world.host("r", "x01/pumps", 2, &[pump()]);
    assert_eq!(get(&mut world, PUMP).since_ns, world.now_ns);
}

#[test]
fn descriptions_that_the_disk_does_not_take_are_stored_when_it_does_and_keep_no_agent_away() {
    let mut world = World::new();
    world.disk_works = false;
    world.host("p", "x01/pumps", 1, &[pump()]);
    assert_eq!(names(&mut world, PUMP), [PUMP, "x01/pumps"]);
    assert!(world.disk.subsystems.is_empty());
    world.disk_works = true;
    world.batch(&[Input::Tick]);
    assert_eq!(world.disk.subsystems[PUMP].agent, "x01/pumps");
}

#[test]
fn subsystems_of_one_agent_are_limited_one_by_one_and_together() {
    let mut world = World::new();
    let many: Vec<_> = (0..SUBSYSTEMS_OF_AGENT_MAX).map(|at| subsystem(&format!("x01/s{at}"))).collect();
    let too_many = Register { subsystems: many.clone(), ..register("x01/m", 1, &[]) };
    assert_eq!(code(world.ask("m", &too_many)), ErrorCode::BadParameter, "itself is one too");
    world.host("m", "x01/m", 1, &many[1..]);
    assert_eq!(code(world.ask("m", &describe(many[0].clone()))), ErrorCode::BadParameter);
    world.ask("m", &describe(many[1].clone())).unwrap();
    world.ask("m", &Remove { name: many[1].name.clone() }).unwrap();
    world.ask("m", &describe(many[0].clone())).unwrap();
}

/// A start that fails again and again, each time with other names: what it does not bring again is awaited, and takes no
/// more room than an agent has.
#[test]
fn what_an_agent_that_never_gets_ready_described_before_does_not_grow() {
    let mut world = World::new();
    let bare = Register { state: AgentState::Starting, ..register("x01/m", 1, &[]) };
    for round in 0..50 {
        let of_round = |at: usize| subsystem(&format!("x01/r{round}.{at}"));
        let subsystems = (1..SUBSYSTEMS_OF_AGENT_MAX).map(of_round).collect();
        world.ask("m", &Register { subsystems, ..bare.clone() }).unwrap();
        assert_eq!(names(&mut world, "").len(), SUBSYSTEMS_OF_AGENT_MAX, "round {round}");
    }
    world.ask("m", &bare).unwrap();
    for at in 0..50 {
        world.ask("m", &describe(subsystem(&format!("x01/late.{at}")))).unwrap();
        assert_eq!(names(&mut world, "").len(), SUBSYSTEMS_OF_AGENT_MAX, "those awaited go one by one");
    }
    world.ask("m", &Heartbeat { state: AgentState::Ready }).unwrap();
    assert_eq!(names(&mut world, "").len(), 51);
    world.check_sums();
}

/// Nobody is away, and everything is full of what others are awaited to describe.
#[test]
fn what_is_awaited_makes_room_for_others() {
    let mut world = World::new();
    for agent in 0..SUBSYSTEMS_MAX / SUBSYSTEMS_OF_AGENT_MAX {
        let hosted: Vec<_> = (1..SUBSYSTEMS_OF_AGENT_MAX).map(|at| subsystem(&format!("x01/s{agent}.{at}"))).collect();
        world.host(&format!("a{agent}"), &format!("x01/a{agent}"), 1, &hosted);
    }
    assert_eq!(code(world.register("late", "x01/late", 1, &[])), ErrorCode::Busy);
    let starting = Register { state: AgentState::Starting, ..register("x01/a3", 1, &[]) };
    world.ask("a3", &starting).unwrap();
    world.host("late", "x01/late", 1, &[pump()]);
    let now = names(&mut world, "");
    assert_eq!(now.iter().filter(|name| name.starts_with("x01/s3.")).count(), SUBSYSTEMS_OF_AGENT_MAX - 3);
    assert_eq!(now.len(), SUBSYSTEMS_MAX);
}

#[test]
fn subsystems_beyond_the_limit_push_out_those_gone_longest_and_are_refused_when_all_are_here() {
    let mut world = World::new();
    let agents = SUBSYSTEMS_MAX / SUBSYSTEMS_OF_AGENT_MAX;
    for agent in 0..agents {
        let hosted: Vec<_> = (1..SUBSYSTEMS_OF_AGENT_MAX).map(|at| subsystem(&format!("x01/s{agent}.{at}"))).collect();
        world.host(&format!("a{agent}"), &format!("x01/a{agent}"), 1, &hosted);
    }
    assert_eq!(names(&mut world, "").len(), SUBSYSTEMS_MAX);
    assert_eq!(code(world.register("late", "x01/late", 1, &[])), ErrorCode::Busy);
    world.ask("a3", &Leave {}).unwrap();
    world.now_ns += 1;
    world.ask("a5", &Leave {}).unwrap();
    world.register("late", "x01/late", 1, &[]).unwrap();
    let now = names(&mut world, "");
    assert_eq!(now.len(), SUBSYSTEMS_MAX);
    assert_eq!(now.iter().filter(|name| name.starts_with("x01/s5.")).count(), SUBSYSTEMS_OF_AGENT_MAX - 1);
    assert!(now.contains(&"x01/late".to_owned()));
    world.check_sums();
}

#[test]
fn a_value_goes_when_its_item_has_another_type_and_comes_back_when_the_item_was_away() {
    let mut world = World::new();
    let kept = |kind| Description {
        items: vec![Item { persist: true, kind: ValueType::of(kind), ..item("speed") }],
        ..subsystem(PUMP)
    };
    world.host("p", "x01/pumps", 1, &[kept(Form::I64)]);
    world.publish("p", (PUMP, "speed"), 5).unwrap();
    let restored = |world: &mut World, description| world.ask("p", &describe(description)).unwrap().restored;
    assert_eq!(restored(&mut world, subsystem(PUMP)), []);
    assert_eq!(world.ask("c", &ListItems { prefix: PUMP.to_owned() }).unwrap().items, []);
    world.restart_broker();
    let back = world.host("p", "x01/pumps", 1, &[kept(Form::I64)]).subsystems.remove(0).restored;
    let five = Restored { item: "speed".to_owned(), value: 5.into(), revision: 1, time_ns: back[0].time_ns };
    assert_eq!(back, [five], "put aside, also on the disk");
    assert_eq!(restored(&mut world, kept(Form::String)), []);
    assert_eq!(restored(&mut world, kept(Form::I64)), []);
    assert!(world.disk.values.is_empty());
    assert_eq!(code(world.get((PUMP, "speed"))), ErrorCode::NotSet);
    world.check_sums();
}

#[test]
fn values_of_what_was_removed_do_not_come_back_not_after_a_restart_either() {
    let mut world = World::new();
    let kept = Description { items: vec![Item { persist: true, ..item("speed") }], ..subsystem(PUMP) };
    world.host("p", "x01/pumps", 1, std::slice::from_ref(&kept));
    world.publish("p", (PUMP, "speed"), 5).unwrap();
    world.ask("p", &Remove { name: PUMP.to_owned() }).unwrap();
    world.ask("p", &describe(kept.clone())).unwrap();
    assert_eq!(code(world.get((PUMP, "speed"))), ErrorCode::NotSet);
    world.restart_broker();
    let restored = world.host("p", "x01/pumps", 1, &[kept]).subsystems.remove(0).restored;
    assert_eq!(restored, []);
    world.check_sums();
}

/// A batch in which a stored value, its removal and its new description meet a disk that fails: what is left is as if
/// only the removal and the description had been.
#[test]
fn a_removal_is_not_undone_and_a_value_before_it_does_not_come_back() {
    let mut world = World::new();
    let kept = Description { items: vec![Item { persist: true, ..item("speed") }], ..subsystem(PUMP) };
    world.host("p", "x01/pumps", 1, std::slice::from_ref(&kept));
    world.publish("p", (PUMP, "speed"), 1).unwrap();
    let publish = Publish { subsystem: PUMP.to_owned(), item: "speed".to_owned(), value: 2.into(), skipped: 0 };
    let (publish_id, publish_input) = world.request_input("p", &publish);
    let (remove_id, remove) = world.request_input("p", &Remove { name: PUMP.to_owned() });
    let (describe_id, describe) = world.request_input("p", &describe(kept));
    let (again_id, again) = world.request_input("p", &publish);
    world.disk_works = false;
    world.batch(&[publish_input, remove, describe, again]);
    assert_eq!(code(world.take_answer::<Publish>("p", publish_id)), ErrorCode::StoreFailed);
    world.take_answer::<Remove>("p", remove_id).unwrap();
    assert_eq!(world.take_answer::<Describe>("p", describe_id).unwrap().restored, []);
    assert_eq!(code(world.take_answer::<Publish>("p", again_id)), ErrorCode::StoreFailed);
    assert_eq!(code(world.get((PUMP, "speed"))), ErrorCode::NotSet);
    world.check_sums();
}

#[test]
fn answers_to_a_reachable_session_only_go_there() {
    let mut world = World::new();
    world.host("p", "x01/pumps", 1, &[pump()]);
    let (_, input) = world.request_input("q", &ListSubsystems { prefix: String::new() });
    let stepped = world.core.step(world.now_ns, &input);
    let to: Vec<_> = stepped.held.iter().map(|Outgoing { session, .. }| session.clone()).collect();
    assert_eq!((to, stepped.free.len(), stepped.once), (vec![session("q")], 0, false));
}
