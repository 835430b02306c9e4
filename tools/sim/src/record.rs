//! Records packets: whatever comes on a detector's ports, into files that [`dump`](crate::dump) reads.
//!
//! It takes the ports as a readout does, so no readout of this host may have them. A record must play again, so only
//! packets of lengths that the detector has are kept; others are counted. What the kernel had no room for is counted
//! too, packet by packet, since nothing is coalesced here.

use crate::{
    dump::{DUMP_BYTES_MAX, LENGTH_BYTES},
    socket::{self, PortReceiver},
};
use ecs_schemas::detector::Detector;
use serde::Serialize;
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How soon a stop is noticed, and how often progress is told.
const LOOK_PERIOD: Duration = Duration::from_millis(50);
/// Packets of one port before it is the next one's turn.
const TURN_PACKETS: usize = 256;
/// Longest payload of a UDP datagram, and more.
const PACKET_BYTES_MAX: usize = 65_536;

/// What to record, and until when.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    pub detector: Detector,
    /// The address that the ports are bound to.
    pub address: Ipv4Addr,
    /// Where the files go; made when it is missing.
    pub folder: PathBuf,
    /// Packets after which it ends; none: never.
    pub packets_max: Option<u64>,
    /// Silence after the first packet after which it ends; none: never.
    pub idle: Option<Duration>,
}

/// What was recorded.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RecordReport {
    pub packets: u64,
    /// Bytes of the packets.
    pub bytes: u64,
    /// Packets of lengths that the detector does not have: not in the files.
    pub other_packets: u64,
    /// Packets that the kernel had no room for.
    pub dropped_by_kernel: u64,
    /// From the first packet to the last.
    pub seconds: f64,
}

/// Why a recording could not begin, or had to end. What was written before is whole.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot receive on UDP {address}:{port}: {source}; is a readout or another receiver running on this port?")]
    Bind { address: Ipv4Addr, port: u16, source: io::Error },
    #[error("cannot make the folder {folder}: {source}")]
    Folder { folder: PathBuf, source: io::Error },
    #[error("{path} exists; record into another folder")]
    Exists { path: PathBuf },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot receive: {0}")]
    Receive(#[source] io::Error),
}

/// A port, and its file.
struct Track {
    receiver: PortReceiver,
    path: PathBuf,
    file: BufWriter<File>,
}

/// Records until `stop` says true, or as `recording` says, or until the files are as long as one that plays may be.
/// `progress` is called some times a second, and at the end.
///
/// # Errors
/// See [`RecordError`].
pub fn run(
    recording: &Recording,
    stop: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(&RecordReport),
) -> Result<RecordReport, RecordError> {
    let mut tracks = open(recording)?;
    let (mut report, mut first, mut last) = (RecordReport::default(), None, Instant::now());
    let mut told = Instant::now();
    while !stop() && !is_over(recording, &report, first.map(|_| last)) {
        let receivers: Vec<&PortReceiver> = tracks.iter().map(|track| &track.receiver).collect();
        socket::wait_readable(&receivers, LOOK_PERIOD).map_err(RecordError::Receive)?;
        let before = report.packets;
        for track in &mut tracks {
            track.take(recording, &mut report)?;
        }
        if report.packets > before {
            last = Instant::now();
            report.seconds = (last - *first.get_or_insert(last)).as_secs_f64();
        }
        if told.elapsed() >= LOOK_PERIOD {
            told = Instant::now();
            progress(&report);
        }
    }
    for track in &mut tracks {
        report.dropped_by_kernel += u64::from(track.receiver.dropped());
        track.file.flush().map_err(|source| RecordError::Write { path: track.path.clone(), source })?;
    }
    progress(&report);
    Ok(report)
}

fn is_over(recording: &Recording, report: &RecordReport, last: Option<Instant>) -> bool {
    let is_full = report.bytes + report.packets * LENGTH_BYTES as u64 + PACKET_BYTES_MAX as u64 > DUMP_BYTES_MAX;
    let is_idle = last.zip(recording.idle).is_some_and(|(last, idle)| last.elapsed() >= idle);
    is_full || is_idle || recording.packets_max.is_some_and(|most| report.packets >= most)
}

fn open(recording: &Recording) -> Result<Vec<Track>, RecordError> {
    let (address, folder) = (recording.address, &recording.folder);
    let bind = |&port: &u16| {
        let receiver = PortReceiver::open(address, port);
        receiver.map(|receiver| (port, receiver)).map_err(|source| RecordError::Bind { address, port, source })
    };
    // First the ports: a recording that cannot begin leaves no file.
    let receivers = recording.detector.placement.ports.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
    fs::create_dir_all(folder).map_err(|source| RecordError::Folder { folder: folder.clone(), source })?;
    let paths: Vec<PathBuf> = receivers.iter().map(|(port, _)| folder.join(format!("{port}.dat"))).collect();
    if let Some(path) = paths.iter().find(|path| path.exists()) {
        return Err(RecordError::Exists { path: path.clone() });
    }
    let track = |(receiver, path): (PortReceiver, PathBuf)| {
        let file = create(&path)?;
        Ok(Track { receiver, path, file: BufWriter::with_capacity(1 << 20, file) })
    };
    receivers.into_iter().map(|(_, receiver)| receiver).zip(paths).map(track).collect()
}

fn create(path: &Path) -> Result<File, RecordError> {
    File::create_new(path).map_err(|source| RecordError::Write { path: path.to_owned(), source })
}

impl Track {
    /// Records the packets that are there, up to a turn's.
    fn take(&mut self, recording: &Recording, report: &mut RecordReport) -> Result<(), RecordError> {
        let placement = &recording.detector.placement;
        let lengths = [placement.packet_bytes(), placement.last_packet_bytes()];
        let mut packet = [0; PACKET_BYTES_MAX];
        for _ in 0..TURN_PACKETS {
            if is_over(recording, report, None) {
                break;
            }
            let Some(bytes) = self.receiver.receive(&mut packet).map_err(RecordError::Receive)? else { break };
            if !lengths.contains(&bytes) {
                report.other_packets += 1;
                continue;
            }
            let record = [&(bytes as u64).to_le_bytes()[..], &packet[..bytes]];
            let written = record.into_iter().try_for_each(|part| self.file.write_all(part));
            written.map_err(|source| RecordError::Write { path: self.path.clone(), source })?;
            report.packets += 1;
            report.bytes += bytes as u64;
        }
        Ok(())
    }
}
