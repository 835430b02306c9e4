//! Packets on their way out: one batch, filled in place, sent when it is full or the port changes.
//!
//! ```text
//! slot(port) ─▶ |packet|packet|packet|……………| ─▶ socket of the port, until the kernel has taken all
//!                one buffer for all ports, small enough to stay in the cache
//! ```
//!
//! A packet counts as sent when the kernel has taken it, and the kernel is asked until it has: what the
//! simulator loses, it loses on purpose and counted.

use crate::{
    error::SimError,
    report::Report,
    socket::{BATCH_PACKETS_MAX, DATAGRAM_BYTES_MAX, PortSocket},
};
use std::{
    io::{self, ErrorKind},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// Pause before a batch is offered again that the kernel had no room for: a 10 Gbit/s link empties a
/// batch in this time.
const SEND_PAUSE: Duration = Duration::from_micros(50);
/// A network that takes nothing for this long is broken; the run ends with an error.
const SEND_PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Sender {
    host: Ipv4Addr,
    ports: Vec<u16>,
    sockets: Vec<PortSocket>,
    /// Longest packet.
    packet_bytes: usize,
    batch: Vec<u8>,
    batch_packets: usize,
    batch_bytes: usize,
    batch_port: usize,
    /// Length of the batch's packets; the last one may be shorter, and then none follows it.
    length_bytes: usize,
    batch_is_ended: bool,
    pub report: Report,
}

/// Most packets of this size in one batch.
pub(crate) fn batch_packets_max(packet_bytes: usize) -> usize {
    (DATAGRAM_BYTES_MAX / packet_bytes).clamp(1, BATCH_PACKETS_MAX)
}

impl Sender {
    /// Opens a socket per port.
    pub fn open(host: Ipv4Addr, ports: &[u16], packet_bytes: usize) -> Result<Self, SimError> {
        let open = |&port| PortSocket::open(host, port).map_err(|source| SimError::Socket { host, port, source });
        Ok(Self {
            host,
            ports: ports.to_vec(),
            sockets: ports.iter().map(open).collect::<Result<_, _>>()?,
            packet_bytes,
            batch: vec![0; batch_packets_max(packet_bytes) * packet_bytes],
            batch_packets: 0,
            batch_bytes: 0,
            batch_port: 0,
            length_bytes: 0,
            batch_is_ended: false,
            report: Report::default(),
        })
    }

    /// The next place in the batch, of `bytes` bytes, for the caller to fill whole; it is sent with the batch. `port`
    /// is the index of the port.
    pub fn slot(&mut self, port: usize, bytes: usize) -> Result<&mut [u8], SimError> {
        let is_full = (self.batch_packets + 1) * self.packet_bytes > self.batch.len();
        let is_longer = bytes > self.length_bytes;
        if self.batch_port != port || is_full || is_longer || self.batch_is_ended {
            self.flush()?;
            (self.batch_port, self.length_bytes) = (port, bytes);
        }
        let first = self.batch_bytes;
        self.batch_is_ended = bytes < self.length_bytes;
        self.batch_packets += 1;
        self.batch_bytes += bytes;
        Ok(&mut self.batch[first..first + bytes])
    }

    /// Sends what is in the batch.
    pub fn flush(&mut self) -> Result<(), SimError> {
        let mut taken = 0;
        let mut refused_since = None;
        while taken < self.batch_packets {
            let rest = &self.batch[taken * self.length_bytes..self.batch_bytes];
            match self.sockets[self.batch_port].send(rest, self.length_bytes) {
                Ok(packets) => {
                    taken += packets;
                    refused_since = None;
                    self.report.packets_sent += packets as u64;
                    self.report.bytes_sent += (packets * self.length_bytes).min(rest.len()) as u64;
                }
                Err(error) => self.pause_or_fail(error, *refused_since.get_or_insert_with(Instant::now))?,
            }
        }
        (self.batch_packets, self.batch_bytes, self.batch_is_ended, self.length_bytes) = (0, 0, false, 0);
        Ok(())
    }

    /// Returns where the batch should be offered again.
    fn pause_or_fail(&mut self, error: io::Error, refused_since: Instant) -> Result<(), SimError> {
        let no_room = error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS);
        if error.kind() == ErrorKind::ConnectionRefused {
            self.report.refusals += 1; // nobody listens, which is no concern of a detector
        } else if no_room && refused_since.elapsed() < SEND_PATIENCE {
            self.report.send_waits += 1;
            std::thread::sleep(SEND_PAUSE);
        } else if error.kind() != ErrorKind::Interrupted {
            let (host, port) = (self.host, self.ports[self.batch_port]);
            return Err(SimError::Send { host, port, packets_sent: self.report.packets_sent, source: error });
        }
        Ok(())
    }
}
