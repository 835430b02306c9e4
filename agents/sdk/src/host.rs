//! What an agent hosts: subsystems with items, events, calls and alarms.
//!
//! ```no_run
//! use ecs_schemas::{error_code::{ErrorCode, Failure}, kv::Item, subsystem::{Description, Handled}, value::Value};
//! use ecs_sdk::{Agent, Asked, Handler, Params};
//!
//! struct Door;
//! impl Handler for Door {
//!     fn on_event(&self, event: &str, _params: &Params, _asked: &Asked) -> Result<Value, Failure> {
//!         match event {
//!             "can_begin" => Err(Failure::new(ErrorCode::Refused, "Door open")), // a veto
//!             _ => Ok(Value::Null),
//!         }
//!     }
//! }
//! # fn host(agent: &Agent) -> Result<(), String> {
//! let description = Description {
//!     name: "x01/door".to_owned(),
//!     items: vec![Item { name: "angle".to_owned(), ..Item::default() }],
//!     events: vec![Handled { name: "can_begin".to_owned(), at_once: 1, ..Handled::default() }],
//!     ..Description::default()
//! };
//! let door = agent.host(description, std::sync::Arc::new(Door))?;
//! door.publish("angle", 12.5).map_err(|failure| failure.message)?;
//! # Ok(())
//! # }
//! ```

use crate::{hosting::HostNews, outbox::Outbox, trace_context};
use ecs_schemas::{
    alarm::{Alarm, Severity},
    envelope::{Header, Notice, VALUE_BYTES_MAX, encode},
    error_code::{ErrorCode, Failure},
    exchange::Feedback,
    kv::Restored,
    subsystem::Description,
    trace::Trace,
    value::Value,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, PoisonError, Weak},
    time::Duration,
};

pub use ecs_schemas::exchange::Params;

/// What a subsystem does when it is asked. A function that takes long holds up no others; reads and writes of one subsystem
/// follow one another, events and calls run beside each other. A panic becomes a failure of that one question. What was given
/// up before its turn is not done.
#[allow(unused_variables)]
pub trait Handler: Send + Sync + 'static {
    /// The value of an item that is not published.
    ///
    /// # Errors
    /// Told to whoever asks.
    fn on_read(&self, item: &str, asked: &Asked) -> Result<Value, Failure> {
        Err(Failure::new(ErrorCode::NotHandled, format!("{item} is described as readable, and nobody reads it")))
    }

    /// Somebody wants this value, which is of the item's type and range. Returns the value that the item has now; a
    /// published item is published by the handler itself, before it returns.
    ///
    /// # Errors
    /// `refused` with a sentence; told to whoever asks.
    fn on_write(&self, item: &str, value: Value, asked: &Asked) -> Result<Value, Failure> {
        Err(Failure::new(ErrorCode::NotHandled, format!("{item} is described as writable, and nobody sets it")))
    }

    /// # Errors
    /// `refused` with a sentence is a veto; others are failures.
    fn on_event(&self, event: &str, params: &Params, asked: &Asked) -> Result<Value, Failure> {
        Err(Failure::new(ErrorCode::NotHandled, format!("the event {event} is described, and nobody handles it")))
    }

    /// # Errors
    /// Told to the caller.
    fn on_call(&self, call: &str, params: &Params, asked: &Asked) -> Result<Value, Failure> {
        Err(Failure::new(ErrorCode::NotHandled, format!("the call {call} is described, and nobody answers it")))
    }

    /// The broker has kept these values of items with `persist`; called once, before anything of the subsystem is asked.
    fn on_restored(&self, values: &[Restored]) {}
}

/// One question, as its handler sees it.
pub struct Asked {
    id: u64,
    by: String,
    trace: Option<Trace>,
    outbox: Arc<Outbox>,
    cancelled: Mutex<bool>,
    signal: Condvar,
}

impl Asked {
    pub(crate) fn new(header: &Header, by: String, outbox: Arc<Outbox>) -> Self {
        let (cancelled, signal) = (Mutex::new(false), Condvar::new());
        Self { id: header.id, by, trace: header.trace, outbox, cancelled, signal }
    }

    /// Who asks, by the broker's word.
    pub fn by(&self) -> &str {
        &self.by
    }

    /// Tells the caller how far it is.
    pub fn feedback(&self, value: impl Into<Value>) {
        let feedback = Feedback { id: self.id, target: String::new(), value: value.into() };
        let header = Header { trace: self.trace, ..Header::notice(Feedback::KIND) };
        self.outbox.host(HostNews::Say(Box::new((header, encode(&feedback)))));
    }

    /// Nobody waits for the answer any more.
    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody waits for the answer any more, at most for `patience`; true when so.
    pub fn wait_cancelled(&self, patience: Duration) -> bool {
        let cancelled = self.cancelled.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.signal.wait_timeout_while(cancelled, patience, |cancelled| !*cancelled);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    pub(crate) fn cancel(&self) {
        *self.cancelled.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.signal.notify_all();
    }

    /// Runs the handler within the question's trace: what it sends is part of it.
    pub(crate) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        trace_context::within(self.trace, work)
    }
}

/// A handle on a hosted subsystem. It does not end with the handle; see [`Host::remove`].
#[derive(Clone)]
pub struct Host {
    name: String,
    outbox: Arc<Outbox>,
    handlers: Weak<Mutex<Handlers>>,
}

/// Of hosted subsystems, by name.
pub(crate) type Handlers = BTreeMap<String, Arc<dyn Handler>>;

impl Host {
    pub(crate) fn new(name: String, outbox: Arc<Outbox>, handlers: Weak<Mutex<Handlers>>) -> Self {
        Self { name, outbox, handlers }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The item has this value now. Never waits; without a connection the newest value of each item is told later. What
    /// the broker refuses (an item that was not described, another type) is logged.
    ///
    /// # Errors
    /// The value is longer than a message may be; nothing was told.
    pub fn publish(&self, item: &str, value: impl Into<Value>) -> Result<(), Failure> {
        let value = value.into();
        let bytes = value.content_bytes();
        if bytes > VALUE_BYTES_MAX {
            let message = format!("{} {item} of {bytes} bytes; at most {VALUE_BYTES_MAX}", self.name);
            return Err(Failure::new(ErrorCode::BadParameter, message));
        }
        self.outbox.host(HostNews::Publish { path: (self.name.clone(), item.to_owned()), value, skipped: 0 });
        Ok(())
    }

    /// Raises an alarm, or changes its text.
    pub fn raise(&self, code: &str, severity: Severity, text: &str) {
        let alarm = Alarm { code: code.to_owned(), severity, text: text.to_owned(), since_ns: 0 };
        self.outbox.host(HostNews::Raise(self.name.clone(), alarm));
    }

    pub fn clear(&self, code: &str) {
        self.outbox.host(HostNews::Clear(self.name.clone(), code.to_owned()));
    }

    /// Describes the subsystem anew: other items, events, calls. Its name stays; its alarms are replaced.
    ///
    /// # Errors
    /// Says what in it does not make sense.
    pub fn describe(&self, description: Description) -> Result<(), String> {
        description.check()?;
        if description.name != self.name {
            return Err(format!("{} cannot become {}: remove it and host the other", self.name, description.name));
        }
        self.outbox.host(HostNews::Describe(Box::new(description)));
        Ok(())
    }

    /// The subsystem is no more; its handler is let go.
    pub fn remove(&self) {
        if let Some(handlers) = self.handlers.upgrade() {
            handlers.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        }
        self.outbox.host(HostNews::Remove(self.name.clone()));
    }
}
