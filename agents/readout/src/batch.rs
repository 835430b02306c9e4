//! The memory of one port's batch: where each message lands, and the scatter lists.
//!
//! The kernel hands over a message of one packet, or of many equal ones of one sender that it has
//! coalesced (`UDP_GRO`), back to back. How many is known only afterwards, so a message's scatter list
//! predicts as many as can be and ends in room for the longest message:
//!
//! ```text
//! message │ header │ segments in the ring │ header │ segments in the ring │ …… │ whatever else comes │
//!         └─ staging, at the packet's offset ─┴─── or the payload too, ──┴─ if it has no free place ─┘
//! ```
//!
//! | shape | messages | packets predicted | when |
//! |---|---|---|---|
//! | singles | [`BATCH_PACKETS`] | the first of each | messages hold one packet |
//! | coalesced | 1 | all that it can hold | a message held more than one |
//!
//! Two shapes and nothing between: with several messages of several packets a batch, one message shorter
//! than predicted would put all that follow in wrong places.

use crate::socket::{self, Control};
use ecs_schemas::detector::{Placement, Segment};
use std::{mem, ptr};

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

/// Reused for every batch of a port; nothing is allocated while packets come.
pub struct Batch {
    header_bytes: usize,
    packet_bytes: usize,
    /// Most packets that a coalesced message is predicted to hold.
    coalesced_places: usize,
    /// The shape of this batch.
    is_coalesced: bool,
    /// Messages of one packet, since the last one that held more.
    singles_in_a_row: usize,
    staging: Vec<u8>,
    iovecs: Vec<libc::iovec>,
    iovecs_used: usize,
    /// The iovec at which the message that is being aimed begins.
    message_begin: usize,
    /// For each place: whether it leads to an image.
    aimed: Vec<bool>,
    controls: Vec<Control>,
    messages: Vec<libc::mmsghdr>,
}

/// Where a packet landed: its message, and which packet of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landed {
    pub message: usize,
    pub packet: usize,
}

/// What a message held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// Packets of the right length, from its begin on.
    pub packets: usize,
    /// Packets of any other length.
    pub malformed: usize,
}

// SAFETY: the pointers in iovecs and messages lead into the batch's own vectors, which move with it
// unchanged, or into the ring for the length of one call; they are set anew before each use.
unsafe impl Send for Batch {}

impl Batch {
    pub fn new(placement: &Placement) -> Self {
        let packet_bytes = placement.packet_bytes();
        let iovecs_per_packet = 1 + placement.segments_per_packet();
        let coalesced_places =
            (MESSAGE_BYTES_MAX / packet_bytes).min((IOVECS_MAX - 1) / iovecs_per_packet).clamp(1, BATCH_PACKETS);
        // SAFETY: an mmsghdr of zeros is a message without address, iovecs and control data.
        let message: libc::mmsghdr = unsafe { mem::zeroed() };
        let no_iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Self {
            header_bytes: placement.header_bytes,
            packet_bytes,
            coalesced_places,
            is_coalesced: false,
            singles_in_a_row: SINGLES_IN_A_ROW,
            staging: vec![0; BATCH_PACKETS * MESSAGE_STRIDE],
            iovecs: vec![no_iovec; BATCH_PACKETS * (iovecs_per_packet + 1)],
            iovecs_used: 0,
            message_begin: 0,
            aimed: Vec::with_capacity(BATCH_PACKETS),
            controls: vec![Control::default(); BATCH_PACKETS],
            messages: vec![message; BATCH_PACKETS],
        }
    }

    /// Begins a batch. Returns how many places it has: each is to be aimed, in order.
    pub fn begin(&mut self) -> usize {
        self.is_coalesced = self.singles_in_a_row < SINGLES_IN_A_ROW;
        self.iovecs_used = 0;
        self.aimed.clear();
        if self.is_coalesced { self.coalesced_places } else { BATCH_PACKETS }
    }

    /// Lets the payload of the next place go to the place of `packet` in the image whose pixels begin at
    /// `pixels`.
    pub fn aim_at_image(&mut self, placement: &Placement, packet: usize, pixels: *mut u8) {
        self.aim(self.header_bytes, true, placement.segments(packet), pixels);
    }

    /// Lets the packet of the next place stay in staging.
    pub fn aim_at_staging(&mut self) {
        self.aim(self.packet_bytes, false, &[], ptr::null_mut());
    }

    fn aim(&mut self, staging_bytes: usize, at_image: bool, segments: &[Segment], pixels: *mut u8) {
        let landed = self.landed_in(self.aimed.len());
        self.aimed.push(at_image);
        if landed.packet == 0 {
            self.begin_message(landed.message);
        }
        self.push_staging(self.offset(landed), staging_bytes);
        for segment in segments {
            self.push(pixels.wrapping_add(segment.offset_bytes as usize), segment.len_bytes as usize);
        }
        if !self.is_coalesced || self.aimed.len() == self.coalesced_places {
            self.end_message(landed);
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
        let packet_bytes = socket::coalesced_packet_bytes(&self.messages[m].msg_hdr).unwrap_or(bytes).max(1);
        let is_single = packet_bytes >= bytes;
        self.singles_in_a_row = if is_single { self.singles_in_a_row.saturating_add(1) } else { 0 };
        let packets = if packet_bytes == self.packet_bytes { bytes / packet_bytes } else { 0 };
        Contents { packets, malformed: bytes.div_ceil(packet_bytes).max(1) - packets }
    }

    /// The place that this packet took, if there was one for it and it leads to an image.
    pub fn image_place(&self, landed: Landed) -> Option<usize> {
        let place = match landed {
            Landed { packet, .. } if self.is_coalesced => packet,
            Landed { message, packet: 0 } => message,
            _ => return None,
        };
        self.aimed.get(place).is_some_and(|&at_image| at_image).then_some(place)
    }

    pub fn header(&self, landed: Landed) -> &[u8] {
        &self.staging[self.offset(landed)..][..self.header_bytes]
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

    /// Copies a payload from staging to the place of `packet`.
    ///
    /// # Safety
    /// `pixels` leads to an image of this placement that this thread may access.
    pub unsafe fn place_from_staging(&self, landed: Landed, placement: &Placement, packet: usize, pixels: *mut u8) {
        let mut from = self.offset(landed) + self.header_bytes;
        for segment in placement.segments(packet) {
            let source = &self.staging[from..from + segment.len_bytes as usize];
            // SAFETY: the caller's promise; a placement's segments lie inside the image.
            unsafe {
                let target = pixels.add(segment.offset_bytes as usize);
                ptr::copy_nonoverlapping(source.as_ptr(), target, source.len());
            }
            from += source.len();
        }
    }

    /// Where the packet that takes this place lands.
    fn landed_in(&self, place: usize) -> Landed {
        if self.is_coalesced { Landed { message: 0, packet: place } } else { Landed { message: place, packet: 0 } }
    }

    /// Of a packet, in staging.
    fn offset(&self, landed: Landed) -> usize {
        landed.message * MESSAGE_STRIDE + landed.packet * self.packet_bytes
    }

    fn begin_message(&mut self, m: usize) {
        self.message_begin = self.iovecs_used;
        let header = &mut self.messages[m].msg_hdr;
        header.msg_iov = self.iovecs[self.iovecs_used..].as_mut_ptr();
        header.msg_control = (&raw mut self.controls[m]).cast();
        header.msg_controllen = size_of::<Control>();
    }

    /// Behind the last place of a message: room for whatever else comes.
    fn end_message(&mut self, last: Landed) {
        let offset = self.offset(last) + self.packet_bytes;
        let end = last.message * MESSAGE_STRIDE + MESSAGE_BYTES_MAX;
        self.push_staging(offset, end - offset);
        self.messages[last.message].msg_hdr.msg_iovlen = self.iovecs_used - self.message_begin;
    }

    fn push_staging(&mut self, offset: usize, bytes: usize) {
        let base = self.staging[offset..offset + bytes].as_mut_ptr();
        self.push(base, bytes);
    }

    fn push(&mut self, base: *mut u8, bytes: usize) {
        self.iovecs[self.iovecs_used] = libc::iovec { iov_base: base.cast(), iov_len: bytes };
        self.iovecs_used += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::PortSocket;
    use ecs_schemas::detector::DetectorConfig;
    use std::{
        net::{Ipv4Addr, UdpSocket},
        os::fd::AsRawFd,
    };

    /// One EIGER quadrant at 8 bit: 32 packets of 4144 bytes, with gaps between the chips.
    fn placement() -> Placement {
        let json = r#"{"detector_name": "q", "detector_type": "eiger", "n_modules": 1, "bit_depth": 8,
            "image_pixel_height": 256, "image_pixel_width": 514, "start_udp_port": 1,
            "module_positions": {"0": [0, 0, 513, 255]}}"#;
        DetectorConfig::from_json(json).and_then(|config| config.placement()).unwrap()
    }

    /// A sender and a receiver; messages of the sender are cut into packets of `packet_bytes`, which
    /// arrive coalesced.
    fn sockets(packet_bytes: i32) -> (UdpSocket, PortSocket) {
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let bind = |port| Some((port, PortSocket::bind(Ipv4Addr::LOCALHOST, port, 1 << 20).ok()?));
        let (port, receiver) = (40_000..).find_map(bind).unwrap();
        sender.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let value = (&raw const packet_bytes).cast();
        // SAFETY: the option is an int and outlives the call.
        let result = unsafe { libc::setsockopt(sender.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, value, 4) };
        assert_eq!(result, 0);
        (sender, receiver)
    }

    /// Packets whose bytes tell which one it is, and where in it.
    fn packets(packet_bytes: usize, count: usize) -> Vec<u8> {
        let packet = |number: usize| (0..packet_bytes).map(move |byte| (number * 31 + byte) as u8);
        (0..count).flat_map(packet).collect()
    }

    /// Aims each place at that of the packet of the same number, and receives.
    fn receive(batch: &mut Batch, socket: &PortSocket, placement: &Placement, pixels: &mut [u8]) -> usize {
        for place in 0..batch.begin() {
            match place < placement.packets_per_module {
                true => batch.aim_at_image(placement, place, pixels.as_mut_ptr()),
                false => batch.aim_at_staging(),
            }
        }
        // SAFETY: the places lead into `pixels` and the batch.
        unsafe { socket::receive(socket.fd(), batch.messages()) }.unwrap()
    }

    #[test]
    fn coalesced_packets_land_in_staging_once_and_in_their_places_from_then_on() {
        let placement = placement();
        let (sender, receiver) = sockets(placement.packet_bytes() as i32);
        let (mut batch, mut pixels) = (Batch::new(&placement), vec![0; placement.image_bytes()]);
        let sent = packets(placement.packet_bytes(), 15);
        let mut images = Vec::new();
        for round in 0..3 {
            pixels.fill(0);
            sender.send(&sent).unwrap();
            assert_eq!(receive(&mut batch, &receiver, &placement, &mut pixels), 1);
            assert_eq!(batch.contents(0), Contents { packets: 15, malformed: 0 });
            for packet in 0..15 {
                let landed = Landed { message: 0, packet };
                let (header, payload) = sent[packet * batch.packet_bytes..][..batch.packet_bytes].split_at(48);
                assert_eq!(batch.header(landed), header, "packet {packet} of round {round}");
                let place = batch.image_place(landed);
                assert_eq!(place, (round > 0 || packet == 0).then_some(packet));
                match place {
                    // SAFETY: the place leads into `pixels`.
                    Some(_) => unsafe { batch.fetch_to_staging(landed, &placement, packet, pixels.as_mut_ptr()) },
                    // SAFETY: as above.
                    None => unsafe { batch.place_from_staging(landed, &placement, packet, pixels.as_mut_ptr()) },
                }
                assert!(batch.staging[batch.offset(landed) + 48..].starts_with(payload), "packet {packet}");
            }
            images.push(pixels.clone());
        }
        assert!(images[0] == images[1] && images[1] == images[2], "placed by the kernel as from staging");
    }

    #[test]
    fn a_port_whose_packets_come_one_by_one_again_receives_many_a_batch_again() {
        let placement = placement();
        let (sender, receiver) = sockets(placement.packet_bytes() as i32);
        let (mut batch, mut pixels) = (Batch::new(&placement), vec![0; placement.image_bytes()]);
        let sent = packets(placement.packet_bytes(), 2);
        sender.send(&sent).unwrap();
        receive(&mut batch, &receiver, &placement, &mut pixels);
        assert_eq!(batch.contents(0).packets, 2);
        for _ in 0..SINGLES_IN_A_ROW {
            assert_eq!(batch.begin(), 15);
            sender.send(&sent[..placement.packet_bytes()]).unwrap();
            assert_eq!(receive(&mut batch, &receiver, &placement, &mut pixels), 1);
            assert_eq!(batch.contents(0), Contents { packets: 1, malformed: 0 });
        }
        assert_eq!(batch.begin(), BATCH_PACKETS);
    }

    #[test]
    fn packets_of_another_length_are_malformed_each_of_them() {
        let placement = placement();
        let right = placement.packet_bytes();
        for (packet_bytes, bytes, expected) in [
            (right, 3 * right + 100, Contents { packets: 3, malformed: 1 }),
            (right, right - 1, Contents { packets: 0, malformed: 1 }),
            (1000, 4 * right, Contents { packets: 0, malformed: 17 }),
            (1000, 0, Contents { packets: 0, malformed: 1 }),
            (0, 2 * right, Contents { packets: 0, malformed: 1 }), // one message, not cut
            (0, 65_507, Contents { packets: 0, malformed: 1 }),
        ] {
            let (sender, receiver) = sockets(packet_bytes as i32);
            let (mut batch, mut pixels) = (Batch::new(&placement), vec![0; placement.image_bytes()]);
            sender.send(&vec![7; bytes]).unwrap();
            assert_eq!(receive(&mut batch, &receiver, &placement, &mut pixels), 1);
            assert_eq!(batch.contents(0), expected, "{bytes} bytes in packets of {packet_bytes}");
        }
    }

    #[test]
    fn discarded_packets_are_counted_one_by_one() {
        let placement = placement();
        let (sender, receiver) = sockets(placement.packet_bytes() as i32);
        sender.send(&packets(placement.packet_bytes(), 15)).unwrap();
        sender.send(&packets(placement.packet_bytes(), 1)).unwrap();
        assert_eq!(socket::discard(receiver.fd(), 1 << 17).unwrap(), 16);
    }
}
