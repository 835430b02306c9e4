//! Who is let in: the ZAP handler (ZeroMQ RFC 27), and what each key may do now.
//!
//! ```text
//! CURVE handshake ──key──▶ guard's thread ──200, User-Id, ECS-Key──▶ libzmq ──with each message──▶ Net
//!                            │ reads the key folder every KEYS_INTERVAL
//!                            └──▶ holders, revoked ──▶ Net ──▶ core
//! ```
//!
//! # Rules
//! U1  libzmq lets everyone in whom it can encrypt with where no handler listens. So the handler listens before the
//!     sockets do, and the broker ends when the handler does.
//! U2  The key of a connection is what the handler said in `ECS-Key`; what a client says of itself under that name
//!     does not count (libzmq takes the handler's word first). A message without it has no key.
//! U3  What a key may do is looked up for each message: a role that is taken away is gone at once.
//! U4  Where the folder cannot be listed, or a file cannot be read for a lack of the machine's, what was known holds: a lack
//!     of descriptors shall not end a beamline. Any other file that cannot be read opens nothing; one that could be
//!     before holds until the next look, as somebody may be writing it: else an editor that saves `agents.toml` would
//!     cost a beamline all its agents.

mod doubts;

use crate::{
    core::Sender,
    keys::{KeyFolder, KeysError},
    limits::{FILE_TIME_STEP, KEYS_INTERVAL, KEYS_INTERVAL_MIN},
};
use doubts::Doubts;
use ecs_schemas::keys::{KeyHolder, PublicKey};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

const ENDPOINT: &str = "inproc://zeromq.zap.01";
const VERSION: &[u8] = b"1.0";
const MECHANISM: &[u8] = b"CURVE";
/// The ZAP domain of both sockets.
pub const DOMAIN: &str = "ecs";
/// Name of the metadata that carries the public key of a connection (rule U2).
pub const KEY_PROPERTY: &str = "ECS-Key";
/// How often the thread looks whether it is to end.
const STEP: Duration = Duration::from_millis(50);

type Holders = BTreeMap<PublicKey, Arc<KeyHolder>>;

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    is_ending: AtomicBool,
}

#[derive(Default)]
struct Known {
    holders: Holders,
    /// Keys that open less than before, until the net takes them.
    revoked: Vec<PublicKey>,
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Guard {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Guard {
    /// Reads the folder and listens for libzmq's questions; to be called before any socket of `context` binds.
    ///
    /// # Errors
    /// The folder cannot be listed, or this build has no CURVE.
    pub fn start(context: &zmq::Context, folder: KeyFolder) -> Result<Self, KeysError> {
        let socket = context.socket(zmq::REP).and_then(|socket| {
            socket.set_linger(0)?;
            socket.bind(ENDPOINT)?;
            Ok(socket)
        });
        let socket = socket.map_err(KeysError::NoCurve)?;
        let shared = Arc::new(Shared::default());
        let mut keeper = Keeper {
            seen: Seen::now(&folder),
            folder,
            shared: Arc::clone(&shared),
            read: Instant::now(),
            doubts: Doubts::default(),
            told: String::new(),
        };
        keeper.read()?;
        let thread = std::thread::spawn(move || keeper.run(&socket));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Who is behind a connection with this key now (rules U2, U3).
    pub fn sender(&self, key: Option<&str>) -> Sender {
        let known = self.shared.known();
        let holder = key.and_then(PublicKey::new).and_then(|key| known.holders.get(&key).cloned());
        holder.map_or(Sender::Revoked, Sender::Holder)
    }

    /// The keys that open less than before, since this was last asked.
    pub fn take_revoked(&self) -> Vec<PublicKey> {
        std::mem::take(&mut self.shared.known().revoked)
    }

    /// Rule U1.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic has been told on stderr
        }
    }
}

/// The thread's own.
struct Keeper {
    folder: KeyFolder,
    shared: Arc<Shared>,
    read: Instant,
    seen: Seen,
    doubts: Doubts,
    /// What was last said of files that are wrong, so that it is said once.
    told: String,
}

/// The folder's last change, as it was when it was last read, and when that was.
struct Seen {
    changed: Option<SystemTime>,
    at: SystemTime,
}

impl Seen {
    fn now(folder: &KeyFolder) -> Self {
        Self { changed: folder.changed(), at: SystemTime::now() }
    }

    /// Whether a key may have been added or taken away since.
    fn is_old(&self, folder: &KeyFolder) -> bool {
        let is_same_tick = |changed| self.at.duration_since(changed).is_ok_and(|age| age < FILE_TIME_STEP);
        folder.changed() != self.changed || self.changed.is_some_and(is_same_tick)
    }
}

impl Keeper {
    fn run(mut self, socket: &zmq::Socket) {
        while !self.shared.is_ending.load(Ordering::Relaxed) {
            match socket.poll(zmq::POLLIN, STEP.as_millis() as i64) {
                Ok(0) | Err(zmq::Error::EINTR) => {}
                polled => {
                    if let Err(error) = polled.and_then(|_| self.serve(socket)) {
                        return tracing::error!("cannot answer who is let in: {error}; the broker ends"); // rule U1
                    }
                }
            }
            if self.read.elapsed() >= KEYS_INTERVAL
                && let Err(error) = self.read()
            {
                self.tell(error.to_string()); // rule U4
            }
        }
    }

    /// Answers one question; each gets an answer, else libzmq would ask no more.
    fn serve(&mut self, socket: &zmq::Socket) -> zmq::Result<()> {
        let request = socket.recv_multipart(0)?;
        let request_id = request.get(1).cloned().unwrap_or_default();
        let holder = self.holder_of(&request);
        let (status, text, user, metadata) = match &holder {
            Some(holder) => ("200", "", holder.name.as_str(), property(KEY_PROPERTY, holder.public.as_str())),
            None => ("400", "this key opens nothing here", "", Vec::new()),
        };
        let parts: [&[u8]; 6] = [VERSION, &request_id, status.as_bytes(), text.as_bytes(), user.as_bytes(), &metadata];
        socket.send_multipart(parts, 0)
    }

    fn holder_of(&mut self, request: &[Vec<u8>]) -> Option<Arc<KeyHolder>> {
        let [version, _, _, address, _, mechanism, key] = request else { return None };
        if version != VERSION || mechanism != MECHANISM {
            return None;
        }
        let key = PublicKey::new(&zmq::z85_encode(key).ok()?)?;
        let known = |keeper: &Self| keeper.shared.known().holders.get(&key).cloned();
        let mut holder = known(self);
        let is_due = |keeper: &Self| keeper.read.elapsed() >= KEYS_INTERVAL_MIN || keeper.seen.is_old(&keeper.folder);
        if holder.is_none() && is_due(self) && self.read().is_ok() {
            holder = known(self); // it may have been made a moment ago
        }
        if holder.is_none() {
            tracing::debug!(address = %String::from_utf8_lossy(address), "a key that opens nothing was refused");
        }
        holder
    }

    fn read(&mut self) -> Result<(), KeysError> {
        (self.read, self.seen) = (Instant::now(), Seen::now(&self.folder));
        let (holders, errors) = self.folder.holders()?;
        self.tell(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
        let mut known = self.shared.known();
        let held = self.doubts.held(&errors, &known.holders, self.read);
        let holders: Holders =
            holders.into_iter().map(Arc::new).chain(held).map(|holder| (holder.public.clone(), holder)).collect();
        let is_less = |(key, before): (&PublicKey, &Arc<KeyHolder>)| {
            (holders.get(key) != Some(before)).then(|| (key.clone(), before.name.clone()))
        };
        let less: Vec<_> = known.holders.iter().filter_map(is_less).collect();
        for (key, name) in less {
            tracing::info!(key = name, "key was taken away or changed");
            known.revoked.push(key);
        }
        known.holders = holders;
        Ok(())
    }

    fn tell(&mut self, trouble: String) {
        if trouble != self.told && !trouble.is_empty() {
            tracing::error!("key folder: {trouble}");
        }
        self.told = trouble;
    }
}

/// One property of ZMTP metadata (ZeroMQ RFC 23): length of the name, name, length of the value, value.
fn property(name: &str, value: &str) -> Vec<u8> {
    let name_bytes = u8::try_from(name.len()).expect("the one name is short");
    let value_bytes = u32::try_from(value.len()).expect("a key has 40 characters");
    [&[name_bytes], name.as_bytes(), &value_bytes.to_be_bytes(), value.as_bytes()].concat()
}
