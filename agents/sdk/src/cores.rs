//! Threads on cores of the host that are named: those whose caches and whose turn matter, readout and assembler, and all the others
//! out of their way.

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
    /// As of [`Self::these`].
    pub fn one(core: u32, setting: &'static str) -> Result<Self, CoreError> {
        Self::these(&[core], setting)
    }

    /// Cores that `setting` names.
    ///
    /// # Errors
    /// One is not there, or kept from this process.
    pub fn these(cores: &[u32], setting: &'static str) -> Result<Self, CoreError> {
        let mine = Self::of_host().numbers();
        if let Some(&core) = cores.iter().find(|core| !mine.contains(core)) {
            let available = mine.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            return Err(CoreError { setting, core, available });
        }
        let mut these = CpuSet::new();
        cores.iter().for_each(|&core| these.set(core as usize));
        Ok(Self(these))
    }

    /// All that the host lets a thread of this process take. The calling one asks for all of them for a moment: where it is now
    /// may be where a configuration keeps it, or who started the process.
    fn of_host() -> Self {
        let (before, mut all) = (Self::of_thread(), CpuSet::new());
        (0..CORES_MAX).for_each(|core| all.set(core));
        let available = Self(all).keep_thread().map_or_else(|_| before.clone(), |()| Self::of_thread());
        let _ = before.keep_thread();
        available
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
    fn a_thread_leaves_the_cores_of_the_one_that_started_it_for_its_own() {
        let cores = Cores::of_thread().numbers();
        let (first, last) = (cores[0], cores[cores.len() - 1]);
        let kept = std::thread::spawn(move || {
            Cores::these(&[first], "beamline.cores").unwrap().keep_thread().unwrap();
            let own = Cores::one(last, "readout.cores").unwrap();
            assert_eq!(Cores::of_thread().numbers(), [first], "to ask changes nothing");
            own.keep_thread().unwrap();
            Cores::of_thread().numbers()
        });
        assert_eq!(kept.join().unwrap(), [last]);
        let all = Cores::these(&cores, "beamline.cores").unwrap();
        assert_eq!(all.numbers(), cores);
        let refused = Cores::these(&[first, CORES_MAX as u32], "beamline.cores").unwrap_err();
        assert_eq!((refused.setting, refused.core), ("beamline.cores", CORES_MAX as u32));
    }

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
