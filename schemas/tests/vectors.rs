//! The golden vectors of `vectors/messages.json`: what goes over the wire, byte for byte.
//!
//! The same file serves any other language's codec. Its bytes were made by Python's `msgpack`, so the two
//! implementations check each other.

#![allow(clippy::unwrap_used)] // a test ends at the first thing that is not as it should be

#[path = "vectors/fuzz.rs"]
mod fuzz;
#[path = "vectors/mutation.rs"]
mod mutation;

use ecs_schemas::{
    alarm::{AlarmList, Clear, ListAlarms, Raise, RaisedAlarm},
    bundle::{is_bundle, read_bundle},
    envelope::{DecodeError, Header, Notice, Request, decode, encode},
    error_code::Failure,
    exchange::{
        CallEvent, CallResult, Cancel, DoCall, Done, EventEnded, EventResults, Feedback, RunCall, RunEvent, TargetEnded,
    },
    job::{
        Ack, CancelJob, GetJob, GetOutcome, HoldJob, JobList, JobRecord, KillJob, ListJobs, MoveJob, Outcome,
        ReleaseJob, ReportJob, ReportProgress, RunJob, Submit,
    },
    kv::{Get, ItemList, ListItems, Publish, Published, Read, Reading, Set, Taken, Unwatch, Update, Watch, Write},
    registry::{GetStatus, Heartbeat, Leave, Register, Registered, Status},
    subsystem::{Describe, Described, GetSubsystem, ListSubsystems, Remove, SubsystemList, SubsystemStatus},
    telemetry::{PubHeader, Telemetry},
    trace::{GetTrace, Spans},
    value::Value,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value as Json;
use std::fmt::Debug;

/// One type of message: its codec, seen from JSON.
struct Codec {
    /// The fields to bytes.
    encode: fn(&Json) -> Vec<u8>,
    /// Bytes to the bytes of what was understood, or an error.
    understood: fn(&[u8]) -> Result<Vec<u8>, DecodeError>,
}

fn codec<T: Serialize + DeserializeOwned + Debug>() -> Codec {
    Codec {
        encode: |json| encode(&T::deserialize(json).expect("the fields are those of the type")),
        understood: |bytes| decode::<T>(bytes).map(|message| encode(&message)),
    }
}

fn codec_of(name: &str) -> Codec {
    match name {
        "header" => {
            Codec { understood: |bytes| Header::decode(bytes).map(|header| encode(&header)), ..codec::<Header>() }
        }
        // Its own conversion: JSON has no bytes.
        "value" => Codec { encode: |json| encode(&value_of(json)), ..codec::<Value>() },
        "ack" => codec::<Ack>(),
        "error" => codec::<Failure>(),
        "job.record" => codec::<JobRecord>(),
        "job.list.reply" => codec::<JobList>(),
        "agent.register.reply" => codec::<Registered>(),
        "status.get.reply" => codec::<Status>(),
        "publish.header" => codec::<PubHeader>(),
        Register::KIND => codec::<Register>(),
        Heartbeat::KIND => codec::<Heartbeat>(),
        Leave::KIND => codec::<Leave>(),
        GetStatus::KIND => codec::<GetStatus>(),
        Submit::KIND => codec::<Submit>(),
        GetJob::KIND => codec::<GetJob>(),
        ListJobs::KIND => codec::<ListJobs>(),
        CancelJob::KIND => codec::<CancelJob>(),
        HoldJob::KIND => codec::<HoldJob>(),
        ReleaseJob::KIND => codec::<ReleaseJob>(),
        MoveJob::KIND => codec::<MoveJob>(),
        GetOutcome::KIND => codec::<GetOutcome>(),
        "job.outcome.reply" => codec::<Outcome>(),
        RunJob::KIND => codec::<RunJob>(),
        KillJob::KIND => codec::<KillJob>(),
        ReportJob::KIND => codec::<ReportJob>(),
        ReportProgress::KIND => codec::<ReportProgress>(),
        Telemetry::KIND => codec::<Telemetry>(),
        other => codec_of_subsystems(other),
    }
}

fn codec_of_subsystems(name: &str) -> Codec {
    match name {
        "subsystem.describe.reply" => codec::<Described>(),
        "subsystem.list.reply" => codec::<SubsystemList>(),
        "subsystem.get.reply" => codec::<SubsystemStatus>(),
        "kv.get.reply" => codec::<Reading>(),
        "kv.list.reply" => codec::<ItemList>(),
        "kv.publish.reply" => codec::<Published>(),
        "kv.write.reply" => codec::<Taken>(),
        "event.call.reply" => codec::<EventResults>(),
        "event.ended" => codec::<EventEnded>(),
        "event.run.reply" | "call.run.reply" => codec::<Done>(),
        "call.do.reply" => codec::<CallResult>(),
        "alarm.list.reply" => codec::<AlarmList>(),
        "alarm.raised" => codec::<RaisedAlarm>(),
        "trace.get.reply" => codec::<Spans>(),
        Describe::KIND => codec::<Describe>(),
        Remove::KIND => codec::<Remove>(),
        ListSubsystems::KIND => codec::<ListSubsystems>(),
        GetSubsystem::KIND => codec::<GetSubsystem>(),
        Get::KIND => codec::<Get>(),
        Set::KIND => codec::<Set>(),
        ListItems::KIND => codec::<ListItems>(),
        Publish::KIND => codec::<Publish>(),
        Watch::KIND => codec::<Watch>(),
        Unwatch::KIND => codec::<Unwatch>(),
        Update::KIND => codec::<Update>(),
        Read::KIND => codec::<Read>(),
        Write::KIND => codec::<Write>(),
        CallEvent::KIND => codec::<CallEvent>(),
        RunEvent::KIND => codec::<RunEvent>(),
        DoCall::KIND => codec::<DoCall>(),
        RunCall::KIND => codec::<RunCall>(),
        Feedback::KIND => codec::<Feedback>(),
        TargetEnded::KIND => codec::<TargetEnded>(),
        Cancel::KIND => codec::<Cancel>(),
        Raise::KIND => codec::<Raise>(),
        Clear::KIND => codec::<Clear>(),
        ListAlarms::KIND => codec::<ListAlarms>(),
        GetTrace::KIND => codec::<GetTrace>(),
        other => panic!("no codec for {other:?}"),
    }
}

fn value_of(json: &Json) -> Value {
    match json {
        Json::Object(entries) => match entries.get("$bytes") {
            Some(hex) => Value::Bytes(bytes_of(hex)),
            None => Value::Map(entries.iter().map(|(key, value)| (key.clone(), value_of(value))).collect()),
        },
        Json::Array(values) => Value::List(values.iter().map(value_of).collect()),
        Json::Number(number) if number.is_u64() => Value::from(number.as_u64().unwrap()),
        other => serde_json::from_value(other.clone()).unwrap(),
    }
}

fn bytes_of(hex: &Json) -> Vec<u8> {
    let digits = hex.as_str().expect("hex is text");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex")).collect()
}

/// The cases of one list: name, codec, the whole case.
fn cases(list: &str) -> Vec<(String, Codec, Json)> {
    let file: Json = serde_json::from_str(include_str!("../vectors/messages.json")).expect("the file is JSON");
    let cases = file[list].as_array().expect("a list of cases").clone();
    assert!(!cases.is_empty());
    let text = |case: &Json, key: &str| case[key].as_str().expect("name and type are text").to_owned();
    cases.into_iter().map(|case| (text(&case, "name"), codec_of(&text(&case, "type")), case)).collect()
}

#[test]
fn exact_vectors_encode_to_their_bytes_and_decode_to_their_fields() {
    for (name, codec, case) in cases("exact") {
        let bytes = bytes_of(&case["hex"]);
        assert_eq!((codec.encode)(&case["value"]), bytes, "{name}");
        assert_eq!((codec.understood)(&bytes), Ok(bytes), "{name}");
    }
}

#[test]
fn accepted_vectors_are_understood_as_their_fields() {
    for (name, codec, case) in cases("accepted") {
        let understood = (codec.understood)(&bytes_of(&case["hex"]));
        assert_eq!(understood, Ok((codec.encode)(&case["value"])), "{name}");
    }
}

/// The cases of a list that are about whole parts: name, part, the whole case.
fn parts(list: &str) -> Vec<(String, Vec<u8>, Json)> {
    let file: Json = serde_json::from_str(include_str!("../vectors/messages.json")).expect("the file is JSON");
    let cases = file[list].as_array().expect("a list of cases").clone();
    assert!(!cases.is_empty());
    cases.into_iter().map(|case| (case["name"].to_string(), bytes_of(&case["hex"]), case)).collect()
}

#[test]
fn bundles_have_their_messages_and_others_are_none() {
    for (name, part, case) in parts("bundles") {
        let messages = case["messages"].as_array().unwrap().iter();
        let expected: Vec<_> = messages.map(|message| [bytes_of(&message[0]), bytes_of(&message[1])]).collect();
        let read = read_bundle(&part).unwrap();
        assert_eq!(read.iter().map(|message| message.map(<[u8]>::to_vec)).collect::<Vec<_>>(), expected, "{name}");
        assert!(is_bundle(&part), "{name}");
    }
    for (name, part, _) in parts("no_bundles") {
        assert!(!is_bundle(&part) || read_bundle(&part).is_err(), "{name}");
    }
}

#[test]
fn refused_vectors_are_errors() {
    for (name, codec, case) in cases("refused") {
        assert!((codec.understood)(&bytes_of(&case["hex"])).is_err(), "{name}");
    }
}
