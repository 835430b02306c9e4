//! The baselines of the broker: libzmq's own proxy between DEALER and DEALER, and between PUB and SUB, with sockets of
//! the same kind, hops and payload as ours, and nothing else: no names, no deadlines, no record of what is open.

use crate::broker::{free_endpoint, quantile};
use anyhow::{Context, bail};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// A message that takes longer than this was lost.
const PATIENCE_MS: i32 = 20_000;
/// Messages that wait in each socket: as in the broker.
const HWM: i32 = 10_000;
/// Published messages that are under way at one time.
const WINDOW: u64 = 500;
/// So long no message comes, those that are under way were lost.
const LOST_AFTER: Duration = Duration::from_millis(20);

/// A proxy on a thread with a context of its own. It ends with its context.
pub struct Proxy {
    pub client_endpoint: String,
    pub worker_endpoint: String,
    context: zmq::Context,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Between DEALERs that ask and DEALERs that answer.
    pub fn calls() -> anyhow::Result<Self> {
        Self::start(zmq::ROUTER, zmq::DEALER)
    }

    /// Between publishers and subscribers.
    pub fn topics() -> anyhow::Result<Self> {
        Self::start(zmq::XSUB, zmq::XPUB)
    }

    fn start(front: zmq::SocketType, back: zmq::SocketType) -> anyhow::Result<Self> {
        let (client_endpoint, worker_endpoint) = (free_endpoint()?, free_endpoint()?);
        let context = zmq::Context::new();
        let (front, back) = (context.socket(front)?, context.socket(back)?);
        for socket in [&front, &back] {
            tune(socket)?;
        }
        front.bind(&client_endpoint)?;
        back.bind(&worker_endpoint)?;
        // It returns when its context ends.
        let thread = thread::spawn(move || {
            let _ = zmq::proxy(&front, &back);
        });
        Ok(Self { client_endpoint, worker_endpoint, context, thread: Some(thread) })
    }

    /// Median time of a round trip, one at a time.
    pub fn call_p50_us(&self, bytes: usize, leg: Duration) -> anyhow::Result<f64> {
        let socket = asker(&self.client_endpoint)?;
        let payload = vec![7; bytes];
        let mut times_us = Vec::new();
        let start = Instant::now();
        while start.elapsed() < leg {
            let begun = Instant::now();
            socket.send(&payload, 0)?;
            answer(&socket)?;
            times_us.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        Ok(quantile(times_us, 0.5))
    }

    /// Round trips per second with many under way.
    pub fn calls_per_s(&self, bytes: usize, in_flight: usize, leg: Duration) -> anyhow::Result<f64> {
        let socket = asker(&self.client_endpoint)?;
        let payload = vec![7; bytes];
        for _ in 0..in_flight {
            socket.send(&payload, 0)?;
        }
        let (start, mut done) = (Instant::now(), 0_u32);
        while start.elapsed() < leg {
            answer(&socket)?;
            socket.send(&payload, 0)?;
            done += 1;
        }
        let rate = f64::from(done) / start.elapsed().as_secs_f64();
        (0..in_flight).try_for_each(|_| answer(&socket))?;
        Ok(rate)
    }

    /// Messages per second that the slowest subscriber gets.
    pub fn messages_per_s(&self, bytes: usize, subscribers: usize, leg: Duration) -> anyhow::Result<f64> {
        let socket = zmq::Context::new().socket(zmq::PUB)?;
        socket.set_linger(0)?;
        socket.connect(&self.client_endpoint)?;
        let stop = Arc::new(AtomicBool::new(false));
        let counts: Vec<Arc<AtomicU64>> = (0..subscribers).map(|_| Arc::default()).collect();
        let count = |count: &Arc<AtomicU64>| {
            count_messages(self.worker_endpoint.clone(), "t".to_owned(), Arc::clone(count), Arc::clone(&stop))
        };
        let threads: Vec<_> = counts.iter().map(count).collect();
        let payload = vec![7; bytes];
        let rate = paced_rate(leg, &counts, || {
            // Three parts, as ours: topic, header, payload.
            Ok(socket.send_multipart([&b"t/kv/value"[..], &[7; 48], &payload], 0)?)
        });
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| drop(thread.join()));
        rate
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.context.destroy();
        self.thread.take().map(JoinHandle::join);
    }
}

/// Sends back what it gets, on a thread of its own.
pub struct Worker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub fn start(endpoint: &str) -> Self {
        let (endpoint, stop) = (endpoint.to_owned(), Arc::new(AtomicBool::new(false)));
        let its_stop = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let _ = echo(&endpoint, &its_stop);
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn echo(endpoint: &str, stop: &AtomicBool) -> zmq::Result<()> {
    let socket = zmq::Context::new().socket(zmq::DEALER)?;
    socket.set_rcvtimeo(100)?;
    tune(&socket)?;
    socket.connect(endpoint)?;
    while !stop.load(Ordering::Relaxed) {
        if let Ok(parts) = socket.recv_multipart(0) {
            socket.send_multipart(parts, 0)?;
        }
    }
    Ok(())
}

/// Long queues; and at the end nothing is waited for: a context whose socket still has something for a peer that has gone may
/// wait for ever.
fn tune(socket: &zmq::Socket) -> zmq::Result<()> {
    socket.set_sndhwm(HWM)?;
    socket.set_rcvhwm(HWM)?;
    socket.set_linger(0)
}

fn asker(endpoint: &str) -> anyhow::Result<zmq::Socket> {
    let socket = zmq::Context::new().socket(zmq::DEALER)?;
    socket.set_rcvtimeo(PATIENCE_MS)?;
    tune(&socket)?;
    socket.connect(endpoint)?;
    Ok(socket)
}

fn answer(socket: &zmq::Socket) -> anyhow::Result<()> {
    socket.recv_bytes(0).map(drop).context("an answer was lost")
}

/// Counts the messages of a topic, on a thread of its own, until `stop`.
pub fn count_messages(endpoint: String, topic: String, count: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    let listen = move || -> zmq::Result<()> {
        let socket = zmq::Context::new().socket(zmq::SUB)?;
        socket.set_linger(0)?;
        socket.set_rcvtimeo(100)?;
        socket.set_rcvhwm(HWM)?;
        socket.set_subscribe(topic.as_bytes())?;
        socket.connect(&endpoint)?;
        let mut part = zmq::Message::new();
        while !stop.load(Ordering::Relaxed) {
            if socket.recv(&mut part, 0).is_ok() && !part.get_more() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    thread::spawn(move || {
        let _ = listen();
    })
}

/// Sends as fast as the slowest receiver counts, with a window of messages under way. Returns its rate.
///
/// # Errors
/// No message arrives.
pub fn paced_rate(
    leg: Duration,
    counts: &[Arc<AtomicU64>],
    mut send: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let slowest = || counts.iter().map(|count| count.load(Ordering::Relaxed)).min().unwrap_or(0);
    let waiting = Instant::now();
    while slowest() == 0 {
        send()?; // until every subscription stands
        thread::sleep(Duration::from_millis(1));
        if waiting.elapsed() > Duration::from_secs(10) {
            bail!("nothing that was published arrived");
        }
    }
    let (start, first) = (Instant::now(), slowest());
    let (mut sent, mut seen, mut moved) = (first, first, Instant::now());
    while start.elapsed() < leg {
        let now = slowest();
        if now != seen {
            (seen, moved) = (now, Instant::now());
        }
        if sent.saturating_sub(seen) < WINDOW {
            send()?;
            sent += 1;
        } else if moved.elapsed() > LOST_AFTER {
            sent = seen;
        } else {
            thread::yield_now();
        }
    }
    Ok((slowest() - first) as f64 / start.elapsed().as_secs_f64())
}
