//! What became of packets, counted aside: the counters that all see are touched once a turn.

use ecs_shm_buffer::{Contributor, PacketFate};
use std::mem;

/// Fates of the packets of one turn.
#[derive(Default)]
pub struct Tally {
    fates: [u64; PacketFate::ALL.len()],
    /// Those that were copied from where they landed to their places.
    pub moved: u64,
}

impl Tally {
    pub fn add(&mut self, fate: PacketFate) {
        self.add_many(fate, 1);
    }

    pub fn add_many(&mut self, fate: PacketFate, packets: u64) {
        self.fates[fate as usize] += packets;
    }

    /// Adds the turn to the shared counters. Returns how many packets were placed.
    pub fn flush(&mut self, contributor: &Contributor, packet_bytes: u64) -> u64 {
        let (mut received, placed) = (0, self.fates[PacketFate::Placed as usize]);
        if self.fates.iter().all(|count| *count == 0) {
            return 0;
        }
        for (fate, count) in PacketFate::ALL.into_iter().zip(mem::take(&mut self.fates)) {
            if count > 0 {
                contributor.count(fate, count);
                received += count;
            }
        }
        contributor.count_bytes(received * packet_bytes);
        contributor.count_moved(mem::take(&mut self.moved));
        placed
    }
}
