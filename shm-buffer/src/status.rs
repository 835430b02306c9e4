//! A look at a ring from outside: what `status` shows and what tests add up.

use crate::{
    control::Ring,
    layout::{ContributorCounters, Participant},
    loss::LossCause,
    participant::Role,
    process::ProcessId,
    sync::Relaxed,
};

/// Counters and levels of a ring, read while it runs: each is right, together they may be a moment apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingStatus {
    pub slots: u32,
    /// Slots that cannot be given to a new image now: open, in quarantine, or held by a reliable reader.
    pub slots_in_use: u32,
    pub slots_in_quarantine: u64,
    pub epoch: u64,
    /// Steps of the commit sequence so far.
    pub commits: u64,
    pub images_complete: u64,
    pub images_partial: u64,
    pub missing_packets: u64,
    /// Images lost, by cause, in the order of [`LossCause::ALL`].
    pub lost: [u64; LossCause::ALL.len()],
    /// Packets of all contributors, those that have left included.
    pub packets: PacketCounts,
    pub participants: Vec<ParticipantStatus>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PacketCounts {
    pub received: u64,
    pub placed: u64,
    pub duplicate: u64,
    pub late: u64,
    pub early: u64,
    pub no_slot: u64,
    pub foreign: u64,
    pub malformed: u64,
    pub shed: u64,
    pub moved: u64,
    pub kernel_dropped: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParticipantStatus {
    pub process: ProcessId,
    pub role: Role,
    pub name: String,
    /// A reader's commit steps still to read.
    pub behind: u64,
    pub overtaken: u64,
    pub packets: PacketCounts,
}

impl Ring {
    /// Reads everything that a person or a test may want to know.
    pub fn status(&self) -> RingStatus {
        let (header, counters) = (self.header(), &self.header().counters);
        let head = self.committed_steps();
        let participants = self.participant_statuses(head);
        let mut packets = PacketCounts::default();
        self.participants().iter().for_each(|place| packets.add(&PacketCounts::read(&place.counters)));
        let held = participants.iter().filter(|participant| participant.role == Role::ReliableReader);
        let held = held.map(|reader| reader.behind).max().unwrap_or(0);
        let open = if header.epoch.load(Relaxed) == 0 { 0 } else { u64::from(self.geometry().window) };
        let slots_in_quarantine = counters.slots_in_quarantine.load(Relaxed);
        RingStatus {
            slots: self.geometry().slots,
            slots_in_use: held
                .saturating_add(open)
                .saturating_add(slots_in_quarantine)
                .min(self.geometry().slots.into()) as u32,
            slots_in_quarantine,
            epoch: header.epoch.load(Relaxed),
            commits: head,
            images_complete: counters.complete.load(Relaxed),
            images_partial: counters.partial.load(Relaxed),
            missing_packets: counters.missing_packets.load(Relaxed),
            lost: LossCause::ALL.map(|cause| counters.lost[cause as usize].load(Relaxed)),
            packets,
            participants,
        }
    }

    fn participant_statuses(&self, head: u64) -> Vec<ParticipantStatus> {
        self.participants().iter().filter_map(|place| place.status(head)).collect()
    }
}

impl Participant {
    /// What is known of the holder; none if the place is free.
    pub(crate) fn status(&self, head: u64) -> Option<ParticipantStatus> {
        let (process, role) = self.who()?;
        let reads = matches!(role, Role::ReliableReader | Role::LossyReader);
        Some(ParticipantStatus {
            process,
            role,
            name: self.name(),
            behind: if reads { head.saturating_sub(self.cursor.load(Relaxed)) } else { 0 },
            overtaken: self.overtaken.load(Relaxed),
            packets: PacketCounts::of_holder(self),
        })
    }
}

impl PacketCounts {
    fn read(counters: &ContributorCounters) -> Self {
        Self::of(counters.all().map(|counter| counter.load(Relaxed)))
    }

    /// What the holder of a place has counted since it joined.
    fn of_holder(place: &Participant) -> Self {
        let mut counts = place.counters.all().map(|counter| counter.load(Relaxed));
        for (count, joined) in counts.iter_mut().zip(place.joined.all()) {
            *count = count.saturating_sub(joined.load(Relaxed));
        }
        Self::of(counts)
    }

    fn of(counts: [u64; 11]) -> Self {
        let [placed, duplicate, late, early, no_slot, foreign, malformed, shed, moved, kernel_dropped, bytes] = counts;
        Self {
            received: counts[..8].iter().fold(0, |sum, count| sum.saturating_add(*count)),
            placed,
            duplicate,
            late,
            early,
            no_slot,
            foreign,
            malformed,
            shed,
            moved,
            kernel_dropped,
            bytes,
        }
    }

    fn add(&mut self, other: &Self) {
        self.received = self.received.saturating_add(other.received);
        self.placed = self.placed.saturating_add(other.placed);
        self.duplicate = self.duplicate.saturating_add(other.duplicate);
        self.late = self.late.saturating_add(other.late);
        self.early = self.early.saturating_add(other.early);
        self.no_slot = self.no_slot.saturating_add(other.no_slot);
        self.foreign = self.foreign.saturating_add(other.foreign);
        self.malformed = self.malformed.saturating_add(other.malformed);
        self.shed = self.shed.saturating_add(other.shed);
        self.moved = self.moved.saturating_add(other.moved);
        self.kernel_dropped = self.kernel_dropped.saturating_add(other.kernel_dropped);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}
