//! The memory of one port's batch: where each message lands, and the scatter lists.
//!
//! The kernel hands over a message of one packet, or of many equal ones of one sender that it has
//! coalesced (`UDP_GRO`), back to back, the last one shorter if it is. How many is known only afterwards, so a
//! message's scatter list predicts as many as can be and ends in room for the longest message:
//!
//! ```text
//! message │ header │ segments in the ring │ header │ segments in the ring │ …… │ whatever else comes │
//!         └─ staging, at the packet's offset ─┴─── or the payload too, ──┴─ if it has no free place ─┘
//!            (and so the end of a payload that has no pixels: a last packet that is padded)
//! ```
//!
//! | shape | messages | packets predicted | when |
//! |---|---|---|---|
//! | singles | [`BATCH_PACKETS`] | the first of each | messages hold one packet |
//! | coalesced | 1 | all that it can hold | a message held more than one |
//! | staged | as many as [`STAGED_BYTES`] hold | none: all of it stays in staging | pixels are packed |
//!
//! Two shapes for plain pixels and nothing between: with several messages of several packets a batch, one message
//! shorter than predicted would put all that follow in wrong places.
//!
//! # Rules
//! B1  A byte of a message that lies in staging lies at its own offset there, whatever was predicted before it: what
//!     landed in the ring instead can be fetched back between its neighbours.
//! B2  The packets of a module are of one length, but its last one may be shorter. Where a short one is predicted in a
//!     coalesced message, nothing is predicted behind it: the kernel ends a message with a shorter packet, and if a
//!     long one came instead, all that follows must lie in staging.

use crate::socket::{self, Control};
use ecs_schemas::detector::{Packing, Placement, Segment};
use std::{mem, net::SocketAddrV4, ptr};

/// Packets of one batch: enough to make the system call cheap, few enough to keep the round short (and
/// to touch few images at once).
pub const BATCH_PACKETS: usize = 64;

/// Longest message, coalesced or not.
const MESSAGE_BYTES_MAX: usize = 65_536;
/// From one message's memory to the next: odd cache lines apart, or all headers would share one set of
/// the cache.
const MESSAGE_STRIDE: usize = MESSAGE_BYTES_MAX + 5 * 64;
/// Most parts of a message that the kernel takes (`UIO_MAXIOV`).
const IOVECS_MAX: usize = 1024;
/// This many messages of one packet in a row: they are not coalesced any more.
const SINGLES_IN_A_ROW: usize = 2 * BATCH_PACKETS;
/// Packed payloads of one batch: they are to be in the processor's second cache still when they are unpacked.
const STAGED_BYTES: usize = 4 * MESSAGE_BYTES_MAX;
/// Packets of one staged batch: coalesced messages of a network hold this many each, at most.
pub const STAGED_PACKETS: usize = STAGED_BYTES / MESSAGE_BYTES_MAX * BATCH_PACKETS;

/// Reused for every batch of a port; nothing is allocated while packets come.
pub struct Batch {
    header_bytes: usize,
    packet_bytes: usize,
    /// Length of a module's last packet.
    last_packet_bytes: usize,
    is_staged: bool,
    /// Most packets that a coalesced message is predicted to hold.
    coalesced_places: usize,
    /// Messages of a batch of single packets.
    single_messages: usize,
    /// The shape of this batch.
    is_coalesced: bool,
    /// Messages of one packet, since the last one that held more.
    singles_in_a_row: usize,
    staging: Vec<u8>,
    iovecs: Vec<libc::iovec>,
    iovecs_used: usize,
    /// Of the message that is being aimed: its first iovec, and its bytes so far.
    message_begin: usize,
    message_bytes: usize,
    /// Rule B2: a place behind it would be a guess.
    is_ended: bool,
    /// For each place: whether it leads to an image.
    aimed: Vec<bool>,
    controls: Vec<Control>,
    /// Where each message came from; empty where nobody asks.
    sources: Vec<libc::sockaddr_in>,
    messages: Vec<libc::mmsghdr>,
}

/// Where a packet landed: its message, which packet of it, and its bytes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landed {
    pub message: usize,
    pub packet: usize,
    /// Of the message.
    offset: usize,
    bytes: usize,
}

/// What a message held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// Packets of a right length, from its begin on.
    pub packets: usize,
    /// Packets of any other length.
    pub malformed: usize,
    /// From one packet to the next, and all bytes.
    stride: usize,
    bytes: usize,
}

// SAFETY: the pointers in iovecs and messages lead into the batch's own vectors, which move with it
// unchanged, or into the ring for the length of one call; they are set anew before each use.
unsafe impl Send for Batch {}

impl Batch {
    pub fn new(placement: &Placement) -> Self {
        let packet_bytes = placement.packet_bytes();
        let iovecs_per_packet = 1 + placement.segments_per_packet_max() + 1;
        let coalesced_places =
            (MESSAGE_BYTES_MAX / packet_bytes).min((IOVECS_MAX - 1) / iovecs_per_packet).clamp(1, BATCH_PACKETS);
        let is_staged = placement.packing != Packing::Plain || iovecs_per_packet >= IOVECS_MAX;
        let staged_messages = (STAGED_BYTES / packet_bytes).clamp(1, BATCH_PACKETS);
        // SAFETY: an mmsghdr of zeros is a message without address, iovecs and control data.
        let message: libc::mmsghdr = unsafe { mem::zeroed() };
        let no_iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Self {
            header_bytes: placement.header_bytes,
            packet_bytes,
            last_packet_bytes: placement.last_packet_bytes(),
            is_staged,
            coalesced_places,
            single_messages: if is_staged { staged_messages } else { BATCH_PACKETS },
            is_coalesced: false,
            singles_in_a_row: SINGLES_IN_A_ROW,
            staging: vec![0; BATCH_PACKETS * MESSAGE_STRIDE],
            iovecs: vec![no_iovec; BATCH_PACKETS * if is_staged { 1 } else { iovecs_per_packet + 1 }],
            iovecs_used: 0,
            message_begin: 0,
            message_bytes: 0,
            is_ended: false,
            aimed: Vec::with_capacity(BATCH_PACKETS),
            controls: vec![Control::default(); BATCH_PACKETS],
            sources: Vec::new(),
            messages: vec![message; BATCH_PACKETS],
        }
    }

    /// From now on the kernel says where each message came from.
    pub fn ask_for_sources(&mut self) {
        // SAFETY: an address of zeros is one.
        self.sources = vec![unsafe { mem::zeroed() }; BATCH_PACKETS];
    }

    /// Where message `m` came from, after it was received; none if nobody asked, or it was from no IPv4 address.
    pub fn source(&self, m: usize) -> Option<SocketAddrV4> {
        let source = self.sources.get(m)?;
        let is_whole = self.messages[m].msg_hdr.msg_namelen as usize >= size_of::<libc::sockaddr_in>();
        let is_ipv4 = is_whole && i32::from(source.sin_family) == libc::AF_INET;
        is_ipv4.then(|| SocketAddrV4::new(u32::from_be(source.sin_addr.s_addr).into(), u16::from_be(source.sin_port)))
    }

    /// Whether all payloads stay in staging: nothing is to be aimed, see [`Batch::stage`].
    pub fn is_staged(&self) -> bool {
        self.is_staged
    }

    /// Begins a batch all of which stays in staging.
    pub fn stage(&mut self) -> &mut [libc::mmsghdr] {
        self.start();
        let coalesced = STAGED_BYTES / MESSAGE_BYTES_MAX;
        let count = if self.is_coalesced { coalesced } else { self.single_messages };
        for message in 0..count {
            self.begin_message(message);
            self.end_message(message);
        }
        &mut self.messages[..count]
    }

    /// Begins a batch. Returns how many places it has: each is to be aimed, in order.
    pub fn begin(&mut self) -> usize {
        self.start();
        if self.is_coalesced { self.coalesced_places } else { BATCH_PACKETS }
    }

    fn start(&mut self) {
        self.is_coalesced = self.singles_in_a_row < SINGLES_IN_A_ROW;
        self.iovecs_used = 0;
        self.is_ended = false;
        self.aimed.clear();
    }

    /// Lets the payload of the next place go to the place of `packet` in the image whose pixels begin at
    /// `pixels`.
    pub fn aim_at_image(&mut self, placement: &Placement, packet: usize, pixels: *mut u8) {
        let payload_bytes = placement.payload_bytes_of(packet % placement.packets_per_module);
        let is_short = payload_bytes < placement.payload_bytes;
        self.aim(self.header_bytes, Some(payload_bytes), placement.segments(packet), pixels);
        if is_short && self.is_coalesced && !mem::replace(&mut self.is_ended, true) {
            self.end_message(0);
        }
    }

    /// Lets the packet of the next place stay in staging.
    pub fn aim_at_staging(&mut self) {
        self.aim(self.packet_bytes, None, &[], ptr::null_mut());
    }

    /// `payload_bytes`: of what goes to an image.
    fn aim(&mut self, staging_bytes: usize, payload_bytes: Option<usize>, segments: &[Segment], pixels: *mut u8) {
        if self.is_ended {
            return; // B2
        }
        let place = self.aimed.len();
        let message = if self.is_coalesced { 0 } else { place };
        self.aimed.push(payload_bytes.is_some());
        if !self.is_coalesced || place == 0 {
            self.begin_message(message);
        }
        self.push_staging(message, staging_bytes);
        let mut padding = payload_bytes.unwrap_or(0);
        for segment in segments {
            self.push(pixels.wrapping_add(segment.offset_bytes as usize), segment.len_bytes as usize);
            padding -= segment.len_bytes as usize;
        }
        if padding > 0 {
            self.push_staging(message, padding); // or what comes behind it would land too early
        }
        if !self.is_coalesced || self.aimed.len() == self.coalesced_places {
            self.is_ended = self.is_coalesced;
            self.end_message(message);
        }
    }

    /// The messages that lead to the places, all of which were aimed.
    pub fn messages(&mut self) -> &mut [libc::mmsghdr] {
        let messages = if self.is_coalesced { 1 } else { BATCH_PACKETS };
        &mut self.messages[..messages]
    }

    /// What message `m` held, after it was received.
    pub fn contents(&mut self, m: usize) -> Contents {
        let bytes = self.messages[m].msg_len as usize;
        let stride = socket::coalesced_packet_bytes(&self.messages[m].msg_hdr).unwrap_or(bytes).max(1);
        let is_single = stride >= bytes;
        self.singles_in_a_row = if is_single { self.singles_in_a_row.saturating_add(1) } else { 0 };
        let whole = if stride == self.packet_bytes || stride == self.last_packet_bytes { bytes / stride } else { 0 };
        // Behind long ones, the kernel appends one that is shorter.
        let rest = bytes - whole * stride;
        let packets = whole + usize::from(whole > 0 && rest == self.last_packet_bytes);
        Contents { packets, malformed: bytes.div_ceil(stride).max(1) - packets, stride, bytes }
    }

    /// Where packet `packet` of message `m` landed.
    pub fn landed(&self, contents: &Contents, m: usize, packet: usize) -> Landed {
        let offset = packet * contents.stride;
        Landed { message: m, packet, offset, bytes: contents.stride.min(contents.bytes - offset) }
    }

    /// The place that this packet took, if there was one for it and it leads to an image.
    pub fn image_place(&self, landed: Landed) -> Option<usize> {
        let place = match landed {
            Landed { packet, .. } if self.is_coalesced => packet,
            Landed { message, packet: 0, .. } => message,
            _ => return None,
        };
        self.aimed.get(place).is_some_and(|&at_image| at_image).then_some(place)
    }

    /// Whether its packets lie elsewhere than was predicted: several short ones in a row.
    pub fn is_out_of_step(&self, contents: &Contents) -> bool {
        contents.packets > 1 && contents.stride != self.packet_bytes
    }

    /// Copies to staging whatever of message `m` landed in images: none of its packets has a place there any more.
    ///
    /// # Safety
    /// The images that the places of this batch lead to may still be accessed by this thread.
    pub unsafe fn fetch_message(&mut self, m: usize) {
        let (begin, count) = match self.is_coalesced {
            true => (0, self.iovecs_used),
            false => {
                let header = &self.messages[m].msg_hdr;
                let first = (header.msg_iov as usize - self.iovecs.as_ptr() as usize) / size_of::<libc::iovec>();
                (first, header.msg_iovlen)
            }
        };
        let mut offset = m * MESSAGE_STRIDE;
        for iovec in begin..begin + count {
            let libc::iovec { iov_base, iov_len } = self.iovecs[iovec];
            if !self.staging.as_ptr_range().contains(&iov_base.cast_const().cast()) {
                let target = &mut self.staging[offset..offset + iov_len];
                // SAFETY: the caller's promise; a place of `iov_len` bytes, and not in staging.
                unsafe { ptr::copy_nonoverlapping(iov_base.cast(), target.as_mut_ptr(), iov_len) };
            }
            offset += iov_len; // B1
        }
        let places = if self.is_coalesced { &mut self.aimed[..] } else { &mut self.aimed[m..=m] };
        places.fill(false);
    }

    /// The packet's bytes, of which those of the header are there for certain, and more behind them.
    pub fn header(&self, landed: Landed) -> &[u8] {
        &self.staging[self.offset(landed)..][..self.header_bytes + size_of::<u64>()]
    }

    /// The packet's payload, if it is in staging.
    pub fn payload(&self, landed: Landed) -> &[u8] {
        &self.staging[self.offset(landed) + self.header_bytes..][..landed.bytes - self.header_bytes]
    }

    /// Length of the payload, wherever it is.
    pub fn payload_bytes(&self, landed: Landed) -> usize {
        landed.bytes - self.header_bytes
    }

    /// Copies a payload from the place of `packet`, where it landed, to staging.
    ///
    /// # Safety
    /// `pixels` leads to an image of this placement that this thread may access.
    pub unsafe fn fetch_to_staging(&mut self, landed: Landed, placement: &Placement, packet: usize, pixels: *mut u8) {
        let mut to = self.offset(landed) + self.header_bytes;
        for segment in placement.segments(packet) {
            let target = &mut self.staging[to..to + segment.len_bytes as usize];
            // SAFETY: the caller's promise; a placement's segments lie inside the image.
            unsafe {
                let source = pixels.add(segment.offset_bytes as usize);
                ptr::copy_nonoverlapping(source, target.as_mut_ptr(), target.len());
            }
            to += segment.len_bytes as usize;
        }
    }

    /// Of a packet, in staging.
    fn offset(&self, landed: Landed) -> usize {
        landed.message * MESSAGE_STRIDE + landed.offset
    }

    fn begin_message(&mut self, m: usize) {
        self.message_begin = self.iovecs_used;
        self.message_bytes = 0;
        let header = &mut self.messages[m].msg_hdr;
        header.msg_iov = self.iovecs[self.iovecs_used..].as_mut_ptr();
        header.msg_control = (&raw mut self.controls[m]).cast();
        header.msg_controllen = size_of::<Control>();
        if let Some(source) = self.sources.get_mut(m) {
            source.sin_family = 0;
            header.msg_name = (&raw mut *source).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        }
    }

    /// Behind the last place of a message: room for whatever else comes.
    fn end_message(&mut self, m: usize) {
        self.push_staging(m, MESSAGE_BYTES_MAX - self.message_bytes);
        self.messages[m].msg_hdr.msg_iovlen = self.iovecs_used - self.message_begin;
    }

    /// The next bytes of the message stay in staging, at their own offset (B1).
    fn push_staging(&mut self, m: usize, bytes: usize) {
        let offset = m * MESSAGE_STRIDE + self.message_bytes;
        let base = self.staging[offset..offset + bytes].as_mut_ptr();
        self.push(base, bytes);
    }

    fn push(&mut self, base: *mut u8, bytes: usize) {
        self.iovecs[self.iovecs_used] = libc::iovec { iov_base: base.cast(), iov_len: bytes };
        self.iovecs_used += 1;
        self.message_bytes += bytes;
    }
}

#[cfg(test)]
mod tests;
