//! Sockets of bare loops: filled, and drained on core 0.

use super::{Drained, fill::Fill, loops::Loop, memory::Places};
use crate::{cores::on_core, detectors::Which, image_path::bound_detector, receive_floor::Handover};
use ecs_schemas::detector::Detector;
use std::{
    io,
    net::UdpSocket,
    time::{Duration, Instant},
};

pub struct Bare {
    detector: Detector,
    sockets: Vec<UdpSocket>,
    fill: Fill,
    /// Of one fill.
    images: u64,
}

impl Bare {
    /// On ports of its own.
    ///
    /// # Errors
    /// There are none, or their buffers do not hold a fill.
    pub fn bind(which: Which, handover: Handover) -> anyhow::Result<Self> {
        let (detector, sockets) = bound_detector(which, handover)?;
        let mut fill = Fill::new(detector.clone());
        let images = fill.images_that_fit(&sockets)?;
        Ok(Self { detector, sockets, fill, images })
    }

    /// Places for its packets.
    ///
    /// # Errors
    /// There is no room.
    pub fn places(&self) -> anyhow::Result<Places> {
        Places::new(&self.detector.placement)
    }

    /// Fills the sockets, and drains them. None where packets are missing.
    ///
    /// # Errors
    /// The network takes nothing, or a socket is broken.
    pub fn drain(&mut self, receive: &mut dyn Loop) -> anyhow::Result<Option<Drained>> {
        let (packets, bytes) = self.fill.send(self.images)?;
        let (taken, elapsed) = on_core(0, || Ok(drain(&self.sockets, receive)?))?;
        Ok((taken == packets).then_some(Drained { bytes, elapsed }))
    }
}

/// Goes round the sockets until they are empty. Returns how many packets there were, and the time until the last of them.
fn drain(sockets: &[UdpSocket], receive: &mut dyn Loop) -> io::Result<(u64, Duration)> {
    let (start, mut packets, mut elapsed) = (Instant::now(), 0, Duration::ZERO);
    loop {
        let mut taken = 0;
        for (port, socket) in sockets.iter().enumerate() {
            taken += receive.turn(socket, port)? as u64;
        }
        if taken == 0 {
            return Ok((packets, elapsed));
        }
        packets += taken;
        elapsed = start.elapsed();
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::loops::{Coalesced, Copying, Peeking, Singles},
        *,
    };
    use crate::receive_floor::buffer_bytes;
    use ecs_sim::pattern::Pattern;

    const IMAGES: u64 = 3;

    /// The images by the generator's formula, put together payload by payload.
    fn expected(detector: &Detector) -> Vec<Vec<u8>> {
        let placement = &detector.placement;
        let pattern = Pattern::new(placement, 0);
        let mut payload = vec![0; placement.payload_bytes];
        let image = |id| {
            let mut image = vec![0; placement.image_bytes()];
            for packet in 0..placement.packets_per_image() {
                pattern.write_payload(id, packet, &mut payload);
                let mut rest = &payload[..];
                for segment in placement.segments(packet) {
                    let (run, behind) = rest.split_at(segment.len_bytes as usize);
                    image[segment.offset_bytes as usize..][..run.len()].copy_from_slice(run);
                    rest = behind;
                }
            }
            image
        };
        (1..=IMAGES).map(image).collect()
    }

    /// As it is measured: as many images as the buffers are said to hold, again and again.
    #[test]
    fn fill_is_as_large_as_the_sockets_hold_and_comes_whole() {
        let mut bare = match Bare::bind(Which::Eiger500K, Handover::Singles) {
            Ok(bare) => bare,
            Err(error) => {
                let (_, sockets) = bound_detector(Which::Eiger500K, Handover::Singles).unwrap();
                let given = buffer_bytes(&sockets[0]).unwrap();
                assert!(given < 8 << 20 && error.to_string().contains("raise net.core.rmem_max"), "{given}: {error:#}");
                return;
            }
        };
        let mut receive = Singles::new(Places::with_bytes(&bare.detector.placement, 8 << 20).unwrap());
        let bytes = bare.images * bare.detector.placement.wire_bytes() as u64;
        for _ in 0..2 {
            let drained = bare.drain(&mut receive).unwrap().expect("all packets");
            assert_eq!(drained.bytes, bytes);
            assert!(drained.elapsed > Duration::ZERO);
        }
        bare.images *= 3;
        assert_eq!(bare.drain(&mut receive).unwrap(), None, "more than they hold");
    }

    /// The same packets for each loop; what it leaves in its images is compared byte for byte.
    #[test]
    fn every_loop_puts_the_same_packets_into_the_same_places() {
        type New = fn(Places) -> Box<dyn Loop>;
        let loops: [(Handover, &str, New); 4] = [
            (Handover::Singles, "singles", |places| Box::new(Singles::new(places))),
            (Handover::Singles, "copying", |places| Box::new(Copying::new(places))),
            (Handover::Singles, "peeking", |places| Box::new(Peeking::new(places))),
            (Handover::Coalesced, "coalesced", |places| Box::new(Coalesced::new(places))),
        ];
        for (handover, name, new) in loops {
            let (detector, sockets) = bound_detector(Which::Eiger8Bit, handover).unwrap();
            let places = Places::with_bytes(&detector.placement, 8 << 20).unwrap();
            let (mut fill, mut receive) = (Fill::new(detector.clone()), new(places.clone()));
            for _ in 0..IMAGES {
                let (packets, _) = fill.send(1).unwrap(); // as much as any host's buffers hold
                assert_eq!(drain(&sockets, &mut *receive).unwrap().0, packets, "{name}");
            }
            for (image, expected) in expected(&detector).iter().enumerate() {
                assert!(places.copy(image as u64) == *expected, "{name}: image {image} has other pixels");
            }
        }
    }
}
