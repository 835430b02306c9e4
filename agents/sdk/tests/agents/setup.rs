//! A broker on a thread, an agent with a service that does what the test says, and a client.

use ecs_broker::BrokerOptions;
use ecs_schemas::{
    bundle::read_bundle,
    envelope::Header,
    error_code::{ErrorCode, Failure},
    job::{GetJob, JobId, JobRecord, JobState, Progress, Submit},
    registry::{AgentState, GetStatus, ServiceOffer, Status},
    value::Value,
};
use ecs_sdk::{Agent, AgentConfig, Client, Job, JobEnd, Service};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// No condition takes this long unless something is broken.
pub const WATCHDOG: Duration = Duration::from_secs(20);
pub const CALL: Duration = Duration::from_secs(10);

/// A beamline in a folder of its own: endpoints, state, and a broker that comes and goes.
pub struct Beamline {
    /// Of the broker's next start; its timeout is 5 times as long.
    pub heartbeat: Duration,
    folder: TempDir,
    broker: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Beamline {
    pub fn without_broker() -> Self {
        Self { heartbeat: Duration::from_millis(100), folder: tempfile::tempdir().unwrap(), broker: None }
    }

    pub fn new() -> Self {
        let mut beamline = Self::without_broker();
        beamline.start_broker();
        beamline
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn request_endpoint(&self) -> String {
        format!("ipc://{}/requests", self.folder().display())
    }

    pub fn publish_endpoint(&self) -> String {
        format!("ipc://{}/topics", self.folder().display())
    }

    pub fn start_broker(&mut self) {
        self.start(None);
    }

    pub fn start_broker_with_keys(&mut self, keys: &Path) {
        self.start(Some(keys.to_owned()));
    }

    fn start(&mut self, keys: Option<PathBuf>) {
        let options = BrokerOptions {
            beamline: "x01".to_owned(),
            request_endpoint: self.request_endpoint(),
            publish_endpoint: self.publish_endpoint(),
            heartbeat: self.heartbeat,
            timeout: 5 * self.heartbeat,
            state_folder: self.folder().join("state"),
            expected: vec![],
            keys,
            insecure: false,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let its_stop = Arc::clone(&stop);
        let thread = std::thread::spawn(move || ecs_broker::run(options, || its_stop.load(Ordering::Relaxed)).unwrap());
        self.broker = Some((stop, thread));
    }

    pub fn stop_broker(&mut self) {
        if let Some((stop, thread)) = self.broker.take() {
            stop.store(true, Ordering::Relaxed);
            thread.join().unwrap();
        }
    }

    pub fn client(&self) -> Client {
        Client::new(&self.request_endpoint()).unwrap()
    }

    pub fn config(&self) -> AgentConfig {
        AgentConfig {
            name: "x01/writer".to_owned(),
            kind: "writer".to_owned(),
            request_endpoint: self.request_endpoint(),
            ended_jobs: vec![],
        }
    }

    /// A ready agent that offers `service`.
    pub fn agent(&self, service: Arc<Scripted>) -> Agent {
        let agent = Agent::start(self.config(), vec![service]).unwrap();
        agent.set_state(AgentState::Ready);
        agent
    }
}

impl Drop for Beamline {
    fn drop(&mut self) {
        self.stop_broker();
    }
}

/// What a test wants to be done with a job.
type Script = dyn Fn(&Job) -> JobEnd + Send + Sync;

/// A service that does what the test says, and counts how often it is asked and killed.
pub struct Scripted {
    offer: ServiceOffer,
    script: Box<Script>,
    pub requests: AtomicU32,
    pub kills: AtomicU32,
}

impl Scripted {
    /// The service `write`.
    pub fn new(script: impl Fn(&Job) -> JobEnd + Send + Sync + 'static) -> Arc<Self> {
        Self::offering(ServiceOffer::new("write"), script)
    }

    pub fn offering(offer: ServiceOffer, script: impl Fn(&Job) -> JobEnd + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { offer, script: Box::new(script), requests: AtomicU32::new(0), kills: AtomicU32::new(0) })
    }

    /// Runs until it is killed.
    pub fn endless() -> Arc<Self> {
        Self::new(|job| {
            job.accept();
            job.running();
            job.progress(Progress { done: 1, total: 2, unit: "images".to_owned(), bytes: 3 });
            assert!(job.wait_killed(WATCHDOG));
            JobEnd::Cancelled { result: Some(Value::from("part")) }
        })
    }

    /// Runs until `gate` is opened.
    pub fn until(gate: Arc<AtomicBool>) -> Arc<Self> {
        Self::new(move |job| {
            job.running();
            wait_for("the gate opens", || gate.load(Ordering::Relaxed));
            JobEnd::Done(Value::from(5))
        })
    }
}

impl Service for Scripted {
    fn name(&self) -> &str {
        &self.offer.name
    }

    fn jobs_at_once(&self) -> u32 {
        self.offer.jobs_at_once
    }

    fn follows(&self) -> Option<&str> {
        self.offer.follows.as_deref()
    }

    fn help(&self) -> &str {
        &self.offer.help
    }

    fn on_request(&self, job: &Job) -> JobEnd {
        self.requests.fetch_add(1, Ordering::Relaxed);
        (self.script)(job)
    }

    fn on_kill(&self, job: &Job) {
        assert!(job.is_killed());
        self.kills.fetch_add(1, Ordering::Relaxed);
    }
}

pub fn failure(code: ErrorCode) -> Failure {
    Failure::new(code, "as the test wants it")
}

pub fn status(client: &Client) -> Option<Status> {
    client.call(&GetStatus {}, CALL).ok()
}

pub fn state_of(client: &Client, name: &str) -> Option<AgentState> {
    status(client)?.agents.into_iter().find(|agent| agent.name == name).map(|agent| agent.state)
}

pub fn wait_state(client: &Client, name: &str, state: AgentState) {
    wait_for(&format!("{name} is {}", state.as_str()), || state_of(client, name) == Some(state));
}

/// Submits as soon as somebody offers the service.
pub fn submit(client: &Client, key: &str) -> JobId {
    let submit =
        Submit { service: "write".to_owned(), params: Value::from(9), key: key.to_owned(), ..Submit::default() };
    let mut id = None;
    wait_for("the job is taken", || {
        id = client.call(&submit, CALL).ok().map(|job| job.id);
        id.is_some()
    });
    id.unwrap()
}

pub fn wait_job(client: &Client, id: JobId, condition: impl Fn(&JobRecord) -> bool) -> JobRecord {
    let mut last = None;
    wait_for(&format!("job {id}"), || {
        last = client.call(&GetJob { id }, CALL).ok();
        last.as_ref().is_some_and(&condition)
    });
    last.unwrap()
}

pub fn wait_end(client: &Client, id: JobId) -> JobRecord {
    wait_job(client, id, |job| job.state.is_end())
}

pub fn wait_running(client: &Client, id: JobId) -> JobRecord {
    wait_job(client, id, |job| job.state == JobState::Running)
}

/// Waits for a condition under the watchdog; looks a hundred times a second.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < WATCHDOG, "watchdog: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A stand-in for a broker that does not keep to the rules: the test is the peer.
pub fn rude_broker(beamline: &Beamline) -> zmq::Socket {
    let router = zmq::Context::new().socket(zmq::ROUTER).unwrap();
    router.set_rcvtimeo(WATCHDOG.as_millis() as i32).unwrap();
    router.bind(&beamline.request_endpoint()).unwrap();
    router
}

/// The next bundle: whose it is, headers and bodies.
pub fn take_all(router: &zmq::Socket) -> (Vec<u8>, Vec<(Header, Vec<u8>)>) {
    let parts = router.recv_multipart(0).unwrap();
    let messages = read_bundle(&parts[1]).unwrap().into_iter();
    let messages = messages.map(|[header, body]| (Header::decode(header).unwrap(), body.to_vec()));
    (parts[0].clone(), messages.collect())
}

/// The next message, which comes alone: whose it is, and its header.
pub fn take(router: &zmq::Socket) -> (Vec<u8>, Header) {
    let (from, mut messages) = take_all(router);
    assert_eq!(messages.len(), 1);
    (from, messages.remove(0).0)
}
