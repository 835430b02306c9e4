//! Answers, silence, strangers and what they send.

use crate::peers::{Peer, TestBroker, WATCHDOG, options, register, wait_for};
use ecs_broker::{BrokerOptions, store};
use ecs_schemas::{
    envelope::{BODY_BYTES_MAX, Header, Request, decode, encode},
    error_code::{ErrorCode, Failure},
    exchange::{Cancel, DoCall, Params, RunCall},
    job::{GetOutcome, JobRecord, JobState, ReportJob, RunJob, Submit},
    kv::Watch,
    registry::{AgentState, GetStatus, Heartbeat, Register, ServiceOffer},
    subsystem::{Description, Handled},
    value::Value,
};
use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// A peer without a sign is given up after this long.
const PROBE_TIMEOUT: Duration = Duration::from_millis(ecs_broker::limits::PROBE_TIMEOUT_MS as u64);

fn submit(key: &str) -> Submit {
    Submit { service: "write".to_owned(), params: Value::from(1), key: key.to_owned(), ..Submit::default() }
}

#[test]
fn agent_that_falls_silent_is_gone_while_its_connection_stands() {
    let folder = tempfile::tempdir().unwrap();
    let soon = BrokerOptions { timeout: Duration::from_millis(400), ..options(folder.path()) };
    let broker = TestBroker::start(soon);
    let (mut agent, mut client) = (broker.peer(), broker.peer());
    agent.register("x01/writer", 1);
    wait_for("the silent agent is gone", || client.state_of("x01/writer") == Some(AgentState::Gone));
    let refusal = agent.ask(&Heartbeat { state: AgentState::Ready }).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::NotRegistered);
}

#[test]
fn hundreds_of_submissions_at_once_are_each_answered_with_a_job_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(options(folder.path()));
    let (mut agent, mut client) = (broker.peer(), broker.peer());
    agent.register("x01/writer", 1);
    let asked: Vec<u64> = (0..500).map(|number| client.send(&submit(&number.to_string()))).collect();
    let (mut answered, mut jobs) = (BTreeSet::new(), BTreeSet::new());
    for _ in &asked {
        let (header, body) = client.receive();
        assert_eq!(header.kind, "job.submit.reply", "{:?}", decode::<Failure>(&body));
        answered.insert(header.id);
        jobs.insert(decode::<JobRecord>(&body).unwrap().id);
    }
    assert_eq!((answered, jobs.len()), (asked.into_iter().collect(), 500));
    drop(agent);
}

/// What strangers send, one connection each, while an honest client goes on working.
#[test]
fn hostile_peers_cost_nobody_but_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let request_endpoint = format!("tcp://127.0.0.1:{port}");
    let broker = TestBroker::start(BrokerOptions { request_endpoint, ..options(folder.path()) });
    let mut honest = broker.peer();
    honest.ask(&GetStatus {}).unwrap();
    let header = encode(&Header::request(GetStatus::KIND, 1, 1));
    let many_parts = vec![&b"part"[..]; 1000];
    let too_long = vec![0; BODY_BYTES_MAX + 1];
    let messages: [&[&[u8]]; 6] =
        [&[b""], &[b"", b"", b""], &many_parts, &[&header], &[&header, &too_long], &[&[0xc1; 100], b"x"]];
    let mut strangers = vec![]; // kept, so that what they sent arrives
    for message in messages {
        let stranger = broker.peer();
        for _ in 0..10 {
            stranger.send_parts(message);
        }
        honest.ask(&GetStatus {}).unwrap();
        strangers.push(stranger);
    }
    for _ in 0..20 {
        let mut no_zeromq = TcpStream::connect(("127.0.0.1", port)).unwrap();
        no_zeromq.write_all(b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n").unwrap();
    }
    wait_for("what was malformed is counted", || honest.ask(&GetStatus {}).unwrap().broker.malformed >= 50);
    drop(strangers);
    honest.ask(&GetStatus {}).unwrap();
}

/// Rule N6 of the broker's sockets: a process that is stopped, or a host that is gone, keeps nothing of the broker's for long.
#[test]
fn a_connection_whose_peer_answers_no_probe_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(options(folder.path()));
    let path = broker.options.request_endpoint.trim_start_matches("ipc://").to_owned();
    let mut silent = {
        wait_for("the broker's socket", || UnixStream::connect(&path).is_ok());
        UnixStream::connect(&path).unwrap()
    };
    silent.set_read_timeout(Some(2 * PROBE_TIMEOUT)).unwrap();
    let mut greeting = [0; 64]; // ZMTP 3.1, mechanism NULL
    (greeting[0], greeting[9], greeting[10], greeting[11]) = (0xff, 0x7f, 3, 1);
    greeting[12..16].copy_from_slice(b"NULL");
    let ready = [&b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER"[..]].concat();
    assert_eq!(usize::from(ready[1]), ready.len() - 2);
    silent.write_all(&greeting).unwrap();
    silent.write_all(&ready).unwrap();
    let (begun, mut probes) = (Instant::now(), 0);
    let mut bytes = [0; 256];
    loop {
        match silent.read(&mut bytes).expect("an end before the watchdog") {
            0 => break,
            count => probes += bytes[..count].windows(5).filter(|bytes| bytes == b"\x04PING").count(),
        }
    }
    assert!(probes > 0, "the broker closed the connection without a probe, after {:?}", begun.elapsed());
    assert!(begun.elapsed() >= PROBE_TIMEOUT, "given up after {:?}", begun.elapsed());
}

/// Nobody tells a broker that a connection has ended: it finds out, though nothing is to be said to it.
#[test]
fn what_is_kept_for_a_connection_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(options(folder.path()));
    let (mut agent, mut client) = (broker.peer(), broker.peer());
    let calls = vec![Handled { name: "measure".to_owned(), at_once: 1, ..Handled::default() }];
    let worker = Description { name: "x01/writer".to_owned(), calls, ..Description::default() };
    agent.ask(&Register { subsystems: vec![worker], ..register("x01/writer", 1) }).unwrap();
    let mut watcher = broker.peer();
    watcher.ask(&Watch { items: vec!["x01/writer/absent".to_owned()], max_hz: None }).unwrap();
    let caller = broker.peer();
    let call = DoCall { call: "measure".to_owned(), params: Params::new() };
    let patient = Header::request(DoCall::KIND, 1, 3 * WATCHDOG.as_millis() as u32); // its deadline does not end it here
    caller.send_parts(&[&encode(&patient), &encode(&call)]);
    let question = agent.await_question::<RunCall>();
    let busy = |client: &mut Peer| {
        let status = client.ask(&GetStatus {}).unwrap();
        status.clients.iter().map(|its| its.watches + its.requests_open).sum::<u64>()
    };
    assert_eq!(busy(&mut client), 2);
    drop((watcher, caller));
    assert_eq!(agent.await_notice::<Cancel>().id, question.id, "its handler need not go on");
    wait_for("what is kept for both goes", || busy(&mut client) == 0);
}

#[test]
fn peer_that_goes_away_before_its_answer_is_counted_and_disturbs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(options(folder.path()));
    let mut client = broker.peer();
    let mut gone = broker.peer();
    gone.register("x01/writer", 1);
    drop(gone); // the broker still thinks it is there, so it sends it the job
    client.ask(&submit("k")).unwrap();
    wait_for("the order to run is counted", || client.ask(&GetStatus {}).unwrap().broker.undeliverable > 0);
}

/// The store is made to fail by a second connection that holds SQLite's write lock.
#[test]
fn broker_whose_store_fails_refuses_jobs_and_takes_them_when_it_works_again() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(options(folder.path()));
    let (mut agent, mut client) = (broker.peer(), broker.peer());
    agent.register("x01/writer", 1);
    let path = broker.options.state_folder.join(store::FILE_NAME);
    let blocker = rusqlite::Connection::open(path).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refusal = client.ask(&submit("k")).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::StoreFailed);
    assert!(refusal.hint.is_some());
    assert_eq!(client.ask(&GetStatus {}).unwrap().broker.jobs_open, 0);
    blocker.execute_batch("COMMIT").unwrap();
    let mut id = None;
    wait_for("the job is taken", || {
        let _ = agent.ask(&Heartbeat { state: AgentState::Ready }).map_err(|_| agent.register("x01/writer", 1));
        id = client.ask(&submit("k")).ok().map(|job| job.id);
        id.is_some()
    });
    assert_eq!(agent.await_notice::<RunJob>().id, id.unwrap());
}

/// The store fails while the end is reported; then the broker is stopped, and started on the same folder.
#[test]
fn job_is_followed_once_though_the_store_failed_and_the_broker_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(options(folder.path()));
    let (mut writer, mut client) = (broker.peer(), broker.peer());
    let reduce = ServiceOffer { follows: Some("write".to_owned()), ..ServiceOffer::new("reduce") };
    let services = vec![ServiceOffer::new("write"), reduce];
    let register = Register { services, ..register("x01/both", 1) };
    writer.ask(&register).unwrap();
    let job = client.ask(&submit("k")).unwrap();
    let done = ReportJob { id: job.id, attempt: 1, state: JobState::Done, reason: None, result: None };
    let blocker = rusqlite::Connection::open(broker.options.state_folder.join(store::FILE_NAME)).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(writer.ask(&done).unwrap_err().code, ErrorCode::StoreFailed);
    blocker.execute_batch("COMMIT").unwrap();
    wait_for("the end is taken", || {
        let _ = writer.ask(&Heartbeat { state: AgentState::Ready }).map_err(|_| {
            writer.ask(&Register { jobs: vec![job.id], ..register.clone() }).unwrap();
        });
        writer.ask(&done).is_ok()
    });
    let options = broker.options.clone();
    broker.stop().unwrap();
    let broker = TestBroker::start(options);
    let mut client = broker.peer();
    let outcome = client.ask(&GetOutcome { id: job.id }).unwrap();
    let services: Vec<_> = outcome.jobs.iter().map(|job| job.service.as_str()).collect();
    assert_eq!((services, outcome.ended), (vec!["write", "reduce"], false));
    let mut writer = broker.peer();
    writer.ask(&Register { instance: 2, services: vec![ServiceOffer::new("write")], ..register }).unwrap();
    let last = client.ask(&submit("last")).unwrap();
    let done = ReportJob { id: last.id, attempt: 0, ..done };
    wait_for("the last job is the writer's", || writer.ask(&done).is_ok());
    let outcome = client.ask(&GetOutcome { id: last.id }).unwrap();
    assert_eq!(outcome.jobs.len(), 2, "what follows what was read from the disk");
}

/// A job runs while the broker is stopped and another one started on the same folder and endpoints.
#[test]
fn running_job_survives_a_restart_of_the_broker() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(options(folder.path()));
    let (mut agent, mut client) = (broker.peer(), broker.peer());
    agent.register("x01/writer", 1);
    let job = client.ask(&submit("k")).unwrap();
    let report = |state| ReportJob { attempt: 0, id: job.id, state, reason: None, result: None };
    agent.ask(&report(JobState::Running)).unwrap();
    let options = broker.options.clone();
    broker.stop().unwrap();
    let broker = TestBroker::start(options);
    let (mut agent, mut client) = (Peer::connect(&broker.options.request_endpoint), broker.peer());
    assert_eq!(client.ask(&submit("k")).unwrap().state, JobState::Running);
    let listed = Register { jobs: vec![job.id], ..register("x01/writer", 1) };
    agent.ask(&listed).unwrap();
    agent.ask(&report(JobState::Done)).unwrap();
    assert_eq!(client.ask(&submit("k")).unwrap().state, JobState::Done);
}
