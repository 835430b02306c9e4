//! Starts, watches, restarts and ends the processes of one beamline on one host.
//!
//! ```text
//!            start              exit                          delay over
//!  waiting ────────▶ running ──────────▶ waiting 0.1 s … 5 s ────────────▶ running …
//!                       │ stop requested
//!                       ▼
//!                    SIGTERM ─patience▶ SIGKILL       last started first, one after the other
//! ```
//!
//! # Rules
//! S1  Every process is a child in a process group of its own: Ctrl-C in a terminal reaches the
//!     supervisor alone, which ends the others in order.
//! S2  A child gets SIGTERM from the kernel when the supervisor dies, `kill -9` included. One that does
//!     not end by it is found in the list of processes by the next supervisor, which ends it.
//! S3  One supervisor per state folder: it holds a lock on a file there for as long as it lives.
//! S4  A process that fails again and again is started ever more slowly and never given up: the others
//!     do not suffer, and what made it fail may pass.
//! S5  The exception: exit code 2 or 78 at a process's first start means that its configuration is wrong,
//!     and no second start will mend that. Everything is ended and the caller is told.
//! S6  When [`run`] returns, or panics, no process is left.
//! S7  A process that has not ended within the patience is killed, and the caller is told which: what it had still
//!     to do (a file to close) is not done. That the user killed is no error: the user knows.

mod child;
mod leftovers;
mod lock;
mod process;

pub use child::end_with_parent;
pub use lock::LockError;

use lock::StateLock;
pub use process::END_PATIENCE;
use process::{End, Exit, Process};
use std::{ffi::OsString, io, path::PathBuf, process::ExitStatus, time::Duration};

/// How often the processes are looked at. A death is noticed within this time, for a few system calls.
const TICK: Duration = Duration::from_millis(20);

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The program of every process.
    pub program: PathBuf,
    /// In the order of starting; they end in the reverse order.
    pub processes: Vec<ProcessSpec>,
    /// Where the lock and the list of processes are kept. Made when it is missing.
    pub state_folder: PathBuf,
    /// How long each process has to end once it is asked to: [`END_PATIENCE`], where there is no reason for another.
    pub end_patience: Duration,
}

/// One process.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    /// For people; unique in the plan.
    pub name: String,
    pub args: Vec<OsString>,
}

/// What happened, in the order in which it did.
#[derive(Debug)]
pub enum Event<'a> {
    /// A process of an earlier supervisor that was killed was still there, and has been ended.
    LeftoverEnded {
        name: &'a str,
        pid: u32,
    },
    Started {
        name: &'a str,
        pid: u32,
    },
    /// It could not be started.
    NotStarted {
        name: &'a str,
        error: &'a io::Error,
        restart_in: Duration,
    },
    /// It ended by itself or by somebody else's signal.
    Exited {
        name: &'a str,
        status: ExitStatus,
        restart_in: Duration,
    },
    /// It has been asked to end.
    Stopping {
        name: &'a str,
    },
    /// It ended after it was asked to.
    Stopped {
        name: &'a str,
        status: ExitStatus,
    },
    /// It did not end in time, or the user would not wait, and was killed.
    Killed {
        name: &'a str,
    },
}

/// Why the supervisor ended by itself. No process is left running.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A process said at its first start that its configuration cannot work (rule S5). Its own message
    /// is on stderr.
    #[error("{name} cannot run as it is configured (exit code {code}); its message is above")]
    Configuration { name: String, code: i32 },
    /// Processes did not end in time and were killed (rule S7); the others ended well.
    #[error("{} did not stop within {patience:?} and had to be killed; what was to be finished may not be", .names.join(", "))]
    Killed { names: Vec<String>, patience: Duration },
    /// The list of running processes cannot be kept, so nothing was started that could be lost.
    #[error("cannot write {path}: {source}")]
    List { path: PathBuf, source: io::Error },
}

/// Runs the plan until the user asks for its end.
///
/// `stop` waits for at most the given time and returns how often the user has asked for the end so far:
/// the first time ends the processes in order, the second kills what is left. `on_event` is told of all
/// that happens. Both run on the calling thread, which must live as long as the processes are to: the
/// kernel ties them to it (rule S2).
///
/// # Errors
/// Another supervisor has the state folder, a process's configuration cannot work, or one did not end in time.
pub fn run(
    plan: Plan,
    stop: &mut dyn FnMut(Duration) -> u32,
    on_event: &mut dyn FnMut(Event),
) -> Result<(), SupervisorError> {
    let _lock = StateLock::acquire(&plan.state_folder)?;
    leftovers::end(&plan.state_folder, on_event);
    let processes = plan.processes.into_iter().map(|spec| Process::new(plan.program.clone(), spec)).collect();
    let (state_folder, patience) = (plan.state_folder, plan.end_patience);
    let mut supervisor = Supervisor { processes, state_folder, on_event };
    let result = supervisor.watch(stop);
    let names = supervisor.end(patience, stop);
    result?;
    if names.is_empty() { Ok(()) } else { Err(SupervisorError::Killed { names, patience }) }
}

struct Supervisor<'a> {
    processes: Vec<Process>,
    state_folder: PathBuf,
    on_event: &'a mut dyn FnMut(Event),
}

impl Supervisor<'_> {
    fn watch(&mut self, stop: &mut dyn FnMut(Duration) -> u32) -> Result<(), SupervisorError> {
        loop {
            for index in 0..self.processes.len() {
                self.step(index)?;
            }
            if stop(TICK) > 0 {
                return Ok(());
            }
        }
    }

    /// Starts the process if it is due, or notices that it has ended.
    fn step(&mut self, index: usize) -> Result<(), SupervisorError> {
        let process = &mut self.processes[index];
        if process.is_due() {
            return self.start(index);
        }
        let Some(Exit { status, is_at_start, restart_in }) = process.poll() else { return Ok(()) };
        (self.on_event)(Event::Exited { name: process.name(), status, restart_in });
        match status.code() {
            Some(code @ (2 | 78)) if is_at_start => {
                Err(SupervisorError::Configuration { name: process.name().to_owned(), code })
            }
            _ => Ok(()),
        }
    }

    fn start(&mut self, index: usize) -> Result<(), SupervisorError> {
        let process = &mut self.processes[index];
        match process.start() {
            Ok(pid) => {
                (self.on_event)(Event::Started { name: process.name(), pid });
                self.save_list()
            }
            Err(error) => {
                let restart_in = process.delay();
                (self.on_event)(Event::NotStarted { name: process.name(), error: &error, restart_in });
                Ok(())
            }
        }
    }

    fn save_list(&self) -> Result<(), SupervisorError> {
        let running = self.processes.iter().filter_map(|process| Some((process.pid()?, process.name())));
        leftovers::save(&self.state_folder, running)
            .map_err(|source| SupervisorError::List { path: leftovers::path(&self.state_folder), source })
    }

    /// Ends all, the last started first: whoever depends on another one ends before it. Returns those that did not
    /// end in time.
    fn end(&mut self, patience: Duration, stop: &mut dyn FnMut(Duration) -> u32) -> Vec<String> {
        let mut late = Vec::new();
        for process in self.processes.iter_mut().rev().filter(|process| process.pid().is_some()) {
            if process.end(patience, stop, self.on_event) == End::TooLate {
                late.push(process.name().to_owned());
            }
        }
        leftovers::forget(&self.state_folder);
        late
    }
}
