//! An attacker sends garbage to every port while a run goes on.

use crate::support::{Beamline, Detector, Outcome, check_images, python};
use serde_json::Value;
use std::{
    fs,
    net::UdpSocket,
    os::fd::AsRawFd,
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
fn hostile_packet(random: &mut Random, with_far_ids: bool) -> Vec<u8> {
    let exact = 4144;
    let length = match random.next() % 4 {
        0 => random.next() as usize % 200,
        1 => random.next() as usize % 9000,
        _ => exact,
    };
    let mut packet: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
    if length == exact {
        let (impossible, far_id) = (32 + random.next() as u32 % 1000, 1 << 40 | random.next() >> 20);
        let (number, detector, id) = match random.next() % if with_far_ids { 3 } else { 2 } {
            0 => (impossible, 1, 5),
            1 => (0, 3, 5),
            _ => (random.next() as u32 % 32, 1, far_id), // nothing wrong with it but its id
        };
        packet[0..8].copy_from_slice(&id.to_le_bytes());
        packet[12..16].copy_from_slice(&number.to_le_bytes());
        (packet[46], packet[47]) = (detector, 2);
    }
    packet
}

/// Several packets in one message, of the right length or another; the receiver gets them coalesced.
fn send_coalesced(random: &mut Random, with_far_ids: bool, port: u16) {
    let packet_bytes = [4144_i32, 4143, 1000, 1][random.next() as usize % 4];
    let bytes: Vec<u8> = (0..60).flat_map(|_| hostile_packet(random, with_far_ids)).collect();
    let bytes = &bytes[..bytes.len().min(packet_bytes as usize * 14 + 5).min(65_000)];
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    // SAFETY: the option is an int and outlives the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const packet_bytes).cast(), 4)
    };
    assert_eq!(result, 0);
    socket.send_to(bytes, ("127.0.0.1", port)).unwrap();
}

#[test]
fn garbage_on_detector_ports_and_broker_costs_nobody_an_image() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let detector: Value = serde_json::from_str(&fs::read_to_string(beamline.path("detector.json")).unwrap()).unwrap();
    let port = detector["start_udp_port"].as_u64().unwrap() as u16;
    let job = beamline.submit_running("run.h5", 1000, &["--start", "1"]);
    // Before a run has begun, any packet that looks right begins one; in a run, an id far away is a stray.
    let (began, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let seed = 0x5eed_0001;
    println!("seed {seed:#x}");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (socket, mut random) = (UdpSocket::bind("127.0.0.1:0").unwrap(), Random(seed));
            while !done.load(Ordering::Relaxed) {
                send_coalesced(&mut random, began.load(Ordering::Relaxed), port);
                for _ in 0..20 {
                    let packet = hostile_packet(&mut random, began.load(Ordering::Relaxed));
                    socket.send_to(&packet, ("127.0.0.1", port)).unwrap();
                }
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        });
        scope.spawn(|| {
            let mut attack = python();
            attack.arg("tests/attack_broker.py").arg(format!("ipc://{}", beamline.path("req").display()));
            Outcome::of(&mut attack).ok();
        });
        scope.spawn(|| {
            beamline.wait_job(job, |job| job["progress"]["done"].as_u64() >= Some(50));
            began.store(true, Ordering::Relaxed);
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
    assert!(telemetry["dropped_early"].as_u64().unwrap() > 0, "{telemetry:#}");
    assert!(telemetry["dropped_foreign"].as_u64().unwrap() > 0, "{telemetry:#}");
    assert!(beamline.status()["broker"]["malformed"].as_u64().unwrap() > 0);
    assert!(!beamline.log().contains("panicked"), "{}", beamline.log());
}
