//! Closing: when an image is due, how contributors leave it, and what becomes of it.

use super::{Owner, Surroundings};
use crate::{
    crash::crash_point,
    layout::{NO_SLOT_TOUCHED, SlotState, pack_slot, slot_word, unpack_run},
    limits::{HAZARD_SLOTS, HAZARD_SPINS, HAZARD_WAIT_NS, REORDER_IMAGES},
    loss::LossCause,
    participant::Role,
    process::Liveness,
    sync::{Acquire, Relaxed, SeqCst, fence, prefetch_to_write},
};

impl Owner {
    /// Commits the images at the front that have all their packets: they leave the window together, and who sleeps is
    /// woken once.
    pub(super) fn commit_whole(&mut self, surroundings: &mut Surroundings<'_>) {
        loop {
            let is_whole = |slot: &Option<u16>| slot.is_some_and(|slot| self.is_whole(slot));
            if !self.open.front().is_some_and(is_whole) {
                self.tell_readers();
                return;
            }
            // Readers have this line: it comes while the images are counted and closed.
            prefetch_to_write(std::ptr::from_ref(self.ring.commit(self.head)).cast());
            let whole = self.open.iter().take_while(|slot| is_whole(slot)).count();
            for (id, &slot) in (self.base..).zip(self.open.iter().take(whole).flatten()) {
                self.ring.window_entry(id).store(0, Relaxed);
                self.mark_closing(slot);
            }
            fence(SeqCst); // R3: pairs with the fence in Contributor::protect
            crash_point!("close: closing whole");
            self.read_hazards();
            for _ in 0..whole {
                let slot = self.open.pop_front().flatten().expect("counted above");
                self.base += 1;
                let is_left = !self.hazards.iter().any(|&hazard| names(hazard, slot))
                    || self.wait_until_left(slot, surroundings.liveness);
                self.end_slot(self.base - 1, slot, is_left, surroundings);
                self.publish_closed();
            }
        }
    }

    fn is_whole(&self, slot: u16) -> bool {
        self.packets_received(slot) == self.ring.geometry().packets_per_image
    }

    /// Whether the oldest open image is to be closed now (O3). Ids below `due_end` are.
    pub(super) fn head_is_due(&self, due_end: u64, mono_ns: u64) -> bool {
        let Some(&slot) = self.open.front() else { return false };
        match slot {
            Some(slot) if self.is_whole(slot) => return true,
            None if self.is_touched(self.base) => return true,
            _ => {}
        }
        self.base < due_end || self.waited_since_ns().is_some_and(|since| self.is_over(since, mono_ns))
    }

    fn is_over(&self, since_ns: u64, mono_ns: u64) -> bool {
        mono_ns.saturating_sub(since_ns) >= self.deadline_ns
    }

    /// Where ids jumped by more than the window, the ones between are lost in one go: a step must end
    /// soon however far the jump is.
    pub(super) fn skip_gap(&mut self, due_end: u64, surroundings: &mut Surroundings<'_>) {
        if due_end <= self.base + self.open.len() as u64 {
            return;
        }
        while !self.open.is_empty() {
            self.close_head(surroundings);
        }
        self.lose_empty(self.base, due_end - self.base);
        self.base = due_end;
        self.publish_base(self.base);
    }

    fn packets_received(&self, slot: u16) -> u32 {
        self.ring.slot(slot).packets_received.load(Relaxed) // what it stands for is seen by `holder`
    }

    /// A packet of this image was thrown away because it had no slot.
    fn is_touched(&self, id: u64) -> bool {
        self.ring.window_entry(id).load(Relaxed) == pack_slot(id, NO_SLOT_TOUCHED)
    }

    /// Since when the deadline of the open images runs (O3). None: they have no packets.
    pub(super) fn waited_since_ns(&self) -> Option<u64> {
        let first_packet_ns = |&slot: &u16| self.ring.slot(slot).first_packet_ns.load(Relaxed);
        let lowest = self.open.iter().flatten().map(first_packet_ns).find(|&ns| ns > 0)?;
        Some(lowest.max(self.newest_closed_ns))
    }

    /// Ids below this one are due whatever has come of them: every contributor that is not silent has
    /// shown ids far enough above them.
    pub(super) fn passed_end(&self, mono_ns: u64) -> u64 {
        let mut lowest = None::<u64>;
        for place in self.ring.participants().iter().filter(|place| place.is(Role::Contributor)) {
            let heard_ns = place.last_placed_ns.load(Relaxed).max(self.resumed_ns);
            let is_silent = self.is_over(heard_ns, mono_ns);
            match unpack_run(place.progress.load(Relaxed), self.epoch) {
                Some(progress) if !is_silent => lowest = Some(lowest.map_or(progress, |lowest| lowest.min(progress))),
                None if !is_silent => return 0,
                _ => {}
            }
        }
        lowest.map_or(0, |lowest| (lowest + 1).saturating_sub(REORDER_IMAGES))
    }

    /// Closes the oldest open image: committed, or lost, or (before a run's first image) nothing.
    pub(super) fn close_head(&mut self, surroundings: &mut Surroundings<'_>) {
        let slot = self.open.pop_front().expect("only called with an open image");
        let id = self.base;
        self.base += 1;
        // From here on no contributor finds the image; `touched` is what the last of them left behind.
        let touched = self.ring.window_entry(id).swap(0, Relaxed) == pack_slot(id, NO_SLOT_TOUCHED);
        match slot {
            Some(slot) => {
                self.mark_closing(slot);
                fence(SeqCst); // R3: pairs with the fence in Contributor::protect
                crash_point!("close: closing");
                let is_left = self.wait_until_left(slot, surroundings.liveness);
                self.end_slot(id, slot, is_left, surroundings);
            }
            None if touched => self.lose(id, 1, LossCause::RingFull),
            None => self.lose_empty(id, 1),
        }
        self.publish_closed();
        self.tell_readers();
        if slot.is_none() && touched {
            self.charge_readers();
        }
    }

    /// After an image was counted: who takes over counts what is not below the base.
    fn publish_closed(&self) {
        crash_point!("close: counted");
        self.publish_base(self.base - self.empty_tail.unwrap_or(0));
    }

    fn mark_closing(&self, slot: u16) {
        let word = &self.ring.slot(slot).word;
        word.store(slot_word(word.load(Relaxed) >> 3, SlotState::Closing), Relaxed);
    }

    /// Ends an image that has left the window: committed, or lost where a contributor has not left it.
    fn end_slot(&mut self, id: u64, slot: u16, is_left: bool, surroundings: &mut Surroundings<'_>) {
        self.newest_closed_ns = self.newest_closed_ns.max(self.ring.slot(slot).first_packet_ns.load(Relaxed));
        if !is_left {
            self.quarantine.push(slot);
            self.count_discarded();
            self.ring.header().counters.slots_in_quarantine.store(self.quarantine.len() as u64, Relaxed);
            match self.packets_received(slot) > 0 || self.run_counts && self.empty_tail.is_none() {
                true => self.lose(id, 1, LossCause::ReadoutStuck),
                false => self.lose_empty(id, 1),
            }
        } else if self.packets_received(slot) == 0 {
            self.give_back(slot);
            self.count_discarded();
            self.lose_empty(id, 1);
        } else {
            self.commit(id, slot, surroundings);
        }
    }

    /// Ids of which no packet came. Below a run's first image that says nothing.
    fn lose_empty(&mut self, first_id: u64, count: u64) {
        match &mut self.empty_tail {
            _ if !self.run_counts => {}
            Some(tail) => *tail += count,
            None => self.lose(first_id, count, self.empty_cause),
        }
    }

    fn commit(&mut self, id: u64, slot: u16, surroundings: &mut Surroundings<'_>) {
        self.count_empty_tail(id);
        self.count_run_from(id);
        let missing = self.fill_missing(slot, surroundings.fill);
        // One that died between its two marks has counted one less.
        let received = self.ring.geometry().packets_per_image - missing as u32;
        self.ring.slot(slot).packets_received.store(received, Relaxed);
        self.count_image(missing);
        self.empty_cause = LossCause::NotReceived;
        self.publish(Some(slot), id + 1, surroundings.now);
    }

    /// Fills the places of the packets that are not there. Returns how many.
    fn fill_missing(&self, slot: u16, fill: &mut dyn FnMut(&mut [u8], usize)) -> u64 {
        let packets = self.ring.geometry().packets_per_image;
        if self.is_whole(slot) {
            return 0;
        }
        // SAFETY: R1 and O4: the slot is CLOSING and no contributor is in it; readers do not use it
        // before it is committed. The slot's pixels are `image_bytes` long.
        let pixels =
            unsafe { std::slice::from_raw_parts_mut(self.ring.pixels(slot), self.ring.geometry().image_bytes()) };
        let bitmap = self.ring.bitmap(slot);
        let is_missing = |packet: &usize| bitmap[packet / 64].load(Relaxed) & 1 << (packet % 64) == 0;
        let missing = (0..packets as usize).filter(is_missing);
        missing.map(|packet| fill(pixels, packet)).count() as u64
    }

    /// Waits, bounded, until no living contributor names the slot in its hazard word (O4).
    pub(super) fn wait_until_left(&mut self, slot: u16, liveness: &dyn Liveness) -> bool {
        for _ in 0..HAZARD_SPINS {
            if self.holder(slot, &crate::process::Assume(true)).is_none() {
                return true;
            }
            crate::sync::spin_loop();
        }
        self.tell_readers(); // of what was committed before: this may take long
        let deadline_ns = super::monotonic_ns() + HAZARD_WAIT_NS;
        while let Some((place, hazard)) = self.holder(slot, liveness) {
            // One that was not in time before, and has not moved since, is not waited for again.
            if self.stuck.contains(&(place, hazard)) {
                return false;
            }
            if super::monotonic_ns() >= deadline_ns {
                self.stuck.retain(|&(stuck, _)| stuck != place);
                self.stuck.push((place, hazard));
                return false;
            }
            crate::sync::nap(); // it may need this very core to leave
        }
        true
    }

    /// A living contributor whose hazard word names the slot, and that word.
    pub(super) fn holder(&self, slot: u16, liveness: &dyn Liveness) -> Option<(usize, u64)> {
        let is_alive = |index: usize| self.ring.places()[index].who().is_some_and(|(one, _)| liveness.is_alive(one));
        self.hazards().find(|&(index, hazard)| names(hazard, slot) && is_alive(index))
    }

    /// What all contributors name now: for many images that are closing together, one look is enough. Who names none of them
    /// then will name none any more (R3), and what it has written there is seen.
    fn read_hazards(&mut self) {
        let mut hazards = std::mem::take(&mut self.hazards);
        hazards.clear();
        hazards.extend(self.hazards().map(|(_, hazard)| hazard));
        self.hazards = hazards;
    }

    /// The hazard word of each contributor, with its place.
    fn hazards(&self) -> impl Iterator<Item = (usize, u64)> {
        let places = self.ring.participants().iter().enumerate();
        let contributors = places.filter(|(_, place)| place.is(Role::Contributor));
        contributors.map(|(index, place)| (index, place.hazard.load(Acquire))) // pairs with Release in Access::drop
    }
}

/// Whether a hazard word names a slot.
fn names(hazard: u64, slot: u16) -> bool {
    const SHIFTS: [u32; HAZARD_SLOTS] = [0, 16, 32, 48]; // known ones: looked through without a check of any
    let named = slot + 1;
    SHIFTS.iter().any(|shift| (hazard >> shift) as u16 == named)
}
