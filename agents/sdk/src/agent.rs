//! An agent's connection to the broker: one I/O thread that owns the socket, and a handle for everybody else.
//!
//! ```text
//! handle, job threads ──▶ outbox ──┐                       ┌──▶ link ──▶ broker
//!                                  ├──▶ I/O thread: session ┤
//! broker ──▶ link ─────────────────┘                       └──▶ workers ──▶ a thread per job
//! ```

use crate::{
    askers::Askers,
    client::not_accepted,
    host::{Handler, Host},
    hosting::HostNews,
    job::{JobEnd, Service, report_of},
    key,
    limits::RECEIVE_BURST,
    link::{Link, LinkError, WakeSource, waker},
    monitor::Handshake,
    outbox::Outbox,
    session::{FIRST_STATE, Order, Session},
    workers::Workers,
};
use ecs_schemas::{
    job::{JobId, ReportJob},
    keys::ClientKey,
    registry::{AgentState, Register, ServiceOffer, check_name},
    subsystem::Description,
    value::Value,
};
use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Who an agent is and whom it talks to.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Full name, `<beamline>/<agent>`.
    pub name: String,
    /// What it is: `readout`, `assembler`, `writer`, …
    pub kind: String,
    pub request_endpoint: String,
    /// Jobs from before a restart of the process whose end is to be reported. The broker hears of them at
    /// the first registration, before it could call them lost.
    pub ended_jobs: Vec<(JobId, JobEnd)>,
}

/// Why an agent could not start. A broker that is not there is no reason.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Name(String),
    #[error(transparent)]
    Endpoint(#[from] LinkError),
    /// Out of threads or file descriptors.
    #[error("cannot start the agent's I/O thread: {0}")]
    Thread(#[from] io::Error),
}

/// A handle on a running agent; clones are the same agent. When the last one is dropped without
/// [`Agent::stop`], the agent takes its leave at once and does not wait for its jobs.
#[derive(Clone)]
pub struct Agent {
    shared: Arc<Shared>,
}

struct Shared {
    outbox: Arc<Outbox>,
    /// Of hosted subsystems, by name.
    handlers: Arc<Mutex<BTreeMap<String, Arc<dyn Handler>>>>,
    is_connected: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Agent {
    /// Starts the agent and returns at once. It connects for ever, registers (also again, after the broker
    /// came back), shows that it lives, and runs jobs for `services`. Its state is `starting` until
    /// [`Agent::set_state`]; the broker gives jobs to agents that are `ready`. It connects with the key of
    /// this process, if that has one.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(config: AgentConfig, services: Vec<Arc<dyn Service>>) -> Result<Self, StartError> {
        Self::start_with_key(config, services, key::of_process().cloned())
    }

    /// As [`Agent::start`], with a key of its own or none.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_with_key(
        config: AgentConfig,
        services: Vec<Arc<dyn Service>>,
        key: Option<ClientKey>,
    ) -> Result<Self, StartError> {
        check_name(&config.name).map_err(StartError::Name)?;
        let link = Link::connect(&config.request_endpoint, key.as_ref())?;
        let (waker, source) = waker()?;
        let outbox = Arc::new(Outbox::new(waker));
        let is_connected = Arc::new(AtomicBool::new(false));
        let register = register(&config, &services);
        let handlers = Arc::new(Mutex::default());
        let ended = config.ended_jobs.into_iter().map(|(id, end)| report_before_restart(id, end)).collect();
        let io = Io {
            endpoint: config.request_endpoint.clone(),
            key,
            link,
            source,
            session: Session::new(config.request_endpoint, register, ended, Instant::now()),
            workers: Workers::new(services, Arc::clone(&outbox)),
            askers: Askers::new(Arc::clone(&outbox), Arc::clone(&handlers)),
            outbox: Arc::clone(&outbox),
            is_connected: Arc::clone(&is_connected),
        };
        let thread = thread::Builder::new().name("ecs-agent".to_owned()).spawn(move || io.run())?;
        Ok(Self { shared: Arc::new(Shared { outbox, handlers, is_connected, thread: Mutex::new(Some(thread)) }) })
    }

    /// How the agent is: `Starting` or `Ready`. Told to the broker at once.
    pub fn set_state(&self, state: AgentState) {
        self.shared.outbox.set_state(state);
    }

    /// Telemetry: the agent's figures now, at most `telemetry::VALUES_MAX` of them. Never waits; while the
    /// broker is away the newest are kept.
    pub fn publish(&self, values: BTreeMap<String, Value>) {
        self.shared.outbox.publish(values);
    }

    /// Hosts a subsystem from now on; told to the broker at once, and at every registration. Hosted again, it is
    /// described anew. What the agent hosted before it was started again is to be hosted before it is `ready`: the broker
    /// then forgets the rest, with its kept values.
    ///
    /// # Errors
    /// Says what in the description does not make sense.
    pub fn host(&self, description: Description, handler: Arc<dyn Handler>) -> Result<Host, String> {
        description.check()?;
        let name = description.name.clone();
        self.shared.handlers.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), handler);
        self.shared.outbox.host(HostNews::Describe(Box::new(description)));
        Ok(Host::new(name, Arc::clone(&self.shared.outbox)))
    }

    /// Registered, as far as is known: a broker that died is noticed within its own timeout.
    pub fn is_connected(&self) -> bool {
        self.shared.is_connected.load(Ordering::Relaxed)
    }

    /// Kills the agent's jobs, reports how they ended, takes leave, and returns when the agent has stopped,
    /// at the latest after `patience`.
    pub fn stop(&self, patience: Duration) {
        self.shared.outbox.stop(Instant::now() + patience);
        let thread = self.shared.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the agent's I/O thread panicked");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.outbox.stop(Instant::now());
    }
}

fn register(config: &AgentConfig, services: &[Arc<dyn Service>]) -> Register {
    Register {
        name: config.name.clone(),
        kind: config.kind.clone(),
        host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        pid: std::process::id(),
        version: ecs_schemas::VERSION.to_owned(),
        // The standard library's hash maps are seeded by the system's random numbers, each anew.
        instance: RandomState::new().hash_one(Instant::now()),
        state: FIRST_STATE,
        services: services.iter().map(|service| offer(&**service)).collect(),
        jobs: Vec::new(),
        subsystems: Vec::new(),
    }
}

fn offer(service: &dyn Service) -> ServiceOffer {
    ServiceOffer {
        name: service.name().to_owned(),
        jobs_at_once: service.jobs_at_once(),
        follows: service.follows().map(str::to_owned),
        help: service.help().to_owned(),
    }
}

/// A job that the process had before it was started again had been accepted, else there were nothing to say.
/// Which attempt it was is not known any more.
fn report_before_restart(id: JobId, end: JobEnd) -> ReportJob {
    report_of(id, 0, end, true)
}

/// The I/O thread's own.
struct Io {
    endpoint: String,
    key: Option<ClientKey>,
    link: Link,
    source: WakeSource,
    session: Session,
    workers: Workers,
    askers: Askers,
    outbox: Arc<Outbox>,
    is_connected: Arc<AtomicBool>,
}

impl Io {
    fn run(mut self) {
        while !self.session.is_left() {
            let now = Instant::now();
            self.take_news(now);
            if self.session.is_link_dead(now) {
                self.renew_link(now);
            }
            let can_send = self.link.is_writable();
            if !can_send && self.link.handshake() == Handshake::Refused {
                self.session.not_let_in(&not_accepted(&self.endpoint, self.key.as_ref().map(|key| key.name.as_str())));
            }
            let mut due = self.session.due(now, &self.outbox, self.workers.is_idle(), can_send).into_iter();
            // What is left when the queue is full waits; what could not leave for want of a connection is repeated.
            let full = due.find(|(header, body)| !self.link.send(header, body));
            self.session.keep_unsent(full.into_iter().chain(due));
            self.is_connected.store(self.session.is_registered(), Ordering::Relaxed);
            self.wait(now, can_send);
            self.receive();
        }
        self.is_connected.store(false, Ordering::Relaxed);
    }

    fn take_news(&mut self, now: Instant) {
        let news = self.outbox.take();
        for report in news.reports.iter().filter(|report| report.state.is_end()) {
            self.workers.forget(report.id);
        }
        self.session.take(news, now);
        if self.session.is_stopping() {
            self.workers.kill_all();
            self.askers.cancel_all();
        }
    }

    /// A fresh socket has nothing queued for a broker that may never read it.
    fn renew_link(&mut self, now: Instant) {
        match Link::connect(&self.endpoint, self.key.as_ref()) {
            Ok(link) => self.link = link,
            Err(error) => tracing::error!("{error}; the old connection is kept"),
        }
        self.session.link_renewed(now);
    }

    fn wait(&self, now: Instant, can_send: bool) {
        if self.session.is_left() {
            return;
        }
        let wakes_by_connection = self.session.is_greeting() && !can_send;
        if wakes_by_connection {
            self.link.wait_to_send(&self.source, self.session.connect_wake().saturating_duration_since(now));
        } else {
            let wake = self.session.next_wake(now, &self.outbox);
            self.link.wait(&self.source, wake.saturating_duration_since(now));
        }
    }

    fn receive(&mut self) {
        for _ in 0..RECEIVE_BURST {
            let Some(parts) = self.link.receive() else { return };
            if let Some(order) = self.session.received(&parts, Instant::now()) {
                self.obey(order);
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Ask(header, body) => self.askers.ask(header, &body),
            Order::Cancel(id) => self.askers.cancel(id),
            Order::Restore(kept) => kept.iter().for_each(|(name, values)| self.askers.restore(name, values)),
            Order::Run(run) if self.session.has(run.id) => self.session.repeat(run.id),
            // A job that comes while the agent stops goes back to the queue when it has left.
            Order::Run(_) if self.session.is_stopping() => {}
            Order::Run(run) => {
                self.session.add(run.id);
                self.workers.run(run);
            }
            Order::Kill(kill) if self.workers.kill(kill.id) => {}
            Order::Kill(kill) if self.session.has(kill.id) => self.session.repeat(kill.id),
            Order::Kill(kill) => {
                let end = JobEnd::Cancelled { result: None }; // it never began here
                self.session.keep(report_of(kill.id, kill.attempt, end, false));
            }
        }
    }
}
