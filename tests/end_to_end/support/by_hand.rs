//! A detector whose every packet the test sends by hand.

use super::Beamline;
use ecs_schemas::detector::{
    DetectorConfig, Placement,
    eiger::{DETECTOR_TYPE, HEADER_BYTES, HEADER_VERSION, PacketHeader},
};
use ecs_sim::pattern::Pattern;
use std::{fs, net::UdpSocket};

pub struct ByHand {
    socket: UdpSocket,
    placement: Placement,
    pattern: Pattern,
}

impl ByHand {
    /// The beamline's detector; its images are those of the simulator with seed 0.
    pub fn new(beamline: &Beamline) -> Self {
        let json = fs::read_to_string(beamline.path("detector.json")).unwrap();
        let placement = DetectorConfig::from_json(&json).and_then(|config| config.placement()).unwrap();
        let pattern = Pattern::new(&placement, 0);
        Self { socket: UdpSocket::bind("127.0.0.1:0").unwrap(), placement, pattern }
    }

    pub fn image(&self, id: u64) {
        (0..self.placement.packets_per_image()).for_each(|index| self.packet(id, index));
    }

    /// A packet of an image, by its index in the whole image.
    pub fn packet(&self, id: u64, index: usize) {
        let mut payload = vec![0; self.placement.payload_bytes];
        self.pattern.write_payload(id, index, &mut payload);
        self.send(id, index, &payload);
    }

    /// A packet with the right header and pixels that are no image's.
    pub fn stray(&self, id: u64, index: usize) {
        self.send(id, index, &vec![0x5a; self.placement.payload_bytes]);
    }

    fn send(&self, id: u64, index: usize, payload: &[u8]) {
        let (module, number) = (index / self.placement.packets_per_module, index % self.placement.packets_per_module);
        let header = PacketHeader {
            frame_number: id,
            exposure_length: 1,
            packet_number: number as u32,
            timestamp: 0,
            detector_type: DETECTOR_TYPE,
            version: HEADER_VERSION,
        };
        let mut packet = [0; HEADER_BYTES];
        header.write(&mut packet);
        let packet = [&packet[..], payload].concat();
        self.socket.send_to(&packet, ("127.0.0.1", self.placement.ports[module])).unwrap();
    }
}
