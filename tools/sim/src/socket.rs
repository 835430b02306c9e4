//! UDP sockets: towards one port, which takes many equal packets per system call; and on one port, for records.
//!
//! ```text
//! |packet|packet|packet| … up to 15      one buffer, no gaps
//!    UDP_SEGMENT:  one sendmsg, cut into packets by the kernel on its way out
//!    otherwise:    one sendmmsg with a message per packet
//! ```
//!
//! The standard library sends one packet per call, about a third as fast on the loopback: hence the `unsafe` here, and
//! nowhere else in this crate.
//!
//! Some routes refuse segmentation: packets above the MTU, no checksum offload, an old kernel. The
//! first refusal switches the socket to plain messages for good.
//!
//! # Rules (SAFETY comments cite these)
//! S1  Every pointer handed to the kernel points into memory that outlives the call: the buffer that the
//!     caller lends, or a local that is declared before the message that points to it.
//! S2  The kernel reads what a send names and writes only the `msg_len` of each message.
//! S3  What the kernel writes back (an option, a poll's events) goes to a local of the size that it is told.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

/// Longest payload of a UDP datagram over IPv4, and so of what `UDP_SEGMENT` cuts up.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Most packets per call: 15 of an EIGER's fill a datagram; more would make a burst that overruns a
/// receiver's buffer sooner, and hardly save time.
pub(crate) const BATCH_PACKETS_MAX: usize = 15;

pub(crate) struct PortSocket {
    socket: UdpSocket,
    /// Whether the route takes `UDP_SEGMENT`; until it is refused, it is assumed to.
    segments: bool,
}

/// Room for one control message with a u16, aligned as the kernel wants it.
#[repr(C, align(8))]
struct SegmentControl([u8; 24]);

impl PortSocket {
    /// A socket that is connected to `host`:`port` and never blocks.
    pub fn open(host: Ipv4Addr, port: u16) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((host, port))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, segments: true })
    }

    /// Offers packets of `packet_bytes` each, the last one of no more, to the kernel; returns how many it took, at
    /// least 1.
    ///
    /// # Errors
    /// As `send(2)`: `WouldBlock` where there is no room now, `ConnectionRefused` where an earlier
    /// packet found nobody listening. No packet was taken.
    pub fn send(&mut self, packets: &[u8], packet_bytes: usize) -> io::Result<usize> {
        if self.segments && packets.len() > packet_bytes {
            match self.send_segmented(packets, packet_bytes) {
                Err(error) if is_refused_segmentation(&error) => self.segments = false,
                taken => return taken,
            }
        }
        self.send_plain(packets, packet_bytes)
    }

    fn send_segmented(&self, packets: &[u8], packet_bytes: usize) -> io::Result<usize> {
        let segment_bytes = u16::try_from(packet_bytes).expect("a packet fits a datagram");
        let mut control = SegmentControl([0; 24]);
        let mut part = io_vector(packets);
        let mut message = message(&mut part);
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
        let (space_bytes, len_bytes) = unsafe { (libc::CMSG_SPACE(2), libc::CMSG_LEN(2)) };
        assert!(space_bytes as usize <= control.0.len(), "the control message does not fit");
        message.msg_controllen = space_bytes as usize;
        // SAFETY: S1; the control buffer is aligned, zeroed and was just checked to hold one header and
        // its data, so the first header and the u16 behind it lie inside.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_UDP;
            (*header).cmsg_type = libc::UDP_SEGMENT;
            (*header).cmsg_len = len_bytes as usize;
            libc::CMSG_DATA(header).cast::<u16>().write_unaligned(segment_bytes);
        }
        // SAFETY: S1 and S2.
        let sent = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(packets.len().div_ceil(packet_bytes)) }
    }

    fn send_plain(&self, packets: &[u8], packet_bytes: usize) -> io::Result<usize> {
        let count = packets.len().div_ceil(packet_bytes).min(BATCH_PACKETS_MAX);
        let mut parts = [const { io_vector(&[]) }; BATCH_PACKETS_MAX];
        for (part, packet) in parts.iter_mut().zip(packets.chunks(packet_bytes)) {
            *part = io_vector(packet);
        }
        let mut messages = parts.each_mut().map(|part| libc::mmsghdr { msg_hdr: message(part), msg_len: 0 });
        // SAFETY: S1 and S2; `count` messages are set up, one per packet.
        let sent = unsafe {
            libc::sendmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), count as libc::c_uint, libc::MSG_NOSIGNAL)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }
}

/// Asked of the kernel for each port that is recorded: as much as a readout asks for. A host may give less.
const RECEIVE_BUFFER_BYTES: libc::c_int = 64 << 20;

/// A port that packets are received on, one by one.
pub(crate) struct PortReceiver(UdpSocket);

impl PortReceiver {
    pub fn open(address: Ipv4Addr, port: u16) -> io::Result<Self> {
        let socket = UdpSocket::bind((address, port))?;
        socket.set_nonblocking(true)?;
        let bytes = RECEIVE_BUFFER_BYTES;
        let set = |option| {
            let value = (&raw const bytes).cast();
            // SAFETY: S1; the option is an int.
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, size_of_val(&bytes) as u32) }
        };
        if set(libc::SO_RCVBUFFORCE) != 0 {
            set(libc::SO_RCVBUF); // what the host gives is enough, or drops are counted
        }
        Ok(Self(socket))
    }

    /// Length of the next packet, which is then in `packet`; none if there is none now.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn receive(&self, packet: &mut [u8]) -> io::Result<Option<usize>> {
        match self.0.recv(packet) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Packets that the kernel had no room for.
    pub fn dropped(&self) -> u32 {
        const SO_MEMINFO: i32 = 55; // asm-generic/socket.h
        const SK_MEMINFO_DROPS: usize = 8; // linux/sock_diag.h
        let mut memory = [0_u32; SK_MEMINFO_DROPS + 1];
        let mut bytes = size_of_val(&memory) as libc::socklen_t;
        let value = memory.as_mut_ptr().cast();
        // SAFETY: S3.
        unsafe { libc::getsockopt(self.0.as_raw_fd(), libc::SOL_SOCKET, SO_MEMINFO, value, &raw mut bytes) };
        memory[SK_MEMINFO_DROPS]
    }
}

/// Sleeps until one of the ports has a packet, or the time is over.
///
/// # Errors
/// The kernel refuses; an interrupted call is not an error.
pub(crate) fn wait_readable(receivers: &[&PortReceiver], timeout: Duration) -> io::Result<()> {
    let poll = |receiver: &&PortReceiver| libc::pollfd { fd: receiver.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut polls: Vec<libc::pollfd> = receivers.iter().map(poll).collect();
    // SAFETY: S3; the vector has as many entries as are told.
    let ready = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout.as_millis() as i32) };
    let error = io::Error::last_os_error();
    if ready < 0 && error.kind() != io::ErrorKind::Interrupted { Err(error) } else { Ok(()) }
}

/// Errors that a send with `UDP_SEGMENT` gives and one without it may not.
fn is_refused_segmentation(error: &io::Error) -> bool {
    let refusals = [libc::EINVAL, libc::EIO, libc::EOPNOTSUPP, libc::ENOPROTOOPT, libc::EMSGSIZE];
    error.raw_os_error().is_some_and(|code| refusals.contains(&code))
}

/// What the kernel is to read. It does not write there, whatever the type says.
const fn io_vector(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// A message of one part to the connected port.
fn message(part: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: a msghdr of all zeros is one without address, parts and control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Longest that a test waits for a packet that was sent.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn receiver() -> (UdpSocket, u16) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let port = socket.local_addr().unwrap().port();
        (socket, port)
    }

    /// Sends 15 packets of an EIGER's size and reads them back one by one.
    fn assert_packets_arrive_unchanged(sender: &mut PortSocket, receiver: &UdpSocket) {
        let packets: Vec<u8> = (0..15 * 4144_u32).map(|n| (n % 251) as u8).collect();
        let mut sent = 0;
        while sent < 15 {
            sent += sender.send(&packets[sent * 4144..], 4144).unwrap();
        }
        let mut packet = [0; 9000];
        for expected in packets.chunks(4144) {
            let bytes = receiver.recv(&mut packet).unwrap();
            assert!(&packet[..bytes] == expected, "a packet arrived changed");
        }
    }

    #[test]
    fn segmented_batch_arrives_as_single_packets() {
        let (receiver, port) = receiver();
        let mut sender = PortSocket::open(Ipv4Addr::LOCALHOST, port).unwrap();
        assert_packets_arrive_unchanged(&mut sender, &receiver);
        assert!(sender.segments, "segmentation was refused on the loopback");
    }

    #[test]
    fn route_that_refuses_segmentation_gets_the_same_packets_as_plain_messages() {
        // A socket without UDP checksums may not segment: the kernel refuses with EINVAL.
        let (receiver, port) = receiver();
        let mut sender = PortSocket::open(Ipv4Addr::LOCALHOST, port).unwrap();
        disable_checksums(&sender);
        assert_packets_arrive_unchanged(&mut sender, &receiver);
        assert!(!sender.segments, "segmentation was not refused, so this test shows nothing");
    }

    fn disable_checksums(sender: &PortSocket) {
        let on: libc::c_int = 1;
        let on_bytes = size_of_val(&on) as libc::socklen_t;
        // SAFETY: S1; the option is an int and outlives the call.
        let result = unsafe {
            libc::setsockopt(
                sender.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NO_CHECK,
                (&raw const on).cast(),
                on_bytes,
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
}
