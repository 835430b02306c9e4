//! Taking over: what the owner before left behind, at whatever instruction it died.

use super::Owner;
use crate::{
    layout::{NO_SLOT_TOUCHED, SlotState, pack_slot, split_slot_word, unpack_run, unpack_slot},
    loss::{LossCause, LostRange},
    participant,
    process::{Liveness, ProcessId},
    sync::{Acquire, Relaxed, SeqCst, fence},
};

impl Owner {
    /// Reads the state back from the ring. On a new ring this finds every slot free.
    ///
    /// A commit counts when the head has passed it: what was published behind the head was seen by
    /// nobody and is taken back. What was open is emptied and counted lost.
    pub(super) fn recover(&mut self, process: ProcessId, liveness: &dyn Liveness) {
        let ring = self.ring.clone();
        let header = ring.header();
        header.owner_start_time.store(process.start_time, Relaxed);
        header.owner_pid.store(process.pid, Relaxed);
        header.owners.fetch_add(1, Relaxed);
        header.deadline_ns.store(self.deadline_ns, Relaxed);
        header.slots_wanted.store(0, Relaxed);
        header.closed.store(0, Relaxed);
        participant::free_the_dead(&ring, liveness);
        self.epoch = header.epoch.load(Acquire);
        let (begun_first, begun_end) = self.empty_window();
        self.collect_slots(liveness);
        if self.epoch > 0 {
            self.resume_run(begun_first, begun_end);
        }
    }

    /// Takes every image out of the window. Returns the lowest id of which a packet had come, and the
    /// one behind the highest.
    fn empty_window(&mut self) -> (Option<u64>, u64) {
        let ring = self.ring.clone();
        let entries: Vec<u64> = ring.header().window_table.iter().map(|entry| entry.swap(0, SeqCst)).collect();
        fence(SeqCst); // R3: pairs with the fence in Contributor::protect
        let (mut first, mut end) = (None::<u64>, 0);
        for (id, slot) in entries.into_iter().filter_map(unpack_slot) {
            let begun = match slot {
                slot if slot < NO_SLOT_TOUCHED => ring.slot(slot).packets_received.load(Acquire) > 0,
                slot => slot == NO_SLOT_TOUCHED,
            };
            if begun {
                first = Some(first.map_or(id, |first| first.min(id)));
                end = end.max(id + 1);
            }
        }
        (first, end)
    }

    /// Sorts the slots. A contributor may still be in any that is not committed, not only in those of
    /// the window: the owner before may have died between closing an image and waiting, or have had the
    /// slot in quarantine.
    fn collect_slots(&mut self, liveness: &dyn Liveness) {
        let ring = self.ring.clone();
        let head = ring.header().commit_head.load(Relaxed);
        for slot in 0..ring.geometry().slots as u16 {
            let word = ring.slot(slot).word.load(Relaxed);
            match split_slot_word(word) {
                Some((seq, SlotState::Committed))
                    if seq < head && ring.commit(seq).word.load(Relaxed) == pack_slot(seq, slot) =>
                {
                    self.committed.push_back((seq, slot));
                }
                other => {
                    if let Some((tag, SlotState::Open | SlotState::Closing)) = other {
                        self.openings = self.openings.max(tag);
                    }
                    match self.wait_until_left(slot, liveness) {
                        true => self.give_back(slot),
                        false => self.quarantine.push(slot),
                    }
                }
            }
        }
        self.committed.make_contiguous().sort_unstable();
        ring.header().counters.slots_in_quarantine.store(self.quarantine.len() as u64, Relaxed);
    }

    /// Goes on in the run of the owner before: ids that it had not told of are lost to its death. Those
    /// that it had closed are in the counters already.
    fn resume_run(&mut self, begun_first: Option<u64>, begun_end: u64) {
        let ring = self.ring.clone();
        let (header, head) = (ring.header(), ring.header().commit_head.load(Relaxed));
        let closed_end = unpack_run(header.base.load(Relaxed), self.epoch).unwrap_or(0);
        let last =
            head.checked_sub(1).map(|seq| ring.commit(seq)).filter(|entry| entry.epoch.load(Relaxed) == self.epoch);
        let accounted = match last {
            Some(entry) => entry.accounted_id.load(Relaxed),
            None => begun_first.unwrap_or(closed_end),
        };
        self.run_counts = last.is_some();
        self.base = begun_end.max(accounted).max(closed_end);
        let counted = closed_end.saturating_sub(accounted);
        self.lost.push(LostRange { first_id: accounted, count: counted, cause: LossCause::OwnerDown });
        if self.base > accounted + counted {
            self.lose(accounted + counted, self.base - accounted - counted, LossCause::OwnerDown);
        }
        self.empty_cause = LossCause::OwnerDown;
        self.open_ahead();
    }
}
