//! Runs: a detector that begins again, and pauses.

use super::{Owner, Surroundings};
use crate::{
    crash::crash_point,
    layout::unpack_run,
    limits::RUN_LEAD_IMAGES,
    loss::LossCause,
    participant::Role,
    sync::{Acquire, Relaxed, Release},
};

impl Owner {
    /// Begins a new run if a contributor asks for one. Several may ask at the same time for the same
    /// one: their words name the run that they saw end, so only the first counts.
    pub(super) fn begin_run_if_asked(&mut self, surroundings: &mut Surroundings<'_>) {
        let asked = |place: &crate::layout::Participant| {
            unpack_run(place.restart.load(Acquire), self.epoch) // pairs with Release in Contributor::request_run
        };
        let contributors = self.ring.participants().iter().filter(|place| place.is(Role::Contributor));
        if let Some(id) = contributors.filter_map(asked).min() {
            self.end_run(surroundings);
            let lead = RUN_LEAD_IMAGES.min(u64::from(self.ring.geometry().window) / 2);
            self.begin_run(id.saturating_sub(lead));
        }
    }

    /// Closes all that is open. Ids without packets at the end were not part of the run, as far as anyone
    /// knows.
    fn end_run(&mut self, surroundings: &mut Surroundings<'_>) {
        self.empty_tail = Some(0);
        while !self.open.is_empty() {
            self.close_head(surroundings);
        }
        self.empty_tail = None;
        if !self.lost.is_empty() && self.notice_fits() {
            self.publish(None, self.base, surroundings.now);
            self.tell_readers();
        }
    }

    fn begin_run(&mut self, first_id: u64) {
        let header = self.ring.header();
        self.epoch += 1;
        self.base = first_id;
        self.run_counts = false;
        self.empty_cause = LossCause::NotReceived;
        self.lost.clear(); // told above, or no reader has read for a whole ring; the counters have them
        let placed = self.ring.participants().iter().map(|place| place.last_placed_ns.load(Relaxed));
        header.run_after_ns.store(placed.max().unwrap_or(0), Relaxed);
        self.publish_base(self.base); // with this the run has begun: who takes over goes on in it
        crash_point!("run: base published");
        header.epoch.store(self.epoch, Release); // pairs with Acquire in Contributor::epoch
        self.open_ahead();
    }

    /// Notes packets that came after a pause: of open images, or of those that closed.
    pub(super) fn note_arrivals(&mut self) {
        let newest = self.open.iter().flatten().map(|&slot| self.ring.slot(slot).first_packet_ns.load(Relaxed)).max();
        let newest = newest.unwrap_or(0).max(self.newest_closed_ns);
        if newest > self.last_first_packet_ns {
            if newest - self.last_first_packet_ns > self.deadline_ns {
                self.resumed_ns = newest;
            }
            self.last_first_packet_ns = newest;
        }
    }
}
