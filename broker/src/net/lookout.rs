//! Whether the loop looks again before it sleeps.
//!
//! *Why?* To sleep and be woken takes longer than all work for a call where an idle core must be woken first: a question passes the
//! broker twice. So while messages come in quick succession, the loop looks for the next one for a moment, and sleeps then.
//!
//! # Rules
//! K1  It looks for `LOOK_MAX` at most, and only after messages that came within `LOOK_GAP` of those before: an idle broker sleeps.
//! K2  Looks that find nothing take `LOOK_SHARE` of the time at most.
//! K3  Whoever works gets the core: each look lets others run first, and if it had to wait for long, the loop sleeps at once and
//!     does not look again for `LOOK_PAUSE`.
//! K4  A thread of real-time priority does not look: nobody would get its core meanwhile.

use crate::limits::{LOOK_ALLOWANCE_MAX, LOOK_GAP, LOOK_LATE, LOOK_MAX, LOOK_PAUSE, LOOK_SHARE};
use std::{
    thread,
    time::{Duration, Instant},
};

pub struct Lookout {
    /// When messages were last found, and whether those before were found shortly before (rule K1).
    found: Instant,
    is_quick: bool,
    /// What looks that find nothing may still take, as of `counted` (rule K2).
    allowance: Duration,
    counted: Instant,
    /// Rule K3.
    paused_until: Instant,
}

/// How a look ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Found,
    Nothing,
    /// Somebody else had the core for long.
    Disturbed,
}

impl Lookout {
    pub fn new(now: Instant) -> Self {
        Self { found: now, is_quick: false, allowance: Duration::ZERO, counted: now, paused_until: now }
    }

    /// Messages were found.
    pub fn note_found(&mut self, now: Instant) {
        self.is_quick = now - self.found <= LOOK_GAP;
        self.found = now;
    }

    /// Looks for a moment, if this is the time for it; true if something `is_there`.
    pub fn look(&mut self, is_there: impl Fn() -> bool) -> bool {
        let begun = Instant::now();
        let Some(until) = self.until(begun) else { return false };
        let mut now = begun;
        let look = loop {
            if is_there() {
                break Look::Found;
            }
            if now >= until {
                break Look::Nothing;
            }
            thread::yield_now();
            let before = std::mem::replace(&mut now, Instant::now());
            if now - before > LOOK_LATE {
                break Look::Disturbed;
            }
        };
        self.end(look, begun, now);
        look == Look::Found
    }

    /// How long it may look from now on.
    fn until(&mut self, now: Instant) -> Option<Instant> {
        let earned = (now - self.counted).mul_f64(LOOK_SHARE);
        self.allowance = LOOK_ALLOWANCE_MAX.min(self.allowance + earned);
        self.counted = now;
        let is_time = self.is_quick && now - self.found <= LOOK_GAP && now >= self.paused_until;
        (is_time && self.allowance >= LOOK_MAX && !has_realtime_priority()).then(|| now + LOOK_MAX)
    }

    fn end(&mut self, look: Look, begun: Instant, now: Instant) {
        match look {
            Look::Found => {}
            Look::Nothing => self.allowance = self.allowance.saturating_sub(now - begun),
            Look::Disturbed => self.paused_until = now + LOOK_PAUSE,
        }
    }
}

/// Whether the calling thread has it (rule K4).
fn has_realtime_priority() -> bool {
    // SAFETY: it only reads what the kernel knows of this thread.
    let policy = unsafe { libc::sched_getscheduler(0) };
    matches!(policy & !libc::SCHED_RESET_ON_FORK, libc::SCHED_RR | libc::SCHED_FIFO)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One to whom messages come `apart` from each other, for a second, and none of whose looks finds any.
    fn looked_in_a_second(apart: Duration) -> Duration {
        let start = Instant::now();
        let (mut lookout, mut now, mut looked) = (Lookout::new(start), start, Duration::ZERO);
        while now < start + Duration::from_secs(1) {
            lookout.note_found(now);
            if let Some(until) = lookout.until(now) {
                lookout.end(Look::Nothing, now, until);
                looked += until - now;
            }
            now += apart;
        }
        looked
    }

    #[test]
    fn looks_only_while_messages_come_quickly_and_for_its_share_of_the_time() {
        assert_eq!(looked_in_a_second(LOOK_GAP * 2), Duration::ZERO);
        let looked = looked_in_a_second(LOOK_GAP / 2);
        let share = Duration::from_secs(1).mul_f64(LOOK_SHARE);
        assert!(looked > share / 2 && looked <= share + LOOK_ALLOWANCE_MAX, "{looked:?}");
    }

    #[test]
    fn a_look_that_finds_costs_no_allowance_and_one_that_was_disturbed_is_the_last_for_a_while() {
        let start = Instant::now();
        let mut lookout = Lookout::new(start);
        let mut now = start + LOOK_MAX.mul_f64(2.0 / LOOK_SHARE);
        let quick = |lookout: &mut Lookout, now: Instant| {
            lookout.note_found(now - LOOK_GAP);
            lookout.note_found(now);
            lookout.until(now)
        };
        for _ in 0..1000 {
            now += LOOK_GAP;
            assert!(quick(&mut lookout, now).is_some());
            lookout.end(Look::Found, now, now + LOOK_MAX);
        }
        lookout.end(Look::Disturbed, now, now + LOOK_LATE);
        assert!(quick(&mut lookout, now + LOOK_PAUSE).is_none());
        assert!(quick(&mut lookout, now + LOOK_PAUSE * 2).is_some());
    }

    #[test]
    fn a_thread_of_real_time_priority_does_not_look() {
        let tried = thread::spawn(|| {
            let parameter = libc::sched_param { sched_priority: 1 };
            // SAFETY: the call reads the parameter, which lives across it, and nothing else.
            let is_set = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const parameter) } == 0;
            let now = Instant::now();
            let mut ready = Lookout { allowance: LOOK_ALLOWANCE_MAX, is_quick: true, ..Lookout::new(now) };
            (is_set, ready.until(now).is_some())
        });
        let (is_set, looks) = tried.join().unwrap();
        assert_ne!(is_set, looks, "one that may not have it looks");
    }

    #[test]
    fn sees_what_comes_while_it_looks() {
        // Found a moment ahead: however late this thread comes to its look, that was shortly before.
        let (paused_until, found) = (Instant::now(), Instant::now() + Duration::from_secs(60));
        let ready = || Lookout { allowance: LOOK_ALLOWANCE_MAX, is_quick: true, paused_until, ..Lookout::new(found) };
        assert!(ready().look(|| true));
        assert!(!Lookout { is_quick: false, ..ready() }.look(|| true), "nothing has come quickly yet");
    }
}
