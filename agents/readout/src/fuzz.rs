//! Packets that nobody should send: any bytes, any length, any field value, coalesced or not, between a detector's own.
//!
//! From senders that are not listed they cost nobody a pixel, and each is counted as unlisted. From listed ones, which cannot
//! be told from the detector, each lands in its own place or nowhere: whatever is marked is a packet that was sent for that very
//! place, whatever is not marked has the fill value, gaps hold 0. Nothing panics, and what was sent is what was counted.
//!
//! The same seeds each time, however fast the machine is. `ECS_FUZZ_SECONDS=N` goes on for so long instead;
//! `ECS_FUZZ_SEED=N` is that seed alone, or where it begins.

#[path = "../../../schemas/tests/vectors/mutation.rs"]
mod mutation;

use crate::{
    convert::{self, Constants, Output},
    converter::{Converter, Shared},
    place::{Placer, place},
    port::Port,
    receive::{Receiver, Turn},
    scripted::fill_missing,
    senders::Senders,
    socket::PortSocket,
};
use ecs_calibration::{About, Calibration, GainZero, GainsAbove, LANES, ModuleConstants};
use ecs_schemas::{
    beamline::AllowedSender,
    detector::{Detector, DetectorConfig, PacketHeader, Packing, PixelType},
};
use ecs_shm_buffer::{
    Assume, Contributor, Delivery, Geometry, Image, Now, Owner, ProcessId, Reader, Ring, Start, Surroundings,
};
use ecs_sim::pattern::Pattern;
use mutation::{Random, for_seeds, mutated};
use std::{
    collections::HashMap,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

/// Runs, one for each seed: some seconds on two cores.
const RUNS: u64 = 60;
const IMAGES: u64 = 6;
/// Sent between two turns of the readout, at most, so that a small receive buffer holds it.
const ROUND_BYTES: usize = 100_000;
/// Of an image: where all of it comes, for ever; where somebody makes packets wait for images that never do, hardly any
/// time, so that a run is short.
const DEADLINE_LISTED: Duration = Duration::from_secs(60);
const DEADLINE_OPEN: Duration = Duration::from_millis(4);
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Plain pixels; a short last packet; 12 and 4 bit; converted; two octets of ports; parts of words in a big-endian header; an id of
/// one byte. And
/// whether pixels lie across packets: then the place of a packet is not its own to the bit.
const DETECTORS: [(&str, bool); 8] = [
    ("detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 8\nreadnrows = 64", false),
    ("detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 4\ntengiga = false\nreadnrows = 64", false),
    ("detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 12\nreadnrows = 64", true),
    ("detector_type = \"jungfrau\"\nmodel = \"500K\"\nnuminterfaces = 2\nreadnrows = 64", false),
    ("detector_type = \"jungfrau-converted\"\nmodel = \"500K\"\nnuminterfaces = 2\nreadnrows = 64", false),
    ("detector_type = \"gigafrost\"\nimage_pixel_height = 128\nimage_pixel_width = 480", false),
    (
        "detector_type = \"made-up\"\nmodules = [2, 1]\n[module]\ncolumns = 96\nrows = 41\nbit_depth = 16\nports = 1\n\
         chip = [32, 20]\nchip_gap = [1, 3]\ngap = [5, 0]\n[packet]\nheader_bytes = 13\npayload_bytes = 1000\n\
         byte_order = \"big\"\n[fields]\nimage_id = { offset = 1, bytes = 5 }\n\
         packet_number = { offset = 6, bytes = 3, bit = 4, bits = 16, step = 3, first = 7 }\n\
         check = [{ offset = 0, bytes = 1, value = 161 }]",
        false,
    ),
    (
        "detector_type = \"short-ids\"\nmodules = [2, 1]\n[module]\ncolumns = 64\nrows = 32\nbit_depth = 16\n\
         [packet]\nheader_bytes = 4\npayload_bytes = 512\n[fields]\nimage_id = { offset = 0, bytes = 1 }\n\
         packet_number = { offset = 1, bytes = 1 }",
        false,
    ),
];

/// Sixteen ports for each run, from here on and round again: those of runs before are free by then.
const PORTS: std::ops::Range<u16> = 43_000..59_000;
static NEXT_RUN: AtomicU16 = AtomicU16::new(0);

/// A ring, its owner, one readout with all ports, a reader, the detector and its enemies.
struct Scene {
    detector: Detector,
    ring: Ring,
    owner: Owner,
    reader: Reader,
    receiver: Receiver,
    ports: Vec<Port>,
    pattern: Pattern,
    /// The detector, a stranger, and one whose messages the kernel cuts.
    good: UdpSocket,
    stranger: UdpSocket,
    cutting: UdpSocket,
    /// Packets of the detector, and others.
    sent: [u64; 2],
    deadline: Duration,
    /// What was sent by others with a header that is right, by image and packet.
    lookalikes: HashMap<(u64, usize), Vec<Vec<u8>>>,
    delivered: Vec<(Delivery, Vec<u8>)>,
}

impl Scene {
    fn new(text: &str, is_listed: bool, coalesce: bool) -> Self {
        let (detector, sockets) = on_free_ports(text, coalesce);
        let placement = &detector.placement;
        let images = Geometry {
            slots: 24,
            window: 8,
            height: placement.height as u32,
            width: placement.width as u32,
            pixel_bytes: placement.pixel.bytes() as u32,
            packets_per_image: placement.packets_per_image() as u32,
            fill: u32::MAX,
            placement_hash: placement.hash(),
        };
        let ring = Ring::on_heap(images).unwrap();
        let deadline = if is_listed { DEADLINE_LISTED } else { DEADLINE_OPEN };
        let process = |pid| ProcessId { pid, start_time: 1 };
        let owner = Owner::take_over(&ring, process(1), deadline, &Assume(true));
        let reader = Reader::reliable(&ring, process(2), "reader", Start::Next).unwrap();
        let contributor = Contributor::join(&ring, process(3), "readout").unwrap();
        let good = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let listed = AllowedSender { address: Ipv4Addr::LOCALHOST, port: Some(good.local_addr().unwrap().port()) };
        let senders = if is_listed { Senders::new(&[listed]) } else { Senders::default() };
        let port = |(index, socket)| Port::new(socket, placement.module_of_port(index), placement, senders.clone());
        Self {
            ports: sockets.into_iter().enumerate().map(port).collect(),
            receiver: Receiver::new(detector.clone(), contributor, deadline, placer(&detector)),
            pattern: Pattern::new(placement, 1),
            stranger: UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 9), 0)).unwrap(),
            cutting: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            good,
            sent: [0; 2],
            deadline,
            lookalikes: HashMap::new(),
            delivered: Vec::new(),
            detector,
            ring,
            owner,
            reader,
        }
    }

    /// A packet of the detector.
    fn packet(&self, id: u64, index: usize) -> Vec<u8> {
        let placement = &self.detector.placement;
        let (module, number) = (index / placement.packets_per_module, index % placement.packets_per_module);
        let header_bytes = self.detector.wire.header_bytes;
        let mut packet = vec![0; header_bytes + placement.payload_bytes_of(number)];
        let header = PacketHeader { image_id: id, number, timestamp: id, exposure_length: 1, do_not_store: false };
        self.detector.wire.write(&mut packet, module, &header);
        self.pattern.write_payload(id, index, &mut packet[header_bytes..]);
        packet
    }

    /// The port that a packet of an image goes to.
    fn port(&self, id: u64, index: usize) -> usize {
        let placement = &self.detector.placement;
        let sets = placement.ports.len() / placement.modules;
        (id as usize % sets) * placement.modules + index / placement.packets_per_module
    }

    fn send_good(&mut self, id: u64, index: usize) {
        let (packet, port) = (self.packet(id, index), self.detector.placement.ports[self.port(id, index)]);
        self.good.send_to(&packet, (Ipv4Addr::LOCALHOST, port)).unwrap();
        self.sent[0] += 1;
    }

    /// Something that the detector would not send. Returns its bytes.
    fn send_hostile(&mut self, id: u64, random: &mut Random) -> usize {
        let port = random.index(self.ports.len());
        let far = [random.next(), random.next() >> 16, random.next() >> 50, id + 3][random.index(4)];
        let image_id = if random.index(3) == 0 { far } else { id.saturating_sub(1) + random.next() % 4 };
        let packets = self.detector.placement.packets_per_module;
        let module = self.ports[port].module;
        let index = module * packets + random.index(packets);
        let mut packet = self.packet(image_id.min(u64::MAX >> 1), index);
        let header_bytes = self.detector.wire.header_bytes;
        match random.index(7) {
            0 => packet = (0..random.index(DATAGRAM_BYTES_MAX + 1)).map(|_| random.next() as u8).collect(),
            1 => packet.iter_mut().for_each(|byte| *byte = random.next() as u8),
            2 => packet[..header_bytes].iter_mut().for_each(|byte| *byte = random.next() as u8),
            3 => packet.truncate(random.index(packet.len() + 1)),
            4 => packet = mutated(&packet, &self.packet(1, 0), random),
            5 => {
                let other = random.index(header_bytes);
                packet[other] ^= 1 << random.index(8);
                packet[header_bytes..].fill(0x5a);
            }
            _ => packet[header_bytes..].iter_mut().for_each(|byte| *byte = random.next() as u8),
        }
        packet.truncate(DATAGRAM_BYTES_MAX);
        if random.index(4) == 0 {
            return self.send_cut(port, &packet, random);
        }
        let to = (Ipv4Addr::LOCALHOST, self.detector.placement.ports[port]);
        self.stranger.send_to(&packet, to).unwrap();
        self.sent[1] += 1;
        self.note_lookalike(port, &packet);
        packet.len()
    }

    /// Several packets in one message, which the kernel cuts anywhere.
    fn send_cut(&mut self, port: usize, packet: &[u8], random: &mut Random) -> usize {
        let bytes = packet.repeat(1 + random.index(5));
        let bytes = &bytes[..bytes.len().min(DATAGRAM_BYTES_MAX)];
        let right = [self.detector.placement.packet_bytes(), packet.len(), self.detector.placement.last_packet_bytes()];
        let odd = 1 + random.index(9000);
        // At most 64 pieces: the kernel refuses more.
        let piece = [right[random.index(3)], odd][random.index(2)].clamp(bytes.len() / 60 + 1, u16::MAX as usize);
        let value = piece as libc::c_int;
        let fd = self.cutting.as_raw_fd();
        // SAFETY: the option is an int and outlives the call.
        let set = unsafe { libc::setsockopt(fd, libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const value).cast(), 4) };
        let to = (Ipv4Addr::LOCALHOST, self.detector.placement.ports[port]);
        if set == 0 && self.cutting.send_to(bytes, to).is_ok() {
            self.sent[1] += bytes.len().div_ceil(piece).max(1) as u64;
            bytes.chunks(piece).for_each(|packet| self.note_lookalike(port, packet));
            return bytes.len();
        }
        0
    }

    fn note_lookalike(&mut self, port: usize, packet: &[u8]) {
        let (module, placement) = (self.ports[port].module, &self.detector.placement);
        let header_bytes = self.detector.wire.header_bytes;
        if packet.len() < header_bytes {
            return;
        }
        let padded = [packet, &[0; 8]].concat(); // a reader of headers may look behind them
        if let Ok(header) = self.detector.read_header(&padded, module)
            && packet.len() == header_bytes + placement.payload_bytes_of(header.number)
        {
            let index = module * placement.packets_per_module + header.number;
            self.lookalikes.entry((header.image_id, index)).or_default().push(packet[header_bytes..].to_vec());
        }
    }

    /// Lets everybody do all that there is to do.
    fn settle(&mut self) {
        loop {
            let mut turns = Vec::new();
            for index in 0..self.ports.len() {
                turns.push(self.receiver.receive(&mut self.ports, index).unwrap());
            }
            self.step();
            if turns.iter().all(|&turn| turn == Turn::Empty) {
                return;
            }
        }
    }

    fn step(&mut self) {
        let mut fill = fill_missing(&self.detector.placement);
        self.owner.step(&mut Surroundings { now: Now::read(), liveness: &Assume(true), fill: &mut fill });
        while let Some(delivery) = self.reader.try_next() {
            let pixels = delivery.image.as_ref().map(|image| self.reader.pixels(image).to_vec()).unwrap_or_default();
            self.delivered.push((delivery, pixels));
        }
        self.reader.release();
    }

    /// Sends images, each packet with some hostile ones around it.
    fn play(&mut self, random: &mut Random) {
        for id in 1..=IMAGES {
            let mut bytes = 0;
            for index in 0..self.detector.placement.packets_per_image() {
                self.send_good(id, index);
                bytes += self.detector.placement.packet_bytes();
                while random.index(3) == 0 {
                    bytes += self.send_hostile(id, random);
                }
                if bytes > ROUND_BYTES {
                    self.settle();
                    bytes = 0;
                }
            }
            self.settle();
        }
        let begun = Instant::now();
        while begun.elapsed() < 2 * self.deadline && self.images().count() < IMAGES as usize {
            self.step();
        }
    }

    fn check_counts(&mut self, is_listed: bool) {
        self.receiver.count_kernel_dropped(&mut self.ports);
        self.receiver.give_up_parked(&mut self.ports); // one may be aside, which nothing that came agrees with
        let counts = self.ring.status().packets;
        assert_eq!(counts.kernel_dropped, 0, "{counts:?}");
        assert_eq!(counts.received, self.sent[0] + self.sent[1], "{:?}, {counts:?}", self.sent);
        if is_listed {
            assert_eq!((counts.placed, counts.unlisted), (self.sent[0], self.sent[1]), "{counts:?}");
        }
        assert_eq!(self.ring.status().imbalances(), [""; 0]);
    }

    /// Every image, whole, to the last byte.
    fn check_whole(&self) {
        let ids: Vec<u64> = self.images().map(|(image, _)| image.id).collect();
        assert!(ids.iter().copied().eq(1..=IMAGES), "{ids:?}");
        for (image, pixels) in self.images() {
            let mut wanted = vec![0; pixels.len()];
            for index in 0..self.detector.placement.packets_per_image() {
                let payload = &self.packet(image.id, index)[self.detector.wire.header_bytes..];
                // SAFETY: an image of this placement, and a payload of its packet.
                unsafe { put(&self.detector, index, payload, wanted.as_mut_ptr()) };
            }
            assert!(*pixels == wanted, "image {}: a pixel is wrong", image.id);
            assert_eq!(image.packets_received as usize, self.detector.placement.packets_per_image());
        }
    }

    /// Whatever is marked is a packet that was sent for this very place, all else is filled, or a gap.
    fn check_places(&self) {
        let placement = &self.detector.placement;
        let mut is_gap = vec![true; placement.image_bytes()];
        for (image, pixels) in self.images() {
            // A hostile packet may have begun the run near the end of the field: what follows is of its next lap.
            let id = image.id & self.detector.wire.image_id.max();
            for index in 0..placement.packets_per_image() {
                let is_marked = image.bitmap[index / 64] >> (index % 64) & 1 != 0;
                let own = self.packet(id, index)[self.detector.wire.header_bytes..].to_vec();
                let others = self.lookalikes.get(&(id, index)).into_iter().flatten();
                let is_right = match is_marked {
                    true => others.chain([&own]).any(|payload| self.is_in_place(index, payload, pixels)),
                    false => self.segments(index).all(|range| pixels[range].iter().all(|&byte| byte == 0xff)),
                };
                assert!(is_right, "image {}, packet {index}, marked: {is_marked}", image.id);
                self.segments(index).for_each(|range| is_gap[range].fill(false));
            }
            let gaps = pixels.iter().zip(&is_gap).filter(|(_, is_gap)| **is_gap);
            assert!(gaps.into_iter().all(|(byte, _)| *byte == 0), "image {}: a gap was written", image.id);
        }
    }

    fn is_in_place(&self, index: usize, payload: &[u8], pixels: &[u8]) -> bool {
        let mut image = vec![0; pixels.len()];
        // SAFETY: an image of this placement, and a payload as long as its packet's.
        unsafe { put(&self.detector, index, payload, image.as_mut_ptr()) };
        self.segments(index).all(|range| pixels[range.clone()] == image[range])
    }

    fn segments(&self, index: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        let segments = self.detector.placement.segments(index).iter();
        segments.map(|segment| segment.offset_bytes as usize..(segment.offset_bytes + segment.len_bytes) as usize)
    }

    fn images(&self) -> impl Iterator<Item = (&Image, &Vec<u8>)> {
        self.delivered.iter().filter_map(|(delivery, pixels)| delivery.image.as_ref().map(|image| (image, pixels)))
    }
}

/// What converted pixels are made with: they differ, and those of code 2 are marked with the fill value.
fn constants(detector: &Detector) -> ModuleConstants {
    let blocks = detector.placement.packets_per_module * detector.placement.payload_bytes / 2 / LANES;
    let values = |from: usize| std::array::from_fn(|lane| ((from * LANES + lane) % 1000) as f32 / 7.0);
    ModuleConstants {
        low: (0..blocks).map(|block| GainZero { pedestal: values(block), factor: values(block + 1) }).collect(),
        high: (0..blocks)
            .map(|block| GainsAbove { pedestal: [values(block); 2], factor: [values(block); 2] })
            .collect(),
    }
}

fn placer(detector: &Detector) -> Placer {
    if detector.placement.packing != Packing::Gain14 {
        return Placer::plain();
    }
    let about = About {
        unit: "keV".to_owned(),
        pixel: "f32".to_owned(),
        photon_energy_kev: None,
        gain: vec![],
        pedestal: None,
        flat_field: None,
        mask: None,
    };
    let modules = vec![constants(detector); detector.placement.modules];
    let shared = Arc::new(Shared::default());
    shared.add(Calibration { number: 100, about, modules }, Duration::ZERO);
    Placer::converting(Converter::new(shared, 0..detector.placement.modules, PixelType::F32, u32::MAX))
}

/// Puts a payload to its place, pixel by pixel where it is converted.
///
/// # Safety
/// As [`place`].
unsafe fn put(detector: &Detector, packet: usize, payload: &[u8], pixels: *mut u8) {
    let placement = &detector.placement;
    if placement.packing != Packing::Gain14 {
        // SAFETY: the caller's promise.
        return unsafe { place(placement, packet, payload, pixels) };
    }
    let module = constants(detector);
    let mut pixel = packet % placement.packets_per_module * placement.payload_bytes / 2;
    let mut raw = payload;
    for segment in placement.segments(packet) {
        let mut out = vec![0; segment.len_bytes as usize / 4];
        let (of_segment, rest) = raw.split_at(2 * out.len());
        convert::scalar(Output::F32, Constants::from_pixel(&module, pixel), of_segment, u32::MAX, &mut out);
        (pixel, raw) = (pixel + out.len(), rest);
        // SAFETY: the caller's promise.
        unsafe {
            let target = pixels.add(segment.offset_bytes as usize);
            std::ptr::copy_nonoverlapping(out.as_ptr().cast(), target, segment.len_bytes as usize);
        }
    }
}

fn on_free_ports(text: &str, coalesce: bool) -> (Detector, Vec<PortSocket>) {
    loop {
        let run = NEXT_RUN.fetch_add(1, Ordering::Relaxed);
        let first = PORTS.start + run % (PORTS.len() as u16 / 16) * 16;
        let config = DetectorConfig::from_toml(&format!("start_udp_port = {first}\n{text}"));
        let mut detector = config.and_then(|config| config.detector()).unwrap();
        if detector.detector_type == "jungfrau-converted" {
            detector.placement = detector.placement.converted(PixelType::F32).unwrap();
        }
        let bind = |&port: &u16| PortSocket::bind(Ipv4Addr::LOCALHOST, port, 8 << 20, coalesce).ok();
        if let Some(sockets) = detector.placement.ports.iter().map(bind).collect() {
            return (detector, sockets);
        }
    }
}

#[test]
fn packets_of_strangers_cost_nobody_a_pixel_and_are_counted_each() {
    for_seeds(RUNS, |random| {
        let (text, _) = DETECTORS[random.index(DETECTORS.len())];
        let mut scene = Scene::new(text, true, random.index(2) == 0);
        scene.play(random);
        scene.check_counts(true);
        scene.check_whole();
    });
}

#[test]
fn packets_that_nobody_can_tell_from_the_detectors_land_in_their_own_place_or_nowhere() {
    for_seeds(RUNS, |random| {
        let (text, is_across) = DETECTORS[random.index(DETECTORS.len())];
        let mut scene = Scene::new(text, false, random.index(2) == 0);
        scene.play(random);
        scene.check_counts(false);
        if !is_across {
            scene.check_places();
        }
        assert!(scene.images().count() > 0 && !scene.lookalikes.is_empty(), "nothing was shown");
    });
}

/// With more than 32 ids between, no packet would wait for the window: what is just beyond it might be a port that leads the others.
#[test]
fn one_stray_packet_just_beyond_the_window_is_early_and_moves_nothing() {
    for text in ["detector_type = \"moench\"", DETECTORS[0].0, DETECTORS[2].0] {
        for ahead in [9, 20, 35] {
            let mut scene = Scene::new(text, true, true);
            for id in 1..=IMAGES {
                (0..scene.detector.placement.packets_per_image()).for_each(|index| {
                    scene.send_good(id, index);
                    if (id, index) == (2, 3) {
                        scene.send_good(id + ahead, index);
                    }
                    if index % 16 == 15 {
                        scene.settle();
                    }
                });
                scene.settle();
            }
            scene.receiver.count_kernel_dropped(&mut scene.ports);
            let status = scene.ring.status();
            assert_eq!((status.packets.early, status.packets.late), (1, 0), "{text}, {ahead} ids ahead");
            assert_eq!((status.epoch, status.lost.iter().sum::<u64>()), (1, 0), "{text}, {ahead} ids ahead");
            scene.check_whole();
        }
    }
}
