//! The ring's file, byte for byte.
//!
//! ```text
//!  0 ┌───────────────────────────────┐
//!    │ Header                        │ identity, geometry, owner, run, event words, counters, window table
//!    ├───────────────────────────────┤
//!    │ Participant   x PARTICIPANTS  │ who it is; hazard or cursor; counters
//!    ├───────────────────────────────┤
//!    │ SlotControl   x slots         │ state and tag, image id, what contributors tell of it
//!    ├───────────────────────────────┤
//!    │ CommitEntry   x 2^k           │ commit sequence -> slot, all that a reader of a whole image needs; ids lost
//!    ├───────────────────────────────┤
//!    │ packet bitmap x slots         │ bit p: packet p is in its place
//!    ├───────────────────────────────┤ multiple of 2 MiB
//!    │ pixels        x slots         │ each at a multiple of 4096
//!    └───────────────────────────────┘
//! ```
//!
//! Everything before the pixels is made of atomics, little-endian, and mapped read-write by everybody:
//! plain access from two processes at once would be undefined behaviour. The offsets are fixed by the
//! asserts at the end and by `tests/layout.rs`; a change of any is a new [`VERSION`]. `LAYOUT.md` tells it to readers
//! in other languages.
//!
//! # Cache lines
//! A line that two cores use goes from one to the other with each change, which is most of what a hand-off takes.
//! So what one writes often lies apart, by two lines, from what others look at often: processors fetch neighbours in
//! pairs. A reader that spins looks at one line alone, its next commit entry's first; the owner writes that line once.
//!
//! Words that hold two numbers:
//!
//! | word | upper bits | lower bits |
//! |---|---|---|
//! | slot word | tag (61): open counter, or commit sequence | state (3) |
//! | window entry | image id + 1 (48), 0 = empty | slot (16) |
//! | commit word | commit sequence + 1 (48), 0 = never used | slot (16) |
//! | commit, `accounted` | image ids of the run below this are told of (48) | flags (8), ranges of lost ids (8) |
//! | run word (`base`, `counts_from`, `progress`, `restart`) | epoch (16) | image id + 1 (48), 0 = none |
//! | identity | pid (32), generation (24) | role (8), 0 = free |
//! | start time | clock ticks after boot (40) | generation (24) |
//! | hazard word | four slots + 1 of 16 bits, 0 = none | |

use crate::{
    limits::{LOST_RANGES, WINDOW_MAX},
    sync::{AtomicU32, AtomicU64},
};

/// First eight bytes of the file, as text: `ECS_RING`.
pub const MAGIC: u64 = u64::from_le_bytes(*b"ECS_RING");
/// Layout and protocol. A participant with another one is refused.
pub const VERSION: u32 = 5;
pub(crate) const CONTROL_ALIGN: usize = 128;

/// Where slots, runs and events of the whole ring are told. One writer, the owner, except where said.
#[repr(C, align(128))]
pub(crate) struct Header {
    pub magic: AtomicU64,
    pub version: AtomicU32,
    pub slots: AtomicU32,
    pub window: AtomicU32,
    pub height: AtomicU32,
    pub width: AtomicU32,
    pub pixel_bytes: AtomicU32,
    pub packets_per_image: AtomicU32,
    pub fill: AtomicU32,
    /// An image may be open for this long after its first packet.
    pub deadline_ns: AtomicU64,
    pub owner_pid: AtomicU32,
    /// How often the ring has changed hands.
    pub owners: AtomicU32,
    pub owner_start_time: AtomicU64,
    /// When the ring was made, mixed with by whom: no two rings have the same.
    pub created_ns: AtomicU64,
    /// Where each packet lands, as a number: participants that place packets elsewhere are refused.
    pub placement_hash: AtomicU64,
    /// Places of participants from this one on were never taken. Rule P4.
    pub places: AtomicU64,
    /// Set by the owner while it has too few slots: a reader that gives one back wakes it.
    pub slots_wanted: AtomicU32,
    /// Set once, when the owner ends on purpose: participants let go.
    pub closed: AtomicU32,
    _pad0: [u64; 4],

    /// Rises with every run. 0: nothing was received yet.
    pub epoch: AtomicU64,
    /// Run word: lowest id that is open in this run. Ids below it are committed or counted lost.
    pub base: AtomicU64,
    /// Slots of sequences below this may be in use again.
    pub reclaimed_seq: AtomicU64,
    /// Run word: the first id of this run that counts: committed, or lost though later ones were not.
    pub counts_from: AtomicU64,
    /// When the last packet before this run was placed, by the monotonic clock.
    pub run_after_ns: AtomicU64,
    _pad1: [u64; 11],

    /// Next sequence to be committed; one behind it for the moment between a commit and the next store. Rule R6.
    pub commit_head: AtomicU64,
    _pad2: [u64; 15],

    /// Futex: changes with every commit. `commit_waiters` is set by whoever sleeps on it.
    pub commit_event: AtomicU32,
    pub commit_waiters: AtomicU32,
    _pad_event: [u64; 15],

    /// Futex: contributors and readers change it to wake the owner. `owner_waiting` is set while it sleeps.
    pub owner_event: AtomicU32,
    pub owner_waiting: AtomicU32,
    /// Futex: changes when the window moves. `window_waiters` is set by contributors that sleep on it.
    pub window_event: AtomicU32,
    pub window_waiters: AtomicU32,
    _pad3: [u64; 14],

    pub counters: OwnerCounters,
    /// What is being counted now, for who takes over from an owner that dies in it: owner/count.rs.
    pub journal: Journal,

    /// Window entry of image id `i`: `window_table[i % window]`.
    pub window_table: [AtomicU64; WINDOW_MAX as usize],
}

/// What became of images. Written by the owner.
#[repr(C, align(128))]
pub(crate) struct OwnerCounters {
    pub complete: AtomicU64,
    pub partial: AtomicU64,
    pub missing_packets: AtomicU64,
    pub slots_in_quarantine: AtomicU64,
    /// By [`crate::LossCause`], at its number.
    pub lost: [AtomicU64; 8],
    /// Slots that were given to an image, and those of them that became none: no packet came, a contributor hung in
    /// it, or the owner died.
    pub opened: AtomicU64,
    pub discarded: AtomicU64,
}

/// The counters that are about to change, as they were before. Written by the owner.
#[repr(C, align(128))]
pub(crate) struct Journal {
    /// 0 = nothing; 1 = an image; 2 (lower 8 bits) and the cause above them: lost images.
    pub what: AtomicU64,
    /// It is counted once the head is beyond this sequence (an image), or the base at this run word (lost).
    pub until: AtomicU64,
    /// complete, partial, missing_packets; or lost, of that cause.
    pub before: [AtomicU64; 3],
}

/// What became of packets: received is the sum of the first nine. A place's counters only rise, whoever
/// holds it: nothing is moved when one leaves, so nothing is lost when somebody dies while it would be.
#[repr(C, align(128))]
pub(crate) struct ContributorCounters {
    pub placed: AtomicU64,
    pub duplicate: AtomicU64,
    pub late: AtomicU64,
    pub early: AtomicU64,
    pub no_slot: AtomicU64,
    pub foreign: AtomicU64,
    pub malformed: AtomicU64,
    pub shed: AtomicU64,
    /// Of a sender that is not on the list.
    pub unlisted: AtomicU64,
    /// Placed with a copy, since another packet was expected there.
    pub moved: AtomicU64,
    /// Thrown away by the kernel, by its own count: not part of `received`.
    pub kernel_dropped: AtomicU64,
    pub bytes: AtomicU64,
}

/// One process's place in the ring. Written by its holder, except `identity` (freed by the owner too).
#[repr(C, align(128))]
pub(crate) struct Participant {
    /// pid (32 bits), generation (24) and role (8, 0 = free); rules P1 and P2 in participant.rs.
    pub identity: AtomicU64,
    /// Start time of that process (40 bits), so that a reused pid is not trusted, and its generation (24).
    pub start_time: AtomicU64,
    pub name: [AtomicU64; 4],
    /// Contributor: an id that begins a new run.
    pub restart: AtomicU64,
    _pad_identity: [u64; 9],

    /// Contributor: the slots that it may touch. Rule R1.
    pub hazard: AtomicU64,
    /// Reader: next sequence it wants.
    pub cursor: AtomicU64,
    /// Contributor: how far its ports are (set_progress), and when it last placed a packet.
    pub progress: AtomicU64,
    pub last_placed_ns: AtomicU64,
    /// Reader: commit steps from `first_seq` on that it was overtaken by, and that it was given and has let go of.
    pub overtaken: AtomicU64,
    pub first_seq: AtomicU64,
    pub delivered: AtomicU64,
    /// Reliable reader: images lost for want of a slot while it was the one that held the oldest. Written by the owner.
    pub refused: AtomicU64,
    _pad: [u64; 8],
    pub counters: ContributorCounters,
    /// `counters` when its holder joined.
    pub joined: ContributorCounters,
}

/// One slot's state and what is known of the image in it.
#[repr(C, align(128))]
pub(crate) struct SlotControl {
    pub word: AtomicU64,
    pub image_id: AtomicU64,
    pub epoch: AtomicU64,
    /// Monotonic clock at the first packet; 0 = none yet.
    pub first_packet_ns: AtomicU64,
    /// From the header of the first packet.
    pub detector_timestamp: AtomicU64,
    pub exposure_length: AtomicU32,
    pub packets_received: AtomicU32,
    /// 1: the first packet's header says that the image is not to be stored.
    pub do_not_store: AtomicU32,
    /// What its pixels are made with; 0 = nobody has said. Rule R7.
    pub made_with: AtomicU64,
}

/// One step of the commit sequence: an image, or a notice of lost ids without one. Rule R6.
#[repr(C, align(128))]
pub(crate) struct CommitEntry {
    pub word: AtomicU64,
    pub epoch: AtomicU64,
    /// Ids of the run below this are told of, with this entry: its image is the last of them. See [`Accounted`].
    pub accounted: AtomicU64,
    pub packets_received: AtomicU32,
    pub exposure_length: AtomicU32,
    /// The first packet, and the commit, in UTC.
    pub first_packet_utc_ns: AtomicU64,
    pub commit_utc_ns: AtomicU64,
    pub detector_timestamp: AtomicU64,
    /// The slot's: what its pixels are made with.
    pub made_with: AtomicU64,
    /// Ids lost between the image before this one and this one, as many as `accounted` says.
    pub lost: [LostEntry; LOST_RANGES],
}

#[repr(C)]
pub(crate) struct LostEntry {
    pub first_id: AtomicU64,
    /// count (upper 56 bits) and cause (lower 8).
    pub count_cause: AtomicU64,
}

/// What a commit entry's `accounted` word holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accounted {
    /// Ids of the run below this one are told of.
    pub end_id: u64,
    pub do_not_store: bool,
    /// The first of the entry's lost ranges that are used.
    pub lost_ranges: usize,
}

impl Accounted {
    pub fn pack(self) -> u64 {
        debug_assert!(self.end_id < 1 << 48 && self.lost_ranges <= LOST_RANGES);
        self.end_id << 16 | u64::from(self.do_not_store) << 8 | self.lost_ranges as u64
    }

    /// Of any word: not more ranges than there are.
    pub fn unpack(word: u64) -> Self {
        let lost_ranges = ((word & 0xff) as usize).min(LOST_RANGES);
        Self { end_id: word >> 16, do_not_store: word >> 8 & 1 != 0, lost_ranges }
    }
}

/// State of a slot, the lower three bits of its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum SlotState {
    Free = 0,
    Open = 1,
    Closing = 2,
    Committed = 3,
}

pub(crate) fn slot_word(tag: u64, state: SlotState) -> u64 {
    tag << 3 | state as u64
}

/// Tag and state of a slot word; none for bits that no owner writes.
pub(crate) fn split_slot_word(word: u64) -> Option<(u64, SlotState)> {
    let state = match word & 7 {
        0 => SlotState::Free,
        1 => SlotState::Open,
        2 => SlotState::Closing,
        3 => SlotState::Committed,
        _ => return None,
    };
    Some((word >> 3, state))
}

/// No slot for this image (window entry), or no image in this step (commit entry).
pub(crate) const NO_SLOT: u16 = 0xffff;
/// As `NO_SLOT`, and a packet of the image was thrown away: it can no longer get one.
pub(crate) const NO_SLOT_TOUCHED: u16 = 0xfffe;
/// The step is not committed yet: its entry is being written (commit word).
pub(crate) const PENDING: u16 = 0xfffd;

/// A number below 2^48 - 1 and a slot, for window entries and commit words.
pub(crate) fn pack_slot(number: u64, slot: u16) -> u64 {
    debug_assert!(number < (1 << 48) - 1);
    (number + 1) << 16 | u64::from(slot)
}

/// Whether a commit word says that this very step is committed.
pub(crate) fn is_commit_of(word: u64, seq: u64) -> bool {
    unpack_slot(word).is_some_and(|(found, slot)| found == seq && slot != PENDING)
}

pub(crate) fn unpack_slot(word: u64) -> Option<(u64, u16)> {
    (word != 0).then(|| ((word >> 16).wrapping_sub(1), word as u16))
}

/// An image id in a run, for words that must not outlive it.
pub(crate) fn pack_run(epoch: u64, id: u64) -> u64 {
    debug_assert!(id < (1 << 48) - 1);
    (epoch & 0xffff) << 48 | (id + 1)
}

/// The id, if the word belongs to run `epoch`.
pub(crate) fn unpack_run(word: u64, epoch: u64) -> Option<u64> {
    let id = word & ((1 << 48) - 1);
    (id != 0 && word >> 48 == epoch & 0xffff).then(|| id - 1)
}

/// The id of a run word, of whichever run; 0 if it holds none.
pub(crate) fn run_word_id(word: u64) -> u64 {
    (word & ((1 << 48) - 1)).saturating_sub(1)
}

#[cfg(not(feature = "model"))] // a model's tables are shorter
const _: () = {
    use crate::limits::PARTICIPANTS;
    use std::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Header>() == 1408 && align_of::<Header>() == 128);
    assert!(offset_of!(Header, deadline_ns) == 40);
    assert!(offset_of!(Header, epoch) == 128);
    assert!(offset_of!(Header, commit_head) == 256);
    assert!(offset_of!(Header, commit_event) == 384);
    assert!(offset_of!(Header, owner_event) == 512);
    assert!(offset_of!(Header, counters) == 640);
    assert!(offset_of!(Header, journal) == 768 && size_of::<Journal>() == 128);
    assert!(offset_of!(Header, window_table) == 896);
    assert!(size_of::<Participant>() == 512 && offset_of!(Participant, hazard) == 128);
    assert!(offset_of!(Participant, counters) == 256 && offset_of!(Participant, joined) == 384);
    assert!(size_of::<SlotControl>() == 128 && size_of::<CommitEntry>() == 256);
    assert!(offset_of!(CommitEntry, lost) == 64); // what is before it is one cache line
    assert!(PARTICIPANTS <= u16::MAX as usize && crate::limits::SLOTS_MAX <= PENDING as u32);
};
