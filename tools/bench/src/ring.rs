//! The ring alone: how many images, and how many bytes, go from a contributor to a reliable reader.
//!
//! Contributor, owner and reader are threads over one mapped ring in `/dev/shm`, prefaulted. Two legs:
//! *in place* marks packets whose pixels are taken for written, so only the protocol costs; *copied in,
//! read out* writes every pixel with memcpy and reads every pixel, as a converting readout and a
//! checking reader would. The baseline is one thread's memcpy of the same bytes, memory to memory.
//!
//! Other readers beside the one that is measured: three more reliable ones, or a lossy one that takes an image now and then
//! and is overtaken. The baseline is the same leg without them.
//!
//! Where peers are wanted: hand-off and small images beside iceoryx2's publish/subscribe, between processes.

use crate::{
    handoff,
    pairs::Pairs,
    peers::iceoryx2::Iceoryx2,
    report::{Machine, Report},
    rows::Rows,
    running, small_images,
};
use anyhow::Context;
use ecs_shm_buffer::{
    Contributor, Geometry, Lookup, Now, Owner, OwnerLock, PacketFate, PacketInfo, Proc, ProcessId, Reader, Ring, Start,
    Surroundings, create_or_take_over,
};
use std::{
    hint::black_box,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long each leg runs.
    pub leg: Duration,
    pub pairs: Pairs,
    /// Only the rows whose name has this in it.
    pub only: String,
    /// Also beside iceoryx2.
    pub with_peers: bool,
}

/// An EIGER 500K at 16 bit.
const IMAGES: Geometry = Geometry {
    slots: 0,
    window: 32,
    height: 514,
    width: 1030,
    pixel_bytes: 2,
    packets_per_image: 256,
    fill: 0xffff,
    placement_hash: 7,
};
const RING_BYTES: u64 = 512 << 20;
/// How long one of the threads waits for the others before it looks again.
const PATIENCE: Duration = Duration::from_millis(20);
/// Between two images of a lossy reader: some hundred others are committed meanwhile.
const LOSSY_PAUSE: Duration = Duration::from_millis(10);

/// What a leg does.
#[derive(Clone, Copy)]
struct Load {
    touch_pixels: bool,
    /// Reliable readers, the one that is measured included.
    readers: usize,
    /// A lossy one beside them.
    with_lossy: bool,
}

/// One reader, and pixels that are taken for written.
const IN_PLACE: Load = Load { touch_pixels: false, readers: 1, with_lossy: false };
/// The same with pixels that are written and read.
const COPIED: Load = Load { touch_pixels: true, ..IN_PLACE };

/// Measures the ring.
///
/// # Errors
/// The ring cannot be made. Peers are wanted and not built.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let machine = Machine::read();
    let peer = options.with_peers.then(Iceoryx2::find).transpose()?;
    if peer.is_some() {
        running::tidy_on_signal()?;
    }
    let mut rows = Rows::new(&options.pairs, &options.only);
    beside_memcpy(&mut rows, options.leg)?;
    let alone = || images_per_s(options.leg, IN_PLACE);
    for (what, load) in [
        ("ring, in place, 4 readers", Load { readers: 4, ..IN_PLACE }),
        ("ring, in place, a lossy reader beside", Load { with_lossy: true, ..IN_PLACE }),
    ] {
        rows.measure(what, "images/s", "one reader alone", || images_per_s(options.leg, load), alone)?;
    }
    handoff::measure(&mut rows, options.leg, peer.as_ref())?;
    if let Some(peer) = &peer {
        beside_peer(&mut rows, options.leg, peer)?;
    }
    let bytes = IMAGES.image_bytes();
    let legs = format!("{} pairs of {:?}", options.pairs.count, options.leg);
    let peer = match peer {
        Some(peer) => {
            format!("iceoryx2 {}: messages and images of {} bytes", peer.version(), small_images::image_bytes())
        }
        None => "not beside iceoryx2: tools/bench-peers ring builds it, --peers measures it".to_owned(),
    };
    Ok(Report { machine, payload: format!("images of {bytes} bytes in 256 packets, {legs}; {peer}"), rows: rows.rows })
}

fn beside_memcpy(rows: &mut Rows<'_>, leg: Duration) -> anyhow::Result<()> {
    let (in_place, copied, baseline) = ("ring, in place", "ring, copied in, read out", "memcpy of the images");
    let mut memory = None;
    let mut memcpy = || {
        let (source, target) = memory.get_or_insert_with(|| {
            let mut source = vec![1_u8; 256 << 20];
            source.chunks_mut(4096).for_each(|page| page[0] = 2); // every page is there before the clock runs
            (source, vec![0_u8; 256 << 20])
        });
        Ok(memcpy_images_per_s(source, target, leg))
    };
    rows.measure(in_place, "images/s", baseline, || images_per_s(leg, IN_PLACE), &mut memcpy)?;
    if rows.is_wanted(copied) {
        let pairs = rows.pairs().run(copied, || images_per_s(leg, COPIED), &mut memcpy)?;
        let bytes = IMAGES.image_bytes() as f64;
        let gb: Vec<_> = pairs.iter().map(|(a, b)| (a * bytes / 1e9, b * bytes / 1e9)).collect();
        rows.push(copied, "images/s", baseline, &pairs);
        rows.push(copied, "GB/s", baseline, &gb);
    }
    Ok(())
}

fn beside_peer(rows: &mut Rows<'_>, leg: Duration, peer: &Iceoryx2) -> anyhow::Result<()> {
    let bytes = small_images::image_bytes();
    for (what, readers) in [("small images, 1 reader", 1), ("small images, 4 readers", 4)] {
        let ours = || small_images::images_per_s(leg, readers);
        let theirs = || peer.messages_per_s(leg, bytes, small_images::DEPTH, readers);
        rows.measure(what, "images/s", "iceoryx2 publish/subscribe", ours, theirs)?;
    }
    Ok(())
}

fn memcpy_images_per_s(source: &[u8], target: &mut [u8], leg: Duration) -> f64 {
    let image_bytes = IMAGES.image_bytes();
    let (start, mut images) = (Instant::now(), 0);
    while start.elapsed() < leg {
        for (from, to) in source.chunks_exact(image_bytes).zip(target.chunks_exact_mut(image_bytes)) {
            to.copy_from_slice(from);
            black_box(&to);
            images += 1;
        }
    }
    f64::from(images) / start.elapsed().as_secs_f64()
}

fn images_per_s(leg: Duration, load: Load) -> anyhow::Result<f64> {
    let path = PathBuf::from(format!("/dev/shm/ecs-bench-{}.ring", std::process::id()));
    let geometry = Geometry::with_size(RING_BYTES, IMAGES);
    let (ring, lock) = create_or_take_over(&path, geometry, &Proc).context("cannot make the benchmark's ring")?;
    let measured = measure(&ring, leg, load);
    OwnerLock::remove(lock)?;
    measured
}

fn measure(ring: &Ring, leg: Duration, load: Load) -> anyhow::Result<f64> {
    let me = ProcessId::current();
    let mut owner = Owner::take_over(ring, me, Duration::from_secs(10), &Proc);
    let contributor = Contributor::join(ring, me, "bench")?;
    let mut reader = Reader::reliable(ring, me, "bench", Start::Next)?;
    let others = (1..load.readers).map(|_| Reader::reliable(ring, me, "beside", Start::Next));
    let others = others.collect::<Result<Vec<_>, _>>()?;
    let lossy = load.with_lossy.then(|| Reader::lossy(ring, me, "lossy", Start::Next)).transpose()?;
    let stop = AtomicBool::new(false);
    Ok(std::thread::scope(|scope| {
        scope.spawn(|| contribute(contributor, &stop, load.touch_pixels));
        for other in others {
            scope.spawn(|| read(other, &stop, Duration::ZERO));
        }
        if let Some(lossy) = lossy {
            scope.spawn(|| read(lossy, &stop, LOSSY_PAUSE));
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let ticket = owner.ticket();
                let mut nothing_missing = |_: &mut [u8], _: usize| {};
                owner.step(&mut Surroundings { now: Now::read(), liveness: &Proc, fill: &mut nothing_missing });
                owner.sleep(ticket, PATIENCE);
            }
        });
        let (start, mut images) = (Instant::now(), 0_u32);
        while start.elapsed() < leg {
            let Some(delivery) = reader.next(PATIENCE) else { continue };
            let Some(image) = delivery.image else { continue };
            if load.touch_pixels {
                black_box(sum(reader.pixels(&image)));
            }
            images += 1;
        }
        stop.store(true, Ordering::Relaxed);
        f64::from(images) / start.elapsed().as_secs_f64()
    }))
}

/// Takes images, one after the other with a pause between.
fn read(mut reader: Reader, stop: &AtomicBool, pause: Duration) {
    while !stop.load(Ordering::Relaxed) {
        black_box(reader.next(PATIENCE).is_some());
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
}

/// Marks (and writes) packet after packet of image after image, as fast as the window moves.
fn contribute(mut contributor: Contributor, stop: &AtomicBool, touch_pixels: bool) {
    let (packets, payload) = (IMAGES.packets_per_image as usize, vec![3_u8; IMAGES.image_bytes() / 256]);
    contributor.request_run(1);
    let mut id = 1;
    while !stop.load(Ordering::Relaxed) {
        let ticket = contributor.window_ticket();
        let epoch = contributor.epoch();
        if epoch == 0 || contributor.lookup(id) != Lookup::Open {
            contributor.wait_for_window(ticket, PATIENCE);
            continue;
        }
        let access = contributor.protect(&[id]);
        let Some(image) = access.image(id) else { continue };
        for packet in 0..packets {
            if touch_pixels {
                // SAFETY: `access` protects the image; 256 payloads do not exceed it.
                unsafe {
                    let place = access.pixels(image).add(packet * payload.len());
                    std::ptr::copy_nonoverlapping(payload.as_ptr(), place, payload.len());
                }
            }
            access.mark(image, packet, PacketInfo { received_ns: 1, ..PacketInfo::default() });
        }
        drop(access);
        contributor.count(PacketFate::Placed, packets as u64);
        contributor.set_progress(Some(id), ecs_shm_buffer::monotonic_ns());
        id += 1;
    }
}

fn sum(pixels: &[u8]) -> u64 {
    let words = pixels.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("chunks of 8")));
    words.fold(0, u64::wrapping_add)
}
