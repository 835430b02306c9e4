//! Taking over: what the owner before left behind, at whatever instruction it died.

use super::Owner;
use crate::{
    crash::crash_point,
    layout::{Accounted, NO_SLOT_TOUCHED, SlotState, pack_slot, slot_word, split_slot_word, unpack_run, unpack_slot},
    loss::{LossCause, LostRange},
    participant,
    process::{Liveness, ProcessId},
    sync::{Relaxed, Release, SeqCst, fence},
};

impl Owner {
    /// Reads the state back from the ring. On a new ring this finds every slot free.
    ///
    /// A commit counts when its entry says so (R6): what had not come that far was seen by nobody and is taken
    /// back. What was open is emptied and counted lost.
    pub(super) fn recover(&mut self, process: ProcessId, liveness: &dyn Liveness) {
        let ring = self.ring.clone();
        let header = ring.header();
        header.owner_start_time.store(process.start_time, Relaxed);
        header.owner_pid.store(process.pid, Relaxed);
        header.owners.fetch_add(1, Relaxed);
        header.deadline_ns.store(self.deadline_ns, Relaxed);
        header.slots_wanted.store(0, Relaxed);
        header.closed.store(0, Relaxed);
        crash_point!("takeover: owner named");
        participant::free_the_dead(&ring, liveness);
        self.finish_commit(); // before it is looked at what of the counting was published
        crash_point!("takeover: head stands");
        self.undo_unfinished_count();
        crash_point!("takeover: counters stand");
        self.epoch = self.begun_epoch();
        let mut begun = self.empty_window();
        crash_point!("takeover: window empty");
        begun.extend(self.collect_slots(liveness));
        crash_point!("takeover: slots sorted");
        self.settle_discarded();
        if self.epoch > 0 {
            self.resume_run(&begun);
        }
    }

    /// Moves the head, and wakes readers, if the owner before died behind a commit and had not done it.
    fn finish_commit(&mut self) {
        let header = self.ring.header();
        self.head = self.ring.committed_steps();
        header.commit_head.store(self.head, Release); // as in Owner::publish
        crate::futex::Event { word: &header.commit_event, waiters: &header.commit_waiters }.signal();
    }

    /// The run that the owner before was in, or had just begun: the base names it first.
    fn begun_epoch(&self) -> u64 {
        let header = self.ring.header();
        let (epoch, base) = (header.epoch.load(Relaxed), header.base.load(Relaxed));
        if unpack_run(base, epoch + 1).is_none() {
            return epoch;
        }
        header.epoch.store(epoch + 1, Release); // as in Owner::begin_run
        epoch + 1
    }

    /// Takes every image out of the window. Returns those of which a packet was refused.
    fn empty_window(&mut self) -> Vec<u64> {
        let entries: Vec<u64> = self.ring.header().window_table.iter().map(|entry| entry.swap(0, Relaxed)).collect();
        fence(SeqCst); // R3: pairs with the fence in Contributor::protect
        let touched = |(id, slot)| (slot == NO_SLOT_TOUCHED).then_some(id);
        entries.into_iter().filter_map(unpack_slot).filter_map(touched).collect()
    }

    /// Sorts the slots. Returns the images of this run that are not committed and have packets, also
    /// the one whose closing, or commit, the owner before did not survive.
    ///
    /// A contributor may be in any slot that is not committed, not only in those of the window: the
    /// owner before may have died between closing an image and waiting, or have had the slot in
    /// quarantine.
    fn collect_slots(&mut self, liveness: &dyn Liveness) -> Vec<u64> {
        let ring = self.ring.clone();
        let (header, mut begun) = (ring.header(), Vec::new());
        for slot in 0..ring.geometry().slots as u16 {
            let control = ring.slot(slot);
            let state = split_slot_word(control.word.load(Relaxed));
            if let Some((seq, SlotState::Committed)) = state
                && seq < self.head
                && ring.commit(seq).word.load(Relaxed) == pack_slot(seq, slot)
            {
                self.committed.push_back((seq, slot));
                continue;
            }
            let has_left = self.wait_until_left(slot, liveness);
            let is_of_run = state.is_some_and(|(_, state)| state != SlotState::Free)
                && control.epoch.load(Relaxed) == self.epoch
                && control.packets_received.load(Relaxed) > 0;
            if is_of_run {
                begun.push(control.image_id.load(Relaxed));
            }
            if let Some((tag, SlotState::Open | SlotState::Closing)) = state {
                self.openings = self.openings.max(tag);
            }
            match has_left {
                true => self.give_back(slot),
                false => {
                    control.word.store(slot_word(self.openings, SlotState::Closing), Relaxed);
                    self.quarantine.push(slot);
                }
            }
        }
        self.committed.make_contiguous().sort_unstable();
        header.counters.slots_in_quarantine.store(self.quarantine.len() as u64, Relaxed);
        begun
    }

    /// Goes on in the run of the owner before: ids that it had not told of are lost to its death. Those
    /// that it had closed are in the counters already.
    fn resume_run(&mut self, begun: &[u64]) {
        let ring = self.ring.clone();
        let header = ring.header();
        let closed_end = unpack_run(header.base.load(Relaxed), self.epoch).unwrap_or(0);
        let last = self
            .head
            .checked_sub(1)
            .map(|seq| ring.commit(seq))
            .filter(|entry| entry.epoch.load(Relaxed) == self.epoch);
        let counts_from = unpack_run(header.counts_from.load(Relaxed), self.epoch);
        let accounted = match last {
            Some(entry) => Accounted::unpack(entry.accounted.load(Relaxed)).end_id,
            None => counts_from.or(begun.iter().copied().min()).unwrap_or(closed_end),
        };
        let begun_end = begun.iter().max().map_or(0, |last| last + 1);
        self.run_counts = counts_from.is_some();
        self.base = begun_end.max(accounted).max(closed_end);
        let counted_end = closed_end.max(accounted);
        self.lost.push(LostRange { first_id: accounted, count: counted_end - accounted, cause: LossCause::OwnerDown });
        if self.base > counted_end {
            self.lose(counted_end, self.base - counted_end, LossCause::OwnerDown);
        }
        crash_point!("takeover: losses counted");
        self.publish_base(self.base);
        crash_point!("takeover: base told");
        self.empty_cause = LossCause::OwnerDown;
        self.open_ahead();
    }
}
