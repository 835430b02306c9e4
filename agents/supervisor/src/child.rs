//! Child processes: started so that they cannot outlive the supervisor, and signalled by their group.
//!
//! The one module of this crate with `unsafe`: the standard library neither ties a child's life to its
//! parent's nor sends SIGTERM.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

pub(crate) fn spawn(program: &Path, args: &[OsString]) -> io::Result<Child> {
    end_with_parent(Command::new(program).args(args)).spawn()
}

/// What `command` starts will be in a group of its own, and the kernel will send it SIGTERM when the thread that starts it ends,
/// by `kill -9` too.
pub fn end_with_parent(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    // A background process that reads from the terminal would be stopped by it.
    command.stdin(Stdio::null()).process_group(0);
    // SAFETY: the closure runs in the child between fork and exec, where only async-signal-safe calls
    // are allowed: prctl and getppid are plain system calls, and the errors that it makes do not allocate.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before prctl took effect; then no signal will ever come.
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        })
    }
}

/// The status of a child that has ended. A child that somebody else has reaped counts as killed: there
/// is nothing more to wait for.
pub(crate) fn exit_status(child: &mut Child) -> Option<ExitStatus> {
    child.try_wait().unwrap_or_else(|_| {
        use std::os::unix::process::ExitStatusExt;
        Some(ExitStatus::from_raw(libc::SIGKILL))
    })
}

/// SIGTERM to the group of a process, and SIGCONT, without which a stopped process would not see it.
pub(crate) fn ask_to_end(pid: u32) {
    signal_group(pid, libc::SIGTERM);
    signal_group(pid, libc::SIGCONT);
}

/// Kills the group of a child and waits for the child's end, which SIGKILL cannot fail to bring.
pub(crate) fn kill(child: &mut Child) {
    kill_group(child.id());
    let _ = child.wait();
}

pub(crate) fn kill_group(pid: u32) {
    signal_group(pid, libc::SIGKILL);
}

fn signal_group(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).expect("pids are positive and fit 22 bits");
    assert!(pid > 1, "group {pid} would be every process");
    // SAFETY: kill takes two integers and touches no memory of ours. A group that is gone is ESRCH, which
    // is what the caller wants.
    unsafe { libc::kill(-pid, signal) };
}
