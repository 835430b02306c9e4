//! An agent: the handle on it, and how it is put together.
//!
//! ```text
//! handle, job threads ──▶ outbox ──┐                           ┌──▶ link ──▶ broker
//!                                  ├──▶ crew's leader: session ─┼──▶ questions ──▶ handlers
//! broker ──▶ link ─────────────────┘                           └──▶ workers ──▶ a thread per job
//! ```

use crate::{
    connection::Connection,
    crew::Crew,
    host::{Handler, Handlers, Host},
    hosting::HostNews,
    job::{JobEnd, Service, report_of},
    key,
    link::{Link, LinkError, waker},
    outbox::Outbox,
    questions::Questions,
    session::{FIRST_STATE, Session},
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
    #[error("cannot start the agent's thread: {0}")]
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
    handlers: Arc<Mutex<Handlers>>,
    is_connected: Arc<AtomicBool>,
    crew: Crew,
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
        let questions = Arc::new(Questions::new(Arc::clone(&outbox), Arc::clone(&handlers)));
        let connection = Connection {
            endpoint: config.request_endpoint.clone(),
            key,
            link,
            source,
            session: Session::new(config.request_endpoint, register, ended, Instant::now()),
            workers: Workers::new(services, Arc::clone(&outbox)),
            questions: Arc::clone(&questions),
            outbox: Arc::clone(&outbox),
            is_connected: Arc::clone(&is_connected),
            answers: Vec::new(),
        };
        let crew = Crew::start(Box::new(connection), questions, Arc::clone(&outbox))?;
        Ok(Self { shared: Arc::new(Shared { outbox, handlers, is_connected, crew }) })
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
        Ok(Host::new(name, Arc::clone(&self.shared.outbox), Arc::downgrade(&self.shared.handlers)))
    }

    /// Registered, as far as is known: a broker that died is noticed within its own timeout.
    pub fn is_connected(&self) -> bool {
        self.shared.is_connected.load(Ordering::Relaxed)
    }

    /// Kills the agent's jobs, reports how they ended, takes leave, and returns when the agent has stopped,
    /// at the latest after `patience`.
    pub fn stop(&self, patience: Duration) {
        self.shared.outbox.stop(Instant::now() + patience);
        self.shared.crew.wait_left();
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
