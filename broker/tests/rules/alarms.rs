//! Conditions that people must know: rules A1 and A2.

use crate::world::{SECOND_NS, TIMEOUT_S, World, code, subsystem};
use ecs_broker::limits::ALARMS_OF_SUBSYSTEM_MAX;
use ecs_schemas::{
    alarm::{Alarm, Clear, ListAlarms, Raise, RaisedAlarm, Severity, TEXT_BYTES_MAX},
    envelope::decode,
    error_code::ErrorCode,
    subsystem::{Describe, Description, GetSubsystem, SubsystemStatus},
};

const PUMP: &str = "x01/pump";

fn alarm(code: &str, severity: Severity) -> Alarm {
    Alarm { code: code.to_owned(), severity, text: format!("{code}!"), since_ns: 0 }
}

fn raise(code: &str, severity: Severity) -> Raise {
    Raise { subsystem: PUMP.to_owned(), alarm: alarm(code, severity) }
}

fn clear(code: &str) -> Clear {
    Clear { subsystem: PUMP.to_owned(), code: code.to_owned() }
}

fn world() -> World {
    let mut world = World::new();
    world.host("p", "x01/pumps", 1, &[subsystem(PUMP)]);
    world
}

fn raised(world: &mut World) -> Vec<RaisedAlarm> {
    world.ask("c", &ListAlarms {}).unwrap().alarms
}

fn codes(world: &mut World) -> Vec<String> {
    raised(world).into_iter().map(|told| told.alarm.code).collect()
}

/// `raised` of everything that was published about an alarm.
fn told(world: &World, code: &str) -> Vec<bool> {
    let topic = format!("{PUMP}/alarm/{code}");
    let its = world.published.iter().filter(|publication| *publication.topic == *topic);
    its.map(|publication| decode::<RaisedAlarm>(&publication.payload).unwrap().raised).collect()
}

#[test]
fn an_alarm_raised_again_is_the_same_one_with_its_new_text() {
    let mut world = world();
    let since_ns = world.now_ns;
    world.ask("p", &raise("HOT", Severity::Warn)).unwrap();
    world.now_ns += SECOND_NS;
    world.ask("p", &raise("HOT", Severity::Alarm)).unwrap();
    let alarm = Alarm { since_ns, ..alarm("HOT", Severity::Alarm) };
    assert_eq!(raised(&mut world), [RaisedAlarm { subsystem: PUMP.to_owned(), alarm, raised: true }]);
    world.ask("p", &raise("HOT", Severity::Alarm)).unwrap();
    assert_eq!(told(&world, "HOT"), [true, true], "nothing new is not told again");
    world.ask("p", &clear("HOT")).unwrap();
    world.ask("p", &clear("HOT")).unwrap();
    assert_eq!((told(&world, "HOT"), raised(&mut world)), (vec![true, true, false], vec![]));
}

#[test]
fn alarms_are_listed_the_gravest_first_then_the_oldest() {
    let mut world = world();
    for (code, severity) in
        [("i", Severity::Info), ("w2", Severity::Warn), ("a", Severity::Alarm), ("w1", Severity::Warn)]
    {
        world.ask("p", &raise(code, severity)).unwrap();
        world.now_ns += 1;
    }
    assert_eq!(codes(&mut world), ["a", "w2", "w1", "i"]);
}

#[test]
fn an_alarm_is_seen_in_the_description_that_is_published_and_asked_for() {
    let mut world = world();
    world.published.clear();
    world.ask("p", &raise("HOT", Severity::Warn)).unwrap();
    let status = world.ask("c", &GetSubsystem { name: PUMP.to_owned() }).unwrap();
    assert_eq!(status.description.alarms[0].code, "HOT");
    let topic = "x01/pump/description";
    let last = world.published.iter().rfind(|publication| &*publication.topic == topic).unwrap();
    assert_eq!(decode::<SubsystemStatus>(&last.payload).unwrap(), status);
}

#[test]
fn registering_or_describing_anew_replaces_all_alarms_and_keeps_the_time_of_those_that_stay() {
    let mut world = world();
    let since_ns = world.now_ns;
    world.ask("p", &raise("HOT", Severity::Warn)).unwrap();
    world.ask("p", &raise("LOUD", Severity::Warn)).unwrap();
    world.now_ns += SECOND_NS;
    let with = |alarms: &[Alarm]| Description { alarms: alarms.to_vec(), ..subsystem(PUMP) };
    world.host("p", "x01/pumps", 1, &[with(&[alarm("HOT", Severity::Warn), alarm("WET", Severity::Info)])]);
    assert_eq!(codes(&mut world), ["HOT", "WET"]);
    assert_eq!(raised(&mut world)[0].alarm.since_ns, since_ns);
    assert_eq!(
        (told(&world, "HOT"), told(&world, "LOUD"), told(&world, "WET")),
        (vec![true], vec![true, false], vec![true])
    );
    world.ask("p", &Describe { description: with(&[]) }).unwrap();
    assert_eq!((codes(&mut world), told(&world, "HOT")), (vec![], vec![true, false]));
}

#[test]
fn alarms_of_what_is_gone_stay_listed_until_it_comes_back() {
    let mut world = world();
    world.ask("p", &raise("HOT", Severity::Warn)).unwrap();
    world.pass(TIMEOUT_S, &[]);
    assert_eq!(codes(&mut world), ["HOT"]);
    world.host("p", "x01/pumps", 2, &[subsystem(PUMP)]);
    assert_eq!((codes(&mut world), told(&world, "HOT")), (vec![], vec![true, false]));
}

#[test]
fn only_the_owner_raises_and_clears_and_only_what_is_an_alarm() {
    let mut world = world();
    world.host("e", "x01/evil", 1, &[]);
    world.ask("p", &raise("HOT", Severity::Warn)).unwrap();
    for (from, expected) in [("e", ErrorCode::Conflict), ("stranger", ErrorCode::NotRegistered)] {
        assert_eq!(code(world.ask(from, &raise("HOT", Severity::Info))), expected);
        assert_eq!(code(world.ask(from, &clear("HOT"))), expected);
    }
    let elsewhere = Raise { subsystem: "x01/no".to_owned(), alarm: alarm("HOT", Severity::Warn) };
    assert_eq!(code(world.ask("p", &elsewhere)), ErrorCode::NoSuchSubsystem);
    assert_eq!(code(world.ask("p", &raise("H O T", Severity::Warn))), ErrorCode::BadParameter);
    let mut long = raise("LONG", Severity::Warn);
    long.alarm.text = "l".repeat(TEXT_BYTES_MAX + 1);
    assert_eq!(code(world.ask("p", &long)), ErrorCode::BadParameter);
    assert_eq!(codes(&mut world), ["HOT"]);
}

#[test]
fn alarms_beyond_the_limit_are_refused_until_some_are_over() {
    let mut world = world();
    for at in 0..ALARMS_OF_SUBSYSTEM_MAX {
        world.ask("p", &raise(&format!("A{at}"), Severity::Info)).unwrap();
    }
    assert_eq!(code(world.ask("p", &raise("MORE", Severity::Info))), ErrorCode::Busy);
    world.ask("p", &raise("A7", Severity::Alarm)).unwrap();
    world.ask("p", &clear("A8")).unwrap();
    world.ask("p", &raise("MORE", Severity::Info)).unwrap();
    assert_eq!(raised(&mut world).len(), ALARMS_OF_SUBSYSTEM_MAX);
}
