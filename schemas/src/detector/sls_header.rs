//! The header that the detectors of the slsDetector family share.
//!
//! Header version 2.0, 48 bytes, little-endian (slsDetectorPackage documentation, "UDP header"):
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | u64 | frame number |
//! | 8 | u32 | exposure length, 100 ns (EIGER: sub-frame number) |
//! | 12 | u32 | packet number |
//! | 16 | u64 | detSpec1 (JUNGFRAU: bunch id) |
//! | 24 | u64 | timestamp, 100 ns |
//! | 32, 34, 36 | u16 | module id, row, column |
//! | 38 | u16 | detSpec2 |
//! | 40 | u32 | detSpec3 (JUNGFRAU: DAQ information) |
//! | 44 | u16 | detSpec4 |
//! | 46 | u8 | detector type |
//! | 47 | u8 | header version: 2 |
//!
//! Module id, row and column are the sender's own; the port tells the modules apart.

use super::{
    config::DetectorConfigError,
    wire::{ByteOrder, Check, Field, PacketNumber, WireFormat},
};

pub const HEADER_BYTES: usize = 48;
const HEADER_VERSION: u64 = 2;
const FRAME_NUMBER: Field = Field::little(0, 8);
const BUNCH_ID: Field = Field::little(16, 8);
/// As the predecessor of this header had it, and std-daq reads it.
const BUNCH_ID_F64: Field = Field::float(16, ByteOrder::Little);

/// Types of detectors in the header (slsDetectorPackage, `sls_detector_defs.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlsType {
    Eiger = 1,
    Jungfrau = 3,
}

/// The header of a detector of this type; `first` as in [`PacketNumber`].
pub fn wire(of: SlsType, image_id: Field, first: Vec<u64>) -> WireFormat {
    WireFormat {
        header_bytes: HEADER_BYTES,
        image_id,
        packet_number: PacketNumber { first, ..PacketNumber::plain(Field::little(12, 4)) },
        timestamp: Some(Field::little(24, 8)),
        exposure_length: Some(Field::little(8, 4)),
        do_not_store: None,
        // Type and version are one read: they are looked at in every packet.
        checks: vec![Check { field: Field::little(46, 2), values: vec![HEADER_VERSION << 8 | of as u64] }],
    }
}

/// The field that `image_id` names in a configuration.
///
/// # Errors
/// There is no such field.
pub fn image_id(name: Option<&str>) -> Result<Field, DetectorConfigError> {
    match name {
        None | Some("frame_number") => Ok(FRAME_NUMBER),
        Some("bunch_id") => Ok(BUNCH_ID),
        Some("bunch_id_f64") => Ok(BUNCH_ID_F64),
        Some(other) => {
            let allowed = "\"frame_number\", \"bunch_id\" or \"bunch_id_f64\"";
            Err(DetectorConfigError::field("image_id", format!("{other:?}"), allowed))
        }
    }
}
