//! A detector that sends more than can be received: whole images are given up, so that others stay whole.
//!
//! When a socket's buffer is full, the kernel throws away what comes until a packet is taken, lets one in, and so on: a few
//! packets of each image, so that soon no image is whole. A short overflow is over before anything could be done about
//! it, and costs a few packets. In one that lasts, the kernel throws away all that comes for a while, at no cost to who
//! receives, and then nothing:
//!
//! ```text
//! buffer  full ┄┄┄┄┄┄┄┄▁┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄
//!              HIGH   ╱ ╲           ╱╲          ╱╲       filled by what comes, less what is taken;
//!              LOW  ╱    ╲        ╱   ╲       ╱   ╲      emptied by what is taken
//!                 ╱       ╲     ╱      ╲    ╱
//! gates             open  │shut │ open │shut│ open       the same for all ports of the process
//! ```
//!
//! # Rules
//! G1  Gates are shut first when the kernel has dropped packets on most ports for [`LASTING_NS`], and the buffers were not
//!     empty between: that is an overload. From then on they are shut before a buffer is full: when most are [`HIGH`].
//! G2  All gates of a process are shut together, and opened together when every buffer is [`LOW`]: what is taken in
//!     between is whole images, but for the first and the last of them. The low mark leaves something to receive while
//!     what comes next is on its way: the processor, which is what there is too little of, is never idle.
//! G3  An overload is over when the gates have been open for [`CALM_NS`] and the buffers never [`HIGH`].
//! G4  One port that is flooded alone is not the detector's overload, and shuts no gate.
//! G5  While an overload lasts, ids that jump are to be expected: see `runs`.
//!
//! Why not throw away what waits, unread? It costs a good part of what receiving it costs, and is most of what was good.
//! Why not skip to an id that all ports have? The kernel's filter would have to know each detector's header, and messages
//! that it has coalesced begin with one image and end with another.

/// Overflow for this long is not a hiccup: a hiccup ends when the readout runs again and takes packets
/// faster than they come.
pub const LASTING_NS: u64 = 20_000_000;
/// Overflows farther apart than this are two hiccups, if the port was seen empty between them.
const APART_NS: u64 = 10_000_000;
/// Farther apart than this they are anyway. A readout that has too little of a processor notices overflows as seldom as it
/// runs, and what it finds is a full buffer each time.
const FULL_APART_NS: u64 = 50_000_000;
/// Parts of a buffer. The kernel gives room back by quarters, so these are as near to its ends as can be told. What is above
/// the high one is for what comes until the readout runs again.
const HIGH: f32 = 0.75;
const LOW: f32 = 0.25;
/// Longer than it takes to fill any buffer at a rate that is worth shutting it for.
const CALM_NS: u64 = 1_000_000_000;

/// What a look at a port's socket tells.
#[derive(Debug, Clone, Copy, Default)]
pub struct Level {
    /// Packets, or coalesced messages, that the kernel dropped since the last look.
    pub dropped: u64,
    /// The part of the buffer that is in use.
    pub filled: f32,
}

/// What is to be done with all gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gates {
    Shut,
    Open,
}

/// Follows the buffers over time.
#[derive(Debug, Default)]
pub struct Overload {
    since_ns: u64,
    last_ns: u64,
    /// Ports that have dropped since then (G4).
    dropping: Vec<usize>,
    /// How far each port's buffer was filled when it was looked at last.
    filled: Vec<f32>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Calm,
    /// An overload, with gates that are open since then.
    Open {
        since_ns: u64,
    },
    Shut,
}

impl Overload {
    pub fn lasts(&self) -> bool {
        self.state != State::Calm
    }

    /// `level` was found on one of `ports` ports, which was seen empty at `emptied_ns`. Returns what is to change.
    pub fn note(&mut self, port: usize, ports: usize, level: Level, emptied_ns: u64, now_ns: u64) -> Option<Gates> {
        self.filled.resize(ports, 0.0);
        self.filled[port] = level.filled;
        let has_lasted = !self.lasts() && level.dropped > 0 && self.note_drop(port, ports, emptied_ns, now_ns);
        match self.state {
            State::Calm if has_lasted => self.shut(),
            State::Open { .. } if 2 * self.filled.iter().filter(|&&filled| filled >= HIGH).count() > ports => {
                self.shut()
            }
            State::Open { since_ns } if now_ns.saturating_sub(since_ns) > CALM_NS => {
                *self = Self::default();
                None
            }
            State::Shut if self.filled.iter().all(|&filled| filled <= LOW) => {
                self.state = State::Open { since_ns: now_ns };
                Some(Gates::Open)
            }
            _ => None,
        }
    }

    fn shut(&mut self) -> Option<Gates> {
        self.state = State::Shut;
        Some(Gates::Shut)
    }

    /// The kernel has dropped packets. True when that has lasted, on most ports (G1).
    fn note_drop(&mut self, port: usize, ports: usize, emptied_ns: u64, now_ns: u64) -> bool {
        let apart_ns = if emptied_ns > self.last_ns { APART_NS } else { FULL_APART_NS };
        if now_ns.saturating_sub(self.last_ns) > apart_ns {
            self.since_ns = now_ns;
            self.dropping.clear();
        }
        self.last_ns = now_ns;
        if !self.dropping.contains(&port) {
            self.dropping.push(port);
        }
        now_ns.saturating_sub(self.since_ns) >= LASTING_NS && 2 * self.dropping.len() > ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_000_000_000;
    const MS: u64 = 1_000_000;

    fn drop_one(overload: &mut Overload, port: usize, ports: usize, emptied_ns: u64, now_ns: u64) -> Option<Gates> {
        overload.note(port, ports, Level { dropped: 1, filled: 1.0 }, emptied_ns, now_ns)
    }

    /// One port, and an overload from `START` on.
    fn overloaded() -> Overload {
        let mut overload = Overload::default();
        assert_eq!(drop_one(&mut overload, 0, 1, 0, START - LASTING_NS), None);
        assert_eq!(drop_one(&mut overload, 0, 1, 0, START), Some(Gates::Shut));
        overload
    }

    #[test]
    fn an_overflow_shuts_the_gates_once_it_has_lasted_and_hiccups_never_do() {
        let mut overload = Overload::default();
        let steps = LASTING_NS / MS;
        for step in 0..steps {
            assert_eq!(drop_one(&mut overload, 0, 1, 0, START + step * MS), None, "after {step} ms");
        }
        assert_eq!(drop_one(&mut overload, 0, 1, 0, START + LASTING_NS), Some(Gates::Shut));
        let mut flooded = Overload::default();
        assert!(
            (0..10 * steps).all(|step| drop_one(&mut flooded, 1, 4, 0, START + step * MS).is_none()),
            "one of four"
        );
        for (apart_ns, emptied_before_ns) in [(APART_NS + 1, 1), (FULL_APART_NS + 1, FULL_APART_NS + 2)] {
            let mut hiccups = Overload::default();
            let is_none = |hiccup: u64| {
                let now_ns = START + hiccup * apart_ns;
                drop_one(&mut hiccups, 0, 1, now_ns - emptied_before_ns, now_ns).is_none()
            };
            assert!((1..1000).all(is_none), "{apart_ns} ns apart");
        }
    }

    #[test]
    fn readout_that_seldom_runs_and_finds_a_full_buffer_each_time_is_overloaded() {
        let mut overload = Overload::default();
        let gates = [0, 16, 32].map(|ms| drop_one(&mut overload, 0, 1, 1, START + ms * MS));
        assert_eq!(gates, [None, None, Some(Gates::Shut)]);
    }

    #[test]
    fn gates_open_when_every_buffer_is_low_and_shut_when_most_are_high() {
        let mut overload = Overload::default();
        for step in 0..=LASTING_NS / MS {
            (0..3).for_each(|port| _ = drop_one(&mut overload, port, 3, 0, START + step * MS));
        }
        assert_eq!(overload.state, State::Shut);
        let mut look =
            |port: usize, filled: f32| overload.note(port, 3, Level { dropped: 0, filled }, 0, START + 30 * MS);
        assert_eq!([look(0, LOW), look(1, 0.0), look(2, LOW + 0.01)], [None; 3], "one is not low yet");
        assert_eq!(look(2, LOW), Some(Gates::Open));
        assert_eq!([look(2, LOW), look(1, HIGH), look(1, 1.0)], [None; 3], "one is flooded");
        assert_eq!(look(0, HIGH), Some(Gates::Shut));
        assert_eq!([look(0, 0.0), look(1, 0.0)], [None, Some(Gates::Open)], "the third is low");
    }

    #[test]
    fn an_overload_is_over_when_the_buffers_were_not_high_for_a_second() {
        let mut overload = overloaded();
        let mut look = |filled: f32, at_ns: u64| {
            let gates = overload.note(0, 1, Level { dropped: 0, filled }, 0, at_ns);
            (gates, overload.lasts())
        };
        assert_eq!(look(0.0, START + MS), (Some(Gates::Open), true));
        assert_eq!(look(HIGH - 0.01, START + CALM_NS), (None, true));
        assert_eq!(look(HIGH, START + CALM_NS + MS), (Some(Gates::Shut), true), "still one");
        assert_eq!(look(0.0, START + 2 * CALM_NS), (Some(Gates::Open), true));
        assert_eq!(look(0.0, START + 3 * CALM_NS + 1), (None, false));
        assert_eq!(look(1.0, START + 3 * CALM_NS + 2), (None, false), "an overflow is a hiccup again");
    }
}
