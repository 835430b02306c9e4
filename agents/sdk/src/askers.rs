//! The questions that this agent works on: threads that run handlers, and the order in which they do.
//!
//! ```text
//! I/O thread ──▶ lane of the subsystem (reads, writes: one after another) ──┐
//!            ──▶ events, calls: beside each other ─────────────────────────┴─▶ threads ──▶ answers ──▶ outbox
//! ```
//!
//! A thread that has nothing to do waits a while for the next question before it ends: a fast question costs a wake-up
//! and not a new thread.

use crate::{
    host::{Asked, Handler},
    hosting::HostNews,
    job::text_of,
    limits::{HANDLER_IDLE, HANDLERS_MAX},
    outbox::Outbox,
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
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

/// What is done with one question: its answer.
type Work = Box<dyn FnOnce(&Asked) -> Result<Vec<u8>, Failure> + Send>;

struct Task {
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
    /// Threads that wait, and all of them.
    idle: usize,
    threads: usize,
    open: HashMap<u64, Arc<Asked>>,
}

struct Shared {
    tasks: Mutex<Tasks>,
    more: Condvar,
    outbox: Arc<Outbox>,
}

/// The I/O thread's side.
pub struct Askers {
    shared: Arc<Shared>,
    handlers: Arc<Mutex<BTreeMap<String, Arc<dyn Handler>>>>,
}

impl Askers {
    pub fn new(outbox: Arc<Outbox>, handlers: Arc<Mutex<BTreeMap<String, Arc<dyn Handler>>>>) -> Self {
        let shared = Shared { tasks: Mutex::default(), more: Condvar::new(), outbox };
        Self { shared: Arc::new(shared), handlers }
    }

    /// Takes a question of the broker's; what is not one, or is for nobody here, is answered with an error.
    pub fn ask(&self, header: Header, body: &[u8]) {
        match self.task(&header, body) {
            Ok(task) => self.shared.add(task),
            Err(failure) => self.shared.answer(&header, Err(failure)),
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
        let asked = Arc::new(Asked::new(header, by, Arc::clone(&self.shared.outbox)));
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
        if let Some(asked) = lock(&self.shared.tasks).open.get(&id) {
            return asked.cancel();
        }
        let failure = Failure::new(ErrorCode::Cancelled, format!("this agent does not have question {id}"));
        self.shared.answer(&Header { id, ..Header::notice(Cancel::KIND) }, Err(failure));
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
        lock(&self.shared.tasks).open.values().for_each(|asked| asked.cancel());
    }
}

impl Shared {
    fn add(self: &Arc<Self>, task: Task) {
        let mut tasks = lock(&self.tasks);
        tasks.open.insert(task.header.id, Arc::clone(&task.asked));
        if let Some(lane) = &task.lane {
            if let Some(waiting) = tasks.lanes.get_mut(lane) {
                waiting.push_back(task);
                return;
            }
            tasks.lanes.insert(lane.clone(), VecDeque::new());
        }
        tasks.ready.push_back(task);
        self.wake_one(&mut tasks);
    }

    /// A thread for what is ready: one that waits, or a new one.
    fn wake_one(self: &Arc<Self>, tasks: &mut Tasks) {
        if tasks.idle >= tasks.ready.len() {
            self.more.notify_one();
        } else if tasks.threads < HANDLERS_MAX {
            tasks.threads += 1;
            let shared = Arc::clone(self);
            if let Err(error) = thread::Builder::new().name("ecs-handler".to_owned()).spawn(move || shared.serve()) {
                tasks.threads -= 1;
                tracing::error!("no thread for a handler: {error}");
            }
        }
    }

    fn serve(self: Arc<Self>) {
        while let Some(task) = self.next() {
            let answer = run(task.work, &task.asked);
            self.answer(&task.header, answer);
            self.end(task.header.id, task.lane);
        }
    }

    /// The next task; none after nothing came for a while.
    fn next(&self) -> Option<Task> {
        let mut tasks = lock(&self.tasks);
        tasks.idle += 1;
        let waited = self.more.wait_timeout_while(tasks, HANDLER_IDLE, |tasks| tasks.ready.is_empty());
        tasks = waited.unwrap_or_else(PoisonError::into_inner).0;
        tasks.idle -= 1;
        let task = tasks.ready.pop_front();
        if task.is_none() {
            tasks.threads -= 1;
        }
        task
    }

    fn end(self: &Arc<Self>, id: u64, lane: Option<String>) {
        let mut tasks = lock(&self.tasks);
        tasks.open.remove(&id);
        let Some(lane) = lane else { return };
        match tasks.lanes.get_mut(&lane).and_then(VecDeque::pop_front) {
            Some(next) => {
                tasks.ready.push_back(next);
                self.wake_one(&mut tasks);
            }
            None => drop(tasks.lanes.remove(&lane)),
        }
    }

    fn answer(&self, header: &Header, answer: Result<Vec<u8>, Failure>) {
        let message = match answer {
            Ok(body) if body.len() > BODY_BYTES_MAX => {
                let message = format!("the answer has {} bytes; at most {BODY_BYTES_MAX}", body.len());
                (header.error(), encode(&Failure::new(ErrorCode::BadParameter, message)))
            }
            Ok(body) => (header.reply(), body),
            Err(failure) => (header.error(), encode(&failure)),
        };
        self.outbox.host(HostNews::Say(Box::new(message)));
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
