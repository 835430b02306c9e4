//! The loop: gather what waits, decide, store, answer.
//!
//! ```text
//! wait ─▶ receive a batch ─▶ step each ─▶ ONE transaction ─┬─ ok ──────▶ send, publish
//!   ▲                                                      └─ failed ──▶ undo; each message again, alone:
//!   └───────────────────────────────────────────────────────────────────  only those that need the disk
//!                                                                         are refused (store_failed)
//! ```
//!
//! Why one transaction for all that waits? A transaction costs one flush of the disk, whatever is in it;
//! so under load the broker answers as many requests per flush as came meanwhile.

use crate::{
    core::{Core, CoreOptions, Input, Outgoing, Publication},
    limits::TICK,
    lock::{FolderLock, LockError},
    net::{BindError, Net, NetError},
    store::{OpenError, SaveError, Store},
};
use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// All that a broker is told.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// First part of every name.
    pub beamline: String,
    /// ZeroMQ endpoints, `tcp://ADDRESS:PORT` or `ipc://PATH`.
    pub request_endpoint: String,
    pub publish_endpoint: String,
    /// How often agents show that they live, and the silence after which they are gone.
    pub heartbeat: Duration,
    pub timeout: Duration,
    /// Where the store is; made when it is missing. One broker at a time.
    pub state_folder: PathBuf,
    /// Name and kind of the agents that the configuration has.
    pub expected: Vec<(String, String)>,
}

/// Why a broker could not start, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Net(#[from] NetError),
}

/// Runs a broker on this thread until `stop` says true. It is asked every `limits::TICK`. When this returns,
/// both endpoints are free again.
///
/// # Errors
/// See [`RunError`]; all but `Net` come before anything was served.
pub fn run(options: BrokerOptions, stop: impl Fn() -> bool) -> Result<(), RunError> {
    let _lock = FolderLock::take(&options.state_folder)?;
    let (store, stored) = Store::open(&options.state_folder)?;
    let net = Net::bind(&options.request_endpoint, &options.publish_endpoint)?;
    tracing::info!(
        beamline = options.beamline,
        requests = options.request_endpoint,
        topics = options.publish_endpoint,
        jobs = stored.jobs.len(),
        "broker listens"
    );
    let clock = Clock::new();
    let core = Core::new(core_options(options), stored, clock.now_ns());
    let mut broker = Broker { core, store, is_store_broken: false };
    let mut ticked = Instant::now();
    while !stop() {
        net.wait(TICK.saturating_sub(ticked.elapsed()) + POLL_STEP)?;
        let mut inputs = net.receive()?;
        if ticked.elapsed() >= TICK {
            inputs.push(Input::Tick); // after what waited: a sign of life that waits is one
            ticked = Instant::now();
        }
        broker.handle(clock.now_ns(), &inputs, &net);
    }
    tracing::info!("broker stops");
    Ok(())
}

fn core_options(options: BrokerOptions) -> CoreOptions {
    CoreOptions {
        beamline: options.beamline,
        heartbeat: options.heartbeat,
        timeout: options.timeout,
        expected: options.expected,
        pid: std::process::id(),
    }
}

/// The resolution of a poll: added to a wait, so that its end is not polled for.
const POLL_STEP: Duration = Duration::from_millis(1);

/// What leaves after a batch.
type Outputs = (Vec<Outgoing>, Vec<Publication>);

struct Broker {
    core: Core,
    store: Store,
    /// The last transaction failed; so that a full disk is logged twice and not a thousand times.
    is_store_broken: bool,
}

impl Broker {
    fn handle(&mut self, now_ns: u64, inputs: &[Input], net: &Net) {
        match self.attempt(now_ns, inputs) {
            Ok(outputs) => self.deliver(outputs, net),
            Err(_) => inputs.iter().for_each(|input| self.handle_alone(now_ns, input, net)),
        }
    }

    fn handle_alone(&mut self, now_ns: u64, input: &Input, net: &Net) {
        match self.attempt(now_ns, std::slice::from_ref(input)) {
            Ok(outputs) => self.deliver(outputs, net),
            Err(error) => {
                let refusal = self.core.refuse(input, &error.to_string());
                self.deliver((refusal.into_iter().collect(), Vec::new()), net);
            }
        }
    }

    /// Decides and stores; returns what may leave (rule C1), or undoes everything.
    fn attempt(&mut self, now_ns: u64, inputs: &[Input]) -> Result<Outputs, SaveError> {
        let outgoing = inputs.iter().flat_map(|input| self.core.step(now_ns, input)).collect();
        let changes = self.core.changes();
        let saved = self.store.save(&changes);
        if !changes.is_empty() {
            self.note_store(saved.as_ref().err());
        }
        if let Err(error) = saved {
            self.core.rollback();
            return Err(error);
        }
        Ok((outgoing, self.core.commit(now_ns)))
    }

    fn note_store(&mut self, error: Option<&SaveError>) {
        match (error, self.is_store_broken) {
            (Some(error), false) => tracing::error!("the store fails, jobs are refused until it works again: {error}"),
            (None, true) => tracing::info!("the store works again"),
            _ => {}
        }
        self.is_store_broken = error.is_some();
    }

    fn deliver(&mut self, (outgoing, publications): Outputs, net: &Net) {
        let undelivered = outgoing.into_iter().map(|message| net.send(message)).filter(|sent| !sent).count();
        let unpublished = publications.iter().filter(|publication| !net.publish(publication)).count();
        self.core.count_undeliverable((undelivered + unpublished) as u64);
    }
}

/// Wall time that never jumps: the wall clock at the start and the monotonic clock since, so that setting
/// the clock makes nobody gone and no job lost.
struct Clock {
    wall: SystemTime,
    started: Instant,
}

impl Clock {
    fn new() -> Self {
        Self { wall: SystemTime::now(), started: Instant::now() }
    }

    fn now_ns(&self) -> u64 {
        let since_epoch = (self.wall + self.started.elapsed()).duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
    }
}
