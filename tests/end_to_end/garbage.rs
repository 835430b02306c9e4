//! An attacker sends garbage to every port while a run goes on.

use crate::support::{Beamline, Detector, Outcome, check_images, python};
use serde_json::Value;
use std::{
    fs,
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
};

/// A small generator with a printed seed: the same garbage again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Bytes of every length, and headers that are nearly right: foreign detectors, impossible numbers, ids
/// from everywhere.
fn hostile_packet(random: &mut Random) -> Vec<u8> {
    let exact = 4144;
    let length = match random.next() % 4 {
        0 => random.next() as usize % 200,
        1 => random.next() as usize % 9000,
        _ => exact,
    };
    let mut packet: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
    if length == exact {
        let number = if random.next().is_multiple_of(2) { u32::MAX } else { 32 + random.next() as u32 % 1000 };
        packet[12..16].copy_from_slice(&number.to_le_bytes());
        (packet[46], packet[47]) = if random.next().is_multiple_of(2) { (1, 2) } else { (3, 2) };
    }
    packet
}

#[test]
fn garbage_on_detector_ports_and_broker_costs_nobody_an_image() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let detector: Value = serde_json::from_str(&fs::read_to_string(beamline.path("detector.json")).unwrap()).unwrap();
    let port = detector["start_udp_port"].as_u64().unwrap() as u16;
    let job = beamline.submit_running("run.h5", 1000, &["--start", "1"]);
    let done = AtomicBool::new(false);
    let seed = 0x5eed_0001;
    println!("seed {seed:#x}");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (socket, mut random) = (UdpSocket::bind("127.0.0.1:0").unwrap(), Random(seed));
            while !done.load(Ordering::Relaxed) {
                for _ in 0..20 {
                    socket.send_to(&hostile_packet(&mut random), ("127.0.0.1", port)).unwrap();
                }
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        });
        scope.spawn(|| {
            let mut attack = python();
            attack.arg("tests/attack_broker.py").arg(format!("ipc://{}", beamline.path("req").display()));
            Outcome::of(&mut attack).ok();
        });
        let sim = Outcome::of(&mut beamline.sim(1000, 300, &[]));
        let ended = beamline.wait_end(job);
        done.store(true, Ordering::Relaxed);
        sim.ok();
        assert_eq!((&ended["state"], &ended["result"]["written"]), (&"done".into(), &1000.into()), "{ended:#}");
    });
    assert_eq!(check_images(&beamline.path("run.h5"), &[])["complete"], 1000);
    let telemetry = &beamline.agent("readout")["telemetry"];
    assert!(telemetry["dropped_malformed"].as_u64().unwrap() > 0, "{telemetry:#}");
    assert!(telemetry["dropped_foreign"].as_u64().unwrap() > 0, "{telemetry:#}");
    assert!(beamline.status()["broker"]["malformed"].as_u64().unwrap() > 0);
    assert!(!beamline.log().contains("panicked"), "{}", beamline.log());
}
