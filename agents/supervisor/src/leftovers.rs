//! The list of running processes, for the supervisor after one that was killed (rule S2).
//!
//! `up.processes` in the state folder: the boot's id on the first line, then `pid start_ticks name` for
//! each process. A pid alone is not trusted, it may be another process by now; pid, start and boot
//! together name one process only.

use crate::{Event, child};
use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

const LIST_FILE: &str = "up.processes";
/// Leftovers have had their SIGTERM from the kernel already; one more and this long is enough.
const PATIENCE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);

pub(crate) fn path(state_folder: &Path) -> PathBuf {
    state_folder.join(LIST_FILE)
}

/// Replaces the list. A reader sees the old or the new one whole.
pub(crate) fn save<'a>(state_folder: &Path, running: impl Iterator<Item = (u32, &'a str)>) -> io::Result<()> {
    let mut text = boot_id() + "\n";
    for (pid, name) in running {
        if let Some(start_ticks) = start_ticks(pid) {
            text += &format!("{pid} {start_ticks} {name}\n");
        }
    }
    let list = path(state_folder);
    let new = list.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, list)
}

/// All have ended.
pub(crate) fn forget(state_folder: &Path) {
    let _ = fs::remove_file(path(state_folder)); // a stale list names only processes that are gone
}

/// Ends what an earlier supervisor left running.
pub(crate) fn end(state_folder: &Path, on_event: &mut dyn FnMut(Event)) {
    let text = fs::read_to_string(path(state_folder)).unwrap_or_default();
    let mut lines = text.lines();
    if lines.next() != Some(&boot_id()) {
        return;
    }
    let found: Vec<Leftover> = lines.filter_map(Leftover::parse).filter(Leftover::is_alive).collect();
    for leftover in &found {
        child::ask_to_end(leftover.pid);
    }
    let deadline = Instant::now() + PATIENCE;
    for leftover in &found {
        leftover.wait_for_end(deadline);
        on_event(Event::LeftoverEnded { name: leftover.name, pid: leftover.pid });
    }
}

struct Leftover<'a> {
    pid: u32,
    start_ticks: u64,
    name: &'a str,
}

impl<'a> Leftover<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.splitn(3, ' ');
        let pid = parts.next()?.parse().ok().filter(|&pid| pid > 1)?;
        Some(Self { pid, start_ticks: parts.next()?.parse().ok()?, name: parts.next()? })
    }

    fn is_alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// Kills it at the deadline. One that cannot be killed, because it is another user's, is left.
    fn wait_for_end(&self, deadline: Instant) {
        while self.is_alive() && Instant::now() < deadline + PATIENCE {
            if Instant::now() >= deadline {
                child::kill_group(self.pid);
            }
            thread::sleep(POLL);
        }
    }
}

/// When a process that has not ended was started, in ticks since the boot: field 22 of
/// `/proc/<pid>/stat` (proc(5)). The second field, the command in brackets, may hold spaces.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut after_command = stat.rsplit_once(") ")?.1.split(' ');
    let state = after_command.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    after_command.nth(18)?.parse().ok()
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
