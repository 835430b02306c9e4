//! A peer that is a library: a program of this repository, in a package of its own outside the workspace, that
//! `tools/bench-peers` builds.
//!
//! ```text
//! this process ──starts──▶ ecs-<library>-peer ARGUMENTS        figures ◀── its output, a name and a number a line
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

/// It ends so long after its leg: what it starts itself is there before the leg, and prints all its times after it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    program: PathBuf,
    /// Of the library.
    pub version: String,
}

impl Built {
    /// The program `ecs-<peer>-peer`, of `tools/bench-peers <what>`.
    ///
    /// # Errors
    /// It is not there, and what brings it; or it does not start.
    pub fn find(peer: &str, what: &str) -> anyhow::Result<Self> {
        let this = env::current_exe().context("cannot find this program's own file")?;
        let folder = this.parent().context("this program has no folder")?;
        let path = env::var_os("PATH").unwrap_or_default();
        let built_in = folder.join(format!("../{peer}-peer/release"));
        let folders: Vec<PathBuf> = [built_in, folder.to_owned()].into_iter().chain(env::split_paths(&path)).collect();
        Self::find_in(&folders, peer, what)
    }

    pub(super) fn find_in(folders: &[PathBuf], peer: &str, what: &str) -> anyhow::Result<Self> {
        let name = format!("ecs-{peer}-peer");
        let program = folders.iter().map(|folder| folder.join(&name)).find(|program| program.is_file());
        let program = program.with_context(|| {
            format!("--peers needs {name}, which is not built here; call tools/bench-peers {what}, which builds it")
        })?;
        let output = Command::new(&program).arg("version").output();
        let output = output.with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { program, version: String::from_utf8_lossy(&output.stdout).trim().to_owned() })
    }

    /// Runs it over a leg.
    ///
    /// # Errors
    /// It does not run to its end; its last words are told.
    pub(super) fn run(&self, leg: Duration, arguments: &[&str]) -> anyhow::Result<Said> {
        let folder = running::temporary_folder()?;
        let (process, log) = start_peer(Command::new(&self.program).args(arguments), folder.path())?;
        let start = Instant::now();
        while !process.has_ended() {
            if start.elapsed() > leg + PATIENCE {
                bail!(
                    "{} did not end within {PATIENCE:?} of its leg; the last that it said:\n{}",
                    self.program.display(),
                    last_lines(&log)
                );
            }
            thread::sleep(Duration::from_millis(2));
        }
        drop(process);
        fs::read_to_string(&log).map(Said).with_context(|| format!("cannot read {}", log.display()))
    }
}

/// What a program has said.
pub(super) struct Said(String);

impl Said {
    /// The number behind `name`.
    ///
    /// # Errors
    /// It has not said it; what it has is told.
    pub fn figure(&self, name: &str) -> anyhow::Result<f64> {
        let value = self.0.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        value.with_context(|| format!("the peer has not measured {name}; it said:\n{}", self.0))
    }
}

/// As an argument.
pub(super) fn seconds(leg: Duration) -> String {
    leg.as_secs_f64().to_string()
}

/// A script in the place of a peer's program.
#[cfg(test)]
pub(super) fn scripted(peer: &str, script: &str) -> (tempfile::TempDir, Built) {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join(format!("ecs-{peer}-peer"));
    fs::write(&program, format!("#!/bin/sh\n[ $1 = version ] && echo 0.0 && exit\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let built = Built::find_in(&[folder.path().to_owned()], peer, "all").unwrap();
    (folder, built)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_not_built_is_told_with_what_builds_it() {
        let folder = tempfile::tempdir().unwrap();
        let error = Built::find_in(&[folder.path().to_owned()], "iceoryx2", "ring").unwrap_err().to_string();
        assert!(error.contains("call tools/bench-peers ring") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn a_peer_that_measures_nothing_is_told_with_its_words() {
        let (_folder, peer) = scripted("nats", "echo ecs-nats-peer: nobody listens >&2; exit 1");
        assert_eq!(peer.version, "0.0");
        let said = peer.run(Duration::ZERO, &["calls"]).unwrap();
        let error = said.figure("calls_per_s").unwrap_err().to_string();
        assert!(error.contains("nobody listens") && error.contains("calls_per_s"), "{error}");
    }
}
