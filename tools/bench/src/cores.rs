//! Which core a thread runs on: a leg whose threads wander measures the scheduler, too.

use anyhow::Context;
use std::{io, mem};

/// Keeps the calling thread on one core, and what it starts from now on.
///
/// # Errors
/// There is no such core, or it is not this process's.
pub fn pin(core: usize) -> anyhow::Result<()> {
    // SAFETY: a set of zeros is an empty one, and the core is far below its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(core, &mut set);
        set
    };
    set_affinity(&set).with_context(|| format!("cannot stay on core {core}"))
}

/// Does something on one core, and lets the thread go where it was before. A process that is started there stays there.
///
/// # Errors
/// As of [`pin`]; or the first of `act`.
pub fn on_core<T>(core: usize, act: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    // SAFETY: all zeros is a set, which the call fills; it lives over the call and has the size that is told.
    let before = unsafe {
        let mut before: libc::cpu_set_t = mem::zeroed();
        let result = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut before);
        anyhow::ensure!(result == 0, "cannot tell the cores of a thread: {}", io::Error::last_os_error());
        before
    };
    pin(core)?;
    let done = act();
    set_affinity(&before)?;
    done
}

fn set_affinity(set: &libc::cpu_set_t) -> io::Result<()> {
    // SAFETY: the set lives over the call and has the size that is told.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{process::Command, thread};

    /// The shell tells its own cores, as the kernel lists them.
    fn cores_of_a_child() -> String {
        let output = Command::new("grep").args(["Cpus_allowed_list", "/proc/self/status"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split_whitespace().last().unwrap().to_owned()
    }

    #[test]
    fn a_process_that_is_started_on_a_core_stays_there_and_the_thread_goes_back() {
        let before = thread::available_parallelism().unwrap();
        let all = cores_of_a_child();
        assert_eq!(on_core(0, || Ok(cores_of_a_child())).unwrap(), "0");
        assert_eq!((cores_of_a_child(), thread::available_parallelism().unwrap()), (all, before));
        let error = on_core(1000, || Ok(())).unwrap_err();
        assert!(error.to_string().contains("core 1000"), "{error:#}");
    }
}
