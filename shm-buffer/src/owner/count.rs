//! Counting: every image and every loss once, at whatever instruction the owner dies (O6).
//!
//! ```text
//! journal off ─▶ counters as they are, into the journal ─▶ journal on ─▶ count ─▶ publish (head, or base)
//!                                                          └─ died here: who takes over puts them back ─┘
//! ```
//!
//! A counter and the word that says what was counted (the head for images, the base for losses) are two
//! stores, and a kill may come between. The journal keeps the counters from before; whether its work was
//! published tells whether it holds. Putting back is storing old values: it may itself be killed and done
//! again. What was put back is then counted anew, as what became of it: an owner's death.
//!
//! A process that is killed has done all stores up to some instruction and none after it; only the compiler
//! could change their order, and [`keep_order`] forbids that.

use super::Owner;
use crate::{
    crash::crash_point,
    layout::{OwnerCounters, pack_run},
    loss::LossCause,
    participant::Role,
    sync::{AtomicU64, Relaxed, keep_order},
};

const NOTHING: u64 = 0;
const IMAGE: u64 = 1;
const LOST: u64 = 2;

impl Owner {
    /// Counts the image that is published next.
    pub(super) fn count_image(&self, missing_packets: u64) {
        let counters = &self.ring.header().counters;
        self.begin_count(IMAGE, self.head, &image_counters(counters));
        add(if missing_packets == 0 { &counters.complete } else { &counters.partial }, 1);
        crash_point!("count: half");
        add(&counters.missing_packets, missing_packets);
        crash_point!("count: image");
    }

    /// Counts ids that are lost, up to before `end_id`: the base that is published next.
    pub(super) fn count_lost(&self, end_id: u64, ids: u64, cause: LossCause) {
        let counter = &self.ring.header().counters.lost[cause as usize];
        self.begin_count(LOST | (cause as u64) << 8, pack_run(self.epoch, end_id), &[counter]);
        add(counter, ids);
        crash_point!("count: lost");
    }

    /// Counts a slot that an image gets. It comes before any packet of it, so before the image can be counted.
    pub(super) fn count_opened(&self) {
        add(&self.ring.header().counters.opened, 1);
    }

    /// Counts a slot that was opened and holds no image that is published.
    pub(super) fn count_discarded(&self) {
        add(&self.ring.header().counters.discarded, 1);
    }

    /// Nothing is open, and what was counted and not published is taken back: all that was opened and is no image
    /// was discarded, by whoever died at whichever instruction.
    pub(super) fn settle_discarded(&self) {
        let counters = &self.ring.header().counters;
        let images = counters.complete.load(Relaxed).saturating_add(counters.partial.load(Relaxed));
        counters.discarded.store(counters.opened.load(Relaxed).saturating_sub(images), Relaxed);
    }

    /// Charges an image that was lost for want of a slot to the reliable readers that hold the oldest step: they are
    /// what it waited for. One that leaves in this moment may leave its charge to who takes its place.
    pub(super) fn charge_readers(&self) {
        let oldest = self.oldest_cursor();
        if oldest < self.head {
            let readers = self.ring.participants().iter().filter(|place| place.is(Role::ReliableReader));
            let holding = readers.filter(|place| place.cursor.load(Relaxed) == oldest);
            holding.for_each(|place| add(&place.refused, 1));
        }
    }

    fn begin_count(&self, what: u64, until: u64, counters: &[&AtomicU64]) {
        let journal = &self.ring.header().journal;
        journal.what.store(NOTHING, Relaxed);
        keep_order();
        for (before, counter) in journal.before.iter().zip(counters) {
            before.store(counter.load(Relaxed), Relaxed);
        }
        journal.until.store(until, Relaxed);
        keep_order();
        journal.what.store(what, Relaxed);
        keep_order();
    }

    /// Takes back what the owner before had counted and not published.
    pub(super) fn undo_unfinished_count(&self) {
        let header = self.ring.header();
        let (journal, counters) = (&header.journal, &header.counters);
        let (what, until) = (journal.what.load(Relaxed), journal.until.load(Relaxed));
        let put_back = |counters: &[&AtomicU64]| {
            for (counter, before) in counters.iter().zip(&journal.before) {
                counter.store(before.load(Relaxed), Relaxed);
            }
        };
        match (what & 0xff, LossCause::from_code(what >> 8)) {
            (IMAGE, _) if header.commit_head.load(Relaxed) <= until => put_back(&image_counters(counters)),
            (LOST, Some(cause)) if !is_past(header.base.load(Relaxed), until) => {
                put_back(&[&counters.lost[cause as usize]]);
            }
            _ => {}
        }
        keep_order();
        journal.what.store(NOTHING, Relaxed);
    }
}

fn image_counters(counters: &OwnerCounters) -> [&AtomicU64; 3] {
    [&counters.complete, &counters.partial, &counters.missing_packets]
}

/// The owner is the only writer: an addition need not be one step.
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Relaxed).saturating_add(count), Relaxed);
}

/// Whether a base has reached a run word. One of another run has: runs only follow each other, and the
/// base of the next one is published after all that was counted of this one.
fn is_past(base: u64, until: u64) -> bool {
    base >> 48 != until >> 48 || base >= until
}
