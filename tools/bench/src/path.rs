//! The whole data path as processes: generator → readout → assembler → a reader, beside a bare receive
//! loop that the same generator feeds; and the writer's file beside a plain `write`.
//!
//! The generator sends as fast as it can, so both sides are measured at what the machine carries and
//! both lose packets. Ours is counted in images that were delivered whole; the baseline in packets
//! divided by the packets of an image, as if none of its losses had hit an image.

use crate::{
    image_path::{BUFFER_BYTES, ImagePath},
    pairs::Pairs,
    receive_floor::{self, Handover},
    report::{Machine, Report, Row},
    running, write_leg,
};
use anyhow::Context;
use std::{
    net::UdpSocket,
    path::PathBuf,
    time::{Duration, Instant},
};

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long each leg runs.
    pub leg: Duration,
    pub pairs: Pairs,
    /// Folder of the files of the writer's legs: its file system is measured.
    pub folder: PathBuf,
    /// Images of the writer's legs.
    pub images: u64,
    /// This program, to start generator and agents from.
    pub program: PathBuf,
}

/// Measures the path and the writer.
///
/// # Errors
/// A process does not start, a port is taken, the folder cannot be written.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let machine = Machine::read();
    running::tidy_on_signal()?;
    let bench = Bench { options, path: ImagePath::without_broker(&options.program)? };
    let beside = |handover| {
        options.pairs.run(
            &format!("path, {handover:?}"),
            || bench.delivered_images_per_s(),
            || bench.floor_images_per_s(handover),
        )
    };
    let (singles, coalesced) = (beside(Handover::Singles)?, beside(Handover::Coalesced)?);
    let bytes = bench.path.placement.image_bytes() as f64;
    let gb: Vec<_> = singles.iter().map(|(a, b)| (a * bytes / 1e9, b * bytes / 1e9)).collect();
    let folder = std::path::absolute(&options.folder)?;
    let written = write_leg::pairs(&bench.path.placement, &folder, options.images, &options.pairs)?;
    Ok(Report {
        machine,
        payload: format!(
            "EIGER 500K, 16 bit, 4 ports, images of {bytes} bytes; {} pairs of {:?}, files of {} images in {}",
            options.pairs.count,
            options.leg,
            options.images,
            folder.display()
        ),
        rows: vec![
            Row::from_pairs("path, delivered to a reader", "GB/s", "bare recvmmsg loop", &gb),
            Row::from_pairs("path, delivered to a reader", "images/s", "bare recvmmsg loop", &singles),
            Row::from_pairs("path, delivered to a reader", "images/s", "the same with UDP_GRO", &coalesced),
            Row::from_pairs("writer, HDF5 file", "GB/s", "plain write, same bytes", &written),
        ],
    })
}

struct Bench<'a> {
    options: &'a Options,
    path: ImagePath,
}

impl Bench<'_> {
    /// Images per second that a reader gets whole.
    fn delivered_images_per_s(&self) -> anyhow::Result<f64> {
        let mut flowing = self.path.start()?;
        let start = Instant::now();
        let images = flowing.read_while(|| start.elapsed() < self.options.leg);
        Ok(f64::from(images) / start.elapsed().as_secs_f64())
    }

    /// Packets per second of the bare loop, as images.
    fn floor_images_per_s(&self, handover: Handover) -> anyhow::Result<f64> {
        let placement = &self.path.placement;
        let bind =
            |port: &u16| receive_floor::bind(*port, handover, BUFFER_BYTES).with_context(|| format!("port {port}"));
        let sockets: Vec<UdpSocket> = placement.ports.iter().map(bind).collect::<anyhow::Result<_>>()?;
        let _generator = self.path.generator()?;
        let packets = receive_floor::packets_per_s(&sockets, handover, placement.packet_bytes(), self.options.leg)?;
        Ok(packets / placement.packets_per_image() as f64)
    }
}
