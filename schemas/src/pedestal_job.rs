//! The job that takes pedestals: what is asked, and what it ends with.

use serde::{Deserialize, Serialize};

/// Name of the service.
pub const SERVICE: &str = "pedestal";

/// Frames of one gain, at most: sums of charges of 14 bit stay below 2^32, and a dark run below an hour.
pub const FRAMES_MAX: u64 = 65_535;

/// Parameters of a pedestal job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PedestalParams {
    /// Path of the file, absolute or relative to the beamline's data folder, on the writer's host.
    pub output: String,
    /// Images of each gain, 1 to [`FRAMES_MAX`].
    #[serde(default = "frames_default")]
    pub frames: u64,
    /// Which gains: of 0, 1 and 2. The pedestals of the others stay as they are.
    #[serde(default = "gains_default")]
    pub gains: Vec<u64>,
    /// Use them from then on.
    #[serde(default = "apply_default")]
    pub apply: bool,
    /// Replace a file that is there.
    #[serde(default)]
    pub overwrite: bool,
    /// Fail when no image of a gain that is still wanted came for this long, in milliseconds; without it the writer's
    /// setting.
    #[serde(default)]
    pub image_timeout_ms: Option<u64>,
}

/// What a pedestal job took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PedestalResult {
    /// The file, absolute.
    pub output: String,
    /// Images taken of gains 0, 1 and 2.
    pub images: [u64; 3],
    /// Images that were passed over: of a gain that was complete, or not wanted; converted ones; and those missed.
    pub images_skipped: u64,
    /// Pixels, for each gain that was taken, of which fewer than half of the frames had that gain: they have no pedestal.
    pub pixels_without: [u64; 3],
    /// Average over the pixels, in ADU; 0 for a gain that was not taken.
    pub mean_adu: [f64; 3],
    pub rms_adu: [f64; 3],
    /// Whether they are in use.
    pub applied: bool,
}

fn frames_default() -> u64 {
    1000
}

fn gains_default() -> Vec<u64> {
    vec![0, 1, 2]
}

fn apply_default() -> bool {
    true
}
