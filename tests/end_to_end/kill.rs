//! `kill -9` of each process in the middle of a run of 10,000 images.

use crate::support::{Beamline, Detector, check_images, send, wait_for};
use serde_json::Value;
use std::time::Duration;

const IMAGES: u64 = 10_000;
const RATE_HZ: u64 = 1000;
const KINDS: [&str; 4] = ["readout", "assembler", "writer", "broker"];

/// Kills `victim` a third into the run, lets `up` bring it back, and waits for the job's end.
fn kill_in_the_middle(victim: &str) -> (Beamline, Value, Value) {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let before = KINDS.map(|kind| beamline.pid(kind));
    let job = beamline.submit_running("run.h5", IMAGES, &["--start", "1", "--timeout", "8"]);
    let _sim = beamline.spawn_sim(IMAGES + 2000, RATE_HZ);
    wait_for("the run's first third", Duration::from_secs(60), || {
        let job = beamline.job(job);
        (job["progress"]["done"].as_u64()? >= IMAGES / 3).then_some(())
    });
    send(before[KINDS.iter().position(|kind| *kind == victim).unwrap()], libc::SIGKILL);
    wait_for("the victim's return", Duration::from_secs(30), || {
        beamline.call(&["status", "--wait", "1"]).stdout.contains("ready").then_some(())?;
        (beamline.call(&["status", "--json"]).code == 0).then_some(())?;
        let after = KINDS.map(|kind| beamline.pid(kind));
        let as_wanted = |index: usize| (after[index] == before[index]) == (KINDS[index] != victim);
        (0..KINDS.len()).all(as_wanted).then_some(())
    });
    let ended = beamline.wait_end(job);
    let counts = check_images(&beamline.path("run.h5"), &[]);
    assert_eq!(counts["asked"], IMAGES, "{counts:#}");
    let ledger = &ended["result"];
    assert_eq!((&ledger["written"], &ledger["partial"]), (&counts["complete"], &counts["partial"]), "{ended:#}");
    (beamline, ended, counts)
}

#[test]
fn readout_killed_costs_the_images_of_its_absence_and_the_job_is_done() {
    let (_beamline, ended, counts) = kill_in_the_middle("readout");
    assert_eq!(ended["state"], "done", "{ended:#}");
    assert!(counts["complete"].as_u64().unwrap() > IMAGES / 2, "{counts:#}");
    assert!(counts["lost"].as_object().unwrap().keys().all(|cause| cause == "not_received"), "{counts:#}");
}

#[test]
fn assembler_killed_costs_the_images_of_its_absence_and_the_job_is_done() {
    let (_beamline, ended, counts) = kill_in_the_middle("assembler");
    assert_eq!(ended["state"], "done", "{ended:#}");
    assert!(counts["complete"].as_u64().unwrap() > IMAGES / 2, "{counts:#}");
    let causes = counts["lost"].as_object().unwrap();
    assert!(causes.keys().all(|cause| cause == "assembler_down" || cause == "not_received"), "{counts:#}");
}

#[test]
fn writer_killed_leaves_a_file_that_opens_and_a_job_that_failed_with_its_ledger() {
    let (_beamline, ended, counts) = kill_in_the_middle("writer");
    assert_eq!((&ended["state"], &ended["reason"]["code"]), (&"failed".into(), &"agent_lost".into()), "{ended:#}");
    assert_eq!(counts["state"], "failed");
    assert!(counts["complete"].as_u64().unwrap() >= IMAGES / 4, "{counts:#}");
    assert!(counts["lost"]["writer_down"].as_u64().unwrap() > 0, "{counts:#}");
}

#[test]
fn broker_killed_costs_nothing_and_the_job_is_done_without_a_gap() {
    let (_beamline, ended, counts) = kill_in_the_middle("broker");
    assert_eq!((&ended["state"], &counts["complete"]), (&"done".into(), &IMAGES.into()), "{ended:#}\n{counts:#}");
}

#[test]
fn readout_stopped_and_continued_is_noticed_as_gone_and_comes_back_by_itself() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let pid = beamline.pid("readout");
    send(pid, libc::SIGSTOP);
    wait_for("the stopped agent to be gone", Duration::from_secs(20), || {
        (beamline.agent("readout")["state"] == "gone").then_some(())
    });
    send(pid, libc::SIGCONT);
    wait_for("the agent's return", Duration::from_secs(20), || {
        (beamline.agent("readout")["state"] == "ready").then_some(())
    });
    assert_eq!(beamline.pid("readout"), pid, "it was the same process all the while");
}
