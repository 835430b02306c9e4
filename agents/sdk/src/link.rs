//! The sockets of agents and tools: the only place of the SDK that knows ZeroMQ.
//!
//! # Rules
//! L1  No send ever blocks. Without a connection nothing is queued (`ZMQ_IMMEDIATE`): a message that could
//!     not leave now is refused, and whoever sends decides whether it still matters later.
//! L2  A [`Link`] belongs to one thread. Other threads reach it through a [`Waker`], which ends its wait at once.
//! L3  What comes in is bounded: message length by the socket, parts by `PARTS_MAX`.
//! L4  With a key a connection is to that key's broker or to none: there is no way back to one without.
//! L5  What leaves at one time leaves in bundles, and so may what comes (`schemas::bundle`): what is left of one is [`Link::receive`]d
//!     before anything is waited for.

use crate::{
    limits::{
        BATCH_BYTES, CONNECT_INTERVAL_MAX_MS, CONNECT_INTERVAL_MS, CURVE_BYTES, LINGER_MS, LINK_HWM, PARTS_MAX,
        PROBE_INTERVAL_MS, PROBE_TIMEOUT_MS, SUBSCRIBER_HWM,
    },
    monitor::{Handshake, Monitor},
};
use bytes::Bytes;
use ecs_schemas::{
    bundle::{Bundle, read_bundle},
    envelope::{BODY_BYTES_MAX, Header},
    keys::ClientKey,
};
use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

/// Why a socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("{endpoint:?} is not an endpoint ({reason}); it is tcp://ADDRESS:PORT or ipc://PATH")]
    Endpoint { endpoint: String, reason: String },
    /// Out of memory or file descriptors.
    #[error("no socket: {0}")]
    System(String),
    /// The key is of the right form and no key all the same, or libzmq has no CURVE.
    #[error("the key {name} cannot be used ({reason}); ask for another, or build with tools/zmq-sys")]
    Key { name: String, reason: String },
}

/// One request connection to the broker (DEALER).
pub struct Link {
    socket: zmq::Socket,
    monitor: Monitor,
    /// Of the bundle that came last.
    arrived: VecDeque<Received>,
}

/// A message's header and body, as they came.
pub type Received = (Bytes, Bytes);

/// One subscription to what the broker publishes (SUB).
pub struct Feed {
    socket: zmq::Socket,
}

/// Ends the wait of a link from any thread.
pub struct Waker(UnixStream);

/// The link's side of its waker.
pub struct WakeSource(UnixStream);

/// A waker and what it wakes.
///
/// # Errors
/// Out of file descriptors.
pub fn waker() -> io::Result<(Waker, WakeSource)> {
    let (waker, source) = UnixStream::pair()?;
    waker.set_nonblocking(true)?;
    source.set_nonblocking(true)?;
    Ok((Waker(waker), WakeSource(source)))
}

impl Waker {
    pub fn wake(&self) {
        let _ = (&self.0).write(&[1]); // full means that it is awake already
    }
}

impl WakeSource {
    fn drain(&self) {
        let mut bytes = [0; 64];
        while matches!((&self.0).read(&mut bytes), Ok(count) if count == bytes.len()) {}
    }
}

impl Link {
    /// Begins to connect, and goes on trying for ever.
    ///
    /// # Errors
    /// See [`LinkError`]; a broker that is not there, or does not accept the key, is no error.
    pub fn connect(endpoint: &str, key: Option<&ClientKey>) -> Result<Self, LinkError> {
        let context = zmq::Context::new();
        let mut socket = context.socket(zmq::DEALER).map_err(system)?;
        set_batches(&mut socket);
        configure(&socket, LINK_HWM).and_then(|()| socket.set_immediate(true)).map_err(system)?;
        let monitor = Monitor::new(&context, &socket).map_err(system)?;
        put_on(&socket, key)?;
        connect(&socket, endpoint)?;
        Ok(Self { socket, monitor, arrived: VecDeque::new() })
    }

    /// How the last attempt to be let in ended.
    pub fn handshake(&self) -> Handshake {
        self.monitor.handshake()
    }

    /// Sends a message; false when there is no connection or its queue is full (rule L1).
    pub fn send(&self, header: &Header, body: &[u8]) -> bool {
        let mut bundle = Bundle::with_capacity(Bundle::room_of(body));
        if bundle.push(header, body) {
            return self.socket.send(bundle.finish(), zmq::DONTWAIT).is_ok();
        }
        self.socket.send_multipart([header.encode().as_slice(), body], zmq::DONTWAIT).is_ok()
    }

    /// Sends messages in their order; returns how many have left.
    pub fn send_all(&self, messages: &[(Header, Vec<u8>)]) -> usize {
        let mut sent = 0;
        while let [(header, body), ..] = &messages[sent..] {
            let rest = &messages[sent..];
            let mut bundle = Bundle::with_capacity(rest.iter().map(|(_, body)| Bundle::room_of(body)).sum());
            let together = rest.iter().take_while(|(header, body)| bundle.push(header, body)).count();
            let has_left = match together {
                0 => self.send(header, body),
                _ => self.socket.send(bundle.finish(), zmq::DONTWAIT).is_ok(),
            };
            if !has_left {
                break;
            }
            sent += together.max(1);
        }
        sent
    }

    /// The next message that waits, if any. What is none is passed over.
    pub fn receive(&mut self) -> Option<Received> {
        loop {
            if let Some(message) = self.arrived.pop_front() {
                return Some(message);
            }
            match &receive(&self.socket)?[..] {
                [header, body] => return Some((header.clone(), body.clone())),
                [part] => {
                    let messages = read_bundle(part).unwrap_or_default().into_iter();
                    self.arrived.extend(messages.map(|[header, body]| (part.slice_ref(header), part.slice_ref(body))));
                }
                _ => {}
            }
        }
    }

    /// How long to wait: not at all where a message is there already (rule L5).
    fn patience(&self, wanted: Duration) -> i64 {
        if self.arrived.is_empty() { milliseconds(wanted) } else { 0 }
    }

    /// Waits until a message can be received, until the waker is used, or for `patience`.
    pub fn wait(&self, source: &WakeSource, patience: Duration) {
        let wake = zmq::PollItem::from_fd(source.0.as_raw_fd(), zmq::POLLIN);
        let mut items = [self.socket.as_poll_item(zmq::POLLIN), wake];
        let _ = zmq::poll(&mut items, self.patience(patience)); // EINTR: the caller looks again
        source.drain();
    }

    /// As [`Link::wait`], and also until a message can be sent.
    pub fn wait_to_send(&self, source: &WakeSource, patience: Duration) {
        let wake = zmq::PollItem::from_fd(source.0.as_raw_fd(), zmq::POLLIN);
        let mut items = [self.socket.as_poll_item(zmq::POLLIN | zmq::POLLOUT), wake];
        let _ = zmq::poll(&mut items, self.patience(patience));
        source.drain();
    }

    /// Waits until a message can be received, at most for `patience`.
    pub fn wait_readable(&self, patience: Duration) {
        let _ = self.socket.poll(zmq::POLLIN, self.patience(patience));
    }

    /// Whether there is a connection now.
    pub fn is_writable(&self) -> bool {
        self.socket.get_events().is_ok_and(|events| events.contains(zmq::POLLOUT))
    }

    /// Waits for a connection, at most for `patience`, and not after the broker has refused it; true when there
    /// is one.
    pub fn wait_writable(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            if self.is_writable() {
                return true;
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() || self.handshake() == Handshake::Refused {
                return false;
            }
            let mut items = [self.socket.as_poll_item(zmq::POLLOUT), self.monitor.poll_item()];
            let _ = zmq::poll(&mut items, milliseconds(rest)); // EINTR: looked at again
        }
    }
}

impl Feed {
    /// Subscribes to all topics that begin with one of `prefixes`, and goes on connecting for ever.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn connect<'a>(
        endpoint: &str,
        prefixes: impl Iterator<Item = &'a [u8]>,
        key: Option<&ClientKey>,
    ) -> Result<Self, LinkError> {
        let socket = zmq::Context::new().socket(zmq::SUB).map_err(system)?;
        configure(&socket, SUBSCRIBER_HWM).map_err(system)?;
        socket.set_heartbeat_ivl(PROBE_INTERVAL_MS).map_err(system)?;
        socket.set_heartbeat_timeout(PROBE_TIMEOUT_MS).map_err(system)?;
        for prefix in prefixes {
            socket.set_subscribe(prefix).map_err(system)?;
        }
        put_on(&socket, key)?;
        connect(&socket, endpoint)?;
        Ok(Self { socket })
    }

    /// The next message, waited for at most for `patience`.
    pub fn next(&self, patience: Duration) -> Option<Vec<Bytes>> {
        if let Some(parts) = receive(&self.socket) {
            return Some(parts);
        }
        let _ = self.socket.poll(zmq::POLLIN, milliseconds(patience));
        receive(&self.socket)
    }
}

/// How much a socket takes from the system, and gives to it, at one time. A libzmq that cannot set it is slower, no more.
fn set_batches(socket: &mut zmq::Socket) {
    // SAFETY: the socket is open and this thread's own as long as it is borrowed.
    unsafe { zmq_sys::set_batch_bytes(socket.as_mut_ptr(), BATCH_BYTES, BATCH_BYTES) };
}

fn configure(socket: &zmq::Socket, hwm: i32) -> zmq::Result<()> {
    socket.set_maxmsgsize(BODY_BYTES_MAX as i64 + CURVE_BYTES)?;
    socket.set_sndhwm(hwm)?;
    socket.set_rcvhwm(hwm)?;
    socket.set_linger(LINGER_MS)?;
    socket.set_reconnect_ivl(CONNECT_INTERVAL_MS)?;
    socket.set_reconnect_ivl_max(CONNECT_INTERVAL_MAX_MS)
}

/// Rule L4. To be called before connecting.
fn put_on(socket: &zmq::Socket, key: Option<&ClientKey>) -> Result<(), LinkError> {
    let Some(key) = key else { return Ok(()) };
    let keyed = socket
        .set_curve_serverkey(key.broker.as_str().as_bytes())
        .and_then(|()| socket.set_curve_publickey(key.public.as_str().as_bytes()))
        .and_then(|()| socket.set_curve_secretkey(key.secret.reveal().as_bytes()));
    keyed.map_err(|error| LinkError::Key { name: key.name.clone(), reason: error.message().to_owned() })
}

fn connect(socket: &zmq::Socket, endpoint: &str) -> Result<(), LinkError> {
    let not_one =
        |error: zmq::Error| LinkError::Endpoint { endpoint: endpoint.to_owned(), reason: error.message().to_owned() };
    socket.connect(endpoint).map_err(not_one)
}

fn system(error: zmq::Error) -> LinkError {
    LinkError::System(error.message().to_owned())
}

/// One message if one waits; parts beyond `PARTS_MAX` are dropped.
fn receive(socket: &zmq::Socket) -> Option<Vec<Bytes>> {
    let mut parts = Vec::new();
    loop {
        let part = match socket.recv_msg(zmq::DONTWAIT) {
            Ok(part) => part,
            Err(zmq::Error::EINTR) => continue,
            Err(_) => return None, // nothing waits; parts come all together
        };
        let has_more = part.get_more();
        if parts.len() < PARTS_MAX {
            parts.push(Bytes::from_owner(Part(part)));
        }
        if !has_more {
            return Some(parts);
        }
    }
}

struct Part(zmq::Message);

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Rounded up, so that the rest of a wait is not polled for.
fn milliseconds(patience: Duration) -> i64 {
    i64::try_from(patience.as_micros().div_ceil(1000)).unwrap_or(i64::MAX)
}
