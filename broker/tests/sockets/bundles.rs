//! Messages in bundles: what a peer of any language sends in one part, and what it gets.

use crate::peers::{Peer, TestBroker, options, register, wait_for};
use ecs_schemas::{
    bundle::{BUNDLE_BYTES_MAX, read_bundle},
    envelope::{Header, KIND_ERROR, Request, decode, encode},
    kv::{Get, Item, Publish, Read, Reading, Set},
    registry::{GetStatus, Register},
    subsystem::Description,
    value::Value,
    value_type::{Form, ValueType},
};
use std::{collections::BTreeMap, time::Duration};

/// A bundle as any MessagePack library writes it.
fn bundle(parts: Vec<Vec<u8>>) -> Vec<u8> {
    encode(&Value::List(parts.into_iter().map(Value::Bytes).collect()))
}

fn request<R: Request>(id: u64, request: &R) -> [Vec<u8>; 2] {
    [encode(&Header::request(R::KIND, id, 10_000)), encode(request)]
}

/// The messages of what comes next, however they come, and in how many parts they came.
fn receive(peer: &Peer) -> (Vec<(Header, Vec<u8>)>, usize) {
    let parts = peer.receive_parts();
    let owned = |[header, body]: [&[u8]; 2]| (Header::decode(header).unwrap(), body.to_vec());
    let messages = match &parts[..] {
        [bundle] => read_bundle(bundle).unwrap().into_iter().map(owned).collect(),
        [header, body] => vec![owned([header, body])],
        other => panic!("{} parts", other.len()),
    };
    (messages, parts.len())
}

#[test]
fn every_message_of_a_bundle_is_answered_in_bundles_and_a_broken_one_costs_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(options(folder.path()));
    let peer = broker.peer();
    let broken = vec![b"no header".to_vec(), b"".to_vec()];
    let bad_body = vec![encode(&Header::request(Get::KIND, 2, 1000)), b"no body".to_vec()];
    let good = |id| request(id, &GetStatus {}).to_vec();
    peer.send_parts(&[&bundle([good(1), broken, bad_body, good(3), good(4)].concat())]);
    let mut kinds = BTreeMap::new();
    while kinds.len() < 4 {
        let (messages, parts) = receive(&peer);
        assert_eq!(parts, 1, "who sends bundles gets bundles");
        kinds.extend(messages.into_iter().map(|(header, _)| (header.id, header.kind)));
    }
    let expected = [(1, "status.get.reply"), (2, KIND_ERROR), (3, "status.get.reply"), (4, "status.get.reply")];
    assert_eq!(kinds, expected.map(|(id, kind)| (id, kind.into())).into());
    let [header, body] = request(5, &GetStatus {});
    peer.send_parts(&[&header, &body]); // too long for a bundle, say: the peer takes them all the same
    let (messages, parts) = receive(&peer);
    assert_eq!((messages[0].0.id, parts), (5, 1));
    let other = broker.peer();
    other.send_parts(&request(1, &GetStatus {}).each_ref().map(|part| part.as_slice()));
    assert_eq!(receive(&other).1, 2, "who has sent none gets none");
}

/// An agent that registered in two parts, since its descriptions were long, and speaks in bundles from then on.
#[test]
fn what_the_broker_says_by_itself_comes_in_bundles_too() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(options(folder.path()));
    let (mut owner, client) = (broker.peer(), broker.peer());
    publish_values(&mut owner, &[("value", 8)]);
    owner.send_parts(&[&bundle(request(100, &GetStatus {}).to_vec())]);
    assert_eq!(receive(&owner).1, 1);
    let set = |id: u64| {
        let (subsystem, item) = ("x01/writer".to_owned(), format!("no-{id}"));
        request(id, &Set { subsystem, item, value: 1.into(), if_revision: None }).to_vec()
    };
    client.send_parts(&[&bundle((1..=3).flat_map(set).collect())]);
    assert_eq!(receive(&client).0.len(), 3, "refused, as there are no such items");
    let get = Get { subsystem: "x01/writer".to_owned(), item: "asked".to_owned() };
    client.send_parts(&[&bundle(request(4, &get).to_vec())]);
    let (questions, parts) = receive(&owner);
    assert_eq!((questions[0].0.kind.as_str(), parts), (Read::KIND, 1));
}

#[test]
fn what_is_no_bundle_is_counted_and_the_connection_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(options(folder.path()));
    let mut peer = broker.peer();
    let good = request(1, &GetStatus {}).to_vec();
    let too_long = bundle([good.clone(), vec![vec![0; BUNDLE_BYTES_MAX], vec![]]].concat());
    let trailing = [bundle(good.clone()), vec![0]].concat();
    let of_text = encode(&Value::from(vec!["header", "body"]));
    let wrong =
        [bundle(vec![]), bundle(good[..1].to_vec()), too_long, trailing, of_text, vec![0xdd, 0xff, 0xff, 0xff, 0xfe]];
    for part in &wrong {
        peer.send_parts(&[part]);
    }
    wait_for("all are counted", || peer.ask(&GetStatus {}).unwrap().broker.malformed == wrong.len() as u64);
}

/// Answers that are longer than a bundle go in two parts, in their turn.
#[test]
fn a_message_that_finds_no_room_goes_alone_and_order_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(options(folder.path()));
    let (mut owner, peer) = (broker.peer(), broker.peer());
    publish_values(&mut owner, &[("large", 3 * BUNDLE_BYTES_MAX), ("small", 8)]);
    let get = |id: u64| {
        let item = if id.is_multiple_of(3) { "large" } else { "small" };
        request(id, &Get { subsystem: "x01/writer".to_owned(), item: item.to_owned() }).to_vec()
    };
    peer.send_parts(&[&bundle((1..=30).flat_map(get).collect())]);
    let mut answered = Vec::new();
    while answered.len() < 30 {
        for (header, body) in receive(&peer).0 {
            let Value::Bytes(bytes) = decode::<Reading>(&body).unwrap().value else { panic!("bytes were published") };
            assert_eq!(bytes.len(), if header.id.is_multiple_of(3) { 3 * BUNDLE_BYTES_MAX } else { 8 });
            answered.push(header.id);
        }
    }
    assert_eq!(answered, (1..=30).collect::<Vec<_>>());
}

/// A peer that asks and does not read: what is dropped with a bundle is counted message by message, and it is told.
#[test]
fn messages_of_a_bundle_that_was_dropped_are_each_counted_and_told() {
    const ASKED: u64 = 60_000;
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(options(folder.path()));
    let mut owner = broker.peer();
    publish_values(&mut owner, &[("value", 5000)]);
    let deaf = Peer::connect_with(&broker.options.request_endpoint, |socket| {
        socket.set_rcvhwm(1).unwrap();
        socket.set_sndhwm(0).unwrap();
    });
    let get = Get { subsystem: "x01/writer".to_owned(), item: "value".to_owned() };
    for first in (1..=ASKED).step_by(60) {
        deaf.send_parts(&[&bundle((first..first + 60).flat_map(|id| request(id, &get)).collect())]);
    }
    let mut dropped = 0;
    wait_for("all was asked", || {
        let status = owner.ask(&GetStatus {}).unwrap().broker;
        dropped = status.undeliverable;
        status.received >= ASKED
    });
    assert!(dropped > 0, "the peer's queue took everything");
    let (mut answered, mut told) = (0, 0);
    while deaf.has_message(Duration::from_millis(500)) {
        for (header, _) in receive(&deaf).0 {
            answered += 1;
            told = header.lost;
        }
    }
    let [header, body] = request(ASKED + 1, &get);
    deaf.send_parts(&[&bundle(vec![header, body])]);
    let lost = receive(&deaf).0[0].0.lost;
    assert_eq!((answered + lost, lost >= told), (ASKED, true), "told before: {told}");
    assert_eq!(owner.ask(&GetStatus {}).unwrap().broker.undeliverable, lost);
}

fn publish_values(owner: &mut Peer, values: &[(&str, usize)]) {
    let item = |name: &str| Item { name: name.to_owned(), kind: ValueType::of(Form::Bytes), ..Item::default() };
    let asked = Item { published: false, ..item("asked") };
    let items = values.iter().map(|(name, _)| item(name)).chain([asked]).collect();
    let description = Description { name: "x01/writer".to_owned(), items, ..Description::default() };
    owner.ask(&Register { subsystems: vec![description], ..register("x01/writer", 1) }).unwrap();
    for (name, bytes) in values {
        let value = Value::Bytes(vec![7; *bytes]);
        let (subsystem, item) = ("x01/writer".to_owned(), (*name).to_owned());
        owner.ask(&Publish { subsystem, item, value, skipped: 0 }).unwrap();
    }
}
