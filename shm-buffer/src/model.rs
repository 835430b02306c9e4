//! What the models in `tests/orderings` need of a ring: one whose words are loom's, and pixels of one word a
//! packet, which are both words (for lossy readers) and plain memory (for everybody else).

use crate::{
    control::Ring,
    crash,
    geometry::{Geometry, GeometryError},
    layout::{CommitEntry, Header, Participant, SlotControl},
    reader::{Image, Reader},
    sync::{AtomicU64, Relaxed, model},
};
use std::{cell::RefCell, panic};

/// A packet is one word.
pub const PACKET_BYTES: usize = size_of::<u64>();

thread_local! {
    /// The memory of all executions: only its addresses are used.
    static RING: RefCell<Option<Ring>> = const { RefCell::new(None) };
}

/// A new ring, at the begin of an execution.
///
/// # Errors
/// The geometry is out of range.
pub fn ring(geometry: Geometry) -> Result<Ring, GeometryError> {
    let kept = RING.take().filter(|ring| *ring.geometry() == geometry);
    let ring = kept.map_or_else(|| Ring::of_nothing(geometry), Ok)?;
    RING.set(Some(ring.clone()));
    model::begin();
    announce(&ring);
    ring.write_identity();
    Ok(ring)
}

fn announce(ring: &Ring) {
    announce_header(ring.header());
    ring.places().iter().for_each(announce_participant);
    ring.slots().iter().for_each(announce_slot);
    (0..ring.geometry().commits() as u64).for_each(|seq| announce_commit(ring.commit(seq)));
    for slot in 0..ring.geometry().slots as u16 {
        ring.bitmap(slot).iter().for_each(model::announce);
        for packet in 0..ring.geometry().packets_per_image as usize {
            let word = pixel_word(ring.pixels(slot), packet);
            model::announce(word);
            model::announce_plain(std::ptr::from_ref(word) as usize);
        }
    }
}

fn announce_header(header: &Header) {
    let Header { counters, journal, .. } = header;
    let words = [
        &header.magic,
        &header.deadline_ns,
        &header.owner_start_time,
        &header.placement_hash,
        &header.places,
        &header.epoch,
        &header.base,
        &header.reclaimed_seq,
        &header.counts_from,
        &header.run_after_ns,
        &header.commit_head,
        &counters.complete,
        &counters.partial,
        &counters.missing_packets,
        &counters.slots_in_quarantine,
        &counters.opened,
        &counters.discarded,
        &journal.what,
        &journal.until,
    ];
    words.into_iter().chain(&counters.lost).chain(&journal.before).for_each(model::announce);
    header.window_table.iter().for_each(model::announce);
    let halves = [
        &header.version,
        &header.slots,
        &header.window,
        &header.height,
        &header.width,
        &header.pixel_bytes,
        &header.packets_per_image,
        &header.fill,
        &header.owner_pid,
        &header.owners,
        &header.commit_event,
        &header.commit_waiters,
        &header.owner_event,
        &header.owner_waiting,
        &header.slots_wanted,
        &header.closed,
        &header.window_event,
        &header.window_waiters,
    ];
    halves.into_iter().for_each(model::announce);
}

fn announce_participant(place: &Participant) {
    [&place.identity, &place.start_time].into_iter().for_each(model::announce);
    place.words().into_iter().chain(&place.name).for_each(model::announce);
    place.counters.all().into_iter().chain(place.joined.all()).for_each(model::announce);
}

fn announce_slot(slot: &SlotControl) {
    let words = [&slot.word, &slot.image_id, &slot.epoch, &slot.first_packet_ns, &slot.detector_timestamp];
    words.into_iter().chain([&slot.made_with]).for_each(model::announce);
    [&slot.exposure_length, &slot.packets_received, &slot.do_not_store].into_iter().for_each(model::announce);
}

fn announce_commit(entry: &CommitEntry) {
    let words = [
        &entry.word,
        &entry.epoch,
        &entry.accounted,
        &entry.first_packet_utc_ns,
        &entry.commit_utc_ns,
        &entry.detector_timestamp,
        &entry.made_with,
    ];
    words.into_iter().for_each(model::announce);
    [&entry.packets_received, &entry.exposure_length].into_iter().for_each(model::announce);
    entry.lost.iter().flat_map(|lost| [&lost.first_id, &lost.count_cause]).for_each(model::announce);
}

fn pixel_word<'a>(pixels: *mut u8, packet: usize) -> &'a AtomicU64 {
    // SAFETY: the ring's memory is never freed, and of its words only the addresses are used.
    unsafe { &*pixels.add(packet * PACKET_BYTES).cast() }
}

/// Writes one packet's pixels: as plain memory, and as what a lossy reader may see of it.
pub fn write_packet(pixels: *mut u8, packet: usize, value: u64) {
    let word = pixel_word(pixels, packet);
    model::touch_plain(std::ptr::from_ref(word) as usize, true);
    word.store(value, Relaxed);
}

/// The packets of an image that a reliable reader holds.
pub fn read_held(reader: &Reader, image: &Image) -> Vec<u64> {
    let pixels = reader.pixels(image).as_ptr().cast_mut();
    let read = |packet| {
        let word = pixel_word(pixels, packet);
        model::touch_plain(std::ptr::from_ref(word) as usize, false);
        word.load(Relaxed)
    };
    (0..reader.ring().geometry().packets_per_image as usize).map(read).collect()
}

/// Runs `step`, and abandons it at the n-th pass of that crash point. True if it got there.
pub fn dies_at(point: &'static str, nth: u32, step: impl FnOnce()) -> bool {
    crash::plan(Some((point, nth)));
    let ended = panic::catch_unwind(panic::AssertUnwindSafe(step));
    crash::plan(None);
    match ended {
        Ok(()) => false,
        Err(death) if death.is::<crash::Death>() => true,
        Err(failure) => panic::resume_unwind(failure),
    }
}
