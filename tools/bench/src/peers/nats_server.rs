//! Calls through a nats-server: request and reply, with the hops and the payload of ours.
//!
//! ```text
//! client ─▶ nats-server ─▶ worker ─▶ nats-server ─▶ client
//! ```
//!
//! As NATS clients do it: one subscription to a wildcard receives every answer of a connection, and each request has a
//! subject under it for its reply.

use super::{
    Programs, await_peer,
    nats::{Connection, Message, number, publish},
    start_peer,
};
use crate::{
    broker::{free_port, quantile},
    running::Running,
};
use anyhow::{Context, bail};
use std::{
    fs,
    io::Write,
    net::{Shutdown, TcpStream},
    path::Path,
    process::Command,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const SUBJECT: &str = "bench.echo";
const INBOX: &str = "_INBOX.bench.";

/// A server on a port of its own, without configuration file.
pub struct NatsServer {
    port: u16,
    pub version: String,
    _process: Running,
}

impl NatsServer {
    /// Its log is in `folder`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(programs: &Programs, folder: &Path) -> anyhow::Result<Self> {
        let (port, folder) = (free_port()?, folder.join("nats"));
        fs::create_dir(&folder)?;
        let mut command = Command::new(&programs.nats_server);
        command.args(["--addr", "127.0.0.1", "--port", &port.to_string()]).current_dir(&folder);
        let (process, log) = start_peer(&mut command, &folder)?;
        let version = await_peer("nats-server", &process, &log, || Ok(Connection::connect(port)?.version))?;
        Ok(Self { port, version, _process: process })
    }

    /// Of the loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Answers requests until it is dropped.
    ///
    /// # Errors
    /// The server does not take it.
    pub fn worker(&self) -> anyhow::Result<Worker> {
        Worker::start(self.port)
    }

    /// Median time of a call, one at a time.
    ///
    /// # Errors
    /// An answer does not come.
    pub fn call_p50_us(&self, bytes: usize, leg: Duration) -> anyhow::Result<f64> {
        let mut client = Client::connect(self.port, bytes)?;
        let mut times_us = Vec::new();
        let start = Instant::now();
        while start.elapsed() < leg {
            let begun = Instant::now();
            client.ask();
            while client.answered < client.asked {
                client.turn(|| false)?;
            }
            times_us.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        Ok(quantile(times_us, 0.5))
    }

    /// Calls per second with many under way.
    ///
    /// # Errors
    /// An answer does not come.
    pub fn calls_per_s(&self, bytes: usize, in_flight: usize, leg: Duration) -> anyhow::Result<f64> {
        let mut client = Client::connect(self.port, bytes)?;
        (0..in_flight).for_each(|_| client.ask());
        let start = Instant::now();
        while start.elapsed() < leg {
            client.turn(|| true)?;
        }
        let rate = client.answered as f64 / start.elapsed().as_secs_f64();
        while client.answered < client.asked {
            client.turn(|| false)?;
        }
        Ok(rate)
    }
}

/// One connection that asks.
struct Client {
    connection: Connection,
    payload: Vec<u8>,
    asked: usize,
    answered: usize,
}

impl Client {
    fn connect(port: u16, bytes: usize) -> anyhow::Result<Self> {
        let mut connection = Connection::connect(port)?;
        connection.subscribe(&format!("{INBOX}*"))?;
        Ok(Self { connection, payload: vec![7; bytes], asked: 0, answered: 0 })
    }

    /// One more request is under way with the next turn.
    fn ask(&mut self) {
        ask(self.connection.output(), &mut self.asked, &self.payload);
    }

    /// Takes the answers that come; asks again for each, as long as `is_wanted`.
    fn turn(&mut self, is_wanted: impl Fn() -> bool) -> anyhow::Result<()> {
        let Self { connection, payload, asked, answered } = self;
        connection.turn(|message, output| {
            // One worker on one connection answers in the order in which it is asked.
            let answer = message.subject.strip_prefix(INBOX.as_bytes()).and_then(number);
            if answer != Some(*answered) || message.payload.len() != payload.len() {
                bail!("answer {answered} was awaited, {message:?} came");
            }
            *answered += 1;
            if is_wanted() {
                ask(output, asked, payload);
            }
            Ok(())
        })
    }
}

fn ask(output: &mut Vec<u8>, asked: &mut usize, payload: &[u8]) {
    let mut reply = [0; 64];
    let mut rest = &mut reply[..];
    write!(rest, "{INBOX}{asked}").expect("a number has 20 digits at most");
    let unused = rest.len();
    publish(output, SUBJECT.as_bytes(), &reply[..reply.len() - unused], payload);
    *asked += 1;
}

/// Sends back what it gets, on a thread and a connection of its own.
pub struct Worker {
    stream: TcpStream,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(port: u16) -> anyhow::Result<Self> {
        let mut connection = Connection::connect(port)?;
        connection.subscribe(SUBJECT)?;
        let stream = connection.wire().stream().try_clone().context("no second handle of a socket")?;
        stream.set_read_timeout(None)?; // it waits for as long as nobody asks; both handles are one socket
        let echo = move || {
            let answer = |asked: &Message, output: &mut Vec<u8>| {
                publish(output, asked.reply, b"", asked.payload);
                Ok(())
            };
            while connection.turn(answer).is_ok() {}
        };
        Ok(Self { stream, thread: Some(thread::spawn(echo)) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both); // its turn ends with an error
        self.thread.take().map(JoinHandle::join);
    }
}
