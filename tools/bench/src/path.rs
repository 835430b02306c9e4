//! The whole data path as processes: generator → readout → assembler → a reader, beside a bare receive
//! loop that the same generator feeds; and the writer's file beside a plain `write`.
//!
//! The generator sends as fast as it can, so both sides are measured at what the machine carries and
//! both lose packets. Ours is counted in images that were delivered whole; the baseline in packets
//! divided by the packets of an image, as if none of its losses had hit an image.

use crate::{
    receive_floor::{self, Handover},
    report::{Machine, Report, Row, in_pairs},
    running::Running,
    write_leg,
};
use anyhow::{Context, bail};
use ecs_schemas::detector::{DetectorConfig, Placement};
use ecs_shm_buffer::{PixelAccess, ProcessId, Reader, Ring, Start};
use std::{
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long each leg runs.
    pub leg: Duration,
    pub pairs: usize,
    /// Folder of the files of the writer's legs: its file system is measured.
    pub folder: PathBuf,
    /// Images of the writer's legs.
    pub images: u64,
    /// This program, to start generator and agents from.
    pub program: PathBuf,
}

const START_PATIENCE: Duration = Duration::from_secs(30);
const BUFFER_BYTES: i32 = 64 << 20;

/// Measures the path and the writer.
///
/// # Errors
/// A process does not start, a port is taken, the folder cannot be written.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let machine = Machine::read();
    let bench = Bench::new(options)?;
    let beside =
        |handover| in_pairs(options.pairs, || bench.delivered_images_per_s(), || bench.floor_images_per_s(handover));
    let (singles, coalesced) = (beside(Handover::Singles)?, beside(Handover::Coalesced)?);
    let bytes = bench.placement.image_bytes() as f64;
    let gb: Vec<_> = singles.iter().map(|(a, b)| (a * bytes / 1e9, b * bytes / 1e9)).collect();
    let folder = std::path::absolute(&options.folder)?;
    let written = write_leg::pairs(&bench.placement, &folder, options.images, options.pairs)?;
    Ok(Report {
        machine,
        payload: format!(
            "EIGER 500K, 16 bit, 4 ports, images of {bytes} bytes; {} pairs of {:?}, files of {} images in {}",
            options.pairs,
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
    placement: Placement,
    /// Its configuration files; removed at the end.
    folder: tempfile::TempDir,
}

impl<'a> Bench<'a> {
    fn new(options: &'a Options) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let detector = detector_json(free_ports(4)?);
        let placement = DetectorConfig::from_json(&detector).and_then(|config| config.placement())?;
        fs::write(folder.path().join("detector.json"), detector)?;
        let ring = Path::new("/dev/shm").join(format!("ecs-bench-path-{}.ring", std::process::id()));
        let broker = folder.path().join("broker");
        let beamline = format!(
            "[beamline]\nname = \"bench\"\n[broker]\nrequest_endpoint = \"ipc://{0}.req\"\npublish_endpoint = \
             \"ipc://{0}.pub\"\n[detector]\nconfig = \"detector.json\"\n[ring]\npath = \"{1}\"\nsize = \"1 GiB\"\n\
             [readout]\naddress = \"127.0.0.1\"\nreceive_buffer = {BUFFER_BYTES}\n",
            broker.display(),
            ring.display(),
        );
        fs::write(folder.path().join("beamline.toml"), beamline)?;
        Ok(Self { options, placement, folder })
    }

    /// Images per second that a reader gets whole.
    fn delivered_images_per_s(&self) -> anyhow::Result<f64> {
        let _assembler = self.agent("assembler")?;
        let _readout = self.agent("readout")?;
        let ring = self.wait_for_readout()?;
        let mut reader = Reader::reliable(&ring, ProcessId::current(), "bench", Start::Next)?;
        let _generator = self.generator()?;
        reader.next(START_PATIENCE).context("no image came through the path")?;
        let (start, mut images) = (Instant::now(), 0_u32);
        while start.elapsed() < self.options.leg {
            let delivery = reader.next(Duration::from_millis(100));
            let image = delivery.and_then(|delivery| delivery.image);
            let whole = |packets: u32| packets == ring.geometry().packets_per_image;
            images += u32::from(image.is_some_and(|image| whole(image.packets_received)));
        }
        Ok(f64::from(images) / start.elapsed().as_secs_f64())
    }

    /// Packets per second of the bare loop, as images.
    fn floor_images_per_s(&self, handover: Handover) -> anyhow::Result<f64> {
        let bind =
            |port: &u16| receive_floor::bind(*port, handover, BUFFER_BYTES).with_context(|| format!("port {port}"));
        let sockets: Vec<UdpSocket> = self.placement.ports.iter().map(bind).collect::<anyhow::Result<_>>()?;
        let _generator = self.generator()?;
        let packets =
            receive_floor::packets_per_s(&sockets, handover, self.placement.packet_bytes(), self.options.leg)?;
        Ok(packets / self.placement.packets_per_image() as f64)
    }

    fn agent(&self, kind: &str) -> anyhow::Result<Running> {
        self.start(&["agent", kind, "--config", "beamline.toml", "-q"])
    }

    fn generator(&self) -> anyhow::Result<Running> {
        self.start(&["sim", "eiger", "--config", "detector.json", "--images", "100000000"])
    }

    fn start(&self, arguments: &[&str]) -> anyhow::Result<Running> {
        Running::start(&self.options.program, self.folder.path(), arguments)
    }

    fn wait_for_readout(&self) -> anyhow::Result<Ring> {
        let path = Path::new("/dev/shm").join(format!("ecs-bench-path-{}.ring", std::process::id()));
        let start = Instant::now();
        while start.elapsed() < START_PATIENCE {
            if let Ok(ring) = ecs_shm_buffer::open(&path, PixelAccess::ReadOnly)
                && !ring.status().participants.is_empty()
            {
                return Ok(ring);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("readout and assembler were not ready within {START_PATIENCE:?}")
    }
}

/// The first of `count` UDP ports in a row that are free now.
fn free_ports(count: u16) -> anyhow::Result<u16> {
    let free = |first: &u16| (0..count).all(|port| UdpSocket::bind(("127.0.0.1", first + port)).is_ok());
    (52_000..60_000).step_by(usize::from(count)).find(free).context("no four free UDP ports in a row")
}

fn detector_json(start_udp_port: u16) -> String {
    format!(
        r#"{{"detector_name": "bench", "detector_type": "eiger", "n_modules": 4, "bit_depth": 16,
            "image_pixel_height": 514, "image_pixel_width": 1030, "start_udp_port": {start_udp_port},
            "module_positions": {{"0": [0, 258, 513, 513], "1": [516, 258, 1029, 513],
                                  "2": [0, 255, 513, 0], "3": [516, 255, 1029, 0]}}}}"#
    )
}
