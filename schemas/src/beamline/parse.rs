//! `Beamline::parse`: from the text of a TOML file to a checked configuration, or to all its errors.

use super::{
    AllowedSender, AssemblerConfig, Beamline, BeamlineErrors, BrokerConfig, Problem, ReadoutConfig, RingConfig,
    SENDERS_MAX, WriterConfig, conversion,
    detector_section::{self, Load},
    keys::SECTIONS,
    section::{self, Report, Section},
    units::{bytes_text, duration_text},
};
use crate::{
    detector::{PixelType, Placement},
    registry,
};
use std::{
    net::Ipv4Addr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};
use toml::de::{DeTable, DeValue};

/// Longest name of a beamline: it starts every agent's name and is part of a file's name.
const NAME_BYTES_MAX: usize = 64;
/// Fewer images than this in the ring leave the assembler no window ahead of the readers.
const RING_IMAGES_MIN: u64 = 8;
/// A ring larger than any host's memory is a slip of the pen.
const RING_BYTES_MAX: u64 = 4 << 40;
const RING_BYTES_DEFAULT: u64 = 1 << 30;
/// The kernel takes the size as a 32 bit integer and doubles it.
const RECEIVE_BUFFER_BYTES: RangeInclusive<u64> = 64 << 10..=1 << 30;
const RECEIVE_BUFFER_BYTES_DEFAULT: u64 = 64 << 20;
/// The ring's bitmaps of open images have one word.
const OPEN_IMAGES_MAX: u64 = 64;
/// The highest core that the kernel's sets of them hold.
const CORE_MAX: u32 = 1023;
const OPEN_IMAGES_DEFAULT: u64 = 32;
/// Each writer is a reliable reader of the ring, which has room for 16.
const WRITERS_MAX: u64 = 16;
/// Below, heartbeats would be the broker's main work; above, an agent's death goes unseen for minutes.
const HEARTBEAT: RangeInclusive<Duration> = Duration::from_millis(20)..=Duration::from_secs(60);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(40)..=Duration::from_secs(600);
/// Below, an image would be closed before a busy kernel has handed its packets over.
const DEADLINE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);
const IMAGE_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(24 * 3600);

impl Beamline {
    /// Reads a beamline's TOML file. Paths in it are relative to the folder of `file_path`, which
    /// should be absolute so that they mean the same to every process; `load` reads the detector's JSON
    /// file, if there is one.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the file. Where the text is not TOML, only that: what
    /// else is wrong cannot be told.
    ///
    /// # Example
    /// ```
    /// use ecs_schemas::beamline::Beamline;
    /// let text = "[beamline]\nname = \"x01\"\n[ring]\nsise = \"1 GiB\"\n[detector]\nconfig = \"d.json\"";
    /// let load = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    /// let errors = Beamline::parse(text, "/b/x01.toml".as_ref(), &load).expect_err("two errors");
    /// assert_eq!(errors.0[0].to_string(), "/b/x01.toml:4:1: ring.sise: unknown key; did you mean ring.size?");
    /// assert_eq!(errors.0[1].key, "detector.config");
    /// ```
    pub fn parse(text: &str, file_path: &Path, load: Load) -> Result<Self, BeamlineErrors> {
        let mut report = Report::new(file_path, text);
        let (document, syntax_errors) = DeTable::parse_recoverable(text);
        for error in &syntax_errors {
            let at_byte = error.span().map_or(0, |span| span.start);
            report.add(at_byte, "", Problem::Syntax(error.message().to_owned()));
        }
        let beamline =
            if syntax_errors.is_empty() { Reader::new(document.get_ref(), &mut report).beamline(load) } else { None };
        report.errors.sort_by_key(|error| (error.file != file_path, error.line, error.column));
        beamline.filter(|_| report.errors.is_empty()).ok_or(BeamlineErrors(report.errors))
    }
}

/// Reads the sections one by one.
struct Reader<'r, 'a, 'i> {
    document: &'a DeTable<'i>,
    report: &'r mut Report<'a>,
    folder: PathBuf,
}

impl<'r, 'a, 'i> Reader<'r, 'a, 'i> {
    fn new(document: &'a DeTable<'i>, report: &'r mut Report<'a>) -> Self {
        section::check_sections(document, report);
        let folder = report.file.parent().unwrap_or(Path::new("")).to_owned();
        Self { document, report, folder }
    }

    fn open(&mut self, name: &'static str) -> Section<'a, 'i> {
        let keys = SECTIONS.iter().find(|(section, _)| *section == name).expect("a section of the table").1;
        section::open(self.document, name, keys, self.report)
    }

    fn beamline(&mut self, load: Load) -> Option<Beamline> {
        let section = self.open("beamline");
        let name = self.name(&section);
        let data_folder = self.path(&section, "data_folder").unwrap_or_else(|| self.folder.clone());
        let state_folder = self.path(&section, "state_folder");
        let cores = self.cores(&section);
        let realtime = section.flag(self.report, "realtime", false);
        let broker = self.broker();
        let mut detector = detector_section::read(&self.open("detector"), &self.folder, load, self.report);
        let conversion = conversion::read(&self.open("conversion"), &self.folder, &mut detector, self.report);
        let geometry = detector.as_ref().map(|detector| &detector.placement);
        let (ring_path, ring_size_bytes) = self.ring(geometry);
        let readout = self.readout(geometry);
        let assembler = self.assembler(geometry, ring_size_bytes);
        let writer = self.writer(assembler.deadline);
        let name = name?;
        Some(Beamline {
            data_folder,
            state_folder: state_folder.unwrap_or_else(|| self.folder.join(".ecs").join(&name)),
            cores,
            realtime,
            broker,
            detector: detector?,
            conversion,
            ring: RingConfig {
                path: ring_path.unwrap_or_else(|| format!("/dev/shm/ecs-{name}.ring").into()),
                size_bytes: ring_size_bytes,
            },
            readout,
            assembler,
            writer,
            name,
        })
    }

    fn name(&mut self, section: &Section) -> Option<String> {
        let allowed =
            format!("1 to {NAME_BYTES_MAX} letters, digits, '-', '_' and '.', starting with a letter or digit");
        if section.value("name").is_none() {
            section.missing(self.report, "name", &allowed);
        }
        let valid = |name: &&str| {
            let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
            let one_part = !name.contains('/') && registry::check_name(&format!("{name}/agent")).is_ok();
            starts_well && one_part && name.len() <= NAME_BYTES_MAX
        };
        section.get(self.report, "name", &allowed, |value| value.as_str().filter(valid).map(str::to_owned))
    }

    fn path(&mut self, section: &Section, key: &str) -> Option<PathBuf> {
        section.text(self.report, key, "a path, relative to this file").map(|path| self.folder.join(path))
    }

    fn broker(&mut self) -> BrokerConfig {
        let section = self.open("broker");
        let default = BrokerConfig::default();
        let request_endpoint = self.endpoint(&section, "request_endpoint", default.request_endpoint);
        let publish_endpoint = self.endpoint(&section, "publish_endpoint", default.publish_endpoint);
        if request_endpoint == publish_endpoint {
            let allowed = "an endpoint other than broker.request_endpoint".to_owned();
            section.wrong(self.report, "publish_endpoint", &publish_endpoint, allowed);
        }
        let heartbeat = section.duration(self.report, "heartbeat", HEARTBEAT, default.heartbeat);
        let timeout = section.duration(self.report, "timeout", TIMEOUT, default.timeout);
        if timeout < heartbeat * 2 {
            let allowed = format!("at least twice broker.heartbeat, {}", duration_text(heartbeat * 2));
            section.wrong(self.report, "timeout", &duration_text(timeout), allowed);
        }
        let (keys, key) = (self.path(&section, "keys"), self.path(&section, "key"));
        let insecure = section.flag(self.report, "insecure", default.insecure);
        BrokerConfig { request_endpoint, publish_endpoint, heartbeat, timeout, keys, key, insecure }
    }

    fn endpoint(&mut self, section: &Section, key: &str, default: String) -> String {
        let allowed = "\"tcp://host:port\" or \"ipc:///path\"";
        let read = |value: &DeValue| value.as_str().filter(|text| is_endpoint(text)).map(str::to_owned);
        section.get(self.report, key, allowed, read).unwrap_or(default)
    }

    fn ring(&mut self, placement: Option<&Placement>) -> (Option<PathBuf>, u64) {
        let section = self.open("ring");
        let path = self.path(&section, "path");
        let size_bytes = section.bytes(self.report, "size", 1..=RING_BYTES_MAX, RING_BYTES_DEFAULT);
        let image_bytes = placement.map_or(0, |placement| placement.image_bytes() as u64);
        let size_bytes_min = image_bytes * RING_IMAGES_MIN;
        if size_bytes < size_bytes_min {
            let allowed = format!("at least {RING_IMAGES_MIN} images of {image_bytes} bytes: {size_bytes_min} bytes");
            section.wrong(self.report, "size", &bytes_text(size_bytes), allowed);
        }
        (path, size_bytes)
    }

    fn readout(&mut self, placement: Option<&Placement>) -> ReadoutConfig {
        let section = self.open("readout");
        let modules = placement.map_or(u64::from(u16::MAX), |placement| placement.modules as u64);
        let address = |value: &DeValue| value.as_str().and_then(|text| text.parse::<Ipv4Addr>().ok());
        let address = section.get(self.report, "address", "an IPv4 address, for example \"0.0.0.0\"", address);
        let range = RECEIVE_BUFFER_BYTES;
        ReadoutConfig {
            processes: section.count(self.report, "processes", 1..=modules, 1) as u32,
            address: address.unwrap_or(Ipv4Addr::UNSPECIFIED),
            receive_buffer_bytes: section.bytes(self.report, "receive_buffer", range, RECEIVE_BUFFER_BYTES_DEFAULT),
            senders: self.senders(&section),
            coalesce: section.flag(self.report, "coalesce", true),
            cores: self.cores(&section),
        }
    }

    fn senders(&mut self, section: &Section) -> Vec<AllowedSender> {
        let allowed = format!(
            "a list of at most {SENDERS_MAX} IPv4 addresses, each with its source port where that matters: \
             [\"10.0.0.2\", \"10.0.0.3:5000\"]"
        );
        let read = |value: &DeValue| {
            let senders = value.as_array()?.iter().map(|sender| sender.get_ref().as_str()?.parse().ok());
            senders.collect::<Option<Vec<_>>>().filter(|senders| senders.len() <= SENDERS_MAX)
        };
        section.get(self.report, "senders", &allowed, read).unwrap_or_default()
    }

    fn cores(&mut self, section: &Section) -> Vec<u32> {
        let allowed = format!("a list of numbers of cores from 0 to {CORE_MAX}: [2, 3]");
        let read = |value: &DeValue| value.as_array()?.iter().map(|core| core_number(core.get_ref())).collect();
        section.get(self.report, "cores", &allowed, read).unwrap_or_default()
    }

    fn assembler(&mut self, placement: Option<&Placement>, ring_size_bytes: u64) -> AssemblerConfig {
        let section = self.open("assembler");
        let pixel = placement.map_or(PixelType::U32, |placement| placement.pixel);
        let fill = section.get(self.report, "fill", &fill_text(pixel), |value| fill_bits(value, pixel));
        let fill = fill.unwrap_or(pixel.missing());
        let ring_images = placement.map_or(u64::MAX, |placement| ring_size_bytes / placement.image_bytes() as u64);
        let open_images_max = OPEN_IMAGES_MAX.min(ring_images / 2).max(1);
        let open_images_default = OPEN_IMAGES_DEFAULT.min(open_images_max);
        AssemblerConfig {
            deadline: section.duration(self.report, "deadline", DEADLINE, Duration::from_millis(200)),
            fill,
            open_images: section.count(self.report, "open_images", 1..=open_images_max, open_images_default) as u32,
            core: section.get(self.report, "core", &format!("a core from 0 to {CORE_MAX}"), core_number),
        }
    }

    fn writer(&mut self, deadline: Duration) -> WriterConfig {
        let section = self.open("writer");
        let image_timeout = section.duration(self.report, "image_timeout", IMAGE_TIMEOUT, Duration::from_secs(30));
        if image_timeout <= deadline {
            let allowed = format!("longer than assembler.deadline, {}", duration_text(deadline));
            section.wrong(self.report, "image_timeout", &duration_text(image_timeout), allowed);
        }
        WriterConfig {
            processes: section.count(self.report, "processes", 1..=WRITERS_MAX, 1) as u32,
            image_timeout,
            sync: section.flag(self.report, "sync", true),
        }
    }
}

fn core_number(value: &DeValue) -> Option<u32> {
    let integer = value.as_integer()?;
    u32::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|core| *core <= CORE_MAX)
}

/// The bits of a fill value that a pixel can hold.
fn fill_bits(value: &DeValue, pixel: PixelType) -> Option<u32> {
    let number = || {
        let integer = value.as_integer()?;
        i64::from_str_radix(integer.as_str(), integer.radix()).ok()
    };
    let float = || value.as_float().and_then(|float| float.as_str().parse::<f32>().ok());
    match (pixel, value.as_str()) {
        (PixelType::I32, Some("lowest")) | (PixelType::F32, Some("nan")) => Some(pixel.missing()),
        (PixelType::I32, _) => number().and_then(|fill| i32::try_from(fill).ok()).map(|fill| fill as u32),
        (PixelType::F32, _) => float().or_else(|| number().map(|fill| fill as f32)).map(f32::to_bits),
        (_, Some("all_ones")) => Some(pixel.all_ones()),
        _ => number().and_then(|fill| u32::try_from(fill).ok()).filter(|&fill| fill <= pixel.all_ones()),
    }
}

fn fill_text(pixel: PixelType) -> String {
    match pixel {
        PixelType::F32 => "\"nan\", or a number".to_owned(),
        PixelType::I32 => format!("\"lowest\", or a whole number from {} to {}", i32::MIN, i32::MAX),
        _ => format!("\"all_ones\", or a whole number from 0 to {} (what a pixel can hold)", pixel.all_ones()),
    }
}

/// `tcp://host:port` with a port of 1 or more, or `ipc://` and a path. The broker binds to it and the
/// others connect to it, so `*` is refused: `0.0.0.0` serves both on one host.
fn is_endpoint(text: &str) -> bool {
    if let Some(path) = text.strip_prefix("ipc://") {
        return !path.is_empty();
    }
    let host_and_port = text.strip_prefix("tcp://").and_then(|address| address.rsplit_once(':'));
    host_and_port
        .is_some_and(|(host, port)| !matches!(host, "" | "*") && port.parse::<u16>().is_ok_and(|port| port > 0))
}
