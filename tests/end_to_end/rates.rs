//! A detector that sends half of what this machine can carry, as much, and twice as much: what was sent is what was
//! delivered and what was lost, by cause, to the packet.
//!
//! Messages are not coalesced here: the kernel's count of what it drops is exact then. A simulator beside it on two cores sends
//! no more than a readout receives, so the readout is held up here, most of the time, and carries less than could be sent. A reader
//! of the test's own takes the images, so no disk sets the pace.
//!
//! `ECS_RATE_SECONDS` is how long the lowest rate lasts, 30 without; the others last a third of it. The long run, of 600, is on
//! demand. What it prints are figures, not bounds: other tenants of a machine take their share.

use crate::support::{Beamline, Detector, Outcome, send as signal};
use ecs_shm_buffer::{PacketCounts, PixelAccess, ProcessId, Reader, RingStatus, Start};
use serde_json::Value;
use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

const PACKETS: u64 = 256;
/// What the machine carries is looked for from this rate on, in these steps, for so long each.
const LOWEST_HZ: f64 = 40.0;
const STEP: f64 = 1.5;
const STEPS_MAX: i32 = 8;
const STEP_SECONDS: f64 = 2.0;
/// The readout runs for so long, and then stands still for so long.
const RUNS: Duration = Duration::from_millis(4);
const STANDS: Duration = Duration::from_millis(12);

/// Holds a process up, until it is dropped.
struct Brake {
    pid: i32,
    off: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Brake {
    fn on(pid: i32) -> Self {
        let off = Arc::new(AtomicBool::new(false));
        let is_off = Arc::clone(&off);
        let hold_up = move || {
            while !is_off.load(Relaxed) {
                signal(pid, libc::SIGSTOP);
                sleep(STANDS);
                signal(pid, libc::SIGCONT);
                sleep(RUNS);
            }
        };
        Self { pid, off, thread: Some(std::thread::spawn(hold_up)) }
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        self.off.store(true, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
        signal(self.pid, libc::SIGCONT);
    }
}

/// What a reader was given.
#[derive(Debug, Default, Clone, Copy)]
struct Given {
    whole: u64,
    partial: u64,
    packets: u64,
    lost: u64,
}

/// One rate: what was sent, what came, and how the counters rose.
struct Outing {
    sent: Value,
    given: Given,
    before: RingStatus,
    after: RingStatus,
}

fn send(beamline: &Beamline, images: u64, rate_hz: f64, first_id: u64) -> Outing {
    let before = beamline.ring_status().unwrap();
    let done = AtomicBool::new(false);
    let (sent, given) = std::thread::scope(|scope| {
        let ring = ecs_shm_buffer::open(&beamline.ring_path(), PixelAccess::ReadOnly).unwrap();
        let reader = Reader::reliable(&ring, ProcessId::current(), "test", Start::Next).unwrap();
        let taking = scope.spawn(|| take(reader, &done));
        let (images, rate, first) = (images.to_string(), rate_hz.to_string(), first_id.to_string());
        let sim =
            ["sim", "detector", "--config", "beamline.toml", "--images", &images, "--rate", &rate, "--start", &first];
        let sent = Outcome::of(&mut beamline.command(&[&sim[..], &["--json"]].concat())).ok().json();
        wait_until_still(beamline);
        done.store(true, Relaxed);
        (sent, taking.join().unwrap())
    });
    Outing { sent, given, before, after: beamline.ring_status().unwrap() }
}

/// A readout that stands still may have packets in its hands, or some that wait for their images: longer than either lasts,
/// nothing has changed.
fn wait_until_still(beamline: &Beamline) {
    let mut last = (Instant::now(), beamline.ring_status().unwrap());
    while last.0.elapsed() < Duration::from_secs(1) {
        sleep(Duration::from_millis(20));
        let status = beamline.ring_status().unwrap();
        if status.packets != last.1.packets || status.commits != last.1.commits {
            last = (Instant::now(), status);
        }
    }
    beamline.check_sums();
}

/// Takes images until there are none, and none will come.
fn take(mut reader: Reader, done: &AtomicBool) -> Given {
    let mut given = Given::default();
    loop {
        let is_last = done.load(Relaxed);
        while let Some(delivery) = reader.next(Duration::from_millis(20)) {
            given.lost += delivery.lost.iter().map(|range| range.count).sum::<u64>();
            if let Some(image) = delivery.image {
                let is_whole = u64::from(image.packets_received) == PACKETS;
                *(if is_whole { &mut given.whole } else { &mut given.partial }) += 1;
                given.packets += u64::from(image.packets_received);
            }
            reader.release();
        }
        if is_last {
            return given;
        }
    }
}

impl Given {
    /// Delivered or lost.
    fn ids(&self) -> u64 {
        self.whole + self.partial + self.lost
    }
}

impl Outing {
    fn rose(&self, count: impl Fn(&PacketCounts) -> u64) -> u64 {
        count(&self.after.packets) - count(&self.before.packets)
    }

    fn seconds(&self) -> f64 {
        self.sent["seconds"].as_f64().unwrap()
    }

    /// Whole images a second.
    fn whole_hz(&self) -> f64 {
        self.given.whole as f64 / self.seconds()
    }

    /// sent = delivered + lost by cause, to the packet.
    fn check(&self, name: &str, images: u64) -> u64 {
        let sent = self.sent["packets_sent"].as_u64().unwrap();
        let causes = [
            ("late", self.rose(|packets| packets.late)),
            ("early", self.rose(|packets| packets.early)),
            ("no_slot", self.rose(|packets| packets.no_slot)),
            ("duplicate", self.rose(|packets| packets.duplicate)),
            ("foreign", self.rose(|packets| packets.foreign + packets.malformed + packets.unlisted)),
            ("shed", self.rose(|packets| packets.shed)),
            ("dropped by the kernel", self.rose(|packets| packets.kernel_dropped)),
        ];
        let lost: u64 = causes.iter().map(|(_, packets)| packets).sum();
        let told: Vec<String> =
            causes.iter().filter(|(_, n)| *n > 0).map(|(cause, n)| format!("{n} {cause}")).collect();
        println!(
            "{name}: {sent} packets sent in {:.1} s ({:.0} images/s) = {} delivered + {lost} lost ({}); images: {:?}, {:.0} whole/s",
            self.seconds(),
            images as f64 / self.seconds(),
            self.given.packets,
            told.join(", "),
            self.given,
            self.whole_hz(),
        );
        assert_eq!(sent, self.given.packets + lost, "{name}: {causes:?}");
        lost
    }
}

/// A beamline, and the images that were sent to it so far.
struct Course {
    beamline: Beamline,
    sent: u64,
    told: u64,
}

impl Course {
    fn run(&mut self, name: &str, rate_hz: f64, seconds: f64) -> (u64, Outing) {
        let images = ((rate_hz * seconds) as u64).max(20);
        let mut outing = send(&self.beamline, images, rate_hz, 1 + self.sent);
        let lost = outing.check(name, images);
        // The last ids of one rate are known as lost with the first image of the next one.
        let of_before = self.sent - self.told;
        (self.sent, self.told) = (self.sent + images, self.told + outing.given.ids());
        outing.given.lost = outing.given.lost.checked_sub(of_before).expect("they were told");
        assert!(self.told <= self.sent, "{name}: told of {} ids of {}", self.told, self.sent);
        (lost, outing)
    }

    /// The highest rate, of some, at which nothing is lost.
    fn carried_hz(&mut self) -> f64 {
        let mut carried_hz = 0.0;
        for step in 0..STEPS_MAX {
            let rate_hz = LOWEST_HZ * STEP.powi(step);
            let (lost, outing) = self.run("looking for what it carries", rate_hz, STEP_SECONDS);
            if lost > 0 || outing.seconds() > 1.2 * STEP_SECONDS {
                break; // the simulator may be what cannot go faster
            }
            carried_hz = rate_hz;
        }
        assert!(carried_hz > 0.0, "not even {LOWEST_HZ} images/s are carried");
        carried_hz
    }
}

#[test]
fn what_is_sent_is_delivered_or_lost_by_cause_below_at_and_above_what_the_machine_carries() {
    let seconds = env::var("ECS_RATE_SECONDS").map_or(30.0, |text| text.parse::<f64>().expect("a number of seconds"));
    // A buffer short enough that what is not carried shows within seconds, long enough for stalls of a busy machine.
    let readout = "coalesce = false\nreceive_buffer = \"16 MiB\"\n";
    let beamline = Beamline::up(Detector::Eiger500K { bits: 16 }, readout);
    let mut course = Course { beamline, sent: 0, told: 0 };
    let _brake = Brake::on(course.beamline.pid("readout")); // taken off before the beamline ends
    let carried_hz = course.carried_hz();
    let (lost, below) = course.run("half", carried_hz / 2.0, seconds);
    assert_eq!((lost, below.given.partial + below.given.lost), (0, 0), "below what it carries");
    course.run("once", carried_hz, seconds / 3.0);
    let (_, above) = course.run("twice", 2.0 * carried_hz, seconds / 3.0);
    // How many is a question of speed; but what is received is whole images, and not most packets of each.
    let Given { whole, packets, .. } = above.given;
    assert!(10 * whole * PACKETS >= 8 * packets, "{whole} whole images in {packets} packets");
    assert!(above.whole_hz() > carried_hz / 4.0, "{:.0} whole images/s of {carried_hz:.0}", above.whole_hz());
}
