//! Image ids that outgrow their field of the header.
//!
//! A field of `n` bits holds ids modulo 2^n: after its last id it goes on at 0. The ring has ids that go on.
//!
//! ```text
//! field      …, 65534, 65535,     0,     1, …     one lap of a field of 16 bits
//! ring       …, 65534, 65535, 65536, 65537, …
//! ```
//!
//! # Rules
//! L1  An id of the field stands for the nearest id to the window's begin that it can stand for, below or above it. There
//!     is no lap before the first.
//! L2  But it is of the next lap only as far ahead as a detector may have lost images at the wrap: [`NEAR_AHEAD_IDS`]
//!     beyond the window, or a sixteenth of the field, at most [`RUN_IDS`]. Else it is behind, in the lap of the window:
//!     the detector has begun again.
//! L3  Nor is one of the field's first [`FIRST_IDS`] of the next lap, if it is more than [`NEAR_AHEAD_IDS`] beyond the
//!     window: it is these that a detector sends which begins again.
//! L4  A new run begins with the field's own id: in the first lap.
//! L5  What a port brings after it has lagged behind by a quarter of the field could be of either lap, and is thrown away.
//! L6  A field that holds every id that a ring may have is taken as it is.
//!
//! Why from the window, and not from the id that came before? Several readout processes have one window, so they agree on
//! what an id stands for, without a word; one that starts in the middle of a run agrees as well.

use crate::runs::{NEAR_AHEAD_IDS, NEAR_IDS, RUN_IDS};
use ecs_shm_buffer::is_image_id;

/// Ids that a detector sends first when it begins again, some of which may be lost.
pub const FIRST_IDS: u64 = 32;
/// Of a field: images that may be lost at a wrap (L2), and behind which a port is out of step (L5).
const LOST_PART: u64 = 16;
const LAG_PART: u64 = 4;

/// The field of a detector's ids.
#[derive(Debug, Clone, Copy)]
pub struct Laps {
    /// Ids of the field; none where it does not wrap (L6).
    ids: Option<u64>,
    /// An id this far ahead of the window's begin is near it.
    near_ids: u64,
}

impl Laps {
    /// Of a field whose largest id is `id_max`, a power of two less one, beside a window of so many images.
    pub fn new(id_max: u64, window: u32) -> Self {
        let ids = is_image_id(id_max).then(|| id_max + 1);
        Self { ids, near_ids: u64::from(window) + NEAR_AHEAD_IDS }
    }

    /// The id in the field.
    pub fn in_field(&self, id: u64) -> u64 {
        self.ids.map_or(id, |ids| id % ids)
    }

    /// What an id of the field, or one that was extended before, stands for where the window begins at `begin` (L1 to L3).
    #[inline]
    pub fn extend(&self, id: u64, begin: u64) -> u64 {
        let Some(ids) = self.ids else { return id };
        let (id, lap) = (id & (ids - 1), begin & !(ids - 1));
        let ahead = self.ahead(begin, id);
        match (lap | id) < begin {
            true if self.may_wrap(id, ahead) => (lap | id) + ids,
            false if ahead > ids / 2 && lap > 0 => (lap | id) - ids,
            _ => lap | id,
        }
    }

    /// Whether a port may bring `id` of the field after `last` in one run, in whatever laps: it is not far behind it, nor far
    /// ahead, nor one of those that a detector begins with.
    pub fn goes_on(&self, last: u64, id: u64) -> bool {
        let Some(ids) = self.ids else {
            return id >= last.saturating_sub(NEAR_IDS) && id <= last.saturating_add(RUN_IDS);
        };
        let (last, id) = (self.in_field(last), self.in_field(id));
        let ahead = self.ahead(last, id);
        let is_just_behind = ids - ahead <= NEAR_IDS;
        let is_ahead = if id < last { self.may_wrap(id, ahead) } else { ahead <= RUN_IDS };
        is_just_behind || is_ahead
    }

    /// Whether a port that was seen at `seen`, while the window began there or later, is too far behind a window that begins
    /// at `begin` now (L5).
    pub fn is_out_of_step(&self, seen: u64, begin: u64) -> bool {
        self.ids.is_some_and(|ids| begin.saturating_sub(seen) >= ids / LAG_PART)
    }

    /// How far `id` is ahead of `from` on the way round the field.
    fn ahead(&self, from: u64, id: u64) -> u64 {
        self.ids.map_or(0, |ids| id.wrapping_sub(from) & (ids - 1))
    }

    /// Whether an id of the field, so far ahead, is of the next lap (L2, L3).
    fn may_wrap(&self, id: u64, ahead: u64) -> bool {
        let lost = self.ids.map_or(0, |ids| ids / LOST_PART).min(RUN_IDS);
        ahead < self.near_ids || (ahead <= lost && id >= FIRST_IDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u32 = 8;

    fn laps(bits: u32) -> Laps {
        Laps::new(u64::MAX >> (64 - bits), WINDOW)
    }

    #[test]
    fn ids_near_the_window_are_the_same_in_every_lap() {
        for bits in [8, 12, 16, 24, 32, 40] {
            let (laps, ids) = (laps(bits), 1_u64 << bits);
            for begin in [0, 5, ids - 9, ids - 1, ids, ids + 3, 7 * ids - 4, 7 * ids, 7 * ids + 40] {
                let near = u64::from(WINDOW) + NEAR_AHEAD_IDS - 1;
                for id in begin.saturating_sub(ids / 4)..(begin.saturating_sub(ids / 4) + 20).min(begin) {
                    assert_eq!(laps.extend(id % ids, begin), id, "{bits} bits, from {begin}");
                }
                for id in begin.saturating_sub(50)..=begin + near {
                    assert_eq!(laps.extend(id % ids, begin), id, "{bits} bits, from {begin}");
                    assert_eq!(laps.extend(id, begin), id, "an extended one stays");
                }
            }
        }
    }

    #[test]
    fn images_may_be_lost_at_a_wrap_and_a_detector_that_begins_again_is_behind() {
        let laps = laps(16);
        for (begin, id, expected) in [
            (65_000, 40, 65_576),              // 576 lost
            (61_500, 40, 65_576),              // 4076, a sixteenth
            (61_400, 40, 40),                  // more: begun again
            (65_000, 31, 31),                  // one of the first
            (65_000, 0, 0),                    // as well
            (65_500, 3, 65_539),               // but near: 40 lost less the window
            (3 * 65_536 + 200, 0, 3 * 65_536), // begun again after a short lap: behind, for the run that it asks for
            (65_536 + 100, 65_000, 65_000),    // late, of the lap before
            (100, 65_000, 65_000),             // ahead: there is no lap before
            (65_536 + 100, 20_000, 65_536 + 20_000),
            (65_536 + 30_000, 100, 65_536 + 100),
        ] {
            assert_eq!(laps.extend(id, begin), expected, "{id} where the window begins at {begin}");
        }
        assert_eq!(laps.in_field(3 * 65_536 + 7), 7);
    }

    #[test]
    fn what_a_port_brings_goes_on_or_has_begun_again() {
        for bits in [8, 16, 32, 64] {
            let laps = laps(bits);
            let end = u64::MAX >> (64 - bits);
            for (last, id, expected) in [
                (100, 101, true),
                (100, 98, true),
                (100, 97, false),
                (100, 130, true),
                (end / 2, 1, false),
                (end, 0, bits < 64),
                (0, end, bits < 64), // just behind
                (end - 2, 5, bits < 64),
            ] {
                assert_eq!(laps.goes_on(last, id), expected, "{bits} bits: {id} after {last}");
            }
        }
        let far = RUN_IDS + 1;
        assert!(laps(32).goes_on(5, 5 + RUN_IDS) && !laps(32).goes_on(5, 5 + far) && !laps(64).goes_on(5, 5 + far));
    }

    #[test]
    fn a_port_is_out_of_step_a_quarter_of_the_field_behind() {
        assert!(laps(8).is_out_of_step(300, 364) && !laps(8).is_out_of_step(300, 363));
        assert!(!laps(8).is_out_of_step(300, 4), "in a run before");
        assert!(!laps(64).is_out_of_step(0, u64::MAX), "it does not wrap");
    }

    #[test]
    fn a_field_for_every_id_is_taken_as_it_is() {
        let laps = laps(48);
        assert_eq!(laps.extend(u64::MAX, 3), u64::MAX);
        assert_eq!(laps.extend(0, 1 << 47), 0);
    }
}
