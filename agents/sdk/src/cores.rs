//! Threads on cores of the host that are named, for those whose caches and whose turn matter: readout and assembler.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;

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

/// Cores that a thread may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores(CpuSet);

impl Cores {
    /// One core, which `setting` names.
    ///
    /// # Errors
    /// It is not there, or kept from this process.
    pub fn one(core: u32, setting: &'static str) -> Result<Self, CoreError> {
        let mine = Self::of_thread().numbers();
        if !mine.contains(&core) {
            let available = mine.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            return Err(CoreError { setting, core, available });
        }
        let mut one = CpuSet::new();
        one.set(core as usize);
        Ok(Self(one))
    }

    /// Those of the calling thread; none where the kernel does not tell.
    pub fn of_thread() -> Self {
        Self(sched_getaffinity(None).unwrap_or_default())
    }

    /// Keeps the calling thread, and those that it starts from now on, on these cores.
    ///
    /// # Errors
    /// The kernel has taken them away meanwhile.
    pub fn keep_thread(&self) -> io::Result<()> {
        Ok(sched_setaffinity(None, &self.0)?)
    }

    fn numbers(&self) -> Vec<u32> {
        (0..CORES_MAX).filter(|&core| self.0.is_set(core)).map(|core| core as u32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_kept_where_it_is_told_and_a_core_that_is_not_there_is_named() {
        let cores = Cores::of_thread();
        let core = *cores.numbers().last().expect("a process runs somewhere");
        let kept = std::thread::spawn(move || {
            Cores::one(core, "readout.cores").unwrap().keep_thread().unwrap();
            Cores::of_thread().numbers()
        });
        assert_eq!(kept.join().unwrap(), [core]);
        assert_eq!(Cores::of_thread(), cores, "of other threads nothing is changed");
        let refused = Cores::one(CORES_MAX as u32, "readout.cores").unwrap_err().to_string();
        assert!(refused.starts_with("readout.cores: this process may not use core 1024; it may use "), "{refused}");
        assert!(refused.contains(&core.to_string()), "{refused}");
    }
}
