//! Which packets are lost, doubled or late: a pure function of seed, detector, image and packet.
//!
//! ```text
//! key   = mix(mix(mix(seed) ^ image_id) ^ packet_index)
//! draw  = mix(key + which * GAMMA) / 2^64         which: 1 drop, 2 duplicate, 3 reorder, 4 how late, 5 burst
//! mix   = the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014)
//! ```
//!
//! # Rules
//! F1  No draw depends on another packet, on time or on the machine: a checker that knows the options
//!     knows what was lost, and a higher probability loses the same packets and more.
//! F2  A packet that is dropped is neither doubled nor late.
//! F3  A burst begins at a packet and takes those that follow it in its module's part of the image, as many as a
//!     burst is long; it does not reach into another module or image. A dead port loses every packet: where a detector
//!     has several sets of ports, those of the images that go to it.

use crate::error::{SimError, check_probability};
use ecs_schemas::detector::Placement;

/// A late packet is sent at most this many turns of its port after its own: about what a switch with
/// several paths does, and enough to cross into the next image.
pub const LATENESS_TURNS_MAX: u64 = 32;

/// Step between the draws of one packet, the increment of SplitMix64.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A burst of losses where nothing else is said: half of what a switch's small buffer holds.
pub const BURST_PACKETS_DEFAULT: usize = 16;

/// How lossy the simulated network is. Probabilities per packet, 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    pub seed: u64,
    pub drop: f64,
    pub reorder: f64,
    pub duplicate: f64,
    /// Probability per packet that a burst of losses begins, and its packets.
    pub burst: f64,
    pub burst_packets: usize,
    /// UDP ports that send nothing.
    pub dead_ports: Vec<u16>,
}

/// The faults of one detector: who knows them knows what must arrive.
#[derive(Debug, Clone, PartialEq)]
pub struct Fates {
    faults: Faults,
    modules: usize,
    packets_per_module: usize,
    /// For each port of the detector.
    is_dead: Vec<bool>,
}

/// What happens to one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Dropped,
    /// Sent `copies` times (1 or 2), `turns_late` turns of its port after its own.
    Sent {
        copies: u8,
        turns_late: u64,
    },
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            seed: 0,
            drop: 0.0,
            reorder: 0.0,
            duplicate: 0.0,
            burst: 0.0,
            burst_packets: BURST_PACKETS_DEFAULT,
            dead_ports: Vec::new(),
        }
    }
}

impl Faults {
    /// What they do to the packets of a detector.
    pub fn of(&self, placement: &Placement) -> Fates {
        Fates {
            faults: self.clone(),
            modules: placement.modules,
            packets_per_module: placement.packets_per_module,
            is_dead: placement.ports.iter().map(|port| self.dead_ports.contains(port)).collect(),
        }
    }

    pub(crate) fn check(&self, placement: &Placement) -> Result<(), SimError> {
        check_probability("drop", self.drop)?;
        check_probability("reorder", self.reorder)?;
        check_probability("duplicate", self.duplicate)?;
        check_probability("burst", self.burst)?;
        if self.burst_packets == 0 {
            return Err(SimError::option("burst_packets", 0, "1 or more"));
        }
        match self.dead_ports.iter().find(|port| !placement.ports.contains(port)) {
            Some(port) => Err(SimError::option("dead_ports", port, "ports of the detector")),
            None => Ok(()),
        }
    }
}

impl Fates {
    /// What happens to packet `packet_index` of image `image_id`.
    pub fn fate(&self, image_id: u64, packet_index: usize) -> Fate {
        let (draw, faults) = (|which: u64| self.draw(image_id, packet_index, which), &self.faults);
        let is_dead = self.is_dead(image_id, packet_index);
        if is_dead || is_hit(draw(1), faults.drop) || self.is_in_burst(image_id, packet_index) {
            return Fate::Dropped;
        }
        let copies = 1 + u8::from(is_hit(draw(2), faults.duplicate));
        let turns_late = if is_hit(draw(3), faults.reorder) { 1 + draw(4) % LATENESS_TURNS_MAX } else { 0 };
        Fate::Sent { copies, turns_late }
    }

    fn draw(&self, image_id: u64, packet_index: usize, which: u64) -> u64 {
        let key = mix(mix(mix(self.faults.seed) ^ image_id) ^ packet_index as u64);
        mix(key.wrapping_add(which.wrapping_mul(GAMMA)))
    }

    /// Whether a burst began at this packet, or at one shortly before it (F3).
    fn is_in_burst(&self, image_id: u64, packet_index: usize) -> bool {
        let Faults { burst, burst_packets, .. } = self.faults;
        if burst == 0.0 {
            return false;
        }
        let number = packet_index % self.packets_per_module;
        let before = number.min(burst_packets.saturating_sub(1));
        (packet_index - before..=packet_index).any(|begin| is_hit(self.draw(image_id, begin, 5), burst))
    }

    fn is_dead(&self, image_id: u64, packet_index: usize) -> bool {
        let port = port_index(image_id, packet_index / self.packets_per_module, self.modules, self.is_dead.len());
        self.is_dead.get(port).is_some_and(|&is_dead| is_dead)
    }

    /// The packet indices of an image that are never sent, rising. An index is
    /// `module index * packets_per_module + packet number`, as in the detector's placement.
    pub fn dropped_packets(&self, image_id: u64) -> Vec<usize> {
        (0..self.modules * self.packets_per_module)
            .filter(|&packet| self.fate(image_id, packet) == Fate::Dropped)
            .collect()
    }
}

/// The port that a module's packets of an image go to: where there are several sets of ports, images go to them in turn.
pub(crate) fn port_index(image_id: u64, module: usize, modules: usize, ports: usize) -> usize {
    let sets = (ports / modules).max(1);
    (image_id % sets as u64) as usize * modules + module
}

/// Compares the upper 53 bits, which f64 holds exactly, so that 0 never hits and 1 always does.
fn is_hit(draw: u64, probability: f64) -> bool {
    ((draw >> 11) as f64) < probability * (1_u64 << 53) as f64
}

/// Puts `items` in an order drawn from `seed` (Fisher-Yates, from the end).
pub(crate) fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = mix(seed);
    for last in (1..items.len()).rev() {
        state = state.wrapping_add(GAMMA);
        items.swap(last, (mix(state) % (last as u64 + 1)) as usize);
    }
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of `value`.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(GAMMA);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 512 packets an image, 8 modules.
    fn lossy() -> Fates {
        let faults = Faults { seed: 3, drop: 0.01, reorder: 0.02, duplicate: 0.05, ..Faults::default() };
        Fates { faults, modules: 8, packets_per_module: 64, is_dead: vec![false; 8] }
    }

    #[test]
    fn mix_equals_the_first_outputs_of_splitmix64() {
        // Reference outputs for the seed 1234567, from the generator's published C code.
        assert_eq!(mix(1_234_567), 6_457_827_717_110_365_317);
        assert_eq!(mix(1_234_567_u64.wrapping_add(GAMMA)), 3_203_168_211_198_807_973);
    }

    #[test]
    fn faults_are_as_frequent_as_asked() {
        let lossy = &lossy();
        let fates: Vec<Fate> = (0..1000).flat_map(|id| (0..512).map(move |packet| lossy.fate(id, packet))).collect();
        let share = |hit: &dyn Fn(&Fate) -> bool| fates.iter().filter(|fate| hit(fate)).count() as f64 / 512_000.0;
        assert!((share(&|fate| *fate == Fate::Dropped) - 0.01).abs() < 0.001);
        assert!((share(&|fate| matches!(fate, Fate::Sent { copies: 2, .. })) - 0.0495).abs() < 0.002);
        assert!((share(&|fate| matches!(fate, Fate::Sent { turns_late: 1.., .. })) - 0.0198).abs() < 0.001);
        let late_max = fates.iter().map(|fate| if let Fate::Sent { turns_late, .. } = fate { *turns_late } else { 0 });
        assert_eq!(late_max.max(), Some(LATENESS_TURNS_MAX));
    }

    #[test]
    fn probabilities_0_and_1_are_never_and_always_and_a_lossier_network_loses_the_same_and_more() {
        let with_drop = |drop| Fates { faults: Faults { drop, ..lossy().faults }, ..lossy() };
        assert!(with_drop(0.0).dropped_packets(5).is_empty());
        assert_eq!(with_drop(1.0).dropped_packets(5).len(), 512);
        let few = with_drop(0.05).dropped_packets(5);
        let many = with_drop(0.2).dropped_packets(5);
        assert!(!few.is_empty() && few.len() < many.len() && few.iter().all(|packet| many.contains(packet)));
    }

    #[test]
    fn bursts_take_packets_in_a_row_within_a_module_and_dead_ports_all() {
        let faults = Faults { burst: 0.01, burst_packets: 8, drop: 0.0, ..lossy().faults };
        let bursts = Fates { faults, modules: 4, packets_per_module: 64, is_dead: vec![false; 4] };
        let mut begins = 0;
        for id in 0..200 {
            let dropped = bursts.dropped_packets(id);
            for &packet in &dropped {
                if packet % 64 == 0 || !dropped.contains(&(packet - 1)) {
                    begins += 1;
                    let end = (packet + 8).min(packet / 64 * 64 + 64);
                    assert!((packet..end).all(|packet| dropped.contains(&packet)), "image {id}: {dropped:?}");
                }
            }
        }
        assert!((300..600).contains(&begins), "{begins} bursts in 51,200 packets, some of which overlap");
        let dead = Fates { is_dead: vec![false, false, true, false], faults: Faults::default(), ..bursts };
        assert_eq!(dead.dropped_packets(7), (128..192).collect::<Vec<_>>());
        let two_sets = Fates { is_dead: (0..8).map(|port| port == 6).collect(), ..dead };
        assert_eq!(two_sets.dropped_packets(7), (128..192).collect::<Vec<_>>());
        assert_eq!(two_sets.dropped_packets(8), [0; 0], "it goes to the other set of ports");
    }

    #[test]
    fn shuffle_keeps_every_item_and_depends_on_the_seed() {
        let shuffled = |seed| {
            let mut items: Vec<u32> = (0..100).collect();
            shuffle(&mut items, seed);
            items
        };
        let mut sorted = shuffled(1);
        assert_ne!(sorted, shuffled(2));
        assert_eq!(sorted, shuffled(1));
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..100));
    }
}
