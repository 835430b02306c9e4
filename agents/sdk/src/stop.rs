//! The wish to stop: from SIGTERM, SIGINT (Ctrl-C), or the program itself.
//!
//! ```text
//! signal ──▶ handler: word += 1, futex wake ──▶ every Stop::wait returns at once
//! ```
//!
//! The handler does only what POSIX allows in one: it changes an atomic and makes one system call. It
//! does not take a lock and does not allocate.
//!
//! Why `unsafe` here, when the architecture keeps it to the data path? A signal handler cannot be installed
//! without it, and the standard library has none; a crate for it would hide the same three calls.

use std::{
    ptr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicPtr, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// The installed word, for the handler. Null until [`install`]; the word itself is never freed.
static WORD: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());
static INSTALLED: OnceLock<Stop> = OnceLock::new();

/// Whether the process is asked to stop. Clones are the same wish.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// How often it was asked.
    word: Arc<AtomicU32>,
}

/// From now on SIGTERM and SIGINT set the returned wish instead of ending the process. Calling it again
/// returns the same wish.
pub fn install() -> Stop {
    let stop = INSTALLED.get_or_init(|| {
        let stop = Stop::default();
        // Release pairs with Acquire in `on_signal`. The word lives for ever: INSTALLED keeps its Arc.
        WORD.store(Arc::as_ptr(&stop.word).cast_mut(), Ordering::Release);
        handle(libc::SIGTERM);
        handle(libc::SIGINT);
        stop
    });
    stop.clone()
}

impl Stop {
    /// A wish of its own, which no signal sets.
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_set(&self) -> bool {
        self.count() > 0
    }

    /// How often it was asked: a person who presses Ctrl-C twice means it.
    pub fn count(&self) -> u32 {
        self.word.load(Ordering::Relaxed)
    }

    /// Asks to stop, as a signal would.
    pub fn request(&self) {
        raise(&self.word);
    }

    /// Waits until it is asked to stop, at most for `patience`; true when it is.
    pub fn wait(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while !self.is_set() {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return false;
            }
            sleep_on(&self.word, rest);
        }
        true
    }
}

fn raise(word: &AtomicU32) {
    word.fetch_add(1, Ordering::Relaxed);
    // SAFETY: FUTEX_WAKE only uses the address, of a word that lives as long as `word` is borrowed.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX) };
}

/// Sleeps while the word is 0, at most for `patience`; may return early.
fn sleep_on(word: &AtomicU32, patience: Duration) {
    let seconds = libc::time_t::try_from(patience.as_secs()).unwrap_or(libc::time_t::MAX);
    let patience = libc::timespec { tv_sec: seconds, tv_nsec: patience.subsec_nanos().into() };
    // SAFETY: the word and the timespec live across the call, which reads both and writes neither.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            0,
            &raw const patience,
        )
    };
}

extern "C" fn on_signal(_signal: libc::c_int) {
    // Acquire pairs with Release in `install`.
    let word = WORD.load(Ordering::Acquire);
    // SAFETY: null or a word that INSTALLED keeps for the rest of the process.
    let Some(word) = (unsafe { word.as_ref() }) else { return };
    // SAFETY: errno belongs to this thread. What the handler interrupted may be about to read it.
    let errno = unsafe { *libc::__errno_location() };
    raise(word);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

fn handle(signal: libc::c_int) {
    // SAFETY: all zeros is a valid sigaction (no flags, empty mask).
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as usize;
    action.sa_flags = libc::SA_RESTART; // other calls of the process need not know of the signal
    // SAFETY: the action is complete, and its handler keeps to what POSIX allows in one.
    let result = unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
    assert_eq!(result, 0, "SIGTERM and SIGINT can be handled");
}
