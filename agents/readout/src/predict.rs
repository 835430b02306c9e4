//! Which packet is expected at each place of a batch: those that follow the port's last one, in the order of a detector.
//!
//! ```text
//! places     0   1   2   3   4   5   6   7  …          last packet: 61 of image 4, of 64 a module
//! expected  62  63 │ 0   1   2   3   4   5  …
//!           image 4│image 5                            a run: packets in a row of one image, at places in a row
//! ```
//!
//! A run is what is done at one time: an image is looked up once for it, and those of its packets that came are marked
//! with one access to a word of the bitmap.

use crate::batch::Batch;
use ecs_schemas::detector::Placement;
use ecs_shm_buffer::{Access, limits::HAZARD_SLOTS};

/// What is expected at the places of one batch: of so many images at most as may be protected at one time.
pub struct Prediction {
    ids: [u64; HAZARD_SLOTS],
    runs: [Run; HAZARD_SLOTS],
    count: usize,
}

/// Places of one image.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    first_place: usize,
    first_number: usize,
    packets: usize,
}

impl Prediction {
    /// For so many places, from `next` on: image id and number. Nothing is expected where that is not known, nor at
    /// places behind the packets of as many images as may be protected: what comes there goes to staging.
    pub fn new(next: Option<(u64, usize)>, places: usize, packets_per_module: usize) -> Self {
        let mut prediction = Self { ids: [0; HAZARD_SLOTS], runs: [Run::default(); HAZARD_SLOTS], count: 0 };
        let Some((first_id, mut first_number)) = next else { return prediction };
        let mut first_place = 0;
        for (id, (to, run)) in (first_id..).zip(prediction.ids.iter_mut().zip(&mut prediction.runs)) {
            let packets = (places - first_place).min(packets_per_module - first_number);
            (*to, *run) = (id, Run { first_place, first_number, packets });
            prediction.count += 1;
            (first_place, first_number) = (first_place + packets, 0);
            if first_place == places {
                break;
            }
        }
        prediction
    }

    /// The images, in their order.
    pub fn ids(&self) -> &[u64] {
        &self.ids[..self.count]
    }

    /// Image id and number of the packet that is expected at a place.
    #[inline]
    pub fn at(&self, place: usize) -> Option<(u64, usize)> {
        let of_images = self.ids.iter().zip(&self.runs[..self.count]);
        for (&id, run) in of_images {
            let ahead = place.wrapping_sub(run.first_place);
            if ahead < run.packets {
                return Some((id, run.first_number + ahead));
            }
        }
        None
    }

    /// Aims each of the batch's `places` at that of the packet that is expected there, where that is free: its image is
    /// open, and the packet has not come yet (P1 of `receive`). `first_packet`: of the port's module.
    pub fn aim(
        &self,
        batch: &mut Batch,
        places: usize,
        placement: &Placement,
        first_packet: usize,
        access: &Access<'_>,
    ) {
        let mut aimed = 0;
        for (&id, run) in self.ids().iter().zip(&self.runs) {
            let Some(image) = access.image(id) else {
                (0..run.packets).for_each(|_| batch.aim_at_staging());
                aimed += run.packets;
                continue;
            };
            let pixels = access.pixels(image);
            for number in run.first_number..run.first_number + run.packets {
                match access.has_packet(image, first_packet + number) {
                    false => batch.aim_at_image(placement, first_packet + number, number, pixels),
                    true => batch.aim_at_staging(),
                }
            }
            aimed += run.packets;
        }
        (aimed..places).for_each(|_| batch.aim_at_staging());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{batch::BATCH_PACKETS, port::successor};

    #[test]
    fn places_follow_the_last_packet_through_as_many_images_as_may_be_protected() {
        for (per_module, places) in [(64, BATCH_PACKETS), (128, 7), (20, BATCH_PACKETS), (16, 16), (1, BATCH_PACKETS)] {
            for first in [0, per_module / 2, per_module - 1] {
                let prediction = Prediction::new(Some((7, first)), places, per_module);
                let (mut expected, mut ids) = (Some((7, first)), vec![7]);
                for place in 0..places {
                    assert_eq!(prediction.at(place), expected, "place {place} of {places}, {per_module} a module");
                    let next = expected.map(|packet| successor(packet, per_module));
                    if let Some((id, _)) = next.filter(|(id, _)| place + 1 < places && !ids.contains(id)) {
                        ids.push(id);
                    }
                    expected = next.filter(|_| ids.len() <= HAZARD_SLOTS);
                }
                ids.truncate(HAZARD_SLOTS);
                assert_eq!(prediction.ids(), ids);
                assert_eq!(prediction.at(places), None);
            }
        }
        let nothing = Prediction::new(None, 7, 64);
        assert!(nothing.ids().is_empty() && nothing.at(0).is_none());
    }
}
