//! An agent in a process of its own: this test binary again, told by its environment who it is.

use ecs_schemas::{
    error_code::{ErrorCode, Failure},
    kv::Item,
    registry::AgentState,
    subsystem::{Description, Handled},
    value::Value,
    value_type::{Form, ValueType},
};
use ecs_sdk::{Agent, AgentConfig, Asked, Handler, Host, Job, JobEnd, Params, Service, stop};
use std::{
    env,
    sync::{Arc, OnceLock},
    time::Duration,
};

pub const NAME: &str = "ECS_KILLS_AGENT";
pub const ENDPOINT: &str = "ECS_KILLS_ENDPOINT";
/// The name of [`process_of_an_agent`] for the test runner.
pub const TEST: &str = "kills::agent_process::process_of_an_agent";

/// What every agent of the test does jobs for, two at a time.
pub const SERVICE: &str = "count";
/// What follows each of those, done by the agent of this kind.
pub const FOLLOWING: &str = "tally";
pub const FOLLOWING_KIND: &str = "assembler";
/// Pause between two values of the item `count`.
const TICK: Duration = Duration::from_millis(50);

/// As a test of its own it does nothing.
#[test]
fn process_of_an_agent() {
    let (Ok(name), Ok(request_endpoint)) = (env::var(NAME), env::var(ENDPOINT)) else { return };
    let kind = name.rsplit('/').next().unwrap().to_owned();
    let is_follower = kind == FOLLOWING_KIND;
    let config = AgentConfig { name: name.clone(), kind, request_endpoint, ended_jobs: vec![] };
    let mut services: Vec<Arc<dyn Service>> = vec![Arc::new(Count)];
    if is_follower {
        services.push(Arc::new(Tally));
    }
    let stop = stop::install();
    let agent = Agent::start(config, services).unwrap();
    let handler = Arc::new(Box { host: OnceLock::new() });
    let host = agent.host(description(&name), Arc::clone(&handler) as Arc<dyn Handler>).unwrap();
    handler.host.set(host.clone()).ok().unwrap();
    agent.set_state(AgentState::Ready);
    for count in 0_i64.. {
        if stop.wait(TICK) {
            break;
        }
        host.publish("count", count).unwrap();
        agent.publish([("counts".to_owned(), count.into())].into());
    }
    agent.stop(Duration::from_secs(5));
}

/// Name of the subsystem that an agent hosts.
pub fn subsystem_of(agent: &str) -> String {
    format!("{agent}-box")
}

/// As `tests/kills_agent.py` describes it.
fn description(name: &str) -> Description {
    let number = || ValueType::of(Form::I64);
    let handled = |name: &str| Handled { name: name.to_owned(), at_once: 4, ..Handled::default() };
    Description {
        name: subsystem_of(name),
        items: vec![
            Item { name: "setpoint".to_owned(), kind: number(), writable: true, persist: true, ..Item::default() },
            Item { name: "count".to_owned(), kind: number(), ..Item::default() },
            Item { name: "asked".to_owned(), kind: number(), published: false, ..Item::default() },
        ],
        events: vec![handled("tick"), handled("veto")],
        calls: vec![handled("work")],
        ..Description::default()
    }
}

struct Box {
    host: OnceLock<Host>,
}

impl Handler for Box {
    fn on_read(&self, _item: &str, _asked: &Asked) -> Result<Value, Failure> {
        Ok(7.into())
    }

    fn on_write(&self, item: &str, value: Value, _asked: &Asked) -> Result<Value, Failure> {
        self.host.get().expect("hosted").publish(item, value.clone())?;
        Ok(value)
    }

    fn on_event(&self, event: &str, params: &Params, asked: &Asked) -> Result<Value, Failure> {
        match event {
            "veto" => Err(Failure::new(ErrorCode::Refused, "never")),
            _ => work(params, asked),
        }
    }

    fn on_call(&self, _call: &str, params: &Params, asked: &Asked) -> Result<Value, Failure> {
        work(params, asked)
    }
}

/// Takes `ms` and answers with `n`.
fn work(params: &Params, asked: &Asked) -> Result<Value, Failure> {
    asked.feedback("begun");
    let ms = params.get("ms").and_then(Value::as_u64).unwrap_or(0);
    match asked.wait_cancelled(Duration::from_millis(ms)) {
        true => Err(Failure::new(ErrorCode::Cancelled, "as asked")),
        false => Ok(params.get("n").cloned().unwrap_or_default()),
    }
}

struct Count;

impl Service for Count {
    fn name(&self) -> &str {
        SERVICE
    }

    fn jobs_at_once(&self) -> u32 {
        2
    }

    /// Takes `ms`, and then ends as `end` says: `done` with the parameters, `failed`, or only when it is killed.
    fn on_request(&self, job: &Job) -> JobEnd {
        job.running();
        let params = job.params();
        let ms = params.get("ms").and_then(Value::as_u64).unwrap_or(0);
        let end = params.get("end").and_then(Value::as_str).unwrap_or_default();
        let patience = if end == "killed" { Duration::MAX / 4 } else { Duration::from_millis(ms) };
        match (job.wait_killed(patience), end) {
            (true, _) => JobEnd::Cancelled { result: None },
            (false, "failed") => {
                JobEnd::Failed { failure: Failure::new(ErrorCode::Other, "as asked"), result: Some(params.clone()) }
            }
            _ => JobEnd::Done(params.clone()),
        }
    }
}

struct Tally;

impl Service for Tally {
    fn name(&self) -> &str {
        FOLLOWING
    }

    fn jobs_at_once(&self) -> u32 {
        8
    }

    fn follows(&self) -> Option<&str> {
        Some(SERVICE)
    }

    fn on_request(&self, job: &Job) -> JobEnd {
        JobEnd::Done(job.params().get("job").cloned().unwrap_or_default())
    }
}
