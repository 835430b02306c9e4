//! Every detector through the whole system: simulator, readout, assembler, writer; and every pixel of the file.
//!
//! Where pixels come from is worked out twice: by the code, and in numpy by `tests/check_images.py`, from the
//! detectors' own documents.

use crate::support::{Beamline, Detector, Outcome, check_images, python};
use ecs_schemas::detector::DetectorConfig;
use ecs_sim::faults::Faults;
use serde_json::{Value, json};
use std::{fs, net::UdpSocket, time::Duration};

/// Runs a lossy simulation of a detector; the file must have every pixel right and exactly the lost packets marked, and
/// what the headers say of each image.
fn assert_lossy_run_is_right(detector: &'static str, check: &str, images: u64, rate_hz: u64) {
    let beamline = Beamline::up(Detector::Toml(detector), "");
    assert_lossy_run_on_is_right(&beamline, check, images, rate_hz);
}

fn assert_lossy_run_on_is_right(beamline: &Beamline, check: &str, images: u64, rate_hz: u64) {
    let placement = beamline.detector().placement;
    // A packet that is put back by 32 turns is late for good where these are more than an image or two.
    let reorder = if placement.packets_per_module < 32 { 0.0 } else { 0.02 };
    let job = beamline.submit_running("run.h5", images, &["--start", "1"]);
    // One of a hundred, or two of an image where these are many: some images are whole.
    let drop = (2.0 / placement.packets_per_image() as f64).min(0.01);
    let shares = [("--drop", drop), ("--burst", drop / 10.0), ("--duplicate", 0.02), ("--reorder", reorder)];
    let shares = shares.map(|(name, share)| [name.to_owned(), share.to_string()]).concat();
    let faults: Vec<&str> = ["--seed", "7"].into_iter().chain(shares.iter().map(String::as_str)).collect();
    let sent = Outcome::of(&mut beamline.sim(images, rate_hz, &faults)).ok().json();
    let ended = beamline.wait_end(job);
    assert_eq!(ended["state"], "done", "{check}: {ended:#}");

    let faults = Faults { seed: 7, drop, reorder, duplicate: 0.02, burst: drop / 10.0, ..Faults::default() };
    let fates = faults.of(&placement);
    let packets = placement.packets_per_image();
    let dropped = |id: u64| fates.dropped_packets(id);
    let whole_images: usize = (1..=images).filter(|&id| dropped(id).len() == packets).count();
    let missing: serde_json::Map<String, Value> = (1..=images).map(|id| (id.to_string(), json!(dropped(id)))).collect();
    fs::write(beamline.path("missing.json"), Value::Object(missing).to_string()).unwrap();
    let path = beamline.path("missing.json").display().to_string();
    let clock = rate_hz.to_string();
    let check = ["--detector", check, "--seed", "7", "--missing", &path, "--clock", &clock];
    let counts = check_images(&beamline.path("run.h5"), &check);
    assert_eq!(counts["lost_rows"], whole_images, "{check:?}: {counts:#}");
    let in_whole = (whole_images * packets) as u64;
    assert_eq!(
        counts["missing_packets"].as_u64().unwrap() + in_whole,
        sent["packets_dropped"].as_u64().unwrap(),
        "{check:?}: {counts:#}"
    );
    assert!(counts["partial"].as_u64().unwrap() > 0 || packets < 4, "nothing was lost: {counts:#}");
}

#[test]
fn eiger_of_4_bit_is_right_to_the_pixel() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 4";
    assert_lossy_run_is_right(detector, "eiger:bits=4", 200, 200);
}

#[test]
fn eiger_of_12_bit_whose_pixels_lie_across_packets_is_right_to_the_pixel() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 12";
    assert_lossy_run_is_right(detector, "eiger:bits=12", 200, 100);
}

#[test]
fn eiger_of_12_bit_on_1_gigabit_is_right_to_the_pixel() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 12\ntengiga = false";
    assert_lossy_run_is_right(detector, "eiger:bits=12:payload=1024", 100, 50);
}

#[test]
fn eiger_with_few_rows_and_a_port_off_is_right_to_the_pixel() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 32\ntengiga = false\nreadnrows = 32\n\
        deactivate = [2]";
    assert_lossy_run_is_right(detector, "eiger:bits=32:payload=1024:read=32:off=2", 200, 100);
}

#[test]
fn eiger_of_four_modules_is_right_to_the_pixel() {
    let detector = "detector_type = \"eiger\"\nmodules = [2, 2]\nbit_depth = 16";
    assert_lossy_run_is_right(detector, "eiger:bits=16:across=2:along=2", 24, 12);
}

#[test]
fn eiger_by_the_commands_of_its_own_software_is_right_to_the_pixel() {
    let commands = "hostname beb1+beb2+beb3+beb4+\ndetsize 1024 1024\ndr 8\ntengiga 1\nexptime 0.001\n";
    let beamline = Beamline::up(Detector::Commands(commands), "");
    assert_lossy_run_on_is_right(&beamline, "eiger:bits=8:along=2", 60, 60);
}

#[test]
fn eiger_of_nine_megapixels_whose_images_are_larger_than_a_block_of_the_file_system_is_right_to_the_pixel() {
    // 72 ports; 20 MB an image, in one chunk. A packet that is put back comes with the next image, 250 ms later.
    let detector = "detector_type = \"eiger\"\nmodel = \"9M\"\nbit_depth = 16";
    let beamline =
        Beamline::up(Detector::Toml(detector), "[assembler]\ndeadline = \"2 s\"\n[ring]\nsize = \"512 MiB\"\n");
    assert_lossy_run_on_is_right(&beamline, "eiger:bits=16:across=3:along=6", 4, 4);
}

#[test]
fn jungfrau_on_one_interface_is_right_to_the_pixel() {
    let detector = "detector_type = \"jungfrau\"\nn_modules = 1\nimage_pixel_height = 512\nimage_pixel_width = 1024\n\
        [module_positions]\n0 = [0, 0, 1023, 511]";
    assert_lossy_run_is_right(detector, "jungfrau:gap=0", 100, 100);
}

#[test]
fn jungfrau_on_two_interfaces_with_few_rows_and_bunch_ids_is_right_to_the_pixel() {
    let detector = "detector_type = \"jungfrau\"\nmodel = \"500K\"\nnuminterfaces = 2\nreadnrows = 128\n\
        image_id = \"bunch_id\"";
    assert_lossy_run_is_right(detector, "jungfrau:read=128:interfaces=2", 200, 200);
}

#[test]
fn jungfrau_of_two_modules_on_two_interfaces_is_right_to_the_pixel() {
    let detector = "detector_type = \"jungfrau\"\nmodules = [1, 2]\nnuminterfaces = 2";
    assert_lossy_run_is_right(detector, "jungfrau:interfaces=2:along=2", 40, 20);
}

#[test]
fn gigafrost_with_padded_packets_on_both_octets_is_right_to_the_pixel() {
    let detector = "detector_type = \"gigafrost\"\nimage_pixel_height = 252\nimage_pixel_width = 504";
    assert_lossy_run_is_right(detector, "gigafrost", 200, 200);
}

#[test]
fn gigafrost_of_another_region_of_interest_is_right_to_the_pixel() {
    let detector = "detector_type = \"gigafrost\"\nimage_pixel_height = 280\nimage_pixel_width = 528";
    assert_lossy_run_is_right(detector, "gigafrost:height=280:width=528:packet_rows=18", 200, 200);
}

#[test]
fn gigafrost_whose_last_packets_alone_are_padded_is_right_to_the_pixel() {
    let detector = "detector_type = \"gigafrost\"\nimage_pixel_height = 20\nimage_pixel_width = 1656";
    assert_lossy_run_is_right(detector, "gigafrost:height=20:width=1656:packet_rows=4", 300, 300);
}

#[test]
fn gigafrost_whose_packets_are_all_padded_is_right_to_the_pixel() {
    let detector = "detector_type = \"gigafrost\"\nimage_pixel_height = 24\nimage_pixel_width = 1272";
    assert_lossy_run_is_right(detector, "gigafrost:height=24:width=1272:packet_rows=5", 300, 300);
}

#[test]
fn gigafrost_with_one_padded_packet_a_port_is_right_to_the_pixel() {
    let detector = "detector_type = \"gigafrost\"\nimage_pixel_height = 4\nimage_pixel_width = 24";
    assert_lossy_run_is_right(detector, "gigafrost:height=4:width=24:packet_rows=1", 300, 300);
}

#[test]
fn packed_runs_of_the_same_ids_by_two_processes_have_no_pixel_of_one_another() {
    // Every pixel of the second run differs from that of the first with the same id, by its seed.
    let camera = "detector_type = \"gigafrost\"\nimage_pixel_height = 128\nimage_pixel_width = 480";
    let beamline = Beamline::up(Detector::Toml(camera), "processes = 2\n");
    for (file, seed) in [("a.h5", "1"), ("b.h5", "2")] {
        let job = beamline.submit_running(file, 200, &["--start", "1"]);
        let sent = Outcome::of(&mut beamline.sim(200, 200, &["--seed", seed, "--drop", "0.01"])).ok().json();
        let ended = beamline.wait_end(job);
        assert_eq!(ended["result"]["missing_packets"], sent["packets_dropped"], "{ended:#}");
        let check = ["--seed", seed, "--detector", "gigafrost:height=128:width=480:packet_rows=20"];
        assert_eq!(check_images(&beamline.path(file), &check)["lost_rows"], 0);
    }
}

#[test]
fn moench_by_its_description_is_right_to_the_pixel() {
    assert_lossy_run_is_right("detector_type = \"moench\"", "raster", 200, 200);
}

#[test]
fn mythen3_by_its_description_is_right_to_the_pixel() {
    let check = "raster:height=1:width=3840:bits=32:payload=7680:across=2";
    assert_lossy_run_is_right("detector_type = \"mythen3\"\nmodules = [2, 1]", check, 500, 500);
}

#[test]
fn gotthard2_by_its_description_is_right_to_the_pixel() {
    let check = "raster:height=1:width=1280:payload=2560:along=4";
    assert_lossy_run_is_right("detector_type = \"gotthard2\"\nmodules = [1, 4]", check, 500, 500);
}

#[test]
fn dummy_udp_by_its_description_is_right_to_the_pixel() {
    let check = "raster:height=1024:width=1400:payload=8000:clock=0";
    assert_lossy_run_is_right("detector_type = \"dummyudp\"", check, 60, 50);
}

/// No line of Rust knows this one: 12 bit across packets, big-endian fields that are parts of words, rows that count
/// by three and begin at seven, two ports a module, chips with gaps, a short last packet, and images not to be stored.
pub const MADE_UP: &str = r#"
    detector_type = "made-up"
    modules = [2, 1]
    [module]
    columns = 96
    rows = 40
    bit_depth = 12
    ports = 2
    chip = [32, 20]
    chip_gap = [1, 3]
    gap = [5, 0]
    [packet]
    header_bytes = 24
    payload_bytes = 1000
    byte_order = "big"
    [fields]
    image_id = { offset = 1, bytes = 5 }
    packet_number = { offset = 6, bytes = 3, bit = 4, bits = 16, step = 3, first = 7 }
    do_not_store = { offset = 9, bytes = 2, bit = 11, bits = 1 }
    timestamp = { offset = 13, bytes = 6 }
    exposure_length = { offset = 19, bytes = 5, byte_order = "little", bit = 4, bits = 32 }
    check = [{ offset = 0, bytes = 1, value = 161 }, { offset = 11, bytes = 2, value = 2 }]
"#;

#[test]
fn a_made_up_detector_with_no_line_of_rust_is_right_to_the_pixel() {
    assert_lossy_run_is_right(MADE_UP, "made_up", 300, 300);
}

/// A packet of an slsDetector, its header written here byte by byte.
fn sls_packet(frame_number: u64, number: u32, spec1: [u8; 8], detector_type: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 48];
    packet[0..8].copy_from_slice(&frame_number.to_le_bytes());
    packet[12..16].copy_from_slice(&number.to_le_bytes());
    packet[16..24].copy_from_slice(&spec1);
    (packet[46], packet[47]) = (detector_type, 2);
    packet.extend(payload);
    packet
}

/// Sends packets by hand to ports counted from the first one, writes `images` from `first_id` on, and checks the file,
/// `run.h5`.
fn assert_packets_become(
    detector: &'static str,
    first_id: u64,
    images: u64,
    check: &[&str],
    packets: impl Fn(u64) -> Vec<(u16, Vec<u8>)>,
) -> Beamline {
    let beamline = Beamline::up(Detector::Toml(detector), "");
    let job = beamline.submit_running("run.h5", images, &["--start", &first_id.to_string()]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for image in 0..images {
        for (port, packet) in packets(image) {
            socket.send_to(&packet, ("127.0.0.1", beamline.first_port + port)).unwrap();
        }
        std::thread::sleep(Duration::from_millis(5)); // a rate that any machine keeps up with
    }
    let ended = beamline.wait_end(job);
    assert_eq!((&ended["state"], &ended["result"]["written"]), (&"done".into(), &images.into()), "{ended:#}");
    assert_eq!(check_images(&beamline.path("run.h5"), check)["first_id"], first_id);
    beamline
}

#[test]
fn jungfrau_packets_of_the_std_daq_workflow_test_become_its_images() {
    // testing/test_jungfrau_workflow.py: frame number 2 + k, bunch id 5.0 + k, every pixel its packet's number.
    let detector = "detector_type = \"jungfrau-raw\"\nn_modules = 1\nimage_pixel_height = 512\n\
        image_pixel_width = 1024\nbit_depth = 16\nimage_id = \"bunch_id_f64\"\n[module_positions]\n\
        0 = [0, 0, 1023, 511]";
    let check = ["--detector", "jungfrau:gap=0", "--pixels", "packet_number"];
    assert_packets_become(detector, 5, 10, &check, jungfrau_workflow);
}

/// The packets of one image of that test.
fn jungfrau_workflow(image: u64) -> Vec<(u16, Vec<u8>)> {
    let of_packet = |number: u32| {
        let payload = (number as u16).to_le_bytes().repeat(4096);
        (0, sls_packet(2 + image, number, (5.0 + image as f64).to_le_bytes(), 3, &payload))
    };
    (0..128).map(of_packet).collect()
}

/// Sends its images to a port.
pub fn send_jungfrau_workflow(port: u16, images: u64) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for image in 0..images {
        for (_, packet) in jungfrau_workflow(image) {
            socket.send_to(&packet, ("127.0.0.1", port)).unwrap();
        }
        std::thread::sleep(Duration::from_millis(5)); // a rate that any machine keeps up with
    }
}

/// One image of slsDetectorPackage's jungfrauDetectorServer, built as a virtual one: gain 0, 1 and 3 by column; detSpec1
/// is 0.
fn jungfrau_packets(image: u64, interfaces: u32) -> Vec<(u16, Vec<u8>)> {
    let gain = |column: usize| match column {
        ..300 => 0,
        300..600 => 1,
        _ => 3_u16,
    };
    let per_port = 128 / interfaces;
    let of_packet = |packet: u32| {
        let pixel = |at: usize| (1 + packet as u16) | gain(at % 1024) << 14;
        let payload: Vec<u8> = (0..4096).flat_map(|at| pixel(at).to_le_bytes()).collect();
        ((packet / per_port) as u16, sls_packet(1 + image, packet % per_port, [0; 8], 3, &payload))
    };
    (0..128).map(of_packet).collect()
}

#[test]
fn jungfrau_virtual_server_on_one_interface_becomes_its_pattern() {
    let check = ["--detector", "jungfrau", "--pixels", "jungfrau"];
    let detector = "detector_type = \"jungfrau\"\nmodel = \"500K\"";
    assert_packets_become(detector, 1, 5, &check, |image| jungfrau_packets(image, 1));
}

#[test]
fn jungfrau_virtual_server_on_two_interfaces_becomes_its_pattern() {
    let detector = "detector_type = \"jungfrau\"\nmodel = \"500K\"\nnuminterfaces = 2";
    let check = ["--detector", "jungfrau:interfaces=2", "--pixels", "jungfrau"];
    assert_packets_become(detector, 1, 5, &check, |image| jungfrau_packets(image, 2));
}

/// One image of the virtual servers of an EIGER's two half modules: a raster of 1024 x 256 pixels each, cut in two, in
/// packets of 4096 or 1024 bytes.
fn eiger_packets(image: u64, bits: usize, payload_bytes: usize, pixel: &dyn Fn(usize) -> u32) -> Vec<(u16, Vec<u8>)> {
    let mut packets = Vec::new();
    for port in 0..4_usize {
        let of_half = |at: usize| at / 512 * 1024 + port % 2 * 512 + at % 512;
        let mut stream = vec![0_u8; 512 * 256 * bits / 8];
        for at in 0..512 * 256 {
            for bit in (0..bits).filter(|bit| pixel(of_half(at)) >> bit & 1 != 0) {
                stream[(at * bits + bit) / 8] |= 1 << ((at * bits + bit) % 8);
            }
        }
        let of_packet =
            |(number, payload): (usize, &[u8])| (port as u16, sls_packet(1 + image, number as u32, [0; 8], 1, payload));
        packets.extend(stream.chunks(payload_bytes).enumerate().map(of_packet));
    }
    packets
}

#[test]
fn eiger_virtual_server_of_16_bit_becomes_its_pattern() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 16";
    let packets = |image: u64| eiger_packets(image, 16, 4096, &|at| at as u32 / 2048);
    assert_packets_become(detector, 1, 3, &["--detector", "eiger:bits=16", "--pixels", "eiger"], packets);
}

#[test]
fn eiger_virtual_server_of_12_bit_becomes_its_pattern() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 12";
    let packets = |image: u64| eiger_packets(image, 12, 4096, &|at| at as u32 & 0xfff);
    assert_packets_become(detector, 1, 3, &["--detector", "eiger:bits=12", "--pixels", "eiger"], packets);
}

#[test]
fn eiger_virtual_server_of_8_bit_becomes_its_pattern() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 8";
    let packets = |image: u64| eiger_packets(image, 8, 4096, &|at| at as u32 / 4096);
    assert_packets_become(detector, 1, 3, &["--detector", "eiger:bits=8", "--pixels", "eiger"], packets);
}

#[test]
fn eiger_virtual_server_of_32_bit_becomes_its_pattern() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 32";
    let packets = |image: u64| eiger_packets(image, 32, 4096, &|at| at as u32 / 1024);
    assert_packets_become(detector, 1, 3, &["--detector", "eiger:bits=32", "--pixels", "eiger"], packets);
}

#[test]
fn eiger_virtual_server_of_8_bit_on_1_gigabit_becomes_its_pattern() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 8\ntengiga = false";
    let packets = |image: u64| eiger_packets(image, 8, 1024, &|at| at as u32 / 1024);
    let check = ["--detector", "eiger:bits=8:payload=1024", "--pixels", "eiger"];
    assert_packets_become(detector, 1, 3, &check, packets);
}

#[test]
fn eiger_virtual_server_of_32_bit_on_1_gigabit_becomes_its_pattern() {
    // Here the server steps through its raster by 2048 bytes a packet from the second one on, whatever the row: pixels
    // are those of the raster of packets of 256 pixels, every second one, and the right half's are two further.
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 32\ntengiga = false";
    let packets = |image: u64| {
        let of_packet = |packet: u32| {
            let (port, number) = (packet / 512, packet % 512);
            let pixel = (2 * number).saturating_sub(1) + port % 2 * 2;
            (port as u16, sls_packet(1 + image, number, [0; 8], 1, &pixel.to_le_bytes().repeat(256)))
        };
        (0..4 * 512).map(of_packet).collect()
    };
    let check = ["--detector", "eiger:bits=32:payload=1024", "--pixels", "eiger"];
    assert_packets_become(detector, 1, 3, &check, packets);
}

#[test]
fn gigafrost_packets_written_byte_by_byte_with_swapped_rows_and_padded_last_packets_become_their_images() {
    // 20 x 1656 pixels: a stream of five rows of 828 pixels, four in the first packet and one in the last, which has 36
    // bytes more. As std-daq's simulator, the western quadrants say that rows are swapped; of the second image, all.
    let detector = "detector_type = \"gigafrost\"\nimage_pixel_height = 20\nimage_pixel_width = 1656";
    let packets = |image: u64| {
        let of_packet = |index: u16| {
            let (module, is_last) = (index / 2, index % 2 == 1);
            let is_swapped = module / 2 % 2 == 0 || image == 1;
            let mut packet = vec![0xcb, 69, 10 + u8::from(is_swapped), (module as u8) << 5 | 5 << 2];
            packet.extend(7_u32.to_le_bytes()); // scan
            packet.extend((1 + image as u32).to_le_bytes());
            packet.extend([0xff, if image == 2 { 0xff } else { 0x7f }]); // debug bits; do not store the third
            packet.extend([if is_last { 4 } else { 0 }, 0]);
            packet.extend((9_u64 << 40 | (300_000 + image)).to_le_bytes());
            packet.extend([0x55; 8]); // sync time, scan time
            let pixels = if is_last { 4 * 828..5 * 828 } else { 0..4 * 828 };
            for at in pixels.step_by(2) {
                let (a, b) = (u32::from(module) * 500 + at % 500, u32::from(module) * 500 + (at + 1) % 500);
                packet.extend(&(a | b << 12).to_le_bytes()[..3]);
            }
            packet.resize(if is_last { 32 + 1242 + 36 } else { 32 + 4968 }, 0xaa);
            (module + if image % 2 == 1 { 8 } else { 0 }, packet)
        };
        (0..16).map(of_packet).collect()
    };
    let check = ["--detector", "gigafrost:height=20:width=1656:packet_rows=4", "--pixels", "gigafrost"];
    let beamline = assert_packets_become(detector, 1, 6, &check, packets);
    let mut command = python();
    command.args(["-c", HEADERS]).arg(beamline.path("run.h5"));
    let expected =
        json!([[0, 0, 1, 0, 0, 0], [300_000, 300_001, 300_002, 300_003, 300_004, 300_005], [9, 9, 9, 9, 9, 9]]);
    assert_eq!(Outcome::of(&mut command).ok().json(), expected);
}

const HEADERS: &str = "
import h5py, json, sys
with h5py.File(sys.argv[1]) as file:
    names = 'do_not_store', 'detector_timestamp', 'exposure_length'
    print(json.dumps([file['entry/data/' + name][:].tolist() for name in names]))
";

#[test]
fn packets_of_any_bytes_and_lengths_on_the_ports_of_packed_detectors_cost_nobody_a_pixel() {
    // Headers that are right but for one thing, lengths that are another packet's, and noise, between good packets.
    let beamline = Beamline::up(
        Detector::Toml("detector_type = \"gigafrost\"\nimage_pixel_height = 280\nimage_pixel_width = 528"),
        "",
    );
    let text = fs::read_to_string(beamline.path("detector.toml")).unwrap();
    let detector = DetectorConfig::from_toml(&text).and_then(|config| config.detector()).unwrap();
    let job = beamline.submit_running("run.h5", 100, &["--start", "1"]);
    let sim = beamline.spawn_sim(100, 50);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (full, last) = (detector.placement.packet_bytes(), detector.placement.last_packet_bytes());
    let mut state = 1_u64;
    for round in 0..4000_u64 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let port = (state >> 33) as usize % 16;
        let header = ecs_schemas::detector::PacketHeader {
            image_id: 1 + round / 40,
            number: (state >> 40) as usize % 4,
            timestamp: 0,
            exposure_length: 0,
            do_not_store: false,
        };
        let is_last = header.number == 3;
        let mut packet = vec![0x5a; if round % 3 == 0 { (state >> 20) as usize % 9000 } else { full.max(last) }];
        if round % 3 > 0 {
            detector.wire.write(&mut packet, port % 8, &header);
            match round % 3 {
                // As long as the other kind of packet.
                1 => packet.truncate(if is_last { full } else { last }),
                // Another quadrant's, or rows that begin no packet.
                _ => packet[[3, 14, 15, 0, 1][round as usize % 5]] ^= 0x40 | 1,
            }
        }
        socket.send_to(&packet, ("127.0.0.1", beamline.first_port + port as u16)).unwrap();
        if round % 40 == 0 {
            std::thread::sleep(Duration::from_millis(15));
        }
    }
    let ended = beamline.wait_end(job);
    drop(sim);
    assert_eq!((&ended["state"], &ended["result"]["written"]), (&"done".into(), &100.into()), "{ended:#}");
    let check = ["--detector", "gigafrost:height=280:width=528:packet_rows=18"];
    assert_eq!(check_images(&beamline.path("run.h5"), &check)["complete"], 100);
    let telemetry = beamline.agent("assembler")["telemetry"].clone();
    let count = |name: &str| telemetry[name].as_u64().unwrap_or(0);
    assert!(count("dropped_malformed") > 2000 && count("dropped_foreign") > 500, "{telemetry:#}");
}
