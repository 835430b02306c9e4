//! What others use for the same thing, beside ours: message servers beside our broker, a messaging library beside the ring.
//!
//! ```text
//! ours                                     peer
//! images, from thread to thread            iceoryx2: messages of as many bytes, from process to process
//! calls                                    nats-server: request and reply, same hops, same payload, by a client of bare
//!                                          sockets and by NATS' own Rust client
//! jobs that are on disk when answered      RabbitMQ: persistent messages to a durable queue, with publisher confirms
//! ```
//!
//! # Rules
//! 1. A peer is a process of its own on a port of its own, with a folder of its own beside the store of our broker (the
//!    same file system), in its default configuration otherwise. It runs during its rows only.
//! 2. Clients of bare sockets are lean: frames by hand over plain TCP, buffered both ways, no thread between, no call
//!    that has an end of its own. What a client costs is charged to the peer, so this favours the peer. Where a peer's own
//!    client stands beside ours, it is in the arrangement that is fastest here.
//! 3. What is counted is the same: an answer that came back; a thing that is confirmed to be on disk.

pub mod amqp;
mod built;
pub mod iceoryx2;
pub mod nats;
pub mod nats_client;
pub mod nats_server;
pub mod rabbitmq;
mod wire;

use crate::running::Running;
use anyhow::{Context, bail};
use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// A peer listens after this long. RabbitMQ takes ten seconds on a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(90);
/// Of what a peer has said, so much is told when it does not start.
const LOG_LINES: usize = 12;
/// Where servers are installed, also where a person's PATH does not have it.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin"];
/// The server without the wrapper that lets only root start it, as a user with fixed folders.
const RABBITMQ_FOLDERS: [&str; 1] = ["/usr/lib/rabbitmq/bin"];

/// The peers' programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    pub nats_server: PathBuf,
    pub rabbitmq_server: PathBuf,
    /// The Erlang port mapper that RabbitMQ needs.
    pub epmd: PathBuf,
}

impl Programs {
    /// # Errors
    /// Says which are missing, and what brings them.
    pub fn find() -> anyhow::Result<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = env::split_paths(&path).chain(SYSTEM_FOLDERS.map(PathBuf::from)).collect();
        Self::find_in(&folders, &RABBITMQ_FOLDERS.map(PathBuf::from))
    }

    fn find_in(folders: &[PathBuf], rabbitmq_folders: &[PathBuf]) -> anyhow::Result<Self> {
        let find = |folders: &[PathBuf], name: &str| {
            folders.iter().map(|folder| folder.join(name)).find(|program| program.is_file())
        };
        let found = (find(folders, "nats-server"), find(rabbitmq_folders, "rabbitmq-server"), find(folders, "epmd"));
        if let (Some(nats_server), Some(rabbitmq_server), Some(epmd)) = found {
            return Ok(Self { nats_server, rabbitmq_server, epmd });
        }
        let in_path = "in PATH and the system's folders";
        let is_missing = [
            found.0.is_none().then(|| format!("nats-server ({in_path})")),
            found.1.is_none().then(|| format!("rabbitmq-server (in {})", RABBITMQ_FOLDERS[0])),
            found.2.is_none().then(|| format!("epmd, of Erlang ({in_path})")),
        ];
        let missing: Vec<String> = is_missing.into_iter().flatten().collect();
        bail!(
            "--peers needs what is not installed here: {}; call tools/bench-peers broker, which installs it",
            missing.join(", ")
        )
    }
}

/// Starts a peer whose output goes into a file of `folder`; returns that file, too.
fn start_peer(command: &mut Command, folder: &Path) -> anyhow::Result<(Running, PathBuf)> {
    let path = folder.join("output.log");
    let log = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    command.stdout(log.try_clone()?).stderr(log);
    Ok((Running::spawn(command)?, path))
}

/// Asks until a peer answers.
fn await_peer<T>(
    name: &str,
    process: &Running,
    log: &Path,
    mut ask: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        let why = match ask() {
            Ok(answer) => return Ok(answer),
            Err(_) if process.has_ended() => "has ended at its start".to_owned(),
            Err(error) if start.elapsed() > START_PATIENCE => {
                format!("was not ready within {START_PATIENCE:?}: {error:#}")
            }
            Err(_) => {
                thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        bail!("{name} {why}; the last that it said:\n{}", last_lines(log));
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice::from_ref;

    /// Programs are files of a folder, put there one by one: what is missing is told until the last is there.
    #[test]
    fn what_is_missing_is_named_with_what_brings_it() {
        let folder = tempfile::tempdir().unwrap();
        let (bin, rabbitmq) = (folder.path().join("bin"), folder.path().join("rabbitmq"));
        fs::create_dir(&bin).unwrap();
        fs::create_dir(&rabbitmq).unwrap();
        let find = || Programs::find_in(from_ref(&bin), from_ref(&rabbitmq));
        let missing = |names: &[&str]| {
            let error = find().unwrap_err().to_string();
            for name in ["nats-server", "rabbitmq-server", "epmd"] {
                assert_eq!(error.contains(name), names.contains(&name), "{name}: {error}");
            }
            assert!(error.contains("call tools/bench-peers"), "{error}");
        };
        missing(&["nats-server", "rabbitmq-server", "epmd"]);
        fs::write(bin.join("nats-server"), "").unwrap();
        fs::write(bin.join("rabbitmq-server"), "").unwrap(); // the wrapper, which does not do
        missing(&["rabbitmq-server", "epmd"]);
        fs::write(rabbitmq.join("rabbitmq-server"), "").unwrap();
        missing(&["epmd"]);
        fs::write(bin.join("epmd"), "").unwrap();
        let expected = Programs {
            nats_server: bin.join("nats-server"),
            rabbitmq_server: rabbitmq.join("rabbitmq-server"),
            epmd: bin.join("epmd"),
        };
        assert_eq!(find().unwrap(), expected);
    }

    /// A peer that ends at once, and says why.
    #[test]
    fn a_peer_that_does_not_start_is_told_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "for line in $(seq 100); do echo line $line; done; echo port taken >&2; exit 1"]);
        let (process, log) = start_peer(&mut command, folder.path()).unwrap();
        let error = await_peer("peer", &process, &log, || bail!("nobody listens") as anyhow::Result<()>).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("peer has ended") && error.ends_with("line 100\nport taken"), "{error}");
        assert!(!error.contains("line 50"), "{error}");
    }
}
