//! Who a participant is: a pid together with the start time of that process, so that a pid which
//! another process has got since is not taken for it.

use std::io;

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
            Ok(Some(start_time)) => process.start_time == 0 || process.start_time == start_time,
            Ok(None) => false,
            // Out of file descriptors, or not allowed to look: nobody is declared dead for that.
            Err(_) => true,
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
        Self { pid, start_time: start_time(pid).ok().flatten().unwrap_or(0) }
    }
}

/// None if there is no such process, or only its zombie: that one touches no memory any more. While a
/// process is being killed, its first thread may be a zombie before the others have stopped.
///
/// # Errors
/// `/proc` cannot be read, or has another form than proc(5) says.
fn start_time(pid: u32) -> io::Result<Option<u64>> {
    let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None), // it ended meanwhile
        Err(error) => return Err(error),
    };
    let strange = || io::Error::new(io::ErrorKind::InvalidData, stat.clone());
    let after_name = stat.rsplit_once(')').ok_or_else(strange)?.1; // the name may hold spaces and ')' itself
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok()).ok_or_else(strange);
    let has_ended = matches!(fields.first(), Some(&"Z" | &"X"));
    let (threads, start_time) = (number(20)?, number(22)?);
    Ok((!has_ended || threads > 1).then_some(start_time))
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
        let id = ProcessId { pid: child.id(), start_time: start_time(child.id()).expect("/proc").expect("it runs") };
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
