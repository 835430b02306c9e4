//! What a run has sent and lost on purpose.

use crate::pace::Pace;
use serde::Serialize;
use std::time::Duration;

/// How often a run tells of its progress, at most: often enough for a bar that moves smoothly.
const PROGRESS_PERIOD: Duration = Duration::from_millis(100);

/// Figures of a run, so far or at its end. At its end `sent = made - dropped + duplicated` holds
/// exactly; before it, packets that were put back to a later turn are made and not yet sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Images (frames, in a replay) whose packets have all had their turn.
    pub images: u64,
    /// Packets that a faultless detector would have sent.
    pub packets_made: u64,
    /// Packets that the kernel has taken, doubles included.
    pub packets_sent: u64,
    /// Packets that were left out on purpose.
    pub packets_dropped: u64,
    /// Packets that were sent a second time.
    pub packets_duplicated: u64,
    /// Packets that were put back to a later turn of their port. A shuffled replay counts none.
    pub packets_reordered: u64,
    /// Bytes of the packets sent, their headers included, those of UDP, IP and below not.
    pub bytes_sent: u64,
    /// How often the network said that nobody listens on a port. The packets still count as sent.
    pub refusals: u64,
    /// How often the kernel had no room and a batch had to be offered again.
    pub send_waits: u64,
    /// From the first packet's turn to now.
    pub seconds: f64,
}

impl Report {
    /// Whether every packet made is accounted for; true at the end of any run.
    pub fn is_balanced(&self) -> bool {
        self.packets_sent + self.packets_dropped == self.packets_made + self.packets_duplicated
    }
}

/// Tells the caller of a run how far it is.
pub(crate) struct Progress<'a> {
    tell: &'a mut dyn FnMut(&Report),
    told_at: Duration,
}

impl<'a> Progress<'a> {
    pub fn new(tell: &'a mut dyn FnMut(&Report)) -> Self {
        Self { tell, told_at: Duration::ZERO }
    }

    /// Tells where enough time has passed since the last time.
    pub fn tick(&mut self, report: &mut Report, pace: &Pace) {
        let now = pace.elapsed();
        if now - self.told_at >= PROGRESS_PERIOD {
            self.told_at = now;
            report.seconds = now.as_secs_f64();
            (self.tell)(report);
        }
    }

    /// Tells the end of a run and hands back its report.
    ///
    /// # Panics
    /// If a packet is unaccounted for: a bug of this crate, which no figure of it would survive.
    pub fn end(self, mut report: Report, pace: &Pace) -> Report {
        report.seconds = pace.elapsed().as_secs_f64();
        assert!(report.is_balanced(), "packets are unaccounted for: {report:?}");
        (self.tell)(&report);
        report
    }
}
