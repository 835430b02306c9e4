//! What a beamline asks of its host: cores for processes, huge pages for images, real-time priority for messages.

use crate::support::{Beamline, Detector, wait_for};
use std::{
    collections::BTreeSet,
    fs,
    hint::spin_loop,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The cores that a process's first thread may use.
fn cores_of(process: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    cores.expect("the kernel tells").trim().to_owned()
}

#[test]
fn readout_and_assembler_stay_on_the_cores_that_are_named_and_the_others_where_they_like() {
    let beamline = Beamline::up(Detector::Quadrant, "cores = [0]\n[assembler]\ncore = 0\n");
    for kind in ["readout", "assembler"] {
        assert_eq!(cores_of(&beamline.pid(kind).to_string()), "0", "{kind}");
    }
    assert_eq!(cores_of(&beamline.pid("writer").to_string()), cores_of("self"));
    assert!(beamline.log().contains("MiB in huge pages"), "{}", beamline.log());
}

/// For each thread of a process, the cores that it may use.
fn cores_of_threads(process: i32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    tasks.map(|task| cores_of(&format!("{process}/task/{}", task.file_name().to_str().unwrap()))).collect()
}

/// With `settings` under `[beamline]`.
fn beamline_with(settings: &str, extra: &str) -> Beamline {
    let beamline = Beamline::configured(Detector::Quadrant, extra);
    let file = beamline.path("beamline.toml");
    let text = fs::read_to_string(&file).unwrap().replace("[beamline]\n", &format!("[beamline]\n{settings}\n"));
    fs::write(&file, text).unwrap();
    beamline
}

#[test]
fn all_stay_on_the_cores_of_the_beamline_but_the_threads_that_images_pass() {
    let (own, others) = ("0", (thread::available_parallelism().unwrap().get() - 1).to_string());
    let mut beamline = beamline_with(&format!("cores = [{others}]"), &format!("cores = [{own}]\n"));
    beamline.start();
    for kind in ["broker", "assembler", "writer"] {
        let threads = cores_of_threads(beamline.pid(kind));
        assert!(threads.len() > 1 && threads.iter().all(|cores| *cores == others), "{kind}: {threads:?}");
    }
    let readout = beamline.pid("readout");
    let threads = cores_of_threads(readout);
    assert_eq!(cores_of(&readout.to_string()), own, "its first thread receives");
    let elsewhere = threads.iter().filter(|cores| **cores == others).count();
    assert!(elsewhere + 1 == threads.len() || own == others, "{threads:?}");
}

#[test]
fn a_core_that_the_host_does_not_have_is_named_and_nothing_is_started_again() {
    for (settings, extra, key) in [
        ("cores = [1023]", "", "beamline.cores"),
        ("", "cores = [1023]\n", "readout.cores"),
        ("", "[assembler]\ncore = 1023\n", "assembler.core"),
    ] {
        let beamline = beamline_with(settings, extra);
        let output = beamline.call(&["up", "beamline.toml"]);
        let told = format!("{}{}", output.stdout, output.stderr);
        assert_ne!(output.code, 0, "{told}");
        assert!(told.contains(&format!("{key}: this process may not use core 1023; it may use 0")), "{told}");
    }
}

/// `SCHED_RR`, as a thread's `stat` has it.
const REALTIME: &str = "2";

/// Names of a process's threads that have real-time priority; its first thread is `first`. The one that sees to it is left out.
fn realtime_threads(process: i32) -> BTreeSet<String> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    let stats = tasks.filter_map(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?; // it may have ended
        let (name, fields) = (stat.split(['(', ')']).nth(1)?.to_owned(), stat.rsplit(')').next()?);
        let is_first = task.file_name().to_str()? == process.to_string();
        let is_realtime = fields.split_whitespace().nth(38)? == REALTIME; // the 41st of all
        is_realtime.then(|| if is_first { "first".to_owned() } else { name })
    });
    stats.filter(|name| name != "ecs-realtime").collect()
}

#[test]
fn threads_that_messages_pass_go_first_while_no_core_is_idle_and_those_of_images_do_not() {
    let mut beamline = beamline_with("realtime = true", "");
    beamline.start();
    let [broker, readout] = ["broker", "readout"].map(|kind| beamline.pid(kind));
    let now = || [broker, readout].map(realtime_threads);
    let none = [BTreeSet::new(), BTreeSet::new()];
    let is_spinning = AtomicBool::new(true);
    let first = thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                while is_spinning.load(Ordering::Relaxed) {
                    spin_loop();
                }
            });
        }
        let start = Instant::now();
        while now().iter().any(BTreeSet::is_empty) && start.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(beamline.call(&["status"]).code, 0, "it answers meanwhile");
        let first = now();
        is_spinning.store(false, Ordering::Relaxed);
        first
    });
    if beamline.log().contains("may not have real-time priority") {
        assert_eq!(first, none, "the host does not allow it");
    } else {
        let zmq = ["ZMQbg/IO/0", "ZMQbg/Reaper"].map(str::to_owned);
        assert_eq!(first[0], zmq.iter().cloned().chain(["first".to_owned()]).collect());
        assert_eq!(first[1], zmq.iter().cloned().chain(["ecs-agent".to_owned()]).collect());
    }
    wait_for("ordinary threads where cores are idle", Duration::from_secs(20), || (now() == none).then_some(()));
}
