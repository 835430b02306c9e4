//! What is known of an image beside its pixels.

use serde::{Deserialize, Serialize};

/// Whether an image's pixels can be used, in the file's `/entry/data/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum ImageStatus {
    /// Not yet written. In a file whose writer is gone: nothing is known of this image.
    Pending = 0,
    /// Every packet is in its place.
    Complete = 1,
    /// Some packets are missing; their pixels hold the fill value and the packet bitmap names them.
    Partial = 2,
    /// There is no such image; every pixel holds the fill value. `loss_cause` says why.
    Lost = 3,
}

impl ImageStatus {
    pub const ALL: [Self; 4] = [Self::Pending, Self::Complete, Self::Partial, Self::Lost];
}

/// Why an image is not there. The number is the one in the file's `/entry/data/loss_cause`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum LossCause {
    /// It is there.
    None = 0,
    /// No packet of it was received, though later images were.
    NotReceived = 1,
    /// No free slot in the ring: a reader held them all.
    RingFull = 2,
    /// A readout process hung with the image's memory in its hands.
    ReadoutStuck = 3,
    /// The assembler was not there, or lost what was open when it died.
    AssemblerDown = 4,
    /// Several causes in one gap, in an order that is not known.
    Several = 5,
    /// The writer was not there.
    WriterDown = 16,
    /// The job was cancelled before this image.
    Cancelled = 17,
    /// The file system refused it; the job's reason says how.
    WriteError = 18,
    /// The job ended because no image came for too long.
    Timeout = 19,
    /// The detector began again with other ids before this image came.
    RunEnded = 20,
    /// The ring went away under the job.
    RingGone = 21,
    /// It was there before the job ran: the job began too late for the `start` that it was given.
    BeforeJob = 22,
}

impl LossCause {
    pub const ALL: [Self; 13] = [
        Self::None,
        Self::NotReceived,
        Self::RingFull,
        Self::ReadoutStuck,
        Self::AssemblerDown,
        Self::Several,
        Self::WriterDown,
        Self::Cancelled,
        Self::WriteError,
        Self::Timeout,
        Self::RunEnded,
        Self::RingGone,
        Self::BeforeJob,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NotReceived => "not_received",
            Self::RingFull => "ring_full",
            Self::ReadoutStuck => "readout_stuck",
            Self::AssemblerDown => "assembler_down",
            Self::Several => "several",
            Self::WriterDown => "writer_down",
            Self::Cancelled => "cancelled",
            Self::WriteError => "write_error",
            Self::Timeout => "timeout",
            Self::RunEnded => "run_ended",
            Self::RingGone => "ring_gone",
            Self::BeforeJob => "before_job",
        }
    }
}
