//! Receives everything that arrives on the ports of a detector, while the simulator sends.

use ecs_schemas::detector::{Detector, DetectorConfig};
use std::{
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Longest that a test waits for packets that were sent.
const PATIENCE: Duration = Duration::from_secs(30);
/// How soon a receiving thread notices that no more packets are expected.
const POLL: Duration = Duration::from_millis(50);
/// Asked of the kernel for each socket: several images of the tests.
const RECEIVE_BUFFER_BYTES: libc::c_int = 16 * 1024 * 1024;
/// The recorded module, and the geometry of every test.
const DETECTOR: &str = include_str!("../../../../tests/data/eiger-500k/detector.json");

pub struct Receiver {
    /// The recorded detector's geometry, on this receiver's ports.
    pub detector: Detector,
    threads: Vec<JoinHandle<Vec<Vec<u8>>>>,
    received: Arc<AtomicUsize>,
    done: Arc<AtomicBool>,
}

impl Receiver {
    /// Four free ports, each with a thread that drains it.
    pub fn start(bit_depth: u32) -> Self {
        let (detector, sockets) = detector_on_free_ports(bit_depth);
        Self::on(detector, sockets)
    }

    /// Any detector, and the sockets that hold its ports, in their order.
    pub fn on(detector: Detector, sockets: Vec<UdpSocket>) -> Self {
        let (received, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let drain = |socket: UdpSocket| {
            socket.set_read_timeout(Some(POLL)).unwrap();
            let (received, done) = (received.clone(), done.clone());
            std::thread::spawn(move || drain_until(&socket, &received, &done))
        };
        Self { detector, threads: sockets.into_iter().map(drain).collect(), received, done }
    }

    /// Waits for `count` packets; returns all that came, port by port, in the order of arrival.
    ///
    /// # Panics
    /// If fewer or more came.
    pub fn packets(self, count: u64) -> Vec<Vec<Vec<u8>>> {
        let start = Instant::now();
        while (self.received.load(SeqCst) as u64) < count && start.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
        self.done.store(true, SeqCst);
        let ports: Vec<Vec<Vec<u8>>> = self.threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(ports.iter().map(Vec::len).sum::<usize>() as u64, count, "packets that arrived, and were sent");
        ports
    }
}

/// The recorded detector on ports that are free, and the sockets that hold them, module by module.
pub fn detector_on_free_ports(bit_depth: u32) -> (Detector, Vec<UdpSocket>) {
    let mut config = DetectorConfig::from_json(DETECTOR).unwrap();
    let sockets = free_ports(4);
    config.bit_depth = Some(bit_depth);
    config.start_udp_port = Some(sockets[0].local_addr().unwrap().port());
    (config.detector().unwrap(), sockets)
}

/// Sockets on ports in a row.
pub fn free_ports(count: u16) -> Vec<UdpSocket> {
    let sockets = std::iter::repeat_with(|| ports_in_a_row(count)).take(1000).flatten().next();
    let sockets = sockets.expect("free ports in a row");
    sockets.iter().for_each(ask_for_a_large_buffer);
    sockets
}

/// A port that the kernel chooses and those behind it, unless one of them is taken.
fn ports_in_a_row(count: u16) -> Option<Vec<UdpSocket>> {
    let bind = |port: u16| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok();
    let first = bind(0)?;
    let port = first.local_addr().ok()?.port();
    let others = (1..count).map(|above| bind(port.checked_add(above)?));
    std::iter::once(Some(first)).chain(others).collect()
}

/// Root gets all of it, others what the system allows, which is enough on a machine that is not loaded.
fn ask_for_a_large_buffer(socket: &UdpSocket) {
    let bytes = RECEIVE_BUFFER_BYTES;
    for option in [libc::SO_RCVBUF, libc::SO_RCVBUFFORCE] {
        // SAFETY: the option is an int, which outlives the call.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const bytes).cast(),
                size_of_val(&bytes) as libc::socklen_t,
            )
        };
    }
}

fn drain_until(socket: &UdpSocket, received: &AtomicUsize, done: &AtomicBool) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut buffer = [0; 65_536];
    loop {
        match socket.recv(&mut buffer) {
            Ok(bytes) => {
                packets.push(buffer[..bytes].to_vec());
                received.fetch_add(1, SeqCst);
            }
            Err(_) if done.load(SeqCst) => return packets,
            Err(_) => {}
        }
    }
}
