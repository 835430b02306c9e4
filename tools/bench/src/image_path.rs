//! The image path as processes: generator → readout → assembler → a reader here. The generator sends as fast as it can, or as asked.

use crate::{
    cores::on_core,
    detectors::{PORTS, Which},
    receive_floor::{self, Handover},
    running::{self, Running},
};
use anyhow::{Context, bail};
use ecs_schemas::detector::{Detector, DetectorConfig, Placement};
use ecs_shm_buffer::{PixelAccess, ProcessId, Reader, Ring, Start};
use serde::Deserialize;
use std::{
    fs::{self, File},
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

const START_PATIENCE: Duration = Duration::from_secs(30);
/// A generator that was asked to end has sent its image after this long.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// Asked for each socket; the readout's default.
pub const BUFFER_BYTES: i32 = 64 << 20;
/// Ports that were free a moment ago are looked for again so often.
const PORT_TRIES: u32 = 20;
/// Of the ring's pixels.
pub const RING_BYTES: usize = 1 << 30;

/// Of the readout and of all else, where cores are apart.
pub const READOUT_CORE: u32 = 0;
pub const OTHER_CORE: u32 = 1;

/// Where the processes of a path run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCores {
    /// Where the scheduler puts them.
    Any,
    /// The readout has a core for itself, and the assembler is elsewhere. So is the generator, which lets all others go before
    /// it: the detector that it stands for takes no core of the host.
    Apart,
}

/// How a path is configured; it runs while it is [`Flowing`], or [`Standing`].
pub struct ImagePath {
    pub detector: Detector,
    on_cores: OnCores,
    program: PathBuf,
    ring: PathBuf,
    /// Its configuration files; removed at the end.
    folder: tempfile::TempDir,
}

/// What a generator has sent; part of what it says.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Sent {
    pub images: u64,
    pub packets_sent: u64,
    pub seconds: f64,
}

impl ImagePath {
    /// A path whose agents look for a broker at these endpoints; it runs without one, too.
    ///
    /// # Errors
    /// There are no ports, or no room for its configuration.
    pub fn new(
        program: &Path,
        request_endpoint: &str,
        publish_endpoint: &str,
        which: Which,
        handover: Handover,
        on_cores: OnCores,
    ) -> anyhow::Result<Self> {
        static RINGS: AtomicU32 = AtomicU32::new(0);
        let folder = running::temporary_folder()?;
        let json = which.json(free_ports(PORTS)?);
        let detector = DetectorConfig::from_json(&json).and_then(|config| config.detector())?;
        fs::write(folder.path().join("detector.json"), json)?;
        let number = RINGS.fetch_add(1, Ordering::Relaxed);
        let ring = Path::new("/dev/shm").join(format!("ecs-bench-path-{}-{number}.ring", process::id()));
        let [others, readout] = match on_cores {
            OnCores::Any => [String::new(), String::new()],
            OnCores::Apart => [OTHER_CORE, READOUT_CORE].map(|core| format!("cores = [{core}]\n")),
        };
        let beamline = format!(
            "[beamline]\nname = \"bench\"\n{others}[broker]\nrequest_endpoint = \"{request_endpoint}\"\npublish_endpoint = \
             \"{publish_endpoint}\"\n[detector]\nconfig = \"detector.json\"\n[ring]\npath = \"{}\"\nsize = {RING_BYTES}\n\
             [readout]\naddress = \"127.0.0.1\"\nreceive_buffer = {BUFFER_BYTES}\ncoalesce = {}\n{readout}",
            ring.display(),
            handover == Handover::Coalesced,
        );
        fs::write(folder.path().join("beamline.toml"), beamline)?;
        Ok(Self { detector, on_cores, program: program.to_owned(), ring, folder })
    }

    /// A path without a broker.
    ///
    /// # Errors
    /// As of [`Self::new`].
    pub fn without_broker(program: &Path, which: Which, handover: Handover) -> anyhow::Result<Self> {
        let nobody = std::env::temp_dir().join(format!("ecs-bench-nobody-{}", process::id()));
        let endpoint = |kind: &str| format!("ipc://{}.{kind}", nobody.display());
        Self::new(program, &endpoint("req"), &endpoint("pub"), which, handover, OnCores::Any)
    }

    pub fn placement(&self) -> &Placement {
        &self.detector.placement
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
        Ok(Flowing { _generator: generator, reader, _readout: readout, _assembler: assembler })
    }

    /// Starts its agents, the readout on core 0; the assembler on a core of its own, or where the scheduler puts it.
    ///
    /// # Errors
    /// A process does not start, or there is no such core.
    pub fn stand(&self, assembler_core: Option<u32>) -> anyhow::Result<Standing> {
        let assembler = || self.agent("assembler");
        let assembler = assembler_core.map_or_else(assembler, |core| on_core(core, assembler))?;
        let readout = on_core(0, || self.agent("readout"))?;
        Ok(Standing { ring: self.wait_for_readout()?, readout, _assembler: assembler })
    }

    /// # Errors
    /// It does not start.
    pub fn generator(&self) -> anyhow::Result<Running> {
        let mut command = Command::new(&self.program);
        command.args(["sim", "detector", "--config", "detector.json", "--images", "100000000"]);
        command.current_dir(self.folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        match self.on_cores {
            OnCores::Any => Running::spawn(&mut command),
            OnCores::Apart => on_core(OTHER_CORE, || Running::spawn(running::behind_all_others(&mut command))),
        }
    }

    /// A generator on core 1 that sends images from `first_id` on, `rate_hz` a second; 0: as fast as it can.
    ///
    /// # Errors
    /// It does not start.
    pub fn paced_generator(&self, first_id: u64, rate_hz: f64) -> anyhow::Result<PacedGenerator> {
        let output = self.folder.path().join("generator.json");
        let mut command = Command::new(&self.program);
        command.current_dir(self.folder.path()).stdout(File::create(&output)?).stderr(Stdio::null());
        command.args(["sim", "detector", "--config", "detector.json", "--images", "100000000", "--json"]);
        command.args(["--start", &first_id.to_string(), "--rate", &rate_hz.to_string()]);
        Ok(PacedGenerator { process: on_core(1, || Running::spawn(&mut command))?, output })
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

/// A generator that says what it has sent.
pub struct PacedGenerator {
    process: Running,
    output: PathBuf,
}

impl PacedGenerator {
    /// It sends the rest of its image and no other.
    pub fn ask_to_end(&self) {
        self.process.ask_to_end();
    }

    /// What it has sent in all, after it was asked to end.
    ///
    /// # Errors
    /// It does not end, or says nothing.
    pub fn sent(self) -> anyhow::Result<Sent> {
        let start = Instant::now();
        while !self.process.has_ended() && start.elapsed() < END_PATIENCE {
            thread::sleep(Duration::from_millis(2));
        }
        let said = fs::read_to_string(&self.output)?;
        serde_json::from_str(&said).with_context(|| format!("the generator has said: {said:?}"))
    }
}

/// Readout and assembler that wait for packets, until this is dropped.
pub struct Standing {
    pub ring: Ring,
    pub readout: Running,
    _assembler: Running,
}

impl Standing {
    /// Packets that are in their places, since the ring was made.
    pub fn placed(&self) -> u64 {
        self.ring.status().packets.placed
    }
}

/// A path that runs until this is dropped, first what feeds it.
pub struct Flowing {
    _generator: Running,
    reader: Reader,
    _readout: Running,
    _assembler: Running,
}

impl Flowing {
    /// Reads while `is_wanted`; returns how many images came whole.
    pub fn read_while(&mut self, is_wanted: impl Fn() -> bool) -> u32 {
        let mut images = 0;
        while is_wanted() {
            images += u32::from(next_is_whole(&mut self.reader, Duration::from_millis(100)) == Some(true));
        }
        images
    }
}

/// Whether the next step of a reader is an image all of whose packets came; none where none came within `patience`.
pub fn next_is_whole(reader: &mut Reader, patience: Duration) -> Option<bool> {
    let delivery = reader.next(patience)?;
    let packets = reader.ring().geometry().packets_per_image;
    Some(delivery.image.is_some_and(|image| image.packets_received == packets))
}

/// Measures something while the path runs and a reader takes its images; also how many came whole in a second.
///
/// # Errors
/// The path does not start, or carried nothing meanwhile; or the first of `measure`.
pub fn beside<T>(path: &ImagePath, measure: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, f64)> {
    let mut flowing = path.start()?;
    let is_measured = AtomicBool::new(false);
    thread::scope(|scope| {
        let start = Instant::now();
        let reader = scope.spawn(|| flowing.read_while(|| !is_measured.load(Ordering::Relaxed)));
        let measured = measure();
        is_measured.store(true, Ordering::Relaxed);
        let images = reader.join().expect("a reader does not panic");
        if images == 0 {
            bail!("no image came whole through the path while it was measured");
        }
        Ok((measured?, f64::from(images) / start.elapsed().as_secs_f64()))
    })
}

/// A detector, and sockets for a bare loop on its ports.
///
/// # Errors
/// There are no ports.
pub fn bound_detector(which: Which, handover: Handover) -> anyhow::Result<(Detector, Vec<UdpSocket>)> {
    let mut tries = 0;
    loop {
        let json = which.json(free_ports(PORTS)?);
        let detector = DetectorConfig::from_json(&json).and_then(|config| config.detector())?;
        match bind_ports(&detector.placement, handover) {
            Ok(sockets) => return Ok((detector, sockets)),
            Err(error) if tries == PORT_TRIES => return Err(error),
            Err(_) => tries += 1, // somebody else has taken one of them in this moment
        }
    }
}

/// Sockets for a bare loop on the ports of a detector.
///
/// # Errors
/// A port is taken.
pub fn bind_ports(placement: &Placement, handover: Handover) -> anyhow::Result<Vec<UdpSocket>> {
    let bind = |port: &u16| receive_floor::bind(*port, handover, BUFFER_BYTES).with_context(|| format!("port {port}"));
    placement.ports.iter().map(bind).collect()
}

/// The first of `count` UDP ports in a row that are free now.
fn free_ports(count: u16) -> anyhow::Result<u16> {
    let free = |first: &u16| (0..count).all(|port| UdpSocket::bind(("127.0.0.1", first + port)).is_ok());
    (52_000..60_000).step_by(usize::from(count)).find(free).context("no four free UDP ports in a row")
}
