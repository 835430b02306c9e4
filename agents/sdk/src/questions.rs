//! The questions that this agent has: which may be worked on now, and what is done for one.
//!
//! ```text
//! broker ──▶ lane of the subsystem (reads, writes: one after another) ──┐
//!        ──▶ events, calls: beside each other ─────────────────────────┴─▶ ready ──▶ crew
//! ```

use crate::{
    host::{Asked, Handler},
    hosting::HostNews,
    job::text_of,
    outbox::Outbox,
    session::Message,
};
use ecs_schemas::{
    envelope::{BODY_BYTES_MAX, Header, Notice, Request, decode, encode},
    error_code::{ErrorCode, Failure},
    exchange::{Cancel, Done, RunCall, RunEvent},
    kv::{Read, Restored, Taken, Write},
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What is done with one question: its answer.
type Work = Box<dyn FnOnce(&Asked) -> Result<Vec<u8>, Failure> + Send>;

/// A question that may be worked on.
pub struct Task {
    header: Header,
    asked: Arc<Asked>,
    work: Work,
    /// The subsystem whose lane it is in; none if it runs beside all others.
    lane: Option<String>,
}

#[derive(Default)]
struct Tasks {
    ready: VecDeque<Task>,
    /// Lanes that have a task ready or running, and what waits behind it.
    lanes: HashMap<String, VecDeque<Task>>,
    open: HashMap<u64, Arc<Asked>>,
}

pub struct Questions {
    tasks: Mutex<Tasks>,
    handlers: Arc<Mutex<BTreeMap<String, Arc<dyn Handler>>>>,
    outbox: Arc<Outbox>,
}

impl Questions {
    pub fn new(outbox: Arc<Outbox>, handlers: Arc<Mutex<BTreeMap<String, Arc<dyn Handler>>>>) -> Self {
        Self { tasks: Mutex::default(), handlers, outbox }
    }

    /// Takes a question of the broker's; what is not one, or is for nobody here, is answered with an error.
    pub fn ask(&self, header: Header, body: &[u8]) {
        match self.task(&header, body) {
            Ok(task) => self.add(task),
            Err(failure) => self.refuse(&header, failure),
        }
    }

    fn task(&self, header: &Header, body: &[u8]) -> Result<Task, Failure> {
        match header.kind.as_str() {
            Read::KIND => {
                let Read { subsystem, item, by } = decode(body)?;
                let handler = self.handler(&subsystem)?;
                let work: Work =
                    Box::new(move |asked| handler.on_read(&item, asked).map(|value| encode(&Taken { value })));
                Ok(self.new_task(header, by, work, Some(subsystem)))
            }
            Write::KIND => {
                let Write { subsystem, item, value, by } = decode(body)?;
                let handler = self.handler(&subsystem)?;
                let work: Work =
                    Box::new(move |asked| handler.on_write(&item, value, asked).map(|value| encode(&Taken { value })));
                Ok(self.new_task(header, by, work, Some(subsystem)))
            }
            RunEvent::KIND => {
                let RunEvent { subsystem, event, params, by } = decode(body)?;
                let handler = self.handler(&subsystem)?;
                let work: Work = Box::new(move |asked| {
                    handler.on_event(&event, &params, asked).map(|value| encode(&Done { value }))
                });
                Ok(self.new_task(header, by, work, None))
            }
            RunCall::KIND => {
                let RunCall { subsystem, call, params, by } = decode(body)?;
                let handler = self.handler(&subsystem)?;
                let work: Work =
                    Box::new(move |asked| handler.on_call(&call, &params, asked).map(|value| encode(&Done { value })));
                Ok(self.new_task(header, by, work, None))
            }
            kind => Err(Failure::new(ErrorCode::UnknownKind, format!("this agent does not know {kind:?}"))),
        }
    }

    fn new_task(&self, header: &Header, by: String, work: Work, lane: Option<String>) -> Task {
        let asked = Arc::new(Asked::new(header, by, Arc::clone(&self.outbox)));
        Task { header: header.clone(), asked, work, lane }
    }

    fn handler(&self, subsystem: &str) -> Result<Arc<dyn Handler>, Failure> {
        let handlers = lock(&self.handlers);
        handlers.get(subsystem).cloned().ok_or_else(|| {
            Failure::new(ErrorCode::NoSuchSubsystem, format!("this agent does not host {subsystem:?} any more"))
        })
    }

    /// Nobody waits for the answer to question `id` any more. The broker hears of its end in any case, also where the
    /// question was lost on the way: it counts this agent as busy until then.
    pub fn cancel(&self, id: u64) {
        if let Some(asked) = lock(&self.tasks).open.get(&id) {
            return asked.cancel();
        }
        let failure = Failure::new(ErrorCode::Cancelled, format!("this agent does not have question {id}"));
        self.refuse(&Header { id, ..Header::notice(Cancel::KIND) }, failure);
    }

    /// Gives kept values to their subsystem, before anything of it is asked.
    pub fn restore(&self, subsystem: &str, values: &[Restored]) {
        if let Ok(handler) = self.handler(subsystem)
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| handler.on_restored(values)))
        {
            tracing::error!(subsystem, "on_restored panicked: {}", text_of(&*panic));
        }
    }

    pub fn cancel_all(&self) {
        lock(&self.tasks).open.values().for_each(|asked| asked.cancel());
    }

    fn refuse(&self, header: &Header, failure: Failure) {
        self.outbox.host(HostNews::Say(Box::new(message(header, Err(failure)))));
    }

    fn add(&self, task: Task) {
        let mut tasks = lock(&self.tasks);
        tasks.open.insert(task.header.id, Arc::clone(&task.asked));
        if let Some(lane) = &task.lane {
            if let Some(waiting) = tasks.lanes.get_mut(lane) {
                return waiting.push_back(task);
            }
            tasks.lanes.insert(lane.clone(), VecDeque::new());
        }
        tasks.ready.push_back(task);
    }

    pub fn has_ready(&self) -> bool {
        !lock(&self.tasks).ready.is_empty()
    }

    /// The oldest question that may be worked on.
    pub fn next(&self) -> Option<Task> {
        lock(&self.tasks).ready.pop_front()
    }

    /// Runs the handler; its answer is what this returns. The next one of its lane may begin.
    pub fn work_on(&self, task: Task) -> Message {
        let answer = message(&task.header, run(task.work, &task.asked));
        let mut tasks = lock(&self.tasks);
        tasks.open.remove(&task.header.id);
        if let Some(lane) = task.lane {
            match tasks.lanes.get_mut(&lane).and_then(VecDeque::pop_front) {
                Some(next) => tasks.ready.push_back(next),
                None => drop(tasks.lanes.remove(&lane)),
            }
        }
        answer
    }
}

fn message(header: &Header, answer: Result<Vec<u8>, Failure>) -> Message {
    match answer {
        Ok(body) if body.len() > BODY_BYTES_MAX => {
            let message = format!("the answer has {} bytes; at most {BODY_BYTES_MAX}", body.len());
            (header.error(), encode(&Failure::new(ErrorCode::BadParameter, message)))
        }
        Ok(body) => (header.reply(), body),
        Err(failure) => (header.error(), encode(&failure)),
    }
}

fn run(work: Work, asked: &Asked) -> Result<Vec<u8>, Failure> {
    let ran = catch_unwind(AssertUnwindSafe(|| asked.within(|| work(asked))));
    ran.unwrap_or_else(|panic| {
        Err(Failure::new(ErrorCode::Other, format!("the handler panicked: {}", text_of(&*panic))))
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
