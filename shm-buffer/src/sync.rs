//! The atomics that the ring is written with: the one place to put a model checker's in.
//!
//! Nothing else in this crate names `std::sync::atomic`; `tests/layout.rs` checks that.

pub use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
pub use std::sync::atomic::{AtomicU32, AtomicU64, fence};

/// Waits a moment inside a short spin.
pub fn spin_loop() {
    std::hint::spin_loop();
}
