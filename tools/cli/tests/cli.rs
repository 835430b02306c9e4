//! The binary as a person runs it: help, errors, exit codes, and a whole beamline under `up`.

#![allow(clippy::unwrap_used)] // a test that cannot go on fails here and says where

use ecs_shm_buffer::PixelAccess;
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{TcpListener, UdpSocket},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Far longer than any condition here takes: it ends a test that hangs.
const WATCHDOG: Duration = Duration::from_secs(60);
const DETECTOR: &str = include_str!("../../../tests/data/eiger-500k/detector.json");

fn ecs_cli(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ecs-cli"));
    command.args(args).current_dir(folder).stdin(Stdio::null());
    for variable in ["ECS_CONFIG", "ECS_BROKER", "ECS_KEY", "ECS_LOG"] {
        command.env_remove(variable);
    }
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    ecs_cli(folder, args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WATCHDOG;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {WATCHDOG:?} for: {what}");
        thread::park_timeout(Duration::from_millis(10));
    }
}

/// A beamline of its own: folder, ports, ring.
struct Lab {
    folder: TempDir,
    ring: PathBuf,
    broker_port: u16,
}

impl Lab {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ring = Path::new("/dev/shm").join(format!("ecs-cli-test-{}-{name}.ring", std::process::id()));
        let (broker_port, udp_port) = (free_tcp_ports(), free_udp_ports());
        let toml = format!(
            "[beamline]\nname = \"{name}\"\n[broker]\nrequest_endpoint = \"tcp://127.0.0.1:{broker_port}\"\n\
             publish_endpoint = \"tcp://127.0.0.1:{}\"\n[detector]\nconfig = \"detector.json\"\n\
             [ring]\npath = \"{}\"\nsize = \"64 MiB\"\n[readout]\naddress = \"127.0.0.1\"\n",
            broker_port + 1,
            ring.display()
        );
        fs::write(folder.path().join("beamline.toml"), toml).unwrap();
        let detector = DETECTOR.replace("50028", &udp_port.to_string());
        fs::write(folder.path().join("detector.json"), detector).unwrap();
        Self { folder, ring, broker_port }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn run(&self, args: &[&str]) -> Output {
        run(self.path(), args)
    }

    /// What a command with `--json` prints.
    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {}", stderr(&output)))
    }

    fn up(&self) -> Up {
        let mut child = ecs_cli(self.path(), &["up", "beamline.toml"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().unwrap(), lines.clone());
        collect(child.stderr.take().unwrap(), lines.clone());
        Up { child, lines }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.ring);
    }
}

fn collect(stream: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
        }
    });
}

/// A running `ecs-cli up`, killed at the end of a test that fails.
struct Up {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Up {
    fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    fn wait_for_line(&self, part: &str) {
        wait_until(part, || self.text().contains(part).then_some(()));
    }

    /// Pids of the broker and the agents, as `up` tells them.
    fn pids(&self) -> Vec<u32> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter_map(|line| line.split_once(": started, process ")?.1.parse().ok()).collect()
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        wait_until("the end of up", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// A port with a free one above it.
fn free_tcp_ports() -> u16 {
    wait_until("two free TCP ports", || {
        let first = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        TcpListener::bind(("127.0.0.1", port.checked_add(1)?)).ok().map(|_| port)
    })
}

/// The first of four free ports in a row.
fn free_udp_ports() -> u16 {
    wait_until("four free UDP ports", || {
        let first = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        let others: Option<Vec<_>> = (port.checked_add(1)?..=port.checked_add(3)?)
            .map(|port| UdpSocket::bind(("127.0.0.1", port)).ok())
            .collect();
        others.map(|_| port)
    })
}

#[test]
fn help_is_printed_with_examples() {
    let folder = tempfile::tempdir().unwrap();
    // What each command says of itself is looked at in `src/cli.rs`; here is how it is printed.
    let commands: [&[&str]; 5] = [&[], &["kv"], &["bench", "broker"], &["--verbose", "jobs"], &["jobs", "--quiet"]];
    for command in commands {
        let output = run(folder.path(), &[command, &["--help"]].concat());
        assert!(output.status.success(), "{command:?}");
        let examples =
            stdout(&output).lines().filter(|line| line.contains("  ecs-cli ") || line.contains("ECS_LOG=")).count();
        assert!(examples >= 2, "{command:?}: {}", stdout(&output));
    }
    let version = run(folder.path(), &["--version"]);
    assert_eq!(stdout(&version), format!("ecs-cli {}\n", env!("CARGO_PKG_VERSION")));
}

/// A benchmark is interrupted as soon as it has started its broker.
#[test]
fn a_benchmark_that_is_interrupted_leaves_no_process_and_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["bench", "broker", "--seconds", "60", "--only", "one call at a time, 64"];
    let mut command = ecs_cli(folder.path(), &args);
    let mut bench = command.env("TMPDIR", folder.path()).stdout(Stdio::null()).spawn().unwrap();
    let children = format!("/proc/{0}/task/{0}/children", bench.id());
    let broker = wait_until("a broker that was started", || {
        let pid = fs::read_to_string(&children).unwrap().split(' ').next()?.to_owned();
        let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.contains("\0broker\0").then_some(pid)
    });
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the folder of the broker");
    let kill = Command::new("kill").args(["-INT", &bench.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let status = wait_until("its end", || bench.try_wait().unwrap());
    assert_eq!(status.signal(), Some(2), "{status}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
    let stat = fs::read_to_string(format!("/proc/{broker}/stat")).unwrap_or_default();
    assert!(stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z')), "the broker runs on: {stat}");
}

#[test]
fn wrong_command_line_exits_2_and_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str); 17] = [
        (&["submit"], "SERVICE"),
        (&["submit", "reduce", "--timeout", "3"], "--wait"),
        (&["move", "7"], "--priority"),
        (&["move", "7", "--priority", "1", "--before", "2"], "--before"),
        (&["move", "7", "--priority", "x"], "--priority"),
        (&["jobs", "--state", "over"], "submitted, accepted"),
        (&["jobs", "--since", "yesterday"], "10m, 2h, 1d"),
        (&["stattus"], "status"),
        (&["submit", "write", "--output", "x.h5"], "--images"),
        (&["submit", "write", "--output", "x.h5", "--images", "0"], "--images"),
        (&["submit", "write", "--output", "x.h5", "--images", "1", "--metadata", "x"], "KEY=VALUE"),
        (&["job", "seven"], "seven"),
        (&["topic", "pub", "x/test/item"], "VALUE"),
        (&["topic", "pub", "x/test/item", "1", "--type", "enum"], "bool, i64, f64"),
        (&["topic", "pub", "x/test/item", "1", "--rate", "0"], "up to 1000 per second"),
        (&["topic", "pub", "x/test/item", "1", "--rate", "1e-20"], "up to 1000 per second"),
        (&["topic", "hz", "--window", "0"], "--window"),
    ];
    for (args, expected) in cases {
        let output = run(folder.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(expected), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn without_a_broker_every_call_fails_within_two_seconds_and_names_the_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = format!("tcp://127.0.0.1:{}", free_tcp_ports());
    let calls: [&[&str]; 14] = [
        &["hold", "1"],
        &["release", "1"],
        &["move", "1", "--priority", "-5"],
        &["job", "1", "--wait-all"],
        &["submit", "reduce", "file=x.h5", "--wait"],
        &["status"],
        &["jobs"],
        &["job", "1"],
        &["cancel", "1"],
        &["topic", "echo", "x/"],
        &["topic", "ls"],
        &["topic", "hz", "x/"],
        &["topic", "pub", "x/test/item", "1"],
        &["submit", "write", "--output", "x.h5", "--images", "1", "--wait"],
    ];
    for call in calls {
        let start = Instant::now();
        let output = run(folder.path(), &[call, &["--broker", &endpoint]].concat());
        assert!(start.elapsed() < Duration::from_secs(2), "{call:?}: {:?}", start.elapsed());
        assert_eq!(output.status.code(), Some(1), "{call:?}");
        assert!(stderr(&output).contains(&endpoint) && stderr(&output).contains("ecs-cli up"), "{}", stderr(&output));
    }
}

#[test]
fn wrong_beamline_file_is_reported_with_every_error_and_its_line() {
    let lab = Lab::new("wrong");
    let file = lab.path().join("beamline.toml");
    let text = fs::read_to_string(&file).unwrap().replace("size = ", "sise = ").replace("127.0.0.1\"\n", "nowhere\"\n");
    fs::write(&file, text).unwrap();
    for (args, code) in [(["up", "beamline.toml"], 1), (["agent", "writer"], 78)] {
        let output = lab.run(&args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        let lines = stderr(&output);
        assert!(lines.contains("beamline.toml:10:1: ring.sise: unknown key; did you mean ring.size?\n"), "{lines}");
        assert!(lines.contains("beamline.toml:12:11: readout.address: found \"nowhere\"; allowed: an IPv4"), "{lines}");
        assert_eq!(lines.lines().count(), 2, "{lines}");
    }
}

#[test]
fn completions_are_printed_for_each_shell_and_a_reader_that_goes_away_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = run(folder.path(), &["completions", shell]);
        assert!(output.status.success() && stdout(&output).contains("ECS_COMPLETE"), "{shell}");
    }
    let mut child =
        ecs_cli(folder.path(), &["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn beamline_up_writes_what_a_simulated_detector_sends_and_leaves_nothing_behind() {
    let lab = Lab::new("e2e");
    let mut up = lab.up();
    assert_eq!(lab.run(&["status", "--wait", "30"]).status.code(), Some(0));
    up.wait_for_line("all agents are ready");
    let status = lab.json(&["status", "--json"]);
    assert_eq!((status["ready"].as_bool(), status["agents"].as_array().map(Vec::len)), (Some(true), Some(3)));

    let submit =
        ["submit", "write", "--output", "run.h5", "--images", "20", "--start", "1", "--metadata", "sample=LaB6"];
    let job = lab.json(&[&submit[..], &["--json"]].concat());
    assert_eq!(job["params"]["output"], lab.path().join("run.h5").to_str().unwrap(), "made absolute");
    let id = job["id"].to_string();
    wait_until("the job runs", || (lab.json(&["job", &id, "--json"])["state"] == "running").then_some(()));
    let sent = lab.json(&["sim", "eiger", "--config", "detector.json", "--images", "20", "--rate", "200", "--json"]);
    assert_eq!(sent["packets_sent"], 20 * 4 * 128);
    let whole = lab.run(&["job", &id, "--wait"]);
    assert_eq!(whole.status.code(), Some(0), "{}{}", stdout(&whole), stderr(&whole));
    assert!(stdout(&whole).contains("written whole  20"), "{}", stdout(&whole));
    assert!(stdout(&lab.run(&["jobs"])).contains("20 of 20 images"));
    let picture = lab.run(&["picture", "run.h5", "--image", "0", "--output", "first.png"]);
    assert!(picture.status.success(), "{}", stderr(&picture));
    assert!(fs::read(lab.path().join("first.png")).unwrap().starts_with(b"\x89PNG"));

    let refused = lab.run(&[&submit[..], &["--wait"]].concat());
    assert_eq!(refused.status.code(), Some(3), "the file exists: {}", stdout(&refused));
    assert!(stdout(&refused).contains("output_exists"), "{}", stdout(&refused));

    let ring = ecs_shm_buffer::open(&lab.ring, PixelAccess::ReadOnly).unwrap();
    let status = wait_until("counters that add up", || {
        let status = ring.status();
        (status.imbalances().is_empty() && status.packets_astray() == 0).then_some(status)
    });
    drop(ring);
    assert_eq!((status.packets.placed, status.images_complete), (20 * 4 * 128, 20), "{status:?}");

    let pids = up.pids();
    assert_eq!(pids.len(), 4, "{}", up.text());
    up.signal("-INT");
    assert_eq!(up.exit_code(), Some(0), "{}", up.text());
    assert!(!pids.into_iter().any(is_alive) && !lab.ring.exists(), "{}", up.text());
    TcpListener::bind(("127.0.0.1", lab.broker_port)).expect("the port is free again");
}

#[test]
fn job_cancelled_while_it_waits_for_images_ends_and_its_waiter_exits_3() {
    let lab = Lab::new("cancel");
    let _up = lab.up();
    assert_eq!(lab.run(&["status", "--wait", "30"]).status.code(), Some(0));
    let waiter = ecs_cli(lab.path(), &["submit", "write", "--output", "run.h5", "--images", "5", "--wait", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the job runs", || {
        let jobs = lab.json(&["jobs", "--json"]);
        (jobs["jobs"][0]["state"] == "running").then_some(())
    });
    assert_eq!(lab.run(&["cancel", "1"]).status.code(), Some(0));
    let output = waiter.wait_with_output().unwrap();
    let job: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), job["state"].as_str()), (Some(3), Some("cancelled")));
    assert!(!lab.path().join("run.h5").exists());
}

#[test]
fn topics_are_echoed_as_json_lines_until_the_reader_goes_away() {
    let lab = Lab::new("topic");
    let _up = lab.up();
    assert_eq!(lab.run(&["status", "--wait", "30"]).status.code(), Some(0));
    let mut echo = ecs_cli(lab.path(), &["topic", "echo", "topic/assembler/telemetry", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(echo.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let message: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(message["topic"], "topic/assembler/telemetry");
    assert!(message["payload"]["ring_slots"].as_u64().unwrap() > 8, "{line}");
    let status = wait_until("the end of echo", || echo.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

/// Where a ring's header counts whole images: `Header::counters` in shm-buffer/src/layout.rs.
const COMPLETE_IMAGES_AT: usize = 640;

/// Nobody is asked for it: the ring of a beamline that runs, and one whose bytes were changed.
#[test]
fn ring_is_shown_and_checked_from_its_file_alone() {
    let lab = Lab::new("looked-at");
    let ring = lab.ring.to_str().unwrap();
    let missing = lab.run(&["ring", "check", ring]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains(ring), "{}", stderr(&missing));
    let mut up = lab.up();
    up.wait_for_line("ready");
    wait_until("the readouts have joined", || {
        let output = lab.run(&["ring", "stat", ring, "--json"]);
        let seen: Value = serde_json::from_slice(&output.stdout).ok()?;
        let participants = seen["participants"].as_array()?;
        participants.iter().any(|other| other["role"] == "contributor" && other["is_alive"] == true).then_some(())
    });
    let seen = lab.json(&["ring", "dump", ring, "--json"]);
    assert_eq!((&seen["owner"]["is_alive"], &seen["counters"]["images_complete"]), (&Value::Bool(true), &0.into()));
    assert_eq!(seen["slots"].as_array().map(Vec::len), seen["geometry"]["slots"].as_u64().map(|slots| slots as usize));
    let text = stdout(&lab.run(&["ring", "stat", ring]));
    assert!(text.contains("contributor") && text.contains("slots"), "{text}");
    let whole = lab.run(&["ring", "check", ring]);
    assert_eq!((whole.status.code(), stdout(&whole)), (Some(0), format!("ring {ring} is whole\n")));
    let copy = lab.path().join("copy.ring");
    fs::copy(&lab.ring, &copy).unwrap();
    up.signal("-INT");
    up.exit_code();
    let mut bytes = fs::read(&copy).unwrap();
    bytes[COMPLETE_IMAGES_AT] = 99; // more images than steps
    fs::write(&copy, bytes).unwrap();
    let broken = lab.run(&["ring", "check", copy.to_str().unwrap()]);
    assert_eq!(broken.status.code(), Some(1));
    assert!(stdout(&broken).contains("K8"), "{}", stdout(&broken));
}

#[test]
fn up_whose_port_is_taken_ends_with_the_reason() {
    let lab = Lab::new("taken");
    let _taken = TcpListener::bind(("127.0.0.1", lab.broker_port)).unwrap();
    let mut up = lab.up();
    assert_eq!(up.exit_code(), Some(1));
    up.wait_for_line(&lab.broker_port.to_string());
    up.wait_for_line("broker cannot run as it is configured");
    assert!(!up.pids().into_iter().any(is_alive) && !lab.ring.exists());
}

#[test]
fn up_killed_takes_its_processes_along_and_comes_up_again() {
    let lab = Lab::new("killed");
    let mut up = lab.up();
    up.wait_for_line("all agents are ready");
    let pids = up.pids();
    let second = lab.run(&["up", "beamline.toml"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains(&format!("process {}", up.child.id())), "{}", stderr(&second));
    up.signal("-KILL");
    up.exit_code();
    wait_until("the end of its processes", || (!pids.iter().any(|&pid| is_alive(pid))).then_some(()));
    let mut next = lab.up();
    next.wait_for_line("all agents are ready");
    next.signal("-TERM");
    assert_eq!(next.exit_code(), Some(0), "{}", next.text());
    assert!(!lab.ring.exists());
}
