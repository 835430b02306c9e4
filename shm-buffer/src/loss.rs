//! Images that are not there: which ids, and why.

use crate::limits::LOST_RANGES;

/// Why an image was not committed. The numbers are part of the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LossCause {
    /// No packet of it came, though later images did.
    NotReceived = 1,
    /// No free slot: reliable readers held them all.
    RingFull = 2,
    /// A contributor hung with the slot in its hazard word.
    ReadoutStuck = 3,
    /// It was open, or due, when the owner died.
    OwnerDown = 4,
    /// More causes in one gap than a commit entry can name.
    Several = 5,
}

impl LossCause {
    pub const ALL: [Self; 5] = [Self::NotReceived, Self::RingFull, Self::ReadoutStuck, Self::OwnerDown, Self::Several];

    pub(crate) fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| *cause as u64 == code)
    }
}

/// Consecutive image ids that were lost for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostRange {
    pub first_id: u64,
    pub count: u64,
    pub cause: LossCause,
}

impl LostRange {
    fn end(&self) -> u64 {
        self.first_id + self.count
    }
}

/// Lost ids that readers have not been told of yet, in rising order, at most [`LOST_RANGES`] ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LostRanges(Vec<LostRange>);

impl LostRanges {
    /// Adds a range behind the last one. It joins its neighbour where the cause is the same; where
    /// there is no room, the last two become one of cause `Several`.
    pub fn push(&mut self, range: LostRange) {
        if range.count == 0 {
            return;
        }
        let is_full = self.0.len() == LOST_RANGES;
        if let Some(last) = self.0.last_mut() {
            let adjacent = last.end() == range.first_id;
            if adjacent && last.cause == range.cause {
                last.count += range.count;
                return;
            }
            if is_full {
                last.count += range.count;
                last.cause = LossCause::Several;
                return;
            }
        }
        self.0.push(range);
    }

    pub fn as_slice(&self) -> &[LostRange] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_cause_join_and_an_overflow_keeps_the_count() {
        let mut ranges = LostRanges::default();
        let range = |first_id, count, cause| LostRange { first_id, count, cause };
        ranges.push(range(1, 2, LossCause::RingFull));
        ranges.push(range(3, 1, LossCause::RingFull));
        assert_eq!(ranges.as_slice(), [range(1, 3, LossCause::RingFull)]);
        for id in 4..40 {
            let cause = if id % 2 == 0 { LossCause::NotReceived } else { LossCause::RingFull };
            ranges.push(range(id, 1, cause));
        }
        assert_eq!(ranges.as_slice().len(), LOST_RANGES);
        assert_eq!(ranges.as_slice().iter().map(|range| range.count).sum::<u64>(), 39);
        assert_eq!(ranges.as_slice()[LOST_RANGES - 1].cause, LossCause::Several);
    }
}
