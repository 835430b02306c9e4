//! A simulated EIGER: the packets of every port, image by image, with faults by seed.
//!
//! ```text
//! image      |---------- packets of port 0 ----------|     cut into groups of at most one batch,
//!            |---------- packets of port 1 ----------|     sent group by group over all ports,
//! groups     |--- 0 ---|--- 1 ---|--- 2 ---|--- 3 ---|     each group at its own time of the schedule
//! ```
//!
//! Each packet of a port has its turn, in the detector's order. At its turn it is sent, dropped, or put
//! back: a late packet is sent after the packet whose turn is up to 32 turns of the port later, in the
//! next image if need be. A doubled packet is sent twice in a row. [`Faults`] says which, beforehand.

use crate::{
    error::{SimError, check_probability, check_rate_hz},
    faults::{Fate, Faults},
    pace::Pace,
    pattern::Pattern,
    report::{Progress, Report},
    sender::{Sender, batch_packets_max},
};
use ecs_schemas::detector::{
    DetectorConfig, Placement,
    eiger::{DETECTOR_TYPE, HEADER_BYTES, HEADER_VERSION, PacketHeader},
};
use std::{net::Ipv4Addr, ops::Range};

/// The detector's clock ticks every 100 ns.
const TICKS_PER_S: f64 = 1e7;
/// Rate by the detector's own clock where none is asked for, so that the bytes of a packet never
/// depend on the speed of the machine.
const NOMINAL_RATE_HZ: f64 = 1000.0;

/// What to simulate.
#[derive(Debug, Clone, PartialEq)]
pub struct EigerSim {
    pub config: DetectorConfig,
    /// Where the packets go; the ports are those of the configuration.
    pub host: Ipv4Addr,
    pub images: u64,
    pub first_id: u64,
    /// Images per second; 0: as fast as it goes.
    pub rate_hz: f64,
    /// Seed of the noise in the images and of the faults.
    pub seed: u64,
    /// Probabilities per packet, 0 to 1.
    pub drop: f64,
    pub reorder: f64,
    pub duplicate: f64,
}

impl EigerSim {
    /// Images from id 1, as fast as it goes, without faults.
    pub fn new(config: DetectorConfig, host: Ipv4Addr, images: u64) -> Self {
        let (first_id, rate_hz, seed) = (1, 0.0, 0);
        Self { config, host, images, first_id, rate_hz, seed, drop: 0.0, reorder: 0.0, duplicate: 0.0 }
    }

    /// The faults of this run, for a checker: `faults().dropped_packets(image_id, packets_per_image)`.
    pub fn faults(&self) -> Faults {
        Faults { seed: self.seed, drop: self.drop, reorder: self.reorder, duplicate: self.duplicate }
    }

    fn check(&self) -> Result<Placement, SimError> {
        check_rate_hz(self.rate_hz)?;
        check_probability("drop", self.drop)?;
        check_probability("reorder", self.reorder)?;
        check_probability("duplicate", self.duplicate)?;
        if self.first_id.checked_add(self.images).is_none() {
            return Err(SimError::option("first_id", self.first_id, "ids up to 2^64 - 1 for every image"));
        }
        self.config.check()?;
        Ok(self.config.placement()?)
    }
}

/// Sends every image, or those before `stop` says true; an image that has begun is always finished.
/// `progress` is called a few times a second, and once at the end.
///
/// # Errors
/// An option is out of range, or the network refuses packets for good.
pub fn run(sim: &EigerSim, stop: &dyn Fn() -> bool, progress: &mut dyn FnMut(&Report)) -> Result<Report, SimError> {
    let placement = sim.check()?;
    let mut detector = Detector::new(sim, &placement)?;
    let pace = Pace::start(sim.rate_hz);
    let mut progress = Progress::new(progress);
    for index in 0..sim.images {
        pace.wait(index, 0, 1, stop);
        if stop() {
            break;
        }
        detector.send_image(index, &pace, stop)?;
        progress.tick(&mut detector.sender.report, &pace);
    }
    Ok(progress.end(detector.finish()?, &pace))
}

struct Detector<'a> {
    placement: &'a Placement,
    faults: Faults,
    pattern: Pattern,
    first_id: u64,
    period_ticks: f64,
    sender: Sender,
    streams: Vec<PortStream>,
}

/// The order of one port's packets.
#[derive(Default)]
struct PortStream {
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
    image_id: u64,
    number: usize,
    copies: u8,
}

impl<'a> Detector<'a> {
    fn new(sim: &EigerSim, placement: &'a Placement) -> Result<Self, SimError> {
        let rate_hz = if sim.rate_hz == 0.0 { NOMINAL_RATE_HZ } else { sim.rate_hz };
        Ok(Self {
            placement,
            faults: sim.faults(),
            pattern: Pattern::new(placement, sim.seed),
            first_id: sim.first_id,
            period_ticks: TICKS_PER_S / rate_hz,
            sender: Sender::open(sim.host, &placement.ports, placement.packet_bytes())?,
            streams: placement.ports.iter().map(|_| PortStream::default()).collect(),
        })
    }

    fn send_image(&mut self, index: u64, pace: &Pace, stop: &dyn Fn() -> bool) -> Result<(), SimError> {
        let groups = self.placement.packets_per_module.div_ceil(batch_packets_max(self.placement.packet_bytes()));
        for group in 0..groups {
            pace.wait(index, group, groups, stop);
            for port in 0..self.streams.len() {
                for number in self.group(group, groups) {
                    self.take_turn(port, self.first_id + index, number)?;
                }
            }
        }
        self.sender.flush()?;
        self.sender.report.images += 1;
        Ok(())
    }

    /// The packet numbers of a group; groups differ in size by one packet at most.
    fn group(&self, group: usize, groups: usize) -> Range<usize> {
        let packets = self.placement.packets_per_module;
        group * packets / groups..(group + 1) * packets / groups
    }

    fn take_turn(&mut self, port: usize, image_id: u64, number: usize) -> Result<(), SimError> {
        let report = &mut self.sender.report;
        report.packets_made += 1;
        let stream = &mut self.streams[port];
        match self.faults.fate(image_id, port * self.placement.packets_per_module + number) {
            Fate::Dropped => report.packets_dropped += 1,
            Fate::Sent { copies, turns_late } => {
                let packet = Packet { image_id, number, copies };
                report.packets_duplicated += u64::from(copies - 1);
                if turns_late == 0 {
                    self.send(port, packet)?;
                } else {
                    report.packets_reordered += 1;
                    stream.late.push(LatePacket { due_turn: stream.turn + turns_late, packet });
                }
            }
        }
        let turn = self.streams[port].turn;
        self.streams[port].turn += 1;
        self.send_late(port, turn)
    }

    /// Sends the packets that were put back to `turn` or an earlier one, in the order of their own turns.
    fn send_late(&mut self, port: usize, turn: u64) -> Result<(), SimError> {
        while let Some(at) = self.streams[port].late.iter().position(|late| late.due_turn <= turn) {
            let late = self.streams[port].late.remove(at);
            self.send(port, late.packet)?;
        }
        Ok(())
    }

    fn send(&mut self, port: usize, packet: Packet) -> Result<(), SimError> {
        let header = PacketHeader {
            frame_number: packet.image_id,
            exposure_length: self.period_ticks as u32,
            packet_number: packet.number as u32,
            timestamp: ((packet.image_id - self.first_id) as f64 * self.period_ticks) as u64,
            detector_type: DETECTOR_TYPE,
            version: HEADER_VERSION,
        };
        let index = port * self.placement.packets_per_module + packet.number;
        for _ in 0..packet.copies {
            let slot = self.sender.slot(port)?;
            let (head, payload) = slot.split_first_chunk_mut::<HEADER_BYTES>().expect("a packet holds its header");
            header.write(head);
            self.pattern.write_payload(packet.image_id, index, payload);
        }
        Ok(())
    }

    /// Sends what was put back beyond the last image.
    fn finish(mut self) -> Result<Report, SimError> {
        for port in 0..self.streams.len() {
            self.send_late(port, u64::MAX)?;
        }
        self.sender.flush()?;
        Ok(self.sender.report)
    }
}
