//! The ledger in the file: fixed places for numbers and texts, under `/entry/ledger`.

use super::{disk, layout::Layout, spec::EndState};
use ecs_schemas::{image::LossCause, packets::PacketLedger, write_job::Ledger};
use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt};

/// Bytes of the texts, padded with zeros.
pub(super) const STATE_BYTES: usize = 16;
pub(super) const TEXT_BYTES: usize = 256;
/// Room for some ten calibrations; each image has the number of its own in any case.
pub(super) const CALIBRATIONS_BYTES: usize = 4096;
/// The state of a file that has not ended.
pub(super) const STATE_WRITING: &str = "writing";

/// One dataset of `/entry/ledger`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LedgerField {
    Job,
    Writer,
    FileId,
    Asked,
    FirstId,
    Written,
    Partial,
    Lost,
    MissingPackets,
    LostByCause,
    Calibrations,
    Packets,
    Reason,
    State,
}

impl LedgerField {
    pub const COUNT: usize = 14;
    pub const ALL: [Self; Self::COUNT] = [
        Self::Job,
        Self::Writer,
        Self::FileId,
        Self::Asked,
        Self::FirstId,
        Self::Written,
        Self::Partial,
        Self::Lost,
        Self::MissingPackets,
        Self::LostByCause,
        Self::Calibrations,
        Self::Packets,
        Self::Reason,
        Self::State,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Writer => "writer",
            Self::FileId => "file_id",
            Self::Asked => "asked",
            Self::FirstId => "first_id",
            Self::Written => "written",
            Self::Partial => "partial",
            Self::Lost => "lost",
            Self::MissingPackets => "missing_packets",
            Self::LostByCause => "lost_by_cause",
            Self::Calibrations => "calibrations",
            Self::Packets => "packets",
            Self::Reason => "reason",
            Self::State => "state",
        }
    }

    pub fn description(self) -> &'static str {
        match self {
            Self::Job => "number of the job that wrote the file",
            Self::Writer => "name of the writer that took the job",
            Self::FileId => "drawn anew for each file: tells the attempts at a job apart",
            Self::Asked => "images asked for: written + partial + lost",
            Self::FirstId => "first image id asked for",
            Self::Written => "images with every packet in its place",
            Self::Partial => "images with missing packets",
            Self::Lost => "images that are not there",
            Self::MissingPackets => "packets missing in the partial images",
            Self::LostByCause => "lost images by cause; the attribute names has the causes in order",
            Self::Calibrations => "what pixels were made with, by number: a line of JSON each",
            Self::Packets => {
                "packets that the readouts counted while the job ran; the attribute names has what became of them"
            }
            Self::Reason => "why the file ended as it did, for people",
            Self::State => "writing, done, failed or cancelled; counts are final unless it is writing",
        }
    }
}

/// Writes one number of the ledger.
pub(super) fn write_number(file: &File, layout: &Layout, field: LedgerField, value: u64) -> io::Result<()> {
    disk::write(file, &value.to_le_bytes(), layout.ledger_offset(field))
}

/// Writes the counts; the state is left as it is.
pub(super) fn write_counts(file: &File, layout: &Layout, ledger: &Ledger) -> io::Result<()> {
    let number = |field, value| write_number(file, layout, field, value);
    number(LedgerField::Written, ledger.written)?;
    number(LedgerField::Partial, ledger.partial)?;
    number(LedgerField::Lost, ledger.lost_total())?;
    number(LedgerField::MissingPackets, ledger.missing_packets)?;
    let counts = LossCause::ALL.map(|cause| ledger.lost.get(&cause).copied().unwrap_or(0));
    write_numbers(file, layout, LedgerField::LostByCause, &counts)?;
    write_numbers(file, layout, LedgerField::Packets, &ledger.packets.values())
}

fn write_numbers(file: &File, layout: &Layout, field: LedgerField, values: &[u64]) -> io::Result<()> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    disk::write(file, &bytes, layout.ledger_offset(field))
}

/// Writes a text into its field of `field_bytes`, cut at a character where it is too long.
pub(super) fn write_text(file: &File, layout: &Layout, field: LedgerField, text: &str) -> io::Result<()> {
    let mut bytes = vec![0; text_bytes(field)];
    let mut end = text.len().min(bytes.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
    disk::write(file, &bytes, layout.ledger_offset(field))
}

/// The text of a field, up to its padding.
pub(super) fn read_text(file: &File, layout: &Layout, field: LedgerField) -> io::Result<String> {
    let mut bytes = vec![0; text_bytes(field)];
    file.read_exact_at(&mut bytes, layout.ledger_offset(field))?;
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

fn text_bytes(field: LedgerField) -> usize {
    match field {
        LedgerField::State => STATE_BYTES,
        LedgerField::Calibrations => CALIBRATIONS_BYTES,
        _ => TEXT_BYTES,
    }
}

pub(super) fn read_number(file: &File, layout: &Layout, field: LedgerField) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, layout.ledger_offset(field))?;
    Ok(u64::from_le_bytes(bytes))
}

fn read_numbers<const N: usize>(file: &File, layout: &Layout, field: LedgerField) -> io::Result<[u64; N]> {
    let mut bytes = vec![0; N * 8];
    file.read_exact_at(&mut bytes, layout.ledger_offset(field))?;
    let mut values = [0; N];
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *value = u64::from_le_bytes(*bytes);
    }
    Ok(values)
}

/// The state that a file ended with; none while it is being written.
pub(super) fn read_end_state(file: &File, layout: &Layout) -> io::Result<Option<EndState>> {
    let text = read_text(file, layout, LedgerField::State)?;
    Ok(EndState::ALL.into_iter().find(|state| state.as_str() == text))
}

/// The ledger of a file that has ended. Path and duration are not in the file and left empty.
pub(super) fn read_ledger(file: &File, layout: &Layout) -> io::Result<Ledger> {
    let number = |field| read_number(file, layout, field);
    let counts = read_numbers::<{ LossCause::ALL.len() }>(file, layout, LedgerField::LostByCause)?;
    let packets = read_numbers(file, layout, LedgerField::Packets)?;
    let lost: BTreeMap<_, _> = LossCause::ALL.into_iter().zip(counts).filter(|&(_, count)| count > 0).collect();
    let (asked, first_id) = (number(LedgerField::Asked)?, number(LedgerField::FirstId)?);
    let (written, partial) = (number(LedgerField::Written)?, number(LedgerField::Partial)?);
    Ok(Ledger {
        output: String::new(),
        asked,
        first_id: Some(first_id),
        last_id: Some(first_id.wrapping_add(asked.wrapping_sub(1))),
        written,
        partial,
        lost,
        missing_packets: number(LedgerField::MissingPackets)?,
        packets: PacketLedger::from_values(packets),
        bytes: (written + partial).saturating_mul(layout.image_bytes()),
        seconds: 0.0,
    })
}
