//! Real-time priority for the threads that messages pass, while a host has no core to spare.
//!
//! *Why?* Where images take all cores, a message waits for its turn in each thread that it passes, and an operator's `cancel` waits
//! with it. These threads need little, so they may go first.
//!
//! # Rules
//! R1  Only while less than `REALTIME_IDLE` of a core is idle on the whole host. *Why?* Otherwise the kernel's own choice is better:
//!     it looks for an idle core for whoever wakes, and for a thread of real-time priority it does not.
//! R2  A thread that took more than `REALTIME_SHARE_MAX` of a core between two looks is an ordinary one until it takes less:
//!     whatever is sent to it, images lose no core to it for longer than `REALTIME_LOOK`.
//! R3  Threads and processes that such a thread starts begin as ordinary ones. Which ones go first is known by their names: those
//!     of an agent that talk or run handlers, and those of libzmq; beside them the one that asked for it.
//! R4  It is the lowest real-time priority (`SCHED_RR` 1), so that whatever the host has of its own goes before it.

use crate::{
    limits::{REALTIME_IDLE, REALTIME_LOOK, REALTIME_LOOKS, REALTIME_SHARE_MAX},
    stop::Stop,
};
use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// The name of an agent's threads.
pub(crate) const AGENT_THREAD: &str = "ecs-agent";
/// How names begin of threads that messages pass: of an agent's, and of libzmq's.
const NAMES: [&str; 2] = [AGENT_THREAD, "ZMQbg/"];

/// Sees to the priority of this process's threads; when it is dropped, all are ordinary ones.
pub struct Realtime {
    stop: Stop,
    keeper: Option<JoinHandle<()>>,
}

/// As the kernel numbers them.
type ThreadId = i32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Priority {
    Realtime,
    Ordinary,
}

impl Realtime {
    /// For the threads that messages pass, also those that are started later.
    ///
    /// # Errors
    /// The host does not allow it, or has no room for a thread. Nothing is changed.
    pub fn keep() -> io::Result<Self> {
        Self::start(None)
    }

    /// For the calling thread, too.
    ///
    /// # Errors
    /// As of [`Self::keep`].
    pub fn keep_with_caller() -> io::Result<Self> {
        Self::start(Some(thread_id()))
    }

    fn start(caller: Option<ThreadId>) -> io::Result<Self> {
        let mut host = Host::new()?;
        let stop = Stop::new();
        let its_stop = stop.clone();
        let (tried, result) = mpsc::channel();
        let keep = move || {
            let own = set(thread_id(), Priority::Realtime); // it has to come in time
            let is_allowed = own.is_ok();
            let _ = tried.send(own);
            if !is_allowed {
                return;
            }
            let mut keeper = Keeper::new(caller);
            while !its_stop.wait(REALTIME_LOOK) {
                keeper.look(host.is_full());
            }
        };
        let keeper = thread::Builder::new().name("ecs-realtime".to_owned()).spawn(keep)?;
        result.recv().unwrap_or(Ok(()))?;
        Ok(Self { stop, keeper: Some(keeper) })
    }
}

impl Drop for Realtime {
    fn drop(&mut self) {
        self.stop.request();
        let _ = self.keeper.take().map(JoinHandle::join);
    }
}

/// How long cores of the host were idle, as of the last looks.
struct Host {
    looks: VecDeque<(Instant, Duration)>,
}

impl Host {
    fn new() -> io::Result<Self> {
        Ok(Self { looks: [(Instant::now(), idle_time()?)].into() })
    }

    /// Whether it has no core to spare (rule R1).
    fn is_full(&mut self) -> bool {
        let Ok(idle) = idle_time() else { return false };
        let at = Instant::now();
        self.looks.push_back((at, idle));
        if self.looks.len() <= REALTIME_LOOKS {
            return false;
        }
        let (since, before) = self.looks.pop_front().expect("one was put there");
        idle.saturating_sub(before) < (at - since).mul_f64(REALTIME_IDLE)
    }
}

/// Of all cores together, since the host was started.
fn idle_time() -> io::Result<Duration> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    let seconds = uptime.split_whitespace().nth(1).and_then(|seconds| seconds.parse().ok());
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/uptime: {uptime:?}"));
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or_else(unknown)
}

/// What is known of a thread that goes first, or did.
struct Seen {
    at: Instant,
    /// CPU time that it has taken in all.
    taken: Duration,
    priority: Priority,
}

struct Keeper {
    /// One that goes first whatever its name is.
    caller: Option<ThreadId>,
    /// Empty while the host has cores to spare.
    threads: HashMap<ThreadId, Seen>,
}

impl Keeper {
    fn new(caller: Option<ThreadId>) -> Self {
        Self { caller, threads: HashMap::new() }
    }

    fn look(&mut self, is_full: bool) {
        if !is_full {
            return self.end();
        }
        let threads = threads();
        self.threads.retain(|thread, _| threads.contains(thread));
        for thread in threads {
            if Some(thread) == self.caller || is_named(thread) {
                self.look_at(thread);
            }
        }
    }

    fn look_at(&mut self, thread: ThreadId) {
        let Some(taken) = taken(thread) else { return }; // it has ended
        let at = Instant::now();
        let seen = self.threads.entry(thread).or_insert(Seen { at, taken, priority: Priority::Ordinary });
        let allowed = (at - seen.at).mul_f64(REALTIME_SHARE_MAX);
        let takes_much = taken.saturating_sub(seen.taken) > allowed;
        let priority = if takes_much { Priority::Ordinary } else { Priority::Realtime };
        if priority != seen.priority {
            let _ = set(thread, priority); // an error: it has ended
        }
        *seen = Seen { at, taken, priority };
    }

    fn end(&mut self) {
        let hurried = self.threads.drain().filter(|(_, seen)| seen.priority == Priority::Realtime);
        hurried.for_each(|(thread, _)| drop(set(thread, Priority::Ordinary)));
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}

/// Of this process.
fn threads() -> Vec<ThreadId> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
}

fn is_named(thread: ThreadId) -> bool {
    let name = fs::read_to_string(format!("/proc/self/task/{thread}/comm"));
    name.is_ok_and(|name| NAMES.iter().any(|beginning| name.starts_with(beginning)))
}

/// CPU time of a thread.
fn taken(thread: ThreadId) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

fn thread_id() -> ThreadId {
    rustix::thread::gettid().as_raw_nonzero().get()
}

fn set(thread: ThreadId, priority: Priority) -> io::Result<()> {
    let (policy, sched_priority) = match priority {
        Priority::Realtime => (libc::SCHED_RR, 1),
        Priority::Ordinary => (libc::SCHED_OTHER, 0),
    };
    let policy = policy | libc::SCHED_RESET_ON_FORK; // R3; who has set it may not take it away without CAP_SYS_NICE
    let parameter = libc::sched_param { sched_priority };
    // SAFETY: the call reads the parameter, which lives across it, and nothing else.
    match unsafe { libc::sched_setscheduler(thread, policy, &raw const parameter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that waits, or spins, until it is told to end.
    struct Thread {
        id: ThreadId,
        end: Stop,
        thread: Option<JoinHandle<()>>,
    }

    impl Thread {
        fn start(name: &str, spins: bool) -> Self {
            let (end, (id, ids)) = (Stop::new(), mpsc::channel());
            let its_end = end.clone();
            let work = move || {
                id.send(thread_id()).unwrap();
                while !its_end.wait(if spins { Duration::ZERO } else { Duration::from_secs(60) }) {}
            };
            let thread = thread::Builder::new().name(name.to_owned()).spawn(work).unwrap();
            Self { id: ids.recv().unwrap(), end, thread: Some(thread) }
        }
    }

    impl Drop for Thread {
        fn drop(&mut self) {
            self.end.request();
            self.thread.take().map(JoinHandle::join);
        }
    }

    fn is_realtime(thread: ThreadId) -> bool {
        // SAFETY: it only reads what the kernel knows of the thread.
        let policy = unsafe { libc::sched_getscheduler(thread) };
        assert!(policy >= 0, "{}", io::Error::last_os_error());
        policy & !libc::SCHED_RESET_ON_FORK == libc::SCHED_RR
    }

    fn is_allowed() -> bool {
        let tried = thread::spawn(|| set(thread_id(), Priority::Realtime)).join().unwrap();
        tried.inspect_err(|error| assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}")).is_ok()
    }

    #[test]
    fn threads_that_messages_pass_go_first_while_the_host_is_full_and_only_those_that_take_little() {
        let [agent, zmq, other] = ["ecs-agent", "ZMQbg/IO/0", "job-1"].map(|name| Thread::start(name, false));
        let [caller, spinning] = ["main", "ecs-agent"].map(|name| Thread::start(name, name != "main"));
        let mut keeper = Keeper::new(Some(caller.id));
        keeper.look(false);
        let now = || [&agent, &zmq, &caller, &other, &spinning].map(|thread| is_realtime(thread.id));
        assert_eq!(now(), [false; 5], "there are cores to spare");
        keeper.look(true);
        let first = if is_allowed() { [true, true, true, false, true] } else { [false; 5] };
        assert_eq!(now(), first);
        let start = Instant::now();
        while now()[4] && start.elapsed() < Duration::from_secs(10) {
            thread::sleep(REALTIME_LOOK);
            keeper.look(true);
        }
        assert_eq!(now(), [first[0], first[1], first[2], false, false], "one that spins takes too much");
        drop(keeper);
        assert_eq!(now(), [false; 5]);
    }

    #[test]
    fn what_it_starts_is_ordinary_and_a_host_that_does_not_allow_it_says_so() {
        let began = thread::spawn(|| {
            set(thread_id(), Priority::Realtime)?;
            io::Result::Ok((is_realtime(thread_id()), thread::spawn(|| is_realtime(thread_id())).join().unwrap()))
        });
        match began.join().unwrap() {
            Ok(began) => assert_eq!((began, Realtime::keep().is_ok()), ((true, false), true)),
            Err(_) => {
                assert_eq!(Realtime::keep().err().map(|error| error.kind()), Some(io::ErrorKind::PermissionDenied))
            }
        }
    }

    #[test]
    fn a_host_is_full_while_all_of_its_cores_are_busy() {
        let mut host = Host::new().unwrap();
        let wait_until = |host: &mut Host, is_full: bool| {
            let start = Instant::now();
            while host.is_full() != is_full {
                assert!(start.elapsed() < Duration::from_secs(60), "it is never full, or always");
                thread::sleep(REALTIME_LOOK);
            }
        };
        let threads = thread::available_parallelism().unwrap().get();
        let spinning: Vec<_> = (0..threads).map(|_| Thread::start("spins", true)).collect();
        wait_until(&mut host, true);
        drop(spinning);
        // Others may take all cores of the host, but not for ever.
        wait_until(&mut host, false);
    }
}
