//! Packets that a real EIGER 500K sent, replayed over UDP, and the images that a separate program made of
//! them.

use crate::support::{Beamline, Detector, Outcome, python, repository};
use serde_json::Value;
use std::fs;

/// Replays the recording with `how` into a file and compares every image with `expected.json`.
fn replay(how: &[&str]) {
    let data = repository().join("tests/data/eiger-500k");
    let beamline = Beamline::configured(Detector::Eiger500K { bits: 32 }, "");
    fs::copy(data.join("detector.json"), beamline.path("detector.json")).expect("copied");
    let mut beamline = beamline;
    beamline.start();
    let job = beamline.submit_running("run.h5", 5, &["--start", "29512"]);
    let dump = data.display().to_string();
    let replay = [&["sim", "replay", "--config", "detector.json", "--dump", &dump, "--json"], how].concat();
    beamline.call(&replay).ok();
    let ended = beamline.wait_end(job);
    assert_eq!((&ended["state"], &ended["result"]["written"]), (&"done".into(), &5.into()), "{ended:#}");
    let mut hash = python();
    hash.arg("tests/hash_images.py").arg(beamline.path("run.h5"));
    let images = Outcome::of(&mut hash).ok().json();
    let expected = fs::read_to_string(data.join("expected.json")).expect("read");
    let expected: Value = serde_json::from_str(&expected).expect("JSON");
    let expected = expected["images"].as_object().expect("a map");
    assert_eq!(images.as_object().map(|images| images.len()), Some(expected.len()));
    for (id, wanted) in expected {
        for field in ["sha256", "sum", "max"] {
            assert_eq!(images[id][field], wanted[field], "image {id}, {field}, replayed with {how:?}");
        }
    }
}

#[test]
fn recorded_packets_become_the_expected_images() {
    replay(&[]);
}

#[test]
fn recorded_packets_shuffled_within_their_frames_become_the_same_images() {
    replay(&["--shuffle", "11"]);
}

#[test]
fn recorded_packets_sent_twice_and_shuffled_become_the_same_images() {
    replay(&["--duplicate", "1.0", "--shuffle", "5"]);
}

#[test]
fn recorded_packets_interleaved_packet_by_packet_between_ports_become_the_same_images() {
    replay(&["--interleave", "1"]);
}

#[test]
fn recorded_packets_one_image_at_a_time_become_the_same_images() {
    replay(&["--rate", "4"]);
}
