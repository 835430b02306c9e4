//! Places of participants: how one is taken, given back, and freed for the dead.
//!
//! ```text
//! free ──take──▶ Joining ──▶ Contributor | ReliableReader | LossyReader ──leave, or found dead──▶ free
//! ```
//!
//! # Rules
//! P1  The identity word holds pid, role and generation in one, so a process that dies at any instruction is
//!     named in every place that it has taken. Each taking is a new generation of the place.
//! P2  Identity changes by compare-exchange alone, from the very word that was seen: of two who free a place,
//!     or one who frees and one who still joins, one does it, and no word of the other is trusted.
//! P3  The start time carries the generation that it belongs to: pid and start time of two processes are never
//!     taken for one, which would be dead. One of another generation is not set yet: not known.
//! P4  Who looks at places looks below the header's `places` only, which never falls; who takes a place raises it
//!     first. So whoever dies is seen, and a full table of places costs a ring with few participants nothing. Where
//!     it matters that a new one is seen at once, the fences of R3 and R5 see to it: they come after the raising.

use crate::{
    control::Ring,
    crash::crash_point,
    layout::{ContributorCounters, Participant},
    limits::NAME_BYTES,
    process::{Liveness, ProcessId},
    sync::{Acquire, AtomicU64, Relaxed, Release, keep_order},
};

/// Bits of the role in an identity word; 0 is a free place.
const ROLE: u64 = 0xff;
/// Bits of the generation, behind the role, and in front of the start time. It comes round after 16 million
/// takings of one place; nobody looks at a place for that long.
const TAG_BITS: u32 = 24;
const TAG: u64 = (1 << TAG_BITS) - 1;

/// A place that this process has taken: which, and the identity that makes it ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub index: usize,
    identity: u64,
}

/// What a participant does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Role {
    Joining = 1,
    Contributor = 2,
    ReliableReader = 3,
    LossyReader = 4,
}

/// Every place is taken by somebody alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ring has {} participants already; end one of them first", crate::limits::PARTICIPANTS)]
pub struct TooManyParticipants;

impl Role {
    /// Whether it is a reader, of either kind.
    pub fn reads(self) -> bool {
        matches!(self, Self::ReliableReader | Self::LossyReader)
    }

    fn from_code(code: u64) -> Option<Self> {
        [Self::Joining, Self::Contributor, Self::ReliableReader, Self::LossyReader]
            .into_iter()
            .find(|role| *role as u64 == code)
    }
}

impl Participant {
    /// Who is here, in which role.
    pub(crate) fn who(&self) -> Option<(ProcessId, Role)> {
        self.read_identity().map(|(_, process, role)| (process, role))
    }

    /// The same, with the identity word that it was read from (P2, P3).
    fn read_identity(&self) -> Option<(u64, ProcessId, Role)> {
        let word = self.identity.load(Acquire); // pairs with Release in `take`: name and start time are seen
        let role = Role::from_code(word & ROLE)?;
        let tagged = self.start_time.load(Relaxed);
        let start_time = if tagged & TAG == (word >> 8) & TAG { tagged >> TAG_BITS } else { 0 };
        Some((word, ProcessId { pid: (word >> 32) as u32, start_time }, role))
    }

    pub(crate) fn is(&self, role: Role) -> bool {
        self.identity.load(Acquire) & ROLE == role as u64 // as in `read_identity`
    }

    pub(crate) fn name(&self) -> String {
        let bytes: Vec<u8> = self.name.iter().flat_map(|word| word.load(Relaxed).to_le_bytes()).collect();
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    fn set_name(&self, name: &str) {
        let mut bytes = [0; NAME_BYTES];
        let len = name.len().min(NAME_BYTES);
        bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
        for (word, chunk) in self.name.iter().zip(bytes.chunks_exact(8)) {
            word.store(u64::from_le_bytes(chunk.try_into().expect("chunks of 8")), Relaxed);
        }
    }

    pub(crate) fn words(&self) -> [&AtomicU64; 9] {
        [
            &self.hazard,
            &self.cursor,
            &self.progress,
            &self.last_placed_ns,
            &self.restart,
            &self.overtaken,
            &self.first_seq,
            &self.delivered,
            &self.refused,
        ]
    }
}

/// Takes a free place. `prepare` fills what the role needs before anybody can see it in that role.
pub(crate) fn take(
    ring: &Ring,
    process: ProcessId,
    role: Role,
    name: &str,
    prepare: impl Fn(&Participant),
) -> Result<Place, TooManyParticipants> {
    for (index, place) in ring.places().iter().enumerate() {
        let Some(joining) = claim(ring, index, process) else { continue };
        crash_point!("join: claimed");
        // P3; a start time of more bits than there are would be another's, so: not known.
        let start_time = if process.start_time >> (64 - TAG_BITS) == 0 { process.start_time } else { 0 };
        place.start_time.store(start_time << TAG_BITS | (joining >> 8) & TAG, Relaxed);
        crash_point!("join: start time told");
        place.words().into_iter().for_each(|word| word.store(0, Relaxed));
        crash_point!("join: cleared");
        for (joined, counter) in place.joined.all().into_iter().zip(place.counters.all()) {
            joined.store(counter.load(Relaxed), Relaxed);
        }
        place.set_name(name);
        prepare(place);
        crash_point!("join: prepared");
        let identity = joining & !ROLE | role as u64;
        // Release pairs with Acquire in `read_identity` and `is`. It fails if we were taken for dead (P2).
        if place.identity.compare_exchange(joining, identity, Release, Relaxed).is_ok() {
            crash_point!("join: in its role");
            return Ok(Place { index, identity });
        }
    }
    Err(TooManyParticipants)
}

/// Makes a free place ours, in its next generation. Returns the identity that it then has.
fn claim(ring: &Ring, index: usize, process: ProcessId) -> Option<u64> {
    let place = &ring.places()[index];
    let free = place.identity.load(Relaxed);
    let generation = ((free >> 8) + 1) & TAG;
    let joining = u64::from(process.pid) << 32 | generation << 8 | Role::Joining as u64;
    let is_free = free & ROLE == 0;
    if is_free {
        raise_places(&ring.header().places, index as u64 + 1);
        crash_point!("join: places raised");
    }
    // Acquire pairs with Release in `free`: what the last holder did is seen, and ours is not seen as its.
    (is_free && place.identity.compare_exchange(free, joining, Acquire, Relaxed).is_ok()).then_some(joining)
}

/// Tells that places below `end` may be taken (P4).
fn raise_places(places: &AtomicU64, end: u64) {
    let mut seen = places.load(Relaxed);
    while seen < end {
        match places.compare_exchange(seen, end, Relaxed, Relaxed) {
            Ok(_) => break,
            Err(found) => seen = found,
        }
    }
    keep_order(); // who dies once it has claimed a place has raised this
}

/// Gives a place back. Nothing, if it is no longer its holder's: who was taken for dead has none.
pub(crate) fn leave(ring: &Ring, place: &Place) {
    free(ring, place.index, place.identity);
    crash_point!("leave: place free");
}

/// Frees a place that still has the identity `seen` (P2). Its other words stay until `take` clears them: the
/// owner may look at the cursor in this moment, and 0 would hold every slot.
fn free(ring: &Ring, index: usize, seen: u64) {
    // Release pairs with Acquire in `claim`.
    let _ = ring.places()[index].identity.compare_exchange(seen, seen & (TAG << 8), Release, Relaxed);
}

/// Frees every place whose process is dead.
pub(crate) fn free_the_dead(ring: &Ring, liveness: &dyn Liveness) {
    for (index, place) in ring.participants().iter().enumerate() {
        if let Some((identity, process, _)) = place.read_identity()
            && !liveness.is_alive(process)
        {
            free(ring, index, identity);
        }
    }
}

impl ContributorCounters {
    pub(crate) fn all(&self) -> [&AtomicU64; 12] {
        [
            &self.placed,
            &self.duplicate,
            &self.late,
            &self.early,
            &self.no_slot,
            &self.foreign,
            &self.malformed,
            &self.shed,
            &self.unlisted,
            &self.moved,
            &self.kernel_dropped,
            &self.bytes,
        ]
    }
}
