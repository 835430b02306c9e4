//! The simulated detector: what arrives is what the options, and nothing else, decide.

use crate::receiver::{Receiver, detector_on_free_ports, free_ports};
use ecs_schemas::detector::{Detector, DetectorConfig, PacketHeader};
use ecs_sim::{
    SimError,
    detector::{DetectorSim, Ids, do_not_store, run},
    faults::{Fate, Faults},
    pattern,
    report::Report,
};
use std::{cell::Cell, net::Ipv4Addr, time::Duration};

/// Slow enough for the slowest machine's loopback.
const RATE_HZ: f64 = 100.0;

const HEADER_BYTES: usize = 48;

/// None, by a seed of its own.
const FAULTS: Faults =
    Faults { seed: 11, drop: 0.0, reorder: 0.0, duplicate: 0.0, burst: 0.0, burst_packets: 16, dead_ports: Vec::new() };

fn faulty(faults: Faults, sim: DetectorSim) -> DetectorSim {
    DetectorSim { faults, ..sim }
}

fn sim(detector: &Detector, images: u64) -> DetectorSim {
    let new = DetectorSim::new(detector.clone(), Ipv4Addr::LOCALHOST, images);
    DetectorSim { rate_hz: RATE_HZ, faults: FAULTS, first_id: 500, ..new }
}

fn run_through(sim: &DetectorSim) -> Report {
    run(sim, &|| false, &mut |_| ()).unwrap()
}

/// Of an EIGER.
fn header(packet: &[u8]) -> (u64, u32) {
    let number = u32::from_le_bytes(packet[12..16].try_into().unwrap());
    (u64::from_le_bytes(packet[..8].try_into().unwrap()), number)
}

/// (image id, packet number) of each packet.
fn names(packets: &[Vec<u8>]) -> Vec<(u64, u32)> {
    packets.iter().map(|packet| header(packet)).collect()
}

/// Panics where a packet's pixels are not those of its place, worked out pixel by pixel; those that lie across two
/// packets are left to the pattern's own tests.
fn assert_pixels(detector: &Detector, seed: u64, module: usize, packet: &[u8]) {
    let placement = &detector.placement;
    let header = detector.read_header(packet, module).expect("a packet of this detector");
    let index = module * placement.packets_per_module + header.number;
    let (bits, pixel_bytes) = (pattern::bits(placement), placement.pixel.bytes());
    let payload = &packet[placement.header_bytes..];
    assert_eq!(payload.len(), placement.payload_bytes_of(header.number));
    let lead = placement.lead_bits(index) as usize;
    let mut at = if lead > 0 { lead as i64 - i64::from(bits) } else { 0 };
    for segment in placement.segments(index) {
        for offset in (segment.offset_bytes..segment.offset_bytes + segment.len_bytes).step_by(pixel_bytes) {
            let pixel = offset as usize / pixel_bytes;
            let (y, x) = (pixel / placement.width, pixel % placement.width);
            let wanted = pattern::pixel(seed, header.image_id, y, x, bits);
            if let Some(found) = number_at(payload, at, bits) {
                assert_eq!(found, wanted, "image {} ({y}, {x})", header.image_id);
            }
            at += i64::from(bits);
        }
    }
}

/// `bits` bits of a payload from bit `at` on, if all are there: lowest first, or the upper half byte first.
fn number_at(payload: &[u8], at: i64, bits: u32) -> Option<u32> {
    let at = usize::try_from(at).ok()?;
    let turned = |at: usize| if bits == 4 { at ^ 4 } else { at };
    let bit = |at: usize| payload.get(turned(at) / 8).map(|byte| u32::from(byte >> (turned(at) % 8) & 1));
    (0..bits as usize).try_fold(0, |number, index| Some(number | bit(at + index)? << index))
}

#[test]
fn every_packet_of_every_depth_arrives_once_in_order_with_the_pixels_of_its_place() {
    for bit_depth in [4, 8, 12, 16, 32] {
        let receiver = Receiver::start(bit_depth);
        let sim = sim(&receiver.detector, 3);
        let placement = &sim.detector.placement;
        let report = run_through(&sim);
        let made = 3 * placement.packets_per_image() as u64;
        assert_eq!((report.images, report.packets_made, report.packets_sent), (3, made, made));
        assert_eq!(report.bytes_sent, made * 4144);
        for (port, packets) in receiver.packets(made).iter().enumerate() {
            let numbers = 0..placement.packets_per_module as u32;
            let wanted: Vec<(u64, u32)> = (500..503).flat_map(|id| numbers.clone().map(move |n| (id, n))).collect();
            assert_eq!(names(packets), wanted, "port {port} at {bit_depth} bit");
            packets.iter().for_each(|packet| assert_pixels(&sim.detector, sim.faults.seed, port, packet));
            assert_eq!(packets[0][46..48], [1, 2], "detector type and version");
        }
    }
}

#[test]
fn lossy_run_sends_exactly_the_packets_that_its_faults_name_in_their_order() {
    let receiver = Receiver::start(8);
    let sim = faulty(Faults { drop: 0.05, reorder: 0.1, duplicate: 0.1, ..FAULTS }, sim(&receiver.detector, 20));
    let report = run_through(&sim);
    assert!(report.packets_dropped > 0 && report.packets_duplicated > 0 && report.packets_reordered > 0);
    assert_eq!(report.packets_sent, report.packets_made - report.packets_dropped + report.packets_duplicated);
    let dropped: usize = (500..520).map(|id| sim.fates().dropped_packets(id).len()).sum();
    assert_eq!(report.packets_dropped, dropped as u64);
    for (port, packets) in receiver.packets(report.packets_sent).iter().enumerate() {
        assert_eq!(names(packets), names_by_faults(&sim, port), "port {port}");
    }
}

/// The order of a port's packets at 8 bit, worked out from the faults alone by sorting.
fn names_by_faults(sim: &DetectorSim, port: usize) -> Vec<(u64, u32)> {
    let (mut sent, fates) = (Vec::new(), sim.fates());
    for turn in 0..sim.images * 32 {
        let (id, number) = (sim.first_id + turn / 32, (turn % 32) as u32);
        if let Fate::Sent { copies, turns_late } = fates.fate(id, port * 32 + number as usize) {
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
        let sim = faulty(Faults { seed, drop: 0.1, reorder: 0.1, ..FAULTS }, sim(&receiver.detector, 4));
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
    let sim = faulty(Faults { reorder: 0.2, ..FAULTS }, sim(&receiver.detector, u64::MAX / 2));
    let report = run(&sim, &stop, &mut |_| ()).unwrap();
    assert!(report.images > 0 && report.packets_made == report.images * 256, "{report:?}");
    assert!(report.is_balanced() && report.packets_reordered > 0, "{report:?}");
    receiver.packets(report.packets_sent);
}

#[test]
fn packets_to_ports_where_nobody_listens_are_sent_and_the_refusals_counted() {
    let (detector, sockets) = detector_on_free_ports(8);
    for socket in &sockets {
        socket.connect((Ipv4Addr::LOCALHOST, 1)).unwrap(); // holds the port and takes nothing from others
    }
    let report = run_through(&DetectorSim { rate_hz: 0.0, ..sim(&detector, 10) });
    assert_eq!((report.images, report.packets_sent), (10, 10 * 128));
    assert!(report.refusals > 0);
}

#[test]
fn progress_is_told_at_the_end_with_the_report() {
    let (detector, _sockets) = detector_on_free_ports(8);
    let mut last = None;
    let report = run(&sim(&detector, 2), &|| false, &mut |report| last = Some(report.clone())).unwrap();
    assert_eq!(last, Some(report));
}

#[test]
fn options_out_of_range_are_named_and_nothing_is_sent() {
    let (detector, _sockets) = detector_on_free_ports(8);
    let good = sim(&detector, 1);
    let cases = [
        ("drop = 1.5", faulty(Faults { drop: 1.5, ..FAULTS }, good.clone())),
        ("reorder = -0.1", faulty(Faults { reorder: -0.1, ..FAULTS }, good.clone())),
        ("duplicate = NaN", faulty(Faults { duplicate: f64::NAN, ..FAULTS }, good.clone())),
        ("rate_hz = -1", DetectorSim { rate_hz: -1.0, ..good.clone() }),
        ("rate_hz = inf", DetectorSim { rate_hz: f64::INFINITY, ..good.clone() }),
        ("first_id = 18446744073709551615", DetectorSim { first_id: u64::MAX, ..good.clone() }),
        ("burst = 2", faulty(Faults { burst: 2.0, ..FAULTS }, good.clone())),
        ("burst_packets = 0", faulty(Faults { burst_packets: 0, ..FAULTS }, good.clone())),
        ("dead_ports = 1;", faulty(Faults { dead_ports: vec![1], ..FAULTS }, good)),
    ];
    for (wanted, sim) in cases {
        let error = run(&sim, &|| false, &mut |_| panic!("a refused run made progress")).unwrap_err();
        assert!(error.to_string().starts_with(wanted), "{error}");
        assert!(matches!(error, SimError::Option { .. }));
    }
}

#[test]
fn bursts_and_dead_ports_lose_what_the_faults_name() {
    let receiver = Receiver::start(16);
    let dead_ports = vec![receiver.detector.placement.ports[2]];
    let sim = faulty(Faults { burst: 0.01, burst_packets: 5, dead_ports, ..FAULTS }, sim(&receiver.detector, 10));
    let report = run_through(&sim);
    let dropped: Vec<usize> = (500..510).flat_map(|id| sim.fates().dropped_packets(id)).collect();
    assert!(dropped.len() > 10 * 64 + 20, "{}", dropped.len());
    assert_eq!(report.packets_dropped, dropped.len() as u64);
    let arrived = receiver.packets(report.packets_sent);
    assert!(arrived[2].is_empty() && arrived.iter().filter(|packets| !packets.is_empty()).count() == 3);
}

#[test]
fn ids_jump_and_begin_again_after_a_pause() {
    let receiver = Receiver::start(8);
    let ids = Ids { jump_every: 2, jump_by: 40, restart_every: 3, restart_pause: Duration::from_millis(150) };
    let report =
        run_through(&DetectorSim { ids, ..faulty(Faults { reorder: 0.1, ..FAULTS }, sim(&receiver.detector, 6)) });
    assert!(report.seconds >= 0.15, "{report:?}");
    let packets = &receiver.packets(report.packets_sent)[0];
    let mut seen: Vec<u64> = names(packets).into_iter().map(|(id, _)| id).collect();
    let of_run = |ids: &mut Vec<u64>| {
        ids.sort_unstable();
        ids.dedup();
        ids.clone()
    };
    let mut second = seen.split_off(3 * 32);
    assert_eq!((of_run(&mut seen), of_run(&mut second)), (vec![500, 501, 542], vec![500, 501, 542]));
}

#[test]
fn cameras_alternate_between_octets_and_their_last_packets_are_shorter() {
    let sockets = free_ports(16);
    let port = sockets[0].local_addr().unwrap().port();
    // 252 x 504: 17 rows a packet, an odd number that does not fill blocks, so each but the last has 36 bytes more.
    let text = format!(
        "detector_type = \"gigafrost\"\nstart_udp_port = {port}\nimage_pixel_height = 252\nimage_pixel_width = 504"
    );
    let detector = DetectorConfig::from_toml(&text).unwrap().detector().unwrap();
    let receiver = Receiver::on(detector.clone(), sockets);
    let report = run_through(&sim(&detector, 4));
    assert_eq!((report.packets_sent, report.bytes_sent), (4 * 32, 4 * 8 * (3 * 6494 + 4568)));
    for (port, packets) in receiver.packets(4 * 32).iter().enumerate() {
        let read = |packet: &Vec<u8>| detector.read_header(packet, port % 8).unwrap();
        let ids: Vec<u64> = packets.iter().step_by(4).map(|packet| read(packet).image_id).collect();
        let octet = port as u64 / 8;
        assert_eq!(ids, [500 + octet, 502 + octet], "port {port}");
        assert_eq!(packets.iter().map(Vec::len).collect::<Vec<_>>(), [6494, 6494, 6494, 4568].repeat(2));
        let forbidden: Vec<u8> = packets.iter().step_by(4).map(|packet| packet[13]).collect();
        assert_eq!(forbidden, [0x80 * u8::from(octet == 0), 0], "image 500 is 3 modulo 7, the others are not");
        assert!(packets.iter().all(|packet| packet[12] == 0));
        packets.iter().for_each(|packet| assert_pixels(&detector, 11, port % 8, packet));
    }
}

#[test]
fn every_detector_that_is_known_sends_what_its_description_reads() {
    for (text, ports) in [
        (
            "detector_type = \"jungfrau\"\nmodel = \"500K\"\nnuminterfaces = 2\nreadnrows = 64\nimage_id = \"bunch_id_f64\"",
            2,
        ),
        ("detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 12\ntengiga = false\nreadnrows = 32", 4),
        ("detector_type = \"moench\"", 1),
        ("detector_type = \"mythen3\"\nmodules = [2, 1]", 2),
        ("detector_type = \"gotthard2\"\nmodules = [1, 2]", 2),
        ("detector_type = \"dummyudp\"", 1),
        ("detector_type = \"gigafrost\"\nimage_pixel_height = 20\nimage_pixel_width = 1656\noctets = 1", 8),
    ] {
        let sockets = free_ports(ports);
        let port = sockets[0].local_addr().unwrap().port();
        let config = DetectorConfig::from_toml(&format!("start_udp_port = {port}\n{text}")).unwrap();
        let detector = config.detector().unwrap();
        let receiver = Receiver::on(detector.clone(), sockets);
        let report = run_through(&sim(&detector, 2));
        assert_eq!(report.bytes_sent as usize, 2 * detector.placement.wire_bytes(), "{text}");
        for (module, packets) in receiver.packets(report.packets_sent).iter().enumerate() {
            let read = |packet: &Vec<u8>| detector.read_header(packet, module);
            let of = |PacketHeader { image_id, number, do_not_store: forbids, .. }| {
                assert_eq!(forbids, detector.wire.do_not_store.is_some() && do_not_store(image_id), "{text}");
                (image_id, number)
            };
            let found: Vec<(u64, usize)> = packets.iter().map(|packet| of(read(packet).expect(text))).collect();
            let numbers = 0..detector.placement.packets_per_module;
            let wanted = (500..502).flat_map(|id| numbers.clone().map(move |number| (id, number)));
            assert!(found.iter().copied().eq(wanted), "{text}: {found:?}");
            packets.iter().for_each(|packet| assert_pixels(&detector, 11, module, packet));
        }
    }
}
