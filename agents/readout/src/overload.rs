//! A detector that sends more than can be received, and for how long.
//!
//! When a socket's buffer is full, the kernel throws away what comes: a few packets of each image, so that
//! soon no image is whole. A short overflow is over before anything could be done about it, and costs a
//! few packets. One that lasts is better answered by throwing away all that waits, whole images, once, and
//! receiving what follows whole until the buffers are full again.

/// Overflow for this long is not a hiccup: a hiccup ends when the readout runs again and takes packets
/// faster than they come.
pub const LASTING_NS: u64 = 20_000_000;
/// Overflows farther apart than this are two hiccups, if the port was seen empty between them.
const APART_NS: u64 = 10_000_000;
/// Farther apart than this they are anyway. A readout that has too little of a processor notices overflows as seldom as it
/// runs, and what it finds is a full buffer each time.
const FULL_APART_NS: u64 = 50_000_000;

/// Follows the kernel's drops over time.
#[derive(Debug, Default)]
pub struct Overload {
    since_ns: u64,
    last_ns: u64,
    /// Ports that have dropped since then. One that is flooded alone is not the detector's overload.
    ports: Vec<usize>,
}

impl Overload {
    /// The kernel has dropped packets of one of `ports` ports, which was seen empty at `emptied_ns`. True when that has
    /// lasted, on most of them; it then begins anew.
    pub fn note_drop(&mut self, port: usize, ports: usize, emptied_ns: u64, now_ns: u64) -> bool {
        let apart_ns = if emptied_ns > self.last_ns { APART_NS } else { FULL_APART_NS };
        if now_ns.saturating_sub(self.last_ns) > apart_ns {
            *self = Self { since_ns: now_ns, ..Self::default() };
        }
        self.last_ns = now_ns;
        if !self.ports.contains(&port) {
            self.ports.push(port);
        }
        let lasting = now_ns.saturating_sub(self.since_ns) >= LASTING_NS && 2 * self.ports.len() > ports;
        if lasting {
            *self = Self::default();
        }
        lasting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_000_000_000;

    #[test]
    fn an_overflow_counts_as_overload_once_it_has_lasted_and_hiccups_never_do() {
        let mut overload = Overload::default();
        let steps = LASTING_NS / 1_000_000;
        for step in 0..steps {
            assert!(!overload.note_drop(0, 1, 0, START + step * 1_000_000), "after {step} ms");
        }
        assert!(overload.note_drop(0, 1, 0, START + LASTING_NS));
        assert!(!overload.note_drop(0, 1, 0, START + LASTING_NS + 1), "it begins anew");
        let mut flooded = Overload::default();
        assert!((0..10 * steps).all(|step| !flooded.note_drop(1, 4, 0, START + step * 1_000_000)), "one port of four");
        for (apart_ns, emptied_before_ns) in [(APART_NS + 1, 1), (FULL_APART_NS + 1, FULL_APART_NS + 2)] {
            let mut hiccups = Overload::default();
            let is_none = |hiccup: u64| {
                let now_ns = START + hiccup * apart_ns;
                !hiccups.note_drop(0, 1, now_ns - emptied_before_ns, now_ns)
            };
            assert!((1..1000).all(is_none), "{apart_ns} ns apart");
        }
    }

    #[test]
    fn readout_that_seldom_runs_and_finds_a_full_buffer_each_time_is_overloaded() {
        let mut overload = Overload::default();
        let drops = [0, 16, 32].map(|ms| overload.note_drop(0, 1, 1, START + ms * 1_000_000));
        assert_eq!(drops, [false, false, true]);
    }
}
