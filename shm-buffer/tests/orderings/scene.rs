//! A small ring in a model, and those who act on it.

use ecs_shm_buffer::{
    Assume, Contributor, Delivery, Geometry, Image, Liveness, Now, Owner, PacketInfo, ProcessId, Reader, Ring,
    Surroundings, model,
};
use std::{
    mem::ManuallyDrop,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub const DEADLINE_NS: u64 = 10_000_000;
pub const START_NS: u64 = 1_000_000;
pub const HOUSEKEEPING_NS: u64 = 100_000_000;
const FILL: u64 = u64::MAX;
/// Thread switches at arbitrary places that are tried in one execution: nearly all known bugs of this kind
/// need two or fewer (Musuvathi and Qadeer, PLDI 2007). `LOOM_MAX_PREEMPTIONS` overrides it.
const PREEMPTIONS: usize = 2;

/// Tries all executions of `scene`.
pub fn explore(name: &str, scene: impl Fn() + Sync + Send + 'static) {
    let executions = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&executions);
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 100_000;
    builder.preemption_bound = builder.preemption_bound.or(Some(PREEMPTIONS));
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        scene();
    });
    println!("{name}: {} executions", executions.load(Ordering::Relaxed));
}

/// The ring and its owner. Handles are not dropped: leaving is a scene of its own.
pub struct Scene {
    pub ring: Ring,
    pub owner: OwnerAt,
}

/// An owner, and its clock.
pub struct OwnerAt {
    pub owner: ManuallyDrop<Owner>,
    pub now_ns: u64,
}

pub fn process(pid: u32) -> ProcessId {
    ProcessId { pid, start_time: u64::from(pid) * 10 }
}

pub fn pattern(epoch: u64, id: u64, packet: usize) -> u64 {
    epoch * 1_000_000 + id * 1000 + packet as u64 + 1
}

impl Scene {
    /// An owner and no run yet.
    pub fn empty(slots: u32, window: u32, packets: u32) -> Self {
        let width = packets * model::PACKET_BYTES as u32;
        let geometry = Geometry {
            slots,
            window,
            height: 1,
            width,
            pixel_bytes: 1,
            packets_per_image: packets,
            fill: 0xff,
            placement_hash: 7,
        };
        let ring = model::ring(geometry).expect("a geometry in range");
        let owner = OwnerAt::take_over(&ring, 1);
        Self { ring, owner }
    }

    /// A run from image 0 on, and its contributor.
    pub fn in_run(slots: u32, window: u32, packets: u32) -> (Self, ManuallyDrop<Contributor>) {
        let mut scene = Self::empty(slots, window, packets);
        let contributor = scene.contributor(2);
        contributor.request_run(u64::from(window) / 2);
        scene.owner.step();
        assert_eq!(contributor.epoch(), 1);
        (scene, contributor)
    }

    pub fn contributor(&self, pid: u32) -> ManuallyDrop<Contributor> {
        another(&self.ring, pid)
    }
}

impl OwnerAt {
    pub fn take_over(ring: &Ring, pid: u32) -> Self {
        let owner = Owner::take_over(ring, process(pid), Duration::from_nanos(DEADLINE_NS), &Assume(true));
        Self { owner: ManuallyDrop::new(owner), now_ns: START_NS }
    }

    pub fn step(&mut self) -> u64 {
        self.step_asking(&Assume(true))
    }

    pub fn step_asking(&mut self, liveness: &dyn Liveness) -> u64 {
        let now = Now { mono_ns: self.now_ns, utc_ns: self.now_ns };
        let mut fill = |pixels: &mut [u8], packet: usize| model::write_packet(pixels.as_mut_ptr(), packet, FILL);
        self.owner.step(&mut Surroundings { now, liveness, fill: &mut fill }).committed
    }

    pub fn step_after(&mut self, ns: u64) -> u64 {
        self.now_ns += ns;
        self.step()
    }
}

pub fn another(ring: &Ring, pid: u32) -> ManuallyDrop<Contributor> {
    ManuallyDrop::new(Contributor::join(ring, process(pid), "readout").expect("a free place"))
}

/// Places packets as a readout does, of the run that it knows, and none that is there already. Returns whether the
/// image was open.
pub fn place(contributor: &mut Contributor, epoch: u64, id: u64, packets: &[usize]) -> bool {
    let access = contributor.protect(&[id]);
    let Some(image) = access.image(id) else { return false };
    if !access.is_of_run(epoch) {
        return false;
    }
    for &packet in packets.iter().filter(|&&packet| !access.has_packet(image, packet)) {
        model::write_packet(access.pixels(image), packet, pattern(epoch, id, packet));
        access.mark(
            image,
            packet,
            PacketInfo { received_ns: START_NS, detector_timestamp: id, exposure_length: 7, do_not_store: false },
        );
    }
    true
}

/// Every marked packet has its bytes, every other the fill.
pub fn check_pixels(epoch: u64, image: &Image, pixels: &[u64]) {
    for (packet, &value) in pixels.iter().enumerate() {
        let is_marked = image.bitmap[0] & 1 << packet != 0;
        let expected = if is_marked { pattern(epoch, image.id, packet) } else { FILL };
        assert_eq!(value, expected, "run {epoch}, image {}, packet {packet}, marked: {is_marked}", image.id);
    }
    assert_eq!(image.packets_received, image.bitmap[0].count_ones(), "image {}", image.id);
    assert_eq!(image.detector_timestamp, image.id, "what its first packet told");
}

/// The next step for a reliable reader, with its pixels checked.
pub fn read_on(reader: &mut Reader) -> Option<Delivery> {
    let delivery = reader.try_next()?;
    if let Some(image) = &delivery.image {
        check_pixels(delivery.epoch, image, &model::read_held(reader, image));
    }
    Some(delivery)
}

/// The packets of an image, as a lossy reader gets them: none if it was overtaken.
pub fn copy(reader: &Reader, image: &Image) -> Option<Vec<u64>> {
    let mut bytes = vec![0; reader.ring().geometry().image_bytes()];
    reader.copy_pixels(image, &mut bytes).ok()?;
    Some(bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes"))).collect())
}

pub fn reliable(ring: &Ring, pid: u32, start: ecs_shm_buffer::Start) -> ManuallyDrop<Reader> {
    ManuallyDrop::new(Reader::reliable(ring, process(pid), "writer", start).expect("a free place"))
}

pub fn lossy(ring: &Ring, pid: u32, start: ecs_shm_buffer::Start) -> ManuallyDrop<Reader> {
    ManuallyDrop::new(Reader::lossy(ring, process(pid), "preview", start).expect("a free place"))
}
