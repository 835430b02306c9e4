//! The few operations of the NATS client protocol that request and reply need
//! (<https://docs.nats.io/reference/reference-protocols/nats-protocol>).
//!
//! ```text
//! server   INFO {…}⏎            client   CONNECT {…}⏎  SUB <subject> <sid>⏎  PING⏎
//!          PONG⏎                         PUB <subject> <reply> <bytes>⏎<payload>⏎
//!          MSG <subject> <sid> [<reply>] <bytes>⏎<payload>⏎            (⏎ is CR LF)
//! ```

use super::wire::Wire;
use anyhow::{Context, bail};
use std::io::Write;

/// Without `verbose` the server does not confirm each operation.
const CONNECT: &[u8] = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"ecs-bench\",\"version\":\"0\"}\r\n";
const PING: &[u8] = b"PING\r\n";
const PONG: &[u8] = b"PONG\r\n";
const LINE_END: &[u8] = b"\r\n";
/// A line longer than this is none: the longest that a server sends is INFO, of a kilobyte or two.
const LINE_BYTES_MAX: usize = 64 << 10;

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// What the server is, as JSON.
    Info(&'a [u8]),
    Message(Message<'a>),
    Ping,
    Pong,
    Ok,
    Error(&'a [u8]),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Message<'a> {
    pub subject: &'a [u8],
    /// Where the answer is to go: empty where none is wanted.
    pub reply: &'a [u8],
    pub payload: &'a [u8],
}

/// The first operation of `bytes` and its length; none while it is not whole.
///
/// # Errors
/// They do not begin with an operation.
pub fn parse(bytes: &[u8]) -> anyhow::Result<Option<(Operation<'_>, usize)>> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        if bytes.len() > LINE_BYTES_MAX {
            bail!("a line of more than {LINE_BYTES_MAX} bytes from the NATS server");
        }
        return Ok(None);
    };
    let line = bytes[..end].trim_ascii_end();
    let behind = end + 1;
    let (name, rest) = line.split_at(line.iter().position(|byte| *byte == b' ').unwrap_or(line.len()));
    let operation = match name {
        b"MSG" => return message(bytes, line, behind),
        b"INFO" => Operation::Info(rest.trim_ascii()),
        b"PING" => Operation::Ping,
        b"PONG" => Operation::Pong,
        b"+OK" => Operation::Ok,
        b"-ERR" => Operation::Error(rest.trim_ascii()),
        _ => bail!("the NATS server said {:?}", String::from_utf8_lossy(line)),
    };
    Ok(Some((operation, behind)))
}

/// The message that `line` announces; its payload begins at `start`.
fn message<'a>(bytes: &'a [u8], line: &'a [u8], start: usize) -> anyhow::Result<Option<(Operation<'a>, usize)>> {
    let wrong = || format!("the NATS server sent a message with the line {:?}", String::from_utf8_lossy(line));
    let mut found: [&[u8]; 5] = [&[]; 5];
    let mut count = 0;
    for field in line.split(|byte| *byte == b' ').filter(|field| !field.is_empty()) {
        *found.get_mut(count).with_context(wrong)? = field;
        count += 1;
    }
    let (reply, length): (&[u8], _) = match count {
        4 => (&[], found[3]),
        5 => (found[3], found[4]),
        _ => bail!(wrong()),
    };
    let length = number(length).with_context(wrong)?;
    let end = start.checked_add(length).with_context(wrong)?;
    let Some(line_end) = bytes.get(end..).and_then(|rest| rest.get(..LINE_END.len())) else { return Ok(None) };
    if line_end != LINE_END {
        bail!("{}, and its payload does not end there", wrong());
    }
    let message = Message { subject: found[1], reply, payload: &bytes[start..end] };
    Ok(Some((Operation::Message(message), end + LINE_END.len())))
}

/// A number in decimal digits.
pub fn number(digits: &[u8]) -> Option<usize> {
    let add = |sum: usize, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| usize::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    (!digits.is_empty()).then(|| digits.iter().try_fold(0, add)).flatten()
}

/// Publishes `payload`; the answer is to go to `reply`, unless it is empty.
pub fn publish(output: &mut Vec<u8>, subject: &[u8], reply: &[u8], payload: &[u8]) {
    output.extend(b"PUB ");
    output.extend(subject);
    if !reply.is_empty() {
        output.push(b' ');
        output.extend(reply);
    }
    let _ = write!(output, " {}\r\n", payload.len()); // a Vec takes everything
    output.extend(payload);
    output.extend(LINE_END);
}

/// A connection to a server that knows it.
pub struct Connection {
    wire: Wire,
    pub version: String,
}

impl Connection {
    /// # Errors
    /// No NATS server listens there.
    pub fn connect(port: u16) -> anyhow::Result<Self> {
        let mut wire = Wire::connect(port)?;
        wire.exchange()?; // the server speaks first
        let version = loop {
            match parse(wire.input.bytes())? {
                Some((Operation::Info(info), _)) => break version(info)?,
                Some((other, _)) => bail!("the NATS server began with {other:?}"),
                None => wire.exchange()?,
            }
        };
        wire.output.extend(CONNECT);
        let mut connection = Self { wire, version };
        connection.settle()?;
        Ok(connection)
    }

    /// Subscribes to `subject`; when it returns, the server knows.
    ///
    /// # Errors
    /// The server refused.
    pub fn subscribe(&mut self, subject: &str) -> anyhow::Result<()> {
        let _ = write!(self.wire.output, "SUB {subject} 1\r\n"); // a Vec takes everything
        self.settle()
    }

    /// Waits until the server has handled everything so far.
    fn settle(&mut self) -> anyhow::Result<()> {
        self.wire.output.extend(PING);
        let mut is_settled = false;
        while !is_settled {
            self.wire.exchange()?;
            is_settled = self.handle(|_, _| Ok(()))?;
        }
        Ok(())
    }

    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Where operations that are to be sent go.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.wire.output
    }

    /// Sends what waits, waits until something comes, and handles what is whole. `on_message` may answer into the
    /// output.
    ///
    /// # Errors
    /// The connection has ended, or the server complains.
    pub fn turn(&mut self, on_message: impl FnMut(&Message, &mut Vec<u8>) -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.wire.exchange()?;
        self.handle(on_message).map(drop)
    }

    /// Handles what is whole; true where a PONG was among it.
    fn handle(
        &mut self,
        mut on_message: impl FnMut(&Message, &mut Vec<u8>) -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        let Wire { input, output, .. } = &mut self.wire;
        let mut has_pong = false;
        while let Some((operation, length)) = parse(input.bytes())? {
            match operation {
                Operation::Message(message) => on_message(&message, output)?,
                Operation::Ping => output.extend(PONG),
                Operation::Pong => has_pong = true,
                Operation::Info(_) | Operation::Ok => (),
                Operation::Error(text) => bail!("the NATS server complains: {}", String::from_utf8_lossy(text)),
            }
            input.handled(length);
        }
        Ok(has_pong)
    }
}

fn version(info: &[u8]) -> anyhow::Result<String> {
    let info: serde_json::Value = serde_json::from_slice(info).context("the INFO of the NATS server is not JSON")?;
    Ok(info["version"].as_str().context("the INFO of the NATS server has no version")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead, BufReader},
        net::TcpListener,
        thread,
        time::Duration,
    };

    fn message<'a>(subject: &'a str, reply: &'a str, payload: &'a [u8]) -> Operation<'a> {
        Operation::Message(Message { subject: subject.as_bytes(), reply: reply.as_bytes(), payload })
    }

    /// Each operation is given byte by byte: it is none until its last byte is there, and what follows is left.
    #[test]
    fn an_operation_is_whole_with_its_last_byte_and_not_before() {
        let cases: [(&[u8], Operation); 8] = [
            (b"INFO {\"version\":\"2.9.10\"} \r\n", Operation::Info(b"{\"version\":\"2.9.10\"}")),
            (b"MSG a.b 1 5\r\nhello\r\n", message("a.b", "", b"hello")),
            (b"MSG a.b 1 _INBOX.x.7 4\r\n\r\n\r\n\r\n", message("a.b", "_INBOX.x.7", b"\r\n\r\n")),
            (b"MSG a 12 0\r\n\r\n", message("a", "", b"")),
            (b"PING\r\n", Operation::Ping),
            (b"PONG\r\n", Operation::Pong),
            (b"+OK\r\n", Operation::Ok),
            (b"-ERR 'Slow Consumer'\r\n", Operation::Error(b"'Slow Consumer'")),
        ];
        for (bytes, expected) in cases {
            for count in 0..bytes.len() {
                assert_eq!(parse(&bytes[..count]).unwrap(), None, "{count} of {}", String::from_utf8_lossy(bytes));
            }
            let longer = [bytes, b"PING\r\n"].concat();
            assert_eq!(parse(&longer).unwrap(), Some((expected, bytes.len())));
        }
    }

    #[test]
    fn what_is_no_operation_is_refused() {
        let cases: [&[u8]; 7] = [
            b"HELLO\r\n",
            b"MSG a.b 1\r\n",
            b"MSG a.b 1 x\r\n",
            b"MSG a.b 1 r 5 6\r\nhello\r\n",
            b"MSG a.b 1 18446744073709551616\r\n",
            b"MSG a.b 1 18446744073709551615\r\n",
            b"MSG a.b 1 4\r\nhello\r\n",
        ];
        for bytes in cases {
            parse(bytes).expect_err(&String::from_utf8_lossy(bytes));
        }
        parse(&vec![b'x'; LINE_BYTES_MAX + 1]).unwrap_err();
    }

    #[test]
    fn a_request_names_its_reply_and_an_answer_names_none() {
        let mut output = Vec::new();
        publish(&mut output, b"bench.echo", b"_INBOX.bench.7", b"hello");
        publish(&mut output, b"_INBOX.bench.7", b"", b"");
        assert_eq!(output, b"PUB bench.echo _INBOX.bench.7 5\r\nhello\r\nPUB _INBOX.bench.7 0\r\n\r\n");
    }

    /// A server by hand: it speaks first, asks whether the client lives, and sends one message in two pieces.
    #[test]
    fn a_connection_answers_what_the_server_asks_and_hands_messages_over() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream.write_all(b"INFO {\"version\":\"2.9.10\"} \r\n").unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
            assert!(lines.next().unwrap().starts_with("CONNECT {\"verbose\":false"));
            assert_eq!(lines.next().unwrap(), "PING");
            stream.write_all(b"PONG\r\n").unwrap();
            assert_eq!([lines.next().unwrap(), lines.next().unwrap()], ["SUB a.* 1", "PING"]);
            stream.write_all(b"PING\r\nPONG\r\nMSG a.b 1 c.d 5\r\nhe").unwrap();
            assert_eq!(lines.next().unwrap(), "PONG");
            stream.write_all(b"llo\r\n").unwrap();
            assert_eq!([lines.next().unwrap(), lines.next().unwrap()], ["PUB c.d 5", "hello"]);
            stream.write_all(b"-ERR 'Stale Connection'\r\n").unwrap();
        });
        let mut connection = Connection::connect(port).unwrap();
        assert_eq!(connection.version, "2.9.10");
        connection.subscribe("a.*").unwrap();
        let mut count = 0;
        let error = loop {
            let turned = connection.turn(|message, output| {
                count += 1;
                publish(output, message.reply, b"", message.payload);
                Ok(())
            });
            if let Err(error) = turned {
                break error.to_string();
            }
        };
        drop(connection); // a server that waits for more sees the end
        server.join().unwrap();
        assert!(count == 1 && error.contains("Stale Connection"), "{count} messages, then {error}");
    }

    #[test]
    fn the_version_is_that_of_the_info() {
        assert_eq!(version(b"{\"server_id\":\"x\",\"version\":\"2.9.10\"}").unwrap(), "2.9.10");
        version(b"{}").unwrap_err();
        version(b"2.9.10").unwrap_err();
    }
}
