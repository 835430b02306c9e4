//! The trace that this thread works in: what it sends is part of it.

use ecs_schemas::trace::Trace;
use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

thread_local! {
    static CURRENT: Cell<Option<Trace>> = const { Cell::new(None) };
}

/// Runs `work` in a trace. What was current before is current again afterwards, also after a panic.
pub fn within<T>(trace: Option<Trace>, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Trace>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.replace(trace));
    work()
}

/// The place of a message that is sent now: a new span, within the current trace if there is one.
pub fn next() -> Trace {
    let span = random();
    match CURRENT.get() {
        Some(current) => Trace { trace: current.trace, span, parent: current.span },
        None => Trace { trace: span, span, parent: 0 },
    }
}

/// Not 0, and different in every process and each time.
fn random() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        // The standard library's hash maps are seeded by the system's random numbers.
        static STATE: RandomState = RandomState::new();
    }
    STATE.with(|state| state.hash_one(COUNT.fetch_add(1, Ordering::Relaxed))).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_within_a_trace_is_its_child_and_afterwards_begins_one_of_its_own() {
        let outer = next();
        assert_eq!((outer.trace, outer.parent), (outer.span, 0));
        let inner = within(Some(outer), next);
        assert_eq!((inner.trace, inner.parent), (outer.trace, outer.span));
        assert_ne!(inner.span, outer.span);
        let _ = std::panic::catch_unwind(|| within(Some(outer), || panic!("a handler breaks")));
        assert_eq!(next().parent, 0);
    }
}
