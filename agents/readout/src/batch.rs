//! The memory of one port's batch: headers, a staging place for each packet, and the scatter lists.
//!
//! ```text
//! message m:  iov[0] headers[m]   iov[1..] either the segments of the predicted place in the ring,
//!                                          or staging[m], then empty ones
//! ```

use ecs_schemas::detector::Placement;

/// Packets of one batch: enough to make the system call cheap, few enough to keep the round short (and
/// to touch few images at once).
pub const BATCH_PACKETS: usize = 64;

/// Reused for every batch of a port; nothing is allocated while packets come.
pub struct Batch {
    header_bytes: usize,
    payload_bytes: usize,
    headers: Vec<u8>,
    staging: Vec<u8>,
    iovecs: Vec<libc::iovec>,
    iovecs_per_packet: usize,
    aimed_at_image: [bool; BATCH_PACKETS],
    pub messages: Vec<libc::mmsghdr>,
}

// SAFETY: the pointers in iovecs and messages lead into the batch's own vectors, which move with it
// unchanged, or into the ring for the length of one call; they are set anew before each use.
unsafe impl Send for Batch {}

impl Batch {
    pub fn new(placement: &Placement) -> Self {
        let iovecs_per_packet = 1 + placement.segments_per_packet();
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: an mmsghdr of zeros is a message without address, iovecs and control data.
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        let mut batch = Self {
            header_bytes: placement.header_bytes,
            payload_bytes: placement.payload_bytes,
            headers: vec![0; BATCH_PACKETS * placement.header_bytes],
            staging: vec![0; BATCH_PACKETS * placement.payload_bytes],
            iovecs: vec![empty; BATCH_PACKETS * iovecs_per_packet],
            iovecs_per_packet,
            aimed_at_image: [false; BATCH_PACKETS],
            messages: vec![message; BATCH_PACKETS],
        };
        for packet in 0..BATCH_PACKETS {
            let header = batch.headers[packet * batch.header_bytes..].as_mut_ptr();
            let first = packet * iovecs_per_packet;
            batch.iovecs[first] = libc::iovec { iov_base: header.cast(), iov_len: batch.header_bytes };
            batch.messages[packet].msg_hdr.msg_iov = batch.iovecs[first..].as_mut_ptr();
        }
        batch
    }

    /// Lets message `m` go to the place of `packet` in the image whose pixels begin at `pixels`.
    pub fn aim_at_image(&mut self, m: usize, placement: &Placement, packet: usize, pixels: *mut u8) {
        let first = m * self.iovecs_per_packet + 1;
        let segments = placement.segments(packet);
        for (iovec, segment) in self.iovecs[first..].iter_mut().zip(segments) {
            iovec.iov_base = pixels.wrapping_add(segment.offset_bytes as usize).cast();
            iovec.iov_len = segment.len_bytes as usize;
        }
        self.messages[m].msg_hdr.msg_iovlen = 1 + segments.len();
        self.aimed_at_image[m] = true;
    }

    /// Lets message `m` go to its staging place.
    pub fn aim_at_staging(&mut self, m: usize) {
        let staging = self.staging[m * self.payload_bytes..].as_mut_ptr();
        self.iovecs[m * self.iovecs_per_packet + 1] =
            libc::iovec { iov_base: staging.cast(), iov_len: self.payload_bytes };
        self.messages[m].msg_hdr.msg_iovlen = 2;
        self.aimed_at_image[m] = false;
    }

    pub fn is_aimed_at_image(&self, m: usize) -> bool {
        self.aimed_at_image[m]
    }

    /// True if message `m` had exactly the length of a packet.
    pub fn is_whole(&self, m: usize) -> bool {
        let message = &self.messages[m];
        message.msg_len as usize == self.header_bytes + self.payload_bytes
            && message.msg_hdr.msg_flags & libc::MSG_TRUNC == 0
    }

    pub fn header(&self, m: usize) -> &[u8] {
        &self.headers[m * self.header_bytes..][..self.header_bytes]
    }

    /// Copies the payload of message `m` from the place in the ring where it landed to its staging place.
    ///
    /// # Safety
    /// The message was aimed at an image that this thread may still access.
    pub unsafe fn fetch_to_staging(&mut self, m: usize) {
        let first = m * self.iovecs_per_packet + 1;
        let segments = self.messages[m].msg_hdr.msg_iovlen - 1;
        let mut to = m * self.payload_bytes;
        for iovec in &self.iovecs[first..first + segments] {
            let target = &mut self.staging[to..to + iovec.iov_len];
            // SAFETY: the caller's promise; lengths are those of the segments, which add up to a payload.
            unsafe { std::ptr::copy_nonoverlapping(iovec.iov_base.cast(), target.as_mut_ptr(), iovec.iov_len) };
            to += iovec.iov_len;
        }
    }

    /// Copies the payload of message `m` from its staging place to the place of `packet`.
    ///
    /// # Safety
    /// `pixels` leads to an image of this placement that this thread may access.
    pub unsafe fn place_from_staging(&self, m: usize, placement: &Placement, packet: usize, pixels: *mut u8) {
        let mut from = m * self.payload_bytes;
        for segment in placement.segments(packet) {
            let source = &self.staging[from..from + segment.len_bytes as usize];
            // SAFETY: the caller's promise; a placement's segments lie inside the image.
            unsafe {
                let target = pixels.add(segment.offset_bytes as usize);
                std::ptr::copy_nonoverlapping(source.as_ptr(), target, source.len());
            }
            from += source.len();
        }
    }
}
