//! The place of a packet that did not come, in every row that it would have covered.

use ecs_schemas::detector::Placement;

/// Writes `fill`, in the image's pixel type, into the place of one packet. Gaps are not touched.
///
/// # Panics
/// If `pixels` is not an image of this placement, or there is no such packet.
pub fn fill_packet(placement: &Placement, fill: u32, pixels: &mut [u8], packet: usize) {
    let pixel_bytes = placement.pixel.bytes();
    let value = fill.to_le_bytes();
    for segment in placement.segments(packet) {
        let row = &mut pixels[segment.offset_bytes as usize..][..segment.len_bytes as usize];
        row.chunks_exact_mut(pixel_bytes).for_each(|pixel| pixel.copy_from_slice(&value[..pixel_bytes]));
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
        fill_packet(&placement, 0x0403_0201, &mut pixels, 200);
        let filled = |offset: usize| pixels[offset..offset + 4] == [1, 2, 3, 4];
        let segments = placement.segments(200);
        let inside = segments.iter().flat_map(|segment| {
            (segment.offset_bytes..segment.offset_bytes + segment.len_bytes).step_by(4).map(|offset| offset as usize)
        });
        assert!(inside.clone().all(filled));
        assert_eq!(pixels.chunks_exact(4).filter(|pixel| *pixel != [0; 4]).count(), inside.count());
    }
}
