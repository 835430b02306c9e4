//! Every packet accounted for: from a sender that is told how many it sent, by layers, to a job's ledger; whoever else
//! sends, whenever it sends, and whatever its ids do.
//!
//! Beside what is here, every test checks the sums of its beamline's counters at its end (`support/beamline.rs`).

use crate::support::{Beamline, ByHand, Detector, Outcome, check_images, wait_for};
use ecs_shm_buffer::{PixelAccess, ProcessId, Reader, Start};
use serde_json::Value;
use std::{thread::sleep, time::Duration};

const FATES: [&str; 9] =
    ["placed", "duplicate", "late", "early", "no_slot", "foreign", "malformed", "shed", "unlisted"];

/// A number of a ledger's packets, which add up.
fn packets(job: &Value, name: &str) -> u64 {
    let count = |name: &str| job["result"]["packets"][name].as_u64().unwrap_or_else(|| panic!("no {name}: {job:#}"));
    assert_eq!(FATES.into_iter().map(count).sum::<u64>(), count("received"), "{job:#}");
    count(name)
}

fn lost(job: &Value, cause: &str) -> u64 {
    job["result"]["lost"][cause].as_u64().unwrap_or(0)
}

fn written(job: &Value) -> u64 {
    job["result"]["written"].as_u64().unwrap()
}

#[test]
fn what_was_sent_is_in_the_ledger_the_file_the_status_and_the_ring_to_the_packet() {
    let beamline = Beamline::up(Detector::Eiger500K { bits: 16 }, "coalesce = false\n");
    let job = beamline.submit_running("run.h5", 200, &["--start", "1"]);
    let faults = ["--seed", "5", "--drop", "0.01", "--duplicate", "0.02"];
    let sent = Outcome::of(&mut beamline.sim(200, 100, &faults)).ok().json();
    let ended = beamline.wait_end(job);
    let count = |name: &str| sent[name].as_u64().unwrap();
    let before = packets(&ended, "received") + packets(&ended, "dropped_by_kernel");
    assert_eq!(before, count("packets_sent"), "{ended:#}\n{sent:#}");
    assert_eq!(packets(&ended, "duplicate"), count("packets_duplicated"), "{ended:#}");
    assert_eq!(packets(&ended, "placed"), count("packets_made") - count("packets_dropped"), "{ended:#}");
    let in_file = check_images(&beamline.path("run.h5"), &["--seed", "5"]);
    assert_eq!(in_file["packets"], ended["result"]["packets"]);
    let shown = beamline.call(&["job", &job.to_string()]).ok().stdout;
    assert!(shown.contains("packets counted") && shown.contains("duplicate"), "{shown}");
    let ring = beamline.ring_status().unwrap();
    assert_eq!((ring.packets.received, ring.packets.placed), (before, packets(&ended, "placed")));
    wait_for("the telemetry", Duration::from_secs(10), || {
        let told = beamline.agent("assembler")["telemetry"].clone();
        let is = |name: &str, value: u64| told[name].as_u64() == Some(value);
        (is("packets_received", before) && is("images_opened", ring.images_opened)).then_some(())
    });
}

#[test]
fn status_tells_of_each_reader_what_it_was_given_and_what_it_missed() {
    // 64 slots: who does not read is overtaken.
    let beamline = Beamline::up(Detector::Quadrant, "[ring]\nsize = \"8 MiB\"\n");
    let ring = ecs_shm_buffer::open(&beamline.ring_path(), PixelAccess::ReadOnly).unwrap();
    let mut preview = Reader::lossy(&ring, ProcessId::current(), "preview", Start::Next).unwrap();
    let mut given = 0;
    for first in ["1", "31"] {
        Outcome::of(&mut beamline.sim(30, 100, &["--start", first])).ok();
        given += std::iter::from_fn(|| preview.next(Duration::from_millis(500))).count();
    }
    Outcome::of(&mut beamline.sim(300, 300, &["--start", "61"])).ok();
    preview.try_next().expect("some are still there");
    preview.release();
    let told = wait_for("the telemetry", Duration::from_secs(10), || {
        let readers = beamline.agent("assembler")["telemetry"]["readers"].clone();
        let count = |name: &str| readers[0][name].as_u64().unwrap_or(0);
        (count("delivered") == given as u64 + 1 && count("behind") > 0).then_some(readers[0].clone())
    });
    let count = |name: &str| told[name].as_u64().unwrap();
    assert_eq!((given, count("delivered") + count("overtaken") + count("behind")), (60, 360), "{told:#}");
    assert!(count("overtaken") > 200 && told["is_reliable"] == false, "{told:#}");
    let shown = beamline.call(&["status"]).ok().stdout;
    assert!(shown.contains("preview") && shown.contains("overtaken") && shown.contains("images opened"), "{shown}");
}

#[test]
fn packets_of_senders_that_are_not_listed_are_counted_and_cost_nothing() {
    // The simulator sends from 127.0.0.1. The stranger sends packets that look right, of wrong pixels, also before the run.
    let beamline = Beamline::up(Detector::Quadrant, "senders = [\"127.0.0.1\"]\n");
    let stranger = ByHand::from(&beamline, "127.0.0.9");
    (1000..1020).for_each(|id| stranger.stray(id, 3));
    wait_for("the stranger's packets", Duration::from_secs(10), || {
        (beamline.ring_status()?.packets.unlisted == 20).then_some(())
    });
    assert_eq!(beamline.ring_status().unwrap().epoch, 0, "they began a run");
    let job = beamline.submit_running("run.h5", 400, &["--start", "1"]);
    let sim = beamline.spawn_sim(400, 200);
    let mut sent = 0;
    wait_for("the job's end", Duration::from_secs(60), || {
        let job = beamline.job(job);
        let done = job["progress"]["done"].as_u64().unwrap_or(0);
        for id in done.saturating_sub(2)..done + 40 {
            (0..32).for_each(|packet| stranger.stray(id, packet));
            sent += 32;
        }
        (job["state"] == "done").then_some(())
    });
    drop(sim);
    let ended = beamline.wait_end(job);
    assert_eq!((&ended["state"], written(&ended)), (&"done".into(), 400), "{ended:#}");
    assert_eq!(check_images(&beamline.path("run.h5"), &[])["complete"], 400);
    let ring = wait_for("what was sent last", Duration::from_secs(10), || {
        beamline.ring_status().filter(|ring| ring.packets.unlisted == 20 + sent)
    });
    assert_eq!((ring.packets.placed, ring.packets.late + ring.packets.early), (400 * 32, 0), "{ring:?}");
    assert!(packets(&ended, "unlisted") > 0, "{ended:#}");
    assert!(beamline.call(&["status"]).ok().stdout.contains("dropped unlisted"));
}

#[test]
fn ids_that_jump_lose_the_ids_between_and_the_packets_until_enough_agree() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let job = beamline.submit_running("run.h5", 1200, &["--start", "1", "--timeout", "10"]);
    Outcome::of(&mut beamline.sim(210, 100, &["--jump-every", "100", "--jump-by", "1000"])).ok();
    let ended = beamline.wait_end(job);
    // 1 to 100, then 1101 on. Of the first image after the jump, 15 packets came before they were believed.
    assert_eq!((&ended["state"], written(&ended)), (&"done".into(), 199), "{ended:#}");
    assert_eq!((lost(&ended, "not_received"), packets(&ended, "early")), (1000, 15), "{ended:#}");
    assert_eq!(ended["result"]["missing_packets"], 15);
    check_images(&beamline.path("run.h5"), &[]);
    assert_eq!(beamline.ring_status().unwrap().epoch, 1);
}

#[test]
fn ids_that_jump_far_begin_a_new_run_and_end_the_job() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let job = beamline.submit_running("run.h5", 150, &["--start", "1", "--timeout", "10"]);
    Outcome::of(&mut beamline.sim(200, 100, &["--jump-every", "100", "--jump-by", "1000000"])).ok();
    let ended = beamline.wait_end(job);
    assert_eq!((&ended["state"], &ended["reason"]["code"]), (&"failed".into(), &"no_images".into()), "{ended:#}");
    assert_eq!((written(&ended), lost(&ended, "run_ended")), (100, 50), "{ended:#}");
    check_images(&beamline.path("run.h5"), &[]);
    let ring = beamline.ring_status().unwrap();
    assert_eq!((ring.epoch, ring.lost.iter().sum::<u64>()), (2, 0), "{ring:?}");
}

#[test]
fn detector_that_begins_again_with_old_ids_ends_the_job_of_the_run_before() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let job = beamline.submit_running("first.h5", 150, &["--start", "1", "--timeout", "10"]);
    let sim = ["--restart-every", "100", "--pause", "0.5"];
    Outcome::of(&mut beamline.sim(200, 100, &sim)).ok();
    let ended = beamline.wait_end(job);
    assert_eq!((written(&ended), lost(&ended, "run_ended")), (100, 50), "{ended:#}");
    check_images(&beamline.path("first.h5"), &[]);
    let ring = beamline.ring_status().unwrap();
    assert_eq!((ring.epoch, ring.images_complete, ring.packets.late), (2, 200, 0), "{ring:?}");
}

#[test]
fn detector_that_begins_again_without_a_pause_is_late_for_as_long_as_one() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    Outcome::of(&mut beamline.sim(600, 200, &["--restart-every", "300", "--pause", "0"])).ok();
    let ring = beamline.ring_status().unwrap();
    // 100 ms are 20 images of 32 packets; the readout may sleep a little now and then.
    assert!((18 * 32..80 * 32).contains(&ring.packets.late), "{ring:?}");
    assert_eq!((ring.epoch, ring.packets.received), (2, 600 * 32), "{ring:?}");
    assert!(ring.images_complete > 500, "{ring:?}");
}

#[test]
fn detector_that_sends_while_nobody_asks_is_no_loss_and_a_job_takes_it_up_where_it_is() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let sim = beamline.spawn_sim(2000, 200);
    wait_for("images that nobody asked for", Duration::from_secs(20), || {
        (beamline.ring_status()?.images_complete > 100).then_some(())
    });
    let late = beamline.submit_running("late.h5", 400, &["--start", "1", "--timeout", "10"]);
    let ended = beamline.wait_end(late);
    let before = lost(&ended, "before_job");
    assert!(ended["state"] == "done" && before > 90 && before + written(&ended) == 400, "{ended:#}");
    let now = beamline.submit_running("now.h5", 100, &[]);
    let ended = beamline.wait_end(now);
    assert_eq!((&ended["state"], written(&ended)), (&"done".into(), 100), "{ended:#}");
    for file in ["late.h5", "now.h5"] {
        check_images(&beamline.path(file), &[]);
    }
    drop(sim);
    sleep(Duration::from_millis(300));
    let ring = beamline.ring_status().unwrap();
    assert_eq!(ring.lost.iter().sum::<u64>(), 0, "{ring:?}");
}

#[test]
fn packets_recorded_from_a_detector_play_again_as_the_same_images() {
    let mut beamline = Beamline::configured(Detector::Quadrant, "");
    let recorder = beamline.command(&["sim", "dump", "--config", "beamline.toml", "recorded", "--idle", "2", "--json"]);
    let recorded = std::thread::scope(|scope| {
        let recorder = scope.spawn(|| Outcome::of(&mut { recorder }));
        wait_for("the recorder", Duration::from_secs(20), || beamline.path("recorded").exists().then_some(()));
        Outcome::of(&mut beamline.sim(50, 100, &["--seed", "4"])).ok();
        recorder.join().unwrap().ok().json()
    });
    assert_eq!((&recorded["packets"], &recorded["dropped_by_kernel"]), (&(50 * 32).into(), &0.into()), "{recorded:#}");
    beamline.start();
    let job = beamline.submit_running("run.h5", 50, &["--start", "1"]);
    beamline.call(&["sim", "replay", "--config", "beamline.toml", "--dump", "recorded", "--rate", "100"]).ok();
    assert_eq!(written(&beamline.wait_end(job)), 50);
    assert_eq!(check_images(&beamline.path("run.h5"), &["--seed", "4"])["complete"], 50);
}
