//! Who a participant is: a pid together with the start time of that process, so that a pid which
//! another process has got since is not taken for it.

/// A process of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessId {
    pub pid: u32,
    /// Clock ticks after boot, field 22 of `/proc/<pid>/stat` (proc(5)); 0 = not known.
    pub start_time: u64,
}

/// Tells whether a process still runs. An argument of everything that asks, so that tests decide.
pub trait Liveness {
    fn is_alive(&self, process: ProcessId) -> bool;
}

/// The truth, from `/proc`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Proc;

impl Liveness for Proc {
    fn is_alive(&self, process: ProcessId) -> bool {
        match start_time(process.pid) {
            Some(start_time) => process.start_time == 0 || process.start_time == start_time,
            None => false,
        }
    }
}

/// One answer for every process: for tests, and where a dead process may be taken for a living one.
#[derive(Debug, Clone, Copy)]
pub struct Assume(pub bool);

impl Liveness for Assume {
    fn is_alive(&self, _: ProcessId) -> bool {
        self.0
    }
}

impl ProcessId {
    /// This process.
    pub fn current() -> Self {
        let pid = std::process::id();
        Self { pid, start_time: start_time(pid).unwrap_or(0) }
    }
}

/// None if there is no such process, or only its zombie: that one touches no memory any more. While a
/// process is being killed, its first thread may be a zombie before the others have stopped.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1; // the name may hold spaces and parentheses itself
    let mut fields = after_name.split_ascii_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X"); // field 3
    let threads: u64 = fields.nth(16)?.parse().ok()?; // field 20
    if has_ended && threads <= 1 {
        return None;
    }
    fields.nth(1)?.parse().ok() // field 22
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_another_start_time_of_its_pid_does_not() {
        let me = ProcessId::current();
        assert!(me.start_time > 0);
        assert!(Proc.is_alive(me));
        assert!(!Proc.is_alive(ProcessId { start_time: me.start_time + 1, ..me }));
    }

    #[test]
    fn a_process_that_ended_is_dead_also_as_a_zombie() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("sleep runs");
        let id = ProcessId { pid: child.id(), start_time: start_time(child.id()).expect("it runs") };
        assert!(Proc.is_alive(id));
        child.kill().expect("it can be killed");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while Proc.is_alive(id) {
            assert!(std::time::Instant::now() < deadline, "a zombie counts as alive");
            std::thread::yield_now();
        }
        child.wait().expect("it ended");
        assert!(!Proc.is_alive(id));
    }
}
