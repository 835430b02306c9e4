//! The images that bare loops fill, and which packet of which image comes next on each port.

use crate::image_path::RING_BYTES;
use anyhow::Context;
use ecs_schemas::detector::{Placement, Segment};
use memmap2::{Advice, MmapOptions, MmapRaw};
use std::{path::Path, rc::Rc};

/// Images in `/dev/shm`, as far apart as in a ring, every page of which is there.
pub struct ImageMemory {
    map: MmapRaw,
    images: usize,
    stride: usize,
}

/// From one image to the next, as in a ring.
const ALIGN: usize = 4096;

impl ImageMemory {
    /// As many images as fit into `bytes`, at least one.
    ///
    /// # Errors
    /// There is no room.
    pub fn new(image_bytes: usize, bytes: usize) -> anyhow::Result<Self> {
        let stride = image_bytes.next_multiple_of(ALIGN);
        let images = (bytes / stride).max(1);
        let no_room = || format!("no room for {} bytes in /dev/shm", images * stride);
        let folder = Path::new("/dev/shm");
        let file = tempfile::tempfile_in(folder).with_context(no_room)?;
        file.set_len((images * stride) as u64).with_context(no_room)?;
        let map = MmapOptions::new().len(images * stride).map_raw(&file).with_context(no_room)?;
        map.advise(Advice::PopulateWrite).with_context(no_room)?;
        Ok(Self { map, images, stride })
    }

    /// The first pixel of the image with this number; numbers go round.
    fn pixels(&self, image: u64) -> *mut u8 {
        // The remainder is below the count of images, so that the place is inside.
        self.map.as_mut_ptr().wrapping_add((image % self.images as u64) as usize * self.stride)
    }
}

/// Where the packets of each port go, in order.
#[derive(Clone)]
pub struct Places {
    pub placement: Rc<Placement>,
    memory: Rc<ImageMemory>,
    /// Packets so far, of each port.
    taken: Vec<u64>,
}

impl Places {
    /// In memory of the size of a ring.
    ///
    /// # Errors
    /// There is no room.
    pub fn new(placement: &Placement) -> anyhow::Result<Self> {
        Self::with_bytes(placement, RING_BYTES)
    }

    pub(super) fn with_bytes(placement: &Placement, bytes: usize) -> anyhow::Result<Self> {
        let memory = ImageMemory::new(placement.image_bytes(), bytes)?;
        Ok(Self {
            taken: vec![0; placement.ports.len()],
            placement: Rc::new(placement.clone()),
            memory: Rc::new(memory),
        })
    }

    /// The image, and the index in it, of the packet that comes `ahead` packets after the next one of a port.
    pub fn packet(&self, port: usize, ahead: usize) -> (*mut u8, usize) {
        let (number, per_module) = (self.taken[port] + ahead as u64, self.placement.packets_per_module);
        let index = self.placement.module_of_port(port) * per_module + (number % per_module as u64) as usize;
        (self.memory.pixels(number / per_module as u64), index)
    }

    /// Where the pixels of that packet go.
    pub fn segments(&self, port: usize, ahead: usize) -> impl Iterator<Item = libc::iovec> {
        let (pixels, index) = self.packet(port, ahead);
        let iovec = move |segment: &Segment| libc::iovec {
            iov_base: pixels.wrapping_add(segment.offset_bytes as usize).cast(), // inside the image: a placement's are
            iov_len: segment.len_bytes as usize,
        };
        self.placement.segments(index).iter().map(iovec)
    }

    pub fn take(&mut self, port: usize, packets: usize) {
        self.taken[port] += packets as u64;
    }

    /// A copy of the pixels of an image.
    #[cfg(test)]
    pub fn copy(&self, image: u64) -> Vec<u8> {
        let bytes = self.placement.image_bytes();
        // SAFETY: an image of that many bytes begins there, and nobody writes it now.
        unsafe { std::slice::from_raw_parts(self.memory.pixels(image), bytes) }.to_vec()
    }
}
