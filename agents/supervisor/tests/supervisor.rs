//! The supervisor with real processes: order, restarts, ends, and its own death.

#![allow(clippy::unwrap_used)] // a test that cannot go on fails here and says where

use ecs_supervisor::{END_PATIENCE, Event, LockError, Plan, ProcessSpec, SupervisorError};
use std::{
    fs,
    path::Path,
    process::{Child, Command},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Far longer than any condition here takes: it ends a test that hangs.
const WATCHDOG: Duration = Duration::from_secs(30);
const SLEEP: &str = "exec sleep 1000";

/// A supervisor on a thread of its own, with what it has told so far, a line per event.
struct Run {
    thread: Option<JoinHandle<Result<(), SupervisorError>>>,
    requests: Arc<AtomicU32>,
    log: Arc<Mutex<Vec<String>>>,
}

fn plan(folder: &Path, scripts: &[(&str, &str)]) -> Plan {
    let spec = |(name, script): &(&str, &str)| ProcessSpec {
        name: (*name).to_owned(),
        args: vec!["-c".into(), (*script).into()],
    };
    let processes = scripts.iter().map(spec).collect();
    Plan { program: "/bin/sh".into(), processes, state_folder: folder.to_owned(), end_patience: END_PATIENCE }
}

fn line(event: &Event) -> String {
    match event {
        Event::LeftoverEnded { name, pid } => format!("leftover {name} {pid}"),
        Event::Started { name, pid } => format!("started {name} {pid}"),
        Event::NotStarted { name, restart_in, .. } => format!("not-started {name} {}", restart_in.as_millis()),
        Event::Exited { name, restart_in, .. } => format!("exited {name} {}", restart_in.as_millis()),
        Event::Stopping { name } => format!("stopping {name}"),
        Event::Stopped { name, .. } => format!("stopped {name}"),
        Event::Killed { name } => format!("killed {name}"),
    }
}

impl Run {
    fn start(plan: Plan) -> Self {
        let (requests, log) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (seen, told) = (requests.clone(), log.clone());
        let thread = thread::spawn(move || {
            let mut stop = |timeout| {
                thread::park_timeout(timeout);
                seen.load(Ordering::Relaxed)
            };
            ecs_supervisor::run(plan, &mut stop, &mut |event| told.lock().unwrap().push(line(&event)))
        });
        Self { thread: Some(thread), requests, log }
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// The third word of each line with these two first words, once there are `count`.
    fn wait_for(&self, what: &str, count: usize) -> Vec<u32> {
        wait_until(what, || {
            let log = self.log();
            let found: Vec<u32> =
                log.iter().filter_map(|line| line.strip_prefix(&format!("{what} "))?.parse().ok()).collect();
            (found.len() >= count).then_some(found)
        })
    }

    fn ask_to_end(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn join(mut self) -> (Result<(), SupervisorError>, Vec<String>) {
        let result = self.thread.take().expect("joined once").join().expect("no panic");
        (result, self.log())
    }
}

/// A test that fails leaves no process behind either.
impl Drop for Run {
    fn drop(&mut self) {
        self.requests.store(2, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WATCHDOG;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {WATCHDOG:?} for: {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// Alive and not a zombie, stopped or not.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(status.success(), "kill {signal} {pid}");
}

#[test]
fn processes_start_in_order_and_end_in_reverse() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(plan(folder.path(), &[("a", SLEEP), ("b", SLEEP), ("c", SLEEP)]));
    let pids: Vec<u32> = ["a", "b", "c"].map(|name| run.wait_for(&format!("started {name}"), 1)[0]).to_vec();
    run.ask_to_end();
    let (result, log) = run.join();
    result.expect("ended on request");
    let expected = [
        format!("started a {}", pids[0]),
        format!("started b {}", pids[1]),
        format!("started c {}", pids[2]),
        "stopping c".into(),
        "stopped c".into(),
        "stopping b".into(),
        "stopped b".into(),
        "stopping a".into(),
        "stopped a".into(),
    ];
    assert_eq!(log, expected);
    assert!(pids.iter().all(|&pid| !is_alive(pid)));
}

#[test]
fn process_killed_is_restarted_while_the_others_live_on() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(plan(folder.path(), &[("a", SLEEP), ("b", SLEEP)]));
    let first = run.wait_for("started a", 1)[0];
    let other = run.wait_for("started b", 1)[0];
    signal(first, "-KILL");
    let second = run.wait_for("started a", 2)[1];
    assert!(second != first && is_alive(second) && is_alive(other));
    run.ask_to_end();
    let (result, log) = run.join();
    result.expect("ended on request");
    assert_eq!(log.iter().filter(|line| line.starts_with("started b")).count(), 1);
}

#[test]
fn process_that_fails_at_once_is_started_ever_more_slowly() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(plan(folder.path(), &[("bad", "exit 1"), ("good", SLEEP)]));
    assert_eq!(run.wait_for("exited bad", 4)[..4], [100, 200, 400, 800]);
    assert_eq!(run.wait_for("started good", 1).len(), 1);
}

#[test]
fn program_that_cannot_be_started_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(Plan { program: "/no/such/program".into(), ..plan(folder.path(), &[("a", SLEEP)]) });
    assert_eq!(run.wait_for("not-started a", 2)[..2], [100, 200]);
}

#[test]
fn configuration_exit_at_the_first_start_ends_everything() {
    for code in [2, 78] {
        let folder = tempfile::tempdir().unwrap();
        let run = Run::start(plan(folder.path(), &[("good", SLEEP), ("bad", &format!("exit {code}"))]));
        let good = run.wait_for("started good", 1)[0];
        let (result, log) = run.join();
        match result {
            Err(SupervisorError::Configuration { name, code: got }) => assert_eq!((name.as_str(), got), ("bad", code)),
            other => panic!("{other:?}"),
        }
        assert!(log.contains(&"stopped good".to_owned()) && !is_alive(good), "{log:?}");
    }
}

#[test]
fn configuration_exit_at_a_later_start_is_a_failure_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("test -e {0}/been && exit 78; touch {0}/been; exit 1", folder.path().display());
    let run = Run::start(plan(folder.path(), &[("bad", &script)]));
    assert_eq!(run.wait_for("exited bad", 3)[..3], [100, 200, 400]);
}

#[test]
fn process_that_ignores_sigterm_is_killed_at_the_second_request() {
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready");
    let script = format!("trap '' TERM; touch {}; while :; do sleep 1; done", ready.display());
    let run = Run::start(plan(folder.path(), &[("deaf", &script)]));
    let pid = run.wait_for("started deaf", 1)[0];
    wait_until("the trap", || ready.exists().then_some(()));
    run.ask_to_end();
    wait_until("the first request", || run.log().contains(&"stopping deaf".to_owned()).then_some(()));
    assert!(is_alive(pid));
    run.ask_to_end();
    let (result, log) = run.join();
    result.expect("ended on request");
    assert_eq!(log.last().map(String::as_str), Some("killed deaf"));
    assert!(!is_alive(pid));
}

/// One request; who ignores it is killed when the patience is over, and no sooner.
#[test]
fn process_that_ignores_sigterm_is_killed_when_the_patience_is_over_and_named_and_the_others_end_well() {
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready");
    let deaf = format!("trap '' TERM; touch {}; while :; do sleep 1; done", ready.display());
    let scripts = [("a", SLEEP), ("deaf", deaf.as_str()), ("c", SLEEP)];
    let end_patience = Duration::from_millis(400);
    let run = Run::start(Plan { end_patience, ..plan(folder.path(), &scripts) });
    let pids = ["a", "deaf", "c"].map(|name| run.wait_for(&format!("started {name}"), 1)[0]);
    wait_until("the trap", || ready.exists().then_some(()));
    let asked = Instant::now();
    run.ask_to_end();
    wait_until("the kill", || run.log().contains(&"killed deaf".to_owned()).then_some(()));
    let (result, log) = run.join();
    assert!(asked.elapsed() >= end_patience, "{:?}", asked.elapsed());
    let error = result.expect_err("it had to be killed");
    assert!(matches!(&error, SupervisorError::Killed { names, .. } if *names == ["deaf"]), "{error:?}");
    assert!(error.to_string().starts_with("deaf did not stop within 400ms"), "{error}");
    assert_eq!(log[3..], ["stopping c", "stopped c", "stopping deaf", "killed deaf", "stopping a", "stopped a"]);
    assert!(!pids.into_iter().any(is_alive));
}

#[test]
fn stopped_process_ends_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(plan(folder.path(), &[("a", SLEEP)]));
    let pid = run.wait_for("started a", 1)[0];
    signal(pid, "-STOP");
    run.ask_to_end();
    let (result, log) = run.join();
    result.expect("ended on request");
    assert_eq!(log.last().map(String::as_str), Some("stopped a"), "not killed, it had a chance to end well");
}

#[test]
fn second_supervisor_of_a_state_folder_is_refused_and_told_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(plan(folder.path(), &[("a", SLEEP)]));
    run.wait_for("started a", 1);
    match Run::start(plan(folder.path(), &[("b", SLEEP)])).join() {
        (Err(SupervisorError::Lock(LockError::Held { holder, .. })), log) => {
            assert_eq!(holder, std::process::id().to_string());
            assert_eq!(log, [""; 0]);
        }
        other => panic!("{other:?}"),
    }
    run.ask_to_end();
    run.join().0.expect("ended on request");
    let next = Run::start(plan(folder.path(), &[("b", SLEEP)]));
    next.wait_for("started b", 1);
}

/// The role that the next test plays in a process of its own: a supervisor of one process that ends on
/// SIGTERM and one that ignores it. Without the variable it is not asked to play.
#[test]
fn role_of_a_supervisor_that_is_killed() {
    let Some(folder) = std::env::var_os("SUPERVISOR_STATE_FOLDER") else { return };
    let folder = Path::new(&folder);
    let deaf = format!("trap '' TERM; touch {}; while :; do sleep 1; done", folder.join("ready").display());
    let run = Run::start(plan(folder, &[("polite", SLEEP), ("deaf", &deaf)]));
    let pids = format!("{} {}", run.wait_for("started polite", 1)[0], run.wait_for("started deaf", 1)[0]);
    wait_until("the trap", || folder.join("ready").exists().then_some(()));
    fs::write(folder.join("pids.new"), pids).unwrap();
    fs::rename(folder.join("pids.new"), folder.join("pids")).unwrap();
    run.join().0.expect("killed before");
}

#[test]
fn supervisor_killed_takes_its_processes_along_and_the_next_one_ends_what_stayed() {
    let folder = tempfile::tempdir().unwrap();
    let mut supervisor: Child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "role_of_a_supervisor_that_is_killed", "--nocapture"])
        .env("SUPERVISOR_STATE_FOLDER", folder.path())
        .spawn()
        .unwrap();
    let pids = wait_until("the supervisor's processes", || fs::read_to_string(folder.path().join("pids")).ok());
    let pids: Vec<u32> = pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    wait_until("the polite one's end", || (!is_alive(pids[0])).then_some(()));
    assert!(is_alive(pids[1]), "the deaf one ignores the kernel's SIGTERM");

    let next = Run::start(plan(folder.path(), &[("next", SLEEP)]));
    next.wait_for("started next", 1);
    assert!(!is_alive(pids[1]));
    assert_eq!(next.wait_for("leftover deaf", 1), [pids[1]]);
}
