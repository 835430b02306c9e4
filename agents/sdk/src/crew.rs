//! The threads of an agent: who has the connection, and who runs handlers.
//!
//! ```text
//! leader ── question ─▶ handler ── answer ─▶ leader …         a quick handler wakes no other thread
//!    └─ a handler takes long ─▶ the one that stands by leads on; the old leader ends its handler, hands its answer in
//!                               by the outbox, and stands by or waits
//! ```
//!
//! # Rules
//! C1  One thread has the connection. It lends it while it runs a handler, and takes it back unless it is gone.
//! C2  A handler is begun only while another thread stands by, which looks after `HANDLER_PATIENCE`: so no handler keeps
//!     others, or the agent's sign of life, from going on for longer.
//! C3  When all `THREADS_MAX` run handlers, questions wait; the first that ends stands by and wakes the leader.
//!
//! *Why not a thread for each question?* Two threads would wake for each: on a quick call that is most of its time.

use crate::{
    connection::Connection,
    hosting::HostNews,
    job::text_of,
    limits::{HANDLER_PATIENCE, HANDLERS_SLICE, THREAD_IDLE, THREADS_MAX},
    outbox::Outbox,
    questions::{Questions, Task},
    realtime::AGENT_THREAD,
    timer::Timer,
};
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// The agent's side of its threads.
pub struct Crew(Arc<Shared>);

struct Shared {
    posts: Mutex<Posts>,
    changed: Condvar,
    /// For the one that stands by.
    timer: Timer,
    questions: Arc<Questions>,
    outbox: Arc<Outbox>,
}

#[derive(Default)]
struct Posts {
    /// The connection while its leader runs a handler, and since when.
    lent: Option<(Box<Connection>, Instant)>,
    /// How often it was lent.
    loans: u64,
    is_armed: bool,
    has_standby: bool,
    /// An idle thread is to stand by.
    standby_wanted: bool,
    idle: usize,
    threads: usize,
    is_over: bool,
}

/// What a thread does next.
enum Post {
    Lead(Box<Connection>),
    StandBy,
    Wait,
    Leave,
}

impl Crew {
    /// Starts with the thread that leads.
    ///
    /// # Errors
    /// Out of threads or file descriptors.
    pub fn start(connection: Box<Connection>, questions: Arc<Questions>, outbox: Arc<Outbox>) -> io::Result<Self> {
        let (posts, changed, timer) = (Mutex::default(), Condvar::new(), Timer::new()?);
        let shared = Arc::new(Shared { posts, changed, timer, questions, outbox });
        shared.lock().threads = 1;
        shared.spawn(Post::Lead(connection))?;
        Ok(Self(shared))
    }

    /// Returns when the agent has left.
    pub fn wait_left(&self) {
        let left = self.0.changed.wait_while(self.0.lock(), |posts| !posts.is_over);
        drop(left.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Posts> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread that is counted already.
    fn spawn(self: &Arc<Self>, post: Post) -> io::Result<()> {
        let shared = Arc::clone(self);
        let serve = move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| shared.serve(post))) {
                tracing::error!("a thread of the agent panicked: {}", text_of(&*panic));
                shared.end();
            }
        };
        thread::Builder::new().name(AGENT_THREAD.to_owned()).spawn(serve).map(drop)
    }

    fn serve(self: &Arc<Self>, mut post: Post) {
        loop {
            post = match post {
                Post::Lead(connection) => self.lead(connection),
                Post::StandBy => self.stand_by(),
                Post::Wait => self.wait(),
                Post::Leave => break,
            };
        }
        self.lock().threads -= 1;
    }

    fn lead(self: &Arc<Self>, mut connection: Box<Connection>) -> Post {
        loop {
            let is_for_now = self.questions.has_ready() && self.has_standby();
            if !connection.turn(!is_for_now) {
                drop(connection);
                self.end();
                return Post::Leave;
            }
            match self.work(connection) {
                Ok(back) => connection = back,
                Err(post) => return post,
            }
        }
    }

    /// Runs the handlers of what was asked; returns the connection, or what to do without it.
    fn work(self: &Arc<Self>, mut connection: Box<Connection>) -> Result<Box<Connection>, Post> {
        let begun = Instant::now();
        let mut now = begun;
        while now - begun < HANDLERS_SLICE
            && self.questions.has_ready()
            && self.has_standby()
            && let Some(task) = self.questions.next()
        {
            connection = self.run(task, connection, now)?;
            now = Instant::now();
        }
        Ok(connection)
    }

    /// Rule C1.
    fn run(&self, task: Task, connection: Box<Connection>, now: Instant) -> Result<Box<Connection>, Post> {
        let loan = self.lend(connection, now);
        let answer = self.questions.work_on(task);
        let mut posts = self.lock();
        if posts.loans == loan
            && let Some((mut connection, _)) = posts.lent.take()
        {
            drop(posts);
            connection.answers.extend(answer);
            return Ok(connection);
        }
        let post = if posts.has_standby || posts.is_over { Post::Wait } else { Post::StandBy };
        posts.has_standby = true; // before the leader wakes (C3)
        drop(posts);
        match answer {
            Some(answer) => self.outbox.host(HostNews::Say(Box::new(answer))),
            None => self.outbox.wake(), // what waited for this task is ready
        }
        Err(post)
    }

    fn lend(&self, connection: Box<Connection>, now: Instant) -> u64 {
        let mut posts = self.lock();
        posts.lent = Some((connection, now));
        posts.loans += 1;
        self.arm(&mut posts, HANDLER_PATIENCE);
        posts.loans
    }

    fn arm(&self, posts: &mut Posts, after: Duration) {
        if !posts.is_armed {
            posts.is_armed = true;
            self.timer.set(after);
        }
    }

    /// Rule C2: true once another thread stands by.
    fn has_standby(self: &Arc<Self>) -> bool {
        let mut posts = self.lock();
        if posts.has_standby {
            return true;
        }
        if posts.idle > 0 {
            (posts.has_standby, posts.standby_wanted) = (true, true);
            self.changed.notify_all(); // who waits for the agent's end waits here too
            return true;
        }
        if posts.threads >= THREADS_MAX {
            return false;
        }
        (posts.has_standby, posts.threads) = (true, posts.threads + 1);
        drop(posts);
        if let Err(error) = self.spawn(Post::StandBy) {
            tracing::error!("no thread for a handler: {error}");
            let mut posts = self.lock();
            (posts.has_standby, posts.threads) = (false, posts.threads - 1);
            return false;
        }
        true
    }

    /// Leads on when a handler takes long.
    fn stand_by(&self) -> Post {
        loop {
            self.timer.wait();
            let mut posts = self.lock();
            posts.is_armed = false;
            if posts.is_over {
                return Post::Leave;
            }
            let Some((_, since)) = &posts.lent else { continue };
            let lasts = since.elapsed();
            if lasts < HANDLER_PATIENCE {
                self.arm(&mut posts, HANDLER_PATIENCE - lasts);
            } else if let Some((connection, _)) = posts.lent.take() {
                posts.has_standby = false;
                return Post::Lead(connection);
            }
        }
    }

    fn wait(&self) -> Post {
        let mut posts = self.lock();
        posts.idle += 1;
        let waited =
            self.changed.wait_timeout_while(posts, THREAD_IDLE, |posts| !posts.standby_wanted && !posts.is_over);
        posts = waited.unwrap_or_else(PoisonError::into_inner).0;
        posts.idle -= 1;
        if std::mem::take(&mut posts.standby_wanted) { Post::StandBy } else { Post::Leave }
    }

    /// The agent has left: all threads go, those in handlers when these return.
    fn end(&self) {
        let mut posts = self.lock();
        posts.is_over = true;
        self.timer.set(Duration::ZERO);
        self.changed.notify_all();
    }
}
