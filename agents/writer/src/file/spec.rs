//! What a caller says of a file, of an image and of a file's end.

use ecs_schemas::{detector::PixelType, image::LossCause, packets::PacketLedger, value::Value};
use std::{collections::BTreeMap, path::PathBuf};

/// The file that is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct FileSpec {
    /// Absolute path of the finished file.
    pub output: PathBuf,
    pub author: Author,
    /// Images asked for, 1 to [`IMAGES_MAX`](super::IMAGES_MAX).
    pub images: u64,
    /// Rows and columns of an image.
    pub height: usize,
    pub width: usize,
    pub pixel: PixelType,
    /// At least 1.
    pub packets_per_image: usize,
    /// Bits of every pixel of a lost image.
    pub fill: u32,
    /// Replace a file that is there.
    pub overwrite: bool,
    pub detector_name: String,
    /// For example `eiger`.
    pub detector_type: String,
    /// Bits of a pixel as the detector sends it.
    pub bit_depth: u32,
    /// Row by row, one for each pixel: 0, or why nothing brings it; empty: not known.
    pub pixel_mask: Vec<u8>,
    /// Attributes of `/entry/metadata`.
    pub metadata: BTreeMap<String, Value>,
}

impl FileSpec {
    pub fn image_bytes(&self) -> u64 {
        (self.height * self.width * self.pixel.bytes()) as u64
    }
}

/// Who writes a file, and for which job. All of it is in the file, so that [`recover`](super::recover()) knows its
/// own: a job that is repeated, by another writer or by the same, has the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    pub job: u64,
    /// Name of the agent, at most 256 bytes.
    pub writer: String,
    /// Drawn anew for each file, and part of its temporary name: no two files share one, of whichever writers,
    /// hosts or attempts at a job.
    pub file_id: u64,
}

/// What is known of an image beside its pixels. It is complete where `missing_packets` is 0, partial
/// otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageRow<'a> {
    pub image_id: u64,
    pub missing_packets: u32,
    /// Bit `i % 64` of word `i / 64`: packet `i` arrived. One bit for each packet of the image, at least.
    pub packet_received: &'a [u64],
    /// Nanoseconds since 1970-01-01 UTC.
    pub first_packet_time_ns: u64,
    pub commit_time_ns: u64,
    /// As in the packet header, in units of 100 ns.
    pub detector_timestamp: u64,
    pub exposure_length: u32,
    /// The detector said that the image is not to be stored.
    pub do_not_store: bool,
    /// Number of what its pixels were made with; 0: they are as they came.
    pub calibration: u64,
}

/// How a file ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub state: EndState,
    /// For people; empty where there is nothing to say. Cut after 256 bytes.
    pub reason: String,
    /// Why the images are lost of which nothing was said until now.
    pub pending_cause: LossCause,
    /// What the readouts counted while the job ran.
    pub packets: PacketLedger,
    /// Return only once everything is on the disk, not just with the kernel.
    pub sync: bool,
}

/// The values of `/entry/ledger/state` in a file that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndState {
    Done,
    Failed,
    Cancelled,
}

impl EndState {
    pub const ALL: [Self; 3] = [Self::Done, Self::Failed, Self::Cancelled];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}
