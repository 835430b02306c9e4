//! Sleeping on a word in shared memory, and waking whoever sleeps on it.
//!
//! A sleeper first sets the word's waiters flag and then sleeps only if the word still has the value
//! that it read before; a waker changes the word first and then looks at the flag. So a side that is
//! awake costs the other no system call, and no wake-up is lost: see [`Event`].

use crate::{
    crash::crash_point,
    sync::{Acquire, AtomicU32, Relaxed, Release, SeqCst, fence, futex_wait, futex_wake},
};
use std::time::Duration;

/// An event word and the flag of those who sleep on it.
pub(crate) struct Event<'a> {
    pub word: &'a AtomicU32,
    pub waiters: &'a AtomicU32,
}

impl Event<'_> {
    /// The value to pass to [`Event::wait`]: read it before looking at what the event is about.
    pub fn ticket(&self) -> u32 {
        self.word.load(Acquire) // pairs with Release in `signal`: what the event is about is seen
    }

    /// Sleeps until the word changes from `ticket` or the time is over. May wake for nothing.
    pub fn wait(&self, ticket: u32, timeout: Duration) {
        self.waiters.store(1, Relaxed);
        // Pairs with the fence in `signal`: either the waker sees our flag, or the kernel sees its change.
        fence(SeqCst);
        crash_point!("wait: announced");
        futex_wait(self.word, ticket, timeout);
    }

    /// Changes the word and wakes the sleepers, if there are any.
    pub fn signal(&self) {
        self.word.fetch_add(1, Release); // pairs with Acquire in `ticket`
        fence(SeqCst); // pairs with the fence in `wait`
        crash_point!("signal: word changed");
        if self.waiters.load(Relaxed) != 0 && self.waiters.swap(0, Relaxed) != 0 {
            // A second sleeper may have read the new word and set the flag that was just cleared, but
            // not be asleep yet: the wake-up below would miss it, and later signals find no flag. This
            // change makes its ticket stale.
            self.word.fetch_add(1, Relaxed);
            crash_point!("signal: flag taken");
            futex_wake(self.word);
        }
    }
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_signal_after_the_ticket_is_never_slept_through() {
        let (word, waiters) = (AtomicU32::new(0), AtomicU32::new(0));
        let event = Event { word: &word, waiters: &waiters };
        let ticket = event.ticket();
        event.signal();
        let start = Instant::now();
        event.wait(ticket, Duration::from_secs(20));
        assert!(start.elapsed() < Duration::from_secs(10), "slept through a signal that came before");
    }

    #[test]
    fn a_sleeper_is_woken_by_another_thread() {
        let (word, waiters) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            let event = Event { word: &word, waiters: &waiters };
            let ticket = event.ticket();
            scope.spawn(|| Event { word: &word, waiters: &waiters }.signal());
            let start = Instant::now();
            while event.ticket() == ticket {
                event.wait(ticket, Duration::from_secs(20));
            }
            assert!(start.elapsed() < Duration::from_secs(10));
        });
    }
}
