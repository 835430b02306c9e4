//! A broker on a thread, and plain ZeroMQ peers that speak to it.

use ecs_broker::{BrokerOptions, RunError, run};
use ecs_schemas::{
    envelope::{Header, KIND_ERROR, Notice, Request, decode, encode},
    error_code::Failure,
    registry::{AgentState, GetStatus, Register, ServiceOffer},
    value::Value,
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// No condition takes this long unless something is broken.
pub const WATCHDOG: Duration = Duration::from_secs(20);

pub struct TestBroker {
    pub options: BrokerOptions,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), RunError>>>,
}

pub fn options(folder: &Path) -> BrokerOptions {
    BrokerOptions {
        beamline: "x01".to_owned(),
        request_endpoint: format!("ipc://{}/requests", folder.display()),
        publish_endpoint: format!("ipc://{}/topics", folder.display()),
        heartbeat: Duration::from_millis(100),
        timeout: WATCHDOG, // nobody is gone because the machine was busy
        state_folder: folder.join("state"),
        expected: vec![],
        keys: None,
        insecure: false,
    }
}

impl TestBroker {
    pub fn start(options: BrokerOptions) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (its_stop, its_options) = (Arc::clone(&stop), options.clone());
        let thread = std::thread::spawn(move || run(its_options, || its_stop.load(Ordering::Relaxed)));
        Self { options, stop, thread: Some(thread) }
    }

    /// Stops the broker and returns what it ended with.
    pub fn stop(mut self) -> Result<(), RunError> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }

    pub fn peer(&self) -> Peer {
        Peer::connect(&self.options.request_endpoint)
    }

    pub fn subscriber(&self, prefix: &str) -> zmq::Socket {
        let socket = zmq::Context::new().socket(zmq::SUB).unwrap();
        socket.set_linger(0).unwrap();
        socket.set_subscribe(prefix.as_bytes()).unwrap();
        socket.connect(&self.options.publish_endpoint).unwrap();
        socket
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A DEALER that knows nothing of the SDK.
pub struct Peer {
    socket: zmq::Socket,
    last_id: u64,
}

impl Peer {
    pub fn connect(endpoint: &str) -> Self {
        Self::connect_with(endpoint, |_| ())
    }

    /// Connects with what `prepare` has done to the socket before.
    pub fn connect_with(endpoint: &str, prepare: impl FnOnce(&zmq::Socket)) -> Self {
        let socket = zmq::Context::new().socket(zmq::DEALER).unwrap();
        prepare(&socket);
        socket.set_linger(0).unwrap();
        socket.set_rcvtimeo(WATCHDOG.as_millis() as i32).unwrap();
        socket.connect(endpoint).unwrap();
        Self { socket, last_id: 0 }
    }

    pub fn send_parts(&self, parts: &[&[u8]]) {
        self.socket.send_multipart(parts.iter().copied(), 0).unwrap();
    }

    pub fn notify<N: Notice>(&self, notice: &N) {
        self.send_parts(&[&encode(&Header::notice(N::KIND)), &encode(notice)]);
    }

    pub fn send<R: Request>(&mut self, request: &R) -> u64 {
        self.last_id += 1;
        self.send_parts(&[&encode(&Header::request(R::KIND, self.last_id, 1000)), &encode(request)]);
        self.last_id
    }

    /// Whether a message waits, or comes within `patience`.
    pub fn has_message(&self, patience: Duration) -> bool {
        self.socket.poll(zmq::POLLIN, patience.as_millis() as i64).unwrap() > 0
    }

    pub fn receive_parts(&self) -> Vec<Vec<u8>> {
        self.socket.recv_multipart(0).expect("an answer before the watchdog")
    }

    pub fn receive(&self) -> (Header, Vec<u8>) {
        let mut parts = self.receive_parts();
        (Header::decode(&parts[0]).unwrap(), parts.remove(1))
    }

    /// Asks, and skips what is not the answer.
    pub fn ask<R: Request>(&mut self, request: &R) -> Result<R::Reply, Failure> {
        let id = self.send(request);
        loop {
            let (header, body) = self.receive();
            if header.id == id {
                return match header.kind.as_str() {
                    KIND_ERROR => Err(decode(&body).unwrap()),
                    _ => Ok(decode(&body).unwrap()),
                };
            }
        }
    }

    /// The next notice of a kind; other messages are skipped.
    pub fn await_notice<N: Notice>(&self) -> N {
        loop {
            let (header, body) = self.receive();
            if header.kind == N::KIND {
                return decode(&body).unwrap();
            }
        }
    }

    /// The header of the next question of a kind; other messages are skipped.
    pub fn await_question<R: Request>(&self) -> Header {
        loop {
            let (header, _) = self.receive();
            if header.kind == R::KIND {
                return header;
            }
        }
    }

    pub fn answer<T: serde::Serialize>(&self, header: &Header, body: &T) {
        self.send_parts(&[&encode(header), &encode(body)]);
    }

    pub fn register(&mut self, name: &str, instance: u64) {
        self.ask(&register(name, instance)).unwrap();
    }

    pub fn state_of(&mut self, name: &str) -> Option<AgentState> {
        let status = self.ask(&GetStatus {}).unwrap();
        status.agents.into_iter().find(|agent| agent.name == name).map(|agent| agent.state)
    }
}

pub fn register(name: &str, instance: u64) -> Register {
    Register {
        name: name.to_owned(),
        kind: "writer".to_owned(),
        host: "host".to_owned(),
        pid: 7,
        version: "1".to_owned(),
        instance,
        state: AgentState::Ready,
        services: vec![ServiceOffer::new("write")],
        jobs: vec![],
        subsystems: vec![],
    }
}

/// The next message of a subscriber: topic, header and payload; none when none came in time.
pub fn next_message(subscriber: &zmq::Socket, patience: Duration) -> Option<(String, Value, Value)> {
    if subscriber.poll(zmq::POLLIN, patience.as_millis() as i64).unwrap() == 0 {
        return None;
    }
    let parts = subscriber.recv_multipart(0).unwrap();
    assert_eq!(parts.len(), 3);
    Some((String::from_utf8(parts[0].clone()).unwrap(), decode(&parts[1]).unwrap(), decode(&parts[2]).unwrap()))
}

/// Waits for a condition under the watchdog.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < WATCHDOG, "watchdog: {what}");
        std::thread::yield_now();
    }
}
