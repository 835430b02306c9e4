//! What the ring's tests share: small rings, images whose every byte can be told, a scripted owner.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod invariants;
pub mod process;
pub mod raw;

use ecs_shm_buffer::{
    Assume, Contributor, Geometry, Liveness, Now, Owner, PacketInfo, ProcessId, Ring, StepOutcome, Surroundings,
};
use std::{cell::RefCell, collections::BTreeSet, time::Duration};

/// Bytes of one packet; an image is packets in a row.
pub const PACKET_BYTES: usize = 8;
pub const FILL: u8 = 0xff;
pub const DEADLINE_NS: u64 = 10_000_000;
/// The scripted clocks begin here, so that 0 keeps its meaning of "never".
pub const START_NS: u64 = 1_000_000_000;
pub const UTC_OFFSET_NS: u64 = 1_700_000_000_000_000_000;

pub fn geometry(slots: u32, window: u32, packets: u32) -> Geometry {
    let width = packets * PACKET_BYTES as u32;
    Geometry {
        slots,
        window,
        height: 1,
        width,
        pixel_bytes: 1,
        packets_per_image: packets,
        fill: FILL.into(),
        placement_hash: 7,
    }
}

/// A process of the script; none of them is real.
pub fn process(pid: u32) -> ProcessId {
    ProcessId { pid, start_time: u64::from(pid) * 10 }
}

/// The bytes of one packet: different for every (run, image, packet), and none of them is the fill.
pub fn pattern(epoch: u64, id: u64, packet: usize) -> [u8; PACKET_BYTES] {
    let mut word = (epoch << 40 ^ id << 8 ^ packet as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word ^= word >> 29;
    word.to_le_bytes().map(|byte| byte & 0x7f)
}

pub fn fill(pixels: &mut [u8], packet: usize) {
    pixels[packet * PACKET_BYTES..][..PACKET_BYTES].fill(FILL);
}

/// Writes one packet's bytes where an access leads.
///
/// # Safety
/// `pixels` leads to an image that is protected, or that nobody will ever look at.
pub unsafe fn write_packet(pixels: *mut u8, epoch: u64, id: u64, packet: usize) {
    let bytes = pattern(epoch, id, packet);
    // SAFETY: as promised; the packet's bytes lie within the image.
    unsafe { pixels.add(packet * PACKET_BYTES).copy_from_nonoverlapping(bytes.as_ptr(), PACKET_BYTES) };
}

/// Places packets as a readout does. Returns how many of them were new; the rest was there already,
/// or the image is not open.
pub fn place(contributor: &mut Contributor, id: u64, packets: &[usize], received_ns: u64) -> usize {
    let epoch = contributor.epoch();
    let access = contributor.protect(&[id]);
    let Some(image) = access.image(id) else { return 0 };
    let info = PacketInfo {
        received_ns,
        detector_timestamp: id * 1000,
        exposure_length: 7,
        do_not_store: id.is_multiple_of(2),
    };
    let mut placed = 0;
    for &packet in packets {
        if !access.has_packet(image, packet) {
            // SAFETY: the access protects the image.
            unsafe { write_packet(access.pixels(image), epoch, id, packet) };
            access.mark(image, packet, info);
            placed += 1;
        }
    }
    placed
}

/// Who is alive in a script: everybody but the named.
#[derive(Default)]
pub struct Living {
    dead: RefCell<BTreeSet<u32>>,
}

impl Living {
    pub fn kill(&self, process: ProcessId) {
        self.dead.borrow_mut().insert(process.pid);
    }
}

impl Liveness for Living {
    fn is_alive(&self, process: ProcessId) -> bool {
        !self.dead.borrow().contains(&process.pid)
    }
}

/// A ring with an owner whose clock the script moves.
pub struct Rig {
    pub ring: Ring,
    pub owner: Owner,
    pub living: Living,
    pub now_ns: u64,
}

impl Rig {
    pub fn new(slots: u32, window: u32, packets: u32) -> Self {
        Self::over(Ring::on_heap(geometry(slots, window, packets)).expect("a geometry in range"))
    }

    pub fn over(ring: Ring) -> Self {
        let owner = Owner::take_over(&ring, process(1), Duration::from_nanos(DEADLINE_NS), &Assume(true));
        Self { ring, owner, living: Living::default(), now_ns: START_NS }
    }

    pub fn contributor(&self, pid: u32) -> Contributor {
        Contributor::join(&self.ring, process(pid), &format!("readout-{pid}")).expect("a free place")
    }

    /// A contributor for whose request a run has begun with this id; the window starts there.
    pub fn contributor_in_run(&mut self, pid: u32, id: u64) -> Contributor {
        let contributor = self.contributor(pid);
        let lead = 4.min(u64::from(self.ring.geometry().window) / 2);
        contributor.request_run(id + lead);
        self.step();
        contributor.epoch();
        contributor
    }

    pub fn step(&mut self) -> StepOutcome {
        let now = Now { mono_ns: self.now_ns, utc_ns: UTC_OFFSET_NS + self.now_ns };
        self.owner.step(&mut Surroundings { now, liveness: &self.living, fill: &mut fill })
    }

    pub fn step_after(&mut self, ns: u64) -> StepOutcome {
        self.now_ns += ns;
        self.step()
    }

    /// Places all packets of an image and lets the owner see it.
    pub fn whole_image(&mut self, contributor: &mut Contributor, id: u64) -> usize {
        let packets: Vec<usize> = (0..self.ring.geometry().packets_per_image as usize).collect();
        let placed = place(contributor, id, &packets, self.now_ns);
        self.step();
        placed
    }

    /// The owner dies where it stands, and another process takes over.
    pub fn replace_owner(&mut self, pid: u32) {
        let deadline = Duration::from_nanos(DEADLINE_NS);
        self.owner = Owner::take_over(&self.ring, process(pid), deadline, &self.living);
    }
}

/// Fails the process when a test takes longer than anything in it may.
pub struct Watchdog(std::sync::mpsc::Sender<()>);

impl Watchdog {
    pub fn start(limit: Duration) -> Self {
        let (alive, watched) = std::sync::mpsc::channel();
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        std::thread::spawn(move || {
            if watched.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("watchdog: {name} hangs for {limit:?}");
                std::process::abort();
            }
        });
        Self(alive)
    }
}

/// Looks again until the condition holds.
///
/// # Panics
/// After 20 seconds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        std::thread::yield_now();
    }
}
