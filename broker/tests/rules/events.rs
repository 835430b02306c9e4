//! Events: rules X1 to X5, one end per target, feedback, vetoes and cancels.

use crate::world::{SECOND_NS, TIMEOUT_S, World, code, handled, session, subsystem};
use ecs_broker::{
    core::Input,
    limits::{
        FANOUT_BYTES_MAX, FEEDBACK_BYTES_MAX, PARAMS_MAX, REASON_BYTES_MAX, RESULTS_BYTES_MAX, TARGETS_MAX,
        VALUE_DEPTH_MAX,
    },
};
use ecs_schemas::{
    alarm::{Alarm, Clear, Raise, Severity},
    envelope::{BODY_BYTES_MAX, Header, KIND_ERROR, decode, encode},
    error_code::{ErrorCode, Failure},
    exchange::{
        CallEvent, Cancel, Feedback, Params, RunEvent, TargetEnd,
        TargetEnd::{Cancelled, Failed, Gone, NotHandled, Ok as Fine, Refused, Timeout},
        TargetEnded, TargetResult,
    },
    registry::Leave,
    subsystem::{Describe, Description, Handled, Param, Remove},
    value::Value,
    value_type::{Form, ValueType},
};

const UUID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

fn handler(name: &str) -> Description {
    Description { events: vec![handled("arm")], ..subsystem(name) }
}

/// `a` hosts x01/a, `b` hosts x01/b; both handle `arm`.
fn world() -> World {
    let mut world = World::new();
    world.host("a", "x01/agent-a", 1, &[Description { uuid: Some(UUID.to_owned()), ..handler("x01/a") }]);
    world.host("b", "x01/agent-b", 1, &[handler("x01/b")]);
    world
}

fn arm(targets: &[&str]) -> CallEvent {
    let targets = targets.iter().map(|&target| target.to_owned()).collect();
    CallEvent { event: "arm".to_owned(), targets, params: Params::new() }
}

fn params<const N: usize>(all: [(&str, Value); N]) -> Params {
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn results(world: &mut World, id: u64) -> Vec<TargetResult> {
    world.take_answer::<CallEvent>("c", id).unwrap().results
}

fn ends(world: &mut World, id: u64) -> Vec<(String, TargetEnd)> {
    results(world, id).into_iter().map(|result| (result.target, result.end)).collect()
}

fn pair(target: &str, end: TargetEnd) -> (String, TargetEnd) {
    (target.to_owned(), end)
}

#[test]
fn a_broadcast_reaches_all_that_handle_it_and_its_answer_has_every_end() {
    let mut world = world();
    world.host("d", "x01/deaf", 1, &[]);
    let id = world.begin("c", &CallEvent { params: params([("n", 3.into())]), ..arm(&[]) });
    assert!(world.questions::<RunEvent>("d").is_empty());
    let (at_a, run) = world.question::<RunEvent>("a");
    assert_eq!((run.subsystem.as_str(), run.event.as_str(), run.by.as_str()), ("x01/a", "arm", "anonymous"));
    assert_eq!(run.params, params([("n", 3.into())]));
    let (at_b, _) = world.question::<RunEvent>("b");
    world.done("b", &at_b, 7);
    assert!(!world.has_answer("c", id), "not before all have answered");
    let told = world.notices::<TargetEnded>("c");
    assert_eq!(told.iter().map(|told| (told.id, told.result.value.clone())).collect::<Vec<_>>(), [(id, 7.into())]);
    world.fail("a", &at_a, ErrorCode::Refused, "the door is open");
    let results = results(&mut world, id);
    assert_eq!((results[0].end, results[1].end, &results[1].value), (Refused, Fine, &7.into()));
    assert_eq!(results[0].reason.as_ref().unwrap().message, "the door is open");
    assert!(world.notices::<TargetEnded>("c").is_empty(), "the last end is in the answer");
    world.check_nothing_is_left();
}

/// Rule 4 of `exchange.md`: an agent tells by it what a broker that is gone has asked.
#[test]
fn ids_of_questions_are_above_the_start_of_their_broker_and_below_the_start_of_the_next() {
    let mut world = World::new();
    let mut asked_before = 0;
    for _ in 0..3 {
        let started_ns = world.host("a", "x01/agent-a", 1, &[handler("x01/a")]).started_ns;
        assert!(asked_before <= started_ns, "{asked_before} was asked by the broker before {started_ns}");
        for _ in 0..2 {
            world.begin("c", &arm(&["x01/a"]));
            let (question, _) = world.question::<RunEvent>("a");
            assert!(question.id > started_ns.max(asked_before), "{} of {started_ns}", question.id);
            asked_before = question.id;
        }
        world.now_ns += SECOND_NS;
        world.restart_broker();
    }
}

#[test]
fn a_broadcast_that_nobody_handles_is_answered_at_once_with_no_ends() {
    let mut world = world();
    assert_eq!(world.ask("c", &CallEvent { event: "no".to_owned(), ..arm(&[]) }).unwrap().results, []);
    world.check_nothing_is_left();
}

#[test]
fn named_targets_end_in_their_order_each_once_and_each_with_its_reason() {
    let mut world = world();
    world.host("g", "x01/agent-g", 1, &[handler("x01/gone")]);
    world.ask("g", &Leave {}).unwrap();
    let id = world.begin("c", &arm(&["x01/agent-b", "x01/b", "x01/gone", "x01/aa", UUID, "x01/a", "x01/b"]));
    let (at_a, _) = world.question::<RunEvent>("a");
    let (at_b, _) = world.question::<RunEvent>("b");
    world.done("a", &at_a, Value::Null);
    world.fail("b", &at_b, ErrorCode::Other, "broken");
    let results = results(&mut world, id);
    let told: Vec<_> = results.iter().map(|result| (result.target.as_str(), result.end)).collect();
    assert_eq!(
        told,
        [("x01/agent-b", NotHandled), ("x01/b", Failed), ("x01/gone", Gone), ("x01/aa", NotHandled), ("x01/a", Fine)]
    );
    let code_of = |at: usize| results[at].reason.as_ref().map(|reason| reason.code);
    assert_eq!(
        [code_of(0), code_of(1), code_of(2), code_of(3), code_of(4)],
        [
            Some(ErrorCode::NotHandled),
            Some(ErrorCode::Other),
            Some(ErrorCode::AgentLost),
            Some(ErrorCode::NoSuchSubsystem),
            None
        ]
    );
    assert!(results[3].reason.as_ref().unwrap().hint.as_ref().unwrap().contains("x01/a"));
    world.check_nothing_is_left();
}

#[test]
fn parameters_are_checked_against_each_handler_before_it_is_asked() {
    let mut world = world();
    let range = ValueType { min: Some(0.into()), max: Some(9.into()), ..ValueType::of(Form::I64) };
    let strict = Handled {
        params: vec![
            Param { name: "gain".to_owned(), kind: range, ..Param::default() },
            Param { name: "note".to_owned(), optional: true, kind: ValueType::of(Form::String), ..Param::default() },
        ],
        ..handled("arm")
    };
    world.ask("b", &Describe { description: Description { events: vec![strict], ..subsystem("x01/b") } }).unwrap();
    for (given, expected, text) in [
        (params([]), ErrorCode::BadParameter, "gain is missing (0 to 9)"),
        (params([("gain", 10.into())]), ErrorCode::OutOfRange, "10; allowed is 0 to 9"),
        (params([("gain", "x".into())]), ErrorCode::WrongType, "text, not i64"),
        (params([("gain", 1.into()), ("note", 2.into())]), ErrorCode::WrongType, "note"),
        (params([("gain", 1.into()), ("gian", 2.into())]), ErrorCode::BadParameter, "\"gian\""),
    ] {
        let id = world.begin("c", &CallEvent { params: given, ..arm(&["x01/a", "x01/b"]) });
        assert!(world.questions::<RunEvent>("b").is_empty());
        let (at_a, _) = world.question::<RunEvent>("a");
        world.done("a", &at_a, Value::Null);
        let results = results(&mut world, id);
        assert_eq!((results[0].end, results[1].end), (Fine, Refused));
        let reason = results[1].reason.as_ref().unwrap();
        assert_eq!(reason.code, expected);
        assert!(reason.message.contains(text), "{reason}");
    }
    let good = CallEvent { params: params([("gain", 9.into()), ("note", "n".into())]), ..arm(&["x01/b"]) };
    world.begin("c", &good);
    assert_eq!(world.question::<RunEvent>("b").1.params, good.params);
}

#[test]
fn at_the_deadline_who_has_not_answered_ends_as_timeout_and_is_told_to_stop() {
    let mut world = world();
    let id = world.begin_within("c", &arm(&[]), 500);
    let (at_a, _) = world.question::<RunEvent>("a");
    let (at_b, _) = world.question::<RunEvent>("b");
    assert_eq!(at_b.deadline_ms, Some(500));
    world.done("a", &at_a, 1);
    assert_eq!(world.core.wake_ns(), Some(world.now_ns + SECOND_NS / 2));
    world.now_ns += SECOND_NS / 2 - 1;
    world.batch(&[Input::Tick]);
    assert!(!world.has_answer("c", id));
    world.now_ns += 1;
    world.batch(&[Input::Wake]);
    assert_eq!(ends(&mut world, id), [pair("x01/a", Fine), pair("x01/b", Timeout)]);
    assert_eq!(world.notices::<Cancel>("b"), [Cancel { id: at_b.id }]);
    assert!(world.notices::<Cancel>("a").is_empty(), "it has answered");
    world.done("b", &at_b, 2);
    assert_eq!(world.take_inbox("c").len(), 1, "only the end of x01/a, from before");
    world.check_nothing_is_left();
}

#[test]
fn a_deadline_of_0_ends_at_once() {
    let mut world = world();
    let id = world.begin_within("c", &arm(&["x01/a"]), 0);
    assert_eq!(ends(&mut world, id), [pair("x01/a", Timeout)]);
    world.check_nothing_is_left();
}

#[test]
fn a_target_that_dies_ends_at_once_and_only_for_those_who_asked_it() {
    let mut world = world();
    let both = world.begin_within("c", &arm(&[]), 60_000);
    let only_b = world.begin_within("c", &arm(&["x01/b"]), 60_000);
    let at_b = world.questions::<RunEvent>("b");
    world.pass(TIMEOUT_S, &["b"]);
    assert_eq!(world.notices::<TargetEnded>("c")[0].result.end, Gone);
    assert!(!world.has_answer("c", both) && !world.has_answer("c", only_b));
    for (question, _) in &at_b {
        world.done("b", question, Value::Null);
    }
    assert_eq!(ends(&mut world, both), [pair("x01/a", Gone), pair("x01/b", Fine)]);
    assert_eq!(ends(&mut world, only_b), [pair("x01/b", Fine)]);
    world.check_nothing_is_left();
}

#[test]
fn a_target_that_leaves_or_starts_again_ends_as_gone_and_its_late_answer_counts_nothing() {
    let mut world = world();
    let first = world.begin("c", &arm(&["x01/a"]));
    let (question, _) = world.question::<RunEvent>("a");
    world.ask("a", &Leave {}).unwrap();
    let gone = results(&mut world, first).remove(0);
    assert_eq!((gone.end, gone.reason.unwrap().code), (Gone, ErrorCode::AgentLost));
    world.host("a", "x01/agent-a", 2, &[handler("x01/a")]);
    let second = world.begin("c", &arm(&["x01/a"]));
    world.done("a", &question, 666);
    assert!(!world.has_answer("c", second));
    let (question, _) = world.question::<RunEvent>("a");
    world.done("a", &question, 1);
    assert_eq!(results(&mut world, second)[0].value, 1.into());
    world.check_nothing_is_left();
}

#[test]
fn a_slow_handler_delays_nobody_but_its_own_callers() {
    let mut world = world();
    let slow = world.begin_within("c", &arm(&["x01/a"]), 60_000);
    for _ in 0..100 {
        let id = world.begin("c", &arm(&["x01/b"]));
        let (question, _) = world.question::<RunEvent>("b");
        world.done("b", &question, Value::Null);
        assert_eq!(ends(&mut world, id), [pair("x01/b", Fine)]);
    }
    assert!(!world.has_answer("c", slow));
}

#[test]
fn a_cancel_reaches_the_handlers_and_ends_what_they_have_not_answered() {
    let mut world = world();
    let id = world.begin("c", &arm(&[]));
    let (at_a, _) = world.question::<RunEvent>("a");
    let (at_b, _) = world.question::<RunEvent>("b");
    world.done("a", &at_a, 1);
    world.notify("stranger", &Cancel { id });
    world.notify("c", &Cancel { id: id + 1 });
    assert!(!world.has_answer("c", id), "nobody else's, and no other one");
    world.notify("c", &Cancel { id });
    assert_eq!(ends(&mut world, id), [pair("x01/a", Fine), pair("x01/b", Cancelled)]);
    assert_eq!(world.notices::<Cancel>("b"), [Cancel { id: at_b.id }]);
    world.notify("c", &Cancel { id });
    world.fail("b", &at_b, ErrorCode::Cancelled, "stopped");
    assert!(!world.has_answer("c", id), "one answer");
    world.check_nothing_is_left();
}

#[test]
fn a_handler_may_end_as_cancelled_itself() {
    let mut world = world();
    let id = world.begin("c", &arm(&["x01/a"]));
    let (question, _) = world.question::<RunEvent>("a");
    world.fail("a", &question, ErrorCode::Cancelled, "somebody pressed stop");
    assert_eq!(ends(&mut world, id), [pair("x01/a", Cancelled)]);
}

#[test]
fn feedback_is_passed_on_under_the_callers_id_until_the_end() {
    let mut world = world();
    let id = world.begin("c", &arm(&[]));
    let (at_a, _) = world.question::<RunEvent>("a");
    let (at_b, _) = world.question::<RunEvent>("b");
    let word = |id, value: i64| Feedback { id, target: "x01/liar".to_owned(), value: value.into() };
    world.notify("a", &word(at_a.id, 50));
    world.notify("b", &word(at_a.id, 51));
    world.notify("b", &word(at_b.id, 60));
    world.notify("stranger", &word(at_a.id, 52));
    let told: Vec<_> = world.notices::<Feedback>("c").into_iter().map(|its| (its.id, its.target, its.value)).collect();
    assert_eq!(told, [(id, "x01/a".to_owned(), 50.into()), (id, "x01/b".to_owned(), 60.into())]);
    let refusal: Failure = decode(&world.take_inbox("stranger")[0].1).unwrap();
    assert_eq!(refusal.code, ErrorCode::NotRegistered);
    world.done("a", &at_a, Value::Null);
    world.notify("a", &word(at_a.id, 99));
    world.notify("a", &word(12345, 99));
    assert!(world.notices::<Feedback>("c").is_empty(), "feedback after the end");
    assert!(world.take_inbox("a").is_empty(), "which is no error");
}

#[test]
fn feedback_beyond_its_limits_is_refused() {
    let mut world = world();
    world.begin("c", &arm(&["x01/a"]));
    let (question, _) = world.question::<RunEvent>("a");
    let word = |value: Value| Feedback { id: question.id, target: String::new(), value };
    let deep = (0..=VALUE_DEPTH_MAX).fold(Value::Null, |inner, _| Value::List(vec![inner]));
    for value in [Value::Bytes(vec![0; FEEDBACK_BYTES_MAX + 1]), deep] {
        world.notify("a", &word(value));
        let (header, body) = world.take_inbox("a").remove(0);
        assert_eq!((header.id, decode::<Failure>(&body).unwrap().code), (0, ErrorCode::BadParameter));
    }
    world.notify("a", &word(Value::Bytes(vec![0; FEEDBACK_BYTES_MAX])));
    assert_eq!(world.notices::<Feedback>("c").len(), 1);
}

#[test]
fn a_broken_answer_ends_the_target_as_failed() {
    let deep = (0..=VALUE_DEPTH_MAX).fold(Value::Null, |inner, _| Value::List(vec![inner]));
    for body in [vec![], vec![0xc1], encode(&Value::from(5)), encode(&Value::map([("value", deep)])), vec![0x91; 5000]]
    {
        for is_error in [false, true] {
            let mut world = world();
            let id = world.begin("c", &arm(&["x01/a"]));
            let (question, _) = world.question::<RunEvent>("a");
            let header = if is_error { question.error() } else { question.reply() };
            world.send_parts("a", vec![encode(&header), body.clone()]);
            assert_eq!(ends(&mut world, id), [pair("x01/a", Failed)], "{body:?}");
            world.check_nothing_is_left();
        }
    }
}

#[test]
fn an_answer_of_any_kind_of_reply_counts_only_for_what_was_asked_and_once() {
    let mut world = world();
    let id = world.begin("c", &arm(&[]));
    let (at_a, _) = world.question::<RunEvent>("a");
    let (at_b, _) = world.question::<RunEvent>("b");
    world.done("b", &at_a, 666);
    world.done("a", &at_b, 666);
    world.done("a", &Header { id: 0, ..at_a.clone() }, 666);
    world.done("a", &Header { id: u64::MAX, ..at_a.clone() }, 666);
    world.done("a", &at_a, 1);
    world.done("a", &at_a, 2);
    world.done("b", &at_b, 3);
    let values: Vec<_> = results(&mut world, id).into_iter().map(|result| result.value).collect();
    assert_eq!(values, [1.into(), 3.into()]);
    for of in ["a", "b"] {
        assert!(world.take_inbox(of).is_empty(), "an answer is never answered");
    }
}

#[test]
fn descriptions_may_change_and_subsystems_go_while_events_are_open() {
    let mut world = world();
    let id = world.begin("c", &arm(&[]));
    let (at_a, _) = world.question::<RunEvent>("a");
    let (at_b, _) = world.question::<RunEvent>("b");
    world.ask("a", &Describe { description: subsystem("x01/a") }).unwrap();
    world.ask("b", &Remove { name: "x01/b".to_owned() }).unwrap();
    assert_eq!(world.ask("c", &arm(&[])).unwrap().results, [], "nobody handles it any more");
    world.done("a", &at_a, 1);
    world.done("b", &at_b, 2);
    assert_eq!(ends(&mut world, id), [pair("x01/a", Fine), pair("x01/b", Fine)]);
    world.check_nothing_is_left();
}

#[test]
fn a_caller_that_is_gone_frees_its_handlers() {
    let mut world = world();
    world.begin("c", &arm(&[]));
    let asked: Vec<_> = ["a", "b"].map(|of| world.question::<RunEvent>(of).0.id).into();
    world.batch(&[Input::Unreachable { session: session("c") }]);
    let told: Vec<_> = ["a", "b"].map(|of| world.notices::<Cancel>(of).remove(0).id).into();
    assert_eq!(told, asked);
    world.check_nothing_is_left();
}

#[test]
fn an_event_beyond_a_limit_is_refused_whole() {
    let mut world = world();
    let many = vec!["x01/a".to_owned(); TARGETS_MAX + 1];
    let wide = (0..=PARAMS_MAX).map(|at| (at.to_string(), Value::Null)).collect();
    let deep = (0..=VALUE_DEPTH_MAX).fold(Value::Null, |inner, _| Value::List(vec![inner]));
    let large = Value::List(vec![0.into(); 4_000_000]); // small on the wire, large as it is counted
    let bad = [
        (CallEvent { targets: many, ..arm(&[]) }, ErrorCode::BadParameter),
        (CallEvent { params: wide, ..arm(&[]) }, ErrorCode::BadParameter),
        (CallEvent { params: params([("p", deep)]), ..arm(&[]) }, ErrorCode::BadParameter),
        (CallEvent { params: params([("p", large.clone()), ("q", large)]), ..arm(&[]) }, ErrorCode::BadParameter),
        (arm(&[&"x".repeat(1_000_000)]), ErrorCode::NoSuchSubsystem),
    ];
    for (event, expected) in bad {
        let failure = world.ask("c", &event).unwrap_err();
        assert_eq!(failure.code, expected, "{failure}");
        assert!(failure.message.len() < 1000);
    }
    assert!(world.questions::<RunEvent>("a").is_empty());
    world.check_nothing_is_left();
}

#[test]
fn large_parameters_go_to_few_targets_and_not_to_many() {
    let mut world = World::new();
    let hosted: Vec<_> = (0..8).map(|at| handler(&format!("x01/h{at}"))).collect();
    world.host("h", "x01/hosts", 1, &hosted);
    let large = params([("p", Value::Bytes(vec![0; FANOUT_BYTES_MAX / 8 + 1]))]);
    let to_all = CallEvent { params: large.clone(), ..arm(&[]) };
    assert_eq!(code(world.ask("c", &to_all)), ErrorCode::BadParameter);
    world.begin("c", &CallEvent { params: large, ..arm(&["x01/h1", "x01/h2"]) });
    assert_eq!(world.questions::<RunEvent>("h").len(), 2);
}

/// Answers and reasons that would not fit into one body together.
#[test]
fn what_several_targets_answer_fits_into_one_body_whatever_they_say() {
    let mut world = World::new();
    let hosted: Vec<_> = (0..200).map(|at| handler(&format!("x01/h{at:03}"))).collect();
    world.host("h", "x01/hosts", 1, &hosted);
    let id = world.begin("c", &arm(&[]));
    let questions = world.questions::<RunEvent>("h");
    for (at, (question, _)) in questions.iter().enumerate() {
        match at {
            0..3 => world.done("h", question, Value::Bytes(vec![0; RESULTS_BYTES_MAX / 2])),
            _ => world.fail("h", question, ErrorCode::Other, &"ä".repeat(1_000_000)),
        }
    }
    let inbox = world.take_inbox("c");
    let (_, body) = inbox.iter().find(|message| message.0.id == id).unwrap();
    assert!(body.len() <= BODY_BYTES_MAX);
    let results = decode::<ecs_schemas::exchange::EventResults>(body).unwrap().results;
    assert_eq!(results.iter().take(4).map(|result| result.end).collect::<Vec<_>>(), [Fine, Fine, Failed, Failed]);
    assert!(results[2].reason.as_ref().unwrap().message.contains("found no room"));
    assert!(results[3..].iter().all(|result| result.reason.as_ref().unwrap().message.len() <= REASON_BYTES_MAX));
    let id = world.begin("c", &arm(&["x01/h000"]));
    let (question, _) = world.question::<RunEvent>("h");
    world.done("h", &question, Value::Bytes(vec![0; ecs_schemas::envelope::VALUE_BYTES_MAX]));
    assert_eq!(ends(&mut world, id), [pair("x01/h000", Fine)], "one alone may answer as much as fits");
}

/// A thousand unknown targets with thousands of names to compare each with.
#[test]
fn many_unknown_targets_are_told_with_the_nearest_only_for_the_first() {
    let mut world = world();
    let targets: Vec<String> = (0..TARGETS_MAX).map(|at| format!("x01/aa{at}")).collect();
    let results = world.ask("c", &CallEvent { targets, ..arm(&[]) }).unwrap().results;
    assert_eq!(results.len(), TARGETS_MAX);
    assert!(results.iter().all(|result| result.end == NotHandled && result.reason.is_some()));
    let hinted = results.iter().filter(|result| result.reason.as_ref().unwrap().hint.is_some()).count();
    assert!(hinted > 0 && hinted <= ecs_broker::limits::SUGGESTIONS_MAX, "{hinted}");
}

#[test]
fn an_error_to_nobody_is_dropped() {
    let mut world = world();
    for from in ["a", "stranger"] {
        world.send_as(from, &Header { id: 5, ..Header::notice(KIND_ERROR) }, &Failure::new(ErrorCode::Other, "?"));
        world.send_as(from, &Header { id: 5, ..Header::notice(".reply") }, &Value::Null);
        assert!(world.take_inbox(from).is_empty());
    }
}

/// Each end is published when it comes, not with the last; and it is published though its caller has gone.
#[test]
fn each_targets_end_is_published_at_once_also_when_the_caller_has_gone() {
    let mut world = world();
    let ended = |world: &World, of: &str| {
        let all = world.on_topic(&format!("x01/{of}/event/arm"));
        all.iter().map(|(_, told)| told.get("end").unwrap().as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    world.begin("c", &arm(&[]));
    let (at_a, _) = world.question::<RunEvent>("a");
    let (at_b, _) = world.question::<RunEvent>("b");
    world.done("a", &at_a, 7);
    assert_eq!((ended(&world, "a"), ended(&world, "b")), (vec!["ok".to_owned()], vec![]));
    world.batch(&[Input::Unreachable { session: session("c") }]);
    assert_eq!(ended(&world, "b"), ["cancelled"]);
    world.done("b", &at_b, 7);
    assert_eq!((ended(&world, "a").len(), ended(&world, "b").len()), (1, 1), "one end for each");
    world.check_nothing_is_left();
}

/// Topics of `x01/b` that a subscriber who comes now is told.
fn told_late(world: &mut World) -> Vec<String> {
    world.published.clear();
    world.now_ns += SECOND_NS / 10;
    world.batch(&[Input::Subscribed { prefix: b"x01/b/".to_vec() }]);
    world.published.drain(..).map(|publication| publication.topic.to_string()).collect()
}

#[test]
fn topics_of_a_subsystem_that_is_no_more_are_forgotten_also_when_its_event_ends_later() {
    let mut world = world();
    let raise = Raise {
        subsystem: "x01/b".to_owned(),
        alarm: Alarm { code: "HOT".to_owned(), severity: Severity::Warn, text: String::new(), since_ns: 0 },
    };
    world.ask("b", &raise).unwrap();
    world.ask("b", &Clear { subsystem: "x01/b".to_owned(), code: "HOT".to_owned() }).unwrap();
    let id = world.begin("c", &arm(&["x01/b"]));
    let (question, _) = world.question::<RunEvent>("b");
    world.done("b", &question, 7);
    assert_eq!(ends(&mut world, id), [pair("x01/b", Fine)]);
    let topics = ["x01/b/alarm/HOT", "x01/b/description", "x01/b/event/arm"];
    assert_eq!(told_late(&mut world), topics, "while it is there");
    let id = world.begin("c", &arm(&["x01/b"]));
    let (question, _) = world.question::<RunEvent>("b");
    world.ask("b", &Remove { name: "x01/b".to_owned() }).unwrap();
    assert_eq!(told_late(&mut world), Vec::<String>::new());
    world.done("b", &question, 8);
    assert_eq!(ends(&mut world, id).len(), 1);
    assert_eq!(world.on_topic("x01/b/event/arm").len(), 1, "its end is told");
    assert_eq!(told_late(&mut world), Vec::<String>::new(), "and not kept");
}
