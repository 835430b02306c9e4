//! A thread on one core of the host, for those whose caches and whose turn matter: readout and assembler.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Cores that a configuration may name: what the C library's set of them holds.
pub const CORES_MAX: usize = CpuSet::MAX_CPU;

/// Why a thread cannot be kept on a core.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: this process may not use core {core}; it may use {available}")]
pub struct CoreError {
    /// The key in the configuration.
    pub setting: &'static str,
    pub core: u32,
    pub available: String,
}

/// A core that this process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Core(u32);

impl Core {
    /// # Errors
    /// It is not there, or kept from this process.
    pub fn new(core: u32, setting: &'static str) -> Result<Self, CoreError> {
        let cores = available();
        if cores.contains(&core) {
            return Ok(Self(core));
        }
        let available = cores.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        Err(CoreError { setting, core, available })
    }

    /// Keeps the calling thread, and those that it starts from now on, on this core.
    ///
    /// # Errors
    /// The kernel has taken the core away meanwhile.
    pub fn keep_thread(self) -> std::io::Result<()> {
        let mut one = CpuSet::new();
        one.set(self.0 as usize);
        Ok(sched_setaffinity(None, &one)?)
    }
}

/// The cores that the calling thread may use, as it was started; none where the kernel does not tell.
fn available() -> Vec<u32> {
    let set = sched_getaffinity(None).unwrap_or_default();
    (0..CORES_MAX).filter(|&core| set.is_set(core)).map(|core| core as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_kept_where_it_is_told_and_a_core_that_is_not_there_is_named() {
        let cores = available();
        let core = *cores.last().expect("a process runs somewhere");
        let kept = std::thread::spawn(move || {
            Core::new(core, "readout.cores").unwrap().keep_thread().unwrap();
            available()
        });
        assert_eq!(kept.join().unwrap(), [core]);
        assert_eq!(available(), cores, "of other threads nothing is changed");
        let refused = Core::new(CORES_MAX as u32, "readout.cores").unwrap_err().to_string();
        assert!(refused.starts_with("readout.cores: this process may not use core 1024; it may use "), "{refused}");
        assert!(refused.contains(&core.to_string()), "{refused}");
    }
}
