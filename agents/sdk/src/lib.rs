//! What every ECS agent and tool is built on: connect, register, heartbeats, jobs, telemetry.
//!
//! An agent starts whether the broker is there or not, and never waits for it: everything that it says is
//! taken in at once and told when it can be. Its jobs run on threads of their own.
//!
//! ```no_run
//! use ecs_sdk::{Agent, AgentConfig, Job, JobEnd, Service, stop};
//! use ecs_schemas::{registry::AgentState, value::Value};
//! use std::{sync::Arc, time::Duration};
//!
//! struct Count;
//! impl Service for Count {
//!     fn name(&self) -> &str {
//!         "count"
//!     }
//!     fn on_request(&self, job: &Job) -> JobEnd {
//!         job.running();
//!         match job.wait_killed(Duration::from_secs(10)) {
//!             true => JobEnd::Cancelled { result: None },
//!             false => JobEnd::Done(Value::from(10)),
//!         }
//!     }
//! }
//!
//! let stop = stop::install();
//! let config = AgentConfig {
//!     name: "x01/counter".to_owned(),
//!     kind: "counter".to_owned(),
//!     request_endpoint: "tcp://127.0.0.1:7750".to_owned(),
//!     ended_jobs: vec![],
//! };
//! let agent = Agent::start(config, vec![Arc::new(Count)])?;
//! agent.set_state(AgentState::Ready);
//! while !stop.wait(Duration::from_secs(1)) {
//!     agent.publish([("counts_per_s".to_owned(), Value::from(1.0))].into());
//! }
//! agent.stop(Duration::from_secs(5));
//! # Ok::<(), ecs_sdk::StartError>(())
//! ```
//!
//! | module | what |
//! |---|---|
//! | `agent` | the handle on all |
//! | `crew`, `connection` | the threads, and what the one that leads does |
//! | `session` | the conversation with the broker; no socket, no clock |
//! | `host` | subsystems with items, events, calls, alarms |
//! | `hosting`, `questions` | what the session tells of them, and what they are asked |
//! | `trace_context` | the trace that a thread works in |
//! | `job`, `workers` | services and their jobs |
//! | `outbox` | where the threads meet |
//! | `client`, `subscriber`, `watcher` | for tools: ask, listen, and watch items at a rate |
//! | `link`, `monitor` | ZeroMQ, and whether the broker lets us in |
//! | `timer` | an alarm clock |
//! | [`cores`] | a thread on one core |
//! | [`realtime`] | threads that messages pass go first where the host is full |
//! | [`key`] | the key of this process |
//! | [`stop`] | SIGTERM and SIGINT |
//! | [`limits`] | every limit and interval |

mod agent;
mod client;
mod connection;
pub mod cores;
mod crew;
mod host;
mod hosting;
mod job;
pub mod key;
pub mod limits;
mod link;
mod monitor;
mod outbox;
mod questions;
pub mod realtime;
mod session;
#[cfg(test)]
mod simulation;
pub mod stop;
mod subscriber;
mod timer;
mod trace_context;
mod watcher;
mod workers;

pub use agent::{Agent, AgentConfig, StartError};
pub use client::{CallError, Client, Pending};
pub use host::{Asked, Handler, Host, Params};
pub use job::{Job, JobEnd, Service};
pub use link::LinkError;
pub use stop::Stop;
pub use subscriber::{Published, Subscriber};
pub use watcher::{WatchError, Watcher};
