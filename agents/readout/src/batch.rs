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
mod tests {
    use super::*;
    use crate::{place, socket::PortSocket};
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
        let bind = |port| Some((port, PortSocket::bind(Ipv4Addr::LOCALHOST, port, 1 << 20, true).ok()?));
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

    /// Packets and malformed ones of the first message.
    fn held(batch: &mut Batch) -> (usize, usize) {
        let contents = batch.contents(0);
        (contents.packets, contents.malformed)
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
            let contents = batch.contents(0);
            assert_eq!((contents.packets, contents.malformed), (15, 0));
            for packet in 0..15 {
                let landed = batch.landed(&contents, 0, packet);
                let (header, payload) = sent[packet * batch.packet_bytes..][..batch.packet_bytes].split_at(48);
                assert_eq!(&batch.header(landed)[..48], header, "packet {packet} of round {round}");
                let place = batch.image_place(landed);
                assert_eq!(place, (round > 0 || packet == 0).then_some(packet));
                match place {
                    // SAFETY: the place leads into `pixels`.
                    Some(_) => unsafe { batch.fetch_to_staging(landed, &placement, packet, pixels.as_mut_ptr()) },
                    // SAFETY: as above.
                    None => unsafe { place::place(&placement, packet, batch.payload(landed), pixels.as_mut_ptr()) },
                }
                assert!(batch.payload(landed) == payload, "packet {packet}");
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
            assert_eq!(held(&mut batch), (1, 0));
        }
        assert_eq!(batch.begin(), BATCH_PACKETS);
    }

    #[test]
    fn packets_of_another_length_are_malformed_each_of_them() {
        let placement = placement();
        let right = placement.packet_bytes();
        for (packet_bytes, bytes, expected) in [
            (right, 3 * right + 100, (3, 1)),
            (right, right - 1, (0, 1)),
            (1000, 4 * right, (0, 17)),
            (1000, 0, (0, 1)),
            (0, 2 * right, (0, 1)), // one message, not cut
            (0, 65_507, (0, 1)),
        ] {
            let (sender, receiver) = sockets(packet_bytes as i32);
            let (mut batch, mut pixels) = (Batch::new(&placement), vec![0; placement.image_bytes()]);
            sender.send(&vec![7; bytes]).unwrap();
            assert_eq!(receive(&mut batch, &receiver, &placement, &mut pixels), 1);
            assert_eq!(held(&mut batch), expected, "{bytes} bytes in packets of {packet_bytes}");
        }
    }

    #[test]
    fn source_of_each_message_is_told_where_it_is_asked_for() {
        let placement = placement();
        let (sender, receiver) = sockets(placement.packet_bytes() as i32);
        let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = local_port(&receiver);
        let (mut batch, mut pixels) = (Batch::new(&placement), vec![0; placement.image_bytes()]);
        for is_asked in [false, true] {
            for socket in [&sender, &other, &sender] {
                let bytes = packets(placement.packet_bytes(), 1);
                socket.send_to(&bytes, (Ipv4Addr::LOCALHOST, port)).unwrap();
            }
            assert_eq!(receive(&mut batch, &receiver, &placement, &mut pixels), 3);
            let told: Vec<_> = (0..3).map(|message| batch.source(message).map(|source| source.port())).collect();
            let ports = [&sender, &other, &sender].map(|socket| Some(socket.local_addr().unwrap().port()));
            assert_eq!(told, if is_asked { ports } else { [None; 3] });
            batch.ask_for_sources();
        }
    }

    fn local_port(socket: &PortSocket) -> u16 {
        // SAFETY: the address lives over the call and has the size that is told.
        unsafe {
            let mut address: libc::sockaddr_in = mem::zeroed();
            let mut bytes = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            assert_eq!(libc::getsockname(socket.fd(), (&raw mut address).cast(), &raw mut bytes), 0);
            u16::from_be(address.sin_port)
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

    /// 14 pixels of 8 bit in packets of 4: three whole ones and a short one of 2; header of 8 bytes.
    fn short_last() -> Placement {
        let text = "detector_type = \"short\"\nstart_udp_port = 1\n[module]\ncolumns = 14\nrows = 1\nbit_depth = 8\n\
            [packet]\nheader_bytes = 8\npayload_bytes = 4\n[fields]\nimage_id = { offset = 0, bytes = 4 }\n\
            packet_number = { offset = 4, bytes = 4 }";
        DetectorConfig::from_toml(text).and_then(|config| config.placement()).unwrap()
    }

    /// A packet of `short_last`: its payload tells its number.
    fn numbered(number: usize) -> Vec<u8> {
        let payload = vec![0x10 * (number as u8 + 1); if number == 3 { 2 } else { 4 }];
        [vec![0xee; 8], payload].concat()
    }

    /// Makes the batch coalesced, receives one message of packets with these numbers, cut into packets of
    /// `packet_bytes`, where 0, 1, 2, 3, 0, … were predicted, and puts each to its place in an image of its own.
    fn places_of(numbers: &[usize], packet_bytes: i32) -> Vec<Vec<u8>> {
        let placement = short_last();
        let (sender, receiver) = sockets(packet_bytes);
        let (mut batch, mut predicted) = (Batch::new(&placement), vec![0; placement.image_bytes()]);
        batch.singles_in_a_row = 0;
        for place in 0..batch.begin() {
            batch.aim_at_image(&placement, place % 4, predicted.as_mut_ptr());
        }
        sender.send(&numbers.iter().flat_map(|&number| numbered(number)).collect::<Vec<u8>>()).unwrap();
        // SAFETY: the places lead into `predicted` and the batch.
        let messages = unsafe { socket::receive(receiver.fd(), batch.messages()) }.unwrap();
        let contents = batch.contents(0);
        assert_eq!((messages, contents.packets, contents.malformed), (1, numbers.len(), 0));
        if batch.is_out_of_step(&contents) {
            // SAFETY: as above.
            unsafe { batch.fetch_message(0) };
        }
        let mut images = Vec::new();
        for (packet, &number) in numbers.iter().enumerate() {
            let landed = batch.landed(&contents, 0, packet);
            assert_eq!(batch.header(landed)[..8], [0xee; 8], "packet {packet} of {numbers:?}");
            assert_eq!(batch.payload_bytes(landed), numbered(number).len() - 8);
            let place = batch.image_place(landed).map(|place| place % 4);
            if let Some(expected) = place.filter(|&expected| expected != number) {
                // SAFETY: as above.
                unsafe { batch.fetch_to_staging(landed, &placement, expected, predicted.as_mut_ptr()) };
            }
            let mut image = vec![0; placement.image_bytes()];
            if place == Some(number) {
                image = predicted.clone();
            } else {
                // SAFETY: the image is of this placement.
                unsafe { place::place(&placement, number, batch.payload(landed), image.as_mut_ptr()) };
            }
            images.push(image[4 * number..(4 * number + 4).min(14)].to_vec());
        }
        images
    }

    #[test]
    fn short_last_packets_land_right_whether_predicted_or_not() {
        // As predicted; a long one where the short one was expected, and more behind it; a short one instead of a
        // long one; short ones alone.
        for (numbers, packet_bytes) in [
            (&[0, 1, 2, 3][..], 12),
            (&[0, 1, 2, 0, 1, 2, 0, 3], 12),
            (&[0, 3], 12),
            (&[3, 3, 3], 10),
            (&[1, 1, 1], 12),
        ] {
            let expected: Vec<Vec<u8>> = numbers.iter().map(|&number| numbered(number)[8..].to_vec()).collect();
            assert_eq!(places_of(numbers, packet_bytes), expected, "{numbers:?}");
        }
    }

    #[test]
    fn staged_batches_hold_whole_messages_of_any_packets() {
        let text = "detector_type = \"gigafrost\"\nstart_udp_port = 1\nimage_pixel_height = 252\n\
            image_pixel_width = 504";
        let placement = DetectorConfig::from_toml(text).and_then(|config| config.placement()).unwrap();
        let (sender, receiver) = sockets(6494);
        let mut batch = Batch::new(&placement);
        assert!(batch.is_staged());
        let lengths = [6494, 6494, 6494, 4568];
        let image: Vec<u8> = lengths.iter().zip(1..).flat_map(|(&bytes, number)| vec![number; bytes]).collect();
        for round in 0..3 {
            for _ in 0..2 {
                sender.send(&image).unwrap();
            }
            let messages = batch.stage();
            assert_eq!(messages.len(), if round == 0 { 40 } else { 4 });
            // SAFETY: all of it is staging.
            assert_eq!(unsafe { socket::receive(receiver.fd(), batch.stage()) }.unwrap(), 2);
            for message in 0..2 {
                let contents = batch.contents(message);
                assert_eq!((contents.packets, contents.malformed), (4, 0));
                for (packet, bytes) in lengths.into_iter().enumerate() {
                    let landed = batch.landed(&contents, message, packet);
                    assert_eq!(batch.payload(landed), vec![packet as u8 + 1; bytes - 32], "message {message}");
                }
            }
        }
    }

    /// As `short_last`, but a module's last packet is as long as the others: its last two bytes are no pixels.
    fn padded_last() -> Placement {
        let text = "detector_type = \"padded\"\nstart_udp_port = 1\n[module]\ncolumns = 14\nrows = 1\nbit_depth = 8\n\
            [packet]\nheader_bytes = 8\npayload_bytes = 4\nlast = \"full\"\n[fields]\nimage_id = { offset = 0, bytes = 4 }\n\
            packet_number = { offset = 4, bytes = 4 }";
        DetectorConfig::from_toml(text).and_then(|config| config.placement()).unwrap()
    }

    #[test]
    fn what_comes_behind_a_padded_packet_of_a_message_lands_in_its_place() {
        let placement = padded_last();
        let (sender, receiver) = sockets(12);
        let mut batch = Batch::new(&placement);
        batch.singles_in_a_row = 0;
        let mut images = vec![vec![0_u8; placement.image_bytes()]; BATCH_PACKETS];
        for place in 0..batch.begin() {
            batch.aim_at_image(&placement, place % 4, images[place / 4].as_mut_ptr());
        }
        let header = |packet: usize| [0xe0 + packet as u8; 8];
        let payload = |packet: usize| [0x10 * (packet as u8 + 1); 4];
        sender
            .send(&(0..12).flat_map(|packet| [&header(packet)[..], &payload(packet)].concat()).collect::<Vec<u8>>())
            .unwrap();
        // SAFETY: the places lead into `images` and the batch.
        assert_eq!(unsafe { socket::receive(receiver.fd(), batch.messages()) }.unwrap(), 1);
        let contents = batch.contents(0);
        assert_eq!((contents.packets, contents.malformed), (12, 0));
        for packet in 0..12 {
            let landed = batch.landed(&contents, 0, packet);
            assert_eq!(batch.header(landed)[..8], header(packet), "header of packet {packet}");
            assert_eq!(batch.image_place(landed), Some(packet));
            let (image, begin) = (packet / 4, packet % 4 * 4);
            let pixels = &images[image][begin..(begin + 4).min(14)];
            assert_eq!(pixels, &payload(packet)[..pixels.len()], "packet {packet}");
            // SAFETY: the image is of this placement.
            unsafe { batch.fetch_to_staging(landed, &placement, packet % 4, images[image].as_mut_ptr()) };
            assert_eq!(batch.payload(landed), payload(packet), "packet {packet}");
        }
    }
}
