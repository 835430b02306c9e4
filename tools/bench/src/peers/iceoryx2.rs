//! iceoryx2 publish/subscribe between processes, beside the ring: a program of its own, `tools/bench/iceoryx2-peer`.
//!
//! ```text
//! this process ──start──▶ publisher ══shm══▶ subscribers        figures ◀── its output, a name and a number a line
//! ```

use super::{last_lines, start_peer};
use crate::running;
use anyhow::{Context, bail};
use std::{
    env, fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

const PROGRAM: &str = "ecs-iceoryx2-peer";
/// Where `tools/bench-peers` puts it, from the folder of this program.
const BUILT_IN: &str = "../iceoryx2-peer/release";
/// It ends so long after its leg: its subscribers start before, and print all their times after it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The peer's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iceoryx2 {
    program: PathBuf,
    /// Of iceoryx2.
    pub version: String,
}

impl Iceoryx2 {
    /// # Errors
    /// It is not there, and what brings it; or it does not start.
    pub fn find() -> anyhow::Result<Self> {
        let this = env::current_exe().context("cannot find this program's own file")?;
        let folder = this.parent().context("this program has no folder")?;
        let path = env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> =
            [folder.join(BUILT_IN), folder.to_owned()].into_iter().chain(env::split_paths(&path)).collect();
        Self::find_in(&folders)
    }

    fn find_in(folders: &[PathBuf]) -> anyhow::Result<Self> {
        let program = folders.iter().map(|folder| folder.join(PROGRAM)).find(|program| program.is_file());
        let program = program.with_context(|| {
            format!("--peers needs {PROGRAM}, which is not built here; call tools/bench-peers ring, which builds it")
        })?;
        let output = Command::new(&program).arg("version").output();
        let output = output.with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { program, version: String::from_utf8_lossy(&output.stdout).trim().to_owned() })
    }

    /// Median time of one way to a subscriber that spins, without that of the clocks.
    ///
    /// # Errors
    /// It does not run to its end; its last words are told.
    pub fn handoff_ns(&self, leg: Duration, bytes: usize, pace: Duration) -> anyhow::Result<f64> {
        let said = self.run(leg, &["handoff", &bytes.to_string(), &seconds(leg), &pace.as_nanos().to_string()])?;
        Ok(figure(&said, "p50_ns")? - figure(&said, "clock_ns")?)
    }

    /// Messages per second that each of `subscribers` gets.
    ///
    /// # Errors
    /// As of [`Self::handoff_ns`].
    pub fn messages_per_s(&self, leg: Duration, bytes: usize, depth: usize, subscribers: usize) -> anyhow::Result<f64> {
        let (bytes, depth, subscribers) = (bytes.to_string(), depth.to_string(), subscribers.to_string());
        let said = self.run(leg, &["rate", &bytes, &seconds(leg), &depth, &subscribers])?;
        figure(&said, "messages_per_s")
    }

    /// What it says.
    fn run(&self, leg: Duration, arguments: &[&str]) -> anyhow::Result<String> {
        let folder = running::temporary_folder()?;
        let (process, log) = start_peer(Command::new(&self.program).args(arguments), folder.path())?;
        let start = Instant::now();
        while !process.has_ended() {
            if start.elapsed() > leg + PATIENCE {
                bail!(
                    "{PROGRAM} did not end within {PATIENCE:?} of its leg; the last that it said:\n{}",
                    last_lines(&log)
                );
            }
            thread::sleep(Duration::from_millis(2));
        }
        drop(process);
        fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))
    }
}

fn seconds(leg: Duration) -> String {
    leg.as_secs_f64().to_string()
}

/// The number behind `name`.
fn figure(said: &str, name: &str) -> anyhow::Result<f64> {
    let value = said.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    value.with_context(|| format!("{PROGRAM} has not measured {name}; it said:\n{said}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A script in the program's place.
    fn peer(script: &str) -> (tempfile::TempDir, Iceoryx2) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join(PROGRAM);
        fs::write(&program, format!("#!/bin/sh\n[ $1 = version ] && echo 0.0 && exit\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let peer = Iceoryx2::find_in(&[folder.path().to_owned()]).unwrap();
        (folder, peer)
    }

    #[test]
    fn a_peer_that_is_not_built_is_told_with_what_builds_it() {
        let folder = tempfile::tempdir().unwrap();
        let error = Iceoryx2::find_in(&[folder.path().to_owned()]).unwrap_err().to_string();
        assert!(error.contains("call tools/bench-peers ring") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn figures_are_those_that_the_peer_says_less_its_clocks() {
        let (_folder, peer) =
            peer("[ $1 = handoff ] && echo p50_ns 512 && echo clock_ns 30 || echo messages_per_s $5e6");
        let leg = Duration::from_millis(1);
        assert_eq!(peer.version, "0.0");
        assert_eq!(peer.handoff_ns(leg, 8192, leg).unwrap(), 482.0);
        assert_eq!(peer.messages_per_s(leg, 8192, 64, 4).unwrap(), 4e6);
    }

    #[test]
    fn a_peer_that_measures_nothing_is_told_with_its_words() {
        let (_folder, peer) = peer("echo ecs-iceoryx2-peer: no shared memory >&2; exit 1");
        let error = peer.messages_per_s(Duration::ZERO, 8192, 64, 1).unwrap_err().to_string();
        assert!(error.contains("no shared memory") && error.contains("messages_per_s"), "{error}");
    }
}
