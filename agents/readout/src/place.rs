//! A payload in staging, to its place in an image: copied or, where pixels are packed, unpacked.
//!
//! (A detector whose pixels need arithmetic, gain and pedestal, has its way here: a packing of its own.)

use crate::unpack;
use ecs_schemas::detector::{Packing, Placement};
use std::ptr;

/// Puts the payload of `packet` to its place.
///
/// # Safety
/// `pixels` leads to an image of this placement that this thread may access; `packet` is one of the image's, and
/// `payload` is as long as its payload.
pub unsafe fn place(placement: &Placement, packet: usize, payload: &[u8], pixels: *mut u8) {
    let segments = placement.segments(packet);
    match placement.packing {
        Packing::Plain => {
            let mut from = 0;
            for segment in segments {
                let source = &payload[from..from + segment.len_bytes as usize];
                // SAFETY: the caller's promise; a placement's segments lie inside the image.
                unsafe {
                    let target = pixels.add(segment.offset_bytes as usize);
                    ptr::copy_nonoverlapping(source.as_ptr(), target, source.len());
                }
                from += source.len();
            }
        }
        // SAFETY: as above.
        Packing::Packed12 => unsafe {
            unpack::unpack12(payload, placement.lead_bits(packet), segments, pixels);
        },
        // SAFETY: as above.
        Packing::Packed4 => unsafe { unpack::unpack4(payload, segments, pixels) },
    }
}
