//! Packets by hand, through real sockets, into a ring with its owner and a reader: ids that wrap, and more packets than are
//! taken.

use crate::{
    place::Placer,
    port::Port,
    receive::{Receiver, Turn},
    senders::Senders,
    socket::PortSocket,
};
use ecs_schemas::detector::{Detector, DetectorConfig, PacketHeader, Placement};
use ecs_shm_buffer::{Assume, Contributor, Geometry, Image, Now, Owner, ProcessId, Reader, Ring, Start, Surroundings};
use ecs_sim::pattern::Pattern;
use std::{
    net::{Ipv4Addr, UdpSocket},
    ops::Range,
    os::fd::AsRawFd,
    sync::atomic::{AtomicU16, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

const WINDOW: u32 = 8;
/// Sixteen ports for each scene, from here on and round again.
const PORTS: Range<u16> = 27_000..31_000;
static NEXT_SCENE: AtomicU16 = AtomicU16::new(0);
/// Longer than any pause between two runs of a fast detector.
const PAUSE: Duration = Duration::from_millis(130);

/// One readout process: its receiver and its ports.
struct Readout {
    receiver: Receiver,
    ports: Vec<Port>,
}

struct Scene {
    detector: Detector,
    ring: Ring,
    owner: Owner,
    reader: Reader,
    readouts: Vec<Readout>,
    pattern: Pattern,
    socket: UdpSocket,
    deadline: Duration,
    images: Vec<(Image, Vec<u8>)>,
    /// Ids that the reader was told as lost.
    lost: u64,
}

/// Four ports of 64 small packets, or two of two; the image id in so many bytes of the header.
fn detector(modules: usize, packets: usize, id_bytes: usize) -> String {
    format!(
        "detector_type = \"scripted\"\nmodules = [{modules}, 1]\n[module]\ncolumns = 32\nrows = {packets}\n\
         bit_depth = 8\n[packet]\nheader_bytes = 16\npayload_bytes = 32\n[fields]\n\
         image_id = {{ offset = 0, bytes = {id_bytes} }}\npacket_number = {{ offset = 8, bytes = 2 }}"
    )
}

/// Fills the places of packets that are missing with bytes of all ones, as an assembler does.
pub fn fill_missing(placement: &Placement) -> impl FnMut(&mut [u8], usize) + '_ {
    |pixels, packet| {
        for segment in placement.segments(packet) {
            pixels[segment.offset_bytes as usize..][..segment.len_bytes as usize].fill(0xff);
        }
    }
}

impl Scene {
    /// `readouts` share the ports; each port has a buffer of so many bytes.
    fn new(text: &str, readouts: usize, buffer_bytes: u64, deadline: Duration) -> Self {
        let (detector, sockets) = on_free_ports(text, buffer_bytes);
        let placement = &detector.placement;
        let images = Geometry {
            slots: 64,
            window: WINDOW,
            height: placement.height as u32,
            width: placement.width as u32,
            pixel_bytes: placement.pixel.bytes() as u32,
            packets_per_image: placement.packets_per_image() as u32,
            fill: 0xff,
            placement_hash: placement.hash(),
        };
        let ring = Ring::on_heap(images).unwrap();
        let owner = Owner::take_over(&ring, process(1), deadline, &Assume(true));
        let reader = Reader::reliable(&ring, process(2), "reader", Start::Next).unwrap();
        let port = |(index, socket)| Port::new(socket, placement.module_of_port(index), placement, Senders::default());
        let mut ports: Vec<Port> = sockets.into_iter().enumerate().map(port).collect();
        let share = ports.len() / readouts;
        let readout = |index: usize| Readout {
            receiver: receiver(&detector, &ring, index, deadline),
            ports: ports.drain(..share).collect(),
        };
        Self {
            readouts: (0..readouts).map(readout).collect(),
            pattern: Pattern::new(placement, 1),
            socket: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            deadline,
            images: Vec::new(),
            lost: 0,
            detector,
            ring,
            owner,
            reader,
        }
    }

    fn packets(&self) -> usize {
        self.detector.placement.packets_per_image()
    }

    /// A packet of the image that `id` stands for; its header holds what of it the field holds.
    fn send(&self, id: u64, index: usize) {
        self.send_packet(&self.packet(id, index), index);
    }

    /// Packets of one port in one message, which the kernel cuts, and hands over coalesced again.
    fn send_message(&self, id: u64, indices: Range<usize>) {
        let packets: Vec<u8> = indices.clone().flat_map(|index| self.packet(id, index)).collect();
        let bytes = self.detector.placement.packet_bytes() as i32;
        let option = (&raw const bytes).cast();
        // SAFETY: the option is an int and outlives the call.
        let set = unsafe { libc::setsockopt(self.socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, option, 4) };
        assert_eq!(set, 0);
        self.send_packet(&packets, indices.start);
    }

    fn send_packet(&self, packet: &[u8], index: usize) {
        let placement = &self.detector.placement;
        let port = placement.ports[index / placement.packets_per_module];
        self.socket.send_to(packet, (Ipv4Addr::LOCALHOST, port)).unwrap();
    }

    fn packet(&self, id: u64, index: usize) -> Vec<u8> {
        let placement = &self.detector.placement;
        let (module, number) = (index / placement.packets_per_module, index % placement.packets_per_module);
        let header_bytes = self.detector.wire.header_bytes;
        let mut packet = vec![0; header_bytes + placement.payload_bytes_of(number)];
        let header = PacketHeader { image_id: id, number, timestamp: 0, exposure_length: 0, do_not_store: false };
        self.detector.wire.write(&mut packet, module, &header);
        self.pattern.write_payload(id, index, &mut packet[header_bytes..]);
        packet
    }

    /// Image by image: each packet of one port, then the next one's of it.
    fn send_images(&mut self, ids: Range<u64>) {
        for id in ids {
            (0..self.packets()).for_each(|index| self.send(id, index));
            self.settle();
        }
    }

    /// A turn of each port of each readout, and what there is to do for the owner and the reader.
    fn turn(&mut self) -> bool {
        let mut is_idle = true;
        for Readout { receiver, ports } in &mut self.readouts {
            for index in 0..ports.len() {
                is_idle &= receiver.receive(ports, index).unwrap() == Turn::Empty;
            }
            receiver.watch_gates(ports);
        }
        self.step();
        is_idle
    }

    /// A turn of one port of the first readout.
    fn turn_of(&mut self, port: usize) {
        let Readout { receiver, ports } = &mut self.readouts[0];
        receiver.receive(ports, port).unwrap();
        self.step();
    }

    /// Lets everybody do all that there is to do.
    fn settle(&mut self) {
        while !self.turn() {}
    }

    fn settle_for(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.settle();
            sleep(Duration::from_micros(200));
        }
    }

    fn step(&mut self) {
        let mut fill = fill_missing(&self.detector.placement);
        self.owner.step(&mut Surroundings { now: Now::read(), liveness: &Assume(true), fill: &mut fill });
        while let Some(delivery) = self.reader.try_next() {
            self.lost += delivery.lost.iter().map(|range| range.count).sum::<u64>();
            if let Some(image) = delivery.image {
                let pixels = self.reader.pixels(&image).to_vec();
                self.images.push((image, pixels));
            }
        }
        self.reader.release();
    }

    /// Each pixel that counts is that of the image that its id stands for; the others are filled.
    fn check_pixels(&self) {
        let placement = &self.detector.placement;
        for (image, pixels) in &self.images {
            for index in 0..placement.packets_per_image() {
                let is_marked = image.bitmap[index / 64] >> (index % 64) & 1 != 0;
                let mut wanted = vec![0xff; placement.payload_bytes];
                if is_marked {
                    self.pattern.write_payload(image.id, index, &mut wanted);
                }
                let mut wanted = &wanted[..];
                for segment in placement.segments(index) {
                    let (of_segment, rest) = wanted.split_at(segment.len_bytes as usize);
                    assert!(
                        &pixels[segment.offset_bytes as usize..][..of_segment.len()] == of_segment,
                        "image {}, packet {index}, marked: {is_marked}",
                        image.id
                    );
                    wanted = rest;
                }
            }
        }
    }

    fn ids(&self) -> Vec<u64> {
        self.images.iter().map(|(image, _)| image.id).collect()
    }

    fn is_whole(&self, image: &Image) -> bool {
        image.packets_received as usize == self.packets()
    }
}

fn process(pid: u32) -> ProcessId {
    ProcessId { pid, start_time: 1 }
}

fn receiver(detector: &Detector, ring: &Ring, index: usize, deadline: Duration) -> Receiver {
    let contributor = Contributor::join(ring, process(3 + index as u32), "readout").unwrap();
    Receiver::new(detector.clone(), contributor, deadline, Placer::plain())
}

fn on_free_ports(text: &str, buffer_bytes: u64) -> (Detector, Vec<PortSocket>) {
    loop {
        let scene = NEXT_SCENE.fetch_add(1, Ordering::Relaxed);
        let first = PORTS.start + scene % (PORTS.len() as u16 / 16) * 16;
        let config = DetectorConfig::from_toml(&format!("start_udp_port = {first}\n{text}"));
        let detector = config.and_then(|config| config.detector()).unwrap();
        let bind = |&port: &u16| PortSocket::bind(Ipv4Addr::LOCALHOST, port, buffer_bytes, true).ok();
        if let Some(sockets) = detector.placement.ports.iter().map(bind).collect() {
            return (detector, sockets);
        }
    }
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(4);
/// Longer than a busy machine keeps a test waiting: what comes in time is not late.
const MEDIUM: Duration = Duration::from_millis(200);
/// What only some ports have is soon given up.
const SOON: Duration = Duration::from_millis(50);
const BUFFER: u64 = 1 << 20;

#[test]
fn ids_go_on_over_the_wraps_of_their_field() {
    for (id_bytes, ids) in [(1, 1..1300), (2, 65_400..65_700), (3, (1 << 24) - 100..(1 << 24) + 100)] {
        let mut scene = Scene::new(&detector(2, 2, id_bytes), 1, BUFFER, LONG);
        scene.send_images(ids.clone());
        assert!(scene.ids().into_iter().eq(ids), "{id_bytes} bytes: {:?}", scene.ids());
        scene.check_pixels();
        let status = scene.ring.status();
        assert_eq!((status.epoch, status.images_partial, scene.lost), (1, 0, 0), "{id_bytes} bytes");
    }
}

#[test]
fn packets_lost_and_out_of_order_around_a_wrap_cost_their_own_pixels() {
    for (id_bytes, first) in [(1, 200), (2, 65_500)] {
        let mut scene = Scene::new(&detector(2, 2, id_bytes), 1, BUFFER, MEDIUM);
        let wrap = 1_u64 << (8 * id_bytes);
        // One packet in seven is lost, and all of the images from two before to one behind the wrap; the first packet of each
        // image comes behind the last one of the next.
        let (end, mut sent, mut put_back) = (wrap + 60, 0, None);
        for id in first..end {
            for index in 0..4 {
                let is_lost = (id * 4 + index as u64).is_multiple_of(7) || (wrap - 2..wrap + 2).contains(&id);
                sent += u64::from(!is_lost);
                if !is_lost && index > 0 {
                    scene.send(id, index);
                }
            }
            let is_first_sent = !(id * 4).is_multiple_of(7) && !(wrap - 2..wrap + 2).contains(&id);
            put_back
                .replace((id, is_first_sent))
                .into_iter()
                .filter(|(_, is_sent)| *is_sent)
                .for_each(|(id, _)| scene.send(id, 0));
            scene.settle();
        }
        put_back.into_iter().filter(|(_, is_sent)| *is_sent).for_each(|(id, _)| scene.send(id, 0));
        scene.settle_for(3 * MEDIUM);
        scene.check_pixels();
        let status = scene.ring.status();
        assert_eq!((status.epoch, status.packets.placed), (1, sent), "{id_bytes} bytes: {status:?}");
        assert_eq!((scene.images.len() as u64 + scene.lost, scene.lost), (end - first, 4), "{:?}", scene.ids());
    }
}

#[test]
fn a_detector_that_begins_again_far_from_the_end_of_its_field_begins_a_run() {
    for (id_bytes, first) in [(1, 50), (2, 20_000), (2, 65_500), (2, 60_000)] {
        let mut scene = Scene::new(&detector(2, 2, id_bytes), 1, BUFFER, SHORT);
        let end = first + 100; // in the second lap, or far from the end of the first one
        scene.send_images(first..end);
        scene.settle_for(PAUSE);
        scene.send_images(0..20);
        scene.settle_for(4 * SHORT);
        assert!(
            scene.ids().into_iter().eq((first..end).chain(0..20)),
            "{id_bytes} bytes, from {first}: {:?}",
            scene.ids()
        );
        scene.check_pixels();
        assert_eq!((scene.ring.status().epoch, scene.lost), (2, 0), "{id_bytes} bytes, from {first}");
    }
}

#[test]
fn a_pause_at_the_end_of_the_field_is_none_between_runs() {
    let mut scene = Scene::new(&detector(2, 2, 2), 1, BUFFER, SHORT);
    scene.send_images(65_500..65_536);
    scene.settle_for(PAUSE);
    scene.send_images(65_536..65_600);
    assert!(scene.ids().into_iter().eq(65_500..65_600), "{:?}", scene.ids());
    assert_eq!(scene.ring.status().epoch, 1);
}

#[test]
fn several_readouts_agree_what_an_id_stands_for_whenever_they_began() {
    for (id_bytes, first) in [(1, 1_u64), (2, 65_500)] {
        let mut scene = Scene::new(&detector(2, 2, id_bytes), 2, BUFFER, SHORT);
        let wrap = 1_u64 << (8 * id_bytes);
        scene.send_images(first..wrap + 20);
        // The second one is another process from here on: it has seen nothing of what was before.
        let deadline = scene.deadline;
        scene.readouts[1].receiver = receiver(&scene.detector, &scene.ring, 2, deadline);
        scene.send_images(wrap + 20..wrap + 60);
        scene.settle_for(4 * SHORT);
        assert!(scene.ids().into_iter().eq(first..wrap + 60), "{id_bytes} bytes: {:?}", scene.ids());
        scene.check_pixels();
        let status = scene.ring.status();
        assert_eq!((status.epoch, scene.lost), (1, 0), "{id_bytes} bytes: {status:?}");
    }
}

/// With 8 bits, what one brings that was away for 200 images looks like what comes next.
#[test]
fn a_readout_that_was_away_for_much_of_a_field_brings_no_pixel_of_another_lap() {
    for away in [70, 130, 200, 250, 256, 300] {
        let mut scene = Scene::new(&detector(2, 2, 1), 2, 4 * BUFFER, SHORT);
        scene.send_images(1..100);
        let asleep = scene.readouts.pop().unwrap();
        for id in (100..100 + away).step_by(4) {
            (id..id + 4).for_each(|id| (0..4).for_each(|index| scene.send(id, index)));
            scene.settle_for(2 * SHORT);
        }
        scene.readouts.push(asleep);
        scene.settle_for(4 * SHORT);
        let first = 100 + away.div_ceil(4) * 4;
        scene.send_images(first..first + 50);
        scene.settle_for(4 * SHORT);
        scene.check_pixels();
        let status = scene.ring.status();
        assert!(status.packets.shed > 0, "{away} images: {status:?}");
        let whole = scene.images.iter().filter(|(image, _)| image.id >= first && scene.is_whole(image)).count();
        assert!(whole >= 49, "it takes part again: {whole} of the last 50, {away} images later");
        assert_eq!(status.epoch, 1);
    }
}

/// Twice as many packets as are taken: whenever half an image was sent, one of the four ports has its turn, of a quarter of one. So
/// the ports have room at different times, as those of a readout that is held up.
#[test]
fn more_than_is_received_costs_whole_images_and_most_that_are_begun_are_whole() {
    let mut scene = Scene::new(&detector(4, 64, 8), 1, BUFFER, SOON);
    let begun = Instant::now();
    let (mut id, mut turns, mut overloaded_at) = (0, 0, None);
    while overloaded_at.is_none_or(|at| id < at + 1000) {
        id += 1;
        for number in 0..64 {
            (0..4).for_each(|port| scene.send(id, 64 * port + number));
            if number % 32 == 31 {
                scene.turn_of(turns % 4);
                turns += 1;
            }
        }
        if overloaded_at.is_none() && scene.readouts[0].receiver.overload().0 {
            overloaded_at = Some(id);
            scene.images.clear();
        }
        assert!(begun.elapsed() < LONG, "no overload: {:?}", scene.ring.status());
    }
    let images = scene.images.len();
    let placed: usize = scene.images.iter().map(|(image, _)| image.packets_received as usize).sum();
    let whole = scene.images.iter().filter(|(image, _)| scene.is_whole(image)).count();
    let (_, times_shut) = scene.readouts[0].receiver.overload();
    println!(
        "{images} images of 1000, {whole} whole, {placed} packets of 128000 that can be received; shut {times_shut} times"
    );
    assert!(whole * 256 * 10 > placed * 8, "only {whole} of {images} images are whole, with {placed} packets");
    assert!(whole > 350, "{whole} whole images of 500 that can be received");
    scene.settle();
    scene.check_pixels();
    let status = scene.ring.status();
    assert_eq!(status.packets.received + status.packets.kernel_dropped, id * 256, "{status:?}");
}

#[test]
fn an_overload_is_over_when_no_more_comes_than_is_received() {
    let mut scene = Scene::new(&detector(4, 64, 8), 1, BUFFER, SOON);
    let begun = Instant::now();
    let mut id = 0;
    while !scene.readouts[0].receiver.overload().0 {
        for _ in 0..4 {
            id += 1;
            (0..256).for_each(|index| scene.send(id, index));
        }
        scene.turn();
        assert!(begun.elapsed() < LONG, "no overload: {:?}", scene.ring.status());
    }
    scene.settle(); // gates open though nothing comes any more
    scene.images.clear();
    let first = id + 1;
    scene.send_images(first..first + 50);
    let whole = scene.images.iter().filter(|(image, _)| image.id >= first && scene.is_whole(image)).count();
    assert_eq!(whole, 50);
    while scene.readouts[0].receiver.overload().0 {
        scene.settle();
        assert!(begun.elapsed() < 2 * LONG, "still an overload");
    }
}

/// Messages that hold as many packets each time are received several a batch, without a packet moved; then messages are
/// cut elsewhere, packets are lost, and come in another order: each is in its place all the same.
#[test]
fn messages_of_a_steady_detector_are_received_many_a_batch_and_others_cost_no_pixel() {
    const LAST_STEADY: u64 = 200;
    let text = "detector_type = \"steady\"\nmodules = [2, 1]\n[module]\ncolumns = 4096\nrows = 32\nbit_depth = 8\n\
        [packet]\nheader_bytes = 16\npayload_bytes = 4096\n[fields]\nimage_id = { offset = 0, bytes = 8 }\n\
        packet_number = { offset = 8, bytes = 2 }";
    let mut scene = Scene::new(text, 1, 4 * BUFFER, MEDIUM);
    let send = |scene: &Scene, id: u64, cuts: &[usize]| {
        for module in [0, 32] {
            let ends = cuts.iter().chain([&32]);
            let begins = [0].iter().chain(cuts);
            begins.zip(ends).for_each(|(begin, end)| scene.send_message(id, module + begin..module + end));
        }
    };
    let moved = |scene: &Scene| scene.ring.status().packets.moved;
    let mut moved_at_first = None;
    for id in (1..=LAST_STEADY).step_by(2) {
        send(&scene, id, &[15, 30]);
        send(&scene, id + 1, &[15, 30]);
        scene.settle();
        if id > 100 {
            moved_at_first.get_or_insert(moved(&scene));
        }
    }
    assert_eq!(moved_at_first, Some(moved(&scene)), "moved while it was steady");
    let most = |scene: &Scene| scene.readouts[0].ports.iter().map(|port| port.batch.messages_max()).min();
    assert_eq!(most(&scene), Some(Some(5)), "15, 15, 2, 15 and what follows");
    for (cuts, id) in [&[5, 20][..], &[14, 29], &[15, 30], &[1, 2, 3, 18], &[15, 30]].into_iter().zip(LAST_STEADY + 1..)
    {
        send(&scene, id, cuts);
        scene.settle();
    }
    assert_eq!(most(&scene), Some(Some(1)), "not steady");
    let (lossy, doubled) = (LAST_STEADY + 6, LAST_STEADY + 7);
    [16..31, 0..14, 31..32, 32..45].into_iter().for_each(|indices| scene.send_message(lossy, indices));
    let twice = [0..15, 0..15, 15..30, 29..32, 32..47, 47..62, 62..64];
    twice.into_iter().for_each(|indices| scene.send_message(doubled, indices));
    scene.settle_for(2 * MEDIUM);
    scene.check_pixels();
    assert_eq!(scene.ids(), (1..=doubled).collect::<Vec<u64>>());
    let part = scene.images.iter().filter(|(image, _)| !scene.is_whole(image)).map(|(image, _)| image);
    let part: Vec<_> = part.map(|image| (image.id, image.packets_received, image.bitmap[0])).collect();
    assert_eq!(part, [(lossy, 43, 0x1fff_ffff_3fff)], "14 and 15 of the first module, the last 19 of the second");
    assert_eq!(scene.ring.status().packets.duplicate, 16);
}
