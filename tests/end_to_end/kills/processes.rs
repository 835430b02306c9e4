//! The processes that are killed, and the small disk of the broker.

use super::{
    agent_process,
    schedule::{Planned, Step, Target},
};
use crate::support::{Beamline, SmallDisk, ecs, python, repository, send};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// What the state of the broker may need, and little enough that it is full at once.
const DISK_MIB: u64 = 64;
/// A broker that ended because its disk was full is started again after this long, as a supervisor would.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// The exit code of a broker that cannot have its store.
const NO_STORE: i32 = 78;
/// A process that was told to end has so long for it.
const END_PATIENCE: Duration = Duration::from_secs(10);

pub struct Processes<'a> {
    beamline: &'a Beamline,
    agents: Vec<String>,
    endpoint: String,
    disk: SmallDisk,
    running: BTreeMap<Target, Child>,
    /// Starts so far, of the broker: every second one logs to its own small disk.
    starts: u32,
    is_disk_bad: bool,
    was_disk_bad: Option<Instant>,
    broker_is_due: Option<Instant>,
    pub rss_bytes_max: u64,
}

impl<'a> Processes<'a> {
    pub fn new(beamline: &'a Beamline, agents: &[String], endpoint: &str) -> Self {
        Self {
            beamline,
            agents: agents.to_vec(),
            endpoint: endpoint.to_owned(),
            disk: SmallDisk::mount(beamline.path(".ecs"), DISK_MIB),
            running: BTreeMap::new(),
            starts: 0,
            is_disk_bad: false,
            was_disk_bad: None,
            broker_is_due: None,
            rss_bytes_max: 0,
        }
    }

    pub fn start_broker(&mut self) {
        self.start(Target::Broker);
    }

    pub fn start_all(&mut self) {
        self.start_broker();
        (0..self.agents.len()).for_each(|index| self.start(Target::Agent(index)));
        self.start(Target::Reader);
    }

    /// Where the reading process writes what it is told.
    pub fn reader_path(&self) -> PathBuf {
        self.beamline.path("reader.out")
    }

    /// Into a file that [`Self::logs`] shows the end of: on the standard output they would hide what was found.
    pub fn log_step(&self, at: Duration, planned: &Planned) {
        let mut log = appended(self.beamline.path("steps.log")).expect("a log");
        writeln!(log, "{:>9.3} s {:?} {:?}", at.as_secs_f64(), planned.step, planned.target).expect("room for a line");
    }

    pub fn carry_out(&mut self, planned: &Planned) {
        match planned.step {
            Step::Kill => {
                self.broker_is_due = self.broker_is_due.filter(|_| planned.target != Target::Broker);
                self.end(planned.target, libc::SIGKILL);
            }
            Step::Start => self.start(planned.target),
            Step::Stop => self.signal(planned.target, libc::SIGSTOP),
            Step::Continue => self.signal(planned.target, libc::SIGCONT),
            Step::Fill => self.fill(),
            Step::Free => self.free(),
            Step::Refuse => self.limit_files(0),
            Step::Allow => self.limit_files(libc::RLIM_INFINITY),
        }
    }

    pub fn pid(&self, target: Target) -> Option<i32> {
        self.running.get(&target).map(|child| child.id() as i32)
    }

    fn start(&mut self, target: Target) {
        if self.running.contains_key(&target) {
            return; // a broker that came back by itself
        }
        let mut command = match target {
            Target::Broker => self.broker(),
            Target::Agent(index) => self.agent(index),
            Target::Reader => self.reader(),
            Target::Disk => return,
        };
        // SAFETY: two system calls in the child before it becomes the program; neither allocates nor locks.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL); // nothing outlives the test
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN); // a refused write is an error, as on a full disk
                Ok(())
            });
        }
        self.running.insert(target, command.spawn().expect("a process starts"));
    }

    fn broker(&mut self) -> Command {
        self.starts += 1;
        let own_disk = self.beamline.path(".ecs/broker.log");
        let log = Some(own_disk).filter(|_| self.starts.is_multiple_of(2)).and_then(|path| appended(path).ok());
        let log = log.unwrap_or_else(|| appended(self.beamline.path("broker.log")).expect("a log"));
        let mut command = ecs();
        command.args(["broker", "--config", "beamline.toml"]).current_dir(self.beamline.folder.path()).stderr(log);
        command
    }

    fn agent(&self, index: usize) -> Command {
        let name = &self.agents[index];
        let mut command = if name.contains("/py") {
            let mut command = python();
            command.arg("tests/kills_agent.py").arg(name).arg(self.beamline.path("beamline.toml"));
            command.env("PYTHONPATH", repository().join("tools/python"));
            command
        } else {
            let mut command = Command::new(std::env::current_exe().expect("a test has a path"));
            command.args(["--exact", agent_process::TEST, "--nocapture"]);
            command.env(agent_process::NAME, name).env(agent_process::ENDPOINT, &self.endpoint);
            command
        };
        let log = appended(self.beamline.path("agents.log")).expect("a log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command
    }

    fn reader(&self) -> Command {
        let path = format!("{}/setpoint", agent_process::subsystem_of(&self.agents[0]));
        let mut command = self.beamline.command(&["kv", "watch", &path, "--json"]);
        command.stdout(appended(self.reader_path()).expect("a file")).stderr(Stdio::null());
        command
    }

    /// Ends a process and waits for it; nothing if it does not run.
    pub fn end(&mut self, target: Target, signal: i32) -> Option<ExitStatus> {
        let mut child = self.running.remove(&target)?;
        send(child.id() as i32, signal);
        let start = Instant::now();
        while start.elapsed() < END_PATIENCE {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        child.wait().ok()
    }

    fn signal(&self, target: Target, signal: i32) {
        if let Some(pid) = self.pid(target) {
            send(pid, signal);
        }
    }

    fn fill(&mut self) {
        self.is_disk_bad = true;
        self.disk.fill();
    }

    fn free(&mut self) {
        self.disk.free();
        self.disk_is_good();
    }

    /// From now on no file of the broker may be written beyond so many bytes.
    fn limit_files(&mut self, bytes: u64) {
        self.is_disk_bad |= bytes == 0;
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        if let Some(pid) = self.pid(Target::Broker) {
            // SAFETY: the limit is read during the call; the pid is that of a child that was not waited for.
            unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &raw const limit, std::ptr::null_mut()) };
        }
        if bytes > 0 {
            self.disk_is_good();
        }
    }

    fn disk_is_good(&mut self) {
        (self.is_disk_bad, self.was_disk_bad) = (false, Some(Instant::now()));
    }

    /// Ends all that is still done to anybody.
    pub fn mend(&mut self) {
        self.free();
        self.limit_files(libc::RLIM_INFINITY);
        let stopped: Vec<Target> = self.running.keys().copied().collect();
        stopped.into_iter().for_each(|target| self.signal(target, libc::SIGCONT));
        self.start_all();
    }

    /// What ended though nobody killed it, in words. A broker without a disk may; it is started again.
    pub fn unexpected_ends(&mut self) -> Vec<String> {
        self.note_memory();
        if self.broker_is_due.is_some_and(|due| Instant::now() >= due) {
            self.broker_is_due = None;
            self.start(Target::Broker);
        }
        let mut ended = Vec::new();
        self.running.retain(|target, child| match child.try_wait().expect("a child can be waited for") {
            Some(status) => {
                ended.push((*target, status));
                false
            }
            None => true,
        });
        let mut found = Vec::new();
        for (target, status) in ended {
            let disk_may_be_why =
                self.is_disk_bad || self.was_disk_bad.is_some_and(|then| then.elapsed() < Duration::from_secs(1));
            if target == Target::Broker && status.code() == Some(NO_STORE) && disk_may_be_why {
                self.broker_is_due = Some(Instant::now() + RESTART_PAUSE);
            } else {
                found.push(format!("{target:?} ended by itself: {status} (signal {:?})", status.signal()));
            }
        }
        found
    }

    fn note_memory(&mut self) {
        let Some(pid) = self.pid(Target::Broker) else { return };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().split(' ').next()?.parse().ok());
        self.rss_bytes_max = self.rss_bytes_max.max(kib.unwrap_or(0_u64) * 1024);
    }

    /// Ends of the plan, of the broker's logs and all that panicked, for whoever looks for the reason.
    pub fn logs(&self) -> String {
        let logs = ["steps.log", "broker.log", ".ecs/broker.log", "agents.log"].map(|name| {
            let text = fs::read(self.beamline.path(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(60)..].join("\n"))
        });
        logs.concat()
    }
}

impl Drop for Processes<'_> {
    fn drop(&mut self) {
        let all: Vec<Target> = self.running.keys().copied().collect();
        for target in all {
            self.end(target, libc::SIGKILL);
        }
    }
}

fn appended(path: PathBuf) -> std::io::Result<File> {
    let mut file = File::options().create(true).append(true).open(path)?;
    file.write_all(b"").map(|()| file)
}
