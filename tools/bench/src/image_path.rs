//! The image path as processes: generator → readout → assembler → a reader here. The generator sends as fast as it can.

use crate::running::{self, Running};
use anyhow::{Context, bail};
use ecs_schemas::detector::{DetectorConfig, Placement};
use ecs_shm_buffer::{PixelAccess, ProcessId, Reader, Ring, Start};
use std::{
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

const START_PATIENCE: Duration = Duration::from_secs(30);
pub const BUFFER_BYTES: i32 = 64 << 20;

/// How a path is configured; it runs while it is [`Flowing`].
pub struct ImagePath {
    pub placement: Placement,
    program: PathBuf,
    ring: PathBuf,
    /// Its configuration files; removed at the end.
    folder: tempfile::TempDir,
}

impl ImagePath {
    /// A path whose agents look for a broker at these endpoints; it runs without one, too.
    ///
    /// # Errors
    /// There are no ports, or no room for its configuration.
    pub fn new(program: &Path, request_endpoint: &str, publish_endpoint: &str) -> anyhow::Result<Self> {
        let folder = running::temporary_folder()?;
        let detector = detector_json(free_ports(4)?);
        let placement = DetectorConfig::from_json(&detector).and_then(|config| config.placement())?;
        fs::write(folder.path().join("detector.json"), detector)?;
        let ring = Path::new("/dev/shm").join(format!("ecs-bench-path-{}.ring", process::id()));
        let beamline = format!(
            "[beamline]\nname = \"bench\"\n[broker]\nrequest_endpoint = \"{request_endpoint}\"\npublish_endpoint = \
             \"{publish_endpoint}\"\n[detector]\nconfig = \"detector.json\"\n[ring]\npath = \"{}\"\nsize = \"1 GiB\"\n\
             [readout]\naddress = \"127.0.0.1\"\nreceive_buffer = {BUFFER_BYTES}\n",
            ring.display(),
        );
        fs::write(folder.path().join("beamline.toml"), beamline)?;
        Ok(Self { placement, program: program.to_owned(), ring, folder })
    }

    /// A path without a broker.
    ///
    /// # Errors
    /// As of [`Self::new`].
    pub fn without_broker(program: &Path) -> anyhow::Result<Self> {
        let nobody = std::env::temp_dir().join(format!("ecs-bench-nobody-{}", process::id()));
        let endpoint = |kind: &str| format!("ipc://{}.{kind}", nobody.display());
        Self::new(program, &endpoint("req"), &endpoint("pub"))
    }

    /// Starts it; images come when this returns.
    ///
    /// # Errors
    /// A process does not start, or no image comes.
    pub fn start(&self) -> anyhow::Result<Flowing> {
        let assembler = self.agent("assembler")?;
        let readout = self.agent("readout")?;
        let ring = self.wait_for_readout()?;
        let mut reader = Reader::reliable(&ring, ProcessId::current(), "bench", Start::Next)?;
        let generator = self.generator()?;
        reader.next(START_PATIENCE).context("no image came through the path")?;
        Ok(Flowing { _generator: generator, reader, ring, _readout: readout, _assembler: assembler })
    }

    /// # Errors
    /// It does not start.
    pub fn generator(&self) -> anyhow::Result<Running> {
        self.run(&["sim", "eiger", "--config", "detector.json", "--images", "100000000"])
    }

    fn agent(&self, kind: &str) -> anyhow::Result<Running> {
        self.run(&["agent", kind, "--config", "beamline.toml", "-q"])
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<Running> {
        Running::start(&self.program, self.folder.path(), arguments)
    }

    fn wait_for_readout(&self) -> anyhow::Result<Ring> {
        let start = Instant::now();
        while start.elapsed() < START_PATIENCE {
            if let Ok(ring) = ecs_shm_buffer::open(&self.ring, PixelAccess::ReadOnly)
                && !ring.status().participants.is_empty()
            {
                return Ok(ring);
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("readout and assembler were not ready within {START_PATIENCE:?}")
    }
}

/// A path that runs until this is dropped, first what feeds it.
pub struct Flowing {
    _generator: Running,
    reader: Reader,
    ring: Ring,
    _readout: Running,
    _assembler: Running,
}

impl Flowing {
    /// Reads until `is_done`; returns how many images came whole.
    pub fn read_while(&mut self, is_wanted: impl Fn() -> bool) -> u32 {
        let mut images = 0;
        while is_wanted() {
            let delivery = self.reader.next(Duration::from_millis(100));
            let image = delivery.and_then(|delivery| delivery.image);
            let whole = |packets: u32| packets == self.ring.geometry().packets_per_image;
            images += u32::from(image.is_some_and(|image| whole(image.packets_received)));
        }
        images
    }
}

/// Measures something while the path runs and a reader takes its images.
///
/// # Errors
/// The path does not start, or carried nothing meanwhile; or the first of `measure`.
pub fn beside(path: &ImagePath, measure: impl FnOnce() -> anyhow::Result<f64>) -> anyhow::Result<f64> {
    let mut flowing = path.start()?;
    let is_measured = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| flowing.read_while(|| !is_measured.load(Ordering::Relaxed)));
        let measured = measure();
        is_measured.store(true, Ordering::Relaxed);
        let images = reader.join().expect("a reader does not panic");
        if images == 0 {
            bail!("no image came whole through the path while it was measured");
        }
        measured
    })
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
