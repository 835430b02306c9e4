//! The broker's sockets: the only place that knows ZeroMQ.
//!
//! ```text
//! ROUTER  [ identity ][ header ][ body ]        both ways
//! XPUB    [ topic ][ header ][ payload ]        out;   in: [ 1 ‖ prefix ] for each new subscription
//! ```
//!
//! # Rules
//! N1  No send ever blocks: a peer that is gone or does not read loses its message, which is counted.
//! N2  A peer's message is at most `BODY_BYTES_MAX` long, else libzmq closes its connection. Parts beyond
//!     `PARTS_MAX` are read and dropped.
//! N3  All limits are set before bind, so that they hold for the first connection too.
//!
//! What is not limited here: libzmq itself gathers the parts of a message that never ends. A firewall
//! keeps such peers away; the broker is for a beamline's own network.

use crate::{
    core::{Input, Outgoing, Publication, Session},
    limits::{
        BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, LINGER_MS, PARTS_MAX, PUBLISH_HWM, REQUEST_HWM, SUBSCRIPTION_BYTES_MAX,
    },
};
use ecs_schemas::envelope::{BODY_BYTES_MAX, encode};
use std::{os::unix::net::UnixStream, time::Duration};

/// First byte of what XPUB hands up for a new subscription; 0 is for one that ends.
const SUBSCRIBED: u8 = 1;

/// Why the broker cannot listen. Nothing is bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {endpoint} ({setting}): {reason}; {advice}")]
pub struct BindError {
    pub endpoint: String,
    /// The key in the configuration.
    pub setting: &'static str,
    pub reason: String,
    pub advice: &'static str,
}

/// A socket broke; this is the operating system's trouble (out of memory or descriptors), not a peer's.
#[derive(Debug, thiserror::Error)]
#[error("the broker's sockets failed: {0}")]
pub struct NetError(#[from] zmq::Error);

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Yes,
    /// Too many wait for this peer already.
    NotRead,
    /// There is no such connection (any more).
    Unreachable,
}

pub struct Net {
    router: zmq::Socket,
    publisher: zmq::Socket,
}

impl Net {
    /// Listens on both endpoints, `tcp://ADDRESS:PORT` or `ipc://PATH`.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(request_endpoint: &str, publish_endpoint: &str) -> Result<Self, BindError> {
        let context = zmq::Context::new();
        let router =
            router(&context).map_err(|error| bind_error(error, request_endpoint, "broker.request_endpoint"))?;
        listen(&router, request_endpoint, "broker.request_endpoint")?;
        let publisher =
            publisher(&context).map_err(|error| bind_error(error, publish_endpoint, "broker.publish_endpoint"))?;
        listen(&publisher, publish_endpoint, "broker.publish_endpoint")?;
        Ok(Self { router, publisher })
    }

    /// Waits until something came in, at most for `patience`.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn wait(&self, patience: Duration) -> Result<(), NetError> {
        let mut items = [self.router.as_poll_item(zmq::POLLIN), self.publisher.as_poll_item(zmq::POLLIN)];
        let patience_ms = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
        match zmq::poll(&mut items, patience_ms) {
            Ok(_) | Err(zmq::Error::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Everything that waits, within the limits of one batch.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn receive(&self) -> Result<Vec<Input>, NetError> {
        let (mut inputs, mut bytes) = (Vec::new(), 0);
        while inputs.len() < BATCH_MESSAGES_MAX && bytes < BATCH_BYTES_MAX {
            let Some(mut parts) = receive_parts(&self.router, PARTS_MAX + 1)? else { break };
            bytes += parts.iter().map(Vec::len).sum::<usize>();
            let session = Session(parts.remove(0)); // the ROUTER always puts it in front
            inputs.push(Input::Message { session, parts });
        }
        for _ in 0..BATCH_MESSAGES_MAX {
            let Some(parts) = receive_parts(&self.publisher, 1)? else { break };
            if let Some((&SUBSCRIBED, prefix)) = parts[0].split_first() {
                inputs.push(Input::Subscribed { prefix: prefix.to_vec() });
            }
        }
        Ok(inputs)
    }

    /// Sends to one session (rule N1).
    pub fn send(&self, outgoing: &Outgoing) -> Sent {
        let header = encode(&outgoing.header);
        let parts: [&[u8]; 3] = [&outgoing.session.0, &header, &outgoing.body];
        match self.router.send_multipart(parts, zmq::DONTWAIT) {
            Ok(()) => Sent::Yes,
            Err(zmq::Error::EAGAIN) => Sent::NotRead,
            Err(_) => Sent::Unreachable,
        }
    }

    /// Publishes; a subscriber that does not read misses it and sees the gap.
    pub fn publish(&self, publication: &Publication) -> bool {
        let parts: [&[u8]; 3] = [publication.topic.as_bytes(), &publication.header, &publication.payload];
        self.publisher.send_multipart(parts, zmq::DONTWAIT).is_ok()
    }
}

fn router(context: &zmq::Context) -> zmq::Result<zmq::Socket> {
    let router = context.socket(zmq::ROUTER)?;
    router.set_router_mandatory(true)?; // else a message to a peer that is gone would vanish uncounted
    router.set_maxmsgsize(BODY_BYTES_MAX as i64)?;
    router.set_sndhwm(REQUEST_HWM)?;
    router.set_rcvhwm(REQUEST_HWM)?;
    router.set_linger(LINGER_MS)?;
    Ok(router)
}

fn publisher(context: &zmq::Context) -> zmq::Result<zmq::Socket> {
    let publisher = context.socket(zmq::XPUB)?;
    publisher.set_xpub_verbose(true)?; // tells of a second subscriber to the same prefix too
    publisher.set_maxmsgsize(SUBSCRIPTION_BYTES_MAX)?;
    publisher.set_sndhwm(PUBLISH_HWM)?;
    publisher.set_rcvhwm(PUBLISH_HWM)?;
    publisher.set_linger(LINGER_MS)?;
    Ok(publisher)
}

fn listen(socket: &zmq::Socket, endpoint: &str, setting: &'static str) -> Result<(), BindError> {
    // libzmq removes a socket file that is in its way, also one that another broker listens on.
    let taken = endpoint.strip_prefix("ipc://").is_some_and(|path| UnixStream::connect(path).is_ok());
    let bound = if taken { Err(zmq::Error::EADDRINUSE) } else { socket.bind(endpoint) };
    bound.map_err(|error| bind_error(error, endpoint, setting))
}

fn bind_error(error: zmq::Error, endpoint: &str, setting: &'static str) -> BindError {
    let advice = match error {
        zmq::Error::EADDRINUSE => "another broker or program listens there: stop it, or choose another port",
        zmq::Error::EADDRNOTAVAIL | zmq::Error::ENODEV => {
            "no interface of this machine has that address: use one that it has, or 127.0.0.1"
        }
        zmq::Error::EACCES => "this user may not: choose a port above 1023, or a folder that is yours",
        _ => "use tcp://ADDRESS:PORT, or ipc://PATH in a folder that exists",
    };
    BindError { endpoint: endpoint.to_owned(), setting, reason: error.message().to_owned(), advice }
}

/// One message, or none if none waits. Parts beyond `parts_max` are dropped.
fn receive_parts(socket: &zmq::Socket, parts_max: usize) -> Result<Option<Vec<Vec<u8>>>, NetError> {
    let mut parts = Vec::new();
    loop {
        match socket.recv_bytes(zmq::DONTWAIT) {
            Ok(part) if parts.len() < parts_max => parts.push(part),
            Ok(_) => {}
            Err(zmq::Error::EINTR) => continue,
            Err(zmq::Error::EAGAIN) => return Ok(None), // parts come all together or not at all
            Err(error) => return Err(error.into()),
        }
        if !socket.get_rcvmore()? {
            return Ok(Some(parts));
        }
    }
}
