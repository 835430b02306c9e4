//! Bare receive loops: one turn of one port each. They look at nothing (rule D3).

use super::memory::Places;
use std::{io, mem, net::UdpSocket, os::fd::AsRawFd, ptr};

/// Packets of a turn: as many as the readout takes at one time.
const BATCH: usize = 64;
/// Longest message of coalesced packets.
const MESSAGE_BYTES_MAX: usize = 65_536;

/// Takes packets out of sockets and puts their payloads into images.
pub trait Loop {
    /// One turn of a port, at most a batch. Returns how many packets there were.
    ///
    /// # Errors
    /// The socket is broken.
    fn turn(&mut self, socket: &UdpSocket, port: usize) -> io::Result<usize>;
}

/// `recvmmsg`, header aside, payload into its rows.
pub struct Singles(Scatter);

/// The same where the kernel hands over many packets in one message. One message at a time: how many packets it has is
/// known only afterwards, and what follows would land in wrong places.
pub struct Coalesced(Scatter);

/// `recvmmsg` into a packet buffer; payloads from there into a frame buffer for each port; whole frames into images.
pub struct Copying {
    places: Places,
    packets: Vec<u8>,
    frames: Vec<Vec<u8>>,
}

/// The header with `MSG_PEEK`, then the packet, header aside, payload into its rows.
pub struct Peeking(Scatter);

/// Scatter lists for the packets that come next.
struct Scatter {
    places: Places,
    headers: Vec<u8>,
    iovecs: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
}

impl Singles {
    pub fn new(places: Places) -> Self {
        Self(Scatter::new(places))
    }
}

impl Loop for Singles {
    fn turn(&mut self, socket: &UdpSocket, port: usize) -> io::Result<usize> {
        self.0.aim(port, BATCH, 1);
        self.0.receive(socket, port, BATCH)
    }
}

impl Coalesced {
    pub fn new(places: Places) -> Self {
        Self(Scatter::new(places))
    }
}

impl Loop for Coalesced {
    fn turn(&mut self, socket: &UdpSocket, port: usize) -> io::Result<usize> {
        let per_message = (MESSAGE_BYTES_MAX / self.0.places.placement.packet_bytes()).max(1);
        let mut taken = 0;
        while taken < BATCH {
            self.0.aim(port, 1, per_message);
            match self.0.receive(socket, port, 1)? {
                0 => break,
                packets => taken += packets,
            }
        }
        Ok(taken)
    }
}

impl Copying {
    pub fn new(places: Places) -> Self {
        let placement = &places.placement;
        let frame = vec![0; placement.packets_per_module * placement.payload_bytes];
        Self { packets: vec![0; BATCH * placement.packet_bytes()], frames: vec![frame; placement.ports.len()], places }
    }

    /// From the packet buffer into the frame, and the frame, if that was its last packet, into its image.
    fn copy(&mut self, port: usize, packet: usize) {
        let placement = &self.places.placement;
        let (header, payload) = (placement.header_bytes, placement.payload_bytes);
        let (image, index) = self.places.packet(port, 0);
        let number = index % placement.packets_per_module;
        let bytes = placement.payload_bytes_of(number);
        let from = &self.packets[packet * placement.packet_bytes() + header..][..bytes];
        let frame = &mut self.frames[port];
        frame[number * payload..][..bytes].copy_from_slice(from);
        if number + 1 == placement.packets_per_module {
            let mut rest = &frame[..];
            for packet in index + 1 - placement.packets_per_module..=index {
                let mut of_packet = rest;
                for segment in placement.segments(packet) {
                    let (run, behind) = of_packet.split_at(segment.len_bytes as usize);
                    of_packet = behind;
                    // SAFETY: a segment lies inside its image, which is memory of its own.
                    unsafe {
                        let to = image.add(segment.offset_bytes as usize);
                        ptr::copy_nonoverlapping(run.as_ptr(), to, run.len());
                    }
                }
                rest = rest.get(payload..).unwrap_or_default();
            }
        }
        self.places.take(port, 1);
    }
}

impl Loop for Copying {
    fn turn(&mut self, socket: &UdpSocket, port: usize) -> io::Result<usize> {
        let packet_bytes = self.places.placement.packet_bytes();
        let mut iovecs: [libc::iovec; BATCH] = std::array::from_fn(|packet| libc::iovec {
            iov_base: self.packets[packet * packet_bytes..].as_mut_ptr().cast(),
            iov_len: packet_bytes,
        });
        let mut messages = [NO_MESSAGE; BATCH];
        for (message, iovec) in messages.iter_mut().zip(&mut iovecs) {
            (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (iovec, 1);
        }
        // SAFETY: each message leads to its own part of the packet buffer.
        let packets = unsafe { receive(socket, &mut messages) }?;
        (0..packets).for_each(|packet| self.copy(port, packet));
        Ok(packets)
    }
}

impl Peeking {
    pub fn new(places: Places) -> Self {
        Self(Scatter::new(places))
    }
}

impl Loop for Peeking {
    fn turn(&mut self, socket: &UdpSocket, port: usize) -> io::Result<usize> {
        for packet in 0..BATCH {
            let header = &mut self.0.headers[..self.0.places.placement.header_bytes];
            let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
            // SAFETY: the header's bytes live over the call.
            let peeked = unsafe { libc::recv(socket.as_raw_fd(), header.as_mut_ptr().cast(), header.len(), flags) };
            if or_nothing(peeked)? == 0 {
                return Ok(packet);
            }
            self.0.aim(port, 1, 1);
            let message = &mut self.0.messages[0].msg_hdr;
            // SAFETY: the message leads to a header's bytes and to places of its own in images.
            let taken = unsafe { libc::recvmsg(socket.as_raw_fd(), message, libc::MSG_DONTWAIT) };
            if or_nothing(taken)? == 0 {
                return Ok(packet);
            }
            self.0.places.take(port, 1);
        }
        Ok(BATCH)
    }
}

/// Without address, data and control part.
// SAFETY: all zeros is such a message.
const NO_MESSAGE: libc::mmsghdr = unsafe { mem::zeroed() };

impl Scatter {
    fn new(places: Places) -> Self {
        let placement = &places.placement;
        let iovecs = BATCH * (1 + placement.segments_per_packet_max());
        Self {
            headers: vec![0; BATCH * placement.header_bytes],
            iovecs: Vec::with_capacity(iovecs),
            messages: vec![NO_MESSAGE; BATCH],
            places,
        }
    }

    /// Aims `messages` of `per_message` packets each at those that come next; together a batch at most.
    fn aim(&mut self, port: usize, messages: usize, per_message: usize) {
        let header_bytes = self.places.placement.header_bytes;
        self.iovecs.clear();
        let mut ends = [0; BATCH];
        for (message, end) in ends[..messages].iter_mut().enumerate() {
            for packet in message * per_message..(message + 1) * per_message {
                let header = self.headers[packet * header_bytes..][..header_bytes].as_mut_ptr();
                self.iovecs.push(libc::iovec { iov_base: header.cast(), iov_len: header_bytes });
                self.iovecs.extend(self.places.segments(port, packet));
            }
            *end = self.iovecs.len();
        }
        let mut begin = 0;
        for (message, &end) in self.messages.iter_mut().zip(&ends[..messages]) {
            message.msg_hdr.msg_iov = self.iovecs[begin..].as_mut_ptr();
            message.msg_hdr.msg_iovlen = end - begin;
            begin = end;
        }
    }

    /// What one call brings, in packets.
    fn receive(&mut self, socket: &UdpSocket, port: usize, messages: usize) -> io::Result<usize> {
        let messages = &mut self.messages[..messages];
        // SAFETY: each message was aimed: at headers' bytes and at places of its own in images.
        let received = unsafe { receive(socket, messages) }?;
        let packet_bytes = self.places.placement.packet_bytes();
        let packets =
            messages[..received].iter().map(|message| (message.msg_len as usize).div_ceil(packet_bytes)).sum();
        self.places.take(port, packets);
        Ok(packets)
    }
}

/// Returns how many messages there were.
///
/// # Safety
/// Every message leads to memory that this thread may write.
unsafe fn receive(socket: &UdpSocket, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let (fd, count) = (socket.as_raw_fd(), messages.len() as u32);
    // SAFETY: the caller's promise; the slice covers the messages.
    let received = unsafe { libc::recvmmsg(fd, messages.as_mut_ptr(), count, libc::MSG_DONTWAIT, ptr::null_mut()) };
    or_nothing(received as isize)
}

/// What a call has brought; nothing where nothing was there.
fn or_nothing(result: isize) -> io::Result<usize> {
    if let Ok(result) = usize::try_from(result) {
        return Ok(result);
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
        _ => Err(error),
    }
}
