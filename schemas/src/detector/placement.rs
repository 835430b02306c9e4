//! Where each packet of an image lands: the one table that readout, assembler and simulator share.
//!
//! ```text
//! packet index = module index * packets_per_module + packet number
//!
//! payload  |aaaa|bbbb|cccc|dddd|            image   . . . aaaa gap bbbb . . .
//!           segments, in this order                 . . . cccc gap dddd . . .
//! ```
//!
//! A module is what one UDP port sends of an image: a stream of pixels, cut into packets. The pixels of a stream
//! lie in runs of the image's rows. Where a detector sends its images in turn to several sets of ports, as a
//! GigaFRoST does, each set has a port for every module: port `p` brings module `p % modules`.
//!
//! # Rules
//! L1  Every pixel of a payload has exactly one place and no two packets share a place, except that a packed pixel
//!     which begins in one packet and ends in the next is the last of the one and the first of the other; it is
//!     there when both are.
//! L2  Pixels of the image that no packet covers are gaps, or belong to modules that are off; they hold 0 for ever.
//! L3  The packets of every module have the same lengths: all but the last one the same, and the last one no more.

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Type of a pixel. Little-endian in memory and in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PixelType {
    U8,
    U16,
    U32,
    /// Of converted pixels only.
    I32,
    F32,
}

impl PixelType {
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
        }
    }

    /// All ones: the largest value of a pixel without a sign.
    pub const fn all_ones(self) -> u32 {
        u32::MAX >> (32 - 8 * self.bytes())
    }

    /// Bits of the default mark of a pixel that is missing: the largest value, the lowest one of signed pixels (as
    /// in the field's processing software), a NaN.
    pub const fn missing(self) -> u32 {
        match self {
            Self::U8 | Self::U16 | Self::U32 => self.all_ones(),
            Self::I32 => i32::MIN as u32,
            Self::F32 => f32::NAN.to_bits(),
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
        }
    }
}

/// How pixels lie in a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// As in the image: a payload can be received into it.
    Plain,
    /// Two pixels in three bytes, lowest bits first: `b0 | (b1 & 0xf) << 8`, `b1 >> 4 | b2 << 4`.
    Packed12,
    /// Two pixels in a byte, the first one in its upper half.
    Packed4,
    /// Two bytes a pixel, 14 bits of charge and 2 of the gain that it was taken with: made into another pixel.
    Gain14,
}

/// How many bits a pixel has on the wire, and what it is in the image.
///
/// The bit depths that there are: 4 (in u8), 8, 12 (in u16), 16, 32.
pub const fn pixel_of_bit_depth(bit_depth: u32) -> Option<(PixelType, Packing)> {
    match bit_depth {
        4 => Some((PixelType::U8, Packing::Packed4)),
        8 => Some((PixelType::U8, Packing::Plain)),
        12 => Some((PixelType::U16, Packing::Packed12)),
        16 => Some((PixelType::U16, Packing::Plain)),
        32 => Some((PixelType::U32, Packing::Plain)),
        _ => None,
    }
}

/// A run of bytes of the image that takes a run of pixels of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Byte offset in the image.
    pub offset_bytes: u32,
    pub len_bytes: u32,
}

/// A run of pixels in a row of the image; `first` is counted row by row from the image's begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelRun {
    pub first: usize,
    pub pixels: usize,
}

/// The geometry of an assembled image and the place of every packet in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Rows and columns of the image, gaps included.
    pub height: usize,
    pub width: usize,
    pub pixel: PixelType,
    pub packing: Packing,
    /// Bytes of header before the payload of a packet.
    pub header_bytes: usize,
    /// Bytes of the payload of every packet of a module but the last, and of the last (rule L3).
    pub payload_bytes: usize,
    pub last_payload_bytes: usize,
    pub packets_per_module: usize,
    pub modules: usize,
    /// UDP ports: port `p` brings module `p % modules`.
    pub ports: Vec<u16>,
    segments: Vec<Segment>,
    /// Of each packet, its first segment; and the end of the last one's.
    first_segments: Vec<u32>,
    /// Of each packet number: bits of its payload that end a pixel which began in the packet before.
    lead_bits: Vec<u8>,
    /// Places of the modules that are off.
    off: Vec<PixelRun>,
}

/// Largest image, in bytes: offsets are 32 bit.
pub const IMAGE_BYTES_MAX: usize = u32::MAX as usize;
/// Packets of one image: as many as the ring's bitmaps hold.
pub const PACKETS_PER_IMAGE_MAX: usize = 1 << 20;
/// Longest payload of a UDP datagram over IPv4: a packet, its header included, is no longer.
pub const PACKET_BYTES_MAX: usize = 65_507;

/// Why modules are not a placement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    #[error(
        "an image of {height} x {width} pixels of {pixel_bytes} bytes is empty or larger than {IMAGE_BYTES_MAX} bytes"
    )]
    ImageSize { height: usize, width: usize, pixel_bytes: usize },
    #[error("an image of {packets} packets; allowed: 1 to {PACKETS_PER_IMAGE_MAX}")]
    Packets { packets: usize },
    #[error("module {module} reaches outside the image (packet {packet}, byte {offset_bytes})")]
    Outside { module: usize, packet: usize, offset_bytes: u64 },
    #[error("module {module} overlaps another one (packet {packet}, byte {offset_bytes})")]
    Overlap { module: usize, packet: usize, offset_bytes: u64 },
}

/// What a [`Placement`] is made of, beside its modules.
#[derive(Debug, Clone)]
pub struct Frame {
    pub height: usize,
    pub width: usize,
    pub pixel: PixelType,
    pub packing: Packing,
    pub header_bytes: usize,
    /// The packets of a module (rule L3).
    pub packets: PacketLengths,
    pub ports: Vec<u16>,
}

/// How the pixels of a module are cut into packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketLengths {
    /// Bytes of pixels of every packet but the last; the last one has what is left.
    pub pixel_bytes: usize,
    /// Bytes of the payload: those of the pixels, and of what follows them.
    pub payload_bytes: usize,
    pub last_payload_bytes: usize,
}

impl PacketLengths {
    /// Packets that hold nothing but pixels, the last one shorter where the module ends.
    pub fn filled(payload_bytes: usize, module_bytes: usize) -> Self {
        let rest = module_bytes % payload_bytes.max(1);
        let last_payload_bytes = if rest == 0 { payload_bytes } else { rest };
        Self { pixel_bytes: payload_bytes, payload_bytes, last_payload_bytes }
    }
}

/// Modules that send, and those that are off: the runs of each, in the order of its stream.
#[derive(Debug, Clone, Default)]
pub struct Modules {
    pub on: Vec<Vec<PixelRun>>,
    pub off: Vec<Vec<PixelRun>>,
}

impl Packing {
    /// Bits of a pixel on the wire.
    pub const fn bits(self, pixel: PixelType) -> usize {
        match self {
            Self::Plain => pixel.bytes() * 8,
            Self::Packed12 => 12,
            Self::Packed4 => 4,
            Self::Gain14 => 16,
        }
    }
}

impl Placement {
    /// Cuts the modules' streams into packets, and checks that all of it lies in the image and does not overlap.
    ///
    /// # Errors
    /// Names the module and packet that breaks the rule.
    ///
    /// # Panics
    /// If modules differ in size, a plain payload ends within a pixel, or ports are not a multiple of the modules:
    /// a detector's code rules that out.
    pub fn new(frame: Frame, modules: Modules) -> Result<Self, PlacementError> {
        let Frame { height, width, pixel, packing, header_bytes, packets, ports } = frame;
        let image_bytes = height.checked_mul(width).and_then(|n| n.checked_mul(pixel.bytes()));
        let size = PlacementError::ImageSize { height, width, pixel_bytes: pixel.bytes() };
        image_bytes.filter(|&n| n > 0 && n <= IMAGE_BYTES_MAX).ok_or(size)?;
        let module_pixels = stream_pixels(modules.on.first().expect("a detector has a module"));
        let module_bytes = (module_pixels * packing.bits(pixel)).div_ceil(8);
        let packets_per_module = module_bytes.div_ceil(packets.pixel_bytes);
        let packets_per_image = packets_per_module * modules.on.len();
        if !(1..=PACKETS_PER_IMAGE_MAX).contains(&packets_per_image) {
            return Err(PlacementError::Packets { packets: packets_per_image });
        }
        assert!(ports.len().is_multiple_of(modules.on.len()), "each set of ports has one for every module");
        let cuts = cut(module_pixels, packing.bits(pixel), packets.pixel_bytes, packets_per_module);
        let mut placement = Self {
            height,
            width,
            pixel,
            packing,
            header_bytes,
            payload_bytes: if packets_per_module == 1 { packets.last_payload_bytes } else { packets.payload_bytes },
            last_payload_bytes: packets.last_payload_bytes,
            packets_per_module,
            modules: modules.on.len(),
            ports,
            segments: Vec::new(),
            first_segments: vec![0],
            lead_bits: cuts.iter().map(|cut| cut.lead_bits).collect(),
            off: modules.off.into_iter().flatten().collect(),
        };
        let mut taken = vec![false; height * width];
        for (module, runs) in modules.on.iter().enumerate() {
            assert_eq!(stream_pixels(runs), module_pixels, "modules differ in size");
            placement.append_module(module, runs, &cuts, &mut taken)?;
        }
        Ok(placement)
    }

    /// The same places for pixels of 16 bit that are made into `pixel`.
    ///
    /// # Errors
    /// The image is larger than one may be.
    ///
    /// # Panics
    /// If pixels are not plain ones of 16 bit.
    pub fn converted(mut self, pixel: PixelType) -> Result<Self, PlacementError> {
        assert_eq!((self.pixel, self.packing), (PixelType::U16, Packing::Plain), "only these are converted");
        let Self { height, width, .. } = self;
        let image_bytes = self.height * self.width * pixel.bytes();
        if image_bytes > IMAGE_BYTES_MAX {
            return Err(PlacementError::ImageSize { height, width, pixel_bytes: pixel.bytes() });
        }
        let times = (pixel.bytes() / self.pixel.bytes()) as u32;
        for segment in &mut self.segments {
            segment.offset_bytes *= times; // inside the image: IMAGE_BYTES_MAX
            segment.len_bytes *= times;
        }
        (self.pixel, self.packing) = (pixel, Packing::Gain14);
        Ok(self)
    }

    fn append_module(
        &mut self,
        module: usize,
        runs: &[PixelRun],
        cuts: &[Cut],
        taken: &mut [bool],
    ) -> Result<(), PlacementError> {
        let mut at = Cursor::default();
        for (number, cut) in cuts.iter().enumerate() {
            let packet = module * self.packets_per_module + number;
            let mut shared = usize::from(cut.lead_bits > 0); // rule L1
            at.go_to(runs, cut.pixels.start);
            while at.pixel < cut.pixels.end {
                let run = at.take(runs, cut.pixels.end);
                self.take_pixels(module, packet, run, shared, taken)?;
                shared = 0;
                self.push_segment(packet, run);
            }
            self.first_segments.push(self.segments.len() as u32);
        }
        Ok(())
    }

    fn take_pixels(
        &self,
        module: usize,
        packet: usize,
        run: PixelRun,
        shared: usize,
        taken: &mut [bool],
    ) -> Result<(), PlacementError> {
        let offset_bytes = (run.first as u64).saturating_mul(self.pixel.bytes() as u64);
        let end = run.first.checked_add(run.pixels);
        let pixels = end.and_then(|end| taken.get_mut(run.first..end));
        let pixels = pixels.ok_or(PlacementError::Outside { module, packet, offset_bytes })?;
        if pixels[shared..].iter().any(|&pixel| pixel) {
            return Err(PlacementError::Overlap { module, packet, offset_bytes });
        }
        pixels.fill(true);
        Ok(())
    }

    /// Appends a run to the packet; where it continues the last one in the image, to that.
    fn push_segment(&mut self, packet: usize, run: PixelRun) {
        let segment = Segment {
            offset_bytes: (run.first * self.pixel.bytes()) as u32, // inside the image: IMAGE_BYTES_MAX
            len_bytes: (run.pixels * self.pixel.bytes()) as u32,
        };
        let is_first = self.segments.len() == self.first_segments[packet] as usize;
        match self.segments.last_mut().filter(|_| !is_first) {
            Some(last) if last.offset_bytes + last.len_bytes == segment.offset_bytes => {
                last.len_bytes += segment.len_bytes;
            }
            _ => self.segments.push(segment),
        }
    }

    pub fn image_bytes(&self) -> usize {
        self.height * self.width * self.pixel.bytes()
    }

    /// Length of every packet of a module but the last.
    pub fn packet_bytes(&self) -> usize {
        self.header_bytes + self.payload_bytes
    }

    /// Length of a module's last packet.
    pub fn last_packet_bytes(&self) -> usize {
        self.header_bytes + self.last_payload_bytes
    }

    /// Length of the payload of packet `number` of a module.
    pub fn payload_bytes_of(&self, number: usize) -> usize {
        if number + 1 == self.packets_per_module { self.last_payload_bytes } else { self.payload_bytes }
    }

    /// Bytes of all packets of an image, headers included.
    pub fn wire_bytes(&self) -> usize {
        self.modules * ((self.packets_per_module - 1) * self.packet_bytes() + self.last_packet_bytes())
    }

    pub fn packets_per_image(&self) -> usize {
        self.packets_per_module * self.modules
    }

    /// The module that a port brings.
    pub fn module_of_port(&self, port: usize) -> usize {
        port % self.modules
    }

    /// Places of one packet's pixels, in the order of its payload. Of packed pixels, those that end or begin in
    /// another packet are among them (rule L1).
    ///
    /// # Panics
    /// If there is no such packet.
    pub fn segments(&self, packet_index: usize) -> &[Segment] {
        &self.segments[self.first_segments[packet_index] as usize..self.first_segments[packet_index + 1] as usize]
    }

    /// Bits at the begin of a payload that end a pixel which began in the packet before; 0 if pixels are plain.
    ///
    /// # Panics
    /// If there is no such packet.
    pub fn lead_bits(&self, packet_index: usize) -> u32 {
        self.lead_bits[packet_index % self.packets_per_module].into()
    }

    /// Most segments that a packet has.
    pub fn segments_per_packet_max(&self) -> usize {
        let lengths = self.first_segments.windows(2).map(|ends| (ends[1] - ends[0]) as usize);
        lengths.max().expect("an image has a packet")
    }

    /// For every pixel, row by row: whether a packet brings it, and why not. The values are those of
    /// `pixel_mask` in NeXus.
    pub fn pixel_mask(&self) -> Vec<u8> {
        let mut mask = vec![PIXEL_GAP; self.height * self.width];
        let bytes = self.pixel.bytes();
        for segment in &self.segments {
            mask[segment.offset_bytes as usize / bytes..][..segment.len_bytes as usize / bytes].fill(0);
        }
        for run in &self.off {
            let end = run.first.saturating_add(run.pixels);
            mask.get_mut(run.first..end).into_iter().flatten().for_each(|pixel| *pixel = PIXEL_OFF);
        }
        mask
    }

    /// A number that two placements share only if every packet lands at the same place in both (FNV-1a).
    pub fn hash(&self) -> u64 {
        let fold = |hash: u64, word: u64| {
            word.to_le_bytes().iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
        };
        let frame = [
            self.height,
            self.width,
            self.pixel.bytes(),
            self.packing.bits(self.pixel),
            self.payload_bytes,
            self.last_payload_bytes,
            self.packets_per_module,
            self.modules,
        ];
        // Converted pixels of one size differ in what they are.
        let converted = (self.packing == Packing::Gain14).then_some(self.pixel as u64);
        let frame = frame.into_iter().map(|number| number as u64).chain(self.ports.iter().map(|&port| port.into()));
        let frame = frame.chain(converted);
        let segment = |segment: &Segment| u64::from(segment.offset_bytes) << 32 | u64::from(segment.len_bytes);
        frame.chain(self.segments.iter().map(segment)).fold(0xcbf2_9ce4_8422_2325, fold)
    }
}

/// Bits of `pixel_mask` (NeXus, NXdetector): no sensor there; a pixel that is dead.
pub const PIXEL_GAP: u8 = 1;
pub const PIXEL_OFF: u8 = 2;
/// Masked by a setting. (NeXus has bit 8 for this, beyond the byte that a pixel has here, and leaves bit 7 free.)
pub const PIXEL_MASKED: u8 = 1 << 7;

fn stream_pixels(runs: &[PixelRun]) -> usize {
    runs.iter().map(|run| run.pixels).sum()
}

/// A packet's part of its module's stream.
struct Cut {
    /// Every pixel of which it has a bit.
    pixels: Range<usize>,
    lead_bits: u8,
}

fn cut(module_pixels: usize, bits: usize, packet_pixel_bytes: usize, packets: usize) -> Vec<Cut> {
    let of_packet = |number: usize| {
        let begin = number * packet_pixel_bytes * 8;
        let end = (begin + packet_pixel_bytes * 8).min(module_pixels * bits);
        let is_whole = begin.is_multiple_of(bits) && end.is_multiple_of(bits);
        assert!(is_whole || !bits.is_multiple_of(8), "a plain payload ends within a pixel");
        let lead_bits = (bits - begin % bits) % bits;
        Cut { pixels: begin / bits..end.div_ceil(bits), lead_bits: lead_bits as u8 }
    };
    (0..packets).map(of_packet).collect()
}

/// Walks along a module's runs.
#[derive(Default)]
struct Cursor {
    /// Of the stream.
    pixel: usize,
    run: usize,
    /// Of the stream, where `run` begins.
    run_begin: usize,
}

impl Cursor {
    /// Goes to a pixel, which is never more than one before where it stands.
    fn go_to(&mut self, runs: &[PixelRun], pixel: usize) {
        while pixel < self.run_begin {
            self.run -= 1;
            self.run_begin -= runs[self.run].pixels;
        }
        self.pixel = pixel;
    }

    /// The rest of the run, up to pixel `end` of the stream.
    fn take(&mut self, runs: &[PixelRun], end: usize) -> PixelRun {
        while self.pixel >= self.run_begin + runs[self.run].pixels {
            self.run_begin += runs[self.run].pixels;
            self.run += 1;
        }
        let run = runs[self.run];
        let skipped = self.pixel - self.run_begin;
        let pixels = (run.pixels - skipped).min(end - self.pixel);
        self.pixel += pixels;
        PixelRun { first: run.first.saturating_add(skipped), pixels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bit_depth: u32, payload_bytes: usize, module_bytes: usize) -> Frame {
        let (pixel, packing) = pixel_of_bit_depth(bit_depth).expect("a bit depth that there is");
        let packets = PacketLengths::filled(payload_bytes, module_bytes);
        Frame { height: 4, width: 10, pixel, packing, header_bytes: 8, packets, ports: vec![1] }
    }

    fn runs(runs: &[(usize, usize)]) -> Vec<PixelRun> {
        runs.iter().map(|&(first, pixels)| PixelRun { first, pixels }).collect()
    }

    fn segments(placement: &Placement, packet: usize) -> Vec<(u32, u32)> {
        placement.segments(packet).iter().map(|segment| (segment.offset_bytes, segment.len_bytes)).collect()
    }

    #[test]
    fn streams_are_cut_into_packets_wherever_runs_end_and_what_continues_is_joined() {
        // 4 + 4 + 2 pixels of 16 bit in packets of 3 pixels: the last one has one.
        let modules = Modules { on: vec![runs(&[(0, 4), (4, 4), (20, 2)])], off: vec![] };
        let placement = Placement::new(frame(16, 6, 20), modules).expect("valid");
        assert_eq!((placement.packets_per_module, placement.last_payload_bytes), (4, 2));
        let all: Vec<_> = (0..4).map(|packet| segments(&placement, packet)).collect();
        assert_eq!(all, [vec![(0, 6)], vec![(6, 6)], vec![(12, 4), (40, 2)], vec![(42, 2)]]);
        assert_eq!(placement.segments_per_packet_max(), 2);
        assert_eq!(placement.wire_bytes(), 4 * 8 + 20);
    }

    #[test]
    fn packed_pixel_across_two_packets_belongs_to_both() {
        // 10 pixels of 12 bit are 15 bytes: packets of 4 bytes are 2 2/3 pixels each.
        let modules = Modules { on: vec![runs(&[(0, 5), (10, 5)])], off: vec![] };
        let placement = Placement::new(frame(12, 4, 15), modules).expect("valid");
        let all: Vec<_> = (0..4).map(|packet| (placement.lead_bits(packet), segments(&placement, packet))).collect();
        let expected = [
            (0, vec![(0, 6)]),          // pixels 0, 1 and 8 bits of 2
            (4, vec![(4, 6), (20, 2)]), // 4 bits of 2; 3, 4; 4 bits of 5
            (8, vec![(20, 6)]),         // 8 bits of 5; 6, 7
            (0, vec![(26, 4)]),         // 8, 9
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn what_overlaps_or_lies_outside_is_refused_with_its_module_and_packet() {
        let place = |modules: &[&[(usize, usize)]]| {
            let on = modules.iter().map(|module| runs(module)).collect();
            let frame = Frame { ports: vec![1; modules.len()], ..frame(8, 2, 4) };
            Placement::new(frame, Modules { on, off: vec![] })
        };
        assert!(place(&[&[(0, 4)], &[(4, 4)]]).is_ok());
        let overlap = PlacementError::Overlap { module: 1, packet: 3, offset_bytes: 3 };
        assert_eq!(place(&[&[(0, 4)], &[(4, 2), (3, 2)]]), Err(overlap));
        let outside = PlacementError::Outside { module: 0, packet: 1, offset_bytes: 39 };
        assert_eq!(place(&[&[(0, 2), (39, 2)]]), Err(outside));
        assert!(matches!(place(&[&[(usize::MAX, 4)]]), Err(PlacementError::Outside { .. })));
    }

    #[test]
    fn converted_pixels_lie_at_the_same_places_and_the_placement_is_another() {
        let modules = Modules { on: vec![runs(&[(0, 4), (20, 2)])], off: vec![runs(&[(30, 3)])] };
        let plain = Placement::new(frame(16, 6, 12), modules).expect("valid");
        let float = plain.clone().converted(PixelType::F32).expect("small enough");
        assert_eq!((segments(&plain, 1), segments(&float, 1)), (vec![(6, 2), (40, 4)], vec![(12, 4), (80, 8)]));
        assert_eq!((float.image_bytes(), float.payload_bytes, float.wire_bytes()), (160, 6, plain.wire_bytes()));
        assert_eq!(plain.pixel_mask(), float.pixel_mask());
        let integer = plain.clone().converted(PixelType::I32).expect("small enough");
        assert!(plain.hash() != float.hash() && float.hash() != integer.hash());
        let large = Frame { height: 40_000, width: 40_000, ..frame(16, 6, 12) };
        let large = Placement::new(large, Modules { on: vec![runs(&[(0, 6)])], off: vec![] }).expect("3.2 GB");
        assert!(large.converted(PixelType::F32).is_err(), "6.4 GB");
    }

    #[test]
    fn mask_tells_gaps_from_modules_that_are_off() {
        let modules = Modules { on: vec![runs(&[(0, 4)])], off: vec![runs(&[(10, 3)])] };
        let mask = Placement::new(frame(8, 4, 4), modules).expect("valid").pixel_mask();
        assert_eq!(mask[..14], [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 1]);
    }
}
