//! Replays of a real detector's packets, and of files that are none.

use crate::receiver::Receiver;
use ecs_schemas::detector::{Detector, DetectorConfig};
use ecs_sim::{
    SimError,
    dump::{Dump, DumpError},
    replay::{Replay, run},
    report::Report,
};
use proptest::prelude::*;
use std::{
    cell::Cell,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Slow enough for the slowest machine's loopback.
const RATE_HZ: f64 = 50.0;
const RECORD_BYTES: usize = 8 + 4144;
/// Packets in the recording: 5 frames of 4 ports with 128 packets each.
const RECORDED: u64 = 5 * 4 * 128;

fn recording() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/eiger-500k")
}

/// The recorded packets of each port.
fn recorded_packets() -> Vec<Vec<Vec<u8>>> {
    let records = |port: u16| fs::read(recording().join(format!("{port}.dat"))).unwrap();
    let packets = |file: Vec<u8>| file.chunks(RECORD_BYTES).map(|record| record[8..].to_vec()).collect();
    (50028..50032).map(records).map(packets).collect()
}

/// A dump folder with these files, one for each port of the detector.
fn dump_folder(detector: &Detector, files: &[Vec<u8>]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (port, file) in detector.placement.ports.iter().zip(files) {
        fs::write(folder.path().join(format!("{port}.dat")), file).unwrap();
    }
    folder
}

/// The recording under the names of a receiver's ports.
fn recording_for(detector: &Detector) -> TempDir {
    let files: Vec<Vec<u8>> =
        (50028..50032).map(|port| fs::read(recording().join(format!("{port}.dat"))).unwrap()).collect();
    dump_folder(detector, &files)
}

fn replay(detector: &Detector, folder: &TempDir) -> Replay {
    Replay { rate_hz: RATE_HZ, ..Replay::new(detector.clone(), Ipv4Addr::LOCALHOST, folder.path()) }
}

fn run_through(replay: &Replay) -> Report {
    run(replay, &|| false, &mut |_| ()).unwrap()
}

fn sorted(mut packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    packets.sort();
    packets
}

#[test]
fn recorded_packets_arrive_byte_for_byte_in_their_order() {
    let receiver = Receiver::start(32);
    let folder = recording_for(&receiver.detector);
    let report = run_through(&replay(&receiver.detector, &folder));
    assert_eq!((report.images, report.packets_made, report.packets_sent), (5, RECORDED, RECORDED));
    assert!(receiver.packets(RECORDED) == recorded_packets(), "packets differ from the recorded ones");
}

#[test]
fn shuffled_and_doubled_packets_are_the_recorded_ones_twice_frame_by_frame() {
    let receiver = Receiver::start(32);
    let folder = recording_for(&receiver.detector);
    let options = Replay { shuffle: Some(4), duplicate: 1.0, ..replay(&receiver.detector, &folder) };
    let report = run_through(&options);
    assert_eq!((report.packets_sent, report.packets_duplicated), (2 * RECORDED, RECORDED));
    for (arrived, recorded) in receiver.packets(2 * RECORDED).iter().zip(recorded_packets()) {
        for (frame, recorded) in arrived.chunks(2 * 128).zip(recorded.chunks(128)) {
            let twice: Vec<Vec<u8>> = recorded.iter().flat_map(|packet| [packet.clone(), packet.clone()]).collect();
            assert!(frame != twice, "the packets of a frame are not shuffled");
            assert!(sorted(frame.to_vec()) == sorted(twice), "a frame has other packets than the recorded ones");
        }
    }
}

#[test]
fn repeated_replay_raises_frame_numbers_and_changes_nothing_else() {
    let receiver = Receiver::start(32);
    let folder = recording_for(&receiver.detector);
    let report = run_through(&Replay { repeat: 3, interleave_packets: 1, ..replay(&receiver.detector, &folder) });
    assert_eq!((report.images, report.packets_sent), (15, 3 * RECORDED));
    for (arrived, recorded) in receiver.packets(3 * RECORDED).iter().zip(recorded_packets()) {
        for (at, packet) in arrived.iter().enumerate() {
            let number = u64::from_le_bytes(packet[..8].try_into().unwrap());
            assert_eq!(number, 29512 + at as u64 / 128);
            assert!(packet[8..] == recorded[at % recorded.len()][8..], "packet {at} differs behind its frame number");
        }
    }
}

#[test]
fn stopped_replay_has_sent_whole_frames_only() {
    let receiver = Receiver::start(32);
    let folder = recording_for(&receiver.detector);
    let options = Replay { repeat: 1_000_000, ..replay(&receiver.detector, &folder) };
    let looks = Cell::new(0);
    let stop = || looks.replace(looks.get() + 1) > 40; // the clock is looked at several times per frame
    let report = run(&options, &stop, &mut |_| ()).unwrap();
    assert!(report.images > 0 && report.packets_sent == report.images * 4 * 128, "{report:?}");
    receiver.packets(report.packets_sent);
}

/// One record of a packet with this frame number.
fn record(frame_number: u64) -> Vec<u8> {
    [&4144_u64.to_le_bytes()[..], &frame_number.to_le_bytes(), &[0; 4136]].concat()
}

fn recorded_detector() -> Detector {
    let text = fs::read_to_string(recording().join("detector.json")).unwrap();
    DetectorConfig::from_json(&text).unwrap().detector().unwrap()
}

#[test]
fn broken_dump_is_refused_with_its_file_and_offset() {
    let detector = recorded_detector();
    let whole = [record(1), record(2)].concat();
    let huge_claim = [record(1), u64::MAX.to_le_bytes().to_vec(), vec![0; 9000]].concat();
    let short_claim = [record(1), 4143_u64.to_le_bytes().to_vec(), vec![0; 4143]].concat();
    let cases = [
        ("50030.dat is cut: the record at offset 4152 needs 4152 bytes, 4151 are left", whole[..8303].to_vec()),
        ("50030.dat is cut: the record at offset 4152 needs 8 bytes, 7 are left", whole[..4159].to_vec()),
        ("50030.dat is cut: the record at offset 0 needs 8 bytes, 1 are left", vec![0]),
        ("the record at offset 4152 says 18446744073709551615 bytes; a packet has 4144", huge_claim),
        ("50030.dat: the record at offset 4152 says 4143 bytes; a packet has 4144", short_claim),
    ];
    for (wanted, broken) in cases {
        let folder = dump_folder(&detector, &[whole.clone(), whole.clone(), broken, whole.clone()]);
        let error =
            run(&replay(&detector, &folder), &|| false, &mut |_| panic!("a broken dump was played")).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[test]
fn dump_without_a_ports_file_or_without_packets_is_refused() {
    let detector = recorded_detector();
    let folder = dump_folder(&detector, &[record(1), record(1)]);
    let error = run(&replay(&detector, &folder), &|| false, &mut |_| ()).unwrap_err();
    assert!(matches!(&error, SimError::Dump(DumpError::Read { path, .. }) if path.ends_with("50030.dat")), "{error}");
    let folder = dump_folder(&detector, &vec![vec![]; 4]);
    let error = run(&replay(&detector, &folder), &|| false, &mut |_| ()).unwrap_err();
    assert!(matches!(&error, SimError::Dump(DumpError::Empty { .. })), "{error}");
}

#[test]
fn repeat_that_would_pass_the_largest_frame_number_is_refused() {
    let receiver = Receiver::start(32);
    let folder = dump_folder(&receiver.detector, &[record(u64::MAX), record(0), vec![], vec![]]);
    let once = replay(&receiver.detector, &folder);
    for repeat in [2, u64::MAX, 0] {
        let error = run(&Replay { repeat, ..once.clone() }, &|| false, &mut |_| ()).unwrap_err();
        assert!(error.to_string().starts_with(&format!("repeat = {repeat}")), "{error}");
    }
    assert_eq!(run_through(&once).images, 2);
    let packets = receiver.packets(2);
    assert_eq!((&packets[0][0], &packets[1][0]), (&record(u64::MAX)[8..].to_vec(), &record(0)[8..].to_vec()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_are_a_dump_or_an_error_and_never_a_panic(
        cut in 0..3 * RECORD_BYTES, at in 0..3 * RECORD_BYTES, value: u8, tail: Vec<u8>
    ) {
        let mut file = [record(u64::MAX), record(0), record(7)].concat();
        file[at] = value;
        file.truncate(cut);
        file.extend(tail);
        let detector = recorded_detector();
        let folder = dump_folder(&detector, &[file, record(7), vec![], vec![]]);
        if let Ok(dump) = Dump::read(folder.path(), &detector) {
            prop_assert!(dump.frames().flatten().all(|packet| dump.bytes(packet).len() == 4144));
        }
    }
}
