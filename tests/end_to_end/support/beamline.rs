//! A beamline of a test's own: its folder, ports and ring, and `ecs-cli up` on it.

use super::{Outcome, ecs, wait_for};
use ecs_schemas::detector::{self as description, DetectorConfig};
use ecs_shm_buffer::{LossCause, PixelAccess, Proc, RingStatus, Role, inspect};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    net::UdpSocket,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

/// Tests with packets need the machine for themselves: two at a time would lose each other's.
static MACHINE: Mutex<()> = Mutex::new(());
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// How long processes may take to start or stop on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a ring may take to be at rest once a test has ended: readouts count the kernel's drops once a second.
const SUMS_PATIENCE: Duration = Duration::from_secs(10);

/// Packets that a readout may have marked and not counted yet when it is killed: its batch, as long as one may be
/// (`STAGED_PACKETS` of the readout).
const IN_HAND_PACKETS: i128 = 256;

/// What the simulated detector is.
#[derive(Debug, Clone, Copy)]
pub enum Detector {
    /// EIGER 500K: 514 x 1030 pixels, 4 ports.
    Eiger500K { bits: u32 },
    /// One quadrant: 256 x 514 pixels at 8 bit, one port, 32 packets an image.
    Quadrant,
    /// Any other: a description or the fields of a known one, without its ports.
    Toml(&'static str),
    /// An EIGER by slsDetector commands, without its ports: `udp_dstport` is put before them.
    Commands(&'static str),
}

/// Ports that each beamline has for itself, unless its detector has more.
const PORTS: u16 = 16;

pub struct Beamline {
    pub folder: tempfile::TempDir,
    pub name: String,
    /// The first of the detector's ports.
    pub first_port: u16,
    /// The key file with which the test's commands connect.
    pub key: Option<PathBuf>,
    up: Option<Child>,
    /// The readouts' processes when it was started.
    readouts: BTreeSet<u32>,
    _machine: MutexGuard<'static, ()>,
}

impl Beamline {
    /// Writes the configuration, with `extra` TOML behind it, and starts nothing.
    pub fn configured(detector: Detector, extra: &str) -> Self {
        let machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_ports(detector.ports().max(PORTS));
        let name = format!("t{}-{port}", std::process::id());
        let (config, text) = detector.file(port);
        fs::write(folder.path().join(config), text).expect("written");
        let (requests, topics) = (folder.path().join("req"), folder.path().join("pub"));
        let text = format!(
            "[beamline]\nname = \"{name}\"\n[broker]\nrequest_endpoint = \"ipc://{}\"\npublish_endpoint = \"ipc://{}\"\n\
             [detector]\nconfig = \"{config}\"\n[readout]\naddress = \"127.0.0.1\"\n{extra}\n",
            requests.display(),
            topics.display(),
        );
        let text = if extra.contains("[ring]") { text } else { text + "[ring]\nsize = \"128 MiB\"\n" };
        fs::write(folder.path().join("beamline.toml"), text).expect("written");
        Self { folder, name, first_port: port, key: None, up: None, readouts: BTreeSet::new(), _machine: machine }
    }

    /// Starts it and waits until every agent is ready.
    pub fn up(detector: Detector, extra: &str) -> Self {
        let mut beamline = Self::configured(detector, extra);
        beamline.start();
        beamline
    }

    pub fn start(&mut self) {
        self.start_with(|up| up);
    }

    /// Starts it with more options of `up`.
    pub fn start_with(&mut self, options: impl FnOnce(&mut Command) -> &mut Command) {
        let log = fs::File::create(self.path("up.log")).expect("a log");
        let errors = log.try_clone().expect("a second handle");
        let mut command = ecs();
        command.args(["up", "beamline.toml"]).current_dir(self.folder.path()).stdout(log).stderr(errors);
        options(&mut command);
        self.up = Some(command.spawn().expect("ecs-cli starts"));
        let ready = self.call(&["status", "--wait", "60"]);
        assert_eq!(ready.code, 0, "{}{}\n{}", ready.stdout, ready.stderr, self.log());
        self.readouts = self.ring_status().map(|status| contributors(&status)).unwrap_or_default();
    }

    /// The detector of its configuration.
    pub fn detector(&self) -> description::Detector {
        let files = ["detector.json", "detector.toml", "detector.config"].map(|name| self.path(name));
        let path = files.into_iter().find(|path| path.exists()).expect("a detector");
        let text = fs::read_to_string(&path).expect("it was written");
        DetectorConfig::from_file(&path, &text).and_then(|config| config.detector()).expect("it is valid")
    }

    /// The ring's counters; none if there is no ring.
    pub fn ring_status(&self) -> Option<RingStatus> {
        let ring = ecs_shm_buffer::open(&self.ring_path(), PixelAccess::ReadOnly).ok()?;
        Some(ring.status())
    }

    /// Waits until the sums of `image.md` hold, which they do at rest, and fails the test if they never do.
    pub fn check_sums(&self) {
        let mut wrong = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < SUMS_PATIENCE {
            wrong = self.imbalances();
            if wrong.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the counters do not add up: {wrong:#?}\n{:#?}", self.ring_status());
    }

    fn imbalances(&self) -> Vec<String> {
        let Some(status) = self.ring_status() else { return Vec::new() };
        let mut wrong = status.imbalances();
        let seen = inspect::look(&self.ring_path(), &Proc).ok();
        let owners = seen.and_then(|seen| seen.owner).map_or(0, |owner| owner.owners);
        let now = contributors(&status);
        let nobody_died = owners == 1 && now == self.readouts;
        let hung = status.lost[LossCause::ReadoutStuck as usize - 1];
        let astray = status.packets_astray();
        let may_stray = if nobody_died && hung == 0 { 0..=0 } else { self.packets_of_the_dead(&status) };
        if !may_stray.contains(&astray) {
            wrong.push(format!("S6: {astray} packets are in no image, and may be {may_stray:?}"));
        }
        if now.len() == self.readouts.len() && !now.is_empty() {
            wrong.extend(self.kernel_imbalances(&status, nobody_died));
        }
        let faults = inspect::check(&self.ring_path(), &Proc).map(|(_, faults)| faults).unwrap_or_default();
        wrong.extend(faults.into_iter().map(|fault| format!("{fault:?}")));
        wrong
    }

    /// How many packets may be in no image after deaths: some that were placed are in images that became none, and a
    /// readout that was killed had not counted what it had in its hands.
    fn packets_of_the_dead(&self, status: &RingStatus) -> RangeInclusive<i128> {
        let log = self.log();
        let deaths = log.lines().filter(|line| line.contains("/readout") && line.contains(": ended")).count();
        let discarded = i128::from(status.images_discarded) * i128::from(status.packets_per_image);
        -(deaths as i128 * IN_HAND_PACKETS)..=discarded
    }

    /// What the kernel dropped is counted: all of it, while each readout is the one that was started; else at least
    /// what the sockets that there are now have dropped.
    fn kernel_imbalances(&self, status: &RingStatus, nobody_died: bool) -> Vec<String> {
        let ((waiting, dropped), counted) =
            (in_kernel(&self.detector().placement.ports), status.packets.kernel_dropped);
        let mut wrong = Vec::new();
        if dropped > counted || nobody_died && dropped != counted {
            wrong.push(format!("/proc/net/udp: {dropped} dropped, {counted} counted"));
        }
        if waiting > 0 {
            wrong.push(format!("/proc/net/udp: {waiting} bytes wait in sockets"));
        }
        wrong
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn ring_path(&self) -> PathBuf {
        Path::new("/dev/shm").join(format!("ecs-{}.ring", self.name))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("up.log")).unwrap_or_default()
    }

    /// `ecs-cli` in the beamline's folder, with its configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = ecs();
        command.args(arguments).current_dir(self.folder.path()).env("ECS_CONFIG", self.path("beamline.toml"));
        if let Some(key) = &self.key {
            command.env("ECS_KEY", key);
        }
        command
    }

    pub fn call(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(arguments))
    }

    /// Submits a write of `images` to `file` and waits until it runs.
    pub fn submit_running(&self, file: &str, images: u64, more: &[&str]) -> u64 {
        let images = images.to_string();
        let arguments = [&["submit", "write", "--output", file, "--images", &images, "--json"], more].concat();
        let job = self.call(&arguments).ok().json()["id"].as_u64().expect("a job id");
        self.wait_job(job, |job| job["state"] == "running");
        job
    }

    pub fn job(&self, id: u64) -> Value {
        self.call(&["job", &id.to_string(), "--json"]).ok().json()
    }

    /// Waits until the job is as wanted; fails if it ended otherwise.
    pub fn wait_job(&self, id: u64, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_for("the job", PATIENCE * 2, || {
            let job = self.job(id);
            let is_end = ["rejected", "done", "failed", "cancelled", "lost"].contains(&job["state"].as_str()?);
            assert!(wanted(&job) || !is_end, "{job:#}\n{}", self.log());
            wanted(&job).then_some(job)
        })
    }

    pub fn wait_end(&self, id: u64) -> Value {
        self.wait_job(id, |job| !job["result"].is_null() || !job["reason"].is_null())
    }

    /// Starts the simulated detector; `Outcome::of` or `wait` it.
    pub fn sim(&self, images: u64, rate_hz: u64, more: &[&str]) -> Command {
        let (images, rate) = (images.to_string(), rate_hz.to_string());
        let arguments =
            ["sim", "detector", "--config", "beamline.toml", "--images", &images, "--rate", &rate, "--json"];
        self.command(&[&arguments[..], more].concat())
    }

    pub fn spawn_sim(&self, images: u64, rate_hz: u64) -> Sim {
        self.spawn_sim_with(images, rate_hz, &[])
    }

    pub fn spawn_sim_with(&self, images: u64, rate_hz: u64, more: &[&str]) -> Sim {
        let mut command = self.sim(images, rate_hz, more);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Sim(command.spawn().expect("the simulator starts"))
    }

    pub fn status(&self) -> Value {
        self.call(&["status", "--json"]).ok().json()
    }

    /// Status of the agent `kind`, for example `writer`.
    pub fn agent(&self, kind: &str) -> Value {
        let status = self.status();
        let agents = status["agents"].as_array().expect("agents").clone();
        agents.into_iter().find(|agent| agent["kind"] == kind).unwrap_or_else(|| panic!("no {kind}: {status:#}"))
    }

    pub fn pid(&self, kind: &str) -> i32 {
        let status = self.status();
        let pid = match kind {
            "broker" => status["broker"]["pid"].as_i64(),
            _ => self.agent(kind)["pid"].as_i64(),
        };
        pid.and_then(|pid| i32::try_from(pid).ok()).expect("a pid")
    }

    /// Of the agent whose name ends so, for example `readout-1`.
    pub fn pid_of_name(&self, end: &str) -> i32 {
        let status = self.status();
        let agents = status["agents"].as_array().expect("agents");
        let agent = agents.iter().find(|agent| agent["name"].as_str().is_some_and(|name| name.ends_with(end)));
        let pid = agent.and_then(|agent| agent["pid"].as_i64());
        pid.and_then(|pid| i32::try_from(pid).ok()).unwrap_or_else(|| panic!("no {end}: {status:#}"))
    }

    pub fn up_pid(&self) -> i32 {
        self.up.as_ref().expect("it was started").id() as i32
    }

    /// Ends `up` with a signal and waits for it. Returns its exit code, if it exited. Where it is asked to end, and not
    /// killed, its counters must add up.
    pub fn end(&mut self, signal: i32) -> Option<i32> {
        // What fails here must leave no process behind.
        let is_checked = signal != libc::SIGKILL && self.up.is_some() && !std::thread::panicking();
        let sums = is_checked.then(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.check_sums())));
        let code = self.stop(signal);
        sums.unwrap_or(Ok(())).unwrap_or_else(|failure| std::panic::resume_unwind(failure));
        code
    }

    fn stop(&mut self, signal: i32) -> Option<i32> {
        let mut up = self.up.take()?;
        send(up.id() as i32, signal);
        let status = wait_for("the end of up", PATIENCE, || up.try_wait().expect("a child can be waited for"));
        status.code()
    }
}

/// A simulator that runs beside the test, ended with it.
pub struct Sim(Child);

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Beamline {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of up:\n{}", self.log());
        }
        self.end(libc::SIGINT);
    }
}

impl Detector {
    /// Name and text of its file.
    fn file(self, port: u16) -> (&'static str, String) {
        match self {
            Self::Toml(text) => ("detector.toml", format!("start_udp_port = {port}\n{text}")),
            Self::Commands(text) => ("detector.config", format!("udp_dstport {port}\n{text}")),
            _ => ("detector.json", self.json(port).to_string()),
        }
    }

    /// How many ports it has, as far as its file is valid.
    fn ports(self) -> u16 {
        let (name, text) = self.file(1);
        let config = DetectorConfig::from_file(Path::new(name), &text);
        let ports = config.and_then(|config| config.placement()).map_or(0, |placement| placement.ports.len());
        u16::try_from(ports).expect("fewer than there are")
    }

    fn json(self, port: u16) -> Value {
        let (bits, height, width, positions) = match self {
            Self::Eiger500K { bits } => (
                bits,
                514,
                1030,
                json!({"0": [0, 258, 513, 513], "1": [516, 258, 1029, 513], "2": [0, 255, 513, 0], "3": [516, 255, 1029, 0]}),
            ),
            Self::Quadrant => (8, 256, 514, json!({"0": [0, 0, 513, 255]})),
            Self::Toml(_) | Self::Commands(_) => unreachable!("it has no JSON"),
        };
        json!({
            "detector_name": "simulated", "detector_type": "eiger", "bit_depth": bits,
            "n_modules": positions.as_object().expect("a map").len(),
            "image_pixel_height": height, "image_pixel_width": width,
            "start_udp_port": port, "module_positions": positions,
        })
    }
}

fn contributors(status: &RingStatus) -> BTreeSet<u32> {
    let contributors = status.participants.iter().filter(|other| other.role == Role::Contributor);
    contributors.map(|other| other.process.pid).collect()
}

/// Of these ports, by the kernel's own table: bytes that wait, and messages that it had no room for.
fn in_kernel(ports: &[u16]) -> (u64, u64) {
    let table = fs::read_to_string("/proc/net/udp").expect("every Linux has it");
    let of_port = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = u16::from_str_radix(fields.get(1)?.split_once(':')?.1, 16).ok()?;
        let waiting = u64::from_str_radix(fields.get(4)?.split_once(':')?.1, 16).ok()?;
        ports.contains(&port).then_some((waiting, fields.last()?.parse::<u64>().ok()?))
    };
    let ports = table.lines().skip(1).filter_map(of_port);
    ports.fold((0, 0), |sum, port| (sum.0 + port.0, sum.1 + port.1))
}

pub fn send(pid: i32, signal: i32) {
    // SAFETY: a signal to a process that the test started.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "signal {signal} to {pid}");
}

/// The first of `count` UDP ports in a row that are free, and that no other test of this process has.
fn free_ports(count: u16) -> u16 {
    let start = 20_000 + (std::process::id() % 500) as u16 * 20;
    loop {
        let first = start + NEXT_PORT.fetch_add(count, Ordering::Relaxed);
        if (first..first + count).all(|port| UdpSocket::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
}
