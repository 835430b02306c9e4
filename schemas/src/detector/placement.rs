//! Where each packet of an image lands: the one table that readout, assembler and simulator share.
//!
//! ```text
//! packet index = module index * packets_per_module + packet number
//!
//! payload  |aaaa|bbbb|cccc|dddd|            image   . . . aaaa gap bbbb . . .
//!           segments, in this order                 . . . cccc gap dddd . . .
//! ```
//!
//! Every byte of a payload has exactly one place and no two packets share a place. Bytes of the image
//! that no packet covers are gaps; they hold 0 for ever.

use serde::{Deserialize, Serialize};

/// Type of a pixel. Little-endian in memory and in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PixelType {
    U8,
    U16,
    U32,
}

impl PixelType {
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }

    /// The largest value, all ones: the default mark of a pixel that is missing.
    pub const fn all_ones(self) -> u32 {
        match self {
            Self::U8 => 0xff,
            Self::U16 => 0xffff,
            Self::U32 => 0xffff_ffff,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
        }
    }
}

/// A run of bytes of the image that takes a run of bytes of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Byte offset in the image.
    pub offset_bytes: u32,
    pub len_bytes: u32,
}

/// The geometry of an assembled image and the place of every packet in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Rows and columns of the image, gaps included.
    pub height: usize,
    pub width: usize,
    pub pixel: PixelType,
    /// Bytes of header before the payload of a packet, and bytes of the payload.
    pub header_bytes: usize,
    pub payload_bytes: usize,
    pub packets_per_module: usize,
    /// UDP port of each module, in the order of the packet index.
    pub ports: Vec<u16>,
    segments: Vec<Segment>,
    segments_per_packet: usize,
}

/// Largest image, in bytes: offsets are 32 bit.
pub const IMAGE_BYTES_MAX: usize = u32::MAX as usize;

/// Why segments are not a placement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    #[error(
        "an image of {height} x {width} pixels of {pixel_bytes} bytes is empty or larger than {IMAGE_BYTES_MAX} bytes"
    )]
    ImageSize { height: usize, width: usize, pixel_bytes: usize },
    #[error("module {module} reaches outside the image (packet {packet}, byte {offset_bytes})")]
    Outside { module: usize, packet: usize, offset_bytes: u64 },
    #[error("module {module} overlaps another one (packet {packet}, byte {offset_bytes})")]
    Overlap { module: usize, packet: usize, offset_bytes: u64 },
}

/// What a [`Placement`] is made of, beside its segments.
#[derive(Debug, Clone)]
pub struct Frame {
    pub height: usize,
    pub width: usize,
    pub pixel: PixelType,
    pub header_bytes: usize,
    pub payload_bytes: usize,
    pub packets_per_module: usize,
    pub ports: Vec<u16>,
}

impl Placement {
    /// Checks that `segments` (all packets of module 0, then of module 1, …) lie in the image and do
    /// not overlap.
    ///
    /// # Errors
    /// Names the module and packet that breaks the rule.
    ///
    /// # Panics
    /// If the number of segments is not the same for every packet, or they do not add up to the
    /// payload: only the code of a detector module can cause that.
    pub fn new(frame: Frame, segments: Vec<Segment>) -> Result<Self, PlacementError> {
        let Frame { height, width, pixel, header_bytes, payload_bytes, packets_per_module, ports } = frame;
        let image_bytes = height.checked_mul(width).and_then(|n| n.checked_mul(pixel.bytes()));
        let image_bytes = image_bytes.filter(|&n| n > 0 && n <= IMAGE_BYTES_MAX).ok_or(PlacementError::ImageSize {
            height,
            width,
            pixel_bytes: pixel.bytes(),
        })?;
        let packets = packets_per_module * ports.len();
        assert!(packets > 0 && segments.len().is_multiple_of(packets), "segments are not the same for every packet");
        let segments_per_packet = segments.len() / packets;
        let mut taken = vec![false; image_bytes / pixel.bytes()];
        for (packet, of_packet) in segments.chunks(segments_per_packet).enumerate() {
            let module = packet / packets_per_module;
            let sum: usize = of_packet.iter().map(|segment| segment.len_bytes as usize).sum();
            assert_eq!(sum, payload_bytes, "segments of packet {packet} do not add up to the payload");
            for segment in of_packet {
                let (first, len) = (segment.offset_bytes as usize, segment.len_bytes as usize);
                let offset_bytes = first as u64;
                let pixels = taken
                    .get_mut(first / pixel.bytes()..(first + len) / pixel.bytes())
                    .ok_or(PlacementError::Outside { module, packet, offset_bytes })?;
                if pixels.iter().any(|&pixel| pixel) {
                    return Err(PlacementError::Overlap { module, packet, offset_bytes });
                }
                pixels.fill(true);
            }
        }
        Ok(Self {
            height,
            width,
            pixel,
            header_bytes,
            payload_bytes,
            packets_per_module,
            ports,
            segments,
            segments_per_packet,
        })
    }

    pub fn image_bytes(&self) -> usize {
        self.height * self.width * self.pixel.bytes()
    }

    pub fn packet_bytes(&self) -> usize {
        self.header_bytes + self.payload_bytes
    }

    pub fn packets_per_image(&self) -> usize {
        self.packets_per_module * self.ports.len()
    }

    /// Places of one packet's payload, in the order of its bytes.
    ///
    /// # Panics
    /// If there is no such packet.
    pub fn segments(&self, packet_index: usize) -> &[Segment] {
        let first = packet_index * self.segments_per_packet;
        &self.segments[first..first + self.segments_per_packet]
    }

    /// A number that two placements share only if every packet lands at the same place in both (FNV-1a).
    pub fn hash(&self) -> u64 {
        let fold = |hash: u64, word: u64| {
            word.to_le_bytes().iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
        };
        let frame = [self.height, self.width, self.pixel.bytes(), self.payload_bytes, self.packets_per_module];
        let frame = frame.into_iter().map(|number| number as u64).chain(self.ports.iter().map(|&port| port.into()));
        let segment = |segment: &Segment| u64::from(segment.offset_bytes) << 32 | u64::from(segment.len_bytes);
        frame.chain(self.segments.iter().map(segment)).fold(0xcbf2_9ce4_8422_2325, fold)
    }

    pub fn segments_per_packet(&self) -> usize {
        self.segments_per_packet
    }
}
