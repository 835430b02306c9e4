//! Several small messages in one part: what leaves for one connection at the same time leaves together.
//!
//! ```text
//! part    [ header, body, header, body, … ]        one MessagePack list of `bin`; each message is as it is in two parts
//! ```
//!
//! *Why?* A part costs a transport more than the few hundred bytes in it: an entry in two queues, a frame, a turn of each thread
//! on its way. A thousand small calls a millisecond are mostly that.
//!
//! # Rules
//! B1  A bundle has at most [`BUNDLE_BYTES_MAX`] bytes and [`BUNDLE_MESSAGES_MAX`] messages; a message that finds no room in one goes in two parts, in its turn.
//! B2  Whoever has sent a bundle over a connection takes bundles over it: to others go two parts.
//! B3  A bundle is read whole or not at all; what is wrong with one message in it concerns that message alone.

use crate::{
    envelope::{HEADER_BYTES_USUAL, Header},
    raw::{Reader, Unreadable, Writer},
};

/// The longest bundle: some eighty small messages, enough to share what a part costs.
pub const BUNDLE_BYTES_MAX: usize = 16 * 1024;
/// Messages of a bundle, so that limits which count parts still mean something.
pub const BUNDLE_MESSAGES_MAX: usize = 128;
/// The beginning of a list whose number of entries is written in two bytes.
const LIST: u8 = 0xdc;
const LIST_BYTES: usize = 3;
/// What stands in front of a header and of a body, at most.
const MARKERS_BYTES: usize = 3 + 3;

/// A bundle that is being written.
pub struct Bundle {
    writer: Writer,
    entries: u16,
}

impl Bundle {
    /// An empty one, with room for `bytes` so far.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut writer = Writer::with_capacity(bytes.min(BUNDLE_BYTES_MAX));
        writer.raw(&[LIST, 0, 0]);
        Self { writer, entries: 0 }
    }

    /// Room that a message takes, more or less.
    pub fn room_of(body: &[u8]) -> usize {
        HEADER_BYTES_USUAL + body.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Appends a message; false if it finds no room (rule B1). One that finds none in an empty bundle goes in two parts.
    pub fn push(&mut self, header: &Header, body: &[u8]) -> bool {
        let before = self.writer.len();
        // Looked at before anything is copied: a body may have 64 MiB.
        let is_long = before + header.bytes_max() + body.len() + MARKERS_BYTES > BUNDLE_BYTES_MAX;
        if is_long || usize::from(self.entries) >= 2 * BUNDLE_MESSAGES_MAX {
            return false;
        }
        self.writer.bin_of(|writer| header.write(writer));
        self.writer.bin(body);
        debug_assert!(self.writer.len() <= BUNDLE_BYTES_MAX, "a header has less than its bytes_max");
        self.entries += 2;
        true
    }

    /// The part.
    pub fn finish(self) -> Vec<u8> {
        let Self { writer, entries } = self;
        let mut bytes = writer.finish();
        bytes[1..LIST_BYTES].copy_from_slice(&entries.to_be_bytes());
        bytes
    }
}

/// Whether a message's only part may be a bundle, and not a header whose body is missing.
pub fn is_bundle(part: &[u8]) -> bool {
    matches!(part.first(), Some(0x90..=0x9f | 0xdc | 0xdd))
}

/// Headers and bodies of a bundle, in their order.
///
/// # Errors
/// It is longer than rule B1 allows, no list of `bin`, has no message, or a header without a body.
pub fn read_bundle(part: &[u8]) -> Result<Vec<[&[u8]; 2]>, Unreadable> {
    if part.len() > BUNDLE_BYTES_MAX {
        return Err(Unreadable("a bundle is longer than 16 KiB"));
    }
    let mut reader = Reader::new(part);
    let entries = reader.list()?;
    if !(2..=2 * BUNDLE_MESSAGES_MAX).contains(&entries) || !entries.is_multiple_of(2) {
        return Err(Unreadable("a bundle has 1 to 128 messages, each a header and a body"));
    }
    let mut messages = Vec::with_capacity(entries / 2);
    for _ in 0..entries / 2 {
        messages.push([reader.bin()?, reader.bin()?]);
    }
    reader.end()?;
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        envelope::{decode, encode},
        trace::Trace,
        value::Value,
    };

    fn header(id: u64) -> Header {
        let trace = Some(Trace { trace: id, span: u64::MAX, parent: 1 });
        Header { trace, ..Header::request("call.do", id, 2000) }
    }

    #[test]
    fn what_goes_in_comes_out_in_order_and_a_generic_decoder_reads_it_too() {
        let mut bundle = Bundle::with_capacity(0);
        assert!(bundle.is_empty());
        let bodies = [vec![], vec![7; 31], vec![7; 256], vec![9; 5000]];
        for (id, body) in bodies.iter().enumerate() {
            assert!(bundle.push(&header(id as u64), body));
        }
        let part = bundle.finish();
        assert!(is_bundle(&part));
        let expected: Vec<_> = bodies.iter().enumerate().map(|(id, body)| (header(id as u64), body.clone())).collect();
        let read = read_bundle(&part).unwrap();
        let read: Vec<_> = read.iter().map(|[header, body]| (Header::decode(header).unwrap(), body.to_vec())).collect();
        assert_eq!(read, expected);
        let entries: Vec<Value> = expected
            .into_iter()
            .flat_map(|(header, body)| [Value::Bytes(encode(&header)), Value::Bytes(body)])
            .collect();
        assert_eq!(decode::<Value>(&part), Ok(entries.into()));
    }

    #[test]
    fn a_bundle_takes_as_much_as_fits_and_nothing_is_half_in_it() {
        let mut bundle = Bundle::with_capacity(0);
        assert!(!bundle.push(&header(1), &vec![0; BUNDLE_BYTES_MAX]));
        assert!(bundle.is_empty());
        let mut pushed = 0;
        while bundle.push(&header(pushed), &[7; 100]) {
            pushed += 1;
        }
        let part = bundle.finish();
        assert!(part.len() <= BUNDLE_BYTES_MAX && part.len() > BUNDLE_BYTES_MAX - 400, "{}", part.len());
        assert_eq!(read_bundle(&part).unwrap().len() as u64, pushed);
        let mut bundle = Bundle::with_capacity(0);
        let tiny = (0..).take_while(|_| bundle.push(&Header::notice("x"), &[])).count();
        assert_eq!((tiny, read_bundle(&bundle.finish()).unwrap().len()), (BUNDLE_MESSAGES_MAX, BUNDLE_MESSAGES_MAX));
        let more = Value::List(vec![Value::Bytes(vec![]); 2 * BUNDLE_MESSAGES_MAX + 2]);
        assert!(read_bundle(&encode(&more)).is_err());
    }

    #[test]
    fn what_is_no_bundle_is_refused() {
        let mut bundle = Bundle::with_capacity(0);
        bundle.push(&header(1), b"body");
        let part = bundle.finish();
        let odd = encode(&Value::from(vec![Value::Bytes(vec![1])]));
        let of_text = encode(&Value::from(vec!["a", "b"]));
        let huge_claim = vec![0xdd, 0xff, 0xff, 0xff, 0xfe];
        let long = [encode(&Value::from(Vec::<i64>::new())), vec![0; BUNDLE_BYTES_MAX]].concat();
        let trailing = [part.clone(), vec![0]].concat();
        for wrong in [odd, of_text, huge_claim, long, trailing, vec![], header(1).encode()] {
            assert!(read_bundle(&wrong).is_err(), "{wrong:02x?}");
        }
        for end in 0..part.len() {
            assert!(read_bundle(&part[..end]).is_err(), "cut at {end}");
        }
        assert!(!is_bundle(&header(1).encode()) && !is_bundle(&[]));
    }
}
