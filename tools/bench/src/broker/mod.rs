//! The control plane: calls and published values through a real broker, each beside bare libzmq with the same hops
//! and the same payload.
//!
//! ```text
//! call     client ─▶ broker ─▶ worker ─▶ broker ─▶ client     beside     DEALER ─▶ ROUTER|DEALER proxy ─▶ DEALER and back
//! publish  owner ─▶ broker ─▶ subscribers                     beside     PUB ─▶ XSUB|XPUB proxy ─▶ subscribers
//! jobs     100 submitters ─▶ broker ─▶ disk ─▶ answer         beside     append to a file, one sync for each 100
//! crowd    call, while others are silent or deaf              beside     the same call without them
//! images   a call now and then, while the image path runs     beside     the same without it; a spinning thread a core
//!          at full rate: anywhere, with real-time priority,
//!          with cores apart; how many images come meanwhile              as many without calls
//! ```
//!
//! The broker is a process of its own, the rest are threads here; the bare proxies are threads with a ZeroMQ context of
//! their own. With peers, calls and jobs are measured once more, beside message servers that others know
//! ([`crate::peers`]).

mod beside_images;

use crate::{
    bare_proxy::{Proxy, Worker, count_messages, paced_rate},
    crowd::{CONNECTIONS, Crowd},
    jobs::{SUBMITTERS, Submitters, appended_per_s},
    pairs::Pairs,
    peers::{Programs, nats_client::NatsClient, nats_server::NatsServer, rabbitmq::RabbitMq},
    report::{Machine, Report, Row},
    running::{self, Running},
};
use anyhow::{Context, bail};
use ecs_schemas::{
    error_code::Failure,
    exchange::{DoCall, Params},
    kv::{Get, Item},
    registry::AgentState,
    subsystem::{Description, Handled},
    value::Value,
    value_type::{Form, ValueType},
};
use ecs_sdk::{
    Agent, AgentConfig, Asked, Client, Handler, Host, Job, JobEnd, Service, Subscriber,
    limits::{REALTIME_LOOK, REALTIME_LOOKS},
};
use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    pub leg: Duration,
    pub pairs: Pairs,
    /// This program, to start the broker from.
    pub program: PathBuf,
    /// Only the rows whose name has this in it.
    pub only: String,
    /// Also beside nats-server and RabbitMQ.
    pub with_peers: bool,
}

/// Processes and agents are ready after this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Calls that are under way at one time in the legs that measure throughput.
const IN_FLIGHT: usize = 1000;
/// How many of them are ended and begun at a time: a small part of them.
const AT_A_TIME: usize = 50;
/// What a call carries, there and back.
const CALL_BYTES: [usize; 2] = [64, 4096];
/// Values of 4 KiB that no subscriber's queue holds: those that may wait (1000), some MB on their way, and as many again. And how
/// many of them are published before one that reads has got them.
const FILLING_VALUES: u64 = 6000;
const FILLING_BURST: u64 = 100;
/// The broker gives up who answers no probe for 6 s: until then the crowd is there.
const CROWD_LEG_MAX: Duration = Duration::from_secs(3);
/// Calls are made for so long before they are timed: until it was seen how full the host is.
const WARM_UP: Duration = REALTIME_LOOK.saturating_mul(REALTIME_LOOKS as u32 + 3);
const SUBSYSTEM: &str = "bench/worker";
const SERVICE: &str = "bench";

/// Measures the broker.
///
/// # Errors
/// A process does not start, or an answer does not come. Peers are wanted and not installed.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let machine = Machine::read();
    let find_peers = || anyhow::Ok((Programs::find()?, NatsClient::find()?));
    let peers = options.with_peers.then(find_peers).transpose()?;
    let bench = Bench::start(options, "")?;
    let mut rows = Vec::new();
    for bytes in CALL_BYTES {
        bench.calls(bytes, &mut rows)?;
    }
    for (bytes, subscribers) in [(64, 1), (64, 4), (4096, 1)] {
        bench.values(bytes, subscribers, &mut rows)?;
    }
    bench.jobs(&mut rows)?;
    bench.crowded(&mut rows)?;
    let mut payload = format!("tcp loopback; {} pairs of {:?}", options.pairs.count, options.leg);
    beside_images::anywhere(&bench, &mut rows)?;
    if let Err(error) = beside_images::with_realtime_priority(options, &mut rows)? {
        payload = format!("{payload}; no row with real-time priority, which this process may not have: {error}");
    }
    if let Err(error) = beside_images::with_cores_apart(options, &mut rows)? {
        payload = format!("{payload}; no row with cores apart: {error}");
    }
    if let Some((programs, nats_client)) = peers {
        let peers =
            [bench.beside_nats(&programs, &nats_client, &mut rows)?, bench.beside_rabbitmq(&programs, &mut rows)?];
        peers.iter().flatten().for_each(|peer| payload = format!("{payload}; {peer}"));
    }
    Ok(Report { machine, payload, rows })
}

struct Bench {
    options: Options,
    request_endpoint: String,
    publish_endpoint: String,
    host: Host,
    folder: tempfile::TempDir,
    _agent: Agent,
    _broker: Running,
}

/// Answers a call with its own payload.
struct Echo;

impl Handler for Echo {
    fn on_call(&self, _call: &str, params: &Params, _asked: &Asked) -> Result<Value, Failure> {
        Ok(params.get("payload").cloned().unwrap_or_default())
    }
}

/// For jobs that are held: none comes here.
struct Held;

impl Service for Held {
    fn name(&self) -> &str {
        SERVICE
    }

    fn on_request(&self, _job: &Job) -> JobEnd {
        JobEnd::Done(Value::Null)
    }
}

impl Bench {
    /// With these `settings` of `[beamline]`.
    fn start(options: &Options, settings: &str) -> anyhow::Result<Self> {
        running::tidy_on_signal()?;
        let folder = running::temporary_folder()?;
        let (request_endpoint, publish_endpoint) = write_beamline(folder.path(), settings)?;
        let broker = Running::start(&options.program, folder.path(), &["broker", "--config", "beamline.toml", "-q"])?;
        let config = AgentConfig {
            name: "bench/agent".to_owned(),
            kind: "bench".to_owned(),
            request_endpoint: request_endpoint.clone(),
            ended_jobs: vec![],
        };
        let agent = Agent::start(config, vec![Arc::new(Held)])?;
        let host = agent.host(description(), Arc::new(Echo)).map_err(anyhow::Error::msg)?;
        agent.set_state(AgentState::Ready);
        let bench = Self {
            options: options.clone(),
            request_endpoint,
            publish_endpoint,
            host,
            folder,
            _agent: agent,
            _broker: broker,
        };
        bench.wait_ready()?;
        Ok(bench)
    }

    fn wait_ready(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        let client = Client::new(&self.request_endpoint)?;
        self.host.publish("value", Value::Bytes(vec![]))?;
        let get = Get { subsystem: SUBSYSTEM.to_owned(), item: "value".to_owned() };
        while client.call(&get, Duration::from_secs(1)).is_err() {
            if start.elapsed() > PATIENCE {
                bail!("broker and worker were not ready within {PATIENCE:?}");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn is_wanted(&self, what: &str) -> bool {
        what.contains(&self.options.only)
    }

    fn calls(&self, bytes: usize, rows: &mut Vec<Row>) -> anyhow::Result<()> {
        let (pairs, leg) = (&self.options.pairs, self.options.leg);
        let proxy = Proxy::calls()?;
        let _worker = Worker::start(&proxy.worker_endpoint);
        let [what, what_in_flight] = call_rows(bytes);
        if self.is_wanted(&what) {
            let p50 = pairs.run(&what, || self.call_us(bytes, 0.5, leg), || proxy.call_p50_us(bytes, leg))?;
            rows.push(Row::from_pairs(&what, "us", "bare proxy", &p50));
        }
        if self.is_wanted(&what_in_flight) {
            let rate =
                pairs.run(&what_in_flight, || self.calls_per_s(bytes), || proxy.calls_per_s(bytes, IN_FLIGHT, leg))?;
            rows.push(Row::from_pairs(&what_in_flight, "calls/s", "bare proxy", &rate));
        }
        Ok(())
    }

    /// Returns what the peer says that it is, where it was needed.
    fn beside_nats(
        &self,
        programs: &Programs,
        client: &NatsClient,
        rows: &mut Vec<Row>,
    ) -> anyhow::Result<Option<String>> {
        if !CALL_BYTES.iter().flat_map(|bytes| call_rows(*bytes)).any(|what| self.is_wanted(&what)) {
            return Ok(None);
        }
        let (pairs, leg) = (&self.options.pairs, self.options.leg);
        let server = NatsServer::start(programs, self.folder.path())?;
        for bytes in CALL_BYTES {
            let [what, what_in_flight] = call_rows(bytes);
            let mut add = |what: &str, unit, baseline, ours: &dyn Fn() -> _, theirs: &dyn Fn() -> _| {
                if self.is_wanted(what) {
                    let measured = pairs.run(&format!("{what}, beside {baseline}"), ours, theirs)?;
                    rows.push(Row::from_pairs(what, unit, baseline, &measured));
                }
                anyhow::Ok(())
            };
            let (rate, their_rate) =
                (|| self.calls_per_s(bytes), || client.calls_per_s(server.port(), bytes, IN_FLIGHT, leg));
            add(&what_in_flight, "calls/s", "nats, its Rust client", &rate, &their_rate)?;
            let _worker = server.worker()?;
            let bare = "nats, bare sockets";
            add(&what, "us", bare, &|| self.call_us(bytes, 0.5, leg), &|| server.call_p50_us(bytes, leg))?;
            add(&what_in_flight, "calls/s", bare, &rate, &|| server.calls_per_s(bytes, IN_FLIGHT, leg))?;
        }
        Ok(Some(format!("nats-server {}, async-nats {}", server.version, client.version())))
    }

    fn values(&self, bytes: usize, subscribers: usize, rows: &mut Vec<Row>) -> anyhow::Result<()> {
        let plural = if subscribers == 1 { "" } else { "s" };
        let what = format!("published values, {bytes} B, {subscribers} subscriber{plural}");
        if self.is_wanted(&what) {
            let bare = || Proxy::topics()?.messages_per_s(bytes, subscribers, self.options.leg);
            let rate = self.options.pairs.run(&what, || self.values_per_s(bytes, subscribers), bare)?;
            rows.push(Row::from_pairs(&what, "values/s", "bare XSUB/XPUB proxy", &rate));
        }
        Ok(())
    }

    fn jobs(&self, rows: &mut Vec<Row>) -> anyhow::Result<()> {
        let what = jobs_row();
        if self.is_wanted(&what) {
            let mut submitters = Submitters::connect(&self.request_endpoint)?;
            let ours = || submitters.jobs_per_s(SERVICE, self.options.leg);
            let rate = self.options.pairs.run(&what, ours, || appended_per_s(self.folder.path(), self.options.leg))?;
            rows.push(Row::from_pairs(&what, "jobs/s", "append, sync per 100", &rate));
        }
        Ok(())
    }

    /// As [`Self::beside_nats`].
    fn beside_rabbitmq(&self, programs: &Programs, rows: &mut Vec<Row>) -> anyhow::Result<Option<String>> {
        let what = jobs_row();
        if !self.is_wanted(&what) {
            return Ok(None);
        }
        let mut submitters = Submitters::connect(&self.request_endpoint)?;
        let rabbitmq = RabbitMq::start(programs, self.folder.path())?;
        let mut publishers = rabbitmq.publishers()?;
        let ours = || submitters.jobs_per_s(SERVICE, self.options.leg);
        let rate = self
            .options
            .pairs
            .run(&format!("{what}, beside RabbitMQ"), ours, || publishers.messages_per_s(self.options.leg))?;
        rows.push(Row::from_pairs(&what, "jobs/s", "RabbitMQ, confirmed publishes", &rate));
        Ok(Some(rabbitmq.server))
    }

    /// In both legs 1000 values are published each second: one that does not read matters only then. So many more were published
    /// before that its queue is full.
    fn crowded(&self, rows: &mut Vec<Row>) -> anyhow::Result<()> {
        let what = format!("call, {CONNECTIONS} idle connections, deaf subscriber, p99");
        if !self.is_wanted(&what) {
            return Ok(());
        }
        let stop = AtomicBool::new(false);
        let p99 = thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = self.host.publish("value", Value::Bytes(vec![7; 4096]));
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let leg = self.options.leg.min(CROWD_LEG_MAX);
            let in_a_crowd = || {
                let _crowd = Crowd::gather(&self.request_endpoint, &self.publish_endpoint)?;
                self.fill_queue()?;
                self.call_us(64, 0.99, leg)
            };
            let p99 = self.options.pairs.run(&what, in_a_crowd, || self.call_us(64, 0.99, leg));
            stop.store(true, Ordering::Relaxed);
            p99
        })?;
        rows.push(Row::from_pairs(&what, "us", "the same without them", &p99));
        Ok(())
    }

    /// Publishes more than may wait for a subscriber that does not read, in its queue and on its way there. One that
    /// reads keeps the pace.
    fn fill_queue(&self) -> anyhow::Result<()> {
        let mut witness = Subscriber::new(&self.publish_endpoint, [format!("{SUBSYSTEM}/kv/value")])?;
        let start = Instant::now();
        while witness.next(Duration::from_millis(100)).is_none() {
            if start.elapsed() > PATIENCE {
                bail!("no value reached a subscriber within {PATIENCE:?}");
            }
        }
        for number in 1..=FILLING_VALUES {
            self.host.publish("value", Value::Bytes([&number.to_le_bytes()[..], &[7; 4096]].concat()))?;
            let is_it = |value: Value| matches!(value, Value::Bytes(bytes) if bytes.starts_with(&number.to_le_bytes()));
            while number % FILLING_BURST == 0
                && !witness.next(Duration::from_millis(100)).is_some_and(|(.., value)| is_it(value))
            {
                if start.elapsed() > PATIENCE {
                    bail!("what fills the queue of a deaf subscriber did not pass within {PATIENCE:?}");
                }
            }
        }
        Ok(())
    }

    /// Time of a call, one at a time, that a `share` of them does not exceed.
    fn call_us(&self, bytes: usize, share: f64, leg: Duration) -> anyhow::Result<f64> {
        Ok(quantile(self.call_times_us(bytes, leg, Duration::ZERO)?, share))
    }

    /// Times of calls, one after the other with a `gap` between them.
    fn call_times_us(&self, bytes: usize, leg: Duration, gap: Duration) -> anyhow::Result<Vec<f64>> {
        let client = Client::new(&self.request_endpoint)?;
        let call = echo(bytes);
        let begun = Instant::now();
        let timed_call = || {
            let start = Instant::now();
            client.call(&call, PATIENCE)?;
            let time_us = start.elapsed().as_secs_f64() * 1e6;
            if !gap.is_zero() {
                thread::sleep(gap);
            }
            anyhow::Ok(time_us)
        };
        while begun.elapsed() < WARM_UP {
            timed_call()?;
        }
        let (mut times_us, start) = (Vec::new(), Instant::now());
        while start.elapsed() < leg {
            times_us.push(timed_call()?);
        }
        Ok(times_us)
    }

    /// Calls per second with many under way. As many as are done at a time are started at a time, as a program does that
    /// has many; the clients of other brokers here gather what they send too.
    fn calls_per_s(&self, bytes: usize) -> anyhow::Result<f64> {
        let client = Client::new(&self.request_endpoint)?;
        let calls = vec![echo(bytes); IN_FLIGHT];
        let mut pending = VecDeque::from(client.start_all(&calls, PATIENCE)?);
        let (start, mut done) = (Instant::now(), 0_u32);
        while start.elapsed() < self.options.leg {
            for oldest in pending.drain(..AT_A_TIME) {
                client.finish(oldest)?;
                done += 1;
            }
            pending.extend(client.start_all(&calls[..AT_A_TIME], PATIENCE)?);
        }
        let rate = f64::from(done) / start.elapsed().as_secs_f64();
        pending.into_iter().try_for_each(|rest| client.finish(rest).map(drop))?;
        Ok(rate)
    }

    /// Values per second that the slowest subscriber gets.
    fn values_per_s(&self, bytes: usize, subscribers: usize) -> anyhow::Result<f64> {
        let stop = Arc::new(AtomicBool::new(false));
        let counts: Vec<Arc<AtomicU64>> = (0..subscribers).map(|_| Arc::default()).collect();
        let topic = format!("{SUBSYSTEM}/kv/value");
        let threads = counts.iter().map(|count| {
            let (endpoint, topic) = (self.publish_endpoint.clone(), topic.clone());
            count_messages(endpoint, topic, Arc::clone(count), Arc::clone(&stop))
        });
        let threads: Vec<_> = threads.collect();
        let value = Value::Bytes(vec![7; bytes]);
        let rate = paced_rate(self.options.leg, &counts, || Ok(self.host.publish("value", value.clone())?));
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| drop(thread.join()));
        rate
    }
}

/// Names of the rows of calls that carry so much: one at a time, and many.
fn call_rows(bytes: usize) -> [String; 2] {
    [format!("one call at a time, {bytes} B, p50"), format!("{IN_FLIGHT} calls in flight, {bytes} B")]
}

fn jobs_row() -> String {
    format!("jobs on disk, {SUBMITTERS} submitters")
}

fn description() -> Description {
    let item = |name: &str| Item { name: name.to_owned(), kind: ValueType::of(Form::Bytes), ..Item::default() };
    Description {
        name: SUBSYSTEM.to_owned(),
        items: vec![item("value")],
        calls: vec![Handled { name: "echo".to_owned(), at_once: 2 * IN_FLIGHT as u32, ..Handled::default() }],
        ..Description::default()
    }
}

fn echo(bytes: usize) -> DoCall {
    let params = [("payload".to_owned(), Value::Bytes(vec![7; bytes]))].into();
    DoCall { call: "echo".to_owned(), params }
}

/// Writes the configuration of a broker on ports of its own, with these `settings` of `[beamline]`; returns its endpoints, for
/// requests and for topics.
pub(crate) fn write_beamline(folder: &Path, settings: &str) -> anyhow::Result<(String, String)> {
    let (request_endpoint, publish_endpoint) = (free_endpoint()?, free_endpoint()?);
    fs::write(folder.join("detector.json"), include_str!("../bench_detector.json"))?;
    let beamline = format!(
        "[beamline]\nname = \"bench\"\n{settings}\n[broker]\nrequest_endpoint = \"{request_endpoint}\"\npublish_endpoint = \
         \"{publish_endpoint}\"\n[detector]\nconfig = \"detector.json\"\n",
    );
    fs::write(folder.join("beamline.toml"), beamline)?;
    Ok((request_endpoint, publish_endpoint))
}

pub(crate) fn free_endpoint() -> anyhow::Result<String> {
    Ok(format!("tcp://127.0.0.1:{}", free_port()?))
}

/// A port of the loopback that is free now.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?.port())
}

/// The value that a `share` of them does not exceed.
pub(crate) fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * share) as usize;
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
