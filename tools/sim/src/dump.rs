//! Recorded packets, as std-daq dumps them: one file per UDP port.
//!
//! ```text
//! <port>.dat    | length u64 LE | length bytes: one UDP payload | length u64 LE | …
//! ```
//!
//! A file is trusted in nothing: a record that is cut or of a length that the detector's packets do not
//! have is an error with its offset. The whole dump is held in memory, for a disk would set the pace.

use ecs_schemas::detector::Detector;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A larger dump is refused, before it fills the machine's memory. This is 4000 images of a 500K module
/// at 32 bit; a longer run is had by repeating it.
pub const DUMP_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;
/// Bytes of the length before each packet.
pub(crate) const LENGTH_BYTES: usize = 8;

/// Why a dump cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// A port's file is missing or cannot be read.
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    /// The files of all ports are together larger than [`DUMP_BYTES_MAX`].
    #[error("the dump has {found_bytes} bytes up to {path}; at most {DUMP_BYTES_MAX} are held in memory")]
    TooLarge { path: PathBuf, found_bytes: u64 },
    /// The file ends inside a record.
    #[error("{path} is cut: the record at offset {offset_bytes} needs {wanted_bytes} bytes, {found_bytes} are left")]
    Cut { path: PathBuf, offset_bytes: usize, wanted_bytes: usize, found_bytes: usize },
    /// A record's length is not that of this detector's packets.
    #[error("{path}: the record at offset {offset_bytes} says {found_bytes} bytes; a packet has {wanted_bytes}")]
    Length { path: PathBuf, offset_bytes: usize, wanted_bytes: usize, found_bytes: u64 },
    /// No file has a record.
    #[error("{folder} holds no packet of this detector")]
    Empty { folder: PathBuf },
}

/// The packets of all ports in memory, in the order of their frame numbers, then of their ports, then as
/// recorded.
pub struct Dump {
    files: Vec<Vec<u8>>,
    packets: Vec<DumpPacket>,
}

/// Where a recorded packet lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpPacket {
    pub frame_number: u64,
    /// Index of the port in the detector's placement.
    pub port: usize,
    /// Of its first byte in the port's file.
    pub offset_bytes: usize,
    pub bytes: usize,
}

impl Dump {
    /// Reads `<port>.dat` of every port from `folder`.
    ///
    /// # Errors
    /// Names the file and, where it is malformed, the offset of the record.
    pub fn read(folder: &Path, detector: &Detector) -> Result<Self, DumpError> {
        let mut dump = Self { files: Vec::new(), packets: Vec::new() };
        let mut total_bytes = 0;
        for &port in &detector.placement.ports {
            let path = folder.join(format!("{port}.dat"));
            let file = read_file(&path, &mut total_bytes)?;
            dump.index(&path, &file, detector)?;
            dump.files.push(file);
        }
        if dump.packets.is_empty() {
            return Err(DumpError::Empty { folder: folder.to_owned() });
        }
        dump.packets.sort_by_key(|packet| (packet.frame_number, packet.port)); // stable: as recorded
        Ok(dump)
    }

    /// The packets of each frame, frame numbers rising.
    pub fn frames(&self) -> impl Iterator<Item = &[DumpPacket]> {
        self.packets.chunk_by(|a, b| a.frame_number == b.frame_number)
    }

    /// First and last frame number.
    pub fn frame_numbers(&self) -> (u64, u64) {
        (self.packets[0].frame_number, self.packets[self.packets.len() - 1].frame_number)
    }

    /// The bytes of a packet, as recorded.
    pub fn bytes(&self, packet: &DumpPacket) -> &[u8] {
        &self.files[packet.port][packet.offset_bytes..][..packet.bytes]
    }

    /// Appends the records of the next port's file.
    fn index(&mut self, path: &Path, file: &[u8], detector: &Detector) -> Result<(), DumpError> {
        let port = self.files.len();
        let mut at = 0;
        while at < file.len() {
            let packet = record(path, file, at, detector)?;
            let frame_number = detector.wire.image_id.read(packet);
            self.packets.push(DumpPacket { frame_number, port, offset_bytes: at + LENGTH_BYTES, bytes: packet.len() });
            at += LENGTH_BYTES + packet.len();
        }
        Ok(())
    }
}

fn read_file(path: &Path, total_bytes: &mut u64) -> Result<Vec<u8>, DumpError> {
    let fail = |source| DumpError::Read { path: path.to_owned(), source };
    *total_bytes += fs::metadata(path).map_err(fail)?.len();
    if *total_bytes > DUMP_BYTES_MAX {
        return Err(DumpError::TooLarge { path: path.to_owned(), found_bytes: *total_bytes });
    }
    fs::read(path).map_err(fail)
}

/// The packet of the record at `offset_bytes`.
fn record<'a>(path: &Path, file: &'a [u8], offset_bytes: usize, detector: &Detector) -> Result<&'a [u8], DumpError> {
    let cut = |wanted_bytes| DumpError::Cut {
        path: path.to_owned(),
        offset_bytes,
        wanted_bytes,
        found_bytes: file.len() - offset_bytes,
    };
    let (length, rest) = file[offset_bytes..].split_first_chunk::<LENGTH_BYTES>().ok_or_else(|| cut(LENGTH_BYTES))?;
    let found_bytes = u64::from_le_bytes(*length);
    let lengths = [detector.placement.packet_bytes(), detector.placement.last_packet_bytes()];
    match lengths.into_iter().find(|&bytes| bytes as u64 == found_bytes) {
        Some(bytes) => rest.get(..bytes).ok_or_else(|| cut(LENGTH_BYTES + bytes)),
        None => Err(DumpError::Length { path: path.to_owned(), offset_bytes, wanted_bytes: lengths[0], found_bytes }),
    }
}
