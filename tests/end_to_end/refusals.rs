//! What cannot work: refused or failed with its documented error, exit code not 0, nothing left behind.

use crate::support::{Beamline, Detector, Outcome, SmallDisk, ecs, send};
use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

fn submit_and_wait(beamline: &Beamline, file: &Path, images: &str, more: &[&str]) -> Outcome {
    let file = file.display().to_string();
    beamline.call(&[&["submit", "write", "--output", &file, "--images", images, "--wait"], more].concat())
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_cannot_be_written_is_rejected_before_anything_is_done() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let data = beamline.path("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("old.h5"), "precious").unwrap();

    let missing = submit_and_wait(&beamline, &data.join("no/such/run.h5"), "10", &[]);
    missing.fails_with(3, "cannot write to folder");
    let exists = submit_and_wait(&beamline, &data.join("old.h5"), "10", &[]);
    exists.fails_with(3, "--overwrite");
    submit_and_wait(&beamline, &data, "10", &["--overwrite"]).fails_with(3, "is not a file");
    submit_and_wait(&beamline, &data.join("run.h5"), "0", &[]).fails_with(2, "0");
    submit_and_wait(&beamline, &data.join("run.h5"), "100000000000", &[]).fails_with(3, "allowed");

    assert_eq!(names_in(&data), ["old.h5"]);
    assert_eq!(fs::read_to_string(data.join("old.h5")).unwrap(), "precious");
}

#[test]
fn a_detector_that_sends_nothing_fails_the_job_after_its_timeout_and_leaves_no_file() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let data = beamline.path("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("old.h5"), "precious").unwrap();
    let silent = submit_and_wait(&beamline, &data.join("run.h5"), "10", &["--timeout", "1"]);
    println!("failed after {:?}, with a timeout of 1 s", silent.took);
    silent.fails_with(3, "no image for 1");
    submit_and_wait(&beamline, &data.join("old.h5"), "10", &["--timeout", "1", "--overwrite"])
        .fails_with(3, "no image");
    assert_eq!(names_in(&data), ["old.h5"]);
    assert_eq!(fs::read_to_string(data.join("old.h5")).unwrap(), "precious");
}

#[test]
fn a_detector_that_stops_in_the_middle_fails_the_job_and_the_file_has_what_came() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let job = beamline.submit_running("run.h5", 100, &["--start", "1", "--timeout", "1"]);
    Outcome::of(&mut beamline.sim(60, 500, &[])).ok();
    let ended = beamline.wait_end(job);
    assert_eq!((&ended["state"], &ended["reason"]["code"]), (&"failed".into(), &"no_images".into()), "{ended:#}");
    let counts = crate::support::check_images(&beamline.path("run.h5"), &[]);
    assert_eq!((&counts["complete"], &counts["rows"]), (&60.into(), &60.into()), "{counts:#}");
    assert_eq!(counts["lost"]["timeout"], 40, "{counts:#}");
}

#[test]
fn a_disk_too_small_for_the_job_is_told_before_the_first_image_and_left_empty() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let disk = SmallDisk::mount(beamline.path("small"), 8);
    let full = submit_and_wait(&beamline, &disk.path().join("run.h5"), "1000", &[]);
    full.fails_with(3, "do not fit");
    assert!(names_in(disk.path()).is_empty(), "{:?}", names_in(disk.path()));
    // What fits is written: the disk was not the writer's fault.
    let job = beamline.submit_running("small/run.h5", 20, &["--start", "1"]);
    Outcome::of(&mut beamline.sim(20, 100, &[])).ok();
    assert_eq!(beamline.wait_end(job)["result"]["written"], 20);
}

#[test]
fn a_folder_that_may_not_be_written_is_named() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    // Root may write anywhere but where nobody can: /proc is such a place.
    submit_and_wait(&beamline, Path::new("/proc/run.h5"), "10", &[]).fails_with(3, "/proc");
    let closed = beamline.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(closed.join("probe"), "").is_err() {
        submit_and_wait(&beamline, &closed.join("run.h5"), "10", &[]).fails_with(3, "cannot write");
    }
}

#[test]
fn without_a_broker_every_command_says_so() {
    for arguments in [
        &["submit", "write", "--output", "/tmp/run.h5", "--images", "1"][..],
        &["status"],
        &["jobs"],
        &["job", "1"],
        &["cancel", "1"],
    ] {
        let mut command = ecs();
        command.args(arguments).args(["--broker", "tcp://127.0.0.1:1"]);
        let outcome = Outcome::of(&mut command);
        println!("{arguments:?} took {:?}", outcome.took);
        outcome.fails_with(1, "ecs-cli up");
    }
}

#[test]
fn with_a_broker_and_no_writer_a_submit_says_so() {
    let beamline = Beamline::configured(Detector::Quadrant, "");
    let mut broker = beamline.command(&["broker"]).spawn().expect("the broker starts");
    crate::support::wait_for("the broker", Duration::from_secs(20), || {
        (beamline.call(&["status"]).code == 0).then_some(())
    });
    let refused = beamline.call(&["submit", "write", "--output", "run.h5", "--images", "1"]);
    send(broker.id() as i32, libc::SIGTERM);
    broker.wait().expect("it ends");
    println!("refused after {:?}", refused.took);
    refused.fails_with(1, "write");
}
