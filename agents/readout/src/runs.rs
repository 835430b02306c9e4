//! What an id outside the window means: a packet that is late or early, or a detector that began again.
//!
//! | id is | and it was quiet for | it is |
//! |---|---|---|
//! | behind by up to [`NEAR_IDS`] | less than [`NEAR_PAUSE_NS`] | late |
//! | behind by more | less than a pause | late |
//! | behind | longer | the begin of a new run |
//! | ahead by up to [`NEAR_AHEAD_IDS`] | less than a pause | early: waits; with another one beyond the window, the window comes; the ids between are lost |
//! | | longer | early: the window comes |
//! | ahead by up to [`RUN_IDS`] | less than a pause | the same, once [`JUMP_PACKETS`] in a row agree; dropped until then |
//! | | longer | the same |
//! | | while an overload lasts | as ahead by up to [`NEAR_AHEAD_IDS`]: images are given up by the dozen (`overload`) |
//! | ahead by more | less than a pause | the begin of a new run, once as many agree |
//! | ahead by more | longer | the begin of a new run |
//!
//! "Quiet" is, for an id ahead, the time since this port placed a packet; for an id behind, the time since any
//! readout process did: one that lags behind the others, with old packets in its buffers, must not take them
//! for a new run. A pause is [`PAUSE_NS`], and at least
//! [`PAUSE_INTERVALS`] of the intervals that the last images had between them: a slow detector is
//! quiet between any two images.

use ecs_shm_buffer::Lookup;

/// Packets overtake each other by no more than this many images, however long they took.
pub const NEAR_IDS: u64 = 2;
pub const NEAR_PAUSE_NS: u64 = 2_000_000_000;
/// A detector that stops and starts again is silent for longer than this; one that runs is not.
pub const PAUSE_NS: u64 = 100_000_000;
/// See the module header. Two would do for a steady detector.
pub const PAUSE_INTERVALS: u64 = 3;
/// Ports drift apart by less than this; what is farther ahead is a jump, or a stray packet.
pub const NEAR_AHEAD_IDS: u64 = 32;
/// Intervals between images that are remembered: one long pause within a run is forgotten again.
const INTERVALS: usize = 4;
/// Packets agree whose ids are this close together.
pub const AGREE_IDS: u64 = 256;
/// A readout that was away comes back this many ids later at most (16 s at 4 kHz).
pub const RUN_IDS: u64 = 1 << 16;
/// One hostile packet must not move the window; this many in a row, of ids close together, are a detector.
pub const JUMP_PACKETS: u32 = 16;

/// What to do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Place,
    /// Ask the owner to move on and try again until it has.
    Wait,
    /// Ask the owner for a new run with this id.
    BeginRun,
    DropLate,
    DropEarly,
    DropNoSlot,
}

/// Remembers far-away ids of one process, to tell a detector from a stray packet, and how quiet a run is
/// while it goes on.
#[derive(Debug, Default)]
pub struct FarIds {
    last: u64,
    in_a_row: u32,
    /// Of the run: its newest image, when that began, and the last intervals between two.
    newest: Option<(u64, u64)>,
    intervals_ns: [u64; INTERVALS],
}

impl FarIds {
    /// Decides on a packet. `quiet_ns`: for how long nobody has placed a packet. `is_overload`: see the module header.
    pub fn decide(&mut self, lookup: Lookup, id: u64, quiet_ns: u64, is_overload: bool) -> Action {
        match lookup {
            Lookup::Open => Action::Place,
            Lookup::NoSlot => Action::DropNoSlot,
            Lookup::NoRun => Action::BeginRun,
            Lookup::Behind(ids) if quiet_ns >= self.pause_ns().max(if ids <= NEAR_IDS { NEAR_PAUSE_NS } else { 0 }) => {
                Action::BeginRun
            }
            Lookup::Behind(_) => Action::DropLate,
            Lookup::Ahead(ids) if ids <= NEAR_AHEAD_IDS || (is_overload && ids <= RUN_IDS) => Action::Wait,
            Lookup::Ahead(ids) if ids > RUN_IDS && quiet_ns >= self.pause_ns() => Action::BeginRun,
            Lookup::Ahead(_) if quiet_ns >= self.pause_ns() => Action::Wait,
            Lookup::Ahead(_) if !self.agrees(id) => Action::DropEarly,
            Lookup::Ahead(ids) if ids <= RUN_IDS => Action::Wait,
            Lookup::Ahead(_) => Action::BeginRun,
        }
    }

    /// A packet was placed: ids far away were strays.
    pub fn note_placed(&mut self, id: u64, now_ns: u64) {
        self.in_a_row = 0;
        match self.newest {
            Some((newest, began_ns)) if id > newest => {
                let per_image = now_ns.saturating_sub(began_ns) / (id - newest);
                self.intervals_ns[newest as usize % INTERVALS] = per_image;
                self.newest = Some((id, now_ns));
            }
            None => self.newest = Some((id, now_ns)),
            _ => {}
        }
    }

    /// A new run has begun.
    pub fn forget_run(&mut self) {
        *self = Self::default();
    }

    /// How long it is quiet before a run is over.
    pub fn pause_ns(&self) -> u64 {
        let interval_ns = self.intervals_ns.into_iter().max().unwrap_or(0);
        PAUSE_NS.max(PAUSE_INTERVALS * interval_ns)
    }

    fn agrees(&mut self, id: u64) -> bool {
        let is_close = id.abs_diff(self.last) <= AGREE_IDS;
        self.in_a_row = if is_close { self.in_a_row.saturating_add(1) } else { 1 };
        self.last = id;
        self.in_a_row >= JUMP_PACKETS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_of_the_table_holds() {
        let decide = |lookup, quiet_ns| FarIds::default().decide(lookup, 1, quiet_ns, false);
        assert_eq!(decide(Lookup::Open, 0), Action::Place);
        assert_eq!(decide(Lookup::NoRun, 0), Action::BeginRun);
        assert_eq!(decide(Lookup::Behind(NEAR_IDS), PAUSE_NS), Action::DropLate);
        assert_eq!(decide(Lookup::Behind(NEAR_IDS), NEAR_PAUSE_NS), Action::BeginRun);
        assert_eq!(decide(Lookup::Behind(NEAR_IDS + 1), PAUSE_NS - 1), Action::DropLate);
        assert_eq!(decide(Lookup::Behind(NEAR_IDS + 1), PAUSE_NS), Action::BeginRun);
        assert_eq!(decide(Lookup::Ahead(NEAR_AHEAD_IDS), NEAR_PAUSE_NS), Action::Wait);
        assert_eq!(decide(Lookup::Ahead(NEAR_AHEAD_IDS + 1), PAUSE_NS - 1), Action::DropEarly);
        assert_eq!(decide(Lookup::Ahead(NEAR_AHEAD_IDS + 1), PAUSE_NS), Action::Wait);
        assert_eq!(decide(Lookup::Ahead(RUN_IDS + 1), PAUSE_NS - 1), Action::DropEarly);
        assert_eq!(decide(Lookup::Ahead(RUN_IDS + 1), PAUSE_NS), Action::BeginRun);
        assert_eq!(decide(Lookup::NoSlot, PAUSE_NS), Action::DropNoSlot);
        let in_overload = |lookup| FarIds::default().decide(lookup, 1, 0, true);
        assert_eq!(in_overload(Lookup::Ahead(RUN_IDS)), Action::Wait);
        assert_eq!(in_overload(Lookup::Ahead(RUN_IDS + 1)), Action::DropEarly);
    }

    #[test]
    fn a_slow_detector_is_quiet_between_its_images_without_beginning_anew() {
        let mut ids = FarIds::default();
        for image in 1..5 {
            ids.note_placed(image, image * 2_500_000_000);
        }
        let behind = Lookup::Behind(NEAR_IDS + 1);
        assert_eq!(ids.decide(behind, 1, 2_500_000_000, false), Action::DropLate);
        assert_eq!(ids.decide(behind, 1, PAUSE_INTERVALS * 2_500_000_000, false), Action::BeginRun);
    }

    #[test]
    fn a_jump_is_believed_after_many_packets_in_a_row_and_a_stray_never() {
        for (far, believed) in [(RUN_IDS, Action::Wait), (RUN_IDS + 1, Action::BeginRun)] {
            let mut ids = FarIds::default();
            for packet in 1..JUMP_PACKETS {
                assert_eq!(ids.decide(Lookup::Ahead(far), 1_000_000, 0, false), Action::DropEarly, "packet {packet}");
            }
            assert_eq!(ids.decide(Lookup::Ahead(far), 1_000_001, 0, false), believed);
            let mut ids = FarIds::default();
            for packet in 0..10 * u64::from(JUMP_PACKETS) {
                ids.note_placed(1, packet); // packets of the run keep being placed in between
                assert_eq!(ids.decide(Lookup::Ahead(far), 1_000_000 + packet, 0, false), Action::DropEarly);
            }
        }
    }
}
