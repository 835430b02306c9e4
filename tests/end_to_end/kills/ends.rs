//! The ends of what was asked, each for its reason: of processes that are stopped, killed, gone and unknown.

use super::{
    clients::{Shared, code},
    configured,
    processes::Processes,
    schedule::{Planned, Step, Target},
    shared,
};
use crate::support::{PATIENCE, wait_for};
use ecs_schemas::{
    error_code::ErrorCode,
    exchange::{CallEvent, DoCall, Params, TargetEnd},
    registry::GetStatus,
};
use ecs_sdk::Client;
use std::{
    fs, thread,
    time::{Duration, Instant},
};

/// The broker's timeout here. Long enough that nobody is gone because the machine was busy.
const TIMEOUT_S: u64 = 6;
/// So much shorter that whoever is stopped now is not gone yet.
const SHORT: Duration = Duration::from_millis(300);
/// So much longer that a death is noticed before the deadline.
const LONG: Duration = Duration::from_secs(5 * TIMEOUT_S);

fn params(ms: u64) -> Params {
    [("n".to_owned(), 1.into()), ("ms".to_owned(), (ms as i64).into())].into()
}

/// How `event` ended for `target`, and after how long.
fn event(shared: &Shared, client: &Client, target: &str, ms: u64, timeout: Duration) -> (TargetEnd, Duration) {
    let (begun, targets) = (Instant::now(), vec![target.to_owned()]);
    let request = CallEvent { event: "tick".to_owned(), targets, params: params(ms) };
    let results = shared.call(client, &request, timeout).unwrap().results;
    assert_eq!(results.len(), 1, "{results:?}");
    (results[0].end, begun.elapsed())
}

fn carry_out(processes: &mut Processes<'_>, step: Step, agent: usize) {
    processes.carry_out(&Planned { at: Duration::ZERO, target: Target::Agent(agent), step });
}

/// The signal was sent; a thread that runs may go on for a moment.
fn is_stopped(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let states = threads.map(|thread| fs::read_to_string(thread.path().join("stat")).unwrap_or_default());
    states.into_iter().all(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
}

#[test]
fn what_is_asked_of_who_is_stopped_killed_or_unknown_ends_for_that_reason() {
    let beamline = configured(1);
    let file = beamline.path("beamline.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(file, text.replace("timeout = \"1 s\"", &format!("timeout = \"{TIMEOUT_S} s\""))).unwrap();
    let shared = shared(&beamline, 1, Duration::ZERO);
    let mut processes = Processes::new(&beamline, &shared.agents, &shared.request_endpoint);
    processes.start_broker();
    wait_for("the broker", PATIENCE, || (beamline.call(&["status"]).code != 1).then_some(()));
    let client = shared.client();
    for agent in 0..3 {
        carry_out(&mut processes, Step::Start, agent);
    }
    wait_for("the agents", PATIENCE, || client.call(&GetStatus {}, LONG).ok().filter(|status| status.ready).map(drop));
    let boxes: Vec<String> = shared.agents.iter().map(|agent| super::agent_process::subsystem_of(agent)).collect();
    assert_eq!(event(&shared, &client, &boxes[0], 0, LONG).0, TargetEnd::Ok);
    assert_eq!(event(&shared, &client, "nobody", 0, LONG).0, TargetEnd::NotHandled);

    carry_out(&mut processes, Step::Stop, 0);
    wait_for("the stop", PATIENCE, || is_stopped(processes.pid(Target::Agent(0))?).then_some(()));
    let (end, took) = event(&shared, &client, &boxes[0], 0, SHORT);
    assert_eq!(end, TargetEnd::Timeout, "stopped a moment ago; after {took:?}");
    let (end, took) = event(&shared, &client, &boxes[0], 0, LONG);
    assert_eq!(end, TargetEnd::Gone, "stopped for longer");
    println!("noticed after {took:?}");
    let (end, took) = event(&shared, &client, &boxes[0], 0, LONG);
    assert_eq!(end, TargetEnd::Gone, "known as gone");
    println!("known after {took:?}");
    carry_out(&mut processes, Step::Continue, 0);
    wait_for("its return", PATIENCE, || (event(&shared, &client, &boxes[0], 0, LONG).0 == TargetEnd::Ok).then_some(()));

    thread::scope(|scope| {
        let asked = scope.spawn(|| event(&shared, &shared.client(), &boxes[1], 60_000, LONG));
        wait_for("the question", PATIENCE, || {
            let status = client.call(&GetStatus {}, LONG).ok()?;
            status.clients.iter().any(|its| its.requests_open > 0).then_some(())
        });
        carry_out(&mut processes, Step::Kill, 1);
        let (end, took) = asked.join().unwrap();
        assert_eq!(end, TargetEnd::Gone, "killed while it answered");
        println!("noticed after {took:?}");
    });
    carry_out(&mut processes, Step::Kill, 2);
    let call = DoCall { call: "work".to_owned(), params: params(60_000) };
    thread::scope(|scope| {
        let (shared, call) = (&shared, &call);
        wait_for("the killed to be gone", PATIENCE, || {
            (event(shared, &client, &boxes[2], 0, LONG).0 == TargetEnd::Gone).then_some(())
        });
        let asked = scope.spawn(move || shared.call(&shared.client(), call, LONG));
        wait_for("the question", PATIENCE, || {
            let status = client.call(&GetStatus {}, LONG).ok()?;
            status.clients.iter().any(|its| its.requests_open > 0).then_some(())
        });
        carry_out(&mut processes, Step::Kill, 0); // the only one that is left
        assert_eq!(code(&asked.join().unwrap()), Some(ErrorCode::AgentLost));
        assert_eq!(code(&shared.call(&client, call, LONG)), Some(ErrorCode::NotHandled));
    });
    let (findings, ended) = (shared.ledger.findings(), processes.unexpected_ends());
    assert!(findings.is_empty() && ended.is_empty(), "{findings:?} {ended:?}\n{}", processes.logs());
}
