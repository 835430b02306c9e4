//! The broker's sockets: the only place that knows ZeroMQ.
//!
//! ```text
//! ROUTER  [ identity ][ header ][ body ]        both ways, or several small messages in one part ([`messages`])
//! XPUB    [ topic ][ header ][ payload ]        out;   in: [ 1 ‖ prefix ] for each new subscription
//! ```
//!
//! # Rules
//! N1  No send ever blocks: a peer that is gone or does not read loses its message, which is counted.
//! N2  A peer's message is at most `BODY_BYTES_MAX` long, else libzmq closes its connection. Parts beyond
//!     `PARTS_MAX` are read and dropped.
//! N3  All limits are set before bind, so that they hold for the first connection too.
//! N4  With keys both sockets are CURVE servers, and who sent a message is what the guard says of its key (rules
//!     U1 to U4 of `guard`).
//! N5  ZeroMQ cannot cut one subscriber off. When a key is revoked, the publishing socket is made anew: all
//!     subscribers connect again by themselves, get the last values, and the one without a key is not let in.
//!
//! N6  A peer that does not read is probed, and its connection is given up: what waits for it is freed then. Until then
//!     messages wait, as many as `REQUEST_HWM` or `PUBLISH_HWM`, whatever their length: libzmq counts no bytes.
//!
//! What is not limited here: libzmq itself gathers the parts of a message that never ends, and a peer that answers probes
//! without reading may let the queue of its connection grow to its limit of messages, of 64 MiB each. A firewall and
//! keys keep such peers away; the broker is for a beamline's own network. A peer may also choose its own identity, and libzmq
//! ends the process where one that it makes up itself meets one that was chosen so on purpose.

mod exposure;
mod guard;
mod lookout;
mod messages;

pub use exposure::{ExposedError, check_local};
pub use messages::Sent;

use crate::{
    core::{Input, Outgoing, Publication, Sender, Session},
    keys::{KeyFolder, KeysError},
    limits::{
        BATCH_BYTES, BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, CLIENTS_MAX, CURVE_BYTES, LINGER_MS, PARTS_MAX,
        PROBE_INTERVAL_MS, PROBE_TIMEOUT_MS, PUBLISH_HWM, RENEW_PATIENCE, REQUEST_HWM, REQUEST_RECEIVE_HWM,
        SUBSCRIPTION_BYTES_MAX,
    },
};
use ecs_schemas::{envelope::BODY_BYTES_MAX, keys::BrokerKey};
use foldhash::fast::RandomState;
use guard::{DOMAIN, Guard, KEY_PROPERTY};
use lookout::Lookout;
use std::{
    collections::HashSet,
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

/// First byte of what XPUB hands up for a new subscription; 0 is for one that ends.
const SUBSCRIBED: u8 = 1;
/// How often it is looked whether an endpoint has been let go.
const RENEW_STEP: Duration = Duration::from_millis(2);

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
pub enum NetError {
    #[error("the broker's sockets failed: {0}")]
    Socket(#[from] zmq::Error),
    /// Rule U1.
    #[error("the thread that checks keys has ended; its message is above")]
    Guard,
    /// Rule N5.
    #[error("the publishing socket could not be made anew to cut a revoked key off: {0}")]
    Renew(BindError),
}

/// Why the broker cannot listen. Nothing is bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Keys(#[from] KeysError),
}

pub struct Net {
    router: zmq::Socket,
    publisher: zmq::Socket,
    publish_endpoint: String,
    /// With keys. Behind the sockets, so that it ends after them (rule U1).
    lock: Option<Lock>,
    lookout: Lookout,
    /// Who has sent a bundle over its connection (rule B2 of `schemas::bundle`), by identity.
    bundling: HashSet<Vec<u8>, RandomState>,
    /// A key was revoked, and there was no socket yet to renew the publishing one with.
    is_renewal_due: bool,
    context: zmq::Context,
}

/// What keys need: the broker's own, and who is let in.
struct Lock {
    key: BrokerKey,
    guard: Guard,
}

impl Net {
    /// Listens on both endpoints, `tcp://ADDRESS:PORT` or `ipc://PATH`; with `keys`, for their holders only.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn bind(request_endpoint: &str, publish_endpoint: &str, keys: Option<KeyFolder>) -> Result<Self, ListenError> {
        let context = zmq::Context::new();
        let lock = keys.map(|keys| Lock::new(&context, keys)).transpose()?;
        let router = router(&context, lock.as_ref())
            .map_err(|error| bind_error(error, request_endpoint, "broker.request_endpoint"))?;
        listen(&router, request_endpoint, "broker.request_endpoint")?;
        let publisher = publisher(&context, lock.as_ref())
            .map_err(|error| bind_error(error, publish_endpoint, "broker.publish_endpoint"))?;
        listen(&publisher, publish_endpoint, "broker.publish_endpoint")?;
        let lookout = Lookout::new(Instant::now());
        Ok(Self {
            router,
            publisher,
            publish_endpoint: publish_endpoint.to_owned(),
            lock,
            lookout,
            bundling: HashSet::default(),
            is_renewal_due: false,
            context,
        })
    }

    /// Waits until something came in, at most for `patience`.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn wait(&mut self, patience: Duration) -> Result<(), NetError> {
        let router = &self.router;
        if self.lookout.look(|| router.get_events().is_ok_and(|events| events.contains(zmq::POLLIN))) {
            return Ok(());
        }
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
    pub fn receive(&mut self) -> Result<Vec<Input>, NetError> {
        let (mut inputs, mut bytes) = (self.take_revoked()?, 0);
        while inputs.len() < BATCH_MESSAGES_MAX && bytes < BATCH_BYTES_MAX {
            let Some(mut frames) = messages::receive(&self.router, PARTS_MAX + 1)? else { break };
            bytes += frames.iter().map(|frame| frame.len()).sum::<usize>();
            let sender = self.lock.as_ref().map_or(Sender::Anyone, |lock| {
                lock.guard.sender(frames.iter_mut().find_map(|frame| frame.gets(KEY_PROPERTY)))
            });
            let mut frames = frames.into_iter();
            let Some(identity) = frames.next() else { continue }; // the ROUTER always puts it in front
            let is_bundle = messages::messages(frames, |parts| {
                let session = Session::new(&identity);
                inputs.push(Input::Message { session, sender: sender.clone(), parts });
            });
            if is_bundle {
                note_bundling(&mut self.bundling, &identity);
            }
        }
        if !inputs.is_empty() {
            self.lookout.note_found(Instant::now());
        }
        for _ in 0..BATCH_MESSAGES_MAX {
            let Some(frames) = messages::receive(&self.publisher, 1)? else { break };
            if let Some((&SUBSCRIBED, prefix)) = frames[0].split_first() {
                inputs.push(Input::Subscribed { prefix: prefix.to_vec() });
            }
        }
        Ok(inputs)
    }

    /// What the guard took away since the last time; before what waits, so that it holds for that too.
    fn take_revoked(&mut self) -> Result<Vec<Input>, NetError> {
        let Some(lock) = &self.lock else { return Ok(Vec::new()) };
        if !lock.guard.is_alive() {
            return Err(NetError::Guard);
        }
        let revoked = lock.guard.take_revoked();
        if !revoked.is_empty() || self.is_renewal_due {
            self.renew_publisher()?;
        }
        Ok(revoked.into_iter().map(|key| Input::Revoked { key }).collect())
    }

    /// Rule N5.
    fn renew_publisher(&mut self) -> Result<(), NetError> {
        let renewed = match publisher(&self.context, self.lock.as_ref()) {
            Ok(renewed) => renewed,
            Err(error) => {
                if !std::mem::replace(&mut self.is_renewal_due, true) {
                    tracing::error!("no socket to cut a revoked key's subscriptions off with ({error}); trying again");
                }
                return Ok(());
            }
        };
        self.is_renewal_due = false;
        self.publisher.set_linger(0)?;
        self.publisher = renewed; // the old one is closed, in its own time
        let deadline = Instant::now() + RENEW_PATIENCE;
        loop {
            match listen(&self.publisher, &self.publish_endpoint, "broker.publish_endpoint") {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(NetError::Renew(error)),
                Err(_) => thread::sleep(RENEW_STEP), // the old one still has it
            }
        }
    }

    /// Sends the first of `messages`, which are all to one session, and those that go with it in a bundle: how many that were.
    pub fn send(&self, messages: &mut [Outgoing]) -> (usize, Sent) {
        let takes_bundles = self.bundling.contains(messages[0].session.bytes());
        messages::send(&self.router, messages, takes_bundles)
    }

    /// Whether a session's connection stands, as far as can be known: it is sent a word that it ignores.
    pub fn is_there(&self, session: &Session) -> bool {
        messages::probe(&self.router, session) != Sent::Unreachable
    }

    /// There is no such connection any more, and will not be.
    pub fn forget(&mut self, session: &Session) {
        self.bundling.remove(session.bytes());
    }

    /// Publishes; a subscriber that does not read misses it and sees the gap.
    pub fn publish(&self, publication: &Publication) -> bool {
        let parts: [&[u8]; 3] = [publication.topic.as_bytes(), &publication.header, &publication.payload];
        self.publisher.send_multipart(parts, zmq::DONTWAIT).is_ok()
    }
}

impl Lock {
    fn new(context: &zmq::Context, keys: KeyFolder) -> Result<Self, KeysError> {
        let key = keys.broker_key()?;
        Ok(Self { key, guard: Guard::start(context, keys)? })
    }

    /// Makes a socket one for holders of keys only (rule N4).
    fn put_on(&self, socket: &zmq::Socket) -> zmq::Result<()> {
        socket.set_zap_domain(DOMAIN)?;
        socket.set_curve_server(true)?;
        socket.set_curve_secretkey(self.key.secret.reveal().as_bytes())
    }
}

/// Beyond the limit all begin anew: they are sent bundles again when they have sent one.
fn note_bundling(bundling: &mut HashSet<Vec<u8>, RandomState>, identity: &[u8]) {
    if !bundling.contains(identity) {
        if bundling.len() >= CLIENTS_MAX {
            bundling.clear();
        }
        bundling.insert(identity.to_vec());
    }
}

fn router(context: &zmq::Context, lock: Option<&Lock>) -> zmq::Result<zmq::Socket> {
    let mut router = context.socket(zmq::ROUTER)?;
    set_batches(&mut router);
    lock.map_or(Ok(()), |lock| lock.put_on(&router))?;
    router.set_router_mandatory(true)?; // else a message to a peer that is gone would vanish uncounted
    router.set_maxmsgsize(BODY_BYTES_MAX as i64 + if lock.is_some() { CURVE_BYTES } else { 0 })?;
    router.set_sndhwm(REQUEST_HWM)?;
    router.set_rcvhwm(REQUEST_RECEIVE_HWM)?;
    probe(&router)?;
    router.set_linger(LINGER_MS)?;
    Ok(router)
}

fn publisher(context: &zmq::Context, lock: Option<&Lock>) -> zmq::Result<zmq::Socket> {
    let mut publisher = context.socket(zmq::XPUB)?;
    set_batches(&mut publisher);
    lock.map_or(Ok(()), |lock| lock.put_on(&publisher))?;
    publisher.set_xpub_verbose(true)?; // tells of a second subscriber to the same prefix too
    publisher.set_maxmsgsize(SUBSCRIPTION_BYTES_MAX)?;
    publisher.set_sndhwm(PUBLISH_HWM)?;
    publisher.set_rcvhwm(PUBLISH_HWM)?;
    probe(&publisher)?;
    publisher.set_linger(LINGER_MS)?;
    Ok(publisher)
}

/// How much a socket takes from the system, and gives to it, at one time. A libzmq that cannot set it is slower, no more.
fn set_batches(socket: &mut zmq::Socket) {
    // SAFETY: the socket is open and this thread's own as long as it is borrowed.
    unsafe { zmq_sys::set_batch_bytes(socket.as_mut_ptr(), BATCH_BYTES, BATCH_BYTES) };
}

/// Rule N6.
fn probe(socket: &zmq::Socket) -> zmq::Result<()> {
    socket.set_heartbeat_ivl(PROBE_INTERVAL_MS)?;
    socket.set_heartbeat_timeout(PROBE_TIMEOUT_MS)
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
