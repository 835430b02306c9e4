//! The questions that this agent has: which may be worked on now, and what is done for one.
//!
//! ```text
//! broker ──▶ lane of the subsystem (reads, writes: one after another) ──┐
//!        ──▶ events, calls: beside each other ─────────────────────────┴─▶ ready ──▶ crew
//! ```
//!
//! # Rules
//! Q1  Kept values are given back in the lane of their subsystem; until that is done nothing else of it is begun.
//! Q2  What nobody waits for any more before it was begun is not done: an old set must not reach a device late.
//! Q3  The number of open questions is limited; more are refused.

use crate::{
    host::{Asked, Handler, Handlers},
    hosting::HostNews,
    job::text_of,
    limits::QUESTIONS_MAX,
    outbox::Outbox,
    session::Message,
};
use ecs_schemas::{
    envelope::{BODY_BYTES_MAX, Header, Notice, Request, decode, encode},
    error_code::{ErrorCode, Failure},
    exchange::{Cancel, Done, RunCall, RunEvent},
    kv::{Read, Restored, Taken, Write},
};
use foldhash::fast::RandomState;
use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What is done with one question: its answer.
type Work = Box<dyn FnOnce(&Asked) -> Result<Vec<u8>, Failure> + Send>;

/// What may be worked on.
pub struct Task {
    subsystem: String,
    /// One after another with others of its subsystem; else beside all others.
    is_in_lane: bool,
    what: What,
}

enum What {
    Question {
        header: Header,
        asked: Arc<Asked>,
        work: Work,
    },
    /// Kept values are given back (rule Q1).
    Restore(Box<dyn FnOnce() + Send>),
}

/// A lane that has a task ready or running, and what waits behind it.
#[derive(Default)]
struct Lane {
    waiting: VecDeque<Task>,
    is_restoring: bool,
}

#[derive(Default)]
struct Tasks {
    ready: VecDeque<Task>,
    lanes: HashMap<String, Lane>,
    /// By id. The broker's own numbers.
    open: HashMap<u64, Arc<Asked>, RandomState>,
}

pub struct Questions {
    tasks: Mutex<Tasks>,
    handlers: Arc<Mutex<Handlers>>,
    outbox: Arc<Outbox>,
}

impl Questions {
    pub fn new(outbox: Arc<Outbox>, handlers: Arc<Mutex<Handlers>>) -> Self {
        Self { tasks: Mutex::default(), handlers, outbox }
    }

    /// Takes a question of the broker's; what is not one, or is for nobody here, is answered with an error.
    pub fn ask(&self, header: Header, body: &[u8]) {
        let task = self.check_room().and_then(|()| self.task(&header, body));
        match task {
            Ok(task) => self.add(task),
            Err(failure) => self.refuse(&header, failure),
        }
    }

    /// Rule Q3.
    fn check_room(&self) -> Result<(), Failure> {
        if lock(&self.tasks).open.len() < QUESTIONS_MAX {
            return Ok(());
        }
        Err(Failure::new(ErrorCode::Busy, format!("{QUESTIONS_MAX} questions wait for this agent already")))
    }

    fn task(&self, header: &Header, body: &[u8]) -> Result<Task, Failure> {
        match header.kind.as_str() {
            Read::KIND => {
                let Read { subsystem, item, by } = decode(body)?;
                let handler = self.handler(&subsystem)?;
                let work: Work =
                    Box::new(move |asked| handler.on_read(&item, asked).map(|value| encode(&Taken { value })));
                Ok(self.question(header, by, work, subsystem, true))
            }
            Write::KIND => {
                let Write { subsystem, item, value, by } = decode(body)?;
                let handler = self.handler(&subsystem)?;
                let work: Work =
                    Box::new(move |asked| handler.on_write(&item, value, asked).map(|value| encode(&Taken { value })));
                Ok(self.question(header, by, work, subsystem, true))
            }
            RunEvent::KIND => {
                let RunEvent { subsystem, event, params, by } = decode(body)?;
                let handler = self.handler(&subsystem)?;
                let work: Work = Box::new(move |asked| {
                    handler.on_event(&event, &params, asked).map(|value| encode(&Done { value }))
                });
                Ok(self.question(header, by, work, subsystem, false))
            }
            RunCall::KIND => {
                let RunCall { subsystem, call, params, by } = RunCall::from_body(body)?;
                let handler = self.handler(&subsystem)?;
                let work: Work =
                    Box::new(move |asked| handler.on_call(&call, &params, asked).map(|value| Done { value }.to_body()));
                Ok(self.question(header, by, work, subsystem, false))
            }
            kind => Err(Failure::new(ErrorCode::UnknownKind, format!("this agent does not know {kind:?}"))),
        }
    }

    fn question(&self, header: &Header, by: String, work: Work, subsystem: String, is_in_lane: bool) -> Task {
        let asked = Arc::new(Asked::new(header, by, Arc::clone(&self.outbox)));
        Task { subsystem, is_in_lane, what: What::Question { header: header.clone(), asked, work } }
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
        let mut tasks = lock(&self.tasks);
        if let Some(asked) = tasks.open.get(&id) {
            asked.cancel();
            if !tasks.take_waiting(id) {
                return; // it is being worked on, or about to be: the answer comes from there
            }
        }
        drop(tasks);
        let failure = Failure::new(ErrorCode::Cancelled, format!("question {id} was given up before it was begun"));
        self.refuse(&Header { id, ..Header::notice(Cancel::KIND) }, failure);
    }

    /// Gives kept values to their subsystem, before anything of it is asked (rule Q1).
    pub fn restore(&self, subsystem: String, values: Vec<Restored>) {
        let Ok(handler) = self.handler(&subsystem) else { return };
        let name = subsystem.clone();
        let work = move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| handler.on_restored(&values))) {
                tracing::error!(subsystem = name, "on_restored panicked: {}", text_of(&*panic));
            }
        };
        self.add(Task { subsystem, is_in_lane: true, what: What::Restore(Box::new(work)) });
    }

    /// Nobody waits any more for the answers to questions with an id up to `last`.
    pub fn cancel_until(&self, last: u64) {
        let tasks = lock(&self.tasks);
        tasks.open.iter().filter(|(id, _)| **id <= last).for_each(|(_, asked)| asked.cancel());
    }

    fn refuse(&self, header: &Header, failure: Failure) {
        self.outbox.host(HostNews::Say(Box::new(message(header, Err(failure)))));
    }

    fn add(&self, task: Task) {
        let mut tasks = lock(&self.tasks);
        if let What::Question { header, asked, .. } = &task.what {
            tasks.open.insert(header.id, Arc::clone(asked));
        }
        let is_restore = matches!(task.what, What::Restore(_));
        match tasks.lanes.get_mut(&task.subsystem) {
            Some(lane) if task.is_in_lane || lane.is_restoring => {
                lane.is_restoring |= is_restore;
                lane.waiting.push_back(task);
            }
            None if task.is_in_lane => {
                let lane = Lane { is_restoring: is_restore, ..Lane::default() };
                tasks.lanes.insert(task.subsystem.clone(), lane);
                tasks.ready.push_back(task);
            }
            _ => tasks.ready.push_back(task),
        }
    }

    pub fn has_ready(&self) -> bool {
        !lock(&self.tasks).ready.is_empty()
    }

    /// The oldest of what may be worked on.
    pub fn next(&self) -> Option<Task> {
        lock(&self.tasks).ready.pop_front()
    }

    /// Runs the handler; its answer is what this returns. What waits for it may begin.
    pub fn work_on(&self, task: Task) -> Option<Message> {
        let Task { subsystem, is_in_lane, what } = task;
        match what {
            What::Question { header, asked, work } => {
                let answer = message(&header, run(work, &asked));
                let mut tasks = lock(&self.tasks);
                tasks.open.remove(&header.id);
                if is_in_lane {
                    tasks.go_on(&subsystem, false);
                }
                Some(answer)
            }
            What::Restore(work) => {
                work();
                lock(&self.tasks).go_on(&subsystem, true);
                None
            }
        }
    }
}

impl Tasks {
    /// The task of a lane is done: what waited for it is ready.
    fn go_on(&mut self, subsystem: &str, is_restored: bool) {
        let Some(lane) = self.lanes.get_mut(subsystem) else { return };
        if is_restored {
            lane.is_restoring = lane.waiting.iter().any(|task| matches!(task.what, What::Restore(_)));
        }
        if !lane.is_restoring {
            let (in_lane, beside) = std::mem::take(&mut lane.waiting).into_iter().partition(|task| task.is_in_lane);
            lane.waiting = in_lane;
            self.ready.extend::<VecDeque<Task>>(beside);
        }
        match lane.waiting.pop_front() {
            Some(next) => self.ready.push_back(next),
            None => drop(self.lanes.remove(subsystem)),
        }
    }

    /// Takes out a question that waits in a lane (rule Q2); true if it did.
    fn take_waiting(&mut self, id: u64) -> bool {
        let is_it = |task: &Task| matches!(&task.what, What::Question { header, .. } if header.id == id);
        let place = |lane: &mut Lane| lane.waiting.iter().position(is_it).and_then(|at| lane.waiting.remove(at));
        let is_taken = self.lanes.values_mut().any(|lane| place(lane).is_some());
        if is_taken {
            self.open.remove(&id);
        }
        is_taken
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
    if asked.is_cancelled() {
        return Err(Failure::new(ErrorCode::Cancelled, "it was given up before it was begun")); // rule Q2
    }
    let ran = catch_unwind(AssertUnwindSafe(|| asked.within(|| work(asked))));
    ran.unwrap_or_else(|panic| {
        Err(Failure::new(ErrorCode::Other, format!("the handler panicked: {}", text_of(&*panic))))
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::waker;
    use ecs_schemas::value::Value;

    /// Notes what it does.
    #[derive(Default)]
    struct Noting(Mutex<Vec<String>>);

    impl Handler for Noting {
        fn on_write(&self, item: &str, value: Value, _asked: &Asked) -> Result<Value, Failure> {
            lock(&self.0).push(format!("{item} = {value}"));
            Ok(value)
        }

        fn on_call(&self, call: &str, _params: &crate::Params, _asked: &Asked) -> Result<Value, Failure> {
            lock(&self.0).push(call.to_owned());
            Ok(Value::Null)
        }

        fn on_restored(&self, values: &[Restored]) {
            lock(&self.0).push(format!("{} restored", values.len()));
        }
    }

    fn questions() -> (Questions, Arc<Noting>, Arc<Outbox>) {
        let outbox = Arc::new(Outbox::new(waker().unwrap().0));
        let noting = Arc::new(Noting::default());
        let handlers: Handlers = [("x01/a".to_owned(), Arc::clone(&noting) as Arc<dyn Handler>)].into();
        (Questions::new(Arc::clone(&outbox), Arc::new(Mutex::new(handlers))), noting, outbox)
    }

    fn write(questions: &Questions, id: u64, value: i64) {
        let (subsystem, item, by) = ("x01/a".to_owned(), "speed".to_owned(), "me".to_owned());
        let body = encode(&Write { subsystem, item, value: value.into(), by });
        questions.ask(Header::request(Write::KIND, id, 1000), &body);
    }

    fn call(questions: &Questions, id: u64) {
        let (subsystem, call, by) = ("x01/a".to_owned(), "fit".to_owned(), "me".to_owned());
        let body = encode(&RunCall { subsystem, call, params: crate::Params::new(), by });
        questions.ask(Header::request(RunCall::KIND, id, 1000), &body);
    }

    fn work_on_all(questions: &Questions) -> Vec<Message> {
        std::iter::from_fn(|| questions.next()).filter_map(|task| questions.work_on(task)).collect()
    }

    fn said(outbox: &Outbox) -> Vec<(u64, ErrorCode)> {
        let answer = |news| match news {
            HostNews::Say(message) => (message.0.id, decode::<Failure>(&message.1).unwrap().code),
            other => panic!("{other:?}"),
        };
        outbox.take().hosted.into_iter().map(answer).collect()
    }

    #[test]
    fn what_was_given_up_before_its_turn_is_answered_and_not_done() {
        let (questions, noting, outbox) = questions();
        (1..=3).for_each(|id| write(&questions, id, id as i64));
        let first = questions.next().unwrap();
        assert!(questions.next().is_none(), "writes follow one another");
        questions.cancel(2);
        assert_eq!(said(&outbox), [(2, ErrorCode::Cancelled)], "at once");
        questions.work_on(first);
        questions.cancel(3); // it is ready, and not begun
        let answers = work_on_all(&questions);
        assert_eq!(answers.iter().map(|(header, _)| header.id).collect::<Vec<_>>(), [3]);
        assert_eq!(decode::<Failure>(&answers[0].1).unwrap().code, ErrorCode::Cancelled);
        assert_eq!(*lock(&noting.0), ["speed = 1"]);
        questions.cancel(7); // was lost on the way
        assert_eq!(said(&outbox), [(7, ErrorCode::Cancelled)]);
        let tasks = lock(&questions.tasks);
        assert!(tasks.open.is_empty() && tasks.lanes.is_empty() && tasks.ready.is_empty());
    }

    #[test]
    fn kept_values_come_back_before_anything_is_done_and_hold_up_no_thread() {
        let (questions, noting, _outbox) = questions();
        write(&questions, 1, 1);
        let before = questions.next().unwrap();
        let value = Restored { item: "speed".to_owned(), value: 5.into(), revision: 1, time_ns: 1 };
        questions.restore("x01/a".to_owned(), vec![value]);
        questions.restore("x01/nobody".to_owned(), vec![]);
        call(&questions, 2);
        write(&questions, 3, 3);
        call(&questions, 4);
        assert!(questions.next().is_none(), "all wait until it is restored");
        questions.work_on(before);
        let restoring = questions.next().unwrap();
        assert!(questions.next().is_none());
        questions.work_on(restoring);
        assert_eq!(work_on_all(&questions).len(), 3);
        assert_eq!(*lock(&noting.0), ["speed = 1", "1 restored", "fit", "fit", "speed = 3"]);
        assert!(lock(&questions.tasks).lanes.is_empty());
    }

    #[test]
    fn too_many_questions_and_unknown_ones_are_refused() {
        let (questions, _noting, outbox) = questions();
        questions.ask(Header::request("call.of_the_future", 1, 1000), &[0x80]);
        assert_eq!(said(&outbox), [(1, ErrorCode::UnknownKind)]);
        (0..QUESTIONS_MAX as u64).for_each(|id| call(&questions, id + 1));
        assert_eq!(said(&outbox), []);
        call(&questions, 1_000_000);
        assert_eq!(said(&outbox), [(1_000_000, ErrorCode::Busy)]);
    }
}
