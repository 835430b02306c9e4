//! The whole data path as processes: generator → readout → assembler → a reader, beside a bare receive
//! loop that the same generator feeds; and the writer's file beside a plain `write`.
//!
//! First the readout alone, one core of it ([`drain`](crate::drain)); then the path at the highest rate at which nothing is
//! lost, and through stalls ([`live`](crate::live)); then beyond that rate: the generator sends as fast as it can, so both
//! sides are measured at what the machine carries and both lose packets. Ours is counted in images that were delivered
//! whole; the baseline in packets divided by the packets of an image, as if none of its losses had hit an image.

use crate::{
    detectors::Which,
    drain,
    image_path::{BUFFER_BYTES, ImagePath, bind_ports},
    live,
    pairs::Pairs,
    receive_floor::{self, Handover},
    report::{Machine, Report},
    rows::Rows,
    running, write_leg,
};
use std::{
    path::PathBuf,
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
    let mut rows = Rows::new(&options.pairs, &options.only);
    drain::measure(&mut rows, &options.program, options.leg)?;
    let bench =
        Bench { options, path: ImagePath::without_broker(&options.program, Which::Eiger500K, Handover::Coalesced)? };
    live::measure(&mut rows, &bench.path, options.leg)?;
    bench.overloaded(&mut rows)?;
    let folder = std::path::absolute(&options.folder)?;
    let what = "writer, HDF5 file";
    if rows.is_wanted(what) {
        let written = write_leg::pairs(bench.path.placement(), &folder, options.images, &options.pairs)?;
        rows.push(what, "GB/s", "plain write, same bytes", &written);
    }
    let given = receive_floor::buffer_bytes(&bind_ports(bench.path.placement(), Handover::Singles)?[0])?;
    let short = if given < u64::from(BUFFER_BYTES.unsigned_abs()) { ", fewer than asked" } else { "" };
    Ok(Report {
        machine,
        payload: format!(
            "EIGER 500K, 16 bit, where no other is named; 4 ports with buffers of {given} bytes{short}, images of {} bytes; {} pairs of {:?}, files \
             of {} images in {}",
            bench.path.placement().image_bytes(),
            options.pairs.count,
            options.leg,
            options.images,
            folder.display()
        ),
        rows: rows.rows,
    })
}

struct Bench<'a> {
    options: &'a Options,
    path: ImagePath,
}

impl Bench<'_> {
    /// The generator sends more than can be taken.
    fn overloaded(&self, rows: &mut Rows<'_>) -> anyhow::Result<()> {
        let what = "path, delivered to a reader";
        if !rows.is_wanted(what) {
            return Ok(());
        }
        let beside = |handover| {
            let ours = || self.delivered_images_per_s();
            rows.pairs().run(&format!("path, {handover:?}"), ours, || self.floor_images_per_s(handover))
        };
        let (singles, coalesced) = (beside(Handover::Singles)?, beside(Handover::Coalesced)?);
        let bytes = self.path.placement().image_bytes() as f64;
        let gb: Vec<_> = singles.iter().map(|(a, b)| (a * bytes / 1e9, b * bytes / 1e9)).collect();
        rows.push(what, "GB/s", "bare recvmmsg loop", &gb);
        rows.push(what, "images/s", "bare recvmmsg loop", &singles);
        rows.push(what, "images/s", "the same with UDP_GRO", &coalesced);
        Ok(())
    }

    /// Images per second that a reader gets whole.
    fn delivered_images_per_s(&self) -> anyhow::Result<f64> {
        let mut flowing = self.path.start()?;
        let start = Instant::now();
        let images = flowing.read_while(|| start.elapsed() < self.options.leg);
        Ok(f64::from(images) / start.elapsed().as_secs_f64())
    }

    /// Packets per second of the bare loop, as images.
    fn floor_images_per_s(&self, handover: Handover) -> anyhow::Result<f64> {
        let placement = self.path.placement();
        let sockets = bind_ports(placement, handover)?;
        let _generator = self.path.generator()?;
        let packets = receive_floor::packets_per_s(&sockets, handover, placement.packet_bytes(), self.options.leg)?;
        Ok(packets / placement.packets_per_image() as f64)
    }
}
