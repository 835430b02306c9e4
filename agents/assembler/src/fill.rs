//! The place of a packet that did not come, in every row that it would have covered.

use ecs_schemas::detector::Placement;

/// Writes the fill value into missing packets' places.
pub struct Filler<'a> {
    placement: &'a Placement,
    /// The fill value, as often as the longest segment has pixels: filling is then copying rows.
    row: Vec<u8>,
}

impl<'a> Filler<'a> {
    /// A filler with `fill` in the image's pixel type.
    pub fn new(placement: &'a Placement, fill: u32) -> Self {
        let packets = 0..placement.packets_per_image();
        let segments = packets.flat_map(|packet| placement.segments(packet));
        let longest = segments.map(|segment| segment.len_bytes as usize).max().unwrap_or(0);
        let pixel = &fill.to_le_bytes()[..placement.pixel.bytes()];
        Self { placement, row: pixel.iter().copied().cycle().take(longest).collect() }
    }

    /// Fills the place of one packet. Gaps are not touched.
    ///
    /// # Panics
    /// If `pixels` is not an image of this placement, or there is no such packet.
    pub fn fill(&self, pixels: &mut [u8], packet: usize) {
        for segment in self.placement.segments(packet) {
            let len = segment.len_bytes as usize;
            pixels[segment.offset_bytes as usize..][..len].copy_from_slice(&self.row[..len]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecs_schemas::detector::DetectorConfig;

    #[test]
    fn exactly_the_pixels_of_the_packet_are_filled() {
        let text = include_str!("../../../tests/data/eiger-500k/detector.json");
        let placement = DetectorConfig::from_json(text).and_then(|config| config.placement()).expect("valid");
        let mut pixels = vec![0; placement.image_bytes()];
        Filler::new(&placement, 0x0403_0201).fill(&mut pixels, 200);
        let filled = |offset: usize| pixels[offset..offset + 4] == [1, 2, 3, 4];
        let segments = placement.segments(200);
        let inside = segments.iter().flat_map(|segment| {
            (segment.offset_bytes..segment.offset_bytes + segment.len_bytes).step_by(4).map(|offset| offset as usize)
        });
        assert!(inside.clone().all(filled));
        assert_eq!(pixels.chunks_exact(4).filter(|pixel| *pixel != [0; 4]).count(), inside.count());
    }
}
