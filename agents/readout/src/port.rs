//! What is known of one port: which packet comes next, how far it is in the run, and which of its packets
//! wait for their image to open.

use crate::{batch::Batch, decode::Packet, socket::PortSocket};
use ecs_schemas::detector::Placement;
use std::collections::VecDeque;

/// One detector port of this process.
pub struct Port {
    pub socket: PortSocket,
    /// Index of its module: its packets are `module * packets_per_module + number`.
    pub module: usize,
    pub batch: Batch,
    /// Packets of the last batch that are still in its staging place. While there are any, the port
    /// receives no more: the kernel's buffer holds what comes, and other ports go on.
    pub parked: VecDeque<Parked>,
    /// Image and number that follow the packet that came last.
    next: Option<(u64, usize)>,
    /// Highest id seen in this run, and when the last good packet came.
    highest_id: Option<u64>,
    last_packet_ns: u64,
}

/// A packet that did not come where it was expected, at its place in the batch.
#[derive(Debug, Clone, Copy)]
pub struct Parked {
    pub message: usize,
    pub packet: Packet,
    /// When it came: it does not wait for ever.
    pub since_ns: u64,
}

impl Port {
    pub fn new(socket: PortSocket, module: usize, placement: &Placement) -> Self {
        let (batch, parked) = (Batch::new(placement), VecDeque::with_capacity(crate::batch::BATCH_PACKETS));
        Self { socket, module, batch, parked, next: None, highest_id: None, last_packet_ns: 0 }
    }

    /// The packet that is to be expected next, if one came before.
    pub fn expected(&self) -> Option<(u64, usize)> {
        self.next
    }

    /// A good packet came: its successor is expected next.
    pub fn note_packet(&mut self, packet: &Packet, packets_per_module: usize, now_ns: u64) {
        self.next = Some(successor((packet.image_id, packet.number), packets_per_module));
        self.last_packet_ns = now_ns;
    }

    /// The id belongs to the run as it is now.
    pub fn note_id(&mut self, id: u64) {
        self.highest_id = self.highest_id.max(Some(id));
    }

    /// A new run began: ids of the old one say nothing.
    pub fn forget_run(&mut self) {
        self.highest_id = None;
    }
}

/// The packet after this one, as a detector sends them.
pub fn successor((id, number): (u64, usize), packets_per_module: usize) -> (u64, usize) {
    if number + 1 < packets_per_module { (id, number + 1) } else { (id + 1, 0) }
}

/// How far these ports are: the lowest of their highest ids, ports that are silent left out. A port is
/// silent when nothing came for `deadline_ns` since it, or any of them after a pause, was heard.
pub struct Progress {
    deadline_ns: u64,
    last_packet_ns: u64,
    resumed_ns: u64,
}

impl Progress {
    pub fn new(deadline_ns: u64) -> Self {
        Self { deadline_ns, last_packet_ns: 0, resumed_ns: 0 }
    }

    pub fn note_packets(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.last_packet_ns) > self.deadline_ns {
            self.resumed_ns = now_ns;
        }
        self.last_packet_ns = now_ns;
    }

    /// None while a port that may still speak has not.
    pub fn of(&self, ports: &[Port], now_ns: u64) -> Option<u64> {
        let heard_ns = |port: &Port| port.last_packet_ns.max(self.resumed_ns);
        let speaking = ports.iter().filter(|port| now_ns.saturating_sub(heard_ns(port)) < self.deadline_ns);
        speaking.map(|port| port.highest_id).try_fold(None, |lowest: Option<u64>, highest| {
            let highest = highest?;
            Some(Some(lowest.map_or(highest, |lowest| lowest.min(highest))))
        })?
    }
}
