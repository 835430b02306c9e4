//! Messages through RabbitMQ that are on disk when they are confirmed, beside our jobs.
//!
//! A hundred connections publish to one durable queue, one message under way on each, as our submitters do; rounds and
//! payload are theirs, too, and between rounds the queue is emptied while the clock stands, as ours is.

use super::{Programs, amqp::Publisher, await_peer, start_peer};
use crate::{
    broker::free_port,
    jobs::{JOBS_OF_ONE, PAYLOAD_BYTES, SUBMITTERS},
    running::Running,
};
use anyhow::bail;
use std::{
    env, fs,
    os::fd::AsRawFd,
    path::Path,
    process::{self, Command},
    time::{Duration, Instant},
};

const QUEUE: &str = "bench";
const PATIENCE: Duration = Duration::from_secs(20);

/// A server on ports of its own, with a port mapper of its own.
pub struct RabbitMq {
    port: u16,
    /// Its name and version, and those of what it runs on.
    pub server: String,
    _server: Running,
    _epmd: Running,
}

impl RabbitMq {
    /// Its data are in `folder`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(programs: &Programs, folder: &Path) -> anyhow::Result<Self> {
        let (port, epmd_port, folder) = (free_port()?, free_port()?, folder.join("rabbitmq"));
        fs::create_dir(&folder)?;
        let mut epmd = Command::new(&programs.epmd);
        epmd.args(["-address", "127.0.0.1", "-port", &epmd_port.to_string()]).current_dir(&folder);
        let epmd = {
            fs::create_dir(folder.join("epmd"))?;
            start_peer(&mut epmd, &folder.join("epmd"))?.0
        };
        let (process, log) = start_peer(&mut server(programs, &folder, port, epmd_port)?, &folder)?;
        let server = await_peer("rabbitmq-server", &process, &log, || Ok(Publisher::connect(port, QUEUE)?.server))?;
        Ok(Self { port, server, _server: process, _epmd: epmd })
    }

    /// # Errors
    /// A connection is refused.
    pub fn publishers(&self) -> anyhow::Result<Publishers> {
        let publishers = (0..SUBMITTERS).map(|_| Publisher::connect(self.port, QUEUE)).collect::<Result<_, _>>()?;
        Ok(Publishers(publishers))
    }
}

/// Everything that it would have in the system's folders is in `folder`; nothing else is configured.
fn server(programs: &Programs, folder: &Path, port: u16, epmd_port: u16) -> anyhow::Result<Command> {
    let files = [
        ("rabbitmq.conf", format!("listeners.tcp.1 = 127.0.0.1:{port}\n")),
        ("rabbitmq-env.conf", String::new()),
        ("enabled_plugins", "[].\n".to_owned()),
    ];
    for (name, text) in files {
        fs::write(folder.join(name), text)?;
    }
    let mut command = Command::new(&programs.rabbitmq_server);
    command.current_dir(folder).env_clear();
    let path = env::var_os("PATH").unwrap_or_default();
    command.env("PATH", path).env("LANG", "C.UTF-8").env("HOME", folder);
    let in_folder = [
        ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", "advanced.config"),
        ("RABBITMQ_CONF_ENV_FILE", "rabbitmq-env.conf"),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
        ("RABBITMQ_MNESIA_BASE", "mnesia"),
        ("RABBITMQ_LOG_BASE", "log"),
    ];
    for (name, file) in in_folder {
        command.env(name, folder.join(file));
    }
    command
        .env("RABBITMQ_NODENAME", format!("ecs-bench-{}@localhost", process::id()))
        .env("RABBITMQ_DIST_PORT", free_port()?.to_string())
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
        .env("ERL_EPMD_PORT", epmd_port.to_string())
        // Where ours has ended first, it starts none of its own, which would stay.
        .env("ERL_FLAGS", "-start_epmd false")
        // Its script then becomes the server instead of starting it: the child is the server itself.
        .env("RUNNING_UNDER_SYSTEMD", "true");
    Ok(command)
}

/// Connections with one message under way each.
pub struct Publishers(Vec<Publisher>);

impl Publishers {
    /// Messages per second that were confirmed.
    ///
    /// # Errors
    /// One was refused, or not confirmed.
    pub fn messages_per_s(&mut self, leg: Duration) -> anyhow::Result<f64> {
        let (mut spent, mut confirmed) = (Duration::ZERO, 0);
        while spent < leg {
            let begun = Instant::now();
            confirmed += self.publish_all(JOBS_OF_ONE)?;
            spent += begun.elapsed();
            self.0[0].purge()?;
        }
        Ok(confirmed as f64 / spent.as_secs_f64())
    }

    /// Each connection publishes so often; returns how many messages were confirmed.
    fn publish_all(&mut self, of_each: usize) -> anyhow::Result<usize> {
        let body = [7; PAYLOAD_BYTES];
        let (mut confirmed, mut left) = (0, vec![of_each - 1; self.0.len()]);
        self.0.iter_mut().try_for_each(|publisher| publisher.publish(&body))?;
        while confirmed < of_each * left.len() {
            for index in self.readable()? {
                let publisher = &mut self.0[index];
                if !publisher.read()? {
                    continue;
                }
                confirmed += 1;
                if left[index] > 0 {
                    left[index] -= 1;
                    publisher.publish(&body)?;
                }
            }
        }
        Ok(confirmed)
    }

    /// Which connections have something to read.
    fn readable(&self) -> anyhow::Result<Vec<usize>> {
        let polled = |publisher: &Publisher| zmq::PollItem::from_fd(publisher.wire().stream().as_raw_fd(), zmq::POLLIN);
        let mut polled: Vec<zmq::PollItem<'_>> = self.0.iter().map(polled).collect();
        if zmq::poll(&mut polled, PATIENCE.as_millis() as i64)? == 0 {
            bail!("RabbitMQ did not confirm a message within {PATIENCE:?}");
        }
        Ok(polled
            .iter()
            .enumerate()
            .filter(|(_, polled)| polled.is_readable() || polled.is_error())
            .map(|(index, _)| index)
            .collect())
    }
}
