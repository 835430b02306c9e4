//! Named values: rules K1 to K4, compare-and-set, and what the disk has to do with it.

use crate::world::{SECOND_NS, TIMEOUT_S, World, code, item, subsystem};
use ecs_broker::{
    core::Input,
    limits::{EXCHANGES_OF_SESSION_MAX, LISTED_BYTES_MAX, LISTED_VALUE_BYTES_MAX, REVISION_JUMP_MAX, VALUE_DEPTH_MAX},
};
use ecs_schemas::{
    envelope::{Header, Request, VALUE_BYTES_MAX, encode},
    error_code::{ErrorCode, Failure},
    exchange::Cancel,
    kv::{Get, Item, ListItems, Publish, Read, Reading, Set, Taken, Write},
    registry::Leave,
    subsystem::{Describe, Description},
    value::Value,
    value_type::{Form, ValueType},
};

const PUMP: &str = "x01/pump";
const SPEED: (&str, &str) = (PUMP, "speed");

fn typed(name: &str, form: Form) -> Item {
    Item { kind: ValueType::of(form), ..item(name) }
}

/// What the pump is: `speed` is kept, `level` lives in the pump, `secret` can only be set, `fixed` only read.
fn pump() -> Description {
    let range = ValueType { min: Some(0.into()), max: Some(100.into()), ..ValueType::of(Form::I64) };
    Description {
        items: vec![
            Item { persist: true, kind: range, ..item("speed") },
            Item { published: false, ..typed("level", Form::F64) },
            Item { published: false, readable: false, ..item("secret") },
            Item { writable: false, ..item("fixed") },
            item("any"),
        ],
        ..subsystem(PUMP)
    }
}

fn world() -> World {
    let mut world = World::new();
    world.host("p", "x01/pumps", 1, &[pump()]);
    world
}

fn get(item: &str) -> Get {
    Get { subsystem: PUMP.to_owned(), item: item.to_owned() }
}

fn set(item: &str, value: impl Into<Value>) -> Set {
    Set { subsystem: PUMP.to_owned(), item: item.to_owned(), value: value.into(), if_revision: None }
}

fn guarded(value: i64, revision: u64) -> Set {
    Set { if_revision: Some(revision), ..set("speed", value) }
}

fn publish(value: impl Into<Value>) -> Publish {
    Publish { subsystem: PUMP.to_owned(), item: "speed".to_owned(), value: value.into(), skipped: 0 }
}

fn taken(value: impl Into<Value>) -> Taken {
    Taken { value: value.into() }
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(Value::Null, |inner, _| Value::List(vec![inner]))
}

#[test]
fn a_published_item_is_answered_by_the_broker_and_its_revision_rises_by_one() {
    let mut world = world();
    assert_eq!(code(world.get(SPEED)), ErrorCode::NotSet);
    for revision in 1..4 {
        assert_eq!(world.publish("p", SPEED, 10 + revision as i64).unwrap(), revision);
        let time_ns = world.now_ns;
        assert_eq!(world.get(SPEED).unwrap(), Reading { value: (10 + revision).into(), revision, time_ns });
        world.now_ns += 1;
    }
    assert_eq!(world.on_topic("x01/pump/kv/speed"), [(1, 11.into()), (2, 12.into()), (3, 13.into())]);
    assert!(world.questions::<Read>("p").is_empty());
    world.pass(TIMEOUT_S, &[]);
    assert_eq!(world.get(SPEED).unwrap().revision, 3, "also when its owner is gone");
}

#[test]
fn every_value_of_a_batch_is_published_in_its_order() {
    let mut world = world();
    let (inputs, ids): (Vec<_>, Vec<_>) =
        (1..=5).map(|value| world.request_input("p", &publish(value))).map(|(id, input)| (input, id)).unzip();
    world.batch(&inputs);
    let told: Vec<_> = ids.into_iter().map(|id| world.take_answer::<Publish>("p", id).unwrap().revision).collect();
    assert_eq!(told, [1, 2, 3, 4, 5]);
    let seqs: Vec<_> = world.on_topic("x01/pump/kv/speed").into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
    assert_eq!(world.disk.values[&(PUMP.to_owned(), "speed".to_owned())].reading.revision, 5);
}

#[test]
fn only_the_owners_connection_publishes_and_only_what_fits() {
    let mut world = world();
    world.host("e", "x01/evil", 1, &[]);
    assert_eq!(code(world.publish("e", SPEED, 1)), ErrorCode::Conflict);
    assert_eq!(code(world.publish("stranger", SPEED, 1)), ErrorCode::NotRegistered);
    assert_eq!(code(world.publish("p", ("x01/no", "speed"), 1)), ErrorCode::NoSuchSubsystem);
    let failure = world.publish("p", (PUMP, "sped"), 1).unwrap_err();
    assert_eq!(failure.code, ErrorCode::NoSuchItem);
    assert!(failure.hint.unwrap().contains("speed"));
    assert_eq!(code(world.publish("p", (PUMP, "level"), 1.0)), ErrorCode::Conflict, "it is not published");
    assert_eq!(code(world.publish("p", SPEED, "fast")), ErrorCode::WrongType);
    assert_eq!(code(world.publish("p", SPEED, 101)), ErrorCode::OutOfRange);
    assert_eq!(code(world.publish("p", (PUMP, "any"), nested(VALUE_DEPTH_MAX + 1))), ErrorCode::BadParameter);
    world.publish("p", (PUMP, "any"), nested(VALUE_DEPTH_MAX)).unwrap();
    assert_eq!(code(world.get(SPEED)), ErrorCode::NotSet);
    world.notify_publish("p", &publish("fast"));
    let (header, body) = world.take_inbox("p").pop().unwrap();
    let failure: Failure = ecs_schemas::envelope::decode(&body).unwrap();
    assert_eq!((header.id, failure.code), (0, ErrorCode::WrongType), "a notice that is refused");
    world.notify_publish("p", &publish(7));
    assert_eq!(world.get(SPEED).unwrap().value, 7.into());
}

#[test]
fn an_item_that_is_not_published_is_read_from_its_owner() {
    let mut world = world();
    let id = world.begin("c", &get("level"));
    let (question, read) = world.question::<Read>("p");
    assert_eq!(read, Read { subsystem: PUMP.to_owned(), item: "level".to_owned(), by: "anonymous".to_owned() });
    assert!(question.deadline_ms.is_some_and(|ms| ms <= 1000));
    world.now_ns += SECOND_NS / 2;
    world.reply("p", &question, &taken(2.5));
    let reading = Reading { value: 2.5.into(), revision: 0, time_ns: world.now_ns };
    assert_eq!(world.take_answer::<Get>("c", id), Ok(reading));
    world.check_nothing_is_left();
}

#[test]
fn a_set_is_checked_before_its_owner_is_asked() {
    let mut world = world();
    let wrong = [
        (set("speed", "fast"), ErrorCode::WrongType),
        (set("speed", 101), ErrorCode::OutOfRange),
        (set("speed", -1), ErrorCode::OutOfRange),
        (set("level", Value::Null), ErrorCode::WrongType),
        (set("fixed", 1), ErrorCode::ReadOnly),
        (set("sped", 1), ErrorCode::NoSuchItem),
        (Set { subsystem: "x01/pmup".to_owned(), ..set("speed", 1) }, ErrorCode::NoSuchSubsystem),
        (set("any", nested(VALUE_DEPTH_MAX + 1)), ErrorCode::BadParameter),
        (guarded(1, 3), ErrorCode::Changed),
    ];
    for (set, expected) in wrong {
        assert_eq!(code(world.ask("c", &set)), expected, "{} {}", set.item, set.value);
    }
    assert_eq!(code(world.ask("c", &get("secret"))), ErrorCode::WriteOnly);
    assert!(world.questions::<Write>("p").is_empty());
    world.check_nothing_is_left();
}

#[test]
fn a_set_is_answered_as_the_owner_has_taken_it_with_the_revision_of_the_item() {
    let mut world = world();
    let id = world.begin("c", &set("speed", 50));
    let (question, write) = world.question::<Write>("p");
    assert_eq!((write.value, write.by.as_str()), (50.into(), "anonymous"));
    world.publish("p", SPEED, 49).unwrap();
    world.reply("p", &question, &taken(49));
    let reading = world.take_answer::<Set>("c", id).unwrap();
    assert_eq!((reading.value, reading.revision), (49.into(), 1));
    let id = world.begin("c", &set("secret", "1234"));
    let (question, _) = world.question::<Write>("p");
    world.fail("p", &question, ErrorCode::Refused, "not while it runs");
    let failure = world.take_answer::<Set>("c", id).unwrap_err();
    assert_eq!((failure.code, failure.message.as_str()), (ErrorCode::Refused, "not while it runs"));
    world.check_nothing_is_left();
}

#[test]
fn who_asks_is_the_brokers_word() {
    let mut world = world();
    world.host("s", "x01/script", 1, &[]);
    world.begin("s", &set("speed", 5));
    world.begin("s", &get("level"));
    assert_eq!(world.question::<Write>("p").1.by, "x01/script");
    assert_eq!(world.question::<Read>("p").1.by, "x01/script");
}

#[test]
fn of_two_guarded_sets_one_wins_and_the_other_is_told() {
    let mut world = world();
    world.publish("p", SPEED, 1).unwrap();
    let first = world.begin("a", &guarded(10, 1));
    assert_eq!(code(world.ask("b", &guarded(20, 1))), ErrorCode::Conflict);
    assert_eq!(code(world.ask("b", &set("speed", 30))), ErrorCode::Conflict, "it would come between");
    let (question, _) = world.question::<Write>("p");
    world.publish("p", SPEED, 10).unwrap();
    world.reply("p", &question, &taken(10));
    assert_eq!(world.take_answer::<Set>("a", first).unwrap().revision, 2);
    let failure = world.ask("b", &guarded(20, 1)).unwrap_err();
    assert_eq!(failure.code, ErrorCode::Changed);
    assert!(failure.message.contains("revision 2, not 1"), "{failure}");
    let second = world.begin("b", &guarded(20, 2));
    let (question, write) = world.question::<Write>("p");
    assert_eq!(write.value, 20.into());
    world.reply("p", &question, &taken(20));
    world.take_answer::<Set>("b", second).unwrap();
    world.check_nothing_is_left();
}

#[test]
fn a_guarded_set_waits_for_no_set_that_is_under_way_but_says_so() {
    let mut world = world();
    let plain = [world.begin("a", &set("speed", 1)), world.begin("b", &set("speed", 2))];
    assert_eq!(code(world.ask("c", &guarded(3, 0))), ErrorCode::Conflict);
    for (question, write) in world.questions::<Write>("p") {
        world.reply("p", &question, &Taken { value: write.value });
    }
    for (id, from) in plain.into_iter().zip(["a", "b"]) {
        world.take_answer::<Set>(from, id).unwrap();
    }
    world.begin("c", &guarded(3, 0));
    assert_eq!(world.question::<Write>("p").1.value, 3.into());
}

/// However a guarded set ends, the item can be set again.
#[test]
fn the_guard_of_a_set_goes_with_it() {
    for end in ["deadline", "cancel", "owner gone", "caller gone", "broken answer"] {
        let mut world = world();
        let id = world.begin("a", &guarded(10, 0));
        let (question, _) = world.question::<Write>("p");
        match end {
            "deadline" => {
                world.now_ns += SECOND_NS;
                world.batch(&[Input::Wake]);
            }
            "cancel" => world.notify("a", &Cancel { id }),
            "owner gone" => drop(world.ask("p", &Leave {})),
            "caller gone" => world.batch(&[Input::Unreachable { session: crate::world::session("a") }]),
            _ => world.send_parts("p", vec![encode(&question.reply()), b"broken".to_vec()]),
        }
        world.check_nothing_is_left();
        world.ask("p", &Leave {}).unwrap();
        world.host("p", "x01/pumps", 2, &[pump()]);
        world.take_inbox("p");
        let next = world.begin("b", &guarded(20, 0));
        let (question, _) = world.question::<Write>("p");
        world.reply("p", &question, &taken(20));
        world.take_answer::<Set>("b", next).unwrap_or_else(|failure| panic!("after {end}: {failure}"));
    }
}

#[test]
fn an_answer_that_is_late_double_broken_or_somebody_elses_is_no_answer() {
    let mut world = world();
    world.host("e", "x01/evil", 1, &[]);
    let id = world.begin("c", &get("level"));
    let (question, _) = world.question::<Read>("p");
    for from in ["e", "stranger"] {
        world.reply(from, &question, &taken(666));
        world.send_as(from, &Header { id: question.id + 1, ..question.reply() }, &taken(666));
    }
    assert!(!world.has_answer("c", id));
    world.reply("p", &question, &taken(1.5));
    world.reply("p", &question, &taken(2.5));
    assert_eq!(world.take_answer::<Get>("c", id).unwrap().value, 1.5.into());
    let id = world.begin("c", &get("level"));
    let (question, _) = world.question::<Read>("p");
    world.now_ns += SECOND_NS;
    world.batch(&[Input::Wake]);
    world.reply("p", &question, &taken(3.5));
    let failure = world.take_answer::<Get>("c", id).unwrap_err();
    assert_eq!(failure.code, ErrorCode::Timeout);
    assert!(failure.message.contains(PUMP), "{failure}");
    let id = world.begin("c", &get("level"));
    let (question, _) = world.question::<Read>("p");
    world.send_parts("p", vec![encode(&question.reply()), vec![0xc1]]);
    assert!(world.take_answer::<Get>("c", id).unwrap_err().message.contains("cannot be read"));
    let id = world.begin("c", &get("level"));
    let (question, _) = world.question::<Read>("p");
    world.reply("p", &question, &taken(nested(VALUE_DEPTH_MAX + 1)));
    assert_eq!(code(world.take_answer::<Get>("c", id)), ErrorCode::BadParameter);
    for from in ["c", "e", "stranger", "p"] {
        assert!(world.take_inbox(from).iter().all(|message| message.0.id == 0), "nothing more for {from}");
    }
    world.check_nothing_is_left();
}

/// The broker restarts while an agent works; the agent's answer to the old question reaches the new broker.
#[test]
fn a_late_answer_to_the_broker_before_is_none_to_a_question_of_this_one() {
    let mut world = world();
    world.begin("c", &get("level"));
    let (old, _) = world.question::<Read>("p");
    world.now_ns += 1_000_000;
    world.restart_broker();
    world.host("p", "x01/pumps", 1, &[pump()]);
    let id = world.begin("c", &get("level"));
    let (new, _) = world.question::<Read>("p");
    world.reply("p", &old, &taken(666));
    assert!(!world.has_answer("c", id), "ids {} and {}", old.id, new.id);
    world.reply("p", &new, &taken(1.5));
    assert_eq!(world.take_answer::<Get>("c", id).unwrap().value, 1.5.into());
}

#[test]
fn an_owner_that_reconnects_may_still_answer_and_one_that_is_another_start_ends_it() {
    let mut world = world();
    let id = world.begin("c", &get("level"));
    let (question, _) = world.question::<Read>("p");
    world.host("p2", "x01/pumps", 1, &[pump()]);
    world.reply("p", &question, &taken(666));
    assert!(!world.has_answer("c", id), "the old connection is nobody");
    world.reply("p2", &question, &taken(1.5));
    assert_eq!(world.take_answer::<Get>("c", id).unwrap().value, 1.5.into());
    let id = world.begin("c", &get("level"));
    world.ask("p2", &Leave {}).unwrap();
    let failure = world.take_answer::<Get>("c", id).unwrap_err();
    assert_eq!(failure.code, ErrorCode::AgentLost);
    assert!(failure.message.contains(PUMP) && failure.message.contains("x01/pumps"), "{failure}");
    assert_eq!(code(world.ask("c", &set("speed", 1))), ErrorCode::AgentLost, "and is not asked again");
    world.check_nothing_is_left();
}

#[test]
fn persisted_values_come_back_after_restarts_of_owner_and_broker_and_are_published_again() {
    let mut world = world();
    world.publish("p", SPEED, 42).unwrap();
    world.publish("p", (PUMP, "any"), 1).unwrap();
    let restored = world.host("p", "x01/pumps", 1, &[pump()]).subsystems.remove(0).restored;
    assert_eq!((restored.len(), &restored[0].value, restored[0].revision), (1, &42.into(), 1));
    world.restart_broker();
    world.published.clear();
    world.batch(&[Input::Tick]);
    assert_eq!(world.on_topic("x01/pump/kv/speed"), [(1, 42.into())], "for those who subscribe");
    assert_eq!(world.get(SPEED).unwrap().value, 42.into());
    assert_eq!(code(world.get((PUMP, "any"))), ErrorCode::NotSet);
    let restored = world.host("q", "x01/pumps", 2, &[pump()]).subsystems.remove(0).restored;
    assert_eq!((&restored[0].value, restored[0].revision), (&42.into(), 1));
    assert_eq!(world.publish("q", SPEED, 43).unwrap(), 2, "K3");
}

#[test]
fn a_value_of_before_its_item_was_described_with_persist_is_stored_too() {
    let mut world = world();
    world.publish("p", (PUMP, "any"), 7).unwrap();
    let mut kept = pump();
    kept.items[4].persist = true;
    world.ask("p", &Describe { description: kept.clone() }).unwrap();
    world.restart_broker();
    let restored = world.host("p", "x01/pumps", 1, &[kept]).subsystems.remove(0).restored;
    assert_eq!((restored[0].item.as_str(), &restored[0].value, restored[0].revision), ("any", &7.into(), 1));
    world.ask("p", &Describe { description: pump() }).unwrap();
    assert!(world.disk.values.is_empty(), "and not any more when it is not");
    world.check_sums();
}

#[test]
fn a_value_that_cannot_be_stored_is_refused_and_nobody_ever_sees_it() {
    let mut world = world();
    world.publish("p", SPEED, 1).unwrap();
    world.disk_works = false;
    world.published.clear();
    let inputs = [
        world.request_input("p", &publish(2)),
        world.request_input("c", &get("speed")),
        world.request_input("c", &ListItems { prefix: String::new() }),
        world.request_input("c", &guarded(9, 1)),
        world.request_input("p", &Describe { description: pump() }),
    ];
    world.batch(&inputs.clone().map(|(_, input)| input));
    assert_eq!(code(world.take_answer::<Publish>("p", inputs[0].0)), ErrorCode::StoreFailed);
    assert_eq!(world.take_answer::<Get>("c", inputs[1].0).unwrap().value, 1.into());
    let listed = world.take_answer::<ListItems>("c", inputs[2].0).unwrap();
    assert_eq!(listed.items.iter().find_map(|item| item.reading.clone()).unwrap().value, 1.into());
    assert_eq!(world.question::<Write>("p").1.value, 9.into(), "the revision is still 1");
    let restored = world.take_answer::<Describe>("p", inputs[4].0).unwrap().restored;
    assert_eq!(restored[0].value, 1.into());
    assert_eq!(world.on_topic("x01/pump/kv/speed"), []);
    world.disk_works = true;
    assert_eq!(world.publish("p", SPEED, 3).unwrap(), 2, "no revision was used up");
    world.check_sums();
}

/// The owner publishes what it was asked to set and answers, in one batch, and the disk fails: an answer would promise
/// what the next kill takes away, and name a revision that is another value's later.
#[test]
fn a_set_whose_value_the_disk_did_not_take_is_refused_until_it_has_taken_one() {
    let mut world = world();
    world.publish("p", SPEED, 1).unwrap();
    let id = world.begin("c", &set("speed", 2));
    let (question, _) = world.question::<Write>("p");
    let (publish_id, publication) = world.request_input("p", &publish(2));
    let parts = vec![encode(&question.reply()), encode(&taken(2))];
    let answer = Input::message(crate::world::session("p"), ecs_broker::core::Sender::Anyone, parts);
    world.disk_works = false;
    world.batch(&[publication, answer]);
    assert_eq!(code(world.take_answer::<Publish>("p", publish_id)), ErrorCode::StoreFailed);
    assert_eq!(code(world.take_answer::<Set>("c", id)), ErrorCode::StoreFailed);
    world.disk_works = true;
    assert_eq!(world.publish("p", SPEED, 2).unwrap(), 2, "the owner tells it again");
    let id = world.begin("c", &set("speed", 2));
    let (question, _) = world.question::<Write>("p");
    world.reply("p", &question, &taken(2)); // it has that value already, and need not publish it
    let told = world.take_answer::<Set>("c", id).unwrap();
    assert_eq!((told.value, told.revision), (2.into(), 2));
}

#[test]
fn an_item_that_is_not_stored_any_more_owes_the_disk_nothing() {
    let mut world = world();
    world.disk_works = false;
    assert_eq!(code(world.publish("p", SPEED, 1)), ErrorCode::StoreFailed);
    world.disk_works = true;
    let mut not_stored = pump();
    not_stored.items[0].persist = false;
    world.ask("p", &Describe { description: not_stored }).unwrap();
    let id = world.begin("c", &set("speed", 2));
    let (question, _) = world.question::<Write>("p");
    world.publish("p", SPEED, 2).unwrap();
    world.reply("p", &question, &taken(2));
    assert_eq!(world.take_answer::<Set>("c", id).unwrap().revision, 1);
}

/// A batch of everything at once meets a disk that fails: what asked somebody is done once, what needs the disk is
/// refused, all else is answered, and every message counts once.
#[test]
fn a_batch_of_jobs_values_and_questions_that_cannot_be_stored_is_done_once_or_refused() {
    let mut world = world();
    world.register("w", "x01/writer", 1, &[]).unwrap();
    let received = world.status().broker.received;
    let submit = ecs_schemas::job::Submit {
        service: "write".to_owned(),
        params: Value::Null,
        key: "k".to_owned(),
        ..Default::default()
    };
    let inputs = [
        world.request_input("c", &submit),
        world.request_input("c", &get("level")),
        world.request_input("p", &publish(5)),
        world.request_input("p", &Publish { item: "any".to_owned(), ..publish(6) }),
        world.request_input("c", &set("level", 0.5)),
    ];
    world.disk_works = false;
    world.batch(&inputs.clone().map(|(_, input)| input));
    assert_eq!(code(world.take_answer::<ecs_schemas::job::Submit>("c", inputs[0].0)), ErrorCode::StoreFailed);
    assert_eq!(code(world.take_answer::<Publish>("p", inputs[2].0)), ErrorCode::StoreFailed);
    assert_eq!(world.take_answer::<Publish>("p", inputs[3].0).unwrap().revision, 1);
    assert_eq!(world.on_topic("x01/pump/kv/any"), [(1, 6.into())]);
    let (read, _) = world.question::<Read>("p");
    let (write, _) = world.question::<Write>("p");
    world.reply("p", &read, &taken(1.5));
    world.reply("p", &write, &taken(0.5));
    assert_eq!(world.take_answer::<Get>("c", inputs[1].0).unwrap().value, 1.5.into());
    assert_eq!(world.take_answer::<Set>("c", inputs[4].0).unwrap().value, 0.5.into());
    assert_eq!(world.status().broker.received, received + inputs.len() as u64 + 2 + 1);
    world.check_nothing_is_left();
}

#[test]
fn values_of_64_mib_pass_and_larger_ones_are_refused() {
    let mut world = world();
    let large = || Value::Bytes(vec![7; VALUE_BYTES_MAX]);
    world.publish("p", (PUMP, "any"), large()).unwrap();
    assert!(world.get((PUMP, "any")).unwrap().value == large());
    let id = world.begin("c", &set("any", large()));
    let (question, write) = world.question::<Write>("p");
    world.reply("p", &question, &Taken { value: write.value });
    assert!(world.take_answer::<Set>("c", id).unwrap().value == large());
    let beyond = Value::Bytes(vec![7; VALUE_BYTES_MAX + 1]);
    assert_eq!(code(world.publish("p", (PUMP, "any"), beyond.clone())), ErrorCode::BadParameter);
    assert_eq!(code(world.ask("c", &set("any", beyond))), ErrorCode::BadParameter);
    let listed = world.ask("c", &ListItems { prefix: "x01/pump/any".to_owned() }).unwrap().items.remove(0);
    assert_eq!((listed.reading, listed.bytes), (None, VALUE_BYTES_MAX as u64 + 5));
}

#[test]
fn a_list_shows_short_values_and_says_what_it_leaves_out() {
    let mut world = World::new();
    let items: Vec<_> = (0..2000).map(|at| item(&format!("i{at:04}"))).collect();
    world.host("p", "x01/pumps", 1, &[Description { items, ..subsystem(PUMP) }]);
    let value = Value::Bytes(vec![0; LISTED_VALUE_BYTES_MAX - 16]);
    for at in 0..2000 {
        world.publish("p", (PUMP, &format!("i{at:04}")), value.clone()).unwrap();
    }
    let list = |world: &mut World, prefix: &str| world.ask("c", &ListItems { prefix: prefix.to_owned() }).unwrap();
    let all = list(&mut world, "");
    assert!(encode(&all).len() <= LISTED_BYTES_MAX + 100);
    assert_eq!(all.items.len() as u64 + all.left_out, 2000);
    assert!(all.left_out > 0 && all.items[0].reading.is_some());
    let some = list(&mut world, "x01/pump/i199");
    assert_eq!((some.items.len(), some.left_out), (10, 0));
}

#[test]
fn open_questions_of_one_connection_are_limited_and_the_others_go_on() {
    let mut world = world();
    let ids: Vec<_> = (0..EXCHANGES_OF_SESSION_MAX).map(|_| world.begin("flood", &get("level"))).collect();
    assert_eq!(code(world.ask("flood", &get("level"))), ErrorCode::Busy);
    let id = world.begin("c", &get("level"));
    let (question, _) = world.questions::<Read>("p").pop().unwrap();
    world.reply("p", &question, &taken(1.5));
    world.take_answer::<Get>("c", id).unwrap();
    world.batch(&[Input::Unreachable { session: crate::world::session("flood") }]);
    assert_eq!(world.notices::<Cancel>("p").len(), ids.len(), "the owner is told that nobody waits");
    world.check_nothing_is_left();
}

#[test]
fn one_id_twice_is_refused_and_the_first_is_answered() {
    let mut world = world();
    let header = Header::request(Get::KIND, 77, 1000);
    world.send_as("c", &header, &get("level"));
    world.send_as("c", &header, &get("level"));
    assert_eq!(code(world.take_answer::<Get>("c", 77)), ErrorCode::BadMessage);
    let (question, _) = world.question::<Read>("p");
    world.reply("p", &question, &taken(1.5));
    assert_eq!(world.take_answer::<Get>("c", 77).unwrap().value, 1.5.into());
    world.check_nothing_is_left();
}

/// A revision that cannot rise any more would guard nothing, for ever: it is kept.
#[test]
fn a_jump_of_the_revision_has_an_end() {
    let mut world = world();
    for skipped in [u64::MAX, REVISION_JUMP_MAX] {
        assert_eq!(code(world.ask("p", &Publish { skipped, ..publish(1) })), ErrorCode::BadParameter);
    }
    let highest = Publish { skipped: REVISION_JUMP_MAX - 1, ..publish(1) };
    assert_eq!(world.ask("p", &highest).unwrap().revision, REVISION_JUMP_MAX);
    assert_eq!(code(world.ask("p", &Publish { skipped: 1, ..publish(2) })), ErrorCode::BadParameter);
    assert_eq!(world.publish("p", SPEED, 3).unwrap(), REVISION_JUMP_MAX + 1, "one by one it goes on");
}
