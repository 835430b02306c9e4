//! Bodies whose values the broker passes on as they came: a call's parameters, a handler's result.
//!
//! # Rules
//! P1  What is passed on is checked as if it were decoded (rule W1 of `schemas::raw`), and is of a nesting and size that others can
//!     be given.
//! P2  The bytes are those that the types of `schemas::exchange` give.

use crate::limits::{PARAMS_MAX, VALUE_DEPTH_MAX};
use ecs_schemas::{
    envelope::{BODY_BYTES_MAX, DecodeError, VALUE_BYTES_MAX, decode},
    error_code::{ErrorCode, Failure},
    exchange::Params,
    nearest::quoted,
    raw::{RawValue, Reader, Unreadable, Writer},
    value::Value,
};
use smallvec::SmallVec;

/// What MessagePack adds to the content of a value, at most.
const MARKER_BYTES_MAX: usize = 5;
/// An encoded nil, and an encoded map without entries.
pub const NIL: &[u8] = &[0xc0];
const NO_ENTRIES: &[u8] = &[0x80];
/// Parameters that most calls have at most.
const PARAMS_USUAL: usize = 8;
/// Bytes of the names of fields, and of short texts.
const FIELDS_BYTES: usize = 96;

/// A `call.do`.
pub struct CallWanted<'a> {
    pub call: &'a str,
    /// A map.
    pub params: &'a [u8],
}

/// # Errors
/// `bad_message`, `bad_parameter`.
pub fn read_call(body: &[u8]) -> Result<CallWanted<'_>, Failure> {
    check_length(body)?;
    let (mut call, mut params) = (None, NO_ENTRIES);
    read_fields(body, |name, reader| {
        match name {
            b"call" => call = Some(reader.text()?),
            b"params" => params = reader.value()?.bytes,
            _ => reader.skip()?,
        }
        Ok(())
    })
    .map_err(malformed)?;
    let call = call.ok_or_else(|| malformed(Unreadable("the field `call` is missing")))?;
    check_params(params)?;
    Ok(CallWanted { call, params })
}

/// The value in a handler's answer, `Done` or `Taken`.
///
/// # Errors
/// `bad_message`, `bad_parameter`.
pub fn read_result(body: &[u8]) -> Result<&[u8], Failure> {
    check_length(body)?;
    let mut value = RawValue { bytes: NIL, depth: 0 };
    read_fields(body, |name, reader| {
        match name {
            b"value" => value = reader.value()?,
            _ => reader.skip()?,
        }
        Ok(())
    })
    .map_err(malformed)?;
    check_value("the handler's answer", value)?;
    Ok(value.bytes)
}

/// A `kv.publish`.
pub struct PublishWanted<'a> {
    pub subsystem: &'a str,
    pub item: &'a str,
    pub value: &'a [u8],
    pub skipped: u64,
}

/// # Errors
/// `bad_message`.
pub fn read_publish(body: &[u8]) -> Result<PublishWanted<'_>, Failure> {
    check_length(body)?;
    let (mut subsystem, mut item, mut value, mut skipped) = (None, None, None, 0);
    read_fields(body, |name, reader| {
        match name {
            b"subsystem" => subsystem = Some(reader.text()?),
            b"item" => item = Some(reader.text()?),
            b"value" => value = Some(reader.value()?.bytes),
            b"skipped" => skipped = reader.unsigned()?,
            _ => reader.skip()?,
        }
        Ok(())
    })
    .map_err(malformed)?;
    let missing = || malformed(Unreadable("it needs subsystem, item and value"));
    let (subsystem, item) = (subsystem.ok_or_else(missing)?, item.ok_or_else(missing)?);
    Ok(PublishWanted { subsystem, item, value: value.ok_or_else(missing)?, skipped })
}

/// Parameters as they were read, for a handler that describes its own.
pub fn decoded(params: &[u8]) -> Params {
    decode(params).expect("rule W1: what was read is a map of values")
}

/// A value as it was read.
pub fn decoded_value(value: &[u8]) -> Value {
    decode(value).expect("rule W1: what was read is a value")
}

/// A `call.run`.
pub fn run_call(subsystem: &str, call: &str, params: &[u8], by: &str) -> Vec<u8> {
    let mut writer = Writer::with_capacity(FIELDS_BYTES + params.len());
    writer.map(4);
    for (name, text) in [("subsystem", subsystem), ("call", call)] {
        writer.text(name);
        writer.text(text);
    }
    writer.text("params");
    writer.raw(params);
    writer.text("by");
    writer.text(by);
    writer.finish()
}

/// A `call.do.reply`.
pub fn call_result(value: &[u8], by: &str) -> Vec<u8> {
    let mut writer = Writer::with_capacity(FIELDS_BYTES + value.len());
    writer.map(2);
    writer.text("value");
    writer.raw(value);
    writer.text("by");
    writer.text(by);
    writer.finish()
}

fn read_fields<'a>(
    body: &'a [u8],
    mut read: impl FnMut(&'a [u8], &mut Reader<'a>) -> Result<(), Unreadable>,
) -> Result<(), Unreadable> {
    let mut reader = Reader::new(body);
    for _ in 0..reader.map()? {
        let name = reader.key()?;
        read(name, &mut reader)?;
    }
    reader.end()
}

fn check_length(body: &[u8]) -> Result<(), Failure> {
    if body.len() > BODY_BYTES_MAX {
        return Err(DecodeError::TooLong { part: "body", got: body.len(), limit: BODY_BYTES_MAX }.into());
    }
    Ok(())
}

/// Number, size and nesting of parameters, and each once: of two, others might take the one that was not checked.
fn check_params(params: &[u8]) -> Result<(), Failure> {
    let bad = |message: String| Err(Failure::new(ErrorCode::BadParameter, message));
    let mut reader = Reader::new(params);
    let count = reader.map().map_err(malformed)?;
    if count > PARAMS_MAX {
        return bad(format!("{count} parameters; at most {PARAMS_MAX}"));
    }
    let parameter = |name| format!("parameter {}", quoted(&String::from_utf8_lossy(name)));
    let mut names = SmallVec::<[&[u8]; PARAMS_USUAL]>::new(); // rule W1: they were read as text already
    for _ in 0..count {
        let (name, value) = (reader.key().map_err(malformed)?, reader.value().map_err(malformed)?);
        names.push(name);
        if value.depth > VALUE_DEPTH_MAX || value.bytes.len() > VALUE_BYTES_MAX {
            check_value(&parameter(name), value)?;
        }
    }
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return bad(format!("{} is there twice", parameter(twice[0])));
    }
    if params.len() > VALUE_BYTES_MAX + FIELDS_BYTES {
        return bad(format!("parameters of {} bytes; at most {VALUE_BYTES_MAX}", params.len()));
    }
    Ok(())
}

fn check_value(what: &str, value: RawValue<'_>) -> Result<(), Failure> {
    let bad = |message: String| Err(Failure::new(ErrorCode::BadParameter, message));
    let bytes = value.bytes.len();
    if bytes > VALUE_BYTES_MAX + MARKER_BYTES_MAX {
        return bad(format!("{what} of {bytes} bytes; at most {VALUE_BYTES_MAX}"));
    }
    if value.depth > VALUE_DEPTH_MAX {
        return bad(format!("{what} nests deeper than {VALUE_DEPTH_MAX}"));
    }
    Ok(())
}

/// What an encoded value is counted as in sums: never more than what it says.
pub fn content_bytes(value: &[u8]) -> usize {
    value.len().saturating_sub(MARKER_BYTES_MAX)
}

fn malformed(why: Unreadable) -> Failure {
    DecodeError::Malformed { part: "body", reason: why.to_string() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecs_schemas::{
        envelope::encode,
        exchange::{CallResult, DoCall, Done, RunCall},
        kv::Publish,
    };

    fn params() -> Params {
        let inner = Value::map([("deep", vec![1, 2, 3].into())]);
        [("a".to_owned(), inner), ("b".to_owned(), Value::Bytes(vec![7; 300]))].into()
    }

    #[test]
    fn bodies_are_those_of_the_types() {
        let wanted = encode(&DoCall { call: "beam.measure".to_owned(), params: params() });
        let CallWanted { call, params: raw } = read_call(&wanted).unwrap();
        assert_eq!((call, decoded(raw)), ("beam.measure", params()));
        let run = RunCall {
            subsystem: "x01/pump".to_owned(),
            call: call.to_owned(),
            params: params(),
            by: "a name that is longer than thirty-one bytes".to_owned(),
        };
        assert_eq!(run_call(&run.subsystem, &run.call, raw, &run.by), encode(&run));
        let done = encode(&Done { value: 0.25.into() });
        let result = CallResult { value: 0.25.into(), by: "x01/pump".to_owned() };
        assert_eq!(call_result(read_result(&done).unwrap(), &result.by), encode(&result));
        let told = Publish { subsystem: run.subsystem, item: "flow".to_owned(), value: 0.25.into(), skipped: 300 };
        let body = encode(&told);
        let PublishWanted { subsystem, item, value, skipped } = read_publish(&body).ok().unwrap();
        let (subsystem, item, value) = (subsystem.to_owned(), item.to_owned(), decoded_value(value));
        assert_eq!(Publish { subsystem, item, value, skipped }, told);
    }

    #[test]
    fn what_is_left_out_is_empty_and_what_is_not_known_is_ignored() {
        let only_call = encode(&Value::map([("call", "x".into()), ("colour", "blue".into())]));
        assert_eq!(decoded(read_call(&only_call).unwrap().params), Params::new());
        assert_eq!(read_result(&encode(&Value::map([("colour", "blue".into())]))), Ok(NIL));
        assert_eq!(decode::<Value>(NIL), Ok(Value::Null));
    }

    #[test]
    fn limits_hold_and_say_which() {
        let refusal = |params: Value| {
            let body = encode(&Value::map([("call", "x".into()), ("params", params)]));
            let failure = read_call(&body).err().unwrap();
            (failure.code, failure.message)
        };
        let many = Value::Map((0..=PARAMS_MAX).map(|at| (at.to_string(), Value::Null)).collect());
        assert_eq!(refusal(many), (ErrorCode::BadParameter, "257 parameters; at most 256".to_owned()));
        let deep = (0..=VALUE_DEPTH_MAX).fold(Value::Null, |inner, _| vec![inner].into());
        let expected = "parameter \"a\" nests deeper than 16".to_owned();
        assert_eq!(refusal(Value::map([("a", deep)])), (ErrorCode::BadParameter, expected));
        let twice = [&b"\x82\xa4call\xa1x\xa6params\x82\xa5speed\x01"[..], b"\xa5speed\x02"].concat();
        let failure = read_call(&twice).err().unwrap();
        assert_eq!(
            (failure.code, failure.message.as_str()),
            (ErrorCode::BadParameter, "parameter \"speed\" is there twice")
        );
        assert_eq!(refusal(vec![1].into()).0, ErrorCode::BadMessage);
        assert_eq!(read_call(&encode(&Value::map([]))).err().unwrap().code, ErrorCode::BadMessage);
        assert_eq!(read_result(&[0x90]).err().unwrap().code, ErrorCode::BadMessage);
        let cut = read_publish(&encode(&Value::map([("subsystem", "x".into()), ("item", "y".into())]))).err().unwrap();
        assert_eq!((cut.code, cut.message.contains("subsystem, item and value")), (ErrorCode::BadMessage, true));
    }
}
