//! Places where a test may make a participant die: between two steps of the protocol.
//!
//! In a normal build the macro is nothing. With the feature `crash-points`, a process whose
//! environment has `ECS_CRASH_POINT=name:n` kills itself (SIGKILL, so that nothing is cleaned up) at
//! the n-th pass of that point. In a model (feature `model`) the participant is abandoned there: its
//! thread unwinds out of the step that it is in, and nobody uses the handle any more.

/// Names a place between two steps. See the module header.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(any(feature = "crash-points", feature = "model"))]
        $crate::crash::pass($name);
    };
}
pub(crate) use crash_point;

/// What a participant that dies in a model unwinds with.
#[cfg(feature = "model")]
pub(crate) struct Death;

#[cfg(feature = "model")]
thread_local! {
    static PLAN: std::cell::Cell<Option<(&'static str, u32)>> = const { std::cell::Cell::new(None) };
}

#[cfg(feature = "model")]
pub(crate) fn plan(death: Option<(&'static str, u32)>) {
    PLAN.set(death);
}

#[cfg(feature = "model")]
pub(crate) fn pass(name: &str) {
    if let Some((planned, nth)) = PLAN.get().filter(|(planned, _)| *planned == name) {
        PLAN.set(Some((planned, nth.saturating_sub(1))));
        if nth == 1 {
            std::panic::resume_unwind(Box::new(Death));
        }
    }
}

#[cfg(all(feature = "crash-points", not(feature = "model")))]
pub(crate) fn pass(name: &str) {
    use std::sync::{Mutex, OnceLock};
    static PLAN: OnceLock<Option<(String, Mutex<u64>)>> = OnceLock::new();
    let plan = PLAN.get_or_init(|| {
        let text = std::env::var("ECS_CRASH_POINT").ok()?;
        let (name, hits) = text.rsplit_once(':')?;
        Some((name.to_owned(), Mutex::new(hits.parse().ok()?)))
    });
    let Some((planned, hits_left)) = plan else { return };
    if planned == name {
        let mut hits_left = hits_left.lock().expect("held for two lines only");
        *hits_left = hits_left.saturating_sub(1);
        if *hits_left == 0 {
            // SAFETY: ends this process; nothing is used afterwards.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
    }
}
