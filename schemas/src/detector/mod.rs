//! Detectors: one description of each, which every part of the data path shares.
//!
//! ```text
//! std-daq JSON ────────────┐                     ┌ eiger ─────┐
//! slsDetector .config ─────┼─▶ DetectorConfig ─▶ ┼ jungfrau ──┼─▶ Detector { wire, placement } ─▶ readout, assembler,
//! [detector] in TOML ──────┤                     ├ gigafrost ─┤                                   writer, simulator
//! description in TOML ─────┘                     └ described ─┘
//! ```
//!
//! A detector module (`eiger`, …) turns a configuration into a [`Detector`]; nothing behind that knows which one it is.
//! `spec/detectors.md` has the formats, each with its source, and the fields of a description.
//!
//! | module | what it holds |
//! |---|---|
//! | `config` | what a configuration says, and which detector module reads it |
//! | `fields` | such a configuration from a table of JSON values, whatever they were read from |
//! | `sls_config` | an slsDetector `.config` file as such a configuration |
//! | `wire` | the fields of a packet's header |
//! | `placement` | where every packet's pixels lie |
//! | `grid` | where the modules of an EIGER or a JUNGFRAU stand |
//! | `sls_header` | the header that the slsDetectors share |
//! | `eiger`, `jungfrau`, `gigafrost` | detectors whose geometry follows from few numbers |
//! | `described` | any other one, from a description; those that ship with ECS |

pub mod config;
pub mod described;
pub mod eiger;
pub(crate) mod fields;
pub mod gigafrost;
mod grid;
pub mod jungfrau;
pub mod placement;
mod sls_config;
pub mod sls_header;
pub mod wire;

pub use config::{DetectorConfig, DetectorConfigError};
pub use placement::{Packing, PixelType, Placement, Segment};
pub use wire::{HeaderError, PacketHeader, WireFormat};

/// A detector: what its packets look like and where their pixels lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detector {
    /// For people.
    pub name: String,
    /// For example `eiger`.
    pub detector_type: String,
    pub wire: WireFormat,
    pub placement: Placement,
    /// Where its pixels have gains, which of a map of gains each module's are.
    pub gain_maps: Option<GainMaps>,
}

/// How the pixels of a detector that switches gains lie in maps of its gains and pedestals: one array of rows and
/// columns a module and gain, in the order in which a module sends its pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GainMaps {
    /// Of the map of one module.
    pub rows: usize,
    pub columns: usize,
    /// Of each module that sends, as ports count them: the map's number, and the first pixel in it. The others follow.
    pub modules: Vec<(usize, usize)>,
}

impl GainMaps {
    /// Maps that there must be.
    pub fn maps(&self) -> usize {
        self.modules.iter().map(|(map, _)| map + 1).max().unwrap_or(0)
    }
}

impl Detector {
    /// Reads the header of a packet of `module`; see [`WireFormat::read`].
    ///
    /// # Errors
    /// It is another detector's, or has numbers that no packet has.
    #[inline]
    pub fn read_header(&self, packet: &[u8], module: usize) -> Result<PacketHeader, HeaderError> {
        self.wire.read(packet, module, self.placement.packets_per_module)
    }
}
