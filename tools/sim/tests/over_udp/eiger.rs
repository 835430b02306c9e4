//! The simulated EIGER: what arrives is what the options, and nothing else, decide.

use crate::receiver::{Receiver, detector_on_free_ports};
use ecs_schemas::detector::{
    DetectorConfig, Placement,
    eiger::{HEADER_BYTES, PacketHeader},
};
use ecs_sim::{
    SimError,
    eiger::{EigerSim, run},
    faults::Fate,
    pattern,
    report::Report,
};
use std::{cell::Cell, net::Ipv4Addr};

/// Slow enough for the slowest machine's loopback.
const RATE_HZ: f64 = 100.0;

fn sim(config: &DetectorConfig, images: u64) -> EigerSim {
    EigerSim { rate_hz: RATE_HZ, seed: 11, first_id: 500, ..EigerSim::new(config.clone(), Ipv4Addr::LOCALHOST, images) }
}

fn run_through(sim: &EigerSim) -> Report {
    run(sim, &|| false, &mut |_| ()).unwrap()
}

fn header(packet: &[u8]) -> PacketHeader {
    PacketHeader::parse(packet.first_chunk().unwrap())
}

/// (image id, packet number) of each packet.
fn names(packets: &[Vec<u8>]) -> Vec<(u64, u32)> {
    packets.iter().map(|packet| (header(packet).frame_number, header(packet).packet_number)).collect()
}

/// Panics where a packet's pixels are not those of its place, worked out pixel by pixel.
fn assert_pixels(placement: &Placement, seed: u64, port: usize, packet: &[u8]) {
    let header = header(packet);
    let index = port * placement.packets_per_module + header.packet_number as usize;
    let pixel_bytes = placement.pixel.bytes();
    let mut payload = packet[HEADER_BYTES..].chunks_exact(pixel_bytes);
    for segment in placement.segments(index) {
        for offset in (segment.offset_bytes..segment.offset_bytes + segment.len_bytes).step_by(pixel_bytes) {
            let (y, x) =
                (offset as usize / pixel_bytes / placement.width, offset as usize / pixel_bytes % placement.width);
            let wanted = pattern::pixel(seed, header.frame_number, y, x, placement.pixel).to_le_bytes();
            assert_eq!(payload.next(), Some(&wanted[..pixel_bytes]), "image {} ({y}, {x})", header.frame_number);
        }
    }
    assert_eq!(payload.next(), None, "a payload is longer than its place");
}

#[test]
fn every_packet_of_every_depth_arrives_once_in_order_with_the_pixels_of_its_place() {
    for bit_depth in [8, 16, 32] {
        let receiver = Receiver::start(bit_depth);
        let sim = sim(&receiver.config, 3);
        let placement = sim.config.placement().unwrap();
        let report = run_through(&sim);
        let made = 3 * placement.packets_per_image() as u64;
        assert_eq!((report.images, report.packets_made, report.packets_sent), (3, made, made));
        assert_eq!(report.bytes_sent, made * 4144);
        for (port, packets) in receiver.packets(made).iter().enumerate() {
            let numbers = 0..placement.packets_per_module as u32;
            let wanted: Vec<(u64, u32)> = (500..503).flat_map(|id| numbers.clone().map(move |n| (id, n))).collect();
            assert_eq!(names(packets), wanted, "port {port} at {bit_depth} bit");
            packets.iter().for_each(|packet| assert_pixels(&placement, sim.seed, port, packet));
            assert_eq!((header(&packets[0]).detector_type, header(&packets[0]).version), (1, 2));
        }
    }
}

#[test]
fn lossy_run_sends_exactly_the_packets_that_its_faults_name_in_their_order() {
    let receiver = Receiver::start(8);
    let sim = EigerSim { drop: 0.05, reorder: 0.1, duplicate: 0.1, ..sim(&receiver.config, 20) };
    let report = run_through(&sim);
    assert!(report.packets_dropped > 0 && report.packets_duplicated > 0 && report.packets_reordered > 0);
    assert_eq!(report.packets_sent, report.packets_made - report.packets_dropped + report.packets_duplicated);
    let dropped: usize = (500..520).map(|id| sim.faults().dropped_packets(id, 4 * 32).len()).sum();
    assert_eq!(report.packets_dropped, dropped as u64);
    for (port, packets) in receiver.packets(report.packets_sent).iter().enumerate() {
        assert_eq!(names(packets), names_by_faults(&sim, port), "port {port}");
    }
}

/// The order of a port's packets at 8 bit, worked out from the faults alone by sorting.
fn names_by_faults(sim: &EigerSim, port: usize) -> Vec<(u64, u32)> {
    let mut sent = Vec::new();
    for turn in 0..sim.images * 32 {
        let (id, number) = (sim.first_id + turn / 32, (turn % 32) as u32);
        if let Fate::Sent { copies, turns_late } = sim.faults().fate(id, port * 32 + number as usize) {
            let key = (turn + turns_late, turns_late > 0, turn);
            sent.extend((0..copies).map(|_| (key, (id, number))));
        }
    }
    // Beyond the last turn, too, late packets keep the order of their own turns.
    let last_turn = sim.images * 32 - 1;
    sent.sort_by_key(
        |&((due, late, turn), _)| if due > last_turn { (u64::MAX, late, turn) } else { (due, late, turn) },
    );
    sent.into_iter().map(|(_, name)| name).collect()
}

#[test]
fn same_seed_sends_the_same_bytes_and_another_seed_others() {
    let bytes_of = |seed| {
        let receiver = Receiver::start(8);
        let sim = EigerSim { seed, drop: 0.1, reorder: 0.1, ..sim(&receiver.config, 4) };
        receiver.packets(run_through(&sim).packets_sent)
    };
    let first = bytes_of(1);
    assert!(first == bytes_of(1), "the same options sent other bytes");
    let other = bytes_of(2);
    assert_ne!(names(&first[0]), names(&other[0]));
    assert_ne!(first[0][0][HEADER_BYTES..], other[0][0][HEADER_BYTES..]);
}

#[test]
fn stopped_run_has_sent_whole_images_only() {
    let receiver = Receiver::start(16);
    let images_seen = Cell::new(0);
    let stop = || {
        images_seen.set(images_seen.get() + 1);
        images_seen.get() > 40 // the clock is looked at several times per image
    };
    let sim = EigerSim { reorder: 0.2, ..sim(&receiver.config, u64::MAX / 2) };
    let report = run(&sim, &stop, &mut |_| ()).unwrap();
    assert!(report.images > 0 && report.packets_made == report.images * 256, "{report:?}");
    assert!(report.is_balanced() && report.packets_reordered > 0, "{report:?}");
    receiver.packets(report.packets_sent);
}

#[test]
fn packets_to_ports_where_nobody_listens_are_sent_and_the_refusals_counted() {
    let (config, sockets) = detector_on_free_ports(8);
    for socket in &sockets {
        socket.connect((Ipv4Addr::LOCALHOST, 1)).unwrap(); // holds the port and takes nothing from others
    }
    let report = run_through(&EigerSim { rate_hz: 0.0, ..sim(&config, 10) });
    assert_eq!((report.images, report.packets_sent), (10, 10 * 128));
    assert!(report.refusals > 0);
}

#[test]
fn progress_is_told_at_the_end_with_the_report() {
    let (config, _sockets) = detector_on_free_ports(8);
    let mut last = None;
    let report = run(&sim(&config, 2), &|| false, &mut |report| last = Some(report.clone())).unwrap();
    assert_eq!(last, Some(report));
}

#[test]
fn options_out_of_range_are_named_and_nothing_is_sent() {
    let (config, _sockets) = detector_on_free_ports(8);
    let good = sim(&config, 1);
    let no_detector = DetectorConfig { bit_depth: 12, ..config };
    let cases = [
        ("drop = 1.5", EigerSim { drop: 1.5, ..good.clone() }),
        ("reorder = -0.1", EigerSim { reorder: -0.1, ..good.clone() }),
        ("duplicate = NaN", EigerSim { duplicate: f64::NAN, ..good.clone() }),
        ("rate_hz = -1", EigerSim { rate_hz: -1.0, ..good.clone() }),
        ("rate_hz = inf", EigerSim { rate_hz: f64::INFINITY, ..good.clone() }),
        ("first_id = 18446744073709551615", EigerSim { first_id: u64::MAX, ..good.clone() }),
        ("bit_depth = 12", EigerSim { config: no_detector, ..good }),
    ];
    for (wanted, sim) in cases {
        let error = run(&sim, &|| false, &mut |_| panic!("a refused run made progress")).unwrap_err();
        assert!(error.to_string().starts_with(wanted), "{error}");
        assert!(matches!(error, SimError::Option { .. } | SimError::Config(_)));
    }
}
