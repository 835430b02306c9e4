//! An slsDetector `.config` file: the commands that set a detector up, read for its geometry and its ports.
//!
//! ```text
//! hostname beb111+beb070+          half modules (EIGER) or modules, separated by +
//! detsize 1024 512                 pixels, gaps not counted
//! 0:udp_dstport 50028              of module 0; without a number: of all, counted on
//! 0:udp_dstport2 50029
//! dr 16
//! 1:activate 0                     this half module is off
//! 1:datastream right 0             this port is
//! ```
//!
//! Modules stand as std-daq places them: column by column from the lower left (see `grid`). Other commands do not
//! concern the data path; they are accepted and ignored. Older names (`detsizechan`, `rx_udpport`, `rx_udpport2`) are
//! read as well. What is not said is as the detector's own software has it: 16 bit, and an EIGER on 1 Gbit/s.
//!
//! Sources: slsDetectorPackage, `examples/*.config` and command line documentation; std_detector_buffer,
//! `std-daq_config_gen.py`.

use super::config::{DetectorConfig, DetectorConfigError, MODULES_MAX};
use std::collections::BTreeMap;

/// Pixels of a module or, of an EIGER, of a half module.
const UNIT_WIDTH: u64 = 1024;
const EIGER_UNIT_HEIGHT: u64 = 256;
const JUNGFRAU_UNIT_HEIGHT: u64 = 512;
/// Rows of an EIGER's half module, and ports of one.
const EIGER_PORTS: u32 = 2;

/// What the commands say.
#[derive(Default)]
struct Commands {
    hosts: usize,
    detsize: Option<[u64; 2]>,
    dr: Option<u32>,
    tengiga: bool,
    readnrows: Option<u32>,
    numinterfaces: Option<u32>,
    /// Of each module, its first and second port; and of all modules.
    ports: [BTreeMap<u32, u16>; 2],
    ports_of_all: [Option<u16>; 2],
    /// Ports that are off.
    off: Vec<u32>,
}

/// Reads the commands. A file that names the type of its detector in a comment, `# detector_type = jungfrau`, is one
/// of that type; any other is an EIGER's.
pub(super) fn read(text: &str) -> Result<DetectorConfig, DetectorConfigError> {
    let mut commands = Commands::default();
    let mut detector_type = "eiger".to_owned();
    for (index, line) in text.lines().enumerate() {
        if let Some(named) = line.trim_start_matches(['#', ' ']).strip_prefix("detector_type") {
            detector_type = named.trim_matches([' ', '=', '"']).to_owned();
        }
        let line = line.split('#').next().unwrap_or_default();
        commands.take(line).map_err(|wrong| DetectorConfigError::Syntax(format!("line {}: {wrong}", index + 1)))?;
    }
    commands.config(detector_type)
}

impl Commands {
    /// Takes one line. An error says what is wrong with it.
    fn take(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let Some(command) = words.next() else { return Ok(()) };
        let arguments: Vec<&str> = words.collect();
        let (module, command) = match command.split_once(':') {
            Some((module, command)) => {
                let number = module.parse::<u32>().ok().filter(|&module| module < MODULES_MAX);
                (Some(number.ok_or_else(|| format!("{module:?} is no module"))?), command)
            }
            None => (None, command),
        };
        let number = |at: usize| {
            let argument = arguments.get(at).ok_or_else(|| format!("{command} lacks its value"))?;
            argument.parse::<u64>().map_err(|_| format!("{command} {argument}: not a whole number"))
        };
        let small = |at: usize| number(at).and_then(|value| u32::try_from(value).map_err(|error| error.to_string()));
        match command {
            "hostname" => self.hosts = arguments.join("").split('+').filter(|host| !host.is_empty()).count(),
            "detsize" | "detsizechan" => self.detsize = Some([number(0)?, number(1)?]),
            "dr" => self.dr = Some(small(0)?),
            "tengiga" => self.tengiga = number(0)? != 0,
            "readnrows" | "readnlines" => self.readnrows = Some(small(0)?),
            "numinterfaces" => self.numinterfaces = Some(small(0)?),
            "udp_dstport" | "rx_udpport" => self.take_port(0, module, number(0)?)?,
            "udp_dstport2" | "rx_udpport2" => self.take_port(1, module, number(0)?)?,
            "activate" if number(0)? == 0 => self.turn_off(module, command, &[0, 1])?,
            "datastream" if number(1)? == 0 => match arguments.first() {
                Some(&"left") => self.turn_off(module, command, &[0])?,
                Some(&"right") => self.turn_off(module, command, &[1])?,
                _ => return Err("datastream is left or right".to_owned()),
            },
            _ => {}
        }
        Ok(())
    }

    fn take_port(&mut self, which: usize, module: Option<u32>, port: u64) -> Result<(), String> {
        let port = u16::try_from(port).map_err(|_| format!("port {port} is above 65535"))?;
        match module {
            Some(module) => _ = self.ports[which].insert(module, port),
            None => self.ports_of_all[which] = Some(port),
        }
        Ok(())
    }

    fn turn_off(&mut self, module: Option<u32>, command: &str, ports: &[u32]) -> Result<(), String> {
        let module = module.ok_or_else(|| format!("{command} of all modules leaves nothing on"))?;
        self.off.extend(ports.iter().map(|port| module * EIGER_PORTS + port));
        Ok(())
    }

    fn config(self, detector_type: String) -> Result<DetectorConfig, DetectorConfigError> {
        let is_eiger = detector_type == "eiger";
        let unit_height = if is_eiger { EIGER_UNIT_HEIGHT } else { JUNGFRAU_UNIT_HEIGHT };
        let grid = self.grid(unit_height)?;
        let ports_per_unit = if is_eiger { EIGER_PORTS } else { self.numinterfaces.unwrap_or(1).clamp(1, 2) };
        let udp_ports = self.udp_ports(ports_per_unit)?;
        Ok(DetectorConfig {
            udp_ports,
            bit_depth: Some(self.dr.unwrap_or(16)),
            half_modules: is_eiger.then_some(grid),
            modules: (!is_eiger).then_some(grid),
            deactivate: if is_eiger { self.off } else { Vec::new() },
            tengiga: is_eiger.then_some(self.tengiga),
            readnrows: self.readnrows,
            numinterfaces: self.numinterfaces.filter(|_| !is_eiger), // an EIGER has one, and takes the command
            detector_type,
            ..DetectorConfig::default()
        })
    }

    /// Columns and rows of units.
    fn grid(&self, unit_height: u64) -> Result<[u32; 2], DetectorConfigError> {
        let hosts = self.hosts as u64;
        if hosts == 0 || hosts > u64::from(MODULES_MAX) {
            let allowed = format!("1 to {MODULES_MAX} names, separated by +");
            return Err(DetectorConfigError::field("hostname", format!("{hosts} names"), &allowed));
        }
        // One column is what a single module is, and the only guess that cannot be wrong.
        let one_column = (hosts <= 2).then_some([UNIT_WIDTH, hosts * unit_height]);
        let allowed = format!("{hosts} units of {UNIT_WIDTH} x {unit_height} pixels, one for each hostname");
        let detsize = self.detsize.or(one_column);
        let [x, y] = detsize.ok_or_else(|| DetectorConfigError::missing("detsize", &allowed))?;
        let [columns, rows] = [x / UNIT_WIDTH, y / unit_height];
        if !x.is_multiple_of(UNIT_WIDTH) || !y.is_multiple_of(unit_height) || columns.checked_mul(rows) != Some(hosts) {
            return Err(DetectorConfigError::field("detsize", format!("{x} {y}"), &allowed));
        }
        Ok([columns as u32, rows as u32])
    }

    fn udp_ports(&self, ports_per_unit: u32) -> Result<Vec<u16>, DetectorConfigError> {
        let port = |index: u32| {
            let (unit, which) = (index / ports_per_unit, index % ports_per_unit);
            let name = if which == 0 { "udp_dstport" } else { "udp_dstport2" };
            let counted = |first: u16, by: u32| u16::try_from(u32::from(first) + by).ok();
            let of_all = match (self.ports_of_all[0], self.ports_of_all[1]) {
                (_, Some(second)) if which == 1 => counted(second, unit * ports_per_unit),
                (Some(first), _) => counted(first, index),
                _ => None,
            };
            let found = self.ports[which as usize].get(&unit).copied().or(of_all).filter(|&port| port > 0);
            found.ok_or_else(|| DetectorConfigError::missing(&format!("{unit}:{name}"), "1 to 65535"))
        };
        (0..self.hosts as u32 * ports_per_unit).map(port).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detector::Placement;

    fn placement(text: &str) -> Result<Placement, DetectorConfigError> {
        read(text).and_then(|config| config.placement())
    }

    /// The 9M of std-daq's generator, with one half module and one port off.
    fn nine() -> String {
        let hosts: Vec<String> = (0..36).map(|host| format!("beb{host}")).collect();
        let hosts = hosts.join("+");
        format!(
            "# 9M\ndetsize 3072 3072\nhostname {hosts}+\nudp_dstport 50020 # counted on\ntengiga 1\ndr 16\n\
             threshold 5000 standard\n35:activate 0\n3:datastream right 0\n4:activate 1\n"
        )
    }

    #[test]
    fn a_nine_megapixel_detector_is_that_of_the_std_daq_generator() {
        let placement = placement(&nine()).expect("valid");
        assert_eq!((placement.height, placement.width, placement.modules), (3264, 3106, 72 - 3));
        assert_eq!((placement.ports[0], placement.ports[7], placement.ports[68]), (50020, 50028, 50089));
        assert_eq!(placement.packets_per_module, 64);
        assert_eq!(placement.segments(0)[0].offset_bytes, 3008 * 3106 * 2);
        assert_eq!(placement.pixel_mask()[2455 * 3106 + 516], 2, "the right half of half module 3 is off");
    }

    #[test]
    fn ports_are_taken_one_by_one_and_by_their_older_names() {
        let text = "detsizechan 1024 512 \nhostname beb059+beb058+ \n0:rx_udpport 50011\n0:rx_udpport2 50012\n\
                    1:rx_udpport 50013\n1:rx_udpport2 50024\n";
        let one_gigabit = placement(text).expect("valid");
        assert_eq!(one_gigabit.ports, [50011, 50012, 50013, 50024]);
        assert_eq!((one_gigabit.packets_per_module, one_gigabit.payload_bytes), (256, 1024));
        let missing = placement(&text.replace("1:rx_udpport2 50024\n", "")).expect_err("a port is missing");
        assert!(missing.to_string().contains("1:udp_dstport2 is missing"), "{missing}");
        let two = placement("hostname a+b+\nudp_dstport 10\nudp_dstport2 11\n1:udp_dstport2 99").expect("valid");
        assert_eq!(two.ports, [10, 11, 12, 99]);
    }

    #[test]
    fn a_jungfrau_is_named_in_a_comment() {
        let text = "# detector_type = jungfrau\nhostname a+b+c+d+\ndetsize 2048 1024\nnuminterfaces 2\n\
                    udp_dstport 50000\nudp_dstport2 51000";
        let placement = placement(text).expect("valid");
        assert_eq!((placement.height, placement.width, placement.modules), (1064, 2068, 8));
        assert_eq!(placement.ports[..4], [50000, 51000, 50002, 51002]);
    }

    #[test]
    fn wrong_lines_are_named() {
        for (text, expected) in [
            ("hostname a+b\ndr deep", "line 2: dr deep: not a whole number"),
            ("hostname a+b\ndr", "line 2: dr lacks its value"),
            ("hostname a+b\nx:dr 16", "line 2: \"x\" is no module"),
            ("hostname a+b\nudp_dstport 70000", "line 2: port 70000 is above 65535"),
            ("hostname a+b\nactivate 0", "line 2: activate of all modules"),
            ("hostname a+b\n0:datastream up 0", "line 2: datastream is left or right"),
            ("udp_dstport 50000", "hostname = 0 names"),
            ("hostname a+b+c\nudp_dstport 1", "detsize is missing"),
            ("hostname a+b+c\ndetsize 1024 512", "detsize = 1024 512; allowed: 3 units"),
            ("hostname a+b\ndetsize 18446744073709551615 256", "detsize = "),
            ("hostname a+b", "0:udp_dstport is missing"),
        ] {
            let error = placement(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
