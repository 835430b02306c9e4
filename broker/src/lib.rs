//! The ECS broker: who is there, what is to be done, what happened.
//!
//! One process per beamline. Agents register and show that they live; clients submit jobs and ask for
//! the state of things; everybody may subscribe to what is published. The broker never sees a pixel.
//!
//! ```text
//!            ┌──────────────────────── run ─────────────────────────┐
//! ROUTER ──▶ │ net ──inputs──▶ core ──changes──▶ store (SQLite)     │
//!            │  ▲                │                  │ on disk       │
//! PUB    ◀── │  └───answers──────┴────publications──┘               │
//!            └──────────────────────────────────────────────────────┘
//! ```
//!
//! | module | what it knows |
//! |---|---|
//! | [`core`] | all rules; no socket, no disk, no clock |
//! | [`store`] | SQLite |
//! | `net` | ZeroMQ |
//! | `serve` | the loop: one batch of messages, one transaction, then the answers |
//! | [`keys`] | the key folder: who may connect, and for what |
//! | [`limits`] | every limit, with its reason and what happens there |
//!
//! # Rules
//! B1  What was acknowledged is on disk first: answers leave after the transaction (rule C1 of [`core`]).
//! B2  The broker goes on whatever a peer sends and whatever the disk does; only a socket that cannot be
//!     bound or has no keys, a folder that another broker holds, or a store that cannot be read end it, at the start.
//!
//! ```no_run
//! use std::time::Duration;
//! let options = ecs_broker::BrokerOptions {
//!     beamline: "x01".to_owned(),
//!     request_endpoint: "tcp://127.0.0.1:7750".to_owned(),
//!     publish_endpoint: "tcp://127.0.0.1:7751".to_owned(),
//!     heartbeat: Duration::from_secs(1),
//!     timeout: Duration::from_secs(3),
//!     state_folder: ".ecs/x01".into(),
//!     expected: vec![("x01/writer".to_owned(), "writer".to_owned())],
//!     keys: None,
//!     insecure: false,
//! };
//! ecs_broker::run(options, || false)?; // until the closure says true
//! # Ok::<(), ecs_broker::RunError>(())
//! ```

pub mod core;
pub mod keys;
pub mod limits;
mod lock;
mod net;
mod serve;
pub mod store;

pub use net::{BindError, ExposedError, NetError};
pub use serve::{BrokerOptions, RunError, run};
