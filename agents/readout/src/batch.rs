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
//! | steady | several, together a batch | as many as the message that began with the same packet held last time; the last: all that it can hold | [`STEADY_MESSAGES`] in a row held that many |
//! | staged | as many as [`STAGED_BYTES`] hold | none: all of it stays in staging | pixels are packed |
//!
//! With several messages of several packets a batch, one message shorter than predicted puts all that follow in wrong
//! places, from where they are moved. So there is one message a batch until many have held what was predicted, and again
//! from the first on that does not. A detector that sends each image in the same way, through a network that coalesces
//! what is sent together, is steady; any other is not, and loses nothing.
//!
//! # Rules
//! B1  A byte of a message that lies in staging lies at its own offset there, whatever was predicted before it: what
//!     landed in the ring instead can be fetched back between its neighbours.
//! B2  The packets of a module are of one length, but its last one may be shorter. Where a short one is predicted in a
//!     coalesced message, nothing is predicted behind it: the kernel ends a message with a shorter packet, and if a
//!     long one came instead, all that follows must lie in staging.

use crate::socket::{self, Control};
use ecs_schemas::detector::{Packing, Placement, Segment};
use ecs_shm_buffer::limits::HAZARD_SLOTS;
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
/// So many coalesced messages held as many packets as the one before that began with the same packet: so will the next.
/// Few enough to be reached in some images; so many that a network which is not steady moves few packets.
pub const STEADY_MESSAGES: usize = if cfg!(test) { 4 } else { 2 * BATCH_PACKETS };
/// A header is asked for so many messages before it is read: that takes as long as the third cache does.
const HEADERS_AHEAD: usize = 2;
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
    /// Of coalesced messages: what each of this batch is predicted to hold.
    parts: Vec<Part>,
    /// For each packet of a module: how many the last message held that began with it; 0 where none did.
    held: Vec<u8>,
    /// Messages in a row that held as many as `held` said.
    steady_in_a_row: usize,
    /// Places of a batch of several coalesced messages.
    steady_places: usize,
    staging: Vec<u8>,
    iovecs: Vec<libc::iovec>,
    iovecs_used: usize,
    /// The message that is being aimed, its first iovec, and its bytes so far.
    message: usize,
    message_begin: usize,
    message_bytes: usize,
    /// Rule B2: a place behind it in this message would be a guess.
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

/// Places of one coalesced message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    first_place: usize,
    packets: usize,
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
            parts: Vec::with_capacity(BATCH_PACKETS),
            held: vec![0; placement.packets_per_module],
            steady_in_a_row: 0,
            // Not of more images than may be protected at one time: what comes behind would all be moved.
            steady_places: BATCH_PACKETS.min(placement.packets_per_module * (HAZARD_SLOTS - 1)),
            staging: vec![0; BATCH_PACKETS * MESSAGE_STRIDE],
            iovecs: vec![no_iovec; BATCH_PACKETS * if is_staged { 1 } else { iovecs_per_packet + 1 }],
            iovecs_used: 0,
            message: 0,
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

    /// Begins a batch. Returns how many places it has: each is to be aimed, in order. `next`: the number of the packet
    /// that is expected first.
    pub fn begin(&mut self, next: Option<usize>) -> usize {
        self.start();
        if !self.is_coalesced {
            return BATCH_PACKETS;
        }
        let mut places = 0;
        if let Some(mut number) = next.filter(|_| self.steady_in_a_row >= STEADY_MESSAGES) {
            while places + 2 * self.coalesced_places <= self.steady_places && self.held[number] > 0 {
                let packets = usize::from(self.held[number]);
                self.parts.push(Part { first_place: places, packets });
                places += packets;
                number = (number + packets) % self.held.len();
            }
        }
        self.parts.push(Part { first_place: places, packets: self.coalesced_places });
        places + self.coalesced_places
    }

    /// A coalesced message began with packet `number` of a module and held so many, in their order; none if it was
    /// anything else.
    pub fn note_held(&mut self, held: Option<(usize, usize)>) {
        let Some((number, packets)) = held else {
            self.steady_in_a_row = 0;
            return;
        };
        let packets = if packets > self.coalesced_places { 0 } else { packets as u8 };
        let is_steady = mem::replace(&mut self.held[number], packets) == packets;
        self.steady_in_a_row = if is_steady { self.steady_in_a_row.saturating_add(1) } else { 0 };
    }

    /// Messages of the last batch, at most.
    #[cfg(test)]
    pub fn messages_max(&self) -> Option<usize> {
        self.is_coalesced.then_some(self.parts.len())
    }

    /// Whether messages of many packets come.
    pub fn is_coalesced(&self) -> bool {
        self.is_coalesced
    }

    fn start(&mut self) {
        self.is_coalesced = self.singles_in_a_row < SINGLES_IN_A_ROW;
        self.iovecs_used = 0;
        self.message = 0;
        self.is_ended = false;
        self.aimed.clear();
        self.parts.clear();
    }

    /// Lets the payload of the next place go to the place of `packet`, the `number`th of its module, in the image whose
    /// pixels begin at `pixels`.
    pub fn aim_at_image(&mut self, placement: &Placement, packet: usize, number: usize, pixels: *mut u8) {
        let payload_bytes = placement.payload_bytes_of(number);
        let is_short = payload_bytes < placement.payload_bytes;
        self.aim(self.header_bytes, Some(payload_bytes), placement.segments(packet), pixels);
        self.is_ended |= is_short && self.is_coalesced;
    }

    /// Lets the packet of the next place stay in staging.
    pub fn aim_at_staging(&mut self) {
        self.aim(self.packet_bytes, None, &[], ptr::null_mut());
    }

    /// `payload_bytes`: of what goes to an image.
    fn aim(&mut self, staging_bytes: usize, payload_bytes: Option<usize>, segments: &[Segment], pixels: *mut u8) {
        let (message, place) = (self.message, self.aimed.len());
        let part = match self.is_coalesced {
            true => self.parts[message],
            false => Part { first_place: place, packets: 1 },
        };
        if place == part.first_place {
            self.begin_message(message);
        }
        self.aimed.push(payload_bytes.is_some() && !self.is_ended);
        if !self.is_ended {
            self.push_staging(message, staging_bytes);
            let padding = payload_bytes.unwrap_or(0) - self.push_segments(segments, pixels);
            if padding > 0 {
                self.push_staging(message, padding); // or what comes behind it would land too early
            }
        }
        if place + 1 == part.first_place + part.packets {
            self.end_message(message);
        }
    }

    /// The messages that lead to the places, all of which were aimed.
    pub fn messages(&mut self) -> &mut [libc::mmsghdr] {
        let messages = if self.is_coalesced { self.parts.len() } else { BATCH_PACKETS };
        &mut self.messages[..messages]
    }

    /// What message `m` held, after it was received.
    pub fn contents(&mut self, m: usize) -> Contents {
        let bytes = self.messages[m].msg_len as usize;
        let stride = socket::coalesced_packet_bytes(&self.messages[m].msg_hdr).unwrap_or(bytes).max(1);
        if stride >= bytes {
            self.singles_in_a_row = self.singles_in_a_row.saturating_add(1);
            let is_right = bytes == self.packet_bytes || bytes == self.last_packet_bytes;
            return Contents { packets: is_right.into(), malformed: (!is_right).into(), stride, bytes };
        }
        self.singles_in_a_row = 0;
        let whole = if stride == self.packet_bytes || stride == self.last_packet_bytes { bytes / stride } else { 0 };
        // Behind long ones, the kernel appends one that is shorter.
        let rest = bytes - whole * stride;
        let packets = whole + usize::from(whole > 0 && rest == self.last_packet_bytes);
        Contents { packets, malformed: bytes.div_ceil(stride).max(1) - packets, stride, bytes }
    }

    /// Asks for the headers of message `m`, and of one that follows, from whatever cache they are in: much was received
    /// since the kernel wrote them.
    pub fn ask_for_headers(&self, contents: &Contents, m: usize) {
        let (own, ahead) = (m * MESSAGE_STRIDE, (m + HEADERS_AHEAD) * MESSAGE_STRIDE);
        let of_packets = (1..contents.packets).map(|packet| own + packet * contents.stride);
        of_packets.chain([ahead]).for_each(|offset| prefetch(self.staging.as_ptr().wrapping_add(offset)));
    }

    /// Where packet `packet` of message `m` landed.
    pub fn landed(&self, contents: &Contents, m: usize, packet: usize) -> Landed {
        let offset = packet * contents.stride;
        Landed { message: m, packet, offset, bytes: contents.stride.min(contents.bytes - offset) }
    }

    /// The place that this packet took, if there was one for it and it leads to an image.
    pub fn image_place(&self, landed: Landed) -> Option<usize> {
        let place = match landed {
            Landed { message, packet, .. } if self.is_coalesced => {
                let part = self.parts[message];
                if packet >= part.packets {
                    return None;
                }
                part.first_place + packet
            }
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
        let header = &self.messages[m].msg_hdr;
        let begin = (header.msg_iov as usize - self.iovecs.as_ptr() as usize) / size_of::<libc::iovec>();
        let count = header.msg_iovlen;
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
        let part = if self.is_coalesced { self.parts[m] } else { Part { first_place: m, packets: 1 } };
        self.aimed[part.first_place..][..part.packets].fill(false);
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
        self.is_ended = false;
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
        self.message = m + 1;
    }

    /// The next bytes of the message stay in staging, at their own offset (B1).
    fn push_staging(&mut self, m: usize, bytes: usize) {
        let offset = m * MESSAGE_STRIDE + self.message_bytes;
        let base = self.staging[offset..offset + bytes].as_mut_ptr();
        self.push(base, bytes);
    }

    /// The next bytes of the message go to an image. Returns how many.
    fn push_segments(&mut self, segments: &[Segment], pixels: *mut u8) -> usize {
        let mut bytes = 0;
        for (iovec, segment) in self.iovecs[self.iovecs_used..][..segments.len()].iter_mut().zip(segments) {
            let base = pixels.wrapping_add(segment.offset_bytes as usize);
            *iovec = libc::iovec { iov_base: base.cast(), iov_len: segment.len_bytes as usize };
            bytes += segment.len_bytes as usize;
        }
        self.iovecs_used += segments.len();
        self.message_bytes += bytes;
        bytes
    }

    fn push(&mut self, base: *mut u8, bytes: usize) {
        self.iovecs[self.iovecs_used] = libc::iovec { iov_base: base.cast(), iov_len: bytes };
        self.iovecs_used += 1;
        self.message_bytes += bytes;
    }
}

/// Asks for the cache line of an address that is read soon. Nothing is read, so the address may be any.
fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint of the processor's base set; it faults on no address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests;
