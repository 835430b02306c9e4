//! What became of packets, by name: in telemetry, in a job's ledger, in a file. `spec/image.md` says what each means.

use serde::{Deserialize, Serialize};

/// Packets that the readouts of a beamline counted while something lasted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PacketLedger {
    /// All that sockets delivered: the sum of those below, but for the last.
    pub received: u64,
    pub placed: u64,
    pub duplicate: u64,
    pub late: u64,
    pub early: u64,
    pub no_slot: u64,
    pub foreign: u64,
    pub malformed: u64,
    pub shed: u64,
    pub unlisted: u64,
    /// Messages that the kernel threw away before: each of one packet, or, coalesced, of several. Not in `received`.
    pub dropped_by_kernel: u64,
}

impl PacketLedger {
    pub const NAMES: [&str; 11] = [
        "received",
        "placed",
        "duplicate",
        "late",
        "early",
        "no_slot",
        "foreign",
        "malformed",
        "shed",
        "unlisted",
        "dropped_by_kernel",
    ];

    /// In the order of [`PacketLedger::NAMES`].
    pub fn values(&self) -> [u64; Self::NAMES.len()] {
        [
            self.received,
            self.placed,
            self.duplicate,
            self.late,
            self.early,
            self.no_slot,
            self.foreign,
            self.malformed,
            self.shed,
            self.unlisted,
            self.dropped_by_kernel,
        ]
    }

    pub fn from_values(values: [u64; Self::NAMES.len()]) -> Self {
        let [received, placed, duplicate, late, early, no_slot, foreign, malformed, shed, unlisted, dropped_by_kernel] =
            values;
        Self {
            received,
            placed,
            duplicate,
            late,
            early,
            no_slot,
            foreign,
            malformed,
            shed,
            unlisted,
            dropped_by_kernel,
        }
    }

    /// What was counted since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let (now, before) = (self.values(), before.values());
        Self::from_values(std::array::from_fn(|index| now[index].saturating_sub(before[index])))
    }

    /// What was received is what became of it.
    pub fn is_balanced(&self) -> bool {
        let values = self.values();
        let fates = &values[1..values.len() - 1];
        fates.iter().fold(0_u64, |sum, count| sum.saturating_add(*count)) == self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_that_of_its_value_and_all_fates_are_in_the_sum() {
        let ledger = PacketLedger::from_values([45, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert!(ledger.is_balanced());
        for (index, (name, value)) in PacketLedger::NAMES.into_iter().zip(ledger.values()).enumerate() {
            let json = serde_json::to_value(ledger).unwrap();
            assert_eq!(json[name], value, "{name}");
            let mut values = ledger.values();
            values[index] += 1;
            let other = PacketLedger::from_values(values);
            assert_eq!(other.is_balanced(), name == "dropped_by_kernel", "{name}");
            assert_eq!(other.since(&ledger).values().iter().sum::<u64>(), 1);
        }
        assert_eq!(serde_json::from_str::<PacketLedger>("{}").unwrap(), PacketLedger::default());
    }
}
