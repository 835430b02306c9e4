//! Places of participants: how one is taken, given back, and freed for the dead.
//!
//! ```text
//! free ──take──▶ Joining ──▶ Contributor | ReliableReader | LossyReader ──leave, or found dead──▶ free
//! ```
//!
//! The identity word holds pid and role in one, so a process that dies at any instruction is named in
//! every place that it has taken.

use crate::{
    control::Ring,
    layout::{ContributorCounters, Participant},
    limits::NAME_BYTES,
    process::{Liveness, ProcessId},
    sync::{AcqRel, Acquire, AtomicU64, Relaxed, Release},
};

/// What a participant does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
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
    fn from_code(code: u32) -> Option<Self> {
        [Self::Joining, Self::Contributor, Self::ReliableReader, Self::LossyReader]
            .into_iter()
            .find(|role| *role as u32 == code)
    }
}

impl Participant {
    /// Who is here, in which role.
    pub(crate) fn who(&self) -> Option<(ProcessId, Role)> {
        self.read_identity().map(|(_, process, role)| (process, role))
    }

    /// The same, with the identity word that it was read from. Free, too, if the place changes hands in
    /// this moment: pid and start time of two processes must never be taken for one that is dead.
    fn read_identity(&self) -> Option<(u64, ProcessId, Role)> {
        let word = self.identity.load(Acquire); // pairs with Release in `take` and AcqRel in `free`
        let role = Role::from_code(word as u32)?;
        let start_time = self.start_time.load(Acquire); // before the second look
        let unchanged = self.identity.load(Relaxed) == word;
        unchanged.then_some((word, ProcessId { pid: (word >> 32) as u32, start_time }, role))
    }

    pub(crate) fn is(&self, role: Role) -> bool {
        self.identity.load(Acquire) as u32 == role as u32
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

    fn words(&self) -> [&AtomicU64; 6] {
        [&self.hazard, &self.cursor, &self.progress, &self.last_placed_ns, &self.restart, &self.overtaken]
    }
}

/// Takes a free place. `prepare` fills what the role needs before anybody can see it in that role.
pub(crate) fn take(
    ring: &Ring,
    process: ProcessId,
    role: Role,
    name: &str,
    prepare: impl FnOnce(&Participant),
) -> Result<usize, TooManyParticipants> {
    let joining = identity(process, Role::Joining);
    let free = |participant: &&Participant| {
        // AcqRel: what the last holder left behind is seen, and ours is not seen as its.
        participant.identity.compare_exchange(0, joining, AcqRel, Relaxed).is_ok()
    };
    let place = ring.participants().iter().find(free).ok_or(TooManyParticipants)?;
    place.start_time.store(process.start_time, Relaxed);
    place.words().into_iter().for_each(|word| word.store(0, Relaxed));
    for (joined, counter) in place.joined.all().into_iter().zip(place.counters.all()) {
        joined.store(counter.load(Relaxed), Relaxed);
    }
    place.set_name(name);
    prepare(place);
    place.identity.store(identity(process, role), Release); // pairs with Acquire in `who`
    let index = ring.participants().iter().position(|participant| std::ptr::eq(participant, place));
    Ok(index.expect("it was found in there"))
}

/// Gives a place back. Nothing, if it is no longer its holder's: who was taken for dead has none.
pub(crate) fn leave(ring: &Ring, index: usize, process: ProcessId, role: Role) {
    free(ring, index, identity(process, role));
}

/// Frees a place that still has the identity `seen`. Of two who try it, one does it. Its other words stay until `take` clears them: the owner may look at the
/// cursor in this moment, and 0 would hold every slot.
fn free(ring: &Ring, index: usize, seen: u64) {
    let place = &ring.participants()[index];
    let leaving = seen & !0xffff_ffff | u64::from(Role::Joining as u32);
    if place.identity.compare_exchange(seen, leaving, AcqRel, Relaxed).is_err() {
        return;
    }
    place.start_time.store(0, Relaxed);
    place.identity.store(0, Release); // pairs with AcqRel in `take`
}

/// Frees every place whose process is dead. Returns how many.
pub(crate) fn free_the_dead(ring: &Ring, liveness: &dyn Liveness) -> usize {
    let places = ring.participants().iter().enumerate();
    let taken = places.filter_map(|(index, place)| Some((index, place.read_identity()?)));
    let dead = taken.filter(|(_, (_, process, _))| !liveness.is_alive(*process));
    dead.map(|(index, (identity, ..))| free(ring, index, identity)).count()
}

fn identity(process: ProcessId, role: Role) -> u64 {
    u64::from(process.pid) << 32 | u64::from(role as u32)
}

impl ContributorCounters {
    pub(crate) fn all(&self) -> [&AtomicU64; 11] {
        [
            &self.placed,
            &self.duplicate,
            &self.late,
            &self.early,
            &self.no_slot,
            &self.foreign,
            &self.malformed,
            &self.shed,
            &self.moved,
            &self.kernel_dropped,
            &self.bytes,
        ]
    }
}
