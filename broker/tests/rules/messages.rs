//! What is no message, and every limit that a sender can reach. It costs the sender alone.

use crate::world::{World, code, submit_write};
use ecs_broker::core::Sender;
use ecs_broker::limits::{JOB_VALUE_BYTES_MAX, OPEN_JOBS_MAX, TELEMETRY_BYTES_MAX, VALUE_DEPTH_MAX};
use ecs_schemas::{
    envelope::{Header, KIND_ERROR, Notice, Request, decode, encode},
    error_code::{ErrorCode, Failure},
    job::{JobId, JobState, KEY_BYTES_MAX, ReportJob, ReportProgress, Submit},
    registry::GetStatus,
    telemetry::{Telemetry, VALUES_MAX},
    value::Value,
};
use std::collections::BTreeMap;

fn nested(levels: usize) -> Value {
    (0..levels).fold(Value::Null, |inner, _| Value::List(vec![inner]))
}

fn submit(params: Value, key: &str) -> Submit {
    Submit { params, ..submit_write(key) }
}

#[test]
fn message_whose_header_cannot_be_read_is_counted_and_not_answered() {
    let mut world = World::new();
    let long_header = encode(&Header::request("k".repeat(5000), 1, 1));
    let cases = [
        vec![],
        vec![vec![]],
        vec![b"GET / HTTP/1.1".to_vec()],
        vec![vec![0x91; 4000], vec![]],
        vec![long_header, vec![]],
    ];
    for (count, parts) in cases.into_iter().enumerate() {
        world.send_parts("evil", parts);
        assert_eq!(world.take_inbox("evil"), [], "case {count}");
        assert_eq!(world.status().broker.malformed, count as u64 + 1);
    }
}

#[test]
fn message_with_a_header_but_wrong_otherwise_gets_one_error_under_its_id() {
    let good = Header::request(GetStatus::KIND, 9, 1000);
    let body = encode(&GetStatus {});
    let telemetry = Header { id: 9, ..Header::notice(Telemetry::KIND) };
    let header = |change: &dyn Fn(&mut Header)| {
        let mut header = good.clone();
        change(&mut header);
        encode(&header)
    };
    let cases = [
        ("one part", vec![encode(&good)], ErrorCode::BadMessage),
        ("three parts", vec![encode(&good), body.clone(), body.clone()], ErrorCode::BadMessage),
        ("no map", vec![encode(&good), vec![0xc1]], ErrorCode::BadMessage),
        ("bytes behind", vec![encode(&good), [body.clone(), vec![0]].concat()], ErrorCode::BadMessage),
        ("another version", vec![header(&|header| header.v = 2), body.clone()], ErrorCode::UnsupportedVersion),
        ("unknown kind", vec![header(&|header| header.kind = "no.such".into()), body.clone()], ErrorCode::UnknownKind),
        ("no deadline", vec![header(&|header| header.deadline_ms = None), body.clone()], ErrorCode::BadMessage),
        ("notice with id", vec![encode(&telemetry), body.clone()], ErrorCode::BadMessage),
        ("missing fields", vec![header(&|header| header.kind = Submit::KIND.into()), body], ErrorCode::BadMessage),
    ];
    for (name, parts, expected) in cases {
        let mut world = World::new();
        world.send_parts("odd", parts);
        let inbox = world.take_inbox("odd");
        assert_eq!(inbox.len(), 1, "{name}");
        assert_eq!((inbox[0].0.kind.as_str(), inbox[0].0.id), (KIND_ERROR, 9), "{name}");
        assert_eq!(decode::<Failure>(&inbox[0].1).unwrap().code, expected, "{name}");
        assert_eq!(world.status().broker.malformed, 1, "{name}");
    }
}

#[test]
fn request_with_id_0_is_refused_and_not_done() {
    let mut world = World::with_writer();
    let header = Header { id: 0, ..Header::request(Submit::KIND, 1, 1000) };
    world.send_parts("client", vec![encode(&header), encode(&submit(Value::Null, "k"))]);
    let inbox = world.take_inbox("client");
    assert_eq!((inbox.len(), inbox[0].0.id), (1, 0));
    assert_eq!(world.status().broker.jobs_open, 0);
}

#[test]
fn unknown_fields_are_ignored() {
    let mut world = World::with_writer();
    let mut header = Value::from_typed(&Header::request(GetStatus::KIND, 4, 1000));
    header.insert("colour", "blue".into());
    world.send_parts("new", vec![encode(&header), encode(&Value::map([("since", 3.into())]))]);
    assert_eq!(world.take_inbox("new")[0].0.kind, "status.get.reply");
}

#[test]
fn submission_at_each_limit_is_taken_and_beyond_it_refused() {
    let mut world = World::with_writer();
    world.ask("c", &submit(nested(VALUE_DEPTH_MAX), &"k".repeat(KEY_BYTES_MAX))).unwrap();
    let bytes = |count| Value::Bytes(vec![0; count]);
    world.ask("c", &submit(bytes(JOB_VALUE_BYTES_MAX - 16), "large")).unwrap();
    let bad = [
        submit(nested(VALUE_DEPTH_MAX + 1), "deep"),
        submit(bytes(JOB_VALUE_BYTES_MAX), "too large"),
        submit(Value::Null, ""),
        submit(Value::Null, &"k".repeat(KEY_BYTES_MAX + 1)),
        submit(Value::Null, "follow:1:write"),
        Submit { service: String::new(), ..submit(Value::Null, "no service") },
    ];
    for submit in bad {
        assert_eq!(code(world.ask("c", &submit)), ErrorCode::BadParameter, "{}", submit.key);
    }
}

#[test]
fn open_jobs_beyond_the_limit_are_refused_until_some_end() {
    let mut world = World::with_writer();
    for number in 0..OPEN_JOBS_MAX {
        world.submit(&number.to_string()).unwrap();
    }
    assert_eq!(code(world.submit("one more")), ErrorCode::Busy);
    assert!(world.submit("0").is_ok(), "a job that is there is no new one");
    world.report("a", JobId(1), JobState::Done).unwrap();
    assert!(world.submit("one more").is_ok());
}

#[test]
fn result_that_is_too_large_is_refused() {
    let mut world = World::with_writer();
    world.submit("k").unwrap();
    let result = Some(Value::Bytes(vec![0; JOB_VALUE_BYTES_MAX]));
    let report = ReportJob { attempt: 0, id: JobId(1), state: JobState::Done, reason: None, result };
    assert_eq!(code(world.ask("a", &report)), ErrorCode::BadParameter);
    assert_eq!(world.state(JobId(1)), JobState::Submitted);
}

#[test]
fn telemetry_is_published_by_the_senders_name_and_kept_in_its_status() {
    let mut world = World::with_writer();
    let values: BTreeMap<String, Value> = [("images_per_s".to_owned(), Value::from(2.5))].into();
    world.notify("a", &Telemetry { values: values.clone() });
    let publication = world.published.iter().find(|p| &*p.topic == "x01/writer/telemetry").unwrap();
    assert_eq!(decode::<BTreeMap<String, Value>>(&publication.payload), Ok(values.clone()));
    assert_eq!(decode::<Value>(&publication.header).unwrap().get("source"), Some(&"x01/writer".into()));
    assert_eq!(world.agent("x01/writer").telemetry, values);
}

#[test]
fn telemetry_beyond_a_limit_or_of_a_stranger_is_refused_and_not_published() {
    let mut world = World::with_writer();
    let many = (0..=VALUES_MAX).map(|number| (number.to_string(), Value::Null)).collect();
    let large = [("x".to_owned(), Value::Bytes(vec![0; TELEMETRY_BYTES_MAX]))].into();
    let deep = [("x".to_owned(), nested(VALUE_DEPTH_MAX + 1))].into();
    for (from, values, expected) in [
        ("a", many, ErrorCode::BadParameter),
        ("a", large, ErrorCode::BadParameter),
        ("a", deep, ErrorCode::BadParameter),
        ("stranger", BTreeMap::new(), ErrorCode::NotRegistered),
    ] {
        world.notify(from, &Telemetry { values });
        let inbox = world.take_inbox(from);
        let failure: Failure = decode(&inbox.last().unwrap().1).unwrap();
        assert_eq!((inbox.last().unwrap().0.id, failure.code), (0, expected));
    }
    assert!(!world.published.iter().any(|publication| publication.topic.ends_with("/telemetry")));
}

#[test]
fn hostile_bytes_in_every_known_kind_never_stop_the_broker() {
    let mut world = World::with_writer();
    let kinds = [
        "agent.register",
        "agent.heartbeat",
        "agent.leave",
        "telemetry",
        "job.submit",
        "job.get",
        "job.list",
        "job.cancel",
        "job.hold",
        "job.release",
        "job.move",
        "job.outcome",
        "job.report",
        ReportProgress::KIND,
        "status.get",
        "",
        "job.run",
        "error",
    ];
    let deep = [[0x81, 0xa1, b'x'].repeat(2000), vec![0xc0]].concat();
    let claims_4g = vec![0xdf, 0xff, 0xff, 0xff, 0xff];
    for kind in kinds {
        for body in [vec![], deep.clone(), claims_4g.clone(), vec![0x80], vec![0xff; 100_000], encode(&Value::from(-1))]
        {
            for id in [0, 1, u64::MAX] {
                let header = Header { id, ..Header::request(kind, 1, 0) };
                world.send_parts("a", vec![encode(&header), body.clone()]);
                world.send_parts("stranger", vec![encode(&header), body.clone()]);
            }
        }
    }
    world.take_inbox("a");
    world.register("b", "x01/still-here", 1, &[]).unwrap();
}

/// Whoever takes the ids of questions for those of its own requests would take such an error for an answer.
#[test]
fn answer_that_is_not_taken_is_counted_and_not_answered() {
    let answer = Header::request(GetStatus::KIND, 9, 1000).reply();
    let body = encode(&GetStatus {});
    let cases = [
        (Sender::Anyone, vec![answer.encode(), body.clone(), body.clone()]),
        (Sender::Anyone, vec![answer.error().encode()]),
        (Sender::Anyone, vec![Header { v: 2, ..answer.clone() }.encode(), body.clone()]),
        (Sender::Revoked, vec![answer.encode(), body]),
    ];
    for (sender, parts) in cases {
        let mut world = World::new();
        world.sender = sender;
        world.send_parts("odd", parts);
        assert_eq!(world.take_inbox("odd"), []);
        world.sender = Sender::Anyone;
        assert_eq!(world.status().broker.malformed, 1);
    }
}
