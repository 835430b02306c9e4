//! The two parts of every message between a client or agent and the broker.
//!
//! ```text
//! DEALER sends      [ header ][ body ]
//! ROUTER receives   [ identity ][ header ][ body ]      the identity is the transport's word
//! ```
//!
//! Both parts are MessagePack maps with named fields. The header says what the body is, so a reader
//! can route or refuse a message without knowing the body's fields.
//!
//! # Rules
//! E1  Every request gets exactly one answer with its `id`: kind `<kind>.reply`, or kind `error`.
//! E2  Unknown fields are ignored; an unknown `v` is refused with `unsupported_version`.
//! E3  A decoder reads at most [`HEADER_BYTES_MAX`] and [`BODY_BYTES_MAX`], nests at most
//!     [`DEPTH_MAX`] deep, and accepts no bytes behind the map.

use crate::{
    error_code::{ErrorCode, Failure},
    raw::{Reader, Unreadable, Writer},
    trace::Trace,
};
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use smol_str::{SmolStr, SmolStrBuilder};
use std::io;

/// The version of the protocol that this crate speaks. It rises when a reader of the old one would
/// misunderstand the new one; a new optional field does not raise it.
pub const PROTOCOL_VERSION: u16 = 1;
/// A header is small; a longer one is refused as malformed.
pub const HEADER_BYTES_MAX: usize = 4 * 1024;
/// The longest body: a value of 64 MiB (a camera's snapshot, a long waveform) with its names. Detector
/// images never travel here.
pub const BODY_BYTES_MAX: usize = VALUE_BYTES_MAX + 64 * 1024;
/// The longest value of a KV item, parameter or result.
pub const VALUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How deep a body may nest: deep enough for any parameter, too shallow to exhaust a stack.
pub const DEPTH_MAX: usize = 32;
/// Kind of the message that answers a request with a [`Failure`].
pub const KIND_ERROR: &str = "error";
/// Kind of the notice by which the broker finds out who is still there. Whoever gets it ignores it.
pub const KIND_PROBE: &str = "broker.probe";
/// What the kind of a good answer has behind that of its request.
pub const REPLY_SUFFIX: &str = ".reply";

/// First part of every message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Protocol version, [`PROTOCOL_VERSION`].
    pub v: u16,
    /// What the body is: `job.submit`, `job.submit.reply`, `error`, …
    pub kind: SmolStr,
    /// Chosen by whoever asks, unique among its open requests; the answer carries it back. 0 for a
    /// notice, which is not answered.
    pub id: u64,
    /// How long the sender will wait for the answer, in milliseconds. Required in a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u32>,
    /// Where the message belongs; see [`crate::trace`]. Without one, a request begins a trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
    /// From the broker: so many messages to this connection were dropped before this one, since it began,
    /// because it did not read. Left out where there were none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A body that asks for an answer of a known type.
pub trait Request: Serialize + DeserializeOwned {
    const KIND: &'static str;
    type Reply: Serialize + DeserializeOwned;

    /// The second part of the message.
    fn to_body(&self) -> Vec<u8> {
        encode(self)
    }

    /// The reply in the second part of the answer.
    ///
    /// # Errors
    /// As [`decode`].
    fn read_reply(body: &[u8]) -> Result<Self::Reply, DecodeError> {
        decode(body)
    }
}

/// A body that is not answered.
pub trait Notice: Serialize + DeserializeOwned {
    const KIND: &'static str;
}

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{part} of {got} bytes; at most {limit} are accepted")]
    TooLong { part: &'static str, got: usize, limit: usize },
    #[error("{part} is not the expected MessagePack map: {reason}")]
    Malformed { part: &'static str, reason: String },
    #[error("protocol version {got}; this side speaks {PROTOCOL_VERSION}")]
    Version { got: u16 },
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        let code = match error {
            DecodeError::Version { .. } => ErrorCode::UnsupportedVersion,
            _ => ErrorCode::BadMessage,
        };
        Failure::new(code, error.to_string())
    }
}

impl Header {
    pub fn request(kind: impl Into<SmolStr>, id: u64, deadline_ms: u32) -> Self {
        Self { id, deadline_ms: Some(deadline_ms), ..Self::notice(kind) }
    }

    pub fn notice(kind: impl Into<SmolStr>) -> Self {
        Self { v: PROTOCOL_VERSION, kind: kind.into(), id: 0, deadline_ms: None, trace: None, lost: 0 }
    }

    /// The header of the good answer to `self`.
    pub fn reply(&self) -> Self {
        let mut kind = SmolStrBuilder::new();
        kind.push_str(&self.kind);
        kind.push_str(REPLY_SUFFIX);
        self.answer(kind.finish())
    }

    /// The header of the answer to `self` whose body is a [`Failure`].
    pub fn error(&self) -> Self {
        self.answer(SmolStr::new_static(KIND_ERROR))
    }

    fn answer(&self, kind: SmolStr) -> Self {
        Self { v: PROTOCOL_VERSION, kind, id: self.id, deadline_ms: None, trace: self.trace, lost: 0 }
    }

    /// Whether it is the header of an answer, good or not.
    pub fn is_answer(&self) -> bool {
        self.kind == KIND_ERROR || self.kind.ends_with(REPLY_SUFFIX)
    }

    /// Decodes the first part of a message.
    ///
    /// # Errors
    /// Too long, not the map, or of another protocol version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let header = Self::decode_any_version(bytes)?;
        if header.v != PROTOCOL_VERSION {
            return Err(DecodeError::Version { got: header.v });
        }
        Ok(header)
    }

    /// As [`Header::decode`], of any version: so that one of another version can be answered under its id (rule E2).
    ///
    /// # Errors
    /// Too long, or not the map.
    pub fn decode_any_version(bytes: &[u8]) -> Result<Self, DecodeError> {
        let part = "header";
        if bytes.len() > HEADER_BYTES_MAX {
            return Err(DecodeError::TooLong { part, got: bytes.len(), limit: HEADER_BYTES_MAX });
        }
        let usual = Self::read_usual(bytes);
        usual
            .map_or_else(|| Self::read(bytes), Ok)
            .map_err(|why| DecodeError::Malformed { part, reason: why.to_string() })
    }

    /// A header with its fields in the order in which [`Header::write`] writes them, as most are; None for any other.
    fn read_usual(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let optional = reader.map().ok()?.checked_sub(3)?;
        let v = reader.accept(FIELD_V).then(|| number(&mut reader).ok())??;
        let kind = reader.accept(FIELD_KIND).then(|| reader.text().ok())??;
        let id = reader.accept(FIELD_ID).then(|| reader.unsigned().ok())??;
        let mut header = Self { v, kind: SmolStr::new(kind), id, deadline_ms: None, trace: None, lost: 0 };
        let mut found = 0;
        if reader.accept(FIELD_DEADLINE) {
            header.deadline_ms = Some(number(&mut reader).ok()?);
            found += 1;
        }
        if reader.accept(FIELD_TRACE) {
            let trace = reader.unsigned().ok()?;
            let span = reader.accept(FIELD_SPAN).then(|| reader.unsigned().ok())??;
            let parent = reader.accept(FIELD_PARENT).then(|| reader.unsigned().ok())??;
            header.trace = Some(Trace { trace, span, parent });
            found += 1;
        }
        if reader.accept(FIELD_LOST) {
            header.lost = reader.unsigned().ok()?;
            found += 1;
        }
        (found == optional && reader.end().is_ok()).then_some(header)
    }

    fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut reader = Reader::new(bytes);
        let (mut v, mut kind, mut id) = (None, None, None);
        let mut header = Self::notice("");
        for _ in 0..reader.map()? {
            match reader.key()? {
                b"v" => v = Some(number(&mut reader)?),
                b"kind" => kind = Some(SmolStr::new(reader.text()?)),
                b"id" => id = Some(reader.unsigned()?),
                b"deadline_ms" if !reader.nil() => header.deadline_ms = Some(number(&mut reader)?),
                b"trace" if !reader.nil() => header.trace = Some(read_trace(&mut reader)?),
                b"lost" => header.lost = reader.unsigned()?,
                b"deadline_ms" | b"trace" => {}
                _ => reader.skip()?,
            }
        }
        reader.end()?;
        let missing = Unreadable("it needs v, kind and id");
        Ok(Self { v: v.ok_or(missing)?, kind: kind.ok_or(missing)?, id: id.ok_or(missing)?, ..header })
    }

    /// The first part of a message: the same bytes as [`encode`] gives.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(HEADER_BYTES_USUAL);
        self.write(&mut writer);
        writer.finish()
    }

    /// More than [`Header::encode`] gives.
    pub(crate) fn bytes_max(&self) -> usize {
        HEADER_BYTES_USUAL + self.kind.len()
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        let optional = [self.deadline_ms.is_some(), self.trace.is_some(), self.lost != 0];
        writer.map(3 + optional.into_iter().map(u8::from).sum::<u8>());
        writer.fixed(FIELD_V);
        writer.unsigned(self.v.into());
        writer.fixed(FIELD_KIND);
        writer.text(&self.kind);
        writer.fixed(FIELD_ID);
        writer.unsigned(self.id);
        if let Some(deadline_ms) = self.deadline_ms {
            writer.fixed(FIELD_DEADLINE);
            writer.unsigned(deadline_ms.into());
        }
        if let Some(Trace { trace, span, parent }) = self.trace {
            writer.fixed(FIELD_TRACE);
            writer.unsigned(trace);
            writer.fixed(FIELD_SPAN);
            writer.unsigned(span);
            writer.fixed(FIELD_PARENT);
            writer.unsigned(parent);
        }
        if self.lost != 0 {
            writer.fixed(FIELD_LOST);
            writer.unsigned(self.lost);
        }
    }
}

fn number<T: TryFrom<u64>>(reader: &mut Reader<'_>) -> Result<T, Unreadable> {
    T::try_from(reader.unsigned()?).map_err(|_| Unreadable("a number is too large for its field"))
}

fn read_trace(reader: &mut Reader<'_>) -> Result<Trace, Unreadable> {
    let (mut trace, mut span, mut parent) = (None, None, 0);
    for _ in 0..reader.map()? {
        match reader.key()? {
            b"trace" => trace = Some(reader.unsigned()?),
            b"span" => span = Some(reader.unsigned()?),
            b"parent" => parent = reader.unsigned()?,
            _ => reader.skip()?,
        }
    }
    let missing = Unreadable("a trace needs trace and span");
    Ok(Trace { trace: trace.ok_or(missing)?, span: span.ok_or(missing)?, parent })
}

// Names of a header's fields in MessagePack, with what always lies between them and their value.
const FIELD_V: &[u8; 2] = b"\xa1v";
const FIELD_KIND: &[u8; 5] = b"\xa4kind";
const FIELD_ID: &[u8; 3] = b"\xa2id";
const FIELD_DEADLINE: &[u8; 12] = b"\xabdeadline_ms";
/// With the beginning of its map of three, and the name of the first of them.
const FIELD_TRACE: &[u8; 13] = b"\xa5trace\x83\xa5trace";
const FIELD_SPAN: &[u8; 5] = b"\xa4span";
const FIELD_PARENT: &[u8; 7] = b"\xa6parent";
const FIELD_LOST: &[u8; 5] = b"\xa4lost";

/// Room that most messages need, so that they do not grow into it.
const BYTES_USUAL: usize = 256;
/// All of a header but its kind needs less.
pub(crate) const HEADER_BYTES_USUAL: usize = 128;

/// Encodes a header or body as a MessagePack map with named fields.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BYTES_USUAL);
    let written = rmp_serde::encode::write_named(&mut bytes, value);
    written.expect("messages are maps, lists and scalars; writing to a Vec cannot fail");
    bytes
}

/// Decodes a message's body under rule E3.
///
/// # Errors
/// Too long, too deep, cut, followed by other bytes, or not a `T`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    decode_part("body", bytes, BODY_BYTES_MAX)
}

fn decode_part<T: DeserializeOwned>(part: &'static str, bytes: &[u8], limit: usize) -> Result<T, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLong { part, got: bytes.len(), limit });
    }
    let malformed = |reason: String| DecodeError::Malformed { part, reason };
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    reader.set_max_depth(DEPTH_MAX);
    let value = T::deserialize(&mut reader).map_err(|error| malformed(error.to_string()))?;
    // The reader does not say how far it came: only at the very end it finds no other beginning.
    match IgnoredAny::deserialize(&mut reader) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(end)) if end.kind() == io::ErrorKind::UnexpectedEof => {
            Ok(value)
        }
        _ => Err(malformed("other bytes follow it".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{noise::noise, value::Value};

    #[test]
    fn header_round_trips_and_its_answers_carry_its_id() {
        let header = Header::request("job.submit", 7, 2000);
        assert_eq!(Header::decode(&encode(&header)), Ok(header.clone()));
        assert_eq!((header.reply().kind.as_str(), header.reply().id), ("job.submit.reply", 7));
        assert_eq!((header.error().kind.as_str(), header.error().id), ("error", 7));
    }

    #[test]
    fn header_is_written_and_read_as_serde_does() {
        let full = Header {
            deadline_ms: Some(70_000),
            trace: Some(Trace { trace: u64::MAX, span: 1 << 40, parent: 0 }),
            lost: 300,
            ..Header::request("subsystem.describe.reply.of.some.length", u64::MAX, 0)
        };
        for header in [Header::notice("x"), Header::request("job.submit", 7, 2000), full] {
            assert_eq!(header.encode(), encode(&header));
            assert_eq!(Header::decode(&header.encode()), Ok(header.clone()));
            assert_eq!(decode::<Header>(&encode(&header)), Ok(header));
        }
        let mut nils = Value::map([("v", 1.into()), ("kind", "x".into()), ("id", 3.into())]);
        nils.insert("deadline_ms", Value::Null);
        nils.insert("trace", Value::Null);
        let expected = Header { id: 3, ..Header::notice("x") };
        assert_eq!(Header::decode(&encode(&nils)), Ok(expected));
        for wrong in [
            ("v", Value::from(70_000)),
            ("kind", 1.into()),
            ("id", (-1).into()),
            ("trace", 1.into()),
            ("lost", "1".into()),
        ] {
            let mut fields = nils.clone();
            fields.insert(wrong.0, wrong.1);
            assert!(Header::decode(&encode(&fields)).is_err());
        }
        for field in ["v", "kind", "id"] {
            let Value::Map(mut fields) = nils.clone() else { unreachable!("it is a map") };
            fields.remove(field);
            assert!(Header::decode(&encode(&fields)).is_err(), "without {field}");
        }
    }

    #[test]
    fn a_usual_header_is_read_as_any_other_is() {
        let trace = Some(Trace { trace: u64::MAX, span: 300, parent: 0 });
        let full = Header { trace, lost: 70_000, ..Header::request("call.do", 1 << 40, 2000) };
        let good = [Header::notice("x"), Header::request("call.do", 7, 0), full].map(|header| header.encode());
        let mut next = noise(5);
        let mut usual = 0;
        for round in 0..200_000 {
            let mut bytes = good[round % good.len()].clone();
            let at = next() % bytes.len();
            bytes[at] = next() as u8;
            bytes.truncate(bytes.len() - usize::from(next().is_multiple_of(8)));
            if let Some(header) = Header::read_usual(&bytes) {
                assert_eq!(Header::read(&bytes), Ok(header), "{bytes:02x?}");
                usual += 1;
            }
        }
        assert!((20_000..180_000).contains(&usual), "{usual} of them are still usual headers");
        assert!(good.iter().all(|bytes| Header::read_usual(bytes).is_some()));
    }

    #[test]
    fn header_with_an_unknown_field_is_read_and_with_another_version_refused() {
        let mut fields = Value::map([("v", Value::from(1)), ("kind", "x".into()), ("id", 3.into())]);
        fields.insert("colour", "blue".into());
        assert_eq!(Header::decode(&encode(&fields)).map(|header| header.id), Ok(3));
        fields.insert("v", 2.into());
        assert_eq!(Header::decode(&encode(&fields)), Err(DecodeError::Version { got: 2 }));
    }

    #[test]
    fn hostile_bytes_are_an_error_and_never_a_panic() {
        let deep = [vec![0x91; 4000], vec![0xc0]].concat(); // arrays in arrays in arrays
        let huge_claim = [0xdd, 0xff, 0xff, 0xff, 0xff].to_vec(); // an array of 4 G entries, none there
        let trailing = [encode(&Header::notice("x")), vec![0]].concat();
        for bytes in [deep, huge_claim, trailing, vec![], vec![0xc1]] {
            assert!(decode::<Value>(&bytes).is_err(), "{bytes:02x?}");
            assert!(Header::decode(&bytes).is_err(), "{bytes:02x?}");
        }
    }
}
