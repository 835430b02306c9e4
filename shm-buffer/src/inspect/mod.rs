//! A look at a ring from outside: live, left over or damaged, without its owner's help, never changing it.
//!
//! The file is mapped read-only, its bytes may be anything. So every number is checked before it is used as
//! an index, sums saturate, and what is read is bounded by the geometry, which was checked against the size
//! of the file. While others write, a look is of no single moment: each word is right, together they may be
//! a moment apart. What the rules compare is therefore read in an order that keeps them true, and what rises
//! is read before and after the rest; where something is wrong, [`check`] looks again.

mod check;

pub use check::{Fault, LOOKS, check};

use crate::{
    control::Ring,
    geometry::Geometry,
    layout::{
        Accounted, CommitEntry, NO_SLOT, NO_SLOT_TOUCHED, PENDING, Participant, SlotControl, SlotState, run_word_id,
        split_slot_word, unpack_slot,
    },
    limits::HAZARD_SLOTS,
    loss::{LossCause, LostRange},
    mapping::{self, RingError},
    participant::Role,
    process::{Liveness, ProcessId},
    status::{ParticipantStatus, RingStatus},
    sync::{Acquire, AtomicU64, Relaxed, fence},
};
use std::path::Path;

/// Everything that a ring's control part says.
#[derive(Debug, Clone)]
pub struct Inspection {
    pub geometry: Geometry,
    pub file_bytes: u64,
    pub owner: Option<OwnerSeen>,
    /// The owner has ended on purpose.
    pub is_closed: bool,
    pub deadline_ns: u64,
    pub epoch: u64,
    pub base: RunWord,
    pub counts_from: RunWord,
    pub commit_head: u64,
    /// Steps below this may be gone.
    pub reclaimed_seq: u64,
    /// Counters and levels.
    pub status: RingStatus,
    pub seats: Vec<Seat>,
    /// The entries that are not empty.
    pub window: Vec<WindowSeen>,
    pub slots: Vec<SlotSeen>,
    /// The entries of the steps from `reclaimed_seq` on, as many as there is room for.
    pub commits: Vec<CommitSeen>,
    later: Later,
}

/// What may have moved on while the rest was read: read once more at the end.
#[derive(Debug, Clone)]
struct Later {
    base: RunWord,
    commit_head: u64,
    reclaimed_seq: u64,
    window: Vec<WindowSeen>,
}

/// Who owned the ring last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerSeen {
    pub process: ProcessId,
    pub is_alive: bool,
    /// How often the ring has changed hands.
    pub owners: u32,
}

/// An image id in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunWord {
    /// The lower 16 bits of it.
    pub epoch: u64,
    pub id: Option<u64>,
}

/// A place that is taken.
#[derive(Debug, Clone)]
pub struct Seat {
    pub place: usize,
    pub is_alive: bool,
    pub status: ParticipantStatus,
    /// Slots that a contributor is inside of, as its hazard word says.
    pub inside: Vec<u32>,
    /// Next sequence that a reader wants.
    pub cursor: u64,
    pub progress: RunWord,
    pub last_placed_ns: u64,
    /// The step that a reader wants next, if it is committed and the reader has not moved on meanwhile.
    wants: Option<(CommitSeen, bool)>,
}

/// An image of the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSeen {
    pub index: usize,
    pub id: u64,
    pub slot: SlotOfImage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotOfImage {
    Slot(u32),
    /// None was free.
    NoSlot,
    /// None was free, and a packet of it was thrown away.
    Refused,
}

/// A slot, and what is known of the image in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotSeen {
    pub slot: u32,
    pub state: StateSeen,
    /// Commit sequence, or how many openings there were before.
    pub tag: u64,
    pub image_id: u64,
    pub epoch: u64,
    pub packets_received: u32,
    /// Bits of packets that are set, and bits that belong to none.
    pub packets_marked: u32,
    pub stray_bits: u32,
    pub first_packet_ns: u64,
    /// It was in this state before and after the rest was read.
    is_steady: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateSeen {
    Free,
    Open,
    Closing,
    Committed,
    /// Bits that no owner writes.
    Unknown,
}

/// One step of the commit sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitSeen {
    pub seq: u64,
    /// The sequence that the entry names, if any: another one is being written, or wrong.
    pub found: Option<u64>,
    /// The slot of its image; none in a step that tells of losses alone.
    pub slot: Option<u32>,
    pub epoch: u64,
    pub accounted_id: u64,
    /// When it was committed, if it has an image.
    pub commit_utc_ns: u64,
    pub lost: Vec<LostRange>,
}

/// Looks at a ring.
///
/// # Errors
/// It is missing, or not a ring of this version, or cut.
pub fn look(path: &Path, liveness: &dyn Liveness) -> Result<Inspection, RingError> {
    let ring = mapping::open_to_look(path)?;
    Ok(look_at(&ring, liveness))
}

fn look_at(ring: &Ring, liveness: &dyn Liveness) -> Inspection {
    let header = ring.header();
    let commit_head = ring.committed_steps();
    fence(Acquire); // as in `acquired`
    let reclaimed_seq = acquired(&header.reclaimed_seq);
    let process = ProcessId { pid: header.owner_pid.load(Relaxed), start_time: header.owner_start_time.load(Relaxed) };
    let owners = header.owners.load(Relaxed);
    let is_alive = liveness.is_alive(process);
    let steps = commit_head.saturating_sub(reclaimed_seq).min(ring.geometry().commits() as u64);
    let (epoch, base, window) = (acquired(&header.epoch), run_word(acquired(&header.base)), window(ring));
    Inspection {
        geometry: *ring.geometry(),
        file_bytes: ring.geometry().file_bytes(),
        owner: (process.pid != 0).then_some(OwnerSeen { process, is_alive, owners }),
        is_closed: ring.is_closed(),
        deadline_ns: header.deadline_ns.load(Relaxed),
        epoch,
        base,
        counts_from: run_word(header.counts_from.load(Relaxed)),
        commit_head,
        reclaimed_seq,
        status: ring.status(),
        seats: ring.participants().iter().enumerate().filter_map(|at| seat(ring, at, commit_head, liveness)).collect(),
        window,
        slots: (0..ring.geometry().slots as u16).map(|slot| slot_seen(ring, slot)).collect(),
        commits: (0..steps).map(|step| commit_seen(ring, commit_head - steps + step)).collect(),
        later: later(ring),
    }
}

/// As a load with Acquire, which the language does not have for pages that can only be read: the processor may not write there.
fn acquired(word: &AtomicU64) -> u64 {
    let value = word.load(Relaxed);
    fence(Acquire);
    value
}

fn later(ring: &Ring) -> Later {
    fence(Acquire); // the loads before come before these
    let header = ring.header();
    Later {
        window: window(ring),
        base: run_word(header.base.load(Relaxed)),
        commit_head: ring.committed_steps(),
        reclaimed_seq: header.reclaimed_seq.load(Relaxed),
    }
}

fn window(ring: &Ring) -> Vec<WindowSeen> {
    let entries = ring.header().window_table.iter().take(ring.geometry().window as usize).enumerate();
    entries.filter_map(|(index, entry)| window_entry(index, acquired(entry))).collect()
}

fn run_word(word: u64) -> RunWord {
    let id = word & ((1 << 48) - 1);
    RunWord { epoch: word >> 48, id: (id != 0).then(|| run_word_id(word)) }
}

fn seat(ring: &Ring, (place, participant): (usize, &Participant), head: u64, liveness: &dyn Liveness) -> Option<Seat> {
    let status = participant.status(head)?;
    let hazard = participant.hazard.load(Relaxed);
    let inside = (0..HAZARD_SLOTS).map(|index| (hazard >> (16 * index)) as u16).filter(|&slot| slot != 0);
    let is_contributor = status.role == Role::Contributor;
    Some(Seat {
        place,
        is_alive: liveness.is_alive(status.process),
        inside: inside.filter(|_| is_contributor).map(|slot| u32::from(slot) - 1).collect(),
        cursor: participant.cursor.load(Relaxed),
        wants: wanted(ring, participant, head),
        progress: run_word(participant.progress.load(Relaxed)),
        last_placed_ns: participant.last_placed_ns.load(Relaxed),
        status,
    })
}

/// The step that a reader wants, and whether it is there.
fn wanted(ring: &Ring, participant: &Participant, head: u64) -> Option<(CommitSeen, bool)> {
    let cursor = acquired(&participant.cursor);
    if cursor >= head {
        return None;
    }
    let step = commit_seen(ring, cursor);
    let holds = |slot: u32| slot < ring.geometry().slots && slot_seen(ring, slot as u16).holds(cursor);
    let is_there = step.found == Some(cursor) && step.slot.is_none_or(holds);
    fence(Acquire);
    (participant.cursor.load(Relaxed) == cursor).then_some((step, is_there))
}

fn window_entry(index: usize, word: u64) -> Option<WindowSeen> {
    let (id, slot) = unpack_slot(word)?;
    let slot = match slot {
        NO_SLOT => SlotOfImage::NoSlot,
        NO_SLOT_TOUCHED => SlotOfImage::Refused,
        slot => SlotOfImage::Slot(slot.into()),
    };
    Some(WindowSeen { index, id, slot })
}

fn slot_seen(ring: &Ring, slot: u16) -> SlotSeen {
    let control: &SlotControl = ring.slot(slot);
    let word = acquired(&control.word);
    let (tag, state) = match split_slot_word(word) {
        Some((tag, SlotState::Free)) => (tag, StateSeen::Free),
        Some((tag, SlotState::Open)) => (tag, StateSeen::Open),
        Some((tag, SlotState::Closing)) => (tag, StateSeen::Closing),
        Some((tag, SlotState::Committed)) => (tag, StateSeen::Committed),
        None => (word >> 3, StateSeen::Unknown),
    };
    let bits: u32 = ring.bitmap(slot).iter().map(|word| word.load(Relaxed).count_ones()).sum();
    let stray_bits = stray_bits(ring, slot);
    let mut seen = SlotSeen {
        is_steady: false,
        slot: slot.into(),
        state,
        tag,
        image_id: control.image_id.load(Relaxed),
        epoch: control.epoch.load(Relaxed),
        packets_received: control.packets_received.load(Relaxed),
        packets_marked: bits.saturating_sub(stray_bits),
        stray_bits,
        first_packet_ns: control.first_packet_ns.load(Relaxed),
    };
    fence(Acquire);
    seen.is_steady = control.word.load(Relaxed) == word;
    seen
}

impl SlotSeen {
    fn holds(&self, seq: u64) -> bool {
        self.state == StateSeen::Committed && self.tag == seq
    }
}

/// Bits of the last word behind the last packet.
fn stray_bits(ring: &Ring, slot: u16) -> u32 {
    let used = ring.geometry().packets_per_image % 64;
    let last = ring.bitmap(slot).last().map_or(0, |word| word.load(Relaxed));
    if used == 0 { 0 } else { (last >> used).count_ones() }
}

fn commit_seen(ring: &Ring, seq: u64) -> CommitSeen {
    let entry: &CommitEntry = ring.commit(seq);
    let word = unpack_slot(entry.word.load(Relaxed)).filter(|&(_, slot)| slot != PENDING);
    let accounted = Accounted::unpack(entry.accounted.load(Relaxed));
    let range = |lost: &crate::layout::LostEntry| {
        let packed = lost.count_cause.load(Relaxed);
        let cause = LossCause::from_code(packed & 0xff)?;
        Some(LostRange { first_id: lost.first_id.load(Relaxed), count: packed >> 8, cause })
    };
    CommitSeen {
        seq,
        found: word.map(|(found, _)| found),
        slot: word.map(|(_, slot)| slot).filter(|&slot| slot != NO_SLOT).map(u32::from),
        epoch: entry.epoch.load(Relaxed),
        accounted_id: accounted.end_id,
        commit_utc_ns: entry.commit_utc_ns.load(Relaxed),
        lost: entry.lost[..accounted.lost_ranges].iter().map_while(range).collect(),
    }
}
