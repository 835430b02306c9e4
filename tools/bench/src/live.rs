//! The highest rate at which nothing is lost, live: the whole path to a reader, beside a bare loop.
//!
//! ```text
//! ours   generator (core 1) ══UDP══▶ readout (core 0) ─▶ ring ─▶ a reader here; an assembler steps beside them
//! bare   generator (core 1) ══UDP══▶ loop (core 0) that scatters into images, and counts
//! ```
//!
//! A generator sends for the time of a leg, at a rate that is halved towards the highest at which every packet arrives:
//! ours, when every image that it says it has sent was delivered whole; the bare loop, when as many packets came. First
//! it sends as fast as it can: where nothing is lost even then, that is the rate, and the generator limits it.
//!
//! Then at half of our rate with the readout stopped for a while each second, as a busy host may do it. Half: what piles
//! up in the sockets' buffers meanwhile is taken while as much comes, so after a stall of 35 ms at a rate of half of what
//! it can take, the readout needs 35 ms more. Nearer to its limit it would never catch up between two stalls.

use crate::{
    cores::on_core,
    drain::{Coalesced, Loop, Places},
    image_path::{ImagePath, Sent, Standing, bind_ports, next_is_whole},
    receive_floor::Handover,
    rows::Rows,
};
use anyhow::{bail, ensure};
use ecs_shm_buffer::{ProcessId, Reader, Start};
use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Halvings: the rate is found to 1/64 of what the generator can send.
const STEPS: usize = 6;
/// A rate at which packets are lost is tried once more: it is not the path's limit where the host was away for a moment.
const TRIES: usize = 2;
/// Nothing more came for so long: longer than an image may stay open (`assembler.deadline`).
const QUIET: Duration = Duration::from_millis(400);
/// A stop of the readout, and from one to the next: what a neighbour on the host takes (measured: gaps up to 32 ms).
const STALL: Duration = Duration::from_millis(35);
const STALL_PERIOD: Duration = Duration::from_secs(1);
/// Of our rate, in the row with stalls.
const STALLED_SHARE: f64 = 0.5;

const RATE: &str = "highest rate without loss";
const STALLED: &str = "half the highest rate without loss, readout stopped 35 ms a second";

/// One leg at one rate.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Attempt {
    sent: Sent,
    /// Images, in ours whole ones.
    arrived: f64,
}

impl Attempt {
    fn is_lossless(&self) -> bool {
        self.arrived == self.sent.images as f64
    }

    /// That it was sent at.
    fn rate_hz(&self) -> f64 {
        self.sent.images as f64 / self.sent.seconds
    }
}

/// The rows of the live path.
///
/// # Errors
/// A process does not start, there is one core only, or nothing comes without loss.
pub fn measure(rows: &mut Rows<'_>, path: &ImagePath, leg: Duration) -> anyhow::Result<()> {
    let bytes = path.placement().image_bytes() as f64;
    let ours = || {
        let mut ours = Ours::stand(path)?;
        highest_rate(|rate_hz| ours.attempt(rate_hz, leg, false))
    };
    let mut ours_hz = None;
    if rows.is_wanted(RATE) {
        let places = Places::new(path.placement())?;
        let bare = || highest_rate(|rate_hz| bare(path, &places, rate_hz, leg));
        let pairs = rows.pairs().run(RATE, ours, bare)?;
        let gb: Vec<_> = pairs.iter().map(|(a, b)| (a * bytes / 1e9, b * bytes / 1e9)).collect();
        rows.push(RATE, "GB/s", "bare recvmmsg loop with UDP_GRO", &gb);
        rows.push(RATE, "images/s", "bare recvmmsg loop with UDP_GRO", &pairs);
        ours_hz = rows.rows.last().map(|row| row.value);
    }
    if rows.is_wanted(STALLED) {
        let rate_hz = STALLED_SHARE * ours_hz.map_or_else(ours, Ok)?;
        let (mut pairs, mut ours) = (Vec::new(), Ours::stand(path)?);
        for _ in 0..rows.pairs().count {
            let attempt = ours.attempt(rate_hz, leg, true)?;
            pairs.push((attempt.arrived, attempt.sent.images as f64));
        }
        let baseline = format!("sent, {rate_hz:.0} images a second");
        rows.push(STALLED, "images", &baseline, &pairs);
    }
    Ok(())
}

/// The highest rate at which all arrives, found by halving; of what was sent, in images per second.
fn highest_rate(mut attempt: impl FnMut(f64) -> anyhow::Result<Attempt>) -> anyhow::Result<f64> {
    let mut try_rate = |rate_hz| {
        let mut tried = attempt(rate_hz)?;
        for _ in 1..TRIES {
            tried = if tried.is_lossless() { tried } else { attempt(rate_hz)? };
        }
        anyhow::Ok(tried)
    };
    let free = try_rate(0.0)?;
    if free.is_lossless() {
        return Ok(free.rate_hz());
    }
    let (mut low_hz, mut high_hz) = (0.0, free.rate_hz());
    for _ in 0..STEPS {
        let middle_hz = (low_hz + high_hz) / 2.0;
        let tried = try_rate(middle_hz)?;
        if tried.is_lossless() {
            low_hz = tried.rate_hz().max(low_hz); // the generator may not send as fast as it is asked to
        } else {
            high_hz = middle_hz;
        }
    }
    ensure!(low_hz > 0.0, "packets were lost at {high_hz:.0} images a second and at every higher rate that was tried");
    Ok(low_hz)
}

/// The path, with a reader here.
struct Ours<'a> {
    path: &'a ImagePath,
    reader: Reader,
    standing: Standing,
    /// Of the next attempt: its ids go on, or a new run would begin.
    next_id: u64,
}

impl<'a> Ours<'a> {
    fn stand(path: &'a ImagePath) -> anyhow::Result<Self> {
        let standing = path.stand(None)?;
        let reader = Reader::reliable(&standing.ring, ProcessId::current(), "bench", Start::Next)?;
        Ok(Self { path, reader, standing, next_id: 1 })
    }

    fn attempt(&mut self, rate_hz: f64, leg: Duration, with_stalls: bool) -> anyhow::Result<Attempt> {
        let (reader, readout, over) = (&mut self.reader, &self.standing.readout, AtomicBool::new(false));
        let generator = self.path.paced_generator(self.next_id, rate_hz)?;
        let (arrived, stalled) = thread::scope(|scope| {
            let stalling = with_stalls.then(|| {
                scope.spawn(|| {
                    let period = STALL_PERIOD.min(leg / 2); // one at least in a short leg
                    while wait(period - STALL.min(period / 2), &over) {
                        let paused = readout.pause()?;
                        thread::sleep(STALL);
                        drop(paused);
                    }
                    anyhow::Ok(())
                })
            });
            let (start, mut arrived, mut is_asked) = (Instant::now(), 0_u64, false);
            loop {
                let next = next_is_whole(reader, QUIET);
                arrived += u64::from(next == Some(true));
                if !is_asked && start.elapsed() >= leg {
                    is_asked = true;
                    generator.ask_to_end();
                    over.store(true, Ordering::Relaxed);
                } else if is_asked && next.is_none() {
                    break;
                }
            }
            let stalled = stalling.map_or(Ok(()), |stalling| stalling.join().expect("it does not panic"));
            (arrived, stalled)
        });
        stalled?;
        let sent = generator.sent()?;
        self.next_id += sent.images;
        Ok(Attempt { sent, arrived: arrived as f64 })
    }
}

/// Sleeps for a while. False if it is over.
fn wait(duration: Duration, over: &AtomicBool) -> bool {
    let start = Instant::now();
    while start.elapsed() < duration && !over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(1));
    }
    !over.load(Ordering::Relaxed)
}

/// A bare loop on the path's own ports.
fn bare(path: &ImagePath, places: &Places, rate_hz: f64, leg: Duration) -> anyhow::Result<Attempt> {
    let sockets = bind_ports(path.placement(), Handover::Coalesced)?;
    let mut receive = Coalesced::new(places.clone());
    let generator = path.paced_generator(1, rate_hz)?;
    let is_sending = AtomicBool::new(true);
    let packets = thread::scope(|scope| {
        let timer = scope.spawn(|| {
            thread::sleep(leg);
            generator.ask_to_end();
            is_sending.store(false, Ordering::Relaxed);
        });
        let packets = count(&sockets, &mut receive, &is_sending);
        timer.join().expect("it sleeps");
        packets
    })?;
    let sent = generator.sent()?;
    if packets > sent.packets_sent {
        bail!("{packets} packets came, and {} were sent", sent.packets_sent);
    }
    Ok(Attempt { sent, arrived: packets as f64 / path.placement().packets_per_image() as f64 })
}

/// Takes packets until nobody sends any more, and none came for a while.
fn count(sockets: &[UdpSocket], receive: &mut dyn Loop, is_sending: &AtomicBool) -> anyhow::Result<u64> {
    on_core(0, || {
        let (mut packets, mut last) = (0, Instant::now());
        while is_sending.load(Ordering::Relaxed) || last.elapsed() < QUIET {
            let mut taken = 0;
            for (port, socket) in sockets.iter().enumerate() {
                taken += receive.turn(socket, port)? as u64;
            }
            packets += taken;
            if taken > 0 {
                last = Instant::now();
            }
        }
        Ok(packets)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that loses one image of what is sent beyond `limit_hz`, behind a generator that sends `most_hz` at most.
    fn found(limit_hz: f64, most_hz: f64) -> anyhow::Result<f64> {
        highest_rate(|asked_hz| {
            let rate_hz = if asked_hz == 0.0 { most_hz } else { most_hz.min(asked_hz) };
            let images = (10.0 * rate_hz) as u64;
            let sent = Sent { images, packets_sent: 0, seconds: images as f64 / rate_hz };
            let arrived = if rate_hz > limit_hz { images - 1 } else { images };
            Ok(Attempt { sent, arrived: arrived as f64 })
        })
    }

    #[test]
    fn highest_rate_is_found_to_a_64th_of_what_can_be_sent_and_never_above_the_limit() {
        for limit_hz in [70.0, 1234.5, 3999.0] {
            let rate_hz = found(limit_hz, 4000.0).unwrap();
            assert!(rate_hz <= limit_hz && rate_hz > limit_hz - 2.0 * 4000.0 / 64.0, "{rate_hz} of {limit_hz}");
        }
        assert!((found(5000.0, 4000.0).unwrap() - 4000.0).abs() < 1.0, "limited by the generator");
        let mut attempts = 0;
        let lossless_at_the_second = highest_rate(|_| {
            attempts += 1;
            let sent = Sent { images: 100, packets_sent: 0, seconds: 1.0 };
            Ok(Attempt { sent, arrived: if attempts == 1 { 99.0 } else { 100.0 } })
        });
        assert_eq!((lossless_at_the_second.unwrap(), attempts), (100.0, 2));
        assert!(found(10.0, 4000.0).is_err(), "a rate that was never seen to hold is no result");
    }

    #[test]
    fn wait_is_over_when_it_is_told() {
        let over = AtomicBool::new(false);
        assert!(wait(Duration::from_millis(1), &over));
        over.store(true, Ordering::Relaxed);
        assert!(!wait(Duration::from_secs(1000), &over));
    }
}
