//! The owner of the ring: it opens images, closes and commits them in order, and counts every loss.
//!
//! ```text
//!          open ahead                 all packets, or passed by, or deadline            reclaim oldest
//! FREE ──────────────▶ OPEN ─────────────────▶ CLOSING ──fill, publish──▶ COMMITTED ──────────────▶ OPEN …
//!                                                 │ nobody leaves it
//!                                                 └──────▶ quarantine ──left, or its holder died──▶ FREE
//! ```
//!
//! [`Owner::step`] does all that can be done now and returns; [`Owner::sleep`] waits for the next
//! reason to look. Clock, liveness and the filling of missing packets are arguments. Images that are whole are
//! committed before a step does anything else, all together: nothing but the contributors in them is looked at, and
//! looking for the dead, for runs, for what is due and for free slots comes behind, while readers are at the pixels
//! already.
//!
//! # Rules
//! O1  Images are committed in rising order of id within a run; sequence numbers have no holes.
//! O2  Every id from the first image of a run on is committed, or told as lost in a commit entry,
//!     exactly once.
//! O3  An image closes when every packet is there; or when every contributor's ports have shown ids
//!     [`REORDER_IMAGES`](crate::limits::REORDER_IMAGES) above it; or when the deadline is over since the first
//!     packet of the lowest open image that has one, and since those of all that closed before. So one packet from far
//!     ahead does not hurry what comes before it. A port that is silent is not waited for.
//! O4  A slot is reused only when no reliable reader's cursor holds its sequence, and no hazard word
//!     of a living contributor names it.
//! O5  Where no slot is free, the newest image is lost whole; nothing waits.
//! O6  Counters and what was told agree at whatever instruction the owner dies: see `count.rs`.
//!
//! Why a commit sequence beside image ids? Ids jump, repeat and go missing; readers need a dense count
//! to know whether they were overtaken.

mod close;
mod count;
mod open;
mod recover;
mod run;

use crate::{
    control::Ring,
    crash::crash_point,
    layout::{Accounted, CommitEntry, NO_SLOT, PENDING, SlotState, pack_run, pack_slot, slot_word},
    limits::IMAGE_ID_MAX,
    loss::{LossCause, LostRange, LostRanges},
    participant::{self, Role},
    process::{Liveness, ProcessId},
    sync::{Acquire, Relaxed, Release, SeqCst, fence},
};
use std::{collections::VecDeque, time::Duration};

/// How often the owner looks for the dead, and how soon it tells readers of losses when no image does.
pub const HOUSEKEEPING_NS: u64 = 100_000_000;

/// The one who opens, closes and commits. See the module header.
pub struct Owner {
    ring: Ring,
    deadline_ns: u64,
    /// The next sequence, as in the header.
    head: u64,
    /// Images of the window, from `base` on, with their slots.
    open: VecDeque<Option<u16>>,
    base: u64,
    epoch: u64,
    /// An image of this run was committed or counted lost: from now on every id counts (O2).
    run_counts: bool,
    /// What ids without packets were lost to: `OwnerDown` right after a takeover.
    empty_cause: LossCause,
    /// While a run is being ended: ids without packets so far. They belong to it only if one with packets
    /// follows.
    empty_tail: Option<u64>,
    /// Committed slots that are not yet in use again, oldest sequence first.
    committed: VecDeque<(u64, u16)>,
    free: Vec<u16>,
    quarantine: Vec<u16>,
    lost: LostRanges,
    /// Something was published, and who sleeps was not woken yet.
    untold: bool,
    /// Counts openings: the tag of open slots.
    openings: u64,
    /// When packets began to come after a pause; ports may be silent for a deadline from then.
    resumed_ns: u64,
    last_first_packet_ns: u64,
    /// The newest first packet of images that are closed.
    newest_closed_ns: u64,
    last_commit_ns: u64,
    last_housekeeping_ns: u64,
    /// Contributors that did not leave a slot in time, by place, with the hazard that they had.
    stuck: Vec<(usize, u64)>,
    /// The hazards of all contributors, as of the images that were closed together last.
    hazards: Vec<u64>,
}

/// The time at a step.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic clock.
    pub mono_ns: u64,
    /// Nanoseconds since 1970-01-01 UTC.
    pub utc_ns: u64,
}

/// What the owner needs from outside at each step.
pub struct Surroundings<'a> {
    pub now: Now,
    pub liveness: &'a dyn Liveness,
    /// Writes the fill value into the places of one packet: `fill(pixels, packet)`.
    pub fill: &'a mut dyn FnMut(&mut [u8], usize),
}

/// What a step has done and when to look again at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepOutcome {
    pub committed: u64,
    pub look_again_in_ns: u64,
}

impl Owner {
    /// Takes the ring over: as its first owner, or after one that died. What was open is then counted
    /// lost (`OwnerDown`); what was committed stays readable. The caller holds the ring's lock file, so
    /// there is no other owner.
    pub fn take_over(ring: &Ring, process: ProcessId, deadline: Duration, liveness: &dyn Liveness) -> Self {
        let deadline_ns = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        let mut owner = Self {
            ring: ring.clone(),
            deadline_ns,
            head: 0,
            open: VecDeque::new(),
            base: 0,
            epoch: 0,
            run_counts: false,
            empty_cause: LossCause::NotReceived,
            empty_tail: None,
            committed: VecDeque::new(),
            free: Vec::new(),
            quarantine: Vec::new(),
            lost: LostRanges::default(),
            untold: false,
            openings: 0,
            resumed_ns: 0,
            last_first_packet_ns: 0,
            newest_closed_ns: 0,
            last_commit_ns: 0,
            last_housekeeping_ns: 0,
            stuck: Vec::new(),
            hazards: Vec::new(),
        };
        owner.recover(process, liveness);
        owner
    }

    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Does all that can be done now. Ends in bounded time, whatever the others do.
    pub fn step(&mut self, surroundings: &mut Surroundings<'_>) -> StepOutcome {
        let first_seq = self.head;
        self.commit_whole(surroundings);
        let now = surroundings.now;
        if now.mono_ns.saturating_sub(self.last_housekeeping_ns) >= HOUSEKEEPING_NS {
            self.last_housekeeping_ns = now.mono_ns;
            participant::free_the_dead(&self.ring, surroundings.liveness);
        }
        self.release_quarantine(surroundings.liveness);
        self.begin_run_if_asked(surroundings);
        self.note_arrivals();
        let due_end = self.passed_end(now.mono_ns);
        self.skip_gap(due_end, surroundings);
        self.open_ahead();
        while self.head_is_due(due_end, now.mono_ns) {
            self.close_head(surroundings);
            self.open_ahead();
        }
        self.tell_losses_when_idle(now);
        StepOutcome { committed: self.head - first_seq, look_again_in_ns: self.next_look(now.mono_ns) }
    }

    /// Read before [`Owner::step`], passed to [`Owner::sleep`] after it.
    pub fn ticket(&self) -> u32 {
        self.ring.owner_event().ticket()
    }

    /// Sleeps until somebody has a reason for another step since `ticket`, or the time is over.
    pub fn sleep(&self, ticket: u32, timeout: Duration) {
        let short_of_slots = self.open.iter().any(Option::is_none);
        let slots_wanted = &self.ring.header().slots_wanted;
        if slots_wanted.load(Relaxed) != short_of_slots.into() {
            slots_wanted.store(short_of_slots.into(), Relaxed); // readers look at it with each image
        }
        fence(SeqCst); // pairs with the fence in Reader::release
        if short_of_slots && self.can_reclaim() {
            return;
        }
        self.ring.owner_event().wait(ticket, timeout);
    }

    /// Ends on purpose: participants let go of the ring.
    pub fn close(self) {
        self.ring.close();
    }

    /// `count` ids from `first_id` on are gone; readers are told with the next commit entry. The caller
    /// publishes a base behind them before anything else is counted (O6).
    fn lose(&mut self, first_id: u64, count: u64, cause: LossCause) {
        self.count_empty_tail(first_id);
        self.count_lost(first_id + count, count, cause);
        self.lost.push(LostRange { first_id, count, cause });
        self.count_run_from(first_id);
    }

    /// From this id on every id of the run counts, whoever owns the ring (O2).
    fn count_run_from(&mut self, id: u64) {
        if !std::mem::replace(&mut self.run_counts, true) {
            self.ring.header().counts_from.store(pack_run(self.epoch, id), Relaxed);
        }
    }

    /// An id of the run that is being ended counts: then the empty ones right before it do, too.
    fn count_empty_tail(&mut self, id: u64) {
        if let Some(count) = self.empty_tail.filter(|&count| count > 0) {
            self.empty_tail = Some(0);
            self.lose(id - count, count, self.empty_cause);
            self.publish_base(id);
        }
    }

    /// Appends a step to the commit sequence: an image in `slot`, or only what was lost (R6). Who sleeps is still to be
    /// woken.
    fn publish(&mut self, slot: Option<u16>, accounted_id: u64, now: Now) {
        let (header, entry, seq) = (self.ring.header(), self.ring.commit(self.head), self.head);
        entry.word.store(pack_slot(seq, PENDING), Relaxed);
        fence(Release); // a reader that sees a field of the new step finds the word of the old one gone
        let do_not_store = slot.is_some_and(|slot| self.describe(entry, slot, now));
        let lost_ranges = self.tell_lost(entry);
        entry.epoch.store(self.epoch, Relaxed);
        entry.accounted.store(Accounted { end_id: accounted_id, do_not_store, lost_ranges }.pack(), Relaxed);
        if let Some(slot) = slot {
            // Readers come to the slot by the entry alone: its Release is for both.
            self.ring.slot(slot).word.store(slot_word(seq, SlotState::Committed), Relaxed);
        }
        crash_point!("publish: entry filled");
        // Release pairs with Acquire in Reader::read_step.
        entry.word.store(pack_slot(seq, slot.unwrap_or(NO_SLOT)), Release);
        crash_point!("publish: entry valid");
        header.commit_head.store(seq + 1, Release); // pairs with the fence of who looks from outside (inspect)
        crash_point!("publish: head moved");
        self.head = seq + 1;
        self.untold = true;
        self.committed.extend(slot.map(|slot| (seq, slot)));
        self.lost.clear();
        self.last_commit_ns = now.mono_ns;
    }

    /// Wakes readers that sleep, if anything was published since.
    fn tell_readers(&mut self) {
        if std::mem::take(&mut self.untold) {
            let header = self.ring.header();
            crate::futex::Event { word: &header.commit_event, waiters: &header.commit_waiters }.signal();
        }
    }

    /// Writes what is known of an image into its entry. Returns whether it is not to be stored.
    fn describe(&self, entry: &CommitEntry, slot: u16, now: Now) -> bool {
        let control = self.ring.slot(slot);
        let age_ns = now.mono_ns.saturating_sub(control.first_packet_ns.load(Relaxed));
        entry.packets_received.store(control.packets_received.load(Relaxed), Relaxed);
        entry.exposure_length.store(control.exposure_length.load(Relaxed), Relaxed);
        entry.first_packet_utc_ns.store(now.utc_ns.saturating_sub(age_ns), Relaxed);
        entry.commit_utc_ns.store(now.utc_ns, Relaxed);
        entry.detector_timestamp.store(control.detector_timestamp.load(Relaxed), Relaxed);
        entry.made_with.store(control.made_with.load(Relaxed), Relaxed);
        control.do_not_store.load(Relaxed) != 0
    }

    /// Writes what was lost before a step into its entry. Returns how many ranges.
    fn tell_lost(&self, entry: &CommitEntry) -> usize {
        let lost = self.lost.as_slice();
        for (entry, range) in entry.lost.iter().zip(lost) {
            entry.first_id.store(range.first_id, Relaxed);
            entry.count_cause.store(range.count << 8 | range.cause as u64, Relaxed);
        }
        lost.len()
    }

    /// Losses with no image behind them (a run that ended in them) are told by a step of their own, as
    /// long as reliable readers leave room for it.
    fn tell_losses_when_idle(&mut self, now: Now) {
        let idle = now.mono_ns.saturating_sub(self.last_commit_ns) >= HOUSEKEEPING_NS;
        if !self.lost.is_empty() && idle && self.notice_fits() {
            self.publish(None, self.base, now);
            self.tell_readers();
        }
    }

    /// Commit entries beyond one for each slot are for notices; images never wait for them. Where no
    /// image was taken back for so long that a notice would not fit, the oldest ones are taken back now:
    /// a reader that begins with the oldest step must find the entries of all that follow it.
    fn notice_fits(&mut self) -> bool {
        let entries = (self.ring.geometry().commits() - self.ring.geometry().slots as usize) as u64;
        let keep_from = (self.head + 1).saturating_sub(entries);
        self.reclaim_below(keep_from)
    }

    /// The lowest sequence that a reliable reader holds; the head if there is none.
    fn oldest_cursor(&self) -> u64 {
        let readers = self.ring.participants().iter().filter(|place| place.is(Role::ReliableReader));
        // Acquire pairs with Release in Reader::release.
        readers.map(|place| place.cursor.load(Acquire)).min().unwrap_or(u64::MAX).min(self.head)
    }

    fn next_look(&self, mono_ns: u64) -> u64 {
        let due = self.waited_since_ns().map(|since| since.saturating_add(self.deadline_ns));
        let until_due = due.map_or(u64::MAX, |due| due.saturating_sub(mono_ns));
        until_due.clamp(100_000, HOUSEKEEPING_NS)
    }
}

/// The clocks of this host.
impl Now {
    pub fn read() -> Self {
        let utc = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let utc_ns = utc.as_nanos() as u64;
        Self { mono_ns: monotonic_ns(), utc_ns }
    }
}

/// Nanoseconds of the host's monotonic clock, the same for every process.
pub fn monotonic_ns() -> u64 {
    if cfg!(feature = "model") {
        return 0; // models have no time: every wait ends by what somebody does
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the timespec that it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// True if `id` can be an image id at all.
pub fn is_image_id(id: u64) -> bool {
    id <= IMAGE_ID_MAX
}
