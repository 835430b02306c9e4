//! A detector that sends more than can be received, and for how long.
//!
//! When a socket's buffer is full, the kernel throws away what comes: a few packets of each image, so that
//! soon no image is whole. A short overflow is over before anything could be done about it, and costs a
//! few packets. One that lasts is better answered by throwing away all that waits, whole images, once, and
//! receiving what follows whole until the buffers are full again.

/// Overflow for this long is not a hiccup: a hiccup ends when the readout runs again and takes packets
/// faster than they come.
pub const LASTING_NS: u64 = 20_000_000;
/// Overflows farther apart than this are two hiccups.
const APART_NS: u64 = 10_000_000;

/// Follows the kernel's drops over time.
#[derive(Debug, Default)]
pub struct Overload {
    since_ns: u64,
    last_ns: u64,
    /// Ports that have dropped since then. One that is flooded alone is not the detector's overload.
    ports: Vec<usize>,
}

impl Overload {
    /// The kernel has dropped packets of one of `ports` ports. True when that has lasted, on most of them;
    /// it then begins anew.
    pub fn note_drop(&mut self, port: usize, ports: usize, now_ns: u64) -> bool {
        if now_ns.saturating_sub(self.last_ns) > APART_NS {
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

    #[test]
    fn an_overflow_counts_as_overload_once_it_has_lasted_and_hiccups_never_do() {
        const START: u64 = 1_000_000_000;
        let mut overload = Overload::default();
        let steps = LASTING_NS / 1_000_000;
        for step in 0..steps {
            assert!(!overload.note_drop(0, 1, START + step * 1_000_000), "after {step} ms");
        }
        assert!(overload.note_drop(0, 1, START + LASTING_NS));
        assert!(!overload.note_drop(0, 1, START + LASTING_NS + 1), "it begins anew");
        let mut flooded = Overload::default();
        assert!((0..10 * steps).all(|step| !flooded.note_drop(1, 4, START + step * 1_000_000)), "one port of four");
        let mut hiccups = Overload::default();
        assert!((1..1000).all(|hiccup| !hiccups.note_drop(0, 1, hiccup * (APART_NS + 1))));
    }
}
