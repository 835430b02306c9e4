//! Records of packets: what was sent is in the files, byte for byte, and plays again.

use crate::receiver::{detector_on_free_ports, free_ports};
use ecs_schemas::detector::{Detector, DetectorConfig};
use ecs_sim::{
    detector::{self, DetectorSim},
    dump::Dump,
    faults::Faults,
    record::{RecordError, RecordReport, Recording, run},
};
use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

fn recording(detector: &Detector, folder: &Path) -> Recording {
    let (address, folder) = (Ipv4Addr::LOCALHOST, folder.to_owned());
    let idle = Some(Duration::from_secs(2));
    Recording { detector: detector.clone(), address, folder, packets_max: None, idle }
}

/// Records while `send` runs, from when the ports are taken.
fn record_while(recording: &Recording, send: impl FnOnce()) -> RecordReport {
    let (begun, is_first) = (Barrier::new(2), AtomicBool::new(true));
    let stop = || {
        // It is asked once the ports are taken.
        if is_first.swap(false, SeqCst) {
            begun.wait();
        }
        false
    };
    std::thread::scope(|scope| {
        let recorder = scope.spawn(|| run(recording, &stop, &mut |_| ()).unwrap());
        begun.wait();
        send();
        recorder.join().unwrap()
    })
}

#[test]
fn packets_of_a_run_are_recorded_byte_for_byte_and_play_again() {
    // GigaFRoST: two octets of ports, and last packets that are shorter.
    let sockets = free_ports(16);
    let port = sockets[0].local_addr().unwrap().port();
    let text = format!(
        "detector_type = \"gigafrost\"\nstart_udp_port = {port}\nimage_pixel_height = 252\nimage_pixel_width = 504"
    );
    let detector = DetectorConfig::from_toml(&text).unwrap().detector().unwrap();
    drop(sockets);
    let folder = tempfile::tempdir().unwrap();
    let recording = recording(&detector, &folder.path().join("recorded"));
    let faults = Faults { seed: 3, drop: 0.1, reorder: 0.0, ..Faults::default() };
    let sim = DetectorSim { rate_hz: 100.0, faults, ..DetectorSim::new(detector.clone(), Ipv4Addr::LOCALHOST, 20) };
    let report = record_while(&recording, || {
        detector::run(&sim, &|| false, &mut |_| ()).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(&[1; 100], (Ipv4Addr::LOCALHOST, port)).unwrap();
    });
    let dropped: usize = (1..=20).map(|id| sim.fates().dropped_packets(id).len()).sum();
    assert_eq!((report.packets, report.other_packets, report.dropped_by_kernel), (20 * 32 - dropped as u64, 1, 0));
    let dump = Dump::read(&recording.folder, &detector).unwrap();
    assert_eq!((dump.frames().count(), dump.frame_numbers()), (20, (1, 20)));
    let pattern = ecs_sim::pattern::Pattern::new(&detector.placement, 3);
    for packet in dump.frames().flatten() {
        let module = packet.port % 8;
        let header = detector.read_header(dump.bytes(packet), module).unwrap();
        let index = module * detector.placement.packets_per_module + header.number;
        assert!(!sim.fates().dropped_packets(header.image_id).contains(&index));
        let payload = &dump.bytes(packet)[detector.wire.header_bytes..];
        let mut wanted = vec![0; payload.len()];
        pattern.write_payload(header.image_id, index, &mut wanted);
        assert!(payload == wanted, "image {}, packet {index}", header.image_id);
    }
}

#[test]
fn recording_ends_at_its_packets_and_touches_no_file_that_is_there() {
    let (detector, sockets) = detector_on_free_ports(8);
    drop(sockets);
    let folder = tempfile::tempdir().unwrap();
    let recording = Recording { packets_max: Some(100), idle: None, ..recording(&detector, folder.path()) };
    let sim = DetectorSim { rate_hz: 200.0, ..DetectorSim::new(detector.clone(), Ipv4Addr::LOCALHOST, 4) };
    let report = record_while(&recording, || _ = detector::run(&sim, &|| false, &mut |_| ()).unwrap());
    assert_eq!((report.packets, report.bytes), (100, 100 * 4144));
    let files =
        || (detector.placement.ports.iter()).map(|port| fs::read(folder.path().join(format!("{port}.dat"))).unwrap());
    let before: Vec<Vec<u8>> = files().collect();
    assert_eq!(before.iter().map(Vec::len).sum::<usize>(), 100 * (8 + 4144));
    let error = run(&recording, &|| true, &mut |_| ()).unwrap_err();
    assert!(matches!(error, RecordError::Exists { .. }), "{error}");
    assert!(files().eq(before), "a file has changed");
}

#[test]
fn port_that_is_taken_is_named_and_no_file_is_made() {
    let (detector, sockets) = detector_on_free_ports(8);
    drop(sockets);
    let _taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, detector.placement.ports[2])).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let error = run(&recording(&detector, folder.path()), &|| true, &mut |_| ()).unwrap_err();
    assert!(matches!(&error, RecordError::Bind { port, .. } if *port == detector.placement.ports[2]), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
