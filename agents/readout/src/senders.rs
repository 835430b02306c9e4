//! Who is listened to: `readout.senders` of the beamline.
//!
//! A packet of another sender is counted (`unlisted`) and never marked, whatever it says: it moves no window, begins no run
//! and is no progress of its port. The kernel may have put its payload to the place that was predicted for a good one,
//! which counts as empty all the same (rule P1 of `receive`).
//!
//! Why here, and not in the kernel? A filter there counts what it drops as it counts what it has no room for: one could
//! not tell the two apart. Whoever floods a port from outside fills its buffer all the same; that is for a firewall.

use ecs_schemas::beamline::AllowedSender;
use std::net::SocketAddrV4;

/// The list, and the sender whose packets came last.
#[derive(Debug, Clone, Default)]
pub struct Senders {
    listed: Vec<AllowedSender>,
    /// A port's packets mostly come from one sender, which need not be looked for each time.
    last: Option<SocketAddrV4>,
}

impl Senders {
    pub fn new(listed: &[AllowedSender]) -> Self {
        Self { listed: listed.to_vec(), last: None }
    }

    /// Nobody is named: everybody is listened to, and nobody asks who it was.
    pub fn is_everybody(&self) -> bool {
        self.listed.is_empty()
    }

    /// Whether packets from there count. `source` is none where the kernel did not say.
    pub fn allow(&mut self, source: Option<SocketAddrV4>) -> bool {
        if self.is_everybody() || source.is_some() && source == self.last {
            return true;
        }
        let is_listed = source.is_some_and(|source| self.listed.iter().any(|sender| sender.is(source)));
        if is_listed {
            self.last = source;
        }
        is_listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_on_the_list_count_also_right_after_one_that_does() {
        let from = |text: &str| Some(text.parse().unwrap());
        let mut senders = Senders::new(&["10.0.0.2".parse().unwrap(), "10.0.0.3:7".parse().unwrap()]);
        for (source, counts) in [
            (from("10.0.0.2:1"), true),
            (from("10.0.0.2:2"), true),
            (from("10.0.0.3:1"), false),
            (from("10.0.0.3:7"), true),
            (from("10.0.0.3:8"), false),
            (None, false),
        ] {
            assert_eq!(senders.allow(source), counts, "{source:?}");
        }
        assert!(Senders::default().allow(None) && Senders::default().allow(from("10.0.0.9:9")));
    }
}
