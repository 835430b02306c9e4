//! Where a run begins and ends when packets come slowly, late, from far away, or not at all on some ports:
//! no pixel of another run is called good, and nobody loses an image for another's packet.

use crate::support::{Beamline, ByHand, Detector, Outcome, check_images, send};
use serde_json::Value;
use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

/// `written`, `partial` and the sum of `lost` of a job that is done.
fn ledger(job: &Value) -> (u64, u64, u64) {
    assert_eq!(job["state"], "done", "{job:#}");
    let count = |name: &str| job["result"][name].as_u64().unwrap();
    let lost = job["result"]["lost"].as_object().unwrap().values().map(|lost| lost.as_u64().unwrap()).sum();
    (count("written"), count("partial"), lost)
}

#[test]
fn a_readout_that_lags_behind_brings_no_pixel_of_the_run_before() {
    // One of two readouts sleeps over the end of a run, with its packets in its sockets, and wakes in the
    // next one, which has the same ids.
    let beamline = Beamline::up(Detector::Eiger500K { bits: 8 }, "processes = 2\n");
    let lagging = beamline.pid_of_name("readout-1");
    Outcome::of(&mut beamline.sim(50, 100, &["--seed", "1"])).ok();
    send(lagging, libc::SIGSTOP);
    Outcome::of(&mut beamline.sim(10, 50, &["--seed", "1", "--start", "51"])).ok();
    sleep(Duration::from_millis(350));
    let job = beamline.submit_running("run.h5", 120, &["--timeout", "10"]);
    std::thread::scope(|scope| {
        scope.spawn(|| Outcome::of(&mut beamline.sim(150, 50, &["--seed", "2"])).ok());
        sleep(Duration::from_secs(1));
        send(lagging, libc::SIGCONT);
    });
    let (written, partial, lost) = ledger(&beamline.wait_end(job));
    assert_eq!(written + partial + lost, 120);
    assert!(written >= 50, "it takes part again: {written} whole, {partial} partial, {lost} lost");
    check_images(&beamline.path("run.h5"), &["--seed", "2"]); // every pixel that is called good
}

#[test]
fn runs_of_one_image_with_the_same_id_are_told_apart() {
    for detector in [Detector::Quadrant, Detector::Eiger500K { bits: 8 }] {
        let beamline = Beamline::up(detector, "");
        for seed in ["1", "2", "3"] {
            let file = format!("{seed}.h5");
            let job = beamline.submit_running(&file, 1, &["--timeout", "10"]);
            Outcome::of(&mut beamline.sim(1, 0, &["--seed", seed])).ok();
            assert_eq!(ledger(&beamline.wait_end(job)), (1, 0, 0), "{detector:?}, run {seed}");
            assert_eq!(check_images(&beamline.path(&file), &["--seed", seed])["complete"], 1);
            sleep(Duration::from_millis(2200)); // a pause shorter than this is not one between runs
        }
    }
}

#[test]
fn a_slow_detector_is_one_run_whatever_strays_in_between() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let detector = ByHand::new(&beamline);
    let job = beamline.submit_running("run.h5", 20, &["--start", "1", "--timeout", "10"]);
    for id in 1..=21 {
        detector.image(id);
        sleep(Duration::from_millis(150));
        if id == 12 {
            detector.stray(3, 7); // of an image long closed, in the quiet between two
        }
        sleep(Duration::from_millis(50));
    }
    assert_eq!(ledger(&beamline.wait_end(job)), (20, 0, 0));
    assert_eq!(check_images(&beamline.path("run.h5"), &[])["complete"], 20);
}

#[test]
fn a_very_slow_detector_may_send_the_last_packet_of_an_image_after_the_next_has_begun() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let detector = ByHand::new(&beamline);
    let job = beamline.submit_running("run.h5", 4, &["--start", "1", "--timeout", "10"]);
    let pause = || sleep(Duration::from_millis(2300));
    detector.image(1);
    pause();
    (0..31).for_each(|index| detector.packet(2, index));
    detector.packet(3, 0);
    detector.packet(2, 31);
    (1..32).for_each(|index| detector.packet(3, index));
    pause();
    detector.image(4);
    pause();
    detector.image(5);
    assert_eq!(ledger(&beamline.wait_end(job)), (4, 0, 0));
    assert_eq!(check_images(&beamline.path("run.h5"), &[])["complete"], 4);
}

#[test]
fn the_very_last_packet_of_a_run_is_lost_and_its_image_comes_without_it_after_its_deadline() {
    // Nothing follows, so that nobody learns of the loss from a packet.
    let beamline = Beamline::up(Detector::Quadrant, "[assembler]\ndeadline = \"700 ms\"\n");
    let detector = ByHand::new(&beamline);
    let job = beamline.submit_running("run.h5", 10, &["--start", "1", "--timeout", "30"]);
    (1..10).for_each(|id| detector.image(id));
    (0..31).for_each(|index| detector.packet(10, index));
    let sent = Instant::now();
    assert_eq!(ledger(&beamline.wait_end(job)), (9, 1, 0));
    let took = sent.elapsed();
    assert!((Duration::from_millis(600)..Duration::from_secs(10)).contains(&took), "{took:?}");
    fs::write(beamline.path("missing.json"), "{\"10\": [31]}").unwrap();
    let missing = beamline.path("missing.json").display().to_string();
    let counts = check_images(&beamline.path("run.h5"), &["--missing", &missing]);
    assert_eq!(
        (&counts["complete"], &counts["partial"], &counts["missing_packets"]),
        (&9.into(), &1.into(), &1.into())
    );
}

#[test]
fn one_readout_of_a_slow_detector_may_sleep_and_costs_its_pixels_only() {
    let beamline = Beamline::up(Detector::Eiger500K { bits: 8 }, "processes = 2\n");
    let sleeping = beamline.pid_of_name("readout-1");
    let job = beamline.submit_running("run.h5", 25, &["--start", "1", "--timeout", "10"]);
    std::thread::scope(|scope| {
        scope.spawn(|| Outcome::of(&mut beamline.sim(30, 5, &[])).ok());
        sleep(Duration::from_millis(2000));
        send(sleeping, libc::SIGSTOP);
        sleep(Duration::from_millis(1100));
        send(sleeping, libc::SIGCONT);
    });
    let (written, partial, lost) = ledger(&beamline.wait_end(job));
    assert_eq!(lost, 0);
    assert!(written >= 15 && written + partial == 25, "{written} whole, {partial} partial");
    check_images(&beamline.path("run.h5"), &[]);
}

#[test]
fn one_stray_packet_of_a_near_or_far_id_moves_nothing() {
    // Just beyond the window, where a port that leads the others is, too; and far away.
    for ahead in [40, 50, 60, 200, 1 << 40] {
        let beamline = Beamline::up(Detector::Quadrant, "");
        let detector = ByHand::new(&beamline);
        let job = beamline.submit_running("run.h5", 500, &["--start", "1", "--timeout", "10"]);
        std::thread::scope(|scope| {
            scope.spawn(|| Outcome::of(&mut beamline.sim(500, 150, &[])).ok());
            beamline.wait_job(job, |job| job["progress"]["done"].as_u64() >= Some(100));
            match ahead {
                ..100 => detector.packet(100 + ahead, 5), // by now it may be inside the window
                _ => detector.stray(100 + ahead, 5),
            }
        });
        assert_eq!(ledger(&beamline.wait_end(job)), (500, 0, 0), "{ahead} ids ahead");
        assert_eq!(check_images(&beamline.path("run.h5"), &[])["complete"], 500);
    }
}

#[test]
fn ports_that_fall_silent_in_a_run_cost_their_pixels_and_no_image() {
    for processes in ["1", "2"] {
        let beamline = Beamline::up(Detector::Eiger500K { bits: 8 }, &format!("processes = {processes}\n"));
        let text = fs::read_to_string(beamline.path("detector.json")).unwrap();
        let mut half: Value = serde_json::from_str(&text).unwrap();
        for module in ["2", "3"] {
            half["module_positions"].as_object_mut().unwrap().remove(module);
        }
        fs::write(beamline.path("half.json"), half.to_string()).unwrap();
        let job = beamline.submit_running("run.h5", 1000, &["--start", "1", "--timeout", "10"]);
        Outcome::of(&mut beamline.sim(200, 400, &[])).ok();
        let sim = ["sim", "eiger", "--config", "half.json", "--images", "800", "--rate", "400", "--start", "201"];
        beamline.call(&sim).ok();
        assert_eq!(ledger(&beamline.wait_end(job)), (200, 800, 0), "{processes} readout processes");
        check_images(&beamline.path("run.h5"), &[]);
    }
}

/// Four packets a port; the header holds the lowest 16 bits of the image id.
const SHORT_IDS: &str = r#"
    detector_type = "short-ids"
    modules = [2, 1]
    [module]
    columns = 64
    rows = 32
    bit_depth = 16
    [packet]
    header_bytes = 8
    payload_bytes = 1024
    [fields]
    image_id = { offset = 0, bytes = 2 }
    packet_number = { offset = 2, bytes = 2 }
"#;

#[test]
fn ids_that_wrap_go_on_in_one_run_and_one_job_with_several_readouts_and_losses() {
    let beamline = Beamline::up(Detector::Toml(SHORT_IDS), "processes = 2\n");
    let job = beamline.submit_running("run.h5", 400, &["--start", "65336", "--timeout", "10"]);
    Outcome::of(&mut beamline.sim(410, 200, &["--start", "65336", "--seed", "3", "--drop", "0.02"])).ok();
    let (written, partial, lost) = ledger(&beamline.wait_end(job));
    assert_eq!((written + partial, lost), (400, 0), "{written} whole, {partial} partial, {lost} lost");
    let checked = ["--seed", "3", "--detector", "raster:height=32:width=64:payload=1024:across=2"];
    check_images(&beamline.path("run.h5"), &checked);
    // Far from the end, it has begun again.
    sleep(Duration::from_millis(300));
    Outcome::of(&mut beamline.sim(20, 200, &["--seed", "3"])).ok();
    assert_eq!(beamline.ring_status().unwrap().epoch, 2);
}
