//! The writer's job: what is asked, and the ledger that it ends with.

use crate::{image::LossCause, packets::PacketLedger, value::Value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Name of the service.
pub const SERVICE: &str = "write";

/// Parameters of a write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WriteParams {
    /// Path of the file, absolute or relative to the beamline's data folder, on the writer's host.
    pub output: String,
    /// How many images: ids `first ..= first + images - 1`, at least 1.
    pub images: u64,
    /// First image id; without it the first image that is committed once the job runs.
    #[serde(default)]
    pub start: Option<u64>,
    /// Replace a file that is there; it is replaced when the first image arrives.
    #[serde(default)]
    pub overwrite: bool,
    /// Fail when no image came for this long, in milliseconds; without it the writer's setting.
    #[serde(default)]
    pub image_timeout_ms: Option<u64>,
    /// Written into the file as attributes of `/entry/metadata`.
    #[serde(default)]
    pub metadata: BTreeMap<String, Value>,
}

/// What became of each image that was asked for. `written + partial + sum(lost) == asked`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// The file, absolute; empty where none was left behind.
    pub output: String,
    pub asked: u64,
    /// First and last id asked for; none when no image came and no start was given.
    #[serde(default)]
    pub first_id: Option<u64>,
    #[serde(default)]
    pub last_id: Option<u64>,
    /// Images with every packet in its place.
    pub written: u64,
    /// Images with missing packets, filled and marked.
    pub partial: u64,
    /// Images that are not there, by cause.
    #[serde(default)]
    pub lost: BTreeMap<LossCause, u64>,
    /// Packets missing in the partial images.
    pub missing_packets: u64,
    /// What the beamline's readouts counted while the job ran, be it of the job's images or not.
    #[serde(default)]
    pub packets: PacketLedger,
    /// Bytes of pixels in the file.
    pub bytes: u64,
    /// From the first image to the last byte, in seconds.
    pub seconds: f64,
}

impl Ledger {
    pub fn lost_total(&self) -> u64 {
        self.lost.values().sum()
    }

    /// Every image asked for is written whole.
    pub fn is_whole(&self) -> bool {
        self.written == self.asked
    }

    /// The numbers add up.
    pub fn is_balanced(&self) -> bool {
        self.written + self.partial + self.lost_total() == self.asked && self.packets.is_balanced()
    }
}
