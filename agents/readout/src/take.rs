//! What a packet is that was received: the next of a run, the first of one, another than expected, or none of the detector's.
//!
//! Packets that came in a row where they were expected are marked together. The header of the first is read; those behind it
//! are of the same image and module if their headers have the same bits there, and have only their numbers read. Rules P1 to
//! P4 are those of `receive`.

use crate::{
    batch::{Batch, Landed},
    decode::{Decoder, SameImage},
    place::Placer,
    port::{Parked, Port},
};
use ecs_schemas::detector::{Detector, PacketHeader};
use ecs_shm_buffer::{Access, OpenImage, PacketFate, PacketInfo};
use std::ops::Range;

/// Packets in a row of one image, each of which came where it was expected.
#[derive(Clone, Copy)]
pub struct Run {
    pub image: OpenImage,
    /// How many they are.
    pub packets: usize,
    /// Of the first of them, and where that landed.
    pub header: PacketHeader,
    landed: Landed,
}

/// Whether a packet came where it was `expected` and is the next of the run, which it is appended to then.
#[inline]
pub fn follows(
    run: Option<&mut Run>,
    expected: Option<(u64, usize)>,
    same_image: &SameImage,
    detector: &Detector,
    port: &mut Port,
    landed: Landed,
) -> bool {
    let (Some(run), Some((id, number))) = (run, expected) else { return false };
    let header = port.batch.header(landed);
    let follows = (id, number) == (run.header.image_id, run.header.number + run.packets)
        && detector.wire.packet_number(header, port.module) == Some(number as u64)
        && same_image.holds(port.batch.header(run.landed), header)
        && port.batch.payload_bytes(landed) == detector.placement.payload_bytes_of(number);
    if follows {
        run.packets += 1;
        port.note_packet(id, number, detector.placement.packets_per_module);
    }
    follows
}

/// Reads a packet's header. One that came where it was expected begins a run; another is parked.
///
/// # Errors
/// What becomes of one that is not good.
pub fn take_packet(
    port: &mut Port,
    decoder: &Decoder<'_>,
    access: &Access<'_>,
    runs: &mut Vec<Run>,
    expected: Option<(u64, usize)>,
    landed: Landed,
    now_ns: u64,
) -> Result<(), PacketFate> {
    let placement = &decoder.detector.placement;
    let per_module = placement.packets_per_module;
    let header = read_header(&port.batch, decoder, port.module, landed)?;
    port.note_packet(header.image_id, header.number, per_module);
    if let Some((id, number)) = expected {
        let image = access.image(id).expect("a place in it was predicted");
        if (id, number) == (header.image_id, header.number) {
            runs.push(Run { image, packets: 1, header, landed });
            return Ok(());
        }
        let index = port.module * per_module + number;
        // SAFETY: P2: aimed at an image that `access` still protects.
        unsafe { port.batch.fetch_to_staging(landed, placement, index, access.pixels(image)) };
    }
    port.parked.push_back(Parked { landed: Some(landed), packet: header, since_ns: now_ns, is_believed: false });
    Ok(())
}

/// Reads the header of a packet, and checks its length (P4).
pub fn read_header(
    batch: &Batch,
    decoder: &Decoder<'_>,
    module: usize,
    landed: Landed,
) -> Result<PacketHeader, PacketFate> {
    let header = decoder.header(module, batch.header(landed))?;
    let is_right = batch.payload_bytes(landed) == decoder.detector.placement.payload_bytes_of(header.number);
    if is_right { Ok(header) } else { Err(PacketFate::Malformed) }
}

/// Marks packets in a row whose pixels are in their places, all but those that are masked. Returns how many are new.
/// `header`: of the first of them.
pub fn mark(
    placer: &Placer,
    access: &Access<'_>,
    image: OpenImage,
    packets: Range<usize>,
    header: &PacketHeader,
    now_ns: u64,
) -> usize {
    for packet in packets.clone() {
        // SAFETY: R1 of the ring: `access` protects the image; P3: the packets' numbers were checked.
        unsafe { placer.mask(access, image, packet) };
    }
    let info = PacketInfo {
        received_ns: now_ns,
        detector_timestamp: header.timestamp,
        exposure_length: header.exposure_length,
        do_not_store: header.do_not_store,
    };
    access.mark_run(image, packets, info)
}

/// As [`mark`], one packet.
pub fn mark_one(
    placer: &Placer,
    access: &Access<'_>,
    image: OpenImage,
    packet: usize,
    header: &PacketHeader,
    now_ns: u64,
) -> PacketFate {
    match mark(placer, access, image, packet..packet + 1, header, now_ns) {
        0 => PacketFate::Duplicate,
        _ => PacketFate::Placed,
    }
}
