//! A packet's header: the fields that are used, where they lie, and what they must hold.
//!
//! ```text
//! header   |image id········|……|packet number|……|timestamp·······|……|type|version|
//!           Field 0, 8 bytes    Field 12, 4      Field 24, 8         Check 46, 2 = 0x0201
//! ```
//!
//! # Rules
//! W1  Nothing is read outside the slice that is given: where a field reaches beyond its end, 0 is read there.
//! W2  A header that fails a check is another detector's, or this one's with other settings: foreign. One whose
//!     numbers no packet of this detector has is malformed. Neither leads to a place.
//! W3  What [`WireFormat::write`] writes, [`WireFormat::read`] reads, for every image id that fits its field.

/// Bytes that one field is read with; a header in a longer buffer is read without a copy.
const WINDOW_BYTES: usize = 8;

/// The order of a field's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ByteOrder {
    #[default]
    Little,
    Big,
}

/// A number in a header: some bits of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    offset: usize,
    /// Of the lowest bit, in the eight bytes from `offset` on, taken in `order`.
    shift: u32,
    mask: u64,
    order: ByteOrder,
    /// The bits are those of a 64 bit float, which is to hold a whole number.
    is_float: bool,
}

impl Field {
    /// `bytes` bytes (1 to 8) from `offset` on.
    ///
    /// # Panics
    /// With another number of bytes: only a detector's code can cause that.
    pub const fn new(offset: usize, bytes: usize, order: ByteOrder) -> Self {
        assert!(bytes >= 1 && bytes <= WINDOW_BYTES, "a field has 1 to 8 bytes");
        let mask = u64::MAX >> (64 - 8 * bytes as u32);
        let shift = match order {
            ByteOrder::Little => 0,
            ByteOrder::Big => 64 - 8 * bytes as u32,
        };
        Self { offset, shift, mask, order, is_float: false }
    }

    /// Little-endian, as nearly all are.
    pub const fn little(offset: usize, bytes: usize) -> Self {
        Self::new(offset, bytes, ByteOrder::Little)
    }

    /// The `bits` bits from `bit` on (0 = lowest) of this field.
    ///
    /// # Panics
    /// If the field has no such bits.
    pub const fn bits(self, bit: u32, bits: u32) -> Self {
        assert!(bits >= 1 && bits <= 64 && bit < 64, "a part of a field has 1 to 64 bits");
        let part = u64::MAX >> (64 - bits);
        assert!((self.mask >> bit) & part == part, "a part of a field lies in it");
        Self { shift: self.shift + bit, mask: part, ..self }
    }

    /// A 64 bit float that holds whole numbers.
    pub const fn float(offset: usize, order: ByteOrder) -> Self {
        let whole = Self::new(offset, WINDOW_BYTES, order);
        Self { is_float: true, ..whole }
    }

    /// The number. A float that is no whole number from 0 on reads as `u64::MAX`, which no id and no number is.
    #[inline]
    pub fn read(&self, header: &[u8]) -> u64 {
        let value = (self.window(header) >> self.shift) & self.mask;
        if self.is_float { whole_number(f64::from_bits(value)) } else { value }
    }

    /// Writes the number, cut to the field's bits; other bits stay.
    pub fn write(&self, header: &mut [u8], value: u64) {
        let value = if self.is_float { (value as f64).to_bits() } else { value };
        let window = self.window(header) & !(self.mask << self.shift) | (value & self.mask) << self.shift;
        let bytes = match self.order {
            ByteOrder::Little => window.to_le_bytes(),
            ByteOrder::Big => window.to_be_bytes(),
        };
        header.iter_mut().skip(self.offset).zip(bytes).for_each(|(to, byte)| *to = byte);
    }

    /// The largest number that the field holds.
    pub fn max(&self) -> u64 {
        if self.is_float { (1 << 53) - 1 } else { self.mask }
    }

    #[inline]
    fn window(&self, header: &[u8]) -> u64 {
        let mut bytes = [0; WINDOW_BYTES];
        match header.get(self.offset..).and_then(<[u8]>::first_chunk) {
            Some(window) => bytes = *window,
            None => bytes.iter_mut().zip(header.iter().skip(self.offset)).for_each(|(to, byte)| *to = *byte),
        }
        match self.order {
            ByteOrder::Little => u64::from_le_bytes(bytes),
            ByteOrder::Big => u64::from_be_bytes(bytes),
        }
    }
}

fn whole_number(value: f64) -> u64 {
    let is_whole = value >= 0.0 && value < (1_u64 << 53) as f64 && value.fract() == 0.0;
    if is_whole { value as u64 } else { u64::MAX }
}

/// What a field of every packet of this detector holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub field: Field,
    /// One value for every module, or one for all.
    pub values: Vec<u64>,
}

/// Which packet of its module a packet is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketNumber {
    pub field: Field,
    /// The field counts this many to a packet: rows, for example. Not 0.
    pub step: u64,
    /// Of each module's first packet, in packets; empty: 0.
    pub first: Vec<u64>,
}

/// A detector's header. See the module header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireFormat {
    pub header_bytes: usize,
    pub image_id: Field,
    pub packet_number: PacketNumber,
    /// The detector's clock and exposure, in its own units.
    pub timestamp: Option<Field>,
    pub exposure_length: Option<Field>,
    /// Not 0: the detector says that the image is not to be stored.
    pub do_not_store: Option<Field>,
    pub checks: Vec<Check>,
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketHeader {
    pub image_id: u64,
    /// Within its module's part of the image, from 0.
    pub number: usize,
    /// The detector's clock and exposure, in its own units.
    pub timestamp: u64,
    pub exposure_length: u32,
    pub do_not_store: bool,
}

/// Why a header is none of a detector's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// A check fails.
    Foreign,
    /// A packet number that no packet of this module has.
    Number,
}

impl WireFormat {
    /// Reads the header at the begin of `packet`, of module `module`. The slice may be longer than the header, and
    /// is read faster if it is. Whether the image id is one that images can have is for the caller to say.
    ///
    /// # Errors
    /// Rule W2.
    #[inline]
    pub fn read(&self, packet: &[u8], module: usize, packets_per_module: usize) -> Result<PacketHeader, HeaderError> {
        if !self.is_of_module(packet, module) {
            return Err(HeaderError::Foreign);
        }
        let number = self.packet_number.read(packet, module).filter(|&number| number < packets_per_module as u64);
        let optional = |field: &Option<Field>| field.as_ref().map_or(0, |field| field.read(packet));
        Ok(PacketHeader {
            image_id: self.image_id.read(packet),
            number: number.ok_or(HeaderError::Number)? as usize,
            timestamp: optional(&self.timestamp),
            exposure_length: u32::try_from(optional(&self.exposure_length)).unwrap_or(u32::MAX),
            do_not_store: optional(&self.do_not_store) != 0,
        })
    }

    /// The packet number that the header says, of module `module`; none where no packet can have it. Nothing else of the
    /// header is looked at: see [`Self::image_mask`].
    #[inline]
    pub fn packet_number(&self, packet: &[u8], module: usize) -> Option<u64> {
        self.packet_number.read(packet, module)
    }

    /// The bits of a header that are the same in all packets of one module and image: those of the image id and of the
    /// checks. What [`Self::read`] says of a header, it says of every one that has the same bits there, but for the
    /// packet number and what one packet tells of its image.
    pub fn image_mask(&self) -> Vec<u8> {
        let mut mask = vec![0; self.header_bytes];
        for field in self.checks.iter().map(|check| check.field).chain([self.image_id]) {
            Field { is_float: false, ..field }.write(&mut mask, u64::MAX);
        }
        mask
    }

    #[inline]
    fn is_of_module(&self, packet: &[u8], module: usize) -> bool {
        self.checks.iter().all(|check| check.field.read(packet) == of_module(&check.values, module))
    }

    /// Writes a header; what no field says is 0.
    ///
    /// # Panics
    /// If `header` is shorter than one.
    pub fn write(&self, header: &mut [u8], module: usize, of: &PacketHeader) {
        let header = &mut header[..self.header_bytes];
        header.fill(0);
        for check in &self.checks {
            check.field.write(header, of_module(&check.values, module));
        }
        self.image_id.write(header, of.image_id);
        self.packet_number.write(header, module, of.number);
        for (field, value) in [
            (self.timestamp, of.timestamp),
            (self.exposure_length, of.exposure_length.into()),
            (self.do_not_store, of.do_not_store.into()),
        ] {
            if let Some(field) = field {
                field.write(header, value);
            }
        }
    }
}

impl PacketNumber {
    /// A field that counts packets from 0.
    pub fn plain(field: Field) -> Self {
        Self { field, step: 1, first: Vec::new() }
    }

    #[inline]
    fn read(&self, packet: &[u8], module: usize) -> Option<u64> {
        let found = self.field.read(packet);
        let number = match self.step {
            1 => found,
            step => Some(found / step).filter(|number| number * step == found)?,
        };
        number.checked_sub(of_module(&self.first, module))
    }

    fn write(&self, header: &mut [u8], module: usize, number: usize) {
        self.field.write(header, (number as u64 + of_module(&self.first, module)) * self.step);
    }
}

/// The value of a module in a list of one for each, or one for all; 0 in an empty one.
#[inline]
fn of_module(values: &[u64], module: usize) -> u64 {
    match values {
        [] => 0,
        [value] => *value,
        values => values[module],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> WireFormat {
        WireFormat {
            header_bytes: 24,
            image_id: Field::little(0, 8),
            packet_number: PacketNumber { field: Field::new(8, 2, ByteOrder::Big), step: 18, first: vec![0, 4] },
            timestamp: Some(Field::little(10, 8).bits(0, 40)),
            exposure_length: Some(Field::little(10, 8).bits(40, 24)),
            do_not_store: Some(Field::little(18, 2).bits(15, 1)),
            checks: vec![Check { field: Field::little(23, 1), values: vec![7, 9] }],
        }
    }

    #[test]
    fn bytes_of_a_header_are_where_the_fields_say() {
        let of = PacketHeader {
            image_id: 0x0102_0304_0506_0708,
            number: 3,
            timestamp: 0xaa_bbcc_ddee,
            exposure_length: 0x11_2233,
            do_not_store: true,
        };
        let mut header = [0xff; 30];
        wire().write(&mut header, 1, &of);
        let expected =
            [8, 7, 6, 5, 4, 3, 2, 1, 0, 126, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x33, 0x22, 0x11, 0, 0x80, 0, 0, 0, 9];
        assert_eq!(header[..24], expected, "packet 3 of module 1, whose first is 4: row 7 * 18");
        assert_eq!(header[24..], [0xff; 6], "behind the header");
        assert_eq!(wire().read(&header, 1, 10), Ok(of));
        assert_eq!(wire().read(&header[..24], 1, 10), Ok(of), "a slice that ends with the header");
        assert_eq!(wire().packet_number(&header, 1), Some(3));
        let mask: Vec<usize> = (0..24).filter(|&byte| wire().image_mask()[byte] == 0xff).collect();
        assert_eq!(mask, [0, 1, 2, 3, 4, 5, 6, 7, 23], "image id and check");
        assert_eq!(wire().image_mask().iter().map(|byte| byte.count_ones()).sum::<u32>(), 72, "whole bytes");
    }

    #[test]
    fn another_check_is_foreign_and_numbers_that_no_packet_has_are_wrong() {
        let of = PacketHeader { image_id: 1, number: 0, timestamp: 0, exposure_length: 0, do_not_store: false };
        let mut header = [0; 24];
        wire().write(&mut header, 0, &of);
        assert_eq!(wire().read(&header, 1, 10), Err(HeaderError::Foreign));
        wire().write(&mut header, 1, &PacketHeader { number: 9, ..of });
        assert_eq!(wire().read(&header, 1, 9), Err(HeaderError::Number), "as many as there are");
        header[9] -= 1;
        assert_eq!(wire().read(&header, 1, 10), Err(HeaderError::Number), "not a multiple of the step");
        (header[8], header[9]) = (0, 3 * 18);
        assert_eq!(wire().read(&header, 1, 10), Err(HeaderError::Number), "below the first");
        assert_eq!(wire().read(&[], 1, 10), Err(HeaderError::Foreign), "nothing at all");
    }

    #[test]
    fn floats_hold_whole_numbers_or_none() {
        let field = Field::float(0, ByteOrder::Little);
        let mut header = [0; 8];
        for id in [0, 5, 1 << 40, (1 << 53) - 1] {
            field.write(&mut header, id);
            assert_eq!((header, field.read(&header)), ((id as f64).to_le_bytes(), id));
        }
        for none in [f64::NAN, -1.0, 0.5, f64::INFINITY, 1e300] {
            assert_eq!(field.read(&none.to_le_bytes()), u64::MAX, "{none}");
        }
    }
}
