//! The model's word on what the ring has told.

use super::{ImageKey, LANES, PACKETS, SLOTS, World, seat::Seat};
use crate::common::invariants;
use ecs_shm_buffer::{Delivery, LossCause};
use std::collections::BTreeSet;

impl World {
    /// What holds after every operation: the witness reads on, and everything is compared.
    pub fn check(&mut self) {
        while let Some(delivery) = self.witness.next(&mut self.history) {
            self.compare(&delivery);
        }
        self.witness.reader.release();
        self.witness.last = None;
        self.seats.iter().for_each(Seat::check_last);
        invariants::check_slots(&self.raw, SLOTS.into());
        invariants::check_sums(&self.ring);
        let status = self.ring.status();
        assert_eq!(status.images_complete, self.whole_images);
        assert_eq!(status.images_complete + status.images_partial, self.witness.told.images);
        assert!(status.lost.iter().sum::<u64>() >= self.witness.told.lost, "told of more than was counted");
    }

    /// The model's word on a delivery.
    fn compare(&mut self, delivery: &Delivery) {
        let none = BTreeSet::new();
        for range in &delivery.lost {
            let placed =
                self.placed.range((delivery.epoch, range.first_id)..(delivery.epoch, range.first_id + range.count));
            let begun: Vec<ImageKey> = placed.map(|(key, _)| *key).collect();
            match range.cause {
                LossCause::NotReceived => assert_eq!(begun, [], "packets had come: {range:?}"),
                LossCause::RingFull => assert!(begun.is_empty() && self.may_be_full(), "{range:?}, {begun:?}"),
                LossCause::ReadoutStuck => assert!(
                    (range.first_id..range.first_id + range.count)
                        .all(|id| self.hung_in.contains(&(delivery.epoch, id))),
                    "nobody hung in {range:?}"
                ),
                LossCause::OwnerDown => assert!(self.owner_died_in.contains(&delivery.epoch), "{range:?}"),
                LossCause::Several => panic!("a commit entry has room for all of these: {delivery:?}"),
            }
            self.told.extend(begun);
        }
        if let Some(image) = &delivery.image {
            let key = (delivery.epoch, image.id);
            let placed = self.placed.get(&key).unwrap_or(&none);
            let bitmap = placed.iter().fold(0, |word, packet| word | 1_u64 << packet);
            assert_eq!(image.bitmap[..], [bitmap], "run and image {key:?}");
            assert!(self.told.insert(key), "{key:?} was told of before");
            self.whole_images += u64::from(placed.len() == PACKETS);
        }
    }

    fn may_be_full(&self) -> bool {
        self.someone_was_slow || !self.hung_in.is_empty()
    }

    /// Everybody comes to an end: then every image of which a packet came was told of.
    pub fn end(mut self) {
        (0..LANES).for_each(|lane| _ = self.act(lane));
        for _ in 0..4 {
            while !self.seats.is_empty() {
                self.read(0, usize::from(u16::MAX));
                self.leave_reader(0);
            }
            self.step(super::HOUSEKEEPING_NS);
            self.check();
        }
        let untold: Vec<_> = self.placed.keys().filter(|key| !self.told.contains(key)).collect();
        assert!(untold.is_empty() || self.notices_waited, "never told of: {untold:?}");
        let status = self.ring.status();
        assert_eq!(status.slots_in_quarantine, 0);
        if !self.notices_waited {
            assert_eq!(status.lost.iter().sum::<u64>(), self.witness.told.lost, "counted and told: {:?}", status.lost);
        }
    }
}
