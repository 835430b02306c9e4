//! Who is told of values, and how often: rules W1 to W5.

use crate::world::{SECOND_NS, World, code, item, session, subsystem};
use ecs_broker::{
    core::Input,
    limits::{UPDATES_BYTES_MAX, WATCHES_OF_SESSION_MAX},
};
use ecs_schemas::{
    error_code::ErrorCode,
    kv::{Item, Publish, Unwatch, Update, Watch},
    registry::Leave,
    subsystem::Description,
    value::Value,
};

const PUMP: &str = "x01/pump";
const SPEED: (&str, &str) = (PUMP, "speed");
const PATH: &str = "x01/pump/speed";
const MS_NS: u64 = SECOND_NS / 1000;

fn pump() -> Description {
    Description { items: vec![item("speed"), Item { persist: true, ..item("kept") }], ..subsystem(PUMP) }
}

fn world() -> World {
    let mut world = World::new();
    world.host("p", "x01/pumps", 1, &[pump()]);
    world
}

fn watch(path: &str, max_hz: Option<f64>) -> Watch {
    Watch { items: vec![path.to_owned()], max_hz }
}

fn unwatch(world: &mut World, of: &str, path: &str) {
    world.ask(of, &Unwatch { items: vec![path.to_owned()] }).unwrap();
}

/// Revision and how many were missed, of each update that came.
fn updates(world: &mut World, of: &str) -> Vec<(u64, u64)> {
    world.notices::<Update>(of).into_iter().map(|update| (update.revision, update.missed)).collect()
}

#[test]
fn a_watch_is_answered_then_told_the_present_value_and_then_each_new_one() {
    let mut world = world();
    world.publish("p", SPEED, 1).unwrap();
    let id = world.begin("c", &watch(PATH, None));
    let kinds: Vec<_> =
        world.take_inbox("c").into_iter().map(|(header, _)| (header.kind.to_string(), header.id)).collect();
    assert_eq!(kinds, [("kv.watch.reply".to_owned(), id), ("kv.update".to_owned(), 0)]);
    world.publish("p", SPEED, 2).unwrap();
    let update = world.notices::<Update>("c").remove(0);
    assert_eq!((update.subsystem.as_str(), update.item.as_str()), SPEED);
    assert_eq!((update.value, update.revision, update.time_ns, update.missed), (2.into(), 2, world.now_ns, 0));
    unwatch(&mut world, "c", PATH);
    world.publish("p", SPEED, 3).unwrap();
    assert_eq!(updates(&mut world, "c"), []);
    world.check_nothing_is_left();
}

#[test]
fn a_watch_that_comes_before_the_item_is_told_when_there_is_a_value() {
    let mut world = World::new();
    world.ask("c", &watch(PATH, Some(1.0))).unwrap();
    world.ask("d", &watch("x01/pump/kept", None)).unwrap();
    world.host("p", "x01/pumps", 1, &[pump()]);
    assert_eq!(updates(&mut world, "c"), []);
    world.publish("p", SPEED, 1).unwrap();
    assert_eq!(updates(&mut world, "c"), [(1, 0)]);
    world.publish("p", (PUMP, "kept"), 5).unwrap();
    world.disk.subsystems.clear(); // its description was not stored yet when the broker ended
    world.restart_broker();
    world.ask("d", &watch("x01/pump/kept", None)).unwrap();
    assert_eq!(updates(&mut world, "d"), []);
    world.host("p", "x01/pumps", 1, &[pump()]);
    assert_eq!(updates(&mut world, "d"), [(1, 0)], "a stored value is one too");
}

#[test]
fn every_value_of_a_batch_is_told_without_a_rate() {
    let mut world = world();
    world.ask("c", &watch(PATH, None)).unwrap();
    let publish =
        |value: i64| Publish { subsystem: PUMP.to_owned(), item: "speed".to_owned(), value: value.into(), skipped: 0 };
    let inputs: Vec<_> = (1..=100).map(|value| world.request_input("p", &publish(value)).1).collect();
    world.batch(&inputs);
    assert_eq!(updates(&mut world, "c"), (1..=100).map(|revision| (revision, 0)).collect::<Vec<_>>());
}

/// Two minutes of 1 kHz, watched at 5 Hz, with a wake whenever the core wants one.
#[test]
fn a_watcher_at_5_hz_of_an_item_at_1_khz_is_told_5_times_a_second_and_the_newest_in_the_end() {
    let mut world = world();
    world.ask("c", &watch(PATH, Some(5.0))).unwrap();
    let start_ns = world.now_ns;
    for value in 1..=120_000_u64 {
        world.now_ns += MS_NS;
        world.publish("p", SPEED, value).unwrap();
        world.take_inbox("p");
    }
    let seconds = (world.now_ns - start_ns) / SECOND_NS;
    let due_ns = world.core.wake_ns().unwrap();
    assert!(due_ns > world.now_ns && due_ns <= world.now_ns + SECOND_NS / 5, "W2: at most one interval late");
    world.now_ns = due_ns;
    world.batch(&[Input::Wake]);
    let told = updates(&mut world, "c");
    assert!((5 * seconds..=5 * seconds + 2).contains(&(told.len() as u64)), "{} in {seconds} s", told.len());
    assert_eq!(told.last().unwrap().0, 120_000);
    for pair in told.windows(2) {
        assert_eq!(pair[1].0, pair[0].0 + 1 + pair[1].1, "missed is what lies between");
    }
    assert_eq!(told.iter().map(|(_, missed)| 1 + missed).sum::<u64>(), 120_000);
    assert_eq!(world.core.wake_ns(), None, "nothing more to tell");
}

#[test]
fn a_rate_that_is_none_and_a_path_that_is_none_are_refused() {
    let mut world = world();
    for hz in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(code(world.ask("c", &watch(PATH, Some(hz)))), ErrorCode::BadParameter, "{hz}");
    }
    for path in ["speed", "", "x01/speed", "x01/pump/", "x01/pump/sp eed", &"x01/".repeat(10_000_000)] {
        let failure = world.ask("c", &watch(path, None)).unwrap_err();
        assert_eq!(failure.code, ErrorCode::BadParameter);
        assert!(failure.message.len() < 1000);
    }
    world.check_nothing_is_left();
}

/// An interval of centuries: the sum with the time is beyond the clock.
#[test]
fn a_rate_of_once_in_centuries_is_told_once_and_leaves_nothing_behind() {
    let mut world = world();
    for _ in 0..10 {
        for hz in [1e-300, f64::MIN_POSITIVE, 1e-9] {
            world.ask("c", &watch(PATH, Some(hz))).unwrap();
            world.publish("p", SPEED, 1).unwrap();
            world.publish("p", SPEED, 2).unwrap();
            assert_eq!(updates(&mut world, "c").len(), 1);
            unwatch(&mut world, "c", PATH);
            world.check_nothing_is_left();
        }
    }
}

#[test]
fn a_watch_of_what_is_watched_replaces_the_rate_and_tells_nothing_twice() {
    let mut world = world();
    world.publish("p", SPEED, 1).unwrap();
    world.ask("c", &watch(PATH, Some(0.001))).unwrap();
    world.ask("c", &watch(PATH, Some(0.001))).unwrap();
    world.publish("p", SPEED, 2).unwrap();
    world.ask("c", &watch(PATH, None)).unwrap();
    world.ask("c", &watch(PATH, None)).unwrap();
    world.publish("p", SPEED, 3).unwrap();
    let told: Vec<_> = updates(&mut world, "c").into_iter().map(|(revision, _)| revision).collect();
    assert_eq!(told, [1, 2, 3]);
    assert_eq!(world.status().clients.iter().map(|client| client.watches).sum::<u64>(), 1);
    unwatch(&mut world, "c", PATH);
    world.check_nothing_is_left();
}

/// A temporary subsystem begins anew with revision 1: the watcher was told a revision 1 before.
#[test]
fn a_value_is_told_though_revisions_have_begun_again() {
    let mut world = World::new();
    let tool = || Description { temporary: true, items: vec![item("speed")], ..subsystem(PUMP) };
    world.ask("c", &watch(PATH, None)).unwrap();
    world.ask("d", &watch(PATH, Some(1.0))).unwrap();
    for instance in 1..4 {
        world.host("p", "x01/pumps", instance, &[tool()]);
        world.publish("p", SPEED, Value::from(instance)).unwrap();
        world.now_ns += SECOND_NS;
        world.batch(&[Input::Wake]);
        assert_eq!(updates(&mut world, "c"), [(1, 0)], "life {instance}");
        assert_eq!(updates(&mut world, "d"), [(1, 0)], "life {instance}");
        world.ask("p", &Leave {}).unwrap();
    }
}

#[test]
fn a_watcher_that_cannot_be_reached_is_forgotten() {
    let mut world = world();
    world.ask("c", &watch(PATH, Some(1.0))).unwrap();
    world.ask("c", &watch("x01/other/item", None)).unwrap();
    assert_eq!(world.status().clients[0].watches, 2);
    world.batch(&[Input::Unreachable { session: session("c") }]);
    world.publish("p", SPEED, 1).unwrap();
    assert_eq!(updates(&mut world, "c"), []);
    assert_eq!(world.status().clients, []);
    world.check_nothing_is_left();
}

#[test]
fn watches_of_one_connection_are_limited() {
    let mut world = world();
    let items = |count: usize| (0..count).map(|at| format!("x01/pump/i{at}")).collect::<Vec<_>>();
    let all = items(WATCHES_OF_SESSION_MAX);
    world.ask("c", &Watch { items: all.clone(), max_hz: None }).unwrap();
    world.ask("c", &Watch { items: all.clone(), max_hz: None }).unwrap();
    assert_eq!(code(world.ask("c", &watch(PATH, None))), ErrorCode::Busy);
    world.ask("d", &watch(PATH, None)).unwrap();
    world.ask("c", &Unwatch { items: all }).unwrap();
    world.ask("c", &watch(PATH, None)).unwrap();
    let twice = Watch { items: vec![PATH.to_owned(), PATH.to_owned()], max_hz: None };
    world.ask("e", &twice).unwrap();
    assert_eq!(world.status().clients.iter().map(|client| client.watches).collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn watchers_beyond_the_bytes_of_one_time_are_told_the_newest_a_moment_later() {
    let mut world = world();
    let value = |at: u8| Value::Bytes(vec![at; UPDATES_BYTES_MAX / 4]);
    let watchers = ["a", "b", "c", "d", "e", "f"];
    for of in watchers {
        world.ask(of, &watch(PATH, None)).unwrap();
    }
    world.publish("p", SPEED, value(1)).unwrap();
    let told = watchers.map(|of| updates(&mut world, of).len());
    assert_eq!(told.iter().sum::<usize>(), 4, "{told:?}");
    assert!(world.core.wake_ns().is_some_and(|wake_ns| wake_ns <= world.now_ns));
    world.batch(&[Input::Wake]);
    let later = watchers.map(|of| updates(&mut world, of).len());
    assert_eq!(later.iter().sum::<usize>(), 2, "{later:?}");
    assert!(told.iter().zip(later).all(|(first, second)| first + second == 1));
}

#[test]
fn a_value_that_was_undone_is_not_told() {
    let mut world = world();
    world.ask("c", &watch("x01/pump/kept", None)).unwrap();
    world.disk_works = false;
    assert_eq!(code(world.publish("p", (PUMP, "kept"), 1)), ErrorCode::StoreFailed);
    assert_eq!(updates(&mut world, "c"), []);
    world.disk_works = true;
    world.publish("p", (PUMP, "kept"), 2).unwrap();
    assert_eq!(updates(&mut world, "c"), [(1, 0)]);
}
