//! What pixels are converted with: files of gains, pedestals, masks and flat fields, and the constants made of them.
//!
//! ```text
//! gain maps ──┐
//! pedestals ──┼─▶ Calibration { number, constants, about } ─▶ readout: converts, and says the number of each image
//! flat field ─┤                              └─▶ <state folder>/calibrations/<number>.json ─▶ writer: into its files
//! mask ───────┘
//! ```
//!
//! A calibration's number is made of all that pixels are made with, so that two processes that have read the same files
//! have the same number without asking each other, and a file that was changed under its name has another.
//!
//! | module | what it holds |
//! |---|---|
//! | `source` | a file and its dataset; arrays of either kind of file |
//! | `maps` | gains and pedestals: an array a module and gain |
//! | `calibration` | all of it, read and numbered |
//! | `constants` | what a pixel is converted with, as vectors want it |
//! | `state` | what is active on this host: which pedestals, and whether pixels are to come unconverted |

mod calibration;
mod constants;
mod error;
mod maps;
mod source;
pub mod state;

pub use calibration::{About, Calibration, UNCONVERTED, about, mask, pedestals};
pub use constants::{GainZero, GainsAbove, LANES, ModuleConstants};
pub use error::CalibrationError;
pub use maps::{GAINS, Maps, MapsShape};
