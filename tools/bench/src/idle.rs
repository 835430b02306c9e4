//! What a broker costs while nothing happens: 20 agents that show that they live, beside the same broker without any.
//!
//! CPU time is the sum over its threads, to the nanosecond (`/proc/PID/task/*/schedstat`), so that 20 s are enough for a
//! hundredth of a percent.

use crate::{
    broker::{PATIENCE, write_beamline},
    report::{Machine, Report, Row},
    running::{self, Running},
};
use anyhow::{Context, bail};
use ecs_schemas::registry::{AgentState, GetStatus};
use ecs_sdk::{Agent, AgentConfig, Client};
use std::{
    fs, io,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    pub leg: Duration,
    pub agents: usize,
    /// This program, to start the broker from.
    pub program: PathBuf,
}

/// What one broker needed.
struct Cost {
    cpu_percent: f64,
    rss_mib: f64,
    peak_mib: f64,
}

/// Measures the broker with agents and without, one after the other.
///
/// # Errors
/// A process does not start, or its figures cannot be read.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let machine = Machine::read();
    running::tidy_on_signal()?;
    let (with, without) = (cost(options, options.agents)?, cost(options, 0)?);
    let row =
        |what: &str, unit, of: fn(&Cost) -> f64| Row::from_pairs(what, unit, "no agent", &[(of(&with), of(&without))]);
    let rows = vec![
        row("CPU of the broker", "% of one core", |cost| cost.cpu_percent),
        row("memory of the broker (VmRSS)", "MiB", |cost| cost.rss_mib),
        row("at most (VmHWM)", "MiB", |cost| cost.peak_mib),
    ];
    let payload = format!("{} idle agents, a heartbeat each second; {:?} a leg", options.agents, options.leg);
    Ok(Report { machine, payload, rows })
}

fn cost(options: &Options, agents: usize) -> anyhow::Result<Cost> {
    let folder = running::temporary_folder()?;
    let (request_endpoint, _) = write_beamline(folder.path())?;
    let broker = Running::start(&options.program, folder.path(), &["broker", "--config", "beamline.toml", "-q"])?;
    let agent = |number: usize| {
        let config = AgentConfig {
            name: format!("bench/agent-{number}"),
            kind: "idle".to_owned(),
            request_endpoint: request_endpoint.clone(),
            ended_jobs: vec![],
        };
        let agent = Agent::start(config, vec![])?;
        agent.set_state(AgentState::Ready);
        Ok(agent)
    };
    let agents = (0..agents).map(agent).collect::<anyhow::Result<Vec<_>>>()?;
    wait_ready(&request_endpoint, agents.len())?;
    let (begun, cpu_ns) = (Instant::now(), cpu_ns(broker.pid())?);
    thread::sleep(options.leg); // this is the leg
    let cpu_ns = self::cpu_ns(broker.pid())? - cpu_ns;
    Ok(Cost {
        cpu_percent: 100.0 * cpu_ns as f64 / begun.elapsed().as_nanos() as f64,
        rss_mib: memory_mib(broker.pid(), "VmRSS:")?,
        peak_mib: memory_mib(broker.pid(), "VmHWM:")?,
    })
}

fn wait_ready(request_endpoint: &str, agents: usize) -> anyhow::Result<()> {
    let (start, client) = (Instant::now(), Client::new(request_endpoint)?);
    loop {
        let status = client.call(&GetStatus {}, Duration::from_secs(1));
        let is_ready = |status: &ecs_schemas::registry::Status| {
            status.agents.iter().filter(|agent| agent.state == AgentState::Ready).count() >= agents
        };
        if status.as_ref().is_ok_and(is_ready) {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            bail!("broker and {agents} agents were not ready within {PATIENCE:?}: {status:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// CPU time of all threads that live.
fn cpu_ns(pid: u32) -> anyhow::Result<u64> {
    let folder = format!("/proc/{pid}/task");
    let threads = fs::read_dir(&folder).with_context(|| format!("cannot read {folder}: has the broker ended?"))?;
    let mut sum_ns = 0;
    for thread in threads {
        let path = thread?.path().join("schedstat");
        let text = match fs::read_to_string(&path) {
            Err(error) if has_ended(&error) => continue,
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let ns = text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
        sum_ns += ns.with_context(|| format!("{} has no CPU time: {text:?}", path.display()))?;
    }
    Ok(sum_ns)
}

/// Of a thread that has ended just now there is no file; where it was open already, reading it says that there is no
/// such process.
fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn memory_mib(pid: u32, field: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("cannot read the broker's memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("no {field} in the broker's status"))? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_and_memory_of_this_process_are_read_and_rise() {
        let (pid, start) = (std::process::id(), Instant::now());
        let before = cpu_ns(pid).unwrap();
        while cpu_ns(pid).unwrap() <= before {
            assert!(start.elapsed() < PATIENCE, "this thread has been busy all the time");
        }
        let (now, peak) = (memory_mib(pid, "VmRSS:").unwrap(), memory_mib(pid, "VmHWM:").unwrap());
        assert!(now > 0.5 && peak >= now * 0.9, "{now} MiB, at most {peak} MiB");
    }
}
