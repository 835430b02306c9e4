//! Which core a thread runs on: a leg whose threads wander measures the scheduler, too.

use anyhow::Context;
use ecs_sdk::cores::Cores;

/// Keeps the calling thread on one core, and what it starts from now on.
///
/// # Errors
/// There is no such core, or it is not this process's.
pub fn pin(core: u32) -> anyhow::Result<()> {
    Cores::one(core, "a benchmark")?.keep_thread().with_context(|| format!("cannot stay on core {core}"))
}

/// Does something on one core, and lets the thread go where it was before. A process that is started there stays there.
///
/// # Errors
/// As of [`pin`]; or the first of `act`.
pub fn on_core<T>(core: u32, act: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let before = Cores::of_thread();
    pin(core)?;
    let done = act();
    before.keep_thread()?;
    done
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
