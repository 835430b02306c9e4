//! What an agent does with the questions of a broker. The broker here is a bare ROUTER: the test is the peer.

use crate::setup::{Beamline, WATCHDOG, rude_broker, take, take_all};
use ecs_schemas::{
    envelope::{Header, KIND_ERROR, Notice, Request, decode, encode},
    error_code::{ErrorCode, Failure},
    exchange::{Cancel, Done, RunCall},
    job::Ack,
    registry::{Heartbeat, Register, Registered},
    subsystem::{Description, Handled},
    value::Value,
};
use ecs_sdk::{Agent, Asked, Handler, Params};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

type Message = (Header, Vec<u8>);

fn welcome(register: &Header, started_ns: u64) -> Message {
    let (beamline, heartbeat_ms, timeout_ms) = ("x01".to_owned(), 50, 60_000);
    let welcome = Registered { beamline, heartbeat_ms, timeout_ms, started_ns, subsystems: vec![] };
    (register.reply(), encode(&welcome))
}

fn say(router: &zmq::Socket, to: &[u8], (header, body): &Message) {
    router.send_multipart([to, &encode(header), body], 0).unwrap();
}

/// A broker that has lost its question on the way counts the worker as busy until it hears of it.
#[test]
fn cancel_of_a_question_that_never_came_is_answered() {
    let beamline = Beamline::without_broker();
    let router = rude_broker(&beamline);
    let agent = Agent::start(beamline.config(), vec![]).unwrap();
    let (identity, header) = take(&router);
    assert_eq!(header.kind, Register::KIND);
    say(&router, &identity, &welcome(&header, 1));
    say(&router, &identity, &(Header::notice(Cancel::KIND), encode(&Cancel { id: 7 })));
    let begun = Instant::now();
    let answer = loop {
        assert!(begun.elapsed() < WATCHDOG);
        let (_, messages) = take_all(&router);
        if let Some((header, body)) = messages.iter().find(|(header, _)| header.kind == KIND_ERROR) {
            break (header.id, decode::<Failure>(body).unwrap().code);
        }
    };
    assert_eq!(answer, (7, ErrorCode::Cancelled));
    drop(router);
    agent.stop(Duration::ZERO);
}

/// Answers whether its caller gave up within `seconds`.
struct Patient;

impl Handler for Patient {
    fn on_call(&self, _call: &str, params: &Params, asked: &Asked) -> Result<Value, Failure> {
        let seconds = params.get("seconds").and_then(Value::as_f64).unwrap_or(0.0);
        Ok(asked.wait_cancelled(Duration::from_secs_f64(seconds)).into())
    }
}

fn is_given_up(id: u64, seconds: f64) -> Message {
    let (subsystem, call, by) = ("x01/stage".to_owned(), "is_given_up".to_owned(), "me".to_owned());
    let run = RunCall { subsystem, call, params: [("seconds".to_owned(), seconds.into())].into(), by };
    (Header::request(RunCall::KIND, id, 60_000), run.to_body())
}

/// An agent that asks twice to be registered, since the first answer is late, may be asked something before the second one.
#[test]
fn what_a_broker_asks_before_its_welcome_is_done_and_what_the_one_before_it_asked_is_given_up() {
    const BEFORE: u64 = 1_000;
    const NEW: u64 = 2_000;
    let beamline = Beamline::without_broker();
    let router = rude_broker(&beamline);
    let agent = Agent::start(beamline.config(), vec![]).unwrap();
    let calls = vec![Handled { name: "is_given_up".to_owned(), at_once: 2, ..Handled::default() }];
    let description = Description { name: "x01/stage".to_owned(), calls, ..Description::default() };
    let _host = agent.host(description, Arc::new(Patient)).unwrap();
    let mut welcomed = 0;
    let mut answers: BTreeMap<u64, Value> = BTreeMap::new();
    let begun = Instant::now();
    while answers.len() < 2 {
        assert!(begun.elapsed() < WATCHDOG, "{answers:?}");
        let (from, messages) = take_all(&router);
        for (header, body) in messages {
            let said = match header.kind.as_str() {
                Register::KIND if welcomed == 0 => vec![welcome(&header, BEFORE), is_given_up(BEFORE + 1, 60.0)],
                Register::KIND => vec![is_given_up(NEW + 1, 0.5), welcome(&header, NEW)],
                Heartbeat::KIND if welcomed == 1 => {
                    vec![(header.error(), encode(&Failure::new(ErrorCode::NotRegistered, "a new broker")))]
                }
                KIND_ERROR => {
                    answers.insert(header.id, "an error".into());
                    vec![]
                }
                kind if kind == format!("{}.reply", RunCall::KIND) => {
                    answers.insert(header.id, decode::<Done>(&body).unwrap().value);
                    vec![]
                }
                _ if header.id > 0 => vec![(header.reply(), encode(&Ack {}))],
                _ => vec![],
            };
            welcomed += u32::from(header.kind == Register::KIND);
            said.iter().for_each(|message| say(&router, &from, message));
        }
    }
    assert_eq!(answers, BTreeMap::from([(BEFORE + 1, true.into()), (NEW + 1, false.into())]));
    drop(router);
    agent.stop(Duration::ZERO);
}
