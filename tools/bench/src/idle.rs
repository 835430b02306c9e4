//! What a broker costs while nothing happens: 20 agents that show that they live, beside the same broker without any.
//!
//! CPU time is the sum over its threads, to the nanosecond (`/proc/PID/task/*/schedstat`), so that 20 s are enough for a
//! hundredth of a percent. What a thread that has ended needed is only in the sum of the whole process
//! (`/proc/PID/stat`), which is counted in ticks: where that is more by what ticks cannot tell, it holds.

use crate::{
    broker::{PATIENCE, write_beamline},
    report::{Machine, Report, Row},
    running::{self, Running},
};
use anyhow::{Context, bail};
use ecs_schemas::registry::{AgentState, GetStatus};
use ecs_sdk::{Agent, AgentConfig, Client};
use std::{
    collections::BTreeMap,
    ffi::OsString,
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
    let (request_endpoint, _) = write_beamline(folder.path(), "")?;
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
    let (begun, before) = (Instant::now(), CpuTime::read(broker.pid())?);
    thread::sleep(options.leg); // this is the leg
    let cpu_ns = CpuTime::read(broker.pid())?.since_ns(&before);
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

/// Ticks of `/proc/PID/stat` on every Linux: USER_HZ is 100.
const TICK_NS: u64 = 10_000_000;
/// Fields of `/proc/PID/stat` behind the name: utime and stime are 14 and 15 of proc(5), of which the name is 2.
const UTIME_FIELD: usize = 11;

/// What a process has needed so far.
struct CpuTime {
    /// By thread, of those that live.
    threads_ns: BTreeMap<OsString, u64>,
    /// Of all threads that it ever had.
    ticks_ns: u64,
}

impl CpuTime {
    fn read(pid: u32) -> anyhow::Result<Self> {
        let folder = format!("/proc/{pid}/task");
        let threads = fs::read_dir(&folder).with_context(|| format!("cannot read {folder}: has the broker ended?"))?;
        let mut threads_ns = BTreeMap::new();
        for thread in threads {
            let thread = thread?;
            let path = thread.path().join("schedstat");
            let text = match fs::read_to_string(&path) {
                Err(error) if has_ended(&error) => continue, // just now
                text => text.with_context(|| format!("cannot read {}", path.display()))?,
            };
            let ns = text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
            let ns = ns.with_context(|| format!("{} has no CPU time: {text:?}", path.display()))?;
            threads_ns.insert(thread.file_name(), ns);
        }
        Ok(Self { threads_ns, ticks_ns: ticks_ns(pid)? })
    }

    /// What was needed between the two.
    fn since_ns(&self, before: &Self) -> u64 {
        let of_thread = |(thread, ns): (&OsString, &u64)| {
            let begun_ns = before.threads_ns.get(thread).copied().unwrap_or(0);
            ns.saturating_sub(begun_ns) // a number that is given again begins anew
        };
        let threads_ns: u64 = self.threads_ns.iter().map(of_thread).sum();
        // Each sum in ticks may be nearly a tick too small, for each of user and system.
        threads_ns.max(self.ticks_ns.saturating_sub(before.ticks_ns + 2 * TICK_NS))
    }
}

/// A thread that ends between the list and its file, or while the file is read.
fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn ticks_ns(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}: has the broker ended?"))?;
    // The name is in brackets, and may have brackets and blanks itself.
    let fields = text.rsplit_once(") ").map(|(_, fields)| fields.split(' ').skip(UTIME_FIELD));
    let ticks = fields.and_then(|fields| fields.take(2).map(|ticks| ticks.parse::<u64>().ok()).sum::<Option<u64>>());
    Ok(ticks.with_context(|| format!("{path} has no CPU time: {text:?}"))? * TICK_NS)
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
    use std::sync::mpsc;

    #[test]
    fn cpu_time_and_memory_of_this_process_are_read_and_rise() {
        let (pid, start) = (std::process::id(), Instant::now());
        let before = CpuTime::read(pid).unwrap();
        while CpuTime::read(pid).unwrap().since_ns(&before) == 0 {
            assert!(start.elapsed() < PATIENCE, "this thread has been busy all the time");
        }
        let (now, peak) = (memory_mib(pid, "VmRSS:").unwrap(), memory_mib(pid, "VmHWM:").unwrap());
        assert!(now > 0.5 && peak >= now * 0.9, "{now} MiB, at most {peak} MiB");
    }

    /// This process is what is measured: a thread of it works, is seen, works on and ends before the second look.
    #[test]
    fn thread_that_ends_during_the_leg_is_counted() {
        let pid = std::process::id();
        let (told, go) = (mpsc::channel(), mpsc::channel());
        let worker = thread::spawn(move || {
            let work_until = |until_ns: u64| {
                while own_ns() < until_ns {
                    std::hint::black_box((0..10_000).sum::<u64>());
                }
            };
            work_until(500_000_000);
            told.0.send(()).expect("the test waits");
            go.1.recv().expect("the test goes on");
            work_until(800_000_000);
        });
        told.1.recv().expect("it has worked");
        let before = CpuTime::read(pid).expect("this process");
        go.0.send(()).expect("it waits");
        worker.join().expect("it ends");
        let needed_ns = CpuTime::read(pid).expect("this process").since_ns(&before);
        assert!(needed_ns >= 300_000_000 - 4 * TICK_NS, "{needed_ns}");
    }

    fn own_ns() -> u64 {
        let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
        text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("a number")
    }

    #[test]
    fn time_since_is_of_each_thread_and_no_less_than_the_whole_process_says() {
        let of = |threads: &[(&str, u64)], ticks_ns| CpuTime {
            threads_ns: threads.iter().map(|(thread, ns)| (OsString::from(thread), *ns)).collect(),
            ticks_ns,
        };
        let before = of(&[("1", 1000), ("2", 5_000_000_000)], 5_000_000_000);
        assert_eq!(of(&[("1", 1500), ("2", 5_000_000_200)], 5_010_000_000).since_ns(&before), 700);
        assert_eq!(of(&[("1", 1500), ("3", 20)], 5_000_000_000).since_ns(&before), 520, "one ended, one is new");
        assert_eq!(of(&[("1", 1500), ("2", 100)], 5_000_000_000).since_ns(&before), 500, "a number given again");
        assert_eq!(of(&[("1", 1500)], 6_000_000_000).since_ns(&before), 1_000_000_000 - 2 * TICK_NS);
    }
}
