//! The few frames of AMQP 0-9-1 that publishing with confirms needs
//! (<https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf>, sections 2.3 and 4.2; confirms are an extension of
//! RabbitMQ, <https://www.rabbitmq.com/docs/confirms>).
//!
//! ```text
//! frame       type u8 │ channel u16 │ size u32 │ payload │ 0xCE                    all numbers big-endian
//! method      class u16 │ method u16 │ arguments
//! publish     method basic.publish, then a header (body's size, properties), then the body: three frames
//! ```

use super::wire::Wire;
use anyhow::{Context, bail};

const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
const FRAME_END: u8 = 0xCE;
/// Type, channel, size.
const FRAME_HEAD_BYTES: usize = 7;
/// What is agreed on; the server offers the same.
const FRAME_BYTES_MAX: u32 = 128 << 10;
/// The one channel of a connection.
const CHANNEL: u16 = 1;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const CLASS_BASIC: u16 = 60;
/// Of a header: this property is there.
const HAS_DELIVERY_MODE: u16 = 1 << 12;
const PERSISTENT: u8 = 2;
/// Of `queue.declare`.
const DURABLE: u8 = 1 << 1;
/// Of `basic.ack`: it and all before it.
const MULTIPLE: u8 = 1;

type MethodId = (u16, u16);
const CONNECTION_START: MethodId = (10, 10);
const CONNECTION_START_OK: MethodId = (10, 11);
const CONNECTION_TUNE: MethodId = (10, 30);
const CONNECTION_TUNE_OK: MethodId = (10, 31);
const CONNECTION_OPEN: MethodId = (10, 40);
const CONNECTION_OPEN_OK: MethodId = (10, 41);
const CONNECTION_CLOSE: MethodId = (10, 50);
const CHANNEL_OPEN: MethodId = (20, 10);
const CHANNEL_OPEN_OK: MethodId = (20, 11);
const CHANNEL_CLOSE: MethodId = (20, 40);
const QUEUE_DECLARE: MethodId = (50, 10);
const QUEUE_DECLARE_OK: MethodId = (50, 11);
const QUEUE_PURGE: MethodId = (50, 30);
const QUEUE_PURGE_OK: MethodId = (50, 31);
const BASIC_PUBLISH: MethodId = (60, 40);
const BASIC_ACK: MethodId = (60, 80);
const BASIC_NACK: MethodId = (60, 120);
const CONFIRM_SELECT: MethodId = (85, 10);
const CONFIRM_SELECT_OK: MethodId = (85, 11);

#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub kind: u8,
    pub channel: u16,
    pub payload: &'a [u8],
}

/// The first frame of `bytes` and its length; none while it is not whole.
///
/// # Errors
/// They do not begin with a frame.
pub fn parse(bytes: &[u8]) -> anyhow::Result<Option<(Frame<'_>, usize)>> {
    if bytes.first() == Some(&PROTOCOL_HEADER[0]) {
        bail!("the server does not speak AMQP 0-9-1"); // it says which it speaks, and closes
    }
    let Some(head) = bytes.get(..FRAME_HEAD_BYTES) else { return Ok(None) };
    let mut fields = Reader(head);
    let (kind, channel, size) = (fields.u8()?, fields.u16()?, fields.u32()?);
    if size > FRAME_BYTES_MAX {
        bail!("an AMQP frame of {size} bytes; {FRAME_BYTES_MAX} were agreed on");
    }
    let end = FRAME_HEAD_BYTES + size as usize;
    let Some(frame_end) = bytes.get(end) else { return Ok(None) };
    if *frame_end != FRAME_END {
        bail!("an AMQP frame of {size} bytes does not end there");
    }
    Ok(Some((Frame { kind, channel, payload: &bytes[FRAME_HEAD_BYTES..end] }, end + 1)))
}

/// Appends a frame whose payload `fill` writes.
fn frame(output: &mut Vec<u8>, kind: u8, channel: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    output.push(kind);
    output.extend(channel.to_be_bytes());
    let size_at = output.len();
    output.extend([0; 4]);
    fill(output);
    let size = (output.len() - size_at - 4) as u32;
    output[size_at..size_at + 4].copy_from_slice(&size.to_be_bytes());
    output.push(FRAME_END);
}

fn method(output: &mut Vec<u8>, channel: u16, (class, method): MethodId, fill: impl FnOnce(&mut Vec<u8>)) {
    frame(output, METHOD, channel, |output| {
        output.extend(class.to_be_bytes());
        output.extend(method.to_be_bytes());
        fill(output);
    });
}

/// # Panics
/// Of more than 255 bytes: ours are constants.
fn short_string(output: &mut Vec<u8>, text: &str) {
    output.push(u8::try_from(text.len()).expect("names are short"));
    output.extend(text.as_bytes());
}

fn long_string(output: &mut Vec<u8>, text: &[u8]) {
    output.extend((text.len() as u32).to_be_bytes());
    output.extend(text);
}

/// Publishes a persistent message to `queue`, over the exchange that each queue is bound to by its name.
pub fn publish(output: &mut Vec<u8>, queue: &str, body: &[u8]) {
    method(output, CHANNEL, BASIC_PUBLISH, |output| {
        output.extend([0; 2]); // reserved
        short_string(output, "");
        short_string(output, queue);
        output.push(0); // neither mandatory nor immediate
    });
    frame(output, HEADER, CHANNEL, |output| {
        output.extend(CLASS_BASIC.to_be_bytes());
        output.extend([0; 2]); // weight, unused
        output.extend((body.len() as u64).to_be_bytes());
        output.extend(HAS_DELIVERY_MODE.to_be_bytes());
        output.push(PERSISTENT);
    });
    frame(output, BODY, CHANNEL, |output| output.extend(body));
}

/// Takes fields from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> anyhow::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).context("an AMQP frame ends within a field")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> anyhow::Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("N were taken"))
    }

    fn u8(&mut self) -> anyhow::Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> anyhow::Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> anyhow::Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> anyhow::Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn short_string(&mut self) -> anyhow::Result<String> {
        let length = self.u8()?;
        Ok(String::from_utf8_lossy(self.take(length.into())?).into_owned())
    }

    fn long_string(&mut self) -> anyhow::Result<&'a [u8]> {
        let length = self.u32()?;
        self.take(length as usize)
    }
}

/// What a server says of itself: the text `field` of its properties, which are a table of names and typed values.
fn property(table: &[u8], field: &str) -> anyhow::Result<Option<String>> {
    let mut table = Reader(table);
    while !table.0.is_empty() {
        let name = table.short_string()?;
        let value = match table.u8()? {
            b'S' => Some(table.long_string()?),
            b'F' => table.long_string().map(|_| None)?, // a table within
            b't' => table.take(1).map(|_| None)?,
            b'I' => table.take(4).map(|_| None)?,
            other => bail!("the server's property {name} has the type {:?}", char::from(other)),
        };
        if let (true, Some(text)) = (name == field, value) {
            return Ok(Some(String::from_utf8_lossy(text).into_owned()));
        }
    }
    Ok(None)
}

/// That a message is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ack {
    tag: u64,
    is_multiple: bool,
}

/// How many messages of a channel are confirmed. They are numbered from 1.
#[derive(Debug, Default)]
struct Confirms {
    published: u64,
    confirmed: u64,
}

impl Confirms {
    /// With one under way, the next to be confirmed is the only one that may be.
    fn take(&mut self, ack: Ack) -> anyhow::Result<()> {
        let (awaited, published) = (self.confirmed + 1, self.published);
        let is_in_turn = ack.tag == awaited || (ack.is_multiple && ack.tag >= awaited);
        if !is_in_turn || ack.tag > published {
            bail!("message {awaited} of {published} was awaited, and {ack:?} came");
        }
        self.confirmed = ack.tag;
        Ok(())
    }
}

/// A connection with one channel that publishes to `queue` with confirms.
pub struct Publisher {
    wire: Wire,
    queue: &'static str,
    /// Name and version of the server.
    pub server: String,
    confirms: Confirms,
}

impl Publisher {
    /// Connects as guest, whom a server lets in from the same machine, and declares the durable queue.
    ///
    /// # Errors
    /// No server listens there, or it refused.
    pub fn connect(port: u16, queue: &'static str) -> anyhow::Result<Self> {
        let wire = Wire::connect(port)?;
        let mut publisher = Self { wire, queue, server: String::new(), confirms: Confirms::default() };
        publisher.open_connection()?;
        publisher.ask(CHANNEL_OPEN, |output| short_string(output, ""), CHANNEL_OPEN_OK)?;
        let declare = |output: &mut Vec<u8>| {
            output.extend([0; 2]); // reserved
            short_string(output, queue);
            output.push(DURABLE);
            output.extend([0; 4]); // no argument
        };
        publisher.ask(QUEUE_DECLARE, declare, QUEUE_DECLARE_OK)?;
        publisher.ask(CONFIRM_SELECT, |output| output.push(0), CONFIRM_SELECT_OK)?;
        Ok(publisher)
    }

    fn open_connection(&mut self) -> anyhow::Result<()> {
        self.wire.output.extend(PROTOCOL_HEADER);
        self.server = self.expect(CONNECTION_START, |start| {
            start.take(2)?; // version of the protocol
            let properties = start.long_string()?;
            let of = |field| Ok::<_, anyhow::Error>(property(properties, field)?.unwrap_or_default());
            Ok(format!("{} {} ({})", of("product")?, of("version")?, of("platform")?))
        })?;
        method(&mut self.wire.output, 0, CONNECTION_START_OK, |output| {
            output.extend([0; 4]); // no property
            short_string(output, "PLAIN");
            long_string(output, b"\0guest\0guest");
            short_string(output, "en_US");
        });
        self.expect(CONNECTION_TUNE, |_| Ok(()))?;
        let output = &mut self.wire.output;
        method(output, 0, CONNECTION_TUNE_OK, |output| {
            output.extend(CHANNEL.to_be_bytes()); // the highest channel
            output.extend(FRAME_BYTES_MAX.to_be_bytes());
            output.extend([0; 2]); // no heartbeat
        });
        method(output, 0, CONNECTION_OPEN, |output| {
            short_string(output, "/");
            output.extend([0; 2]); // reserved
        });
        self.expect(CONNECTION_OPEN_OK, |_| Ok(()))
    }

    /// Drops what the queue holds.
    ///
    /// # Errors
    /// The server refused.
    pub fn purge(&mut self) -> anyhow::Result<()> {
        let queue = self.queue;
        let purge = |output: &mut Vec<u8>| {
            output.extend([0; 2]); // reserved
            short_string(output, queue);
            output.push(0); // an answer is wanted
        };
        self.ask(QUEUE_PURGE, purge, QUEUE_PURGE_OK)
    }

    /// # Errors
    /// The connection has ended.
    pub fn publish(&mut self, body: &[u8]) -> anyhow::Result<()> {
        publish(&mut self.wire.output, self.queue, body);
        self.confirms.published += 1;
        self.wire.flush()
    }

    /// Reads once; true when all that was published is confirmed.
    ///
    /// # Errors
    /// The server refused a message, or closed.
    pub fn read(&mut self) -> anyhow::Result<bool> {
        self.wire.exchange()?;
        while let Some((frame, length)) = parse(self.wire.input.bytes())? {
            let (id, mut fields) = read_method(&frame)?;
            if id != BASIC_ACK {
                bail!("{id:?} came from the server where a confirm was awaited");
            }
            self.confirms.take(Ack { tag: fields.u64()?, is_multiple: fields.u8()? & MULTIPLE != 0 })?;
            self.wire.input.handled(length);
        }
        Ok(self.confirms.confirmed == self.confirms.published)
    }

    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    fn ask(&mut self, id: MethodId, fill: impl FnOnce(&mut Vec<u8>), answer: MethodId) -> anyhow::Result<()> {
        method(&mut self.wire.output, CHANNEL, id, fill);
        self.expect(answer, |_| Ok(()))
    }

    /// Waits for the method that comes next, and reads its arguments.
    fn expect<T>(
        &mut self,
        expected: MethodId,
        read: impl FnOnce(&mut Reader) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        while parse(self.wire.input.bytes())?.is_none() {
            self.wire.exchange()?;
        }
        let (frame, length) = parse(self.wire.input.bytes())?.expect("it was whole just now");
        let (id, mut fields) = read_method(&frame)?;
        if id != expected {
            bail!("{id:?} came from the server where {expected:?} was awaited");
        }
        let result = read(&mut fields)?;
        self.wire.input.handled(length);
        Ok(result)
    }
}

/// Which method a frame is, and its arguments. A refusal is an error.
fn read_method<'a>(frame: &Frame<'a>) -> anyhow::Result<(MethodId, Reader<'a>)> {
    if frame.kind != METHOD {
        bail!("a frame of type {} came from the server; nothing but methods was awaited", frame.kind);
    }
    let mut fields = Reader(frame.payload);
    let id = (fields.u16()?, fields.u16()?);
    match id {
        CONNECTION_CLOSE | CHANNEL_CLOSE => {
            let (code, text) = (fields.u16()?, fields.short_string()?);
            bail!("the server has closed: {code} {text}")
        }
        BASIC_NACK => bail!("the server has not taken message {}", fields.u64()?),
        _ => Ok((id, fields)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        thread,
    };

    /// A frame is given byte by byte: it is none until its last byte is there, and what follows is left.
    #[test]
    fn a_frame_is_whole_with_its_last_byte_and_not_before() {
        let ack = b"\x01\x00\x01\x00\x00\x00\x0d\x00\x3c\x00\x50\x00\x00\x00\x00\x00\x00\x00\x07\x01\xce";
        for count in 0..ack.len() {
            assert_eq!(parse(&ack[..count]).unwrap(), None, "{count}");
        }
        let longer = [ack, &b"\x01\x00"[..]].concat();
        let (frame, length) = parse(&longer).unwrap().unwrap();
        assert_eq!((frame.kind, frame.channel, length), (METHOD, 1, ack.len()));
        let (id, mut fields) = read_method(&frame).unwrap();
        assert_eq!((id, fields.u64().unwrap(), fields.u8().unwrap()), (BASIC_ACK, 7, MULTIPLE));
        assert!(fields.u8().is_err(), "nothing is left");
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let cases: [(&[u8], &str); 3] = [
            (PROTOCOL_HEADER, "does not speak"),
            (b"\x01\x00\x01\x00\x00\x00\x01\x00\x00", "does not end there"),
            (b"\x01\x00\x01\xff\x00\x00\x01", "were agreed on"),
        ];
        for (bytes, expected) in cases {
            let error = parse(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    /// The bytes are those that section 2.3.5 and 4.2 of the specification give, put together by hand.
    #[test]
    fn a_message_is_three_frames_and_persistent() {
        let mut output = Vec::new();
        publish(&mut output, "q", b"body");
        let expected = [
            &b"\x01\x00\x01\x00\x00\x00\x0a\x00\x3c\x00\x28\x00\x00\x00\x01q\x00\xce"[..],
            b"\x02\x00\x01\x00\x00\x00\x0f\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04\x10\x00\x02\xce",
            b"\x03\x00\x01\x00\x00\x00\x04body\xce",
        ];
        assert_eq!(output, expected.concat());
    }

    #[test]
    fn a_refusal_is_an_error_with_the_reason() {
        let close = |id| {
            let mut output = Vec::new();
            method(&mut output, CHANNEL, id, |output| {
                output.extend(406_u16.to_be_bytes());
                short_string(output, "PRECONDITION_FAILED");
                output.extend([0; 4]); // the method that failed
            });
            output
        };
        let mut nack = Vec::new();
        method(&mut nack, CHANNEL, BASIC_NACK, |output| {
            output.extend(3_u64.to_be_bytes());
            output.push(0);
        });
        let refusals = [
            (close(CONNECTION_CLOSE), "406 PRECONDITION_FAILED"),
            (close(CHANNEL_CLOSE), "406 PRECONDITION_FAILED"),
            (nack, "not taken message 3"),
        ];
        for (bytes, expected) in refusals {
            let (frame, _) = parse(&bytes).unwrap().unwrap();
            let error = read_method(&frame).map(drop).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn one_confirm_stands_for_all_before_it_only_where_it_says_so() {
        let mut confirms = Confirms { published: 4, confirmed: 0 };
        let ack = |tag, is_multiple| Ack { tag, is_multiple };
        confirms.take(ack(1, false)).unwrap();
        confirms.take(ack(3, false)).unwrap_err();
        confirms.take(ack(3, true)).unwrap();
        confirms.take(ack(3, true)).unwrap_err();
        confirms.take(ack(5, true)).unwrap_err();
        confirms.take(ack(4, true)).unwrap();
        assert_eq!(confirms.confirmed, 4);
    }

    #[test]
    fn a_property_is_found_behind_values_of_other_types() {
        let mut table = Vec::new();
        short_string(&mut table, "capabilities");
        table.push(b'F');
        long_string(&mut table, b"\x08confirms\x74\x01");
        short_string(&mut table, "is_new");
        table.extend(b"t\x01");
        short_string(&mut table, "version");
        table.push(b'S');
        long_string(&mut table, b"3.10.8");
        assert_eq!(property(&table, "version").unwrap().as_deref(), Some("3.10.8"));
        assert_eq!(property(&table, "product").unwrap(), None);
        assert_eq!(property(&table, "is_new").unwrap(), None);
        property(&table[..table.len() - 1], "version").unwrap_err();
    }

    /// The next frame, of a server by hand.
    fn next_frame(stream: &mut TcpStream) -> Vec<u8> {
        let mut bytes = vec![0; FRAME_HEAD_BYTES];
        stream.read_exact(&mut bytes).unwrap();
        let size = u32::from_be_bytes(bytes[3..].try_into().unwrap()) as usize;
        bytes.resize(FRAME_HEAD_BYTES + size + 1, 0);
        stream.read_exact(&mut bytes[FRAME_HEAD_BYTES..]).unwrap();
        bytes
    }

    fn take_method(stream: &mut TcpStream, expected: MethodId) {
        let bytes = next_frame(stream);
        let (frame, _) = parse(&bytes).unwrap().unwrap();
        assert_eq!(read_method(&frame).unwrap().0, expected);
    }

    fn send(stream: &mut TcpStream, channel: u16, id: MethodId, arguments: &[u8]) {
        let mut output = Vec::new();
        method(&mut output, channel, id, |output| output.extend(arguments));
        stream.write_all(&output).unwrap();
    }

    /// A server by hand takes the connection, then two messages, and confirms both at once.
    #[test]
    fn a_publisher_is_let_in_and_waits_for_the_confirms() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut protocol = [0; 8];
            stream.read_exact(&mut protocol).unwrap();
            assert_eq!(protocol, PROTOCOL_HEADER);
            let mut start = vec![0, 9];
            long_string(&mut start, b"\x07productS\x00\x00\x00\x01X\x07versionS\x00\x00\x00\x033.1");
            send(&mut stream, 0, CONNECTION_START, &start);
            take_method(&mut stream, CONNECTION_START_OK);
            send(&mut stream, 0, CONNECTION_TUNE, &[0; 8]);
            take_method(&mut stream, CONNECTION_TUNE_OK);
            for (asked, answer) in [
                (CONNECTION_OPEN, CONNECTION_OPEN_OK),
                (CHANNEL_OPEN, CHANNEL_OPEN_OK),
                (QUEUE_DECLARE, QUEUE_DECLARE_OK),
                (CONFIRM_SELECT, CONFIRM_SELECT_OK),
            ] {
                take_method(&mut stream, asked);
                send(&mut stream, CHANNEL, answer, &[]);
            }
            let frames: Vec<u8> = (0..6).flat_map(|_| next_frame(&mut stream)).collect();
            let mut expected = Vec::new();
            publish(&mut expected, "q", b"one");
            publish(&mut expected, "q", b"two");
            assert_eq!(frames, expected);
            send(&mut stream, CHANNEL, BASIC_ACK, b"\0\0\0\0\0\0\0\x01\0");
            send(&mut stream, CHANNEL, BASIC_ACK, b"\0\0\0\0\0\0\0\x02\x01");
        });
        let mut publisher = Publisher::connect(port, "q").unwrap();
        assert_eq!(publisher.server, "X 3.1 ()");
        publisher.publish(b"one").unwrap();
        publisher.publish(b"two").unwrap();
        while !publisher.read().unwrap() {
            assert_eq!(publisher.confirms.confirmed, 1, "one of two");
        }
        assert_eq!(publisher.confirms.confirmed, 2);
        server.join().unwrap();
    }
}
