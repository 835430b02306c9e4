//! An alarm clock that one thread sets and another sleeps on, so that setting it wakes nobody.

use rustix::{
    io::{Errno, read},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
};
use std::{io, os::fd::OwnedFd, time::Duration};

pub struct Timer(OwnedFd);

impl Timer {
    /// # Errors
    /// Out of file descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?))
    }

    /// Rings once, after so long.
    pub fn set(&self, after: Duration) {
        let after = after.max(Duration::from_nanos(1)); // 0 would stop it
        let it_value = Timespec { tv_sec: after.as_secs() as i64, tv_nsec: after.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once).expect("the clock is there and the time is one");
    }

    /// Sleeps until it has rung.
    pub fn wait(&self) {
        let mut rings = [0; 8];
        while read(&self.0, &mut rings) == Err(Errno::INTR) {}
    }
}
