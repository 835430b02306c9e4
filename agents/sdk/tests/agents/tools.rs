//! Clients and subscribers.

use crate::setup::{Beamline, CALL, WATCHDOG, rude_broker, take, wait_for};
use ecs_schemas::{
    envelope::{Header, Request, encode},
    error_code::ErrorCode,
    job::{Ack, GetJob, JobId, JobList, ListJobs},
    registry::GetStatus,
    telemetry::PubHeader,
    value::Value,
};
use ecs_sdk::{CallError, Client, Subscriber};
use std::time::{Duration, Instant};

#[test]
fn call_without_a_broker_says_so_within_two_seconds_and_works_when_it_comes() {
    let mut beamline = Beamline::without_broker();
    let client = beamline.client();
    let started = Instant::now();
    let error = client.call(&GetStatus {}, CALL).unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(2), "took {:?}", started.elapsed());
    assert!(matches!(error, CallError::NoBroker { .. }));
    let text = error.to_string();
    assert!(text.contains("ecs-cli up") && text.contains(&beamline.request_endpoint()), "{text}");
    beamline.start_broker();
    wait_for("the broker answers", || client.call(&GetStatus {}, CALL).is_ok());
}

#[test]
fn refusal_comes_with_its_code_and_hint() {
    let beamline = Beamline::new();
    let error = beamline.client().call(&GetJob { id: JobId(99) }, CALL).unwrap_err();
    assert!(error.to_string().contains("ecs-cli jobs"), "{error}");
    assert!(matches!(error, CallError::Refused(failure) if failure.code == ErrorCode::NoSuchJob));
}

fn list_reply<R: Request>(router: &zmq::Socket, to: &[u8], header: &Header, reply: &R::Reply) {
    router.send_multipart([to, &encode(header), &encode(reply)], 0).unwrap();
}

#[test]
fn late_answer_to_one_call_is_never_taken_for_the_answer_to_another() {
    let beamline = Beamline::without_broker();
    let router = rude_broker(&beamline);
    let client = beamline.client();
    let served = std::thread::spawn(move || {
        let (first, first_header) = take(&router);
        let (second, second_header) = take(&router);
        let late = JobList { jobs: vec![], next: None };
        for to in [&first, &second] {
            list_reply::<ListJobs>(&router, to, &first_header.reply(), &late);
        }
        let stale = Header { id: second_header.id + 7, ..second_header.reply() };
        list_reply::<ListJobs>(&router, &second, &stale, &late);
        router.send_multipart([&second[..], b"no header", b""], 0).unwrap();
        router.send_multipart([&second[..], &encode(&second_header.error()), &encode(&failure())], 0).unwrap();
        router
    });
    let timeout = client.call(&ListJobs { limit: 1, ..ListJobs::default() }, Duration::from_millis(300)).unwrap_err();
    assert!(matches!(timeout, CallError::Timeout { .. }), "{timeout}");
    let answer = client.call(&ListJobs { limit: 1, ..ListJobs::default() }, CALL).unwrap_err();
    assert!(matches!(answer, CallError::Refused(failure) if failure.message == "the right one"));
    served.join().unwrap();
}

fn failure() -> ecs_schemas::error_code::Failure {
    ecs_schemas::error_code::Failure::new(ErrorCode::Other, "the right one")
}

#[test]
fn answer_of_another_form_is_an_error_that_names_the_request() {
    let beamline = Beamline::without_broker();
    let router = rude_broker(&beamline);
    let client = beamline.client();
    let served = std::thread::spawn(move || {
        let (to, header) = take(&router);
        router.send_multipart([&to[..], &encode(&header.reply()), &encode(&Ack {})], 0).unwrap();
        router
    });
    let error = client.call(&ListJobs { limit: 1, ..ListJobs::default() }, CALL).unwrap_err();
    assert!(matches!(error, CallError::BadReply { kind: "job.list", .. }), "{error}");
    served.join().unwrap();
}

#[test]
fn text_that_is_no_endpoint_is_refused_with_the_form_of_one() {
    for endpoint in ["", "localhost:7750", "tcp://"] {
        let error = Client::new(endpoint).err().expect("no client");
        assert!(error.to_string().contains("tcp://ADDRESS:PORT"), "{error}");
    }
}

#[test]
fn subscriber_skips_and_counts_what_is_malformed_and_skips_repeats() {
    let beamline = Beamline::without_broker();
    let publisher = zmq::Context::new().socket(zmq::XPUB).unwrap();
    publisher.bind(&beamline.publish_endpoint()).unwrap();
    let mut subscriber = Subscriber::new(&beamline.publish_endpoint(), ["a/"]).unwrap();
    publisher.set_rcvtimeo(WATCHDOG.as_millis() as i32).unwrap();
    publisher.recv_bytes(0).expect("the subscription");
    let header = |seq| encode(&PubHeader { v: 1, source: "a".to_owned(), seq, time_ns: seq });
    let other_version = encode(&PubHeader { v: 2, source: "a".to_owned(), seq: 1, time_ns: 1 });
    let payload = encode(&Value::from(1));
    let (one, two) = (header(1), header(2));
    let messages: [&[&[u8]]; 8] = [
        &[b"a/t"],
        &[b"a/t", b"no header", &payload],
        &[b"a/t", &one, &[0xc1]],
        &[b"a/\xff", &one, &payload],
        &[b"a/t", &other_version, &payload],
        &[b"a/t", &one, &payload],
        &[b"a/t", &one, &payload],
        &[b"a/t", &two, &payload],
    ];
    for message in messages {
        publisher.send_multipart(message.iter().copied(), 0).unwrap();
    }
    let seen: Vec<u64> = (0..2).map(|_| subscriber.next(WATCHDOG).expect("a message").1.seq).collect();
    assert_eq!((seen, subscriber.malformed()), (vec![1, 2], 5));
    assert!(subscriber.next(Duration::from_millis(50)).is_none());
}
