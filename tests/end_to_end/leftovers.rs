//! However `up` ends, nothing is left: no process, no port, no shared memory.

use crate::support::{Beamline, Detector, send, wait_for};
use ecs_shm_buffer::{Proc, inspect};
use std::{fs, time::Duration};

/// Command lines of processes that belong to the beamline, by its folder.
fn processes_of(beamline: &Beamline) -> Vec<String> {
    let folder = fs::canonicalize(beamline.folder.path()).unwrap();
    let is_ours = |pid: &str| {
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?.replace('\0', " ");
        (cwd == folder && !command.is_empty()).then_some(command)
    };
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries.filter_map(|entry| is_ours(&entry.file_name().to_string_lossy())).collect()
}

fn assert_nothing_left(beamline: &Beamline) {
    let left = processes_of(beamline);
    assert!(left.is_empty(), "{left:#?}");
    assert!(!beamline.ring_path().exists(), "the ring is left");
    let shared: Vec<String> = fs::read_dir("/dev/shm")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains(&beamline.name))
        .collect();
    assert!(shared.is_empty(), "{shared:?}");
}

#[test]
fn up_ended_by_ctrl_c_or_sigterm_leaves_nothing_and_exits_with_0() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut beamline = Beamline::up(Detector::Quadrant, "");
        assert!(processes_of(&beamline).len() >= 5, "{:?}", processes_of(&beamline));
        assert_eq!(beamline.end(signal), Some(0), "{}", beamline.log());
        assert_nothing_left(&beamline);
    }
}

#[test]
fn up_ended_by_ctrl_c_during_a_job_ends_the_file_cleanly() {
    let mut beamline = Beamline::up(Detector::Quadrant, "");
    beamline.submit_running("run.h5", 100_000, &["--start", "1"]);
    let sim = beamline.spawn_sim(100_000, 200);
    wait_for("the file", Duration::from_secs(20), || beamline.path("run.h5").exists().then_some(()));
    drop(sim);
    beamline.end(libc::SIGINT);
    assert_nothing_left(&beamline);
    assert_eq!(crate::support::check_images(&beamline.path("run.h5"), &[])["state"], "cancelled");
}

#[test]
fn up_killed_takes_its_processes_with_it_and_the_next_start_finds_a_clean_place() {
    let mut beamline = Beamline::up(Detector::Quadrant, "");
    beamline.end(libc::SIGKILL);
    wait_for("the end of its processes", Duration::from_secs(20), || processes_of(&beamline).is_empty().then_some(()));
    beamline.start();
    beamline.end(libc::SIGINT);
    assert_nothing_left(&beamline);
}

#[test]
fn everything_killed_at_once_is_cleaned_up_by_the_next_start() {
    let mut beamline = Beamline::up(Detector::Quadrant, "");
    let pids: Vec<i32> = ["broker", "assembler", "readout", "writer"].map(|kind| beamline.pid(kind)).to_vec();
    send(beamline.up_pid(), libc::SIGSTOP); // so that it brings nobody back
    pids.into_iter().for_each(|pid| send(pid, libc::SIGKILL));
    beamline.end(libc::SIGKILL);
    let (_, faults) = inspect::check(&beamline.ring_path(), &Proc).expect("nobody was left to remove the ring");
    assert_eq!(faults, [], "what the killed leave is whole");
    beamline.start();
    beamline.end(libc::SIGINT);
    assert_nothing_left(&beamline);
}

#[test]
fn a_second_up_of_the_same_beamline_is_refused_and_the_first_goes_on() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let second = beamline.call(&["up", "beamline.toml"]);
    second.fails_with(1, &beamline.up_pid().to_string());
    beamline.call(&["status", "--wait", "5"]).ok();
}
