//! A UDP socket of one detector port.

use crate::overload::Level;
use std::{
    io, mem,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::{AsRawFd, RawFd},
    ptr,
};

/// Packets that one system call discards.
const DISCARD_BATCH: usize = 256;

/// The socket, and the buffer that the kernel gave it.
pub struct PortSocket {
    socket: UdpSocket,
    pub receive_buffer: ReceiveBuffer,
    /// The kernel's drop counter when it was last asked.
    dropped: u32,
    is_shut: bool,
}

/// What was asked of the kernel and what it gave, in bytes of packets with their book-keeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveBuffer {
    pub asked_bytes: u64,
    pub given_bytes: u64,
}

/// Why a port cannot be received on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("cannot receive on UDP {address}: {source}; is another readout or receiver running on this port?")]
    Bind { address: SocketAddrV4, source: io::Error },
    #[error("cannot set {option} on UDP {address}: {source}")]
    Option { address: SocketAddrV4, option: &'static str, source: io::Error },
}

impl PortSocket {
    /// Binds the port and asks for a receive buffer, beyond the host's limit where the process may; and, where
    /// `coalesce`, for messages of many packets.
    ///
    /// # Errors
    /// The port is taken, the address is not this host's, or the kernel refuses.
    pub fn bind(address: Ipv4Addr, port: u16, receive_buffer_bytes: u64, coalesce: bool) -> Result<Self, SocketError> {
        let address = SocketAddrV4::new(address, port);
        let socket = UdpSocket::bind(address).map_err(|source| SocketError::Bind { address, source })?;
        let failed = |option| move |source| SocketError::Option { address, option, source };
        socket.set_nonblocking(true).map_err(failed("O_NONBLOCK"))?;
        let asked = i32::try_from(receive_buffer_bytes).unwrap_or(i32::MAX);
        let fd = socket.as_raw_fd();
        // The kernel doubles the number for its book-keeping. FORCE needs CAP_NET_ADMIN; without it the
        // host's net.core.rmem_max is the limit, which status shows.
        set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, asked)
            .or_else(|_| set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, asked))
            .map_err(failed("SO_RCVBUF"))?;
        // Packets that came together are handed over together: less than half the cost of each. A kernel
        // that cannot hands them over one by one.
        if coalesce {
            let _ = set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
        }
        let given: i32 = get_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, 0).map_err(failed("SO_RCVBUF"))?;
        let receive_buffer =
            ReceiveBuffer { asked_bytes: receive_buffer_bytes, given_bytes: u64::try_from(given / 2).unwrap_or(0) };
        Ok(Self { socket, receive_buffer, dropped: 0, is_shut: false })
    }

    /// How full the buffer is, and what the kernel threw away since the last call, for want of room or at a shut gate. That
    /// is the counter that `SO_RXQ_OVFL` attaches to packets; asked this way (`SO_MEMINFO`) it is right also when no
    /// packet follows the loss, and costs nothing per packet. It counts messages: packets that came coalesced count as
    /// one, so it is the least that was lost, and exact without coalescing. The bitmaps of the images tell which.
    pub fn look(&mut self) -> Level {
        const SO_MEMINFO: i32 = 55; // asm-generic/socket.h; not in libc for every target
        // linux/sock_diag.h
        const SK_MEMINFO_RMEM_ALLOC: usize = 0;
        const SK_MEMINFO_RCVBUF: usize = 1;
        const SK_MEMINFO_DROPS: usize = 8;
        let memory = get_option(self.fd(), libc::SOL_SOCKET, SO_MEMINFO, [0_u32; SK_MEMINFO_DROPS + 1]);
        let Ok(memory) = memory else { return Level::default() };
        let dropped = memory[SK_MEMINFO_DROPS];
        Level {
            dropped: u64::from(dropped.wrapping_sub(mem::replace(&mut self.dropped, dropped))),
            filled: memory[SK_MEMINFO_RMEM_ALLOC] as f32 / memory[SK_MEMINFO_RCVBUF].max(1) as f32,
        }
    }

    /// From now on the kernel drops all that comes, and counts it; what is in the buffer stays.
    ///
    /// # Errors
    /// The kernel refuses a filter; all goes on as before.
    pub fn shut(&mut self) -> io::Result<()> {
        let mut nothing = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
        let program = libc::sock_fprog { len: 1, filter: &raw mut nothing };
        set_option(self.fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)?;
        self.is_shut = true;
        Ok(())
    }

    /// What comes is received again.
    pub fn open(&mut self) {
        if mem::take(&mut self.is_shut) {
            // It fails only where there is no filter.
            let _ = set_option(self.fd(), libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0);
        }
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl ReceiveBuffer {
    pub fn is_short(&self) -> bool {
        self.given_bytes < self.asked_bytes
    }
}

/// Room for the one control message that comes with a message, aligned as the kernel wants it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
pub struct Control([u8; 24]);

/// Receives what is there, at most one message for each of `messages`, without waiting. `Ok(0)`: nothing.
///
/// # Safety
/// Every iovec and control buffer of every message leads to memory that this thread may write until the
/// call returns.
///
/// # Errors
/// The socket is broken; an empty one and an interrupted call are not errors.
pub unsafe fn receive(fd: RawFd, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
    // SAFETY: the caller's promise.
    unsafe { receive_with(fd, messages, 0) }
}

/// # Safety
/// As [`receive`].
unsafe fn receive_with(fd: RawFd, messages: &mut [libc::mmsghdr], flags: i32) -> io::Result<usize> {
    // SAFETY: the caller's promise covers what the messages lead to; the slice covers the messages.
    let received = unsafe {
        libc::recvmmsg(fd, messages.as_mut_ptr(), messages.len() as u32, libc::MSG_DONTWAIT | flags, ptr::null_mut())
    };
    if let Ok(received) = usize::try_from(received) {
        return Ok(received);
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
        _ => Err(error),
    }
}

/// Length of each packet but the last of a received message, if the kernel has coalesced several.
pub fn coalesced_packet_bytes(message: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel has set the length of the control data, which the message's buffer holds; an int
    // behind a header of this type lies inside.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message).as_ref()?;
        if (header.cmsg_level, header.cmsg_type) != (libc::SOL_UDP, libc::UDP_GRO) {
            return None;
        }
        usize::try_from(libc::CMSG_DATA(header).cast::<i32>().read_unaligned()).ok()
    }
}

/// Takes packets out of a socket without looking at them, until it is empty or `packets_max` are gone. It
/// costs a fraction of receiving them, since nothing is copied.
///
/// # Errors
/// The socket is broken.
pub fn discard(fd: RawFd, packets_max: u64) -> io::Result<u64> {
    let mut controls = [Control::default(); DISCARD_BATCH];
    // SAFETY: messages of zeros have no memory at all.
    let mut messages: [libc::mmsghdr; DISCARD_BATCH] = unsafe { mem::zeroed() };
    let mut discarded = 0;
    while discarded < packets_max {
        for (message, control) in messages.iter_mut().zip(&mut controls) {
            message.msg_hdr.msg_control = (&raw mut *control).cast();
            message.msg_hdr.msg_controllen = size_of::<Control>();
        }
        // SAFETY: no iovecs, and a control buffer each. MSG_TRUNC: their real lengths are told.
        let taken = unsafe { receive_with(fd, &mut messages, libc::MSG_TRUNC) }?;
        let packets = |message: &libc::mmsghdr| {
            coalesced_packet_bytes(&message.msg_hdr)
                .map_or(1, |bytes| (message.msg_len as usize).div_ceil(bytes.max(1))) as u64
        };
        discarded += messages[..taken].iter().map(packets).sum::<u64>();
        if taken < DISCARD_BATCH {
            break;
        }
    }
    Ok(discarded)
}

/// Sleeps until one of the sockets has a packet or the time is over. Returns which have one.
///
/// # Errors
/// The kernel refuses; an interrupted call is not an error.
pub fn wait_readable(polls: &mut [libc::pollfd], timeout_ms: i32) -> io::Result<bool> {
    // SAFETY: the slice covers the entries.
    let ready = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout_ms) };
    if ready >= 0 {
        return Ok(ready > 0);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(error) }
}

fn set_option<T>(fd: RawFd, level: i32, option: i32, value: T) -> io::Result<()> {
    // SAFETY: the value, and what it leads to, lives over the call and has the size that is told.
    let result = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), size_of::<T>() as u32) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get_option<T: Copy>(fd: RawFd, level: i32, option: i32, mut value: T) -> io::Result<T> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value lives over the call and has the size that is told; the kernel writes at most
    // that much, and T is a plain number or array of numbers here.
    let result = unsafe { libc::getsockopt(fd, level, option, (&raw mut value).cast(), &raw mut len) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `messages` of `packets` packets each to a socket that nobody reads, and returns how many packets the kernel
    /// says that it dropped, and how many it really did.
    fn overflow(coalesce: bool, messages: u64, packets: u64) -> (u64, u64) {
        const PACKET_BYTES: i32 = 1000;
        let bind = |port| Some((port, PortSocket::bind(Ipv4Addr::LOCALHOST, port, 64 << 10, coalesce).ok()?));
        let (port, mut receiver) = (41_000..).find_map(bind).unwrap();
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        set_option(sender.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, PACKET_BYTES).unwrap();
        for _ in 0..messages {
            sender.send_to(&vec![7; PACKET_BYTES as usize * packets as usize], ("127.0.0.1", port)).unwrap();
        }
        let counted = receiver.look().dropped;
        assert_eq!(receiver.look().dropped, 0, "counted once");
        (counted, messages * packets - discard(receiver.fd(), u64::MAX).unwrap())
    }

    #[test]
    fn what_the_kernel_drops_is_exact_without_coalescing_and_a_lower_bound_with_it() {
        let (counted, dropped) = overflow(false, 100, 10);
        assert!(dropped > 100, "nothing overflowed: {dropped}");
        assert_eq!(counted, dropped);
        let (counted, dropped) = overflow(true, 100, 10);
        assert!(counted > 0 && counted * 10 == dropped, "{counted} messages counted of {dropped} packets");
        assert_eq!(overflow(true, 5, 1), (0, 0));
    }

    #[test]
    fn a_shut_gate_lets_nothing_in_counts_it_and_keeps_what_is_there() {
        let bind = |port| Some((port, PortSocket::bind(Ipv4Addr::LOCALHOST, port, 1 << 20, false).ok()?));
        let (port, mut receiver) = (42_000..).find_map(bind).unwrap();
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let send =
            |packets: u64| (0..packets).for_each(|_| _ = sender.send_to(&[7; 1000], ("127.0.0.1", port)).unwrap());
        send(3);
        let filled = receiver.look().filled;
        assert!(filled > 0.0 && filled < 0.1, "{filled}");
        receiver.shut().unwrap();
        send(5);
        let level = receiver.look();
        assert_eq!((level.dropped, level.filled), (5, filled));
        assert_eq!(discard(receiver.fd(), 100).unwrap(), 3);
        receiver.open();
        receiver.open();
        send(2);
        assert_eq!(receiver.look().dropped, 0);
        assert_eq!(discard(receiver.fd(), 100).unwrap(), 2);
        assert_eq!(receiver.look().filled, 0.0, "all room is given back with the last packet");
    }
}
