//! Detectors: what their configuration says and where each of their packets lands in the image.
//!
//! [`config`] reads the std-daq JSON; [`eiger`] knows the EIGER's wire format and geometry;
//! [`placement`] is the common result, a table that readout, assembler and simulator share.

pub mod config;
pub mod eiger;
pub mod placement;

pub use config::{DetectorConfig, DetectorConfigError};
pub use placement::{PixelType, Placement, Segment};
