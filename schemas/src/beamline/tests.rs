use super::*;
use crate::detector::PixelType;
use std::{io, path::Path};

const EIGER: &str = include_str!("../../../tests/data/eiger-500k/detector.json");
const MINIMAL: &str = "[beamline]\nname = \"x01\"\n[detector]\nconfig = \"detector.json\"\n";
const FILE: &str = "/lab/x01.toml";

/// Parses `text` with a detector file that holds `json`.
fn parse_with(text: &str, json: &str) -> Result<Beamline, BeamlineErrors> {
    let load = |path: &Path| match path == Path::new("/lab/detector.json") {
        true => Ok(json.to_owned()),
        false => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    Beamline::parse(text, Path::new(FILE), &load)
}

fn parse(text: &str) -> Result<Beamline, BeamlineErrors> {
    parse_with(text, EIGER)
}

/// The errors as they print, without the folder.
fn errors(text: &str) -> Vec<String> {
    let errors = parse(text).expect_err(text);
    errors.0.iter().map(|error| error.to_string().replace("/lab/", "")).collect()
}

#[test]
fn minimal_file_gives_every_default() {
    let beamline = parse(MINIMAL).expect("valid");
    assert_eq!(beamline.name, "x01");
    assert_eq!(beamline.data_folder, Path::new("/lab"));
    assert_eq!(beamline.state_folder, Path::new("/lab/.ecs/x01"));
    assert!(beamline.cores.is_empty() && !beamline.realtime);
    assert_eq!(beamline.broker, BrokerConfig::default());
    assert_eq!(beamline.ring, RingConfig { path: "/dev/shm/ecs-x01.ring".into(), size_bytes: 1 << 30 });
    assert_eq!(beamline.detector.placement.pixel, PixelType::U32);
    let readout = ReadoutConfig {
        processes: 1,
        address: [0, 0, 0, 0].into(),
        receive_buffer_bytes: 64 << 20,
        senders: Vec::new(),
        coalesce: true,
        cores: Vec::new(),
    };
    assert_eq!(beamline.readout, readout);
    let assembler =
        AssemblerConfig { deadline: Duration::from_millis(200), fill: u32::MAX, open_images: 32, core: None };
    assert_eq!(beamline.assembler, assembler);
    let writer = WriterConfig { processes: 1, image_timeout: Duration::from_secs(30), sync: true };
    assert_eq!(beamline.writer, writer);
}

#[test]
fn every_key_is_read() {
    let text = r#"
        [beamline]
        name = "x01"
        data_folder = "/data"
        state_folder = "state"
        cores = [0, 1]
        realtime = true
        [broker]
        request_endpoint = "tcp://10.0.0.1:9000"
        publish_endpoint = "ipc:///run/ecs"
        keys = "keys"
        key = "/home/anna.key"
        insecure = true
        heartbeat = "100 ms"
        timeout = "1 s"
        [detector]
        config = "detector.json"
        [ring]
        path = "/dev/shm/other"
        size = 67_108_864
        [readout]
        processes = 2
        address = "127.0.0.1"
        receive_buffer = "4 MiB"
        senders = ["10.0.0.2", "10.0.0.3:5000"]
        coalesce = false
        cores = [3, 0x5]
        [assembler]
        deadline = "1.5 s"
        fill = 7
        open_images = 9
        core = 1
        [writer]
        processes = 2
        image_timeout = "5 s"
        sync = false
    "#;
    let beamline = parse(text).expect("valid");
    assert_eq!(beamline.data_folder, Path::new("/data"));
    assert_eq!(beamline.state_folder, Path::new("/lab/state"));
    assert!(beamline.cores == [0, 1] && beamline.realtime);
    let broker = BrokerConfig {
        request_endpoint: "tcp://10.0.0.1:9000".into(),
        publish_endpoint: "ipc:///run/ecs".into(),
        heartbeat: Duration::from_millis(100),
        timeout: Duration::from_secs(1),
        keys: Some("/lab/keys".into()),
        key: Some("/home/anna.key".into()),
        insecure: true,
    };
    assert_eq!(beamline.broker, broker);
    assert_eq!(beamline.key_folder(), Path::new("/lab/keys"));
    assert_eq!(beamline.ring, RingConfig { path: "/dev/shm/other".into(), size_bytes: 64 << 20 });
    let senders = ["10.0.0.2", "10.0.0.3:5000"].map(|sender| sender.parse().expect("an address")).to_vec();
    let readout = ReadoutConfig {
        processes: 2,
        address: [127, 0, 0, 1].into(),
        receive_buffer_bytes: 4 << 20,
        senders,
        coalesce: false,
        cores: vec![3, 5],
    };
    assert_eq!(beamline.readout, readout);
    let assembler = AssemblerConfig { deadline: Duration::from_millis(1500), fill: 7, open_images: 9, core: Some(1) };
    assert_eq!(beamline.assembler, assembler);
    let writer = WriterConfig { processes: 2, image_timeout: Duration::from_secs(5), sync: false };
    assert_eq!(beamline.writer, writer);
}

#[test]
fn keys_are_beside_the_state_folder_where_nothing_else_is_said() {
    let beamline = parse(MINIMAL).expect("valid");
    assert_eq!((beamline.broker.keys.as_ref(), beamline.broker.insecure), (None, false));
    assert_eq!(beamline.key_folder(), Path::new("/lab/.ecs/x01-keys"));
}

#[test]
fn one_wrong_key_is_reported_with_its_place_what_was_found_and_what_is_allowed() {
    // Appended to the minimal file, so line 5 is the section's header and line 6 the key.
    let cases = [
        ("[ring]\nsise = \"1 GiB\"", "x01.toml:6:1: ring.sise: unknown key; did you mean ring.size?"),
        ("[rings]", "x01.toml:5:2: rings: unknown section; did you mean [ring]?"),
        ("[writer]\ndeadline = \"1 s\"", "6:1: writer.deadline: unknown key; did you mean assembler.deadline?"),
        ("[ring]\nqqqqqqqq = 1", "ring.qqqqqqqq: unknown key; the keys of [ring] are path, size"),
        ("[ring]\nsize = \"1 Gig\"", "6:8: ring.size: found \"1 Gig\"; allowed: a size from \"1 B\""),
        ("[ring]\nsize = \"16 MiB\"", "found \"16 MiB\"; allowed: at least 8 images of 2117680 bytes: 16941440 bytes"),
        ("[broker]\nheartbeat = 1", "6:13: broker.heartbeat: found 1; allowed: a duration from \"20 ms\" to \"1 min\""),
        ("[broker]\nheartbeat = \"2 s\"", "broker.timeout: found 3 s (the default); allowed: at least twice"),
        ("[broker]\nrequest_endpoint = \"localhost:1\"", "allowed: \"tcp://host:port\" or \"ipc:///path\""),
        ("[broker]\nrequest_endpoint = \"tcp://*:7750\"", "allowed: \"tcp://host:port\""),
        ("[broker]\nrequest_endpoint = \"tcp://h:0\"", "allowed: \"tcp://host:port\""),
        ("[broker]\npublish_endpoint = \"tcp://127.0.0.1:7750\"", "other than broker.request_endpoint"),
        ("[readout]\nprocesses = 5", "readout.processes: found 5; allowed: a whole number from 1 to 4"),
        ("[readout]\nprocesses = 0", "found 0; allowed: a whole number from 1 to 4"),
        ("[readout]\nsenders = [\"10.0.0.2\", \"host\"]", "readout.senders: found"),
        ("[readout]\nsenders = \"10.0.0.2\"", "allowed: a list of at most 1024 IPv4 addresses"),
        ("[readout]\naddress = \"::1\"", "allowed: an IPv4 address"),
        ("[readout]\ncores = [0, -1]", "found [0, -1]; allowed: a list of numbers of cores from 0 to 1023"),
        ("[assembler]\ncore = 1024", "assembler.core: found 1024; allowed: a core from 0 to 1023"),
        ("[assembler]\nfill = -1", "assembler.fill: found -1; allowed: \"all_ones\", or a whole number from 0 to"),
        ("[assembler]\nfill = \"zero\"", "found \"zero\"; allowed: \"all_ones\""),
        ("[assembler]\nopen_images = 65", "found 65; allowed: a whole number from 1 to 64"),
        ("[assembler]\ndeadline = \"31 s\"", "writer.image_timeout: found 30 s (the default); allowed: longer than"),
        ("[writer]\nsync = \"yes\"", "found \"yes\"; allowed: true or false"),
        ("[writer]\nprocesses = [\n 1,\n 2 ]", "found [ 1, 2 ]; allowed: a whole number"),
        ("broker = 3", "detector.broker: unknown key"),
        ("[ring]\nsize = ", "x01.toml:6:"),
        ("[ring]\n[ring]", "x01.toml:6:"),
    ];
    for (added, expected) in cases {
        let errors = errors(&format!("{MINIMAL}{added}"));
        assert_eq!(errors.len(), 1, "{added}: {errors:#?}");
        assert!(errors[0].contains(expected), "{added}: {errors:#?}");
    }
}

#[test]
fn several_wrong_keys_are_reported_at_once_in_the_order_of_the_file() {
    let text = "ring = 3\n[beamline]\nname = \"no spaces\"\ncolour = 1\n[writer]\nprocesses = 99\n";
    let expected =
        [("1:8", "ring"), ("3:8", "beamline.name"), ("4:1", "beamline.colour"), ("6:13", "writer.processes")];
    let found = parse(text).expect_err("wrong");
    for (line_column, key) in expected {
        let is = |error: &BeamlineError| error.key == key && line_column == format!("{}:{}", error.line, error.column);
        assert!(found.0.iter().any(is), "{key}: {found}");
    }
    assert!(found.0.iter().any(|error| error.key == "detector.config"), "{found}");
    assert!(found.0.is_sorted_by_key(|error| (error.line, error.column)), "{found}");
    assert_eq!(found.0.len(), expected.len() + 1, "{found}");
}

#[test]
fn empty_file_names_what_it_must_have() {
    let errors = errors("");
    assert!(errors.iter().any(|error| error.contains("beamline.name: missing")), "{errors:?}");
    assert!(errors.iter().any(|error| error.contains("detector.config: missing")), "{errors:?}");
}

#[test]
fn wrong_fields_of_the_detector_file_are_reported_with_that_file_and_their_lines() {
    let json = EIGER.replace("\"bit_depth\": 32", "\"bit_depth\": \"deep\"").replace("\"n_modules\": 4,", "");
    let errors = parse_with(MINIMAL, &json).expect_err("wrong");
    let printed = errors.to_string();
    assert_eq!(errors.0.len(), 2, "{printed}");
    assert!(printed.contains("/lab/detector.json:5:3: bit_depth: found \"deep\"; allowed: 8, 16 or 32"), "{printed}");
    assert!(printed.contains("n_modules: missing"), "{printed}");

    let cut = parse_with(MINIMAL, "{\n \"n_modules\": 4,\n").expect_err("cut").to_string();
    assert!(cut.starts_with("/lab/detector.json:3:1: not a JSON object"), "{cut}");
}

#[test]
fn every_wrong_position_of_a_detector_is_reported() {
    let json = EIGER.replace("258,\n      513,\n      513", "258,\n      513,\n      500").replace("1029,", "2000,");
    let errors = parse_with(MINIMAL, &json).expect_err("wrong");
    let keys: Vec<_> = errors.0.iter().map(|error| error.key.as_str()).collect();
    assert_eq!(keys, ["module_positions.0", "module_positions.1", "module_positions.3"], "{errors}");
    assert!(errors.0.is_sorted_by_key(|error| error.line), "{errors}");
}

#[test]
fn detector_inline_equals_the_same_detector_in_a_file() {
    let fields = r#"
        detector_name = "EG05M"
        detector_type = "eiger"
        n_modules = 4
        bit_depth = 32
        image_pixel_height = 514
        image_pixel_width = 1030
        start_udp_port = 50028
        [detector.module_positions]
        0 = [0, 258, 513, 513]
        1 = [516, 258, 1029, 513]
        2 = [0, 255, 513, 0]
        3 = [516, 255, 1029, 0]
    "#;
    let inline = format!("[beamline]\nname = \"x01\"\n[detector]{fields}");
    assert_eq!(parse(&inline), parse(MINIMAL));

    let wrong = errors(&inline.replace("1029, 513]", "1028, 513]").replace("= 50028", "= 5.5"));
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert!(wrong[0].contains("detector.start_udp_port: found \"5.5"), "{wrong:?}");
    let wrong = errors(&inline.replace("1029, 513]", "1028, 513]"));
    assert!(wrong[0].contains("x01.toml:13:13: detector.module_positions.1: found [516, 258, 1028"), "{wrong:?}");
    let both = errors(&format!("{MINIMAL}n_modules = 4"));
    assert!(
        both[0].contains("detector.n_modules: found 4; allowed: the fields of the detector here, or config"),
        "{both:?}"
    );
}

#[test]
fn detector_file_that_cannot_be_read_is_named_with_the_reason() {
    let errors = errors(&MINIMAL.replace("detector.json", "other.json"));
    assert!(errors[0].starts_with("x01.toml:4:10: detector.config: cannot read other.json: "), "{errors:?}");
}

#[test]
fn hostile_numbers_are_errors_and_never_a_panic() {
    for (from, to) in [
        ("\"image_pixel_width\": 1030", "\"image_pixel_width\": 18446744073709551615"),
        ("\"image_pixel_height\": 514", "\"image_pixel_height\": 0"),
        ("\"3\": [", "\"4294967295\": ["),
        ("\"n_modules\": 4", "\"n_modules\": 4294967295"),
        ("1029,", "9223372036854775807,"),
    ] {
        let json = EIGER.replacen(from, to, 1);
        assert_ne!(json, EIGER);
        assert!(parse_with(MINIMAL, &json).is_err(), "{to}");
    }
}

#[test]
fn small_ring_lowers_the_default_of_open_images() {
    let beamline = parse(&format!("{MINIMAL}[ring]\nsize = \"32 MiB\"")).expect("valid");
    assert_eq!(beamline.assembler.open_images, 7, "32 MiB hold 15 images");
}

#[test]
fn fill_default_and_range_follow_the_pixel_type() {
    let json = EIGER.replace("\"bit_depth\": 32", "\"bit_depth\": 16");
    assert_eq!(parse_with(MINIMAL, &json).map(|beamline| beamline.assembler.fill), Ok(0xffff));
    let wrong = parse_with(&format!("{MINIMAL}[assembler]\nfill = 65536"), &json).expect_err("too large");
    assert!(wrong.to_string().contains("from 0 to 65535"), "{wrong}");
}

const JUNGFRAU: &str = "[beamline]\nname = \"x01\"\n[detector]\ndetector_type = \"jungfrau\"\nmodel = \"1M\"\n\
    start_udp_port = 5000\n";

#[test]
fn converted_pixels_are_of_the_type_and_size_that_the_ring_and_the_fill_value_follow() {
    let conversion = "[conversion]\nto = \"photons\"\npixel = \"i32\"\nphoton_energy = \"8048 eV\"\n\
        gain = [\"m0.bin\", \"/g/m1.bin\"]\npedestal = \"dark.h5\"\nmask = \"mask.h5\"\n";
    let beamline = parse(&format!("{JUNGFRAU}{conversion}")).expect("valid");
    let convert = beamline.conversion.convert.expect("it is asked for");
    assert_eq!((convert.unit.as_str(), convert.unit.one_kev()), ("photons", 8.048));
    assert_eq!(convert.gain, ["/lab/m0.bin", "/g/m1.bin"].map(PathBuf::from));
    assert_eq!(beamline.conversion.mask.as_deref(), Some("/lab/mask.h5".as_ref()));
    assert_eq!(beamline.detector.placement.pixel, PixelType::I32);
    assert_eq!(beamline.detector.placement.image_bytes(), 1064 * 1030 * 4);
    assert_eq!(beamline.assembler.fill as i32, i32::MIN);

    let float = "[conversion]\nto = \"keV\"\ngain = \"g.h5\"\n";
    let fill = |fill: &str| parse(&format!("{JUNGFRAU}{float}{fill}")).map(|beamline| beamline.assembler.fill);
    assert!(fill("").is_ok_and(|bits| f32::from_bits(bits).is_nan()));
    assert_eq!(fill("[assembler]\nfill = -1.5"), Ok((-1.5_f32).to_bits()));
    assert_eq!(fill("[assembler]\nfill = 7"), Ok(7.0_f32.to_bits()));
    assert!(fill("[assembler]\nfill = \"all_ones\"").is_err(), "it says nothing of a float");
    assert!(parse(JUNGFRAU).is_ok_and(|beamline| beamline.detector.placement.pixel == PixelType::U16));
}

#[test]
fn conversion_that_cannot_be_is_refused_with_its_reason() {
    let wrong = |conversion: &str| errors(&format!("{JUNGFRAU}[conversion]\n{conversion}")).join("\n");
    assert!(wrong("gain = \"g.h5\"").contains("conversion.to: missing"));
    assert!(wrong("to = \"keV\"").contains("conversion.gain: missing"));
    assert!(wrong("to = \"photons\"\ngain = \"g.h5\"").contains("conversion.photon_energy: missing"));
    assert!(wrong("to = \"keV\"\ngain = \"g.h5\"\nphoton_energy = \"8 keV\"").contains("only with to"));
    assert!(wrong("to = \"photons\"\ngain = \"g\"\nphoton_energy = \"8\"").contains("with its unit"));
    assert!(wrong("to = \"keV\"\ngain = []").contains("conversion.gain: found []"));
    let eiger = errors(&format!("{MINIMAL}[conversion]\nto = \"keV\"\ngain = \"g.h5\"")).join("\n");
    assert!(eiger.contains("only for a detector that switches gains"), "{eiger}");
    let masked = parse(&format!("{MINIMAL}[conversion]\nmask = \"m.h5\"")).expect("any detector may have a mask");
    assert_eq!(masked.conversion.convert, None);
    let converted = JUNGFRAU.replace("jungfrau", "jungfrau-converted");
    assert!(errors(&converted).join("\n").contains("conversion.gain: missing"));
    assert!(parse(&format!("{converted}[conversion]\ngain = \"g.h5\"")).is_ok());
}

#[test]
fn spec_has_every_key_and_no_other() {
    let spec = include_str!("../../spec/beamline.md");
    let in_spec: Vec<&str> = spec.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let in_code: Vec<String> = keys::SECTIONS
        .iter()
        .flat_map(|(section, keys)| keys.iter().map(move |key| format!("{section}.{key}")))
        .collect();
    assert_eq!(in_spec, in_code);
}

#[test]
fn readout_modules_share_the_ports_without_gap_or_overlap() {
    for processes in 1..=4 {
        let beamline = parse(&format!("{MINIMAL}[readout]\nprocesses = {processes}")).expect("valid");
        let modules: Vec<usize> = (0..processes).flat_map(|index| beamline.readout_modules(index)).collect();
        assert_eq!(modules, [0, 1, 2, 3]);
    }
}
