//! The ring as the algorithm sees it: borrowed control structures, and a region of pixels.
//!
//! Nothing here knows whether the memory is a mapped file or the heap. [`crate::mapping`] makes a ring
//! of a file that processes share; [`Ring::on_heap`] makes one for tests in one process.

use crate::{
    futex::Event,
    geometry::{Geometry, GeometryError},
    huge::HugePages,
    layout::{CommitEntry, Header, MAGIC, Participant, SlotControl, VERSION, is_commit_of},
    limits::PARTICIPANTS,
    mapping::MappedFile,
    sync::{AtomicU64, Relaxed, Release},
};
use std::{ptr::NonNull, sync::Arc};

/// A ring that this process can see: cheap to clone, unmapped with the last clone.
#[derive(Clone)]
pub struct Ring {
    geometry: Geometry,
    strides: Strides,
    header: NonNull<Header>,
    participants: NonNull<Participant>,
    slots: NonNull<SlotControl>,
    commits: NonNull<CommitEntry>,
    bitmaps: NonNull<AtomicU64>,
    pixels: NonNull<u8>,
    backing: Arc<Backing>,
}

/// Numbers that follow from the geometry. Kept: each image needs them, some between its commit and its reader.
#[derive(Clone, Copy)]
struct Strides {
    /// Bits of a sequence number that say which commit entry it has.
    commit_mask: usize,
    /// Bits of an id that say which window entry it has; none where the window is not a power of two.
    window_mask: Option<u64>,
    slot_bytes: usize,
    bitmap_words: usize,
    bitmap_stride: usize,
}

/// What keeps the memory alive.
pub(crate) enum Backing {
    File(#[allow(dead_code, reason = "held for its Drop")] MappedFile),
    Heap(#[allow(dead_code, reason = "held for its Drop")] HeapMemory),
}

/// Zeroed memory, aligned as the file is.
pub(crate) struct HeapMemory {
    start: NonNull<u8>,
    layout: std::alloc::Layout,
}

// SAFETY: the pointers lead to atomics, which any thread may use, and to pixels, which are reached
// only under rules R1 and R2 (see lib.rs), whatever thread or process asks.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}
// SAFETY: plain memory, freed once, by the last owner.
unsafe impl Send for HeapMemory {}
// SAFETY: as above; nothing reads it through this handle.
unsafe impl Sync for HeapMemory {}

impl Strides {
    fn of(geometry: &Geometry) -> Self {
        Self {
            commit_mask: geometry.commits() - 1,
            window_mask: geometry.window.is_power_of_two().then(|| u64::from(geometry.window) - 1),
            slot_bytes: geometry.slot_bytes() as usize,
            bitmap_words: geometry.bitmap_words(),
            bitmap_stride: geometry.bitmap_stride(),
        }
    }
}

impl Ring {
    /// A ring inside this process, for tests and models.
    ///
    /// # Errors
    /// The geometry is out of range.
    pub fn on_heap(geometry: Geometry) -> Result<Self, GeometryError> {
        geometry.check()?;
        let ring = Self::over_heap(geometry);
        ring.write_identity();
        Ok(ring)
    }

    fn over_heap(geometry: Geometry) -> Self {
        let memory = HeapMemory::zeroed(geometry.file_bytes() as usize);
        let (control, pixels) = (memory.start, memory.start.as_ptr().wrapping_add(geometry.pixels_offset() as usize));
        let pixels = NonNull::new(pixels).expect("an offset inside an allocation is not null");
        // SAFETY: the memory has the size and alignment of the file that the geometry describes.
        unsafe { Self::over(geometry, control, pixels, Backing::Heap(memory)) }
    }

    /// A ring whose words are a model's: only their addresses are used.
    #[cfg(feature = "model")]
    pub(crate) fn of_nothing(geometry: Geometry) -> Result<Self, GeometryError> {
        geometry.check()?;
        Ok(Self::over_heap(geometry))
    }

    /// # Safety
    /// `control` and `pixels` lead to `control_bytes()` and `pixels_bytes()` of `geometry`, aligned as
    /// `layout.rs` says, zeroed or written by this crate, and valid as long as `backing` lives.
    pub(crate) unsafe fn over(geometry: Geometry, control: NonNull<u8>, pixels: NonNull<u8>, backing: Backing) -> Self {
        let at =
            |offset: usize| NonNull::new(control.as_ptr().wrapping_add(offset)).expect("inside the control region");
        Self {
            geometry,
            strides: Strides::of(&geometry),
            header: control.cast(),
            participants: at(geometry.participants_offset()).cast(),
            slots: at(geometry.slots_offset()).cast(),
            commits: at(geometry.commits_offset()).cast(),
            bitmaps: at(geometry.bitmaps_offset()).cast(),
            pixels,
            backing: Arc::new(backing),
        }
    }

    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(crate) fn header(&self) -> &Header {
        // SAFETY: `over` was promised a header here; all of it is atomics.
        unsafe { self.header.as_ref() }
    }

    /// Every place, taken or not.
    pub(crate) fn places(&self) -> &[Participant] {
        // SAFETY: as for the header.
        unsafe { std::slice::from_raw_parts(self.participants.as_ptr(), PARTICIPANTS) }
    }

    /// The places that anybody has ever taken (P4).
    pub(crate) fn participants(&self) -> &[Participant] {
        let taken = usize::try_from(self.header().places.load(Relaxed)).unwrap_or(PARTICIPANTS);
        &self.places()[..taken.min(PARTICIPANTS)]
    }

    pub(crate) fn slots(&self) -> &[SlotControl] {
        // SAFETY: as for the header.
        unsafe { std::slice::from_raw_parts(self.slots.as_ptr(), self.geometry.slots as usize) }
    }

    pub(crate) fn slot(&self, slot: u16) -> &SlotControl {
        &self.slots()[usize::from(slot)]
    }

    pub(crate) fn commit(&self, seq: u64) -> &CommitEntry {
        // SAFETY: as for the header; there are as many entries as the mask has values.
        unsafe { self.commits.add(seq as usize & self.strides.commit_mask).as_ref() }
    }

    /// Steps that are committed: the head, or one more while its owner is between the two stores of R6, or died there.
    pub(crate) fn committed_steps(&self) -> u64 {
        let head = self.header().commit_head.load(Relaxed);
        let is_behind = is_commit_of(self.commit(head).word.load(Relaxed), head);
        head.saturating_add(is_behind.into())
    }

    /// Packet bitmap of a slot: bit `p % 64` of word `p / 64` is packet `p`.
    pub(crate) fn bitmap(&self, slot: u16) -> &[AtomicU64] {
        assert!(u32::from(slot) < self.geometry.slots, "slot {slot} of {}", self.geometry.slots);
        let first = usize::from(slot) * self.strides.bitmap_stride;
        // SAFETY: as for the header; the slot was checked.
        unsafe { std::slice::from_raw_parts(self.bitmaps.as_ptr().add(first), self.strides.bitmap_words) }
    }

    /// How many of the pixels lie in huge pages, as this process has them mapped; none where the kernel does not tell, and
    /// for a ring without a file.
    pub fn huge_pages(&self) -> Option<HugePages> {
        match *self.backing {
            Backing::File(_) => HugePages::of_mapping(self.pixels.as_ptr() as usize, self.geometry.pixels_bytes()),
            Backing::Heap(_) => None,
        }
    }

    /// First pixel byte of a slot. Who may use it, and when, is the caller's to know (R1, R2).
    pub(crate) fn pixels(&self, slot: u16) -> *mut u8 {
        assert!(u32::from(slot) < self.geometry.slots, "slot {slot} of {}", self.geometry.slots);
        self.pixels.as_ptr().wrapping_add(usize::from(slot) * self.strides.slot_bytes)
    }

    pub(crate) fn window_entry(&self, id: u64) -> &AtomicU64 {
        let index = self.strides.window_mask.map_or_else(|| id % u64::from(self.geometry.window), |mask| id & mask);
        &self.header().window_table[index as usize]
    }

    /// True once the owner has ended on purpose: no image will come any more.
    pub fn is_closed(&self) -> bool {
        self.header().closed.load(Relaxed) != 0
    }

    /// Tells participants to let go of the ring.
    pub(crate) fn close(&self) {
        let header = self.header();
        header.closed.store(1, Relaxed);
        for (word, waiters) in
            [(&header.window_event, &header.window_waiters), (&header.commit_event, &header.commit_waiters)]
        {
            Event { word, waiters }.signal();
        }
    }

    pub(crate) fn owner_event(&self) -> Event<'_> {
        Event { word: &self.header().owner_event, waiters: &self.header().owner_waiting }
    }

    /// Writes geometry and magic into a new ring. Magic comes last: it says that the rest is there.
    pub(crate) fn write_identity(&self) {
        let (header, geometry) = (self.header(), &self.geometry);
        header.version.store(VERSION, Relaxed);
        header.slots.store(geometry.slots, Relaxed);
        header.window.store(geometry.window, Relaxed);
        header.height.store(geometry.height, Relaxed);
        header.width.store(geometry.width, Relaxed);
        header.pixel_bytes.store(geometry.pixel_bytes, Relaxed);
        header.packets_per_image.store(geometry.packets_per_image, Relaxed);
        header.fill.store(geometry.fill, Relaxed);
        header.placement_hash.store(geometry.placement_hash, Relaxed);
        header.magic.store(MAGIC, Release); // pairs with Acquire in mapping::read_geometry
    }
}

impl HeapMemory {
    fn zeroed(bytes: usize) -> Self {
        let layout = std::alloc::Layout::from_size_align(bytes, crate::geometry::PIXELS_ALIGN as usize)
            .expect("a checked geometry has a size that can be allocated");
        // SAFETY: the layout is not empty: a header is always in it.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| std::alloc::handle_alloc_error(layout));
        Self { start, layout }
    }
}

impl Drop for HeapMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout, freed once.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) }
    }
}
