//! MessagePack without a tree: for the header of every message, and for values that are only passed on.
//!
//! *Why not serde?* A broker reads and writes a header for every message and looks into few of the values. Decoded into a tree and
//! encoded again, these cost more than all else that it does for a call.
//!
//! # Rules
//! W1  What [`Reader::value`] accepts, [`crate::envelope::decode`] reads as a [`crate::value::Value`]: map keys are text, text is
//!     UTF-8, there are no extension types, and nothing nests as deep as [`DEPTH_MAX`].
//! W2  No claimed length is believed. Nothing is allocated to read, but by [`Reader::decoded`] for the value.
//! W3  [`Writer`] takes the shortest form of everything but [`Writer::bin_of`], as rmp-serde does: both give the same bytes.

use crate::{envelope::DEPTH_MAX, value::Value};
use std::collections::BTreeMap;

/// Why bytes cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub &'static str);

/// rmp-serde counts what is nested with what nests.
const NESTING_MAX: usize = DEPTH_MAX - 1;
const CUT: Unreadable = Unreadable("it ends too early");
const TOO_DEEP: Unreadable = Unreadable("it nests too deep");

/// Reads from the front of a message's part.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

/// A value as it came, and how deep it nests (0 for a scalar).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawValue<'a> {
    pub bytes: &'a [u8],
    pub depth: usize,
}

/// Whether what is walked over must be a value (rule W1), or only well formed: a field that nobody knows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Walk {
    Value,
    Anything,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    #[inline]
    fn take(&mut self, count: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CUT)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, Unreadable> {
        let (first, rest) = self.rest.split_first().ok_or(CUT)?;
        self.rest = rest;
        Ok(*first)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (first, rest) = self.rest.split_first_chunk().ok_or(CUT)?;
        self.rest = rest;
        Ok(*first)
    }

    /// A big-endian number of 1, 2, 4 or 8 bytes.
    #[inline(always)] // how many is known where it is called
    fn number(&mut self, bytes: usize) -> Result<u64, Unreadable> {
        match bytes {
            1 => self.byte().map(u64::from),
            2 => Ok(u16::from_be_bytes(self.array()?).into()),
            4 => Ok(u32::from_be_bytes(self.array()?).into()),
            _ => Ok(u64::from_be_bytes(self.array()?)),
        }
    }

    fn length(&mut self, bytes: usize) -> Result<usize, Unreadable> {
        self.number(bytes).map(|length| length as usize) // at most 4 bytes
    }

    /// The number of entries of a map that begins here.
    ///
    /// # Errors
    /// Something else begins here.
    pub fn map(&mut self) -> Result<usize, Unreadable> {
        match self.byte()? {
            marker @ 0x80..=0x8f => Ok(usize::from(marker & 0x0f)),
            0xde => self.length(2),
            0xdf => self.length(4),
            _ => Err(Unreadable("a map was expected")),
        }
    }

    /// The number of entries of a list that begins here.
    ///
    /// # Errors
    /// Something else begins here.
    pub fn list(&mut self) -> Result<usize, Unreadable> {
        match self.byte()? {
            marker @ 0x90..=0x9f => Ok(usize::from(marker & 0x0f)),
            0xdc => self.length(2),
            0xdd => self.length(4),
            _ => Err(Unreadable("a list was expected")),
        }
    }

    /// # Errors
    /// No bytes begin here.
    pub fn bin(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = match self.byte()? {
            0xc4 => self.length(1)?,
            0xc5 => self.length(2)?,
            0xc6 => self.length(4)?,
            _ => return Err(Unreadable("bytes were expected")),
        };
        self.take(length)
    }

    /// The bytes of a text, for comparison with a known one.
    ///
    /// # Errors
    /// No text begins here.
    #[inline]
    pub fn key(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = match self.byte()? {
            marker @ 0xa0..=0xbf => usize::from(marker & 0x1f),
            0xd9 => self.length(1)?,
            0xda => self.length(2)?,
            0xdb => self.length(4)?,
            _ => return Err(Unreadable("text was expected")),
        };
        self.take(length)
    }

    /// # Errors
    /// No text in UTF-8 begins here.
    pub fn text(&mut self) -> Result<&'a str, Unreadable> {
        utf8(self.key()?)
    }

    /// # Errors
    /// No integer that is not negative begins here.
    #[inline]
    pub fn unsigned(&mut self) -> Result<u64, Unreadable> {
        let negative = Unreadable("a number that is not negative was expected");
        match self.byte()? {
            marker @ 0x00..=0x7f => Ok(u64::from(marker)),
            0xcc => self.number(1),
            0xcd => self.number(2),
            0xce => self.number(4),
            0xcf => self.number(8),
            marker @ 0xd0..=0xd3 => {
                let bytes = 1 << (marker - 0xd0);
                let number = self.number(bytes)?;
                if number >> (8 * bytes - 1) == 0 { Ok(number) } else { Err(negative) }
            }
            _ => Err(negative),
        }
    }

    /// Goes past these bytes, if they are here.
    #[inline(always)]
    pub(crate) fn accept<const N: usize>(&mut self, bytes: &[u8; N]) -> bool {
        match self.rest.split_first_chunk() {
            Some((first, rest)) if first == bytes => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// Goes past a nil, if one is here.
    pub fn nil(&mut self) -> bool {
        let is_nil = self.rest.first() == Some(&0xc0);
        if is_nil {
            self.rest = &self.rest[1..];
        }
        is_nil
    }

    /// Goes past a value (rule W1).
    ///
    /// # Errors
    /// What is here is none.
    pub fn value(&mut self) -> Result<RawValue<'a>, Unreadable> {
        let from = self.rest;
        let depth = self.walk(Walk::Value, NESTING_MAX)?;
        Ok(RawValue { bytes: &from[..from.len() - self.rest.len()], depth })
    }

    /// A value, which nests at most `depth_max` deep.
    ///
    /// # Errors
    /// What is here is none, or nests deeper.
    pub fn decoded(&mut self, depth_max: usize) -> Result<Value, Unreadable> {
        let marker = self.byte()?;
        Ok(match marker {
            0x00..=0x7f => Value::Int(marker.into()),
            0xe0..=0xff => Value::Int((marker as i8).into()),
            0xc0 => Value::Null,
            0xc2 | 0xc3 => Value::Bool(marker == 0xc3),
            0xa0..=0xbf => Value::Text(utf8(self.take(usize::from(marker & 0x1f))?)?.to_owned()),
            0xd9..=0xdb => {
                let length = self.length(1 << (marker - 0xd9))?;
                Value::Text(utf8(self.take(length)?)?.to_owned())
            }
            0xc4..=0xc6 => {
                let length = self.length(1 << (marker - 0xc4))?;
                Value::Bytes(self.take(length)?.to_vec())
            }
            0xca => Value::Float(f32::from_be_bytes(self.array()?).into()),
            0xcb => Value::Float(f64::from_be_bytes(self.array()?)),
            0xcc..=0xcf => self.number(1 << (marker - 0xcc))?.into(),
            0xd0 => Value::Int(i8::from_be_bytes(self.array()?).into()),
            0xd1 => Value::Int(i16::from_be_bytes(self.array()?).into()),
            0xd2 => Value::Int(i32::from_be_bytes(self.array()?).into()),
            0xd3 => Value::Int(i64::from_be_bytes(self.array()?)),
            0x90..=0x9f => self.decoded_list(depth_max, usize::from(marker & 0x0f))?,
            0x80..=0x8f => self.decoded_map(depth_max, usize::from(marker & 0x0f))?,
            0xdc | 0xdd => {
                let entries = self.length(if marker == 0xdc { 2 } else { 4 })?;
                self.decoded_list(depth_max, entries)?
            }
            0xde | 0xdf => {
                let entries = self.length(if marker == 0xde { 2 } else { 4 })?;
                self.decoded_map(depth_max, entries)?
            }
            0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => return Err(Unreadable("an extension type, which no value has")),
        })
    }

    fn decoded_list(&mut self, depth_max: usize, entries: usize) -> Result<Value, Unreadable> {
        let inner_max = depth_max.checked_sub(1).ok_or(TOO_DEEP)?;
        let mut values = Vec::new(); // rule W2
        for _ in 0..entries {
            values.push(self.decoded(inner_max)?);
        }
        Ok(Value::List(values))
    }

    fn decoded_map(&mut self, depth_max: usize, entries: usize) -> Result<Value, Unreadable> {
        let inner_max = depth_max.checked_sub(1).ok_or(TOO_DEEP)?;
        let mut values = BTreeMap::new();
        for _ in 0..entries {
            let key = self.text()?.to_owned();
            values.insert(key, self.decoded(inner_max)?);
        }
        Ok(Value::Map(values))
    }

    /// Goes past a field that this version does not know.
    ///
    /// # Errors
    /// What is here is not MessagePack, or too deep.
    pub fn skip(&mut self) -> Result<(), Unreadable> {
        self.walk(Walk::Anything, NESTING_MAX).map(drop)
    }

    /// # Errors
    /// Something is left.
    pub fn end(&self) -> Result<(), Unreadable> {
        if self.rest.is_empty() { Ok(()) } else { Err(Unreadable("other bytes follow it")) }
    }

    /// Goes past one thing; returns its nesting, which is at most `depth_max`.
    fn walk(&mut self, walk: Walk, depth_max: usize) -> Result<usize, Unreadable> {
        let marker = self.byte()?;
        match marker {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => Ok(0),
            0xa0..=0xbf => self.pass_text(walk, usize::from(marker & 0x1f)),
            0xd9..=0xdb => {
                let length = self.length(1 << (marker - 0xd9))?;
                self.pass_text(walk, length)
            }
            0xc4..=0xc6 => {
                let length = self.length(1 << (marker - 0xc4))?;
                self.pass(length)
            }
            0xca | 0xce | 0xd2 => self.pass(4),
            0xcb | 0xcf | 0xd3 => self.pass(8),
            0xcc | 0xd0 => self.pass(1),
            0xcd | 0xd1 => self.pass(2),
            0x90..=0x9f => self.walk_entries(walk, depth_max, usize::from(marker & 0x0f), false),
            0x80..=0x8f => self.walk_entries(walk, depth_max, usize::from(marker & 0x0f), true),
            0xdc..=0xdf => {
                let entries = self.length(if marker & 1 == 0 { 2 } else { 4 })?;
                self.walk_entries(walk, depth_max, entries, marker >= 0xde)
            }
            0xc1 => Err(Unreadable("a byte that MessagePack does not use")),
            _ if walk == Walk::Value => Err(Unreadable("an extension type, which no value has")),
            0xc7..=0xc9 => {
                let length = self.length(1 << (marker - 0xc7))?;
                self.pass(length + 1)
            }
            0xd4..=0xd8 => self.pass((1 << (marker - 0xd4)) + 1),
        }
    }

    fn pass(&mut self, count: usize) -> Result<usize, Unreadable> {
        self.take(count).map(|_| 0)
    }

    fn pass_text(&mut self, walk: Walk, length: usize) -> Result<usize, Unreadable> {
        let bytes = self.take(length)?;
        if walk == Walk::Value {
            utf8(bytes)?;
        }
        Ok(0)
    }

    fn walk_entries(
        &mut self,
        walk: Walk,
        depth_max: usize,
        entries: usize,
        has_keys: bool,
    ) -> Result<usize, Unreadable> {
        let inner_max = depth_max.checked_sub(1).ok_or(TOO_DEEP)?;
        let mut depth = 0;
        for _ in 0..entries {
            match walk {
                Walk::Value if has_keys => drop(self.text()?),
                Walk::Anything if has_keys => drop(self.walk(walk, inner_max)?),
                _ => {}
            }
            depth = depth.max(self.walk(walk, inner_max)?);
        }
        Ok(depth + 1)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, Unreadable> {
    std::str::from_utf8(bytes).map_err(|_| Unreadable("text that is not UTF-8"))
}

/// Writes a message's part.
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// The beginning of a map of fewer than 16 entries.
    #[inline]
    pub fn map(&mut self, entries: u8) {
        debug_assert!(entries < 16, "messages have few fields");
        self.0.push(0x80 | entries);
    }

    /// The beginning of a map of any number of entries.
    pub fn entries_of_map(&mut self, entries: usize) {
        match entries {
            0..=0x0f => self.0.push(0x80 | entries as u8),
            0x10..=0xffff => self.marked(0xde, (entries as u16).to_be_bytes()),
            _ => self.marked(0xdf, (entries as u32).to_be_bytes()), // a part has less than 4 GiB
        }
    }

    fn entries_of_list(&mut self, entries: usize) {
        match entries {
            0..=0x0f => self.0.push(0x90 | entries as u8),
            0x10..=0xffff => self.marked(0xdc, (entries as u16).to_be_bytes()),
            _ => self.marked(0xdd, (entries as u32).to_be_bytes()),
        }
    }

    pub fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.0.push(0xc0),
            Value::Bool(value) => self.0.push(if *value { 0xc3 } else { 0xc2 }),
            Value::Int(value) => self.integer(*value),
            Value::Uint(value) => self.unsigned(*value),
            Value::Float(value) => self.marked(0xcb, value.to_be_bytes()),
            Value::Text(text) => self.text(text),
            Value::Bytes(bytes) => self.bin(bytes),
            Value::List(values) => {
                self.entries_of_list(values.len());
                values.iter().for_each(|value| self.value(value));
            }
            Value::Map(entries) => {
                self.entries_of_map(entries.len());
                for (key, value) in entries {
                    self.text(key);
                    self.value(value);
                }
            }
        }
    }

    fn integer(&mut self, number: i64) {
        match number {
            0.. => self.unsigned(number as u64),
            -0x20..=-1 => self.0.push(number as u8),
            -0x80..-0x20 => self.0.extend([0xd0, number as u8]),
            -0x8000..-0x80 => self.marked(0xd1, (number as i16).to_be_bytes()),
            -0x8000_0000..-0x8000 => self.marked(0xd2, (number as i32).to_be_bytes()),
            _ => self.marked(0xd3, number.to_be_bytes()),
        }
    }

    #[inline(always)] // most texts are names of fields: their length is known where it is called
    pub fn text(&mut self, text: &str) {
        match text.len() {
            length @ 0..=31 => self.0.push(0xa0 | length as u8),
            length @ 32..=0xff => self.0.extend([0xd9, length as u8]),
            length @ 0x100..=0xffff => self.marked(0xda, (length as u16).to_be_bytes()),
            length => self.marked(0xdb, (length as u32).to_be_bytes()), // a part has less than 4 GiB
        }
        self.0.extend_from_slice(text.as_bytes());
    }

    #[inline]
    pub fn unsigned(&mut self, number: u64) {
        match number {
            0..=0x7f => self.0.push(number as u8),
            0x80..=0xff => self.0.extend([0xcc, number as u8]),
            0x100..=0xffff => self.marked(0xcd, (number as u16).to_be_bytes()),
            0x1_0000..=0xffff_ffff => self.marked(0xce, (number as u32).to_be_bytes()),
            _ => self.marked(0xcf, number.to_be_bytes()),
        }
    }

    /// Bytes that are MessagePack already: names of fields that follow each other.
    #[inline(always)]
    pub(crate) fn fixed<const N: usize>(&mut self, bytes: &[u8; N]) {
        self.0.extend_from_slice(bytes);
    }

    pub fn bin(&mut self, bytes: &[u8]) {
        match bytes.len() {
            length @ 0..=0xff => self.0.extend([0xc4, length as u8]),
            length @ 0x100..=0xffff => self.marked(0xc5, (length as u16).to_be_bytes()),
            length => self.marked(0xc6, (length as u32).to_be_bytes()), // a part has less than 4 GiB
        }
        self.0.extend_from_slice(bytes);
    }

    /// As [`Writer::bin`], of at most 65,535 bytes that `write` appends; their length takes two bytes whatever it is.
    pub fn bin_of(&mut self, write: impl FnOnce(&mut Self)) {
        self.marked(0xc5, [0, 0]);
        let begin = self.0.len();
        write(self);
        let length = self.0.len() - begin;
        debug_assert!(length <= usize::from(u16::MAX), "what is written so is short");
        self.0[begin - 2..begin].copy_from_slice(&(length as u16).to_be_bytes());
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A value that was read.
    pub fn raw(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    #[inline]
    fn marked<const N: usize>(&mut self, marker: u8, bytes: [u8; N]) {
        self.0.push(marker);
        self.0.extend_from_slice(&bytes);
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        envelope::{decode, encode},
        noise::noise,
        value::Value,
    };

    fn read(bytes: &[u8]) -> Result<usize, Unreadable> {
        let mut reader = Reader::new(bytes);
        let value = reader.value()?;
        reader.end()?;
        assert_eq!(value.bytes, bytes);
        Ok(value.depth)
    }

    #[test]
    fn every_value_is_passed_whole_with_its_nesting() {
        let long = "l".repeat(70_000);
        let wide = Value::Map((0..70_000).map(|at: u32| (at.to_string(), Value::Null)).collect());
        let scalars: Vec<Value> = vec![Value::Null, true.into(), u64::MAX.into(), i64::MIN.into(), 0.5.into()];
        let texts = [0, 31, 32, 255, 256, 65_535, 65_536].map(|length| Value::from(&long[..length]));
        let bytes = [0, 255, 256, 65_536].map(|length| Value::Bytes(vec![7; length]));
        let lists = [15, 16, 65_536].map(|length| Value::List(vec![300.into(); length]));
        let nested = Value::map([("a", vec![Value::map([("b", 1.into())])].into()), ("c", (-1).into())]);
        for value in scalars.into_iter().chain(texts).chain(bytes).chain(lists).chain([wide, nested]) {
            assert_eq!(read(&encode(&value)), Ok(value.depth()));
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        let deep = [vec![0x91; NESTING_MAX + 1], vec![0xc0]].concat();
        let wrong: [&[u8]; 12] = [
            &[],
            &[0xc1],
            &deep,
            &[0xa2, b'a'],             // text that is cut
            &[0xa1, 0xff],             // not UTF-8
            &[0x81, 0x01, 0x02],       // a key that is no text
            &[0xd4, 0x00, 0x00],       // an extension type
            &[0xc7, 0x01, 0x00, 0x00], // another
            &[0xdd, 0xff, 0xff, 0xff, 0xff],
            &[0xdb, 0xff, 0xff, 0xff, 0xff],
            &[0x92, 0xc0],
            &[0xc0, 0xc0],
        ];
        for bytes in wrong {
            assert!(read(bytes).is_err(), "{bytes:02x?}");
        }
        assert_eq!(read(&deep[1..]), Ok(NESTING_MAX));
        assert!(decode::<Value>(&deep[1..]).is_ok() && decode::<Value>(&deep).is_err(), "serde's limit is the same");
    }

    #[test]
    fn whatever_is_accepted_decodes_to_a_value_of_the_same_nesting() {
        let mut next = noise(7);
        let mut accepted = 0;
        for _ in 0..200_000 {
            let length = next() % 12;
            let bytes: Vec<u8> = (0..length).map(|_| next() as u8).collect();
            if let Ok(depth) = read(&bytes) {
                assert_eq!(decode::<Value>(&bytes).map(|value| value.depth()), Ok(depth), "{bytes:02x?}");
                accepted += 1;
            }
        }
        assert!(accepted > 1000, "{accepted} is too few to say anything");
    }

    #[test]
    fn fields_that_are_not_known_are_skipped_in_any_form() {
        for unknown in [&[0xd4, 0x00, 0x00][..], &[0xc7, 0x01, 0x00, 0x00], &[0xa1, 0xff], &[0x81, 0x01, 0x02], &[0xc0]]
        {
            let mut reader = Reader::new(unknown);
            assert_eq!((reader.skip(), reader.end()), (Ok(()), Ok(())));
        }
    }

    #[test]
    fn numbers_and_texts_are_written_and_read_as_serde_writes_them() {
        for number in [0, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000, 0xffff_ffff, 0x1_0000_0000, u64::MAX] {
            let mut writer = Writer::with_capacity(9);
            writer.unsigned(number);
            let bytes = writer.finish();
            assert_eq!(bytes, encode(&number));
            assert_eq!(Reader::new(&bytes).unsigned(), Ok(number));
        }
        for length in [0, 31, 32, 255, 256, 65_535, 65_536] {
            let (text, mut writer) = ("x".repeat(length), Writer::with_capacity(0));
            writer.text(&text);
            let bytes = writer.finish();
            assert_eq!(bytes, encode(&text));
            assert_eq!(Reader::new(&bytes).text(), Ok(text.as_str()));
        }
        for (bytes, number) in [(&[0xd0, 0x05][..], Ok(5)), (&[0xd3, 0, 0, 0, 0, 0, 0, 1, 0], Ok(256))] {
            assert_eq!(Reader::new(bytes).unsigned(), number); // a signed form of what is not negative
        }
        for bytes in [&[0xd0, 0xff][..], &[0xff], &[0xca, 0, 0, 0, 0], &[0xd3, 0xff, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(Reader::new(bytes).unsigned().is_err());
        }
    }
}
