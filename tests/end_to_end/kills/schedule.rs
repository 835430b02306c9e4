//! What is done to whom and when: a seed gives the same plan again.
//!
//! A plan is made before anything starts, so that it does not depend on how fast the machine is. Faults of one target
//! follow each other, those of different targets overlap: a broker may be killed while its disk is full and two agents
//! are stopped.

use super::random::Random;
use std::time::Duration;

/// Who something is done to. The disk is the broker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    Broker,
    Agent(usize),
    /// A client process, which is stopped and never killed: it notes what it was told.
    Reader,
    Disk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `kill -9`.
    Kill,
    Start,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
    /// A file takes all room that is left on the disk.
    Fill,
    Free,
    /// The kernel refuses every write of the broker (`RLIMIT_FSIZE`).
    Refuse,
    Allow,
}

pub struct Planned {
    pub at: Duration,
    pub target: Target,
    pub step: Step,
}

/// Mean pause between two faults: with faults of a second or so, mostly two or three are going on.
const PAUSE_MEAN: Duration = Duration::from_millis(350);
/// Longest time that a broker or agent is away or stopped. Longer than the silence after which agents connect anew
/// (3 s), and than the broker's timeout of the test.
const AWAY_MAX: Duration = Duration::from_secs(4);
/// A broker that is away keeps everybody from being tested.
const BROKER_AWAY_MAX: Duration = Duration::from_secs(2);
const DISK_BAD_MAX: Duration = Duration::from_secs(2);

/// The plan of `seed` for `duration`, by time.
pub fn plan(seed: u64, duration: Duration, agents: usize) -> Vec<Planned> {
    let mut random = Random::new(seed, 0);
    let mut steps: Vec<Planned> = Vec::new();
    let mut at = Duration::ZERO;
    while at < duration {
        at += PAUSE_MEAN.mul_f64((random.below(2000)) as f64 / 1000.0);
        let (target, first, last, longest) = fault(&mut random, agents);
        let begin = steps.iter().filter(|step| step.target == target).map(|step| step.at).max();
        let begin = begin.map_or(at, |free| free.max(at));
        let end = begin + random.pause(longest);
        steps.push(Planned { at: begin, target, step: first });
        steps.push(Planned { at: end, target, step: last });
    }
    steps.retain(|step| {
        step.at <= duration || !matches!(step.step, Step::Kill | Step::Stop | Step::Fill | Step::Refuse)
    });
    steps.sort_by_key(|step| step.at); // stable: of one target the fault stays before its end
    steps
}

fn fault(random: &mut Random, agents: usize) -> (Target, Step, Step, Duration) {
    let agent = Target::Agent(random.below(agents as u64) as usize);
    match random.below(14) {
        0..=2 => (Target::Broker, Step::Kill, Step::Start, BROKER_AWAY_MAX / 2),
        3 => (Target::Broker, Step::Stop, Step::Continue, BROKER_AWAY_MAX),
        4..=7 => (agent, Step::Kill, Step::Start, AWAY_MAX),
        8..=10 => (agent, Step::Stop, Step::Continue, AWAY_MAX),
        11 => (Target::Reader, Step::Stop, Step::Continue, AWAY_MAX),
        12 => (Target::Disk, Step::Fill, Step::Free, DISK_BAD_MAX),
        _ => (Target::Disk, Step::Refuse, Step::Allow, DISK_BAD_MAX),
    }
}
