//! Packets that fill sockets: the same generator for both sides, as many images as the sockets hold.

use crate::cores::on_core;
use anyhow::{Context, ensure};
use ecs_schemas::detector::Detector;
use ecs_sim::detector::{self, DetectorSim};
use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
};

/// Images of the trial that tells how much of a socket's buffer one takes.
const TRIAL_IMAGES: u64 = 8;
/// Of the buffers, so much is filled: packets are not all of one size in the kernel's books.
const SHARE: f64 = 0.9;

/// Sends the next images of a detector.
pub struct Fill {
    sim: DetectorSim,
}

impl Fill {
    pub fn new(detector: Detector) -> Self {
        Self { sim: DetectorSim::new(detector, Ipv4Addr::LOCALHOST, 0) }
    }

    /// Sends so many images, as fast as it goes, on core 1. Returns their packets, and the bytes of those.
    ///
    /// # Errors
    /// The network takes nothing, or there is no such core.
    pub fn send(&mut self, images: u64) -> anyhow::Result<(u64, u64)> {
        self.sim.images = images;
        let report = on_core(1, || Ok(detector::run(&self.sim, &|| false, &mut |_| ())?))?;
        self.sim.first_id += images;
        Ok((report.packets_sent, report.bytes_sent))
    }

    /// How many images `sockets` hold, which are empty before and after.
    ///
    /// # Errors
    /// The host's buffers do not hold the trial.
    pub fn images_that_fit(&mut self, sockets: &[UdpSocket]) -> anyhow::Result<u64> {
        self.send(TRIAL_IMAGES)?;
        let used: Vec<Memory> = sockets.iter().map(memory).collect::<io::Result<_>>()?;
        for socket in sockets {
            socket.set_nonblocking(true)?;
            while socket.recv(&mut [0]).is_ok() {}
        }
        let dropped: u32 = used.iter().map(|memory| memory.dropped).sum();
        let times = used.iter().map(|memory| f64::from(memory.limit_bytes) / f64::from(memory.used_bytes.max(1)));
        let images = (SHARE * TRIAL_IMAGES as f64 * times.fold(f64::INFINITY, f64::min)) as u64;
        let given = used.first().context("no socket")?.limit_bytes;
        ensure!(
            dropped == 0 && images > 0,
            "buffers of {given} bytes, of which the kernel's books take a part, do not hold {TRIAL_IMAGES} images; raise \
             net.core.rmem_max or run with CAP_NET_ADMIN"
        );
        Ok(images)
    }
}

/// What the kernel's books say of a socket's receive buffer.
struct Memory {
    used_bytes: u32,
    limit_bytes: u32,
    dropped: u32,
}

fn memory(socket: &UdpSocket) -> io::Result<Memory> {
    const SO_MEMINFO: i32 = 55; // asm-generic/socket.h; not in libc for every target
    const WORDS: usize = 9; // linux/sock_diag.h: SK_MEMINFO_VARS
    let (mut words, mut bytes) = ([0_u32; WORDS], size_of::<[u32; WORDS]>() as libc::socklen_t);
    // SAFETY: the words live over the call and have the size that is told.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_MEMINFO, (&raw mut words).cast(), &raw mut bytes)
    };
    match result {
        0 => Ok(Memory { used_bytes: words[0], limit_bytes: words[1], dropped: words[8] }),
        _ => Err(io::Error::last_os_error()),
    }
}
