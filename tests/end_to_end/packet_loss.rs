//! Packets that are dropped, doubled and reordered by seed, and what the file and the counters say.

use crate::support::{Beamline, Detector, Outcome, check_images, wait_for};
use ecs_sim::faults::Faults;
use serde_json::{Value, json};
use std::{fs, time::Duration};

const IMAGES: u64 = 300;
const SEED: u64 = 7;

#[test]
fn one_percent_of_packets_lost_is_marked_filled_and_counted_to_the_packet() {
    // The seed says which packets are lost; the file must name exactly those.
    let beamline = Beamline::up(Detector::Eiger500K { bits: 16 }, "");
    let job = beamline.submit_running("run.h5", IMAGES, &["--start", "1"]);
    let faults = ["--seed", "7", "--drop", "0.01", "--duplicate", "0.01", "--reorder", "0.01"];
    let sent = Outcome::of(&mut beamline.sim(IMAGES, 100, &faults)).ok().json();
    let ended = beamline.wait_end(job);
    assert_eq!(ended["state"], "done", "{ended:#}");
    let ledger = &ended["result"];
    assert_eq!(ledger["written"].as_u64().unwrap() + ledger["partial"].as_u64().unwrap(), IMAGES, "{ledger:#}");
    assert_eq!(ledger["missing_packets"], sent["packets_dropped"], "{ledger:#}\n{sent:#}");

    let fates = Faults { seed: SEED, drop: 0.01, ..Faults::default() }.of(&beamline.detector().placement);
    let dropped: serde_json::Map<String, Value> =
        (1..=IMAGES).map(|id| (id.to_string(), json!(fates.dropped_packets(id)))).collect();
    fs::write(beamline.path("missing.json"), Value::Object(dropped).to_string()).unwrap();
    let missing = beamline.path("missing.json").display().to_string();
    let counts = check_images(&beamline.path("run.h5"), &["--seed", "7", "--missing", &missing]);
    assert_eq!(counts["missing_packets"], sent["packets_dropped"]);
    assert_eq!(counts["state"], "done");

    // sent = received + dropped by the kernel, and received = the sum of what became of them.
    let sent = sent["packets_sent"].as_u64().unwrap();
    let packets = wait_for("the counters", Duration::from_secs(10), || {
        let telemetry = beamline.agent("assembler")["telemetry"].clone();
        let count = |name: &str| telemetry[name].as_u64().unwrap_or(0);
        (count("packets_received") + count("dropped_by_kernel") == sent).then(|| telemetry.clone())
    });
    let count = |name: &str| packets[name].as_u64().unwrap();
    let fates = ["duplicate", "late", "early", "no_slot", "foreign", "malformed", "shed"];
    let dropped: u64 = fates.iter().map(|fate| count(&format!("dropped_{fate}"))).sum();
    assert_eq!(count("packets_received"), count("packets_placed") + dropped, "{packets:#}");
    assert_eq!(count("packets_placed") + count("missing_packets"), IMAGES * 256, "{packets:#}");
}

#[test]
fn a_port_that_is_silent_costs_its_pixels_and_not_the_images() {
    // Module 3 is dropped altogether: its port never speaks.
    let beamline = Beamline::up(Detector::Eiger500K { bits: 8 }, "");
    let text = fs::read_to_string(beamline.path("detector.json")).unwrap();
    let mut three: Value = serde_json::from_str(&text).unwrap();
    three["module_positions"].as_object_mut().unwrap().remove("3");
    fs::write(beamline.path("three.json"), three.to_string()).unwrap();
    let job = beamline.submit_running("run.h5", 200, &["--start", "1"]);
    let sim = ["sim", "eiger", "--config", "three.json", "--images", "200", "--rate", "200", "--json"];
    beamline.call(&sim).ok();
    let ended = beamline.wait_end(job);
    let ledger = &ended["result"];
    assert_eq!((&ledger["partial"], &ledger["missing_packets"]), (&200.into(), &(200 * 32).into()), "{ended:#}");
    assert_eq!(check_images(&beamline.path("run.h5"), &[])["partial"], 200);
}

#[test]
fn two_readout_processes_share_the_ports_and_lose_nothing_between_them() {
    let beamline = Beamline::up(Detector::Eiger500K { bits: 16 }, "processes = 2\n");
    let status = beamline.status();
    let readouts = status["agents"].as_array().unwrap().iter().filter(|agent| agent["kind"] == "readout");
    assert_eq!(readouts.count(), 2, "{status:#}");
    for (file, seed, first) in [("a.h5", "1", "1"), ("b.h5", "2", "1")] {
        let job = beamline.submit_running(file, 400, &["--start", first]);
        Outcome::of(&mut beamline.sim(400, 100, &["--seed", seed])).ok();
        let ended = beamline.wait_end(job);
        assert_eq!((&ended["state"], &ended["result"]["written"]), (&"done".into(), &400.into()), "{ended:#}");
        assert_eq!(check_images(&beamline.path(file), &["--seed", seed])["complete"], 400);
    }
    let job = beamline.submit_running("lossy.h5", 300, &["--start", "5000"]);
    let faults = ["--start", "5000", "--seed", "3", "--drop", "0.01", "--reorder", "0.01"];
    let sent = Outcome::of(&mut beamline.sim(300, 100, &faults)).ok().json();
    let ended = beamline.wait_end(job);
    assert_eq!(ended["result"]["missing_packets"], sent["packets_dropped"], "{ended:#}");
    assert_eq!(check_images(&beamline.path("lossy.h5"), &["--seed", "3"])["lost_rows"], 0);
}
