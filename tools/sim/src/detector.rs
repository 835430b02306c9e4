//! A simulated detector, whichever it is: the packets of every module, image by image, with faults by seed.
//!
//! ```text
//! image      |--------- packets of module 0 ---------|     cut into groups of at most one batch,
//!            |--------- packets of module 1 ---------|     sent group by group over all modules,
//! groups     |--- 0 ---|--- 1 ---|--- 2 ---|--- 3 ---|     each group at its own time of the schedule
//! ```
//!
//! Each packet of a module has its turn, in the detector's order. At its turn it is sent, dropped, or put
//! back: a late packet is sent after the packet whose turn is up to 32 turns of the module later, in the
//! next image if need be. A doubled packet is sent twice in a row. [`Faults`] says which, beforehand.
//!
//! Where a detector has several sets of ports, images go to them in turn, by their ids.
//!
//! Ids rise by one, unless they are to jump ([`Ids`]): as of a detector that skips images, or is started again.
//!
//! Every packet has the time of its image by the detector's clock, from 0 on, and the period as its exposure, both in
//! 100 ns and cut to their fields. Some images are not to be stored ([`do_not_store`]).

use crate::{
    error::{SimError, check_rate_hz},
    faults::{Fate, Fates, Faults, port_index},
    pace::Pace,
    pattern::Pattern,
    report::{Progress, Report},
    sender::{Sender, batch_packets_max},
};
use ecs_schemas::detector::{Detector, PacketHeader};
use std::{net::Ipv4Addr, ops::Range, time::Duration};

/// The detector's clock ticks every 100 ns.
const TICKS_PER_S: f64 = 1e7;
/// Rate by the detector's own clock where none is asked for, so that the bytes of a packet never
/// depend on the speed of the machine.
const NOMINAL_RATE_HZ: f64 = 1000.0;

/// Whether the detector says that an image is not to be stored, if its packets can: of every seven ids, the fourth. Seven
/// is a prime that divides no number of port sets or slots, so that each of them sees both, one behind the other.
pub const fn do_not_store(image_id: u64) -> bool {
    image_id % 7 == 3
}

/// What to simulate.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectorSim {
    pub detector: Detector,
    /// Where the packets go; the ports are the detector's.
    pub host: Ipv4Addr,
    pub images: u64,
    pub first_id: u64,
    pub ids: Ids,
    /// Images per second; 0: as fast as it goes.
    pub rate_hz: f64,
    /// What the network does to it. Its seed is also that of the noise in the images.
    pub faults: Faults,
    /// Of a detector that switches gains: darks of this one, 0 to 2, instead of signals.
    pub dark: Option<usize>,
}

/// How ids go on. 0: not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ids {
    /// After so many images, ids are raised by `jump_by` more.
    pub jump_every: u64,
    pub jump_by: u64,
    /// After so many images, ids begin again, after a pause.
    pub restart_every: u64,
    pub restart_pause: Duration,
}

impl Ids {
    /// Id of the image at `index`, from `first_id` on; none if it is beyond 2^64.
    pub fn id(&self, first_id: u64, index: u64) -> Option<u64> {
        let index = if self.restart_every > 0 { index % self.restart_every } else { index };
        let jumps = index.checked_div(self.jump_every).unwrap_or(0);
        first_id.checked_add(index)?.checked_add(jumps.checked_mul(self.jump_by)?)
    }

    fn restarts_at(&self, index: u64) -> bool {
        self.restart_every > 0 && index > 0 && index.is_multiple_of(self.restart_every)
    }

    /// The pauses before the image at `index`.
    fn paused(&self, index: u64) -> Duration {
        let restarts = index.checked_div(self.restart_every).unwrap_or(0);
        self.restart_pause.saturating_mul(u32::try_from(restarts).unwrap_or(u32::MAX))
    }
}

impl DetectorSim {
    /// Images from id 1, as fast as it goes, without faults.
    pub fn new(detector: Detector, host: Ipv4Addr, images: u64) -> Self {
        let faults = Faults::default();
        Self { detector, host, images, first_id: 1, ids: Ids::default(), rate_hz: 0.0, faults, dark: None }
    }

    /// What happens to each packet of this run, for a checker: `fates().dropped_packets(image_id)`.
    pub fn fates(&self) -> Fates {
        self.faults.of(&self.detector.placement)
    }

    fn check(&self) -> Result<(), SimError> {
        check_rate_hz(self.rate_hz)?;
        self.faults.check(&self.detector.placement)?;
        let run = if self.ids.restart_every > 0 { self.ids.restart_every.min(self.images) } else { self.images };
        if self.ids.id(self.first_id, run).is_none() {
            return Err(SimError::option("first_id", self.first_id, "ids up to 2^64 - 1 for every image"));
        }
        Ok(())
    }
}

/// Sends every image, or those before `stop` says true; an image that has begun is always finished.
/// `progress` is called a few times a second, and once at the end.
///
/// # Errors
/// An option is out of range, or the network refuses packets for good.
pub fn run(sim: &DetectorSim, stop: &dyn Fn() -> bool, progress: &mut dyn FnMut(&Report)) -> Result<Report, SimError> {
    sim.check()?;
    let mut detector = Simulation::new(sim)?;
    let mut pace = Pace::start(sim.rate_hz);
    let mut progress = Progress::new(progress);
    for index in 0..sim.images {
        if sim.ids.restarts_at(index) {
            detector.send_all_late()?;
            pace.pause(sim.ids.paused(index) - sim.ids.paused(index - 1), stop);
        }
        pace.wait(index, 0, 1, stop);
        if stop() {
            break;
        }
        detector.send_image(index, &pace, stop)?;
        progress.tick(&mut detector.sender.report, &pace);
    }
    Ok(progress.end(detector.finish()?, &pace))
}

struct Simulation<'a> {
    sim: &'a DetectorSim,
    fates: Fates,
    pattern: Pattern,
    period_ticks: f64,
    sender: Sender,
    streams: Vec<Stream>,
}

/// The order of one module's packets.
#[derive(Default)]
struct Stream {
    turn: u64,
    /// Packets that were put back; never more than the longest lateness.
    late: Vec<LatePacket>,
}

struct LatePacket {
    due_turn: u64,
    packet: Packet,
}

/// A packet that is to be sent.
#[derive(Clone, Copy)]
struct Packet {
    /// Of the image, in the run.
    index: u64,
    image_id: u64,
    number: usize,
    copies: u8,
}

impl<'a> Simulation<'a> {
    fn new(sim: &'a DetectorSim) -> Result<Self, SimError> {
        let rate_hz = if sim.rate_hz == 0.0 { NOMINAL_RATE_HZ } else { sim.rate_hz };
        let placement = &sim.detector.placement;
        Ok(Self {
            sim,
            fates: sim.fates(),
            pattern: match sim.dark {
                Some(gain) => Pattern::dark(placement, gain),
                None => Pattern::new(placement, sim.faults.seed),
            },
            period_ticks: TICKS_PER_S / rate_hz,
            sender: Sender::open(sim.host, &placement.ports, placement.packet_bytes())?,
            streams: (0..placement.modules).map(|_| Stream::default()).collect(),
        })
    }

    fn send_image(&mut self, index: u64, pace: &Pace, stop: &dyn Fn() -> bool) -> Result<(), SimError> {
        let placement = &self.sim.detector.placement;
        let groups = placement.packets_per_module.div_ceil(batch_packets_max(placement.packet_bytes()));
        let image_id = self.sim.ids.id(self.sim.first_id, index).expect("it was checked");
        for group in 0..groups {
            pace.wait(index, group, groups, stop);
            for module in 0..self.streams.len() {
                for number in self.group(group, groups) {
                    self.take_turn(module, Packet { index, image_id, number, copies: 1 })?;
                }
            }
        }
        self.sender.flush()?;
        self.sender.report.images += 1;
        Ok(())
    }

    /// The packet numbers of a group; groups differ in size by one packet at most.
    fn group(&self, group: usize, groups: usize) -> Range<usize> {
        let packets = self.sim.detector.placement.packets_per_module;
        group * packets / groups..(group + 1) * packets / groups
    }

    fn take_turn(&mut self, module: usize, packet: Packet) -> Result<(), SimError> {
        let report = &mut self.sender.report;
        report.packets_made += 1;
        let stream = &mut self.streams[module];
        let packet_index = module * self.sim.detector.placement.packets_per_module + packet.number;
        match self.fates.fate(packet.image_id, packet_index) {
            Fate::Dropped => report.packets_dropped += 1,
            Fate::Sent { copies, turns_late } => {
                let packet = Packet { copies, ..packet };
                report.packets_duplicated += u64::from(copies - 1);
                if turns_late == 0 {
                    self.send(module, packet)?;
                } else {
                    report.packets_reordered += 1;
                    stream.late.push(LatePacket { due_turn: stream.turn + turns_late, packet });
                }
            }
        }
        let turn = self.streams[module].turn;
        self.streams[module].turn += 1;
        self.send_late(module, turn)
    }

    /// Sends the packets that were put back to `turn` or an earlier one, in the order of their own turns.
    fn send_late(&mut self, module: usize, turn: u64) -> Result<(), SimError> {
        while let Some(at) = self.streams[module].late.iter().position(|late| late.due_turn <= turn) {
            let late = self.streams[module].late.remove(at);
            self.send(module, late.packet)?;
        }
        Ok(())
    }

    fn send(&mut self, module: usize, packet: Packet) -> Result<(), SimError> {
        let Detector { wire, placement, .. } = &self.sim.detector;
        let header = PacketHeader {
            image_id: packet.image_id,
            number: packet.number,
            timestamp: (packet.index as f64 * self.period_ticks) as u64,
            exposure_length: self.period_ticks as u32,
            do_not_store: do_not_store(packet.image_id),
        };
        let port = port_index(packet.image_id, module, placement.modules, placement.ports.len());
        let packet_index = module * placement.packets_per_module + packet.number;
        let bytes = wire.header_bytes + placement.payload_bytes_of(packet.number);
        for _ in 0..packet.copies {
            let (head, payload) = self.sender.slot(port, bytes)?.split_at_mut(wire.header_bytes);
            wire.write(head, module, &header);
            self.pattern.write_payload(packet.image_id, packet_index, payload);
        }
        Ok(())
    }

    /// Sends what was put back, however far.
    fn send_all_late(&mut self) -> Result<(), SimError> {
        for module in 0..self.streams.len() {
            self.send_late(module, u64::MAX)?;
        }
        self.sender.flush()
    }

    /// Sends what was put back beyond the last image.
    fn finish(mut self) -> Result<Report, SimError> {
        self.send_all_late()?;
        Ok(self.sender.report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_jump_and_begin_again_as_asked() {
        let ids = Ids { jump_every: 3, jump_by: 100, restart_every: 5, restart_pause: Duration::from_secs(1) };
        let first: Vec<u64> = (0..11).filter_map(|index| ids.id(10, index)).collect();
        assert_eq!(first, [10, 11, 12, 113, 114, 10, 11, 12, 113, 114, 10]);
        assert_eq!((ids.restarts_at(0), ids.restarts_at(5), ids.restarts_at(6)), (false, true, false));
        assert_eq!(ids.paused(10), Duration::from_secs(2));
        assert_eq!(Ids::default().id(u64::MAX, 0), Some(u64::MAX));
        assert_eq!(Ids::default().id(u64::MAX, 1), None);
        assert_eq!(Ids { jump_every: 1, jump_by: u64::MAX, ..Ids::default() }.id(1, 2), None);
    }
}
