//! Calls: one worker of many does it. Rules X1 to X5 and E1 to E3, queues, loads, and workers that die.

use crate::world::{SECOND_NS, TIMEOUT_S, World, code, handled, session, subsystem};
use ecs_broker::{
    core::{Input, Outgoing},
    limits::{EXCHANGES_OF_SESSION_MAX, QUEUED_BYTES_MAX, QUEUED_CALLS_MAX, REPEAT_INTERVAL},
};
use ecs_schemas::{
    envelope::{decode, encode},
    error_code::{ErrorCode, Failure},
    exchange::{Cancel, DoCall, Params, RunCall},
    registry::Leave,
    subsystem::{Describe, Description, Handled, Param, Remove},
    value::Value,
    value_type::{Form, ValueType},
};

fn worker(name: &str, at_once: u32) -> Description {
    Description { calls: vec![Handled { at_once, ..handled("fit") }], ..subsystem(name) }
}

/// One worker, `w`, that takes one call at a time.
fn world() -> World {
    let mut world = World::new();
    world.host("w", "x01/agent-w", 1, &[worker("x01/w", 1)]);
    world
}

fn fit(n: i64) -> DoCall {
    DoCall { call: "fit".to_owned(), params: [("n".to_owned(), n.into())].into() }
}

fn given(world: &mut World, of: &str) -> Vec<i64> {
    world.questions::<RunCall>(of).into_iter().map(|(_, run)| number(&run.params)).collect()
}

fn number(params: &Params) -> i64 {
    params["n"].as_f64().unwrap() as i64
}

#[test]
fn a_call_is_done_by_a_worker_and_answered_with_its_name() {
    let mut world = world();
    let id = world.begin("c", &fit(3));
    let (question, run) = world.question::<RunCall>("w");
    assert_eq!((run.subsystem.as_str(), run.call.as_str(), run.by.as_str()), ("x01/w", "fit", "anonymous"));
    world.done("w", &question, 9);
    let result = world.take_answer::<DoCall>("c", id).unwrap();
    assert_eq!((result.value, result.by.as_str()), (9.into(), "x01/w"));
    let id = world.begin("c", &fit(4));
    let (question, _) = world.question::<RunCall>("w");
    world.fail("w", &question, ErrorCode::Refused, "no peaks");
    let failure = world.take_answer::<DoCall>("c", id).unwrap_err();
    assert_eq!((failure.code, failure.message.as_str()), (ErrorCode::Refused, "no peaks"));
    world.check_nothing_is_left();
}

#[test]
fn a_call_that_nobody_answers_is_refused_with_what_is_answered() {
    let mut world = world();
    let ask = |world: &mut World, call: &str| {
        world.ask("c", &DoCall { call: call.to_owned(), params: Params::new() }).unwrap_err()
    };
    let failure = ask(&mut world, "fut");
    assert_eq!(failure.code, ErrorCode::NotHandled);
    assert!(failure.hint.unwrap().contains("nearest is fit"));
    assert!(ask(&mut world, "something").hint.unwrap().contains("answered: fit"));
    world.ask("w", &Leave {}).unwrap();
    assert!(ask(&mut world, "fit").hint.unwrap().contains("no agent that answers calls is here"));
    assert!(ask(&mut world, &"f".repeat(10_000_000)).message.len() < 1000);
    world.check_nothing_is_left();
}

#[test]
fn calls_go_to_the_least_busy_worker_by_its_share() {
    let mut world = World::new();
    world.host("v", "x01/agent-v", 1, &[worker("x01/v", 1)]);
    world.host("w", "x01/agent-w", 1, &[worker("x01/w", 3)]);
    for n in 0..4 {
        world.begin_within("c", &fit(n), 60_000);
    }
    assert_eq!((given(&mut world, "v"), given(&mut world, "w")), (vec![0], vec![1, 2, 3]));
}

#[test]
fn calls_beyond_what_workers_take_wait_in_their_order() {
    let mut world = world();
    let ids: Vec<_> = (0..4).map(|n| world.begin_within("c", &fit(n), 60_000)).collect();
    for (n, id) in ids.into_iter().enumerate() {
        let (question, run) = world.question::<RunCall>("w");
        assert_eq!(number(&run.params), n as i64);
        world.done("w", &question, n);
        assert_eq!(world.take_answer::<DoCall>("c", id).unwrap().value, n.into());
    }
    world.check_nothing_is_left();
}

#[test]
fn a_worker_that_comes_or_takes_more_gets_the_calls_that_wait() {
    let mut world = world();
    for n in 0..5 {
        world.begin_within("c", &fit(n), 60_000);
    }
    assert_eq!(given(&mut world, "w"), [0]);
    world.host("v", "x01/agent-v", 1, &[worker("x01/v", 1)]);
    assert_eq!(given(&mut world, "v"), [1]);
    world.ask("w", &Describe { description: worker("x01/w", 3) }).unwrap();
    assert_eq!(given(&mut world, "w"), [2, 3]);
}

/// The worker is the same agent as before: its new start must not be counted out with the old one.
#[test]
fn a_worker_that_starts_again_gets_what_waits_and_keeps_it() {
    let mut world = world();
    let ids = [0, 1].map(|n| world.begin_within("c", &fit(n), 60_000));
    assert_eq!(given(&mut world, "w"), [0]);
    world.pass(TIMEOUT_S, &[]);
    assert_eq!(code(world.take_answer::<DoCall>("c", ids[0])), ErrorCode::AgentLost);
    world.host("w2", "x01/agent-w", 2, &[worker("x01/w", 1)]);
    let (question, run) = world.question::<RunCall>("w2");
    assert_eq!(number(&run.params), 1);
    assert!(!world.has_answer("c", ids[1]), "it runs");
    world.done("w2", &question, 11);
    assert_eq!(world.take_answer::<DoCall>("c", ids[1]).unwrap().value, 11.into());
    world.check_nothing_is_left();
}

#[test]
fn a_worker_that_leaves_ends_its_calls_and_those_that_wait_go_to_another() {
    let mut world = world();
    world.host("v", "x01/agent-v", 1, &[worker("x01/v", 1)]);
    let ids = [0, 1, 2].map(|n| world.begin_within("c", &fit(n), 60_000));
    assert_eq!((given(&mut world, "v"), given(&mut world, "w")), (vec![0], vec![1]));
    world.ask("v", &Leave {}).unwrap();
    assert_eq!(code(world.take_answer::<DoCall>("c", ids[0])), ErrorCode::AgentLost);
    assert!(!world.has_answer("c", ids[1]) && !world.has_answer("c", ids[2]), "X3: only those who asked it");
    assert_eq!(given(&mut world, "w"), [] as [i64; 0], "it is still busy");
}

#[test]
fn a_call_that_waits_ends_at_its_deadline_or_cancel_and_leaves_the_queue() {
    let mut world = world();
    world.begin_within("c", &fit(0), 60_000);
    let (running, _) = world.question::<RunCall>("w");
    let late = world.begin_within("c", &fit(1), 100);
    let cancelled = world.begin_within("c", &fit(2), 60_000);
    let last = world.begin_within("c", &fit(3), 60_000);
    world.now_ns += SECOND_NS / 10;
    world.batch(&[Input::Wake]);
    let failure = world.take_answer::<DoCall>("c", late).unwrap_err();
    assert_eq!(failure.code, ErrorCode::Timeout);
    assert!(failure.message.contains("no worker of the call fit"), "{failure}");
    world.notify("c", &Cancel { id: cancelled });
    assert_eq!(code(world.take_answer::<DoCall>("c", cancelled)), ErrorCode::Cancelled);
    assert!(world.notices::<Cancel>("w").is_empty(), "it never had them");
    world.done("w", &running, 0);
    let (question, run) = world.question::<RunCall>("w");
    assert_eq!(number(&run.params), 3);
    world.done("w", &question, 3);
    assert!(world.take_answer::<DoCall>("c", last).is_ok());
    world.take_inbox("c");
    world.check_nothing_is_left();
}

/// E2, whoever ended the exchange: the worker is told, stays busy until it says something, and then is free.
#[test]
fn a_worker_whose_caller_has_gone_stays_busy_until_it_answers() {
    for end in ["deadline", "cancel", "caller gone"] {
        let mut world = world();
        let id = world.begin_within("c", &fit(0), 500);
        let (running, _) = world.question::<RunCall>("w");
        match end {
            "deadline" => {
                world.now_ns += SECOND_NS / 2;
                world.batch(&[Input::Wake]);
            }
            "cancel" => world.notify("c", &Cancel { id }),
            _ => world.batch(&[Input::Unreachable { session: session("c") }]),
        }
        assert_eq!(world.notices::<Cancel>("w"), [Cancel { id: running.id }], "{end}");
        let next = world.begin_within("d", &fit(1), 60_000);
        assert_eq!(given(&mut world, "w"), [] as [i64; 0], "{end}: it is busy");
        world.fail("w", &running, ErrorCode::Cancelled, "stopped");
        let (question, run) = world.question::<RunCall>("w");
        assert_eq!(number(&run.params), 1, "{end}");
        world.done("w", &question, 1);
        world.take_answer::<DoCall>("d", next).unwrap();
        world.check_nothing_is_left();
    }
}

/// The question, or the cancel, was lost on the way: the worker is told again until it says that it has no such call.
#[test]
fn a_worker_that_never_had_its_call_is_told_again_until_it_says_so() {
    let mut world = world();
    world.begin_within("c", &fit(0), 500);
    let (lost, _) = world.question::<RunCall>("w");
    world.now_ns += SECOND_NS / 2;
    world.batch(&[Input::Wake]);
    world.take_inbox("w");
    for _ in 0..3 {
        world.now_ns += REPEAT_INTERVAL.as_nanos() as u64;
        world.heartbeat("w").unwrap();
        world.batch(&[Input::Tick]);
        world.batch(&[Input::Tick]);
        assert_eq!(world.notices::<Cancel>("w"), [Cancel { id: lost.id }], "once in {REPEAT_INTERVAL:?}");
    }
    world.fail("w", &lost, ErrorCode::Cancelled, "I never had it");
    world.now_ns += SECOND_NS;
    world.batch(&[Input::Tick]);
    assert!(world.notices::<Cancel>("w").is_empty());
    world.take_inbox("c");
    world.check_nothing_is_left();
}

#[test]
fn a_worker_that_keeps_a_call_for_nobody_and_dies_is_free_when_it_starts_again() {
    let mut world = world();
    let id = world.begin("c", &fit(0));
    world.notify("c", &Cancel { id });
    world.take_inbox("w");
    world.ask("w", &Leave {}).unwrap();
    world.host("w", "x01/agent-w", 2, &[worker("x01/w", 1)]);
    world.take_inbox("c");
    world.check_nothing_is_left();
    world.begin("c", &fit(1));
    assert_eq!(given(&mut world, "w"), [1]);
}

#[test]
fn a_call_that_waited_is_checked_against_the_worker_that_it_is_given_to() {
    let mut world = world();
    world.begin_within("c", &fit(0), 60_000);
    let (running, _) = world.question::<RunCall>("w");
    let waiting = world.begin_within("c", &fit(50), 60_000);
    let fine = world.begin_within("c", &fit(5), 60_000);
    let kind = ValueType { max: Some(9.into()), ..ValueType::of(Form::I64) };
    let params = vec![Param { name: "n".to_owned(), kind, ..Param::default() }];
    let strict = Description { calls: vec![Handled { params, ..handled("fit") }], ..subsystem("x01/w") };
    world.ask("w", &Describe { description: strict }).unwrap();
    world.done("w", &running, 0);
    assert_eq!(code(world.take_answer::<DoCall>("c", waiting)), ErrorCode::OutOfRange);
    let (question, run) = world.question::<RunCall>("w");
    assert_eq!(number(&run.params), 5);
    world.done("w", &question, 5);
    world.take_answer::<DoCall>("c", fine).unwrap();
    assert_eq!(code(world.ask("c", &fit(10))), ErrorCode::OutOfRange);
    world.take_inbox("c");
    world.check_nothing_is_left();
}

#[test]
fn a_worker_that_is_removed_or_describes_its_call_away_still_answers_what_it_has() {
    let mut world = world();
    let ids = [0, 1].map(|n| world.begin_within("c", &fit(n), 60_000));
    let (running, _) = world.question::<RunCall>("w");
    world.ask("w", &Remove { name: "x01/w".to_owned() }).unwrap();
    world.done("w", &running, 0);
    assert_eq!(world.take_answer::<DoCall>("c", ids[0]).unwrap().by, "x01/w");
    assert!(!world.has_answer("c", ids[1]), "it waits for another worker");
    assert_eq!(code(world.ask("c", &fit(2))), ErrorCode::NotHandled);
    world.ask("w", &Describe { description: worker("x01/w", 1) }).unwrap();
    let (question, _) = world.question::<RunCall>("w");
    world.done("w", &question, 1);
    world.take_answer::<DoCall>("c", ids[1]).unwrap();
    world.check_nothing_is_left();
}

#[test]
fn a_worker_that_describes_its_call_away_and_again_keeps_what_it_has() {
    for gone in [None, Some(Remove { name: "x01/w".to_owned() })] {
        let mut world = world();
        world.begin_within("c", &fit(0), 60_000);
        let (running, _) = world.question::<RunCall>("w");
        match gone {
            Some(remove) => drop(world.ask("w", &remove).unwrap()),
            None => drop(world.ask("w", &Describe { description: subsystem("x01/w") }).unwrap()),
        }
        world.ask("w", &Describe { description: worker("x01/w", 1) }).unwrap();
        world.ask("w", &Describe { description: worker("x01/w", 1) }).unwrap();
        world.begin_within("c", &fit(1), 60_000);
        assert!(given(&mut world, "w").is_empty(), "it has one, and takes one at a time");
        world.done("w", &running, 0);
        assert_eq!(given(&mut world, "w"), [1]);
    }
}

#[test]
fn calls_that_have_ended_leave_nothing_behind_while_another_is_open() {
    let mut world = World::new();
    world.host("w", "x01/agent-w", 1, &[worker("x01/w", 2)]);
    world.begin_within("c", &fit(0), 60_000);
    world.question::<RunCall>("w");
    let before = world.core.open_entries();
    for n in 1..2000 {
        let id = world.begin_within("c", &fit(n), 60_000);
        let (question, _) = world.question::<RunCall>("w");
        world.done("w", &question, n);
        world.take_answer::<DoCall>("c", id).unwrap();
        assert!(world.core.open_entries() <= before + 100, "after {n}");
    }
}

#[test]
fn calls_that_wait_are_limited_by_number_and_by_bytes() {
    let mut world = world();
    world.begin_within("c", &fit(0), 60_000);
    for n in 0..QUEUED_CALLS_MAX {
        let caller = format!("c{}", n / EXCHANGES_OF_SESSION_MAX);
        world.begin_within(&caller, &fit(1), 60_000);
    }
    assert_eq!(code(world.ask("d", &fit(2))), ErrorCode::Busy);
    let mut world = self::world();
    world.begin_within("c", &fit(0), 60_000);
    let large = DoCall { params: [("n".to_owned(), Value::Bytes(vec![0; QUEUED_BYTES_MAX / 5]))].into(), ..fit(0) };
    let ids: Vec<_> = (0..4).map(|_| world.begin_within("c", &large, 60_000)).collect();
    assert_eq!(code(world.ask("c", &large)), ErrorCode::Busy);
    world.notify("c", &Cancel { id: ids[0] });
    world.begin_within("c", &large, 60_000);
    assert!(!world.has_answer("c", ids[1]));
}

#[test]
fn a_call_is_done_once_though_the_disk_fails_in_its_batch() {
    let mut world = world();
    world.register("j", "x01/writer", 1, &[]).unwrap();
    let submit = ecs_schemas::job::Submit {
        service: "write".to_owned(),
        params: Value::Null,
        key: "k".to_owned(),
        ..Default::default()
    };
    let (submit_id, submit) = world.request_input("c", &submit);
    let (call_id, call) = world.request_input("c", &fit(7));
    world.disk_works = false;
    world.batch(&[submit, call]);
    assert_eq!(code(world.take_answer::<ecs_schemas::job::Submit>("c", submit_id)), ErrorCode::StoreFailed);
    let (question, _) = world.question::<RunCall>("w");
    world.done("w", &question, 7);
    assert!(world.take_answer::<DoCall>("c", call_id).is_ok());
    world.check_nothing_is_left();
}

#[test]
fn calls_that_wait_are_given_to_a_worker_that_was_freed_by_a_question_it_did_not_read() {
    let mut world = world();
    let first = world.begin_within("c", &fit(1), 60_000);
    let second = world.begin_within("c", &fit(2), 60_000);
    let (question, run) = world.question::<RunCall>("w");
    let lost = Outgoing { session: session("w"), header: question, body: encode(&run) };
    let answers = world.core.note_lost(&lost, world.now_ns);
    assert_eq!((answers.len(), answers[0].header.id), (1, first), "its caller hears of it at once");
    assert_eq!(decode::<Failure>(&answers[0].body).unwrap().code, ErrorCode::Busy);
    assert_eq!(world.core.lost_of(&session("w")), 1);
    world.batch(&[Input::Tick]);
    let (question, run) = world.question::<RunCall>("w");
    assert_eq!(number(&run.params), 2);
    world.done("w", &question, 4);
    assert_eq!(world.take_answer::<DoCall>("c", second).unwrap().value, 4.into());
}
