//! The bodies of calls without serde: the same bytes and the same values, at a third of the cost.
//!
//! *Why these?* Of all messages calls are sent by the hundred thousand a second. All others are read and written by serde alone.
//!
//! # Rules
//! H1  What is written is what [`encode`] writes. What is read is what [`decode`] reads: what cannot be read here is left to it, and
//!     so are its errors.

use crate::{
    envelope::{BODY_BYTES_MAX, DEPTH_MAX, DecodeError, decode},
    exchange::{CallResult, DoCall, Done, Params, RunCall},
    raw::{Reader, Unreadable, Writer},
};
use serde::de::DeserializeOwned;

/// Nesting of a value that is a field of a body: rmp-serde counts what is nested with what nests, and the body.
const FIELD_NESTING_MAX: usize = DEPTH_MAX - 2;
/// Room that most bodies need.
const BYTES_USUAL: usize = 256;
const TWICE: Unreadable = Unreadable("a field is there twice");
const MISSING: Unreadable = Unreadable("a field is missing");

impl DoCall {
    /// The body of the request.
    pub fn to_body(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(BYTES_USUAL);
        writer.map(2);
        writer.text("call");
        writer.text(&self.call);
        writer.text("params");
        writer.entries_of_map(self.params.len());
        for (name, value) in &self.params {
            writer.text(name);
            writer.value(value);
        }
        writer.finish()
    }
}

impl Done {
    /// The body of a handler's answer.
    pub fn to_body(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(BYTES_USUAL);
        writer.map(1);
        writer.text("value");
        writer.value(&self.value);
        writer.finish()
    }
}

impl RunCall {
    /// # Errors
    /// As [`decode`].
    pub fn from_body(body: &[u8]) -> Result<Self, DecodeError> {
        or_serde(body, |reader| {
            let (mut subsystem, mut call, mut params, mut by) = (None, None, None, None);
            for _ in 0..reader.map()? {
                match reader.key()? {
                    b"subsystem" => once(&mut subsystem, reader.text()?.to_owned())?,
                    b"call" => once(&mut call, reader.text()?.to_owned())?,
                    b"params" => once(&mut params, read_params(reader)?)?,
                    b"by" => once(&mut by, reader.text()?.to_owned())?,
                    _ => reader.skip()?,
                }
            }
            Ok(Self {
                subsystem: subsystem.ok_or(MISSING)?,
                call: call.ok_or(MISSING)?,
                params: params.unwrap_or_default(),
                by: by.ok_or(MISSING)?,
            })
        })
    }
}

impl CallResult {
    /// # Errors
    /// As [`decode`].
    pub fn from_body(body: &[u8]) -> Result<Self, DecodeError> {
        or_serde(body, |reader| {
            let (mut value, mut by) = (None, None);
            for _ in 0..reader.map()? {
                match reader.key()? {
                    b"value" => once(&mut value, reader.decoded(FIELD_NESTING_MAX)?)?,
                    b"by" => once(&mut by, reader.text()?.to_owned())?,
                    _ => reader.skip()?,
                }
            }
            Ok(Self { value: value.ok_or(MISSING)?, by: by.ok_or(MISSING)? })
        })
    }
}

/// Rule H1.
fn or_serde<T: DeserializeOwned>(
    body: &[u8],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, Unreadable>,
) -> Result<T, DecodeError> {
    let mut reader = Reader::new(body);
    match read(&mut reader) {
        Ok(read) if body.len() <= BODY_BYTES_MAX && reader.end().is_ok() => Ok(read),
        _ => decode(body),
    }
}

fn read_params(reader: &mut Reader<'_>) -> Result<Params, Unreadable> {
    let mut params = Params::new();
    for _ in 0..reader.map()? {
        let name = reader.text()?.to_owned();
        params.insert(name, reader.decoded(FIELD_NESTING_MAX - 1)?);
    }
    Ok(params)
}

fn once<T>(field: &mut Option<T>, value: T) -> Result<(), Unreadable> {
    if field.replace(value).is_some() { Err(TWICE) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{envelope::encode, noise::noise, value::Value};
    use std::fmt::Debug;

    fn nested(levels: usize) -> Value {
        (0..levels).fold(Value::Null, |inner, level| match level % 2 {
            0 => vec![inner].into(),
            _ => Value::map([("inner", inner)]),
        })
    }

    fn values() -> Vec<Value> {
        let integers = [i64::MIN, -40_000, -200, -129, -128, -33, -32, -1, 0, 127, 128, 255, 256, 65_536, i64::MAX];
        let wide = Value::Map((0..70_000).map(|at: u32| (at.to_string(), at.into())).collect());
        let others = [
            Value::Null,
            true.into(),
            false.into(),
            u64::MAX.into(),
            0.25.into(),
            f64::NEG_INFINITY.into(),
            "ä".repeat(40_000).into(),
            Value::Bytes(vec![7; 300]),
            Value::List(vec![1.into(); 70_000]),
            wide,
            nested(16),
        ];
        integers.into_iter().map(Value::from).chain(others).collect()
    }

    fn params() -> Params {
        values().into_iter().enumerate().map(|(at, value)| (format!("a parameter {at}"), value)).collect()
    }

    #[test]
    fn what_is_written_is_what_serde_writes() {
        for value in values() {
            let done = Done { value };
            assert_eq!(done.to_body(), encode(&done));
        }
        for params in [Params::new(), params()] {
            let call = DoCall { call: "beam.measure".to_owned(), params };
            assert_eq!(call.to_body(), encode(&call));
        }
    }

    #[test]
    fn what_is_read_is_what_serde_reads() {
        let run =
            RunCall { subsystem: "x01/a".to_owned(), call: "fit".to_owned(), params: params(), by: "me".to_owned() };
        assert_eq!(RunCall::from_body(&encode(&run)), Ok(run));
        for value in values() {
            let result = CallResult { value, by: "x01/a".to_owned() };
            assert_eq!(CallResult::from_body(&encode(&result)), Ok(result));
        }
        let single = [0xca, 0x3f, 0xc0, 0, 0]; // a float of 32 bits
        let body = [&b"\x82\xa5value"[..], &single, b"\xa2by\xa1x"].concat();
        assert_eq!(CallResult::from_body(&body), decode(&body));
        assert_eq!(CallResult::from_body(&body).map(|result| result.value), Ok(1.5.into()));
    }

    /// Every body is read alike by both, or refused with the same words.
    fn assert_alike<T: DeserializeOwned + Debug + PartialEq>(
        body: &[u8],
        by_hand: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) {
        assert_eq!(by_hand(body), decode::<T>(body), "{body:02x?}");
    }

    #[test]
    fn bodies_of_other_forms_are_read_or_refused_as_serde_does() {
        let field = |name: &str, value: &Value| [encode(&name.to_owned()), encode(value)].concat();
        let text = || Value::from("x");
        let usual = [field("subsystem", &text()), field("call", &text()), field("by", &text())].concat();
        let with = |count: u8, more: &[u8]| [&[0x80 | count], &usual[..], more].concat();
        let bodies = [
            with(3, &[]),
            with(4, &field("params", &Value::map([("a", 1.into())]))),
            with(4, &field("params", &Value::Null)),
            with(4, &field("params", &nested(29))),
            with(4, &field("params", &Value::map([("a", nested(28))]))),
            with(4, &field("params", &Value::map([("a", nested(29))]))),
            with(4, &field("params", &Value::map([("a", nested(30))]))),
            with(4, &field("by", &text())), // twice
            with(4, &field("colour", &nested(20))),
            with(4, b"\xa6colour\xd4\x00\x00"), // of an extension type
            with(4, b"\xa6params\x81\xa1a\xd4\x00\x00"),
            with(4, b"\xa6params\x82\xa1a\x01\xa1a\x02"), // one parameter twice
            with(4, b"\xa6params\x81\xa2\xff\xff\x01"),   // a name that is not text
            with(3, &[0xc0]),                             // other bytes behind it
            with(4, &[]),
            with(2, &[]),
            encode(&("x", "y", Params::new(), "z")), // a list, which serde takes for the fields in their order
            vec![],
            vec![0xc0],
        ];
        for body in bodies {
            assert_alike(&body, RunCall::from_body);
            assert_alike(&body, CallResult::from_body);
        }
        for levels in 25..35 {
            let result = encode(&CallResult { value: nested(levels), by: "x".to_owned() });
            assert_alike(&result, CallResult::from_body);
        }
    }

    #[test]
    fn damaged_bodies_are_read_or_refused_as_serde_does() {
        let small: Params = [("a".to_owned(), nested(3)), ("b".to_owned(), Value::Bytes(vec![7; 40]))].into();
        let run = RunCall { subsystem: "x01/a".to_owned(), call: "fit".to_owned(), params: small, by: "me".to_owned() };
        let good = encode(&run);
        let mut next = noise(11);
        let mut read = 0;
        for _ in 0..50_000 {
            let mut body = good.clone();
            for _ in 0..=next() % 3 {
                let at = next() % body.len();
                body[at] = next() as u8;
            }
            body.truncate(body.len() - usize::from(next().is_multiple_of(8)));
            assert_alike(&body, RunCall::from_body);
            read += usize::from(RunCall::from_body(&body).is_ok());
        }
        assert!((5_000..45_000).contains(&read), "{read} of them are still bodies");
    }
}
