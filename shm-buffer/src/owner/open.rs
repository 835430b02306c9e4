//! Opening: which slot the next image gets, and where it comes from.

use super::Owner;
use crate::{
    crash::crash_point,
    layout::{NO_SLOT, SlotState, pack_run, pack_slot, slot_word},
    process::Liveness,
    sync::{Relaxed, Release, SeqCst, fence, keep_order},
};

impl Owner {
    /// Opens images until the window is full, and gives slots to those that had to open without.
    pub(super) fn open_ahead(&mut self) {
        if self.epoch == 0 {
            return;
        }
        self.give_slots_to_waiting();
        let window = self.ring.geometry().window as usize;
        let moved = self.open.len() < window;
        self.reclaim((window - self.open.len()).saturating_sub(self.free.len()));
        while self.open.len() < window {
            let id = self.base + self.open.len() as u64;
            let slot = self.take_slot();
            if let Some(slot) = slot {
                self.prepare(id, slot);
            }
            // Release pairs with Acquire in Contributor::protect: the prepared slot is seen.
            self.ring.window_entry(id).store(pack_slot(id, slot.unwrap_or(NO_SLOT)), Release);
            self.open.push_back(slot);
        }
        if moved {
            let header = self.ring.header();
            self.publish_base(self.base);
            crate::futex::Event { word: &header.window_event, waiters: &header.window_waiters }.signal();
        }
    }

    /// An image that opened without a slot gets one, as long as no packet of it was thrown away.
    fn give_slots_to_waiting(&mut self) {
        for index in 0..self.open.len() {
            if self.open[index].is_some() {
                continue;
            }
            let id = self.base + index as u64;
            let entry = self.ring.window_entry(id);
            if entry.load(Relaxed) != pack_slot(id, NO_SLOT) {
                continue;
            }
            let Some(slot) = self.take_slot() else { return };
            self.prepare(id, slot);
            let entry = self.ring.window_entry(id);
            if entry.compare_exchange(pack_slot(id, NO_SLOT), pack_slot(id, slot), Release, Relaxed).is_ok() {
                self.open[index] = Some(slot);
            } else {
                self.give_back(slot); // a packet of it was thrown away in this moment
                self.count_discarded();
            }
        }
    }

    /// Tells contributors the lowest id that is open, and who takes over up to where ids are counted.
    pub(super) fn publish_base(&self, counted_end: u64) {
        keep_order(); // O6: what is below it was counted before
        self.ring.header().base.store(pack_run(self.epoch, counted_end), Relaxed);
    }

    fn prepare(&mut self, id: u64, slot: u16) {
        let control = self.ring.slot(slot);
        control.image_id.store(id, Relaxed);
        control.epoch.store(self.epoch, Relaxed);
        control.first_packet_ns.store(0, Relaxed);
        control.packets_received.store(0, Relaxed);
        control.detector_timestamp.store(0, Relaxed);
        control.exposure_length.store(0, Relaxed);
        control.do_not_store.store(0, Relaxed);
        control.made_with.store(0, Relaxed);
        self.ring.bitmap(slot).iter().for_each(|word| word.store(0, Relaxed));
        self.openings += 1;
        self.count_opened();
        control.word.store(slot_word(self.openings, SlotState::Open), Relaxed);
        crash_point!("open: slot prepared");
    }

    pub(super) fn give_back(&mut self, slot: u16) {
        self.ring.slot(slot).word.store(slot_word(0, SlotState::Free), Relaxed);
        self.free.push(slot);
    }

    fn take_slot(&mut self) -> Option<u16> {
        if self.free.is_empty() {
            self.reclaim(1);
        }
        self.free.pop()
    }

    /// Takes back so many of the oldest committed slots at one time, or those that no reliable reader holds.
    fn reclaim(&mut self, slots: usize) {
        let last = slots.min(self.committed.len()).checked_sub(1);
        if let Some(&(seq, _)) = last.and_then(|last| self.committed.get(last)) {
            self.reclaim_below(seq + 1);
        }
    }

    /// Takes back the steps below `seq`, and the slots of their images, as far as no reliable reader holds them
    /// (O4, R5). False if one does.
    pub(super) fn reclaim_below(&mut self, seq: u64) -> bool {
        let end = self.claim_below(seq);
        while let Some(&(oldest, slot)) = self.committed.front()
            && oldest < end
        {
            self.committed.pop_front();
            self.ring.slot(slot).word.store(slot_word(0, SlotState::Free), Relaxed);
            self.free.push(slot);
        }
        // A lossy reader that still copies must see a word change before any new pixel: the change
        // comes first here, and contributors write only behind the window entry's Release.
        fence(Release);
        end >= seq
    }

    /// Tells readers that steps below `seq` are gone, or those below the first that a reliable reader holds (R5).
    /// Returns up to where they are.
    fn claim_below(&self, seq: u64) -> u64 {
        let header = self.ring.header();
        let before = header.reclaimed_seq.load(Relaxed);
        header.reclaimed_seq.store(before.max(seq), Relaxed);
        fence(SeqCst); // R5: pairs with the fence in Reader::join
        let held_from = self.oldest_cursor();
        if held_from < seq {
            // A reader that joins now was seen, or has seen one of the two and begins there or later.
            header.reclaimed_seq.store(before.max(held_from), Relaxed);
        }
        held_from.min(seq)
    }

    /// True if a slot could be had now.
    pub(super) fn can_reclaim(&self) -> bool {
        !self.free.is_empty() || self.committed.front().is_some_and(|&(seq, _)| self.oldest_cursor() > seq)
    }

    /// Slots that their contributors have left by now, or that the dead held, are free again.
    pub(super) fn release_quarantine(&mut self, liveness: &dyn Liveness) {
        if self.quarantine.is_empty() {
            return;
        }
        let (held, left): (Vec<u16>, Vec<u16>) =
            std::mem::take(&mut self.quarantine).into_iter().partition(|&slot| self.holder(slot, liveness).is_some());
        left.into_iter().for_each(|slot| self.give_back(slot));
        self.quarantine = held;
        // Who has moved on is waited for again, also when it comes to hold the same slots once more.
        let places = self.ring.participants();
        self.stuck.retain(|&(place, hazard)| places[place].hazard.load(Relaxed) == hazard);
        self.ring.header().counters.slots_in_quarantine.store(self.quarantine.len() as u64, Relaxed);
    }
}
