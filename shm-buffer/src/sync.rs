//! The atomics that the ring is written with, and the only waits: the one place to put a model checker in.
//!
//! Nothing else in this crate names `std::sync::atomic`; `tests/layout.rs` checks that. With the feature
//! `model` everything here is loom's (see `sync/model.rs`), for `tests/orderings`.

#[cfg(feature = "model")]
pub use std::sync::atomic::Ordering::AcqRel;
pub use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

#[cfg(feature = "model")]
pub mod model;
#[cfg(feature = "model")]
pub use model::{AtomicU32, AtomicU64, fence, futex_wait, futex_wake, nap, spin_loop};

/// Keeps the compiler from moving stores across: for what a process leaves behind when it is killed. Between
/// living processes it orders nothing.
pub fn keep_order() {
    std::sync::atomic::compiler_fence(SeqCst);
}

/// Asks for the cache line of an address that is read soon. Nothing is read, so the address may be any.
#[inline]
pub fn prefetch(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint of the processor's base set; it faults on no address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}

/// Asks for the cache line of an address that is written soon, for this core alone. Nothing is written.
#[inline]
pub fn prefetch_to_write(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint, of no effect on a processor that does not have it; it faults on no address.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}

#[cfg(not(feature = "model"))]
pub use real::*;

#[cfg(not(feature = "model"))]
mod real {
    pub use std::sync::atomic::{AtomicU32, AtomicU64, fence};
    use std::time::Duration;

    /// Waits a moment inside a short spin.
    pub fn spin_loop() {
        std::hint::spin_loop();
    }

    /// Gives the processor away for a moment, inside a longer wait.
    pub fn nap() {
        std::thread::sleep(Duration::from_micros(20));
    }

    /// Sleeps until woken, while the word has this value; may wake for nothing.
    pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Duration) {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().min(i64::MAX as u64) as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: the word is mapped for as long as it is borrowed, and the timeout lives over the call.
        // The result does not matter: a timeout, a signal and a change all make the caller look again.
        unsafe {
            libc::syscall(libc::SYS_futex, std::ptr::from_ref(word), libc::FUTEX_WAIT, expected, &raw const timeout);
        }
    }

    /// Wakes all who sleep on the word.
    pub fn futex_wake(word: &AtomicU32) {
        // SAFETY: as above; FUTEX_WAKE does not touch the word.
        unsafe {
            libc::syscall(libc::SYS_futex, std::ptr::from_ref(word), libc::FUTEX_WAKE, i32::MAX);
        }
    }
}
