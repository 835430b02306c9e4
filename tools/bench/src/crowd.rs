//! A thousand connections that say nothing, and a subscriber to everything that has stopped reading.
//!
//! They are plain TCP with ZMTP 3.0 by hand (<https://rfc.zeromq.org/spec/23/>): libzmq always reads.

use anyhow::Context;
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

pub const CONNECTIONS: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(20);
/// A greeting, in both directions.
const GREETING_BYTES: usize = 64;
/// First byte of a short command, and of a short message.
const COMMAND: u8 = 4;
const MESSAGE: u8 = 0;
/// First byte of a subscription's message; the prefix follows, here to everything.
const SUBSCRIBE: u8 = 1;

/// It is gone when this is dropped.
pub struct Crowd {
    _idle: Vec<TcpStream>,
    _deaf: TcpStream,
}

impl Crowd {
    /// Both endpoints are `tcp://…`.
    ///
    /// # Errors
    /// A connection is refused, or there are no more file descriptors.
    pub fn gather(request_endpoint: &str, publish_endpoint: &str) -> anyhow::Result<Self> {
        let idle = (0..CONNECTIONS).map(|_| connect(request_endpoint, "DEALER")).collect::<Result<_, _>>()?;
        let mut deaf = connect(publish_endpoint, "SUB")?;
        deaf.write_all(&[MESSAGE, 1, SUBSCRIBE])?;
        Ok(Self { _idle: idle, _deaf: deaf })
    }
}

fn connect(endpoint: &str, socket_type: &str) -> anyhow::Result<TcpStream> {
    let address = endpoint.trim_start_matches("tcp://");
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {endpoint}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&greeting())?;
    stream.write_all(&ready(socket_type))?;
    let mut theirs = [0; GREETING_BYTES];
    stream.read_exact(&mut theirs).with_context(|| format!("{endpoint} did not greet"))?;
    Ok(stream)
}

/// Signature, version 3.0, no security, not as server.
fn greeting() -> [u8; GREETING_BYTES] {
    let mut greeting = [0; GREETING_BYTES];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

fn ready(socket_type: &str) -> Vec<u8> {
    let mut body = b"\x05READY".to_vec();
    for (name, value) in [("Socket-Type", socket_type), ("Identity", "")] {
        body.push(name.len() as u8);
        body.extend(name.as_bytes());
        body.extend((value.len() as u32).to_be_bytes());
        body.extend(value.as_bytes());
    }
    [&[COMMAND, body.len() as u8], body.as_slice()].concat()
}
