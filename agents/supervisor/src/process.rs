//! One process of the plan: when it is started, what is known of it, and how it ends.

use crate::{Event, ProcessSpec, TICK, child};
use std::{
    io,
    path::PathBuf,
    process::{Child, ExitStatus},
    time::{Duration, Instant},
};

/// Delay before the first restart, doubled each time up to the longest: a process that dies once is
/// back at once, and one that cannot live costs a start every five seconds.
const RESTART_DELAY_FIRST: Duration = Duration::from_millis(100);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(5);
/// A process that has lived this long was well; its next death is a new story.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// A writer must be able to close its file in this time; what takes longer is stuck and is killed.
pub const END_PATIENCE: Duration = Duration::from_secs(10);

enum State {
    Waiting { until: Instant },
    Running { child: Child, since: Instant },
}

/// How a process ended by itself.
pub(crate) struct Exit {
    pub(crate) status: ExitStatus,
    /// It was its first start, and it ended before it could be called well.
    pub(crate) is_at_start: bool,
    pub(crate) restart_in: Duration,
}

/// How a process ended that was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    ByItself,
    /// Killed, as the user would not wait.
    Hurried,
    /// Killed, as the patience was over.
    TooLate,
}

pub(crate) struct Process {
    program: PathBuf,
    spec: ProcessSpec,
    state: State,
    starts: u32,
    /// Before the next start.
    delay: Duration,
}

impl Process {
    pub(crate) fn new(program: PathBuf, spec: ProcessSpec) -> Self {
        let state = State::Waiting { until: Instant::now() };
        Self { program, spec, state, starts: 0, delay: Duration::ZERO }
    }

    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    pub(crate) fn delay(&self) -> Duration {
        self.delay
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.state {
            State::Running { child, .. } => Some(child.id()),
            State::Waiting { .. } => None,
        }
    }

    /// Whether it is time to start it.
    pub(crate) fn is_due(&self) -> bool {
        matches!(self.state, State::Waiting { until } if Instant::now() >= until)
    }

    /// Starts it and returns its pid. After an error it waits for its next turn.
    pub(crate) fn start(&mut self) -> io::Result<u32> {
        match child::spawn(&self.program, &self.spec.args) {
            Ok(child) => {
                let pid = child.id();
                self.starts = self.starts.saturating_add(1);
                self.state = State::Running { child, since: Instant::now() };
                Ok(pid)
            }
            Err(error) => {
                self.wait_longer();
                Err(error)
            }
        }
    }

    /// How it ended, if it was running and has.
    pub(crate) fn poll(&mut self) -> Option<Exit> {
        let State::Running { child, since } = &mut self.state else { return None };
        let status = child::exit_status(child)?;
        let was_well = since.elapsed() >= WELL_AFTER;
        if was_well {
            self.delay = Duration::ZERO;
        }
        self.wait_longer();
        Some(Exit { status, is_at_start: self.starts == 1 && !was_well, restart_in: self.delay })
    }

    fn wait_longer(&mut self) {
        self.delay = (self.delay * 2).clamp(RESTART_DELAY_FIRST, RESTART_DELAY_MAX);
        self.state = State::Waiting { until: Instant::now() + self.delay };
    }

    /// Asks it to end, and kills it when the patience is over or the user has asked for the second time.
    pub(crate) fn end(
        &mut self,
        patience: Duration,
        stop: &mut dyn FnMut(Duration) -> u32,
        on_event: &mut dyn FnMut(Event),
    ) -> End {
        let State::Running { child, .. } = &mut self.state else { return End::ByItself };
        let name = self.spec.name.as_str();
        on_event(Event::Stopping { name });
        child::ask_to_end(child.id());
        let deadline = Instant::now() + patience;
        let end = loop {
            if let Some(status) = child::exit_status(child) {
                on_event(Event::Stopped { name, status });
                break End::ByItself;
            }
            if stop(TICK) > 1 {
                break End::Hurried;
            }
            if Instant::now() >= deadline {
                break End::TooLate;
            }
        };
        if end != End::ByItself {
            child::kill(child);
            on_event(Event::Killed { name });
        }
        self.state = State::Waiting { until: Instant::now() };
        end
    }
}

/// Rule S6: what is still running when the supervisor goes, by a panic too, is killed.
impl Drop for Process {
    fn drop(&mut self) {
        if let State::Running { child, .. } = &mut self.state {
            child::kill(child);
        }
    }
}
