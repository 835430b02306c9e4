//! A detector whose every packet the test sends by hand.

use super::Beamline;
use ecs_schemas::detector::{Detector, PacketHeader};
use ecs_sim::{detector::do_not_store, pattern::Pattern};
use std::net::UdpSocket;

pub struct ByHand {
    socket: UdpSocket,
    detector: Detector,
    pattern: Pattern,
}

impl ByHand {
    /// The beamline's detector; its images are those of the simulator with seed 0.
    pub fn new(beamline: &Beamline) -> Self {
        Self::from(beamline, "127.0.0.1")
    }

    /// The same, sending from another address of this host.
    pub fn from(beamline: &Beamline, address: &str) -> Self {
        let detector = beamline.detector();
        let pattern = Pattern::new(&detector.placement, 0);
        Self { socket: UdpSocket::bind((address, 0)).unwrap(), detector, pattern }
    }

    pub fn image(&self, id: u64) {
        (0..self.detector.placement.packets_per_image()).for_each(|index| self.packet(id, index));
    }

    /// A packet of an image, by its index in the whole image.
    pub fn packet(&self, id: u64, index: usize) {
        let mut payload = vec![0; self.detector.placement.payload_bytes];
        self.pattern.write_payload(id, index, &mut payload);
        self.send(id, index, &payload);
    }

    /// A packet with the right header and pixels that are no image's.
    pub fn stray(&self, id: u64, index: usize) {
        self.send(id, index, &vec![0x5a; self.detector.placement.payload_bytes]);
    }

    fn send(&self, id: u64, index: usize, payload: &[u8]) {
        let per_module = self.detector.placement.packets_per_module;
        let (module, number) = (index / per_module, index % per_module);
        let do_not_store = do_not_store(id);
        let header = PacketHeader { image_id: id, number, timestamp: 0, exposure_length: 1, do_not_store };
        let mut packet = vec![0; self.detector.wire.header_bytes];
        self.detector.wire.write(&mut packet, module, &header);
        let packet = [&packet[..], payload].concat();
        self.socket.send_to(&packet, ("127.0.0.1", self.detector.placement.ports[module])).unwrap();
    }
}
