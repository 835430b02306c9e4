//! Every detector under all faults at once, by seed: packets dropped, doubled, late and in bursts, a port that is dead, and
//! each process killed in the middle. Every pixel that is delivered is right, or marked, and the sums are exact.

use crate::{
    kills::random::Random,
    support::{Beamline, Detector, PATIENCE, check_images, send, wait_for},
};
use serde_json::Value;

const SEED: u64 = 7;
/// Seconds of the detector that the first job takes; the second one takes half as long.
const SECONDS: u64 = 4;

/// Kills processes while a lossy run is written: first those that a job outlives, then its writer.
fn assert_every_pixel_is_right_or_marked(detector: &'static str, check: &str, rate_hz: u64) {
    println!("seed {SEED}");
    let beamline = Beamline::up(Detector::Toml(detector), "");
    let placement = beamline.detector().placement;
    // A packet that is put back by 32 turns is late for good where these are more than an image or two.
    let reorder = if placement.packets_per_module < 32 { "0" } else { "0.02" };
    let (seed, dead) = (SEED.to_string(), placement.ports.last().expect("ports").to_string());
    let mut faults = vec!["--seed", &seed, "--drop", "0.01", "--duplicate", "0.02", "--burst", "0.001"];
    faults.extend(["--reorder", reorder]);
    if placement.ports.len() > 1 {
        faults.extend(["--dead-port", &dead]);
    }
    let images = SECONDS * rate_hz;
    let job = beamline.submit_running("run.h5", images, &["--start", "1", "--timeout", "10"]);
    let _sim = beamline.spawn_sim_with(30 * images, rate_hz, &faults);
    let mut random = Random::new(SEED, rate_hz);
    let mut victims = vec!["readout", "assembler", "broker"];
    for part in 0..3 {
        let at = images / 10 + part * images / 4 + random.below(images / 8);
        beamline.wait_job(job, |job| job["progress"]["done"].as_u64() >= Some(at) || job["state"] == "done");
        kill(&beamline, victims.swap_remove(random.index(victims.len())));
    }
    let ended = beamline.wait_end(job);
    assert_eq!(ended["state"], "done", "{detector}: {ended:#}");
    assert_is_right(&beamline, "run.h5", check, &ended, images);

    let images = images / 2;
    let job = beamline.submit_running("killed.h5", images, &["--timeout", "10"]);
    let at = images / 4 + random.below(images / 4);
    beamline.wait_job(job, |job| job["progress"]["done"].as_u64() >= Some(at));
    kill(&beamline, "writer");
    let ended = beamline.wait_end(job);
    assert_eq!((&ended["state"], &ended["reason"]["code"]), (&"failed".into(), &"agent_lost".into()), "{ended:#}");
    assert_is_right(&beamline, "killed.h5", check, &ended, images);
}

/// Kills a process, and waits until it is there again.
fn kill(beamline: &Beamline, kind: &str) {
    let pid = beamline.pid(kind);
    send(pid, libc::SIGKILL);
    wait_for("the victim's return", PATIENCE, || {
        let status = beamline.call(&["status", "--wait", "1", "--json"]);
        let status: Value = serde_json::from_str(&status.stdout).ok()?;
        let agents = status["agents"].as_array()?;
        let of_kind = agents.iter().find(|agent| agent["kind"] == kind);
        let now = if kind == "broker" { status["broker"]["pid"].as_i64() } else { of_kind?["pid"].as_i64() };
        (status["ready"] == true && now.is_some_and(|now| now > 0 && now != i64::from(pid))).then_some(())
    });
}

/// Every pixel of the file, and that its ledger, its rows and the job say the same.
fn assert_is_right(beamline: &Beamline, file: &str, check: &str, ended: &Value, images: u64) {
    let seed = SEED.to_string();
    let counts = check_images(&beamline.path(file), &["--seed", &seed, "--detector", check]);
    assert_eq!(counts["asked"], images, "{counts:#}");
    for (field, of_file) in [("written", "complete"), ("partial", "partial"), ("missing_packets", "missing_packets")] {
        assert_eq!(ended["result"][field], counts[of_file], "{field}: {ended:#}\n{counts:#}");
    }
    assert_eq!(ended["result"]["lost"], counts["lost"], "{ended:#}\n{counts:#}");
    let delivered = counts["complete"].as_u64().unwrap() + counts["partial"].as_u64().unwrap();
    assert!(delivered > images / 5, "hardly anything was delivered: {counts:#}");
}

#[test]
fn eiger_of_4_bit() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 4";
    assert_every_pixel_is_right_or_marked(detector, "eiger:bits=4", 100);
}

#[test]
fn eiger_of_8_bit() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 8";
    assert_every_pixel_is_right_or_marked(detector, "eiger:bits=8", 101);
}

#[test]
fn eiger_of_12_bit() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 12";
    assert_every_pixel_is_right_or_marked(detector, "eiger:bits=12", 60);
}

#[test]
fn eiger_of_16_bit() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 16";
    assert_every_pixel_is_right_or_marked(detector, "eiger:bits=16", 61);
}

#[test]
fn eiger_of_32_bit_on_1_gigabit_with_few_rows() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 32\ntengiga = false\nreadnrows = 32";
    assert_every_pixel_is_right_or_marked(detector, "eiger:bits=32:payload=1024:read=32", 102);
}

#[test]
fn jungfrau_on_two_interfaces() {
    let detector = "detector_type = \"jungfrau\"\nmodel = \"500K\"\nnuminterfaces = 2\nreadnrows = 128";
    assert_every_pixel_is_right_or_marked(detector, "jungfrau:read=128:interfaces=2", 103);
}

#[test]
fn gigafrost_on_both_octets() {
    let detector = "detector_type = \"gigafrost\"\nimage_pixel_height = 252\nimage_pixel_width = 504";
    assert_every_pixel_is_right_or_marked(detector, "gigafrost", 104);
}

#[test]
fn moench() {
    assert_every_pixel_is_right_or_marked("detector_type = \"moench\"", "raster", 105);
}

#[test]
fn mythen3() {
    let check = "raster:height=1:width=3840:bits=32:payload=7680:across=2";
    assert_every_pixel_is_right_or_marked("detector_type = \"mythen3\"\nmodules = [2, 1]", check, 106);
}

#[test]
fn gotthard2() {
    let check = "raster:height=1:width=1280:payload=2560:along=4";
    assert_every_pixel_is_right_or_marked("detector_type = \"gotthard2\"\nmodules = [1, 4]", check, 107);
}

#[test]
fn dummy_udp() {
    assert_every_pixel_is_right_or_marked(
        "detector_type = \"dummyudp\"",
        "raster:height=1024:width=1400:payload=8000",
        30,
    );
}

#[test]
fn made_up() {
    assert_every_pixel_is_right_or_marked(crate::detectors::MADE_UP, "made_up", 108);
}
