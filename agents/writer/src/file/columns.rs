//! The arrays beside the images: one row for each image, each array in one unbroken run of the file.

use super::spec::ImageRow;
use ecs_schemas::image::{ImageStatus, LossCause};
use hdf5_metno::types::{EnumMember, EnumType, IntSize, TypeDescriptor};

/// One array of `/entry/data`. The order is the order in which a row is written: `Status` last (rule F2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// Written for all rows at once, as soon as the first id is known.
    ImageId,
    MissingPackets,
    PacketReceived,
    FirstPacketTime,
    CommitTime,
    DetectorTimestamp,
    ExposureLength,
    DoNotStore,
    Calibration,
    LossCause,
    Status,
}

// Rule F2: rows are flushed in the order of `ALL`.
const _: () = assert!(matches!(Column::ALL[Column::COUNT - 1], Column::Status));

/// One row of every column but the image id.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub status: ImageStatus,
    pub loss_cause: LossCause,
    pub image: ImageRow<'a>,
}

impl Column {
    pub const COUNT: usize = 11;
    pub const ALL: [Self; Self::COUNT] = [
        Self::ImageId,
        Self::MissingPackets,
        Self::PacketReceived,
        Self::FirstPacketTime,
        Self::CommitTime,
        Self::DetectorTimestamp,
        Self::ExposureLength,
        Self::DoNotStore,
        Self::Calibration,
        Self::LossCause,
        Self::Status,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::ImageId => "image_id",
            Self::MissingPackets => "missing_packets",
            Self::PacketReceived => "packet_received",
            Self::FirstPacketTime => "first_packet_time",
            Self::CommitTime => "commit_time",
            Self::DetectorTimestamp => "detector_timestamp",
            Self::ExposureLength => "exposure_length",
            Self::DoNotStore => "do_not_store",
            Self::Calibration => "calibration",
            Self::LossCause => "loss_cause",
            Self::Status => "status",
        }
    }

    pub fn units(self) -> Option<&'static str> {
        match self {
            Self::MissingPackets => Some("packets"),
            Self::FirstPacketTime | Self::CommitTime => Some("ns"),
            Self::DetectorTimestamp | Self::ExposureLength => Some("100 ns"),
            _ => None,
        }
    }

    pub fn description(self) -> &'static str {
        match self {
            Self::ImageId => "frame number given by the detector",
            Self::MissingPackets => "packets of the image that did not arrive",
            Self::PacketReceived => "bit i of byte i/8, lowest first: packet i arrived",
            Self::FirstPacketTime => "arrival of the first packet, nanoseconds since 1970-01-01 UTC",
            Self::CommitTime => "when the image was closed, nanoseconds since 1970-01-01 UTC",
            Self::DetectorTimestamp => "the detector's own clock, from the packet header",
            Self::ExposureLength => "exposure length from the packet header; subframes for an EIGER at 32 bit",
            Self::DoNotStore => "1: the detector said, in the packet header, that the image is not to be stored",
            Self::Calibration => {
                "number of what its pixels were made with, told in ledger/calibrations; 0: as they came"
            }
            Self::LossCause => "why the image is lost; none where it is there",
            Self::Status => "pending: not written; complete; partial: some pixels hold the fill value; lost: all do",
        }
    }

    /// Bytes of one row, for images of `packets` packets.
    pub fn row_bytes(self, packets: usize) -> usize {
        match self {
            Self::ImageId | Self::FirstPacketTime | Self::CommitTime | Self::DetectorTimestamp | Self::Calibration => 8,
            Self::MissingPackets | Self::ExposureLength => 4,
            Self::PacketReceived => packets.div_ceil(8),
            Self::DoNotStore | Self::LossCause | Self::Status => 1,
        }
    }

    pub fn type_descriptor(self) -> TypeDescriptor {
        match self {
            Self::ImageId | Self::FirstPacketTime | Self::CommitTime | Self::DetectorTimestamp | Self::Calibration => {
                TypeDescriptor::Unsigned(IntSize::U8)
            }
            Self::MissingPackets | Self::ExposureLength => TypeDescriptor::Unsigned(IntSize::U4),
            Self::PacketReceived | Self::DoNotStore => TypeDescriptor::Unsigned(IntSize::U1),
            Self::LossCause => enumeration(LossCause::ALL.map(|cause| (cause.as_str(), cause as u8))),
            Self::Status => enumeration(ImageStatus::ALL.map(|status| (status_name(status), status as u8))),
        }
    }

    /// Appends the bytes of a row as they are in the file, little-endian.
    ///
    /// # Panics
    /// For `ImageId`, which no row carries, and if the bitmap has fewer bits than the image has packets.
    pub fn append(self, row: &Row, packets: usize, bytes: &mut Vec<u8>) {
        let image = &row.image;
        match self {
            Self::ImageId => unreachable!("image ids are written for all rows at once"),
            Self::MissingPackets => bytes.extend(image.missing_packets.to_le_bytes()),
            Self::PacketReceived => append_bitmap(image.packet_received, packets, bytes),
            Self::FirstPacketTime => bytes.extend(image.first_packet_time_ns.to_le_bytes()),
            Self::CommitTime => bytes.extend(image.commit_time_ns.to_le_bytes()),
            Self::DetectorTimestamp => bytes.extend(image.detector_timestamp.to_le_bytes()),
            Self::ExposureLength => bytes.extend(image.exposure_length.to_le_bytes()),
            Self::DoNotStore => bytes.push(image.do_not_store.into()),
            Self::Calibration => bytes.extend(image.calibration.to_le_bytes()),
            Self::LossCause => bytes.push(row.loss_cause as u8),
            Self::Status => bytes.push(row.status as u8),
        }
    }
}

/// An empty bitmap is that of a lost image: no packet is known to have arrived.
fn append_bitmap(words: &[u64], packets: usize, bytes: &mut Vec<u8>) {
    let row_bytes = packets.div_ceil(8);
    if words.is_empty() {
        bytes.resize(bytes.len() + row_bytes, 0);
        return;
    }
    assert!(words.len() * 64 >= packets, "bitmap of {} words for {packets} packets", words.len());
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()).take(row_bytes));
}

pub(super) fn status_name(status: ImageStatus) -> &'static str {
    match status {
        ImageStatus::Pending => "pending",
        ImageStatus::Complete => "complete",
        ImageStatus::Partial => "partial",
        ImageStatus::Lost => "lost",
    }
}

fn enumeration<const N: usize>(members: [(&str, u8); N]) -> TypeDescriptor {
    let members = members.map(|(name, value)| EnumMember { name: name.to_owned(), value: value.into() });
    TypeDescriptor::Enum(EnumType { size: IntSize::U1, signed: false, members: members.to_vec() })
}
