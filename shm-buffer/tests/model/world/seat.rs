//! One reader, what it was told, and the image that it has in its hands.

use super::PACKETS;
use crate::common::{
    self,
    invariants::{self, CommonHistory, Told},
};
use ecs_shm_buffer::{Delivery, Image, ProcessId, Reader, Ring, Start};

pub struct Seat {
    pub process: ProcessId,
    pub reader: Reader,
    reliable: bool,
    pub told: Told,
    /// The image that it was given last, with its bytes.
    pub last: Option<(u64, Image, Vec<u8>)>,
}

impl Seat {
    pub fn join(ring: &Ring, process: ProcessId, reliable: bool, start: Start) -> Self {
        let join = if reliable { Reader::reliable } else { Reader::lossy };
        let reader = join(ring, process, "reader", start).expect("a free place");
        Self { process, reader, reliable, told: Told::default(), last: None }
    }

    pub fn next(&mut self, history: &mut CommonHistory) -> Option<Delivery> {
        self.check_last();
        self.last = None;
        let delivery = self.reader.try_next()?;
        assert!(!self.reliable || delivery.overtaken == 0, "a reliable reader was overtaken");
        self.told.check(&delivery);
        history.check(&delivery);
        if let Some(image) = &delivery.image {
            let mut pixels = vec![0; PACKETS * common::PACKET_BYTES];
            assert_eq!(self.reader.copy_pixels(image, &mut pixels), Ok(()), "it was committed just now");
            invariants::check_pixels(delivery.epoch, image, &pixels);
            self.last = Some((delivery.epoch, image.clone(), pixels));
        }
        Some(delivery)
    }

    /// I5; and a lossy reader is told that it was overtaken, or has the same bytes still.
    pub fn check_last(&self) {
        let Some((_, image, expected)) = &self.last else { return };
        let mut pixels = vec![0; expected.len()];
        match self.reader.copy_pixels(image, &mut pixels) {
            Ok(()) => assert_eq!(pixels, *expected, "I5: image {} has changed", image.id),
            Err(_) => assert!(!self.reliable, "I5: image {} was taken from its reader", image.id),
        }
        if self.reliable {
            assert_eq!(self.reader.pixels(image), expected, "I5: image {} has changed", image.id);
        }
    }
}
