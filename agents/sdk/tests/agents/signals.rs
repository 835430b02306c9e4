//! The wish to stop.

use crate::setup::WATCHDOG;
use ecs_sdk::{Stop, stop};
use std::time::{Duration, Instant};

#[test]
fn stop_waits_its_time_and_wakes_at_once_when_it_is_asked() {
    let stop = Stop::new();
    let started = Instant::now();
    assert!(!stop.wait(Duration::from_millis(30)));
    assert!(started.elapsed() >= Duration::from_millis(30));
    let asked = stop.clone();
    let asking = std::thread::spawn(move || {
        std::thread::park_timeout(Duration::from_millis(50));
        asked.request();
    });
    assert!(stop.wait(WATCHDOG));
    assert!(stop.is_set() && started.elapsed() < WATCHDOG);
    asking.join().unwrap();
}

/// Both signals are sent to this process itself; the test harness has no use for them.
#[test]
fn signals_set_the_wish_and_wake_who_waits() {
    let stop = stop::install();
    let waiting = std::thread::spawn({
        let stop = stop.clone();
        move || stop.wait(WATCHDOG)
    });
    for (count, signal) in [(1, libc::SIGTERM), (2, libc::SIGINT)] {
        // SAFETY: sends a signal that `install` handles.
        assert_eq!(unsafe { libc::kill(libc::getpid(), signal) }, 0);
        crate::setup::wait_for("the signal arrived", || stop.count() == count);
    }
    assert!(waiting.join().unwrap());
    assert!(stop::install().is_set(), "it is the same wish");
}
