//! Recorded packets, sent again as the detector sent them.
//!
//! ```text
//! dump     frame 5: port 0 | 0 1 2 3 …      sent   0 1 . . 2 3 . . …      port 0
//!                   port 1 | 0 1 2 3 …             . . 0 1 . . 2 3 …      port 1    (interleaved by 2)
//! ```
//!
//! Frames go out in the order of their numbers, all ports of one before the next. The bytes are those of
//! the record but for one field: played the k-th time (from 0), frame numbers are raised by
//! `k * (last - first + 1)`, so that ids go on rising as a detector's do.

use crate::{
    dump::{Dump, DumpPacket},
    error::{SimError, check_probability, check_rate_hz},
    faults::{Fate, Fates, Faults, mix, shuffle},
    pace::Pace,
    report::{Progress, Report},
    sender::{Sender, batch_packets_max},
};
use ecs_schemas::detector::Detector;
use std::{net::Ipv4Addr, path::PathBuf};

/// What to replay, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    pub detector: Detector,
    /// Where the packets go; the ports are the detector's.
    pub host: Ipv4Addr,
    /// Folder with a `<port>.dat` for each port.
    pub dump: PathBuf,
    /// Frames per second; 0: as fast as it goes.
    pub rate_hz: f64,
    /// How many times the dump is played, at least 1.
    pub repeat: u64,
    /// Seed by which the packets of each frame are shuffled, over all ports; none: as recorded.
    pub shuffle: Option<u64>,
    /// Share of packets that are sent twice, 0 to 1; which ones, `seed` says.
    pub duplicate: f64,
    pub seed: u64,
    /// Packets of one port in a row before it is the next port's turn, at least 1.
    pub interleave_packets: usize,
}

impl Replay {
    /// Once, as fast as it goes, in batches, as recorded.
    pub fn new(detector: Detector, host: Ipv4Addr, dump: impl Into<PathBuf>) -> Self {
        Self {
            detector,
            host,
            dump: dump.into(),
            rate_hz: 0.0,
            repeat: 1,
            shuffle: None,
            duplicate: 0.0,
            seed: 0,
            interleave_packets: 8,
        }
    }

    fn check(&self) -> Result<(), SimError> {
        check_rate_hz(self.rate_hz)?;
        check_probability("duplicate", self.duplicate)?;
        if self.repeat == 0 {
            return Err(SimError::option("repeat", 0, "1 or more"));
        }
        if self.interleave_packets == 0 {
            return Err(SimError::option("interleave_packets", 0, "1 or more"));
        }
        Ok(())
    }

    /// By how much frame numbers rise each time.
    fn raise(&self, dump: &Dump) -> Result<u64, SimError> {
        let (first, last) = dump.frame_numbers();
        let raise = (last - first).checked_add(1);
        let max = self.detector.wire.image_id.max();
        let all = |raise: u64| (self.repeat - 1).checked_mul(raise).and_then(|all| last.checked_add(all));
        let fits = |raise: &u64| all(*raise).is_some_and(|last| last <= max);
        match raise.filter(fits) {
            Some(raise) => Ok(raise),
            None if self.repeat == 1 => Ok(0), // a single play raises nothing
            None => Err(SimError::option("repeat", self.repeat, "as long as frame numbers fit their field")),
        }
    }
}

/// Sends every frame, `repeat` times, or those before `stop` says true; a frame that has begun is
/// always finished. `progress` is called a few times a second, and once at the end.
///
/// # Errors
/// An option is out of range, the dump is missing or malformed (with file and offset; nothing was
/// sent), or the network refuses packets for good.
pub fn run(replay: &Replay, stop: &dyn Fn() -> bool, progress: &mut dyn FnMut(&Report)) -> Result<Report, SimError> {
    replay.check()?;
    let dump = Dump::read(&replay.dump, &replay.detector)?;
    let raise = replay.raise(&dump)?;
    let mut player = Player::new(replay, &dump)?;
    let pace = Pace::start(replay.rate_hz);
    let mut progress = Progress::new(progress);
    for (round, frame) in (0..replay.repeat).flat_map(|round| dump.frames().map(move |frame| (round, frame))) {
        pace.wait(player.sender.report.images, 0, 1, stop);
        if stop() {
            break;
        }
        player.play(frame, frame[0].frame_number + round * raise, &pace, stop)?;
        progress.tick(&mut player.sender.report, &pace);
    }
    Ok(progress.end(player.sender.report, &pace))
}

struct Player<'a> {
    replay: &'a Replay,
    dump: &'a Dump,
    fates: Fates,
    /// Packets that go out between two looks at the clock.
    group_packets: usize,
    sender: Sender,
    /// The packets of a frame in the order in which they are sent; kept for its memory.
    order: Vec<DumpPacket>,
}

impl<'a> Player<'a> {
    fn new(replay: &'a Replay, dump: &'a Dump) -> Result<Self, SimError> {
        let placement = &replay.detector.placement;
        Ok(Self {
            replay,
            dump,
            fates: Faults { seed: replay.seed, duplicate: replay.duplicate, ..Faults::default() }.of(placement),
            group_packets: batch_packets_max(placement.packet_bytes()) * placement.ports.len(),
            sender: Sender::open(replay.host, &placement.ports, placement.packet_bytes())?,
            order: Vec::new(),
        })
    }

    fn play(
        &mut self,
        frame: &[DumpPacket],
        frame_number: u64,
        pace: &Pace,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), SimError> {
        self.put_in_order(frame, frame_number);
        let index = self.sender.report.images;
        let groups = self.order.len().div_ceil(self.group_packets);
        for (group, packets) in self.order.chunks(self.group_packets).enumerate() {
            pace.wait(index, group, groups, stop);
            for packet in packets {
                let slot = self.sender.slot(packet.port, packet.bytes)?;
                slot.copy_from_slice(self.dump.bytes(packet));
                self.replay.detector.wire.image_id.write(slot, frame_number);
            }
        }
        self.sender.flush()?;
        self.sender.report.images += 1;
        Ok(())
    }

    /// Doubles, interleaves and shuffles the packets of one frame, into `order`.
    fn put_in_order(&mut self, frame: &[DumpPacket], frame_number: u64) {
        self.order.clear();
        for (at, packet) in frame.iter().enumerate() {
            let doubled = matches!(self.fates.fate(frame_number, at), Fate::Sent { copies: 2, .. });
            self.order.extend(std::iter::repeat_n(*packet, 1 + usize::from(doubled)));
            self.sender.report.packets_duplicated += u64::from(doubled);
        }
        self.sender.report.packets_made += frame.len() as u64;
        interleave(&mut self.order, self.replay.interleave_packets);
        if let Some(seed) = self.replay.shuffle {
            shuffle(&mut self.order, mix(seed) ^ frame_number);
        }
    }
}

/// Brings packets that are sorted by port into turns of `turn_packets` per port.
fn interleave(packets: &mut [DumpPacket], turn_packets: usize) {
    let mut keyed: Vec<(usize, DumpPacket)> = Vec::with_capacity(packets.len());
    for of_port in packets.chunk_by(|a, b| a.port == b.port) {
        keyed.extend(of_port.iter().enumerate().map(|(at, packet)| (at / turn_packets, *packet)));
    }
    keyed.sort_by_key(|(turn, _)| *turn); // stable: ports, then packets, stay in their order
    packets.iter_mut().zip(keyed).for_each(|(packet, (_, of_turn))| *packet = of_turn);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_take_turns_and_a_port_with_fewer_packets_drops_out() {
        let packet = |port, frame_number| DumpPacket { frame_number, port, offset_bytes: 0, bytes: 0 };
        let of_port = |port, count| (0..count).map(move |number| packet(port, number));
        let mut packets: Vec<DumpPacket> = of_port(0, 5).chain(of_port(1, 2)).collect();
        interleave(&mut packets, 2);
        let order: Vec<(usize, u64)> = packets.iter().map(|packet| (packet.port, packet.frame_number)).collect();
        assert_eq!(order, [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (0, 4)]);
    }
}
