//! The baseline of the path: a bare `recvmmsg` loop that drains the detector's ports into one hot buffer
//! and counts packets. It places nothing, checks nothing and hands nothing on. Optionally the kernel
//! coalesces packets for it (`UDP_GRO`), as it does for the readout.

use std::{
    io, mem,
    net::UdpSocket,
    os::fd::AsRawFd,
    ptr,
    time::{Duration, Instant},
};

const BATCH: usize = 64;
/// Longest message of coalesced packets.
const COALESCED_BYTES_MAX: usize = 65_536;
/// How long the generator may take to send its first packet.
const FIRST_PACKET_PATIENCE: Duration = Duration::from_secs(30);

/// Whether the kernel hands packets over one by one or coalesced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    Singles,
    Coalesced,
}

impl Handover {
    /// Messages of one call: as many bytes either way, so that both buffers stay in the cache.
    fn messages(self) -> usize {
        if self == Self::Coalesced { 4 } else { BATCH }
    }

    fn message_bytes(self, packet_bytes: usize) -> usize {
        if self == Self::Coalesced { COALESCED_BYTES_MAX } else { packet_bytes }
    }
}

/// Drains `sockets` for `leg`. Returns packets per second from the first packet on.
pub fn packets_per_s(sockets: &[UdpSocket], handover: Handover, packet_bytes: usize, leg: Duration) -> io::Result<f64> {
    let message_bytes = handover.message_bytes(packet_bytes);
    let mut buffers = vec![0_u8; handover.messages() * message_bytes];
    let mut iovecs: Vec<libc::iovec> = buffers
        .chunks_exact_mut(message_bytes)
        .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: message_bytes })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = iovecs
        .iter_mut()
        .map(|iovec| {
            // SAFETY: a message of zeros has no address, data or control part.
            let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
            (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (iovec, 1);
            message
        })
        .collect();
    let mut polls: Vec<libc::pollfd> = sockets
        .iter()
        .map(|socket| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    let (mut packets, mut start) = (0_u64, None::<Instant>);
    let begun = Instant::now();
    while start.is_none_or(|start| start.elapsed() < leg) {
        if start.is_none() && begun.elapsed() > FIRST_PACKET_PATIENCE {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no packet came from the generator"));
        }

        // SAFETY: the slice covers the entries.
        unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, 100) };
        loop {
            let received: u64 = sockets.iter().map(|socket| receive(socket, &mut messages, packet_bytes)).sum();
            packets += received;
            if received > 0 {
                start.get_or_insert_with(Instant::now);
            } else {
                break;
            }
            if start.is_some_and(|start| start.elapsed() >= leg) {
                break;
            }
        }
    }
    Ok(packets as f64 / start.map_or(f64::INFINITY, |start| start.elapsed().as_secs_f64()))
}

/// Returns the packets that one call brought.
fn receive(socket: &UdpSocket, messages: &mut [libc::mmsghdr], packet_bytes: usize) -> u64 {
    // SAFETY: every message leads to its own part of a buffer that outlives the loop.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            messages.len() as u32,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    };
    let received = usize::try_from(received).unwrap_or(0);
    messages[..received].iter().map(|message| (message.msg_len as usize / packet_bytes) as u64).sum()
}

/// Binds a port of the loopback with as large a buffer as the readout asks for.
///
/// # Errors
/// The port is taken.
pub fn bind(port: u16, handover: Handover, buffer_bytes: i32) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(("127.0.0.1", port))?;
    // Without the privilege for FORCE the first size stands, as in the readout.
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, buffer_bytes);
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, buffer_bytes);
    set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, i32::from(handover == Handover::Coalesced));
    Ok(socket)
}

/// What the kernel has given, of packets with their book-keeping.
///
/// # Errors
/// The kernel does not say.
pub fn buffer_bytes(socket: &UdpSocket) -> io::Result<u64> {
    let (mut given, mut bytes) = (0_i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the value lives over the call and has the size that is told.
    let result = unsafe {
        let value = (&raw mut given).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, value, &raw mut bytes)
    };
    match result {
        0 => Ok(u64::from(given.unsigned_abs() / 2)), // it doubles what it was asked for, for its book-keeping
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_option(socket: &UdpSocket, level: i32, option: i32, value: i32) {
    // SAFETY: the value lives over the call and has the size that is told.
    unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size_of::<i32>() as u32);
    }
}
