//! Which message led to which: rules T1 to T3.

use crate::world::{SECOND_NS, World, code, handled, item, subsystem};
use ecs_broker::{core::Input, limits::SPANS_MAX};
use ecs_schemas::envelope::Request;
use ecs_schemas::{
    envelope::Header,
    error_code::ErrorCode,
    exchange::{CallEvent, Params, RunEvent},
    kv::{Item, Set, Taken, Write},
    subsystem::{Describe, Description, GetSubsystem},
    trace::{GetTrace, Span, Spans, Trace},
    value::Value,
};

fn world() -> World {
    let mut world = World::new();
    let laser = Description { events: vec![handled("arm")], ..subsystem("x01/laser") };
    let stage = Description {
        events: vec![handled("arm")],
        items: vec![Item { published: false, ..item("x") }],
        ..subsystem("x01/stage")
    };
    world.host("l", "x01/agent-l", 1, &[laser]);
    world.host("s", "x01/agent-s", 1, &[stage]);
    world
}

fn arm() -> CallEvent {
    CallEvent { event: "arm".to_owned(), targets: vec![], params: Params::new() }
}

fn set() -> Set {
    Set { subsystem: "x01/stage".to_owned(), item: "x".to_owned(), value: 1.into(), if_revision: None }
}

fn find(world: &mut World, id: u64) -> Spans {
    world.ask("c", &GetTrace { id }).unwrap()
}

fn short(span: &Span) -> (&str, &str, &str, &str, &str) {
    (&span.kind, &span.subject, &span.from, &span.to, &span.outcome)
}

#[test]
fn a_request_without_a_trace_begins_one_that_its_answer_and_its_questions_carry() {
    let mut world = world();
    let id = world.begin("c", &arm());
    let (at_l, _) = world.question::<RunEvent>("l");
    let (at_s, _) = world.question::<RunEvent>("s");
    let (l, s) = (at_l.trace.unwrap(), at_s.trace.unwrap());
    assert_eq!((l.trace, l.parent), (s.trace, s.parent));
    assert_eq!(l.trace, l.parent, "T1");
    assert!(l.span != s.span && l.span != l.trace && l.trace != 0);
    world.done("l", &at_l, Value::Null);
    world.fail("s", &at_s, ErrorCode::Refused, "no");
    world.take_answer::<CallEvent>("c", id).unwrap();
    let spans = find(&mut world, s.span);
    assert_eq!(spans, find(&mut world, l.trace), "by the trace, or by a span of it");
    assert_eq!(
        spans.spans.iter().map(short).collect::<Vec<_>>(),
        [
            ("event.call", "arm", "anonymous", "broker", "refused"),
            ("event.run", "arm", "anonymous", "x01/laser", "ok"),
            ("event.run", "arm", "anonymous", "x01/stage", "refused"),
        ]
    );
    assert!(spans.spans.iter().all(|span| span.end_ns >= span.begin_ns && span.begin_ns > 0));
}

/// The laser sets the stage while it handles the event: T2.
#[test]
fn what_an_agent_sends_while_it_handles_a_message_hangs_below_it() {
    let mut world = world();
    world.begin("c", &arm());
    let (at_l, _) = world.question::<RunEvent>("l");
    let above = at_l.trace.unwrap();
    let below = Trace { trace: above.trace, span: 77, parent: above.span };
    world.send_as("l", &Header { trace: Some(below), ..Header::request(Set::KIND, 5, 1000) }, &set());
    let (write, _) = world.question::<Write>("s");
    let trace = write.trace.unwrap();
    assert_eq!((trace.trace, trace.parent), (above.trace, 77));
    world.reply("s", &write, &Taken { value: 1.into() });
    let (answer, _) = world.take_inbox("l").pop().unwrap();
    assert_eq!(answer.trace, Some(below), "the answer says to which span it belongs");
    let spans = find(&mut world, above.trace).spans;
    let set = spans.iter().find(|span| span.span == 77).unwrap();
    assert_eq!((short(set), set.parent), (("kv.set", "x01/stage/x", "x01/agent-l", "broker", "ok"), above.span));
    assert!(spans.iter().any(|span| span.kind == "kv.write" && span.parent == 77));
}

#[test]
fn however_a_message_ends_its_spans_do_and_say_how() {
    for (end, outcome) in
        [("deadline", "timeout"), ("cancel", "cancelled"), ("caller", "caller_gone"), ("owner", "gone")]
    {
        let mut world = world();
        let id = world.begin_within("c", &set(), 100);
        let (write, _) = world.question::<Write>("s");
        world.now_ns += SECOND_NS / 10;
        match end {
            "deadline" => world.batch(&[Input::Wake]),
            "cancel" => world.notify("c", &ecs_schemas::exchange::Cancel { id }),
            "caller" => world.batch(&[Input::Unreachable { session: crate::world::session("c") }]),
            _ => drop(world.ask("s", &ecs_schemas::registry::Leave {})),
        }
        for span in find(&mut world, write.trace.unwrap().trace).spans {
            assert!(span.end_ns > span.begin_ns, "{end}: {span:?}");
            assert_eq!(span.outcome, outcome, "{end}: {}", span.kind);
        }
    }
}

#[test]
fn a_refused_request_is_a_span_with_its_code_and_a_question_for_the_broker_is_none() {
    let mut world = world();
    let trace = Trace { trace: 5, span: 6, parent: 0 };
    let header = Header { trace: Some(trace), ..Header::request(Set::KIND, 9, 1000) };
    world.send_as("c", &header, &Set { item: "y".to_owned(), ..set() });
    assert_eq!(find(&mut world, 5).spans[0].outcome, "no_such_item");
    let header = Header { trace: Some(Trace { trace: 8, ..trace }), ..Header::request(GetSubsystem::KIND, 10, 1000) };
    world.send_as("c", &header, &GetSubsystem { name: "x01/stage".to_owned() });
    assert_eq!(code(world.ask("c", &GetTrace { id: 8 })), ErrorCode::BadParameter);
}

/// A trace of zeros, one id for everything, and more spans than are remembered.
#[test]
fn traces_of_any_kind_of_sender_stay_within_their_limit() {
    let mut world = world();
    for trace in [Trace { trace: 0, span: 0, parent: 0 }, Trace { trace: 7, span: 0, parent: 7 }] {
        world.send_as("c", &Header { trace: Some(trace), ..Header::request(Set::KIND, 1, 1000) }, &set());
        let (write, _) = world.question::<Write>("s");
        let its = write.trace.unwrap();
        assert!(its.trace != 0 && its.trace != 7, "it begins one");
        world.reply("s", &write, &Taken { value: 1.into() });
    }
    let same = Trace { trace: 9, span: 9, parent: 9 };
    let description = subsystem("x01/agent-l");
    for id in 0..SPANS_MAX as u64 + 10 {
        let header = Header { trace: Some(same), ..Header::request(Describe::KIND, id + 1, 1000) };
        world.send_as("l", &header, &Describe { description: description.clone() });
        world.take_inbox("l");
    }
    assert_eq!(find(&mut world, 9).spans.len(), SPANS_MAX);
}
