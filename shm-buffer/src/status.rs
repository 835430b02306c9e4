//! A look at a ring from outside: what `status` shows and what tests add up.
//!
//! # Sums
//! | | holds | of |
//! |---|---|---|
//! | S1 | always, as it is how `received` is made | packets: received = placed + duplicate + late + early + no_slot + foreign + malformed + shed + unlisted |
//! | S2 | at rest | slots: opened = complete + partial + discarded + open |
//! | S3 | at rest | each reader: steps since it joined = delivered + overtaken + behind |
//! | S4 | always | each reliable reader: refused <= lost for want of a slot |
//! | S5 | always | missing packets <= partial images x packets of an image |
//! | S6 | at rest, while nobody died or hung with packets in hand | packets: placed = complete and partial images x packets of an image - missing + those of open images |
//!
//! At rest: no packet comes, and no reader is between two steps. Images and losses add up with what readers are told;
//! that is rule O2 of the owner, not a sum of counters.

use crate::{
    control::Ring,
    layout::{ContributorCounters, PENDING, Participant, unpack_slot},
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
    pub packets_per_image: u32,
    /// Slots that were given to an image, those of them that became none, and those that are open now.
    pub images_opened: u64,
    pub images_discarded: u64,
    pub images_open: u64,
    /// Packets that are in their places in open images.
    pub open_packets: u64,
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
    pub unlisted: u64,
    pub moved: u64,
    pub kernel_dropped: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParticipantStatus {
    pub process: ProcessId,
    pub role: Role,
    pub name: String,
    /// A reader's commit steps: still to read; missed; read and let go of; and where it began.
    pub behind: u64,
    pub overtaken: u64,
    pub delivered: u64,
    pub first_seq: u64,
    /// Images that were lost for want of a slot while this reliable reader held the oldest.
    pub refused: u64,
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
        let (images_open, open_packets) = self.open_images();
        let (images_complete, images_partial) = (counters.complete.load(Relaxed), counters.partial.load(Relaxed));
        let images_discarded = counters.discarded.load(Relaxed);
        RingStatus {
            slots: self.geometry().slots,
            slots_in_use: held
                .saturating_add(open)
                .saturating_add(slots_in_quarantine)
                .min(self.geometry().slots.into()) as u32,
            slots_in_quarantine,
            epoch: header.epoch.load(Relaxed),
            commits: head,
            images_complete,
            images_partial,
            missing_packets: counters.missing_packets.load(Relaxed),
            packets_per_image: self.geometry().packets_per_image,
            images_opened: counters.opened.load(Relaxed), // after those that it is not less than
            images_discarded,
            images_open,
            open_packets,
            lost: LossCause::ALL.map(|cause| counters.lost[cause as usize].load(Relaxed)),
            packets,
            participants,
        }
    }

    /// Images that are in a slot of the window, and the packets in them.
    fn open_images(&self) -> (u64, u64) {
        let window = self.header().window_table.iter().take(self.geometry().window as usize);
        let slots = window.filter_map(|entry| unpack_slot(entry.load(Relaxed))).map(|(_, slot)| slot);
        let open = slots.filter(|&slot| slot < PENDING && u32::from(slot) < self.geometry().slots);
        open.fold((0, 0), |(images, packets), slot| {
            (images + 1, packets + u64::from(self.slot(slot).packets_received.load(Relaxed)))
        })
    }

    fn participant_statuses(&self, head: u64) -> Vec<ParticipantStatus> {
        self.participants().iter().filter_map(|place| place.status(head)).collect()
    }
}

impl RingStatus {
    /// What does not add up, in a ring at rest: S2 to S5.
    pub fn imbalances(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut note = |holds: bool, text: &dyn Fn() -> String| found.extend((!holds).then(text));
        let (complete, partial) = (self.images_complete, self.images_partial);
        let closed = complete.saturating_add(partial).saturating_add(self.images_discarded);
        note(self.images_opened == closed.saturating_add(self.images_open), &|| {
            let (opened, discarded, open) = (self.images_opened, self.images_discarded, self.images_open);
            format!("S2: {opened} opened, {complete} complete, {partial} partial, {discarded} discarded, {open} open")
        });
        for reader in self.participants.iter().filter(|other| other.role.reads()) {
            let told = reader.delivered.saturating_add(reader.overtaken).saturating_add(reader.behind);
            note(self.commits.saturating_sub(reader.first_seq) == told, &|| {
                format!("S3: {} steps, {reader:?}", self.commits)
            });
            let ring_full = self.lost[LossCause::RingFull as usize - 1];
            note(reader.refused <= ring_full, &|| format!("S4: {ring_full} images lost, {reader:?}"));
        }
        let most = partial.saturating_mul(self.packets_per_image.into());
        note(self.missing_packets <= most, &|| format!("S5: {} missing in {partial} images", self.missing_packets));
        found
    }

    /// Packets that were placed, less those that images have: 0 at rest, while nobody died or hung (S6).
    pub fn packets_astray(&self) -> i128 {
        let images = i128::from(self.images_complete) + i128::from(self.images_partial);
        let in_images = images * i128::from(self.packets_per_image) - i128::from(self.missing_packets);
        i128::from(self.packets.placed) - in_images - i128::from(self.open_packets)
    }
}

impl Participant {
    /// What is known of the holder; none if the place is free.
    pub(crate) fn status(&self, head: u64) -> Option<ParticipantStatus> {
        let (process, role) = self.who()?;
        Some(ParticipantStatus {
            process,
            role,
            name: self.name(),
            behind: if role.reads() { head.saturating_sub(self.cursor.load(Relaxed)) } else { 0 },
            overtaken: self.overtaken.load(Relaxed),
            delivered: self.delivered.load(Relaxed),
            first_seq: self.first_seq.load(Relaxed),
            refused: self.refused.load(Relaxed),
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

    fn of(counts: [u64; 12]) -> Self {
        let [placed, duplicate, late, early, no_slot, foreign, malformed, shed, unlisted, moved, kernel_dropped, bytes] =
            counts;
        Self {
            received: counts[..9].iter().fold(0, |sum, count| sum.saturating_add(*count)),
            placed,
            duplicate,
            late,
            early,
            no_slot,
            foreign,
            malformed,
            shed,
            unlisted,
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
        self.unlisted = self.unlisted.saturating_add(other.unlisted);
        self.moved = self.moved.saturating_add(other.moved);
        self.kernel_dropped = self.kernel_dropped.saturating_add(other.kernel_dropped);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}
