//! Pixels with gains on their way into the file: every one is what it must become, bit by bit; masks on every detector.
//!
//! What a pixel must become is worked out by `tests/check_images.py` in numpy, from the documents.

use crate::support::{Beamline, Detector, Outcome, check_images, python};
use ecs_schemas::detector::DetectorConfig;
use ecs_sim::faults::Faults;
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Writes gains, pedestals, flat field and mask for images of this size into the folder.
fn make_calibration(folder: &Path, height: usize, width: usize) {
    let mut command = python();
    command.arg("tests/make_calibration.py").arg(folder).args([height.to_string(), width.to_string()]);
    Outcome::of(&mut command).ok();
}

/// The setting as `check_images.py` wants it: files of the beamline's folder.
fn conversion(beamline: &Beamline, files: &[(&str, &str)], one_kev: f64) -> String {
    let of = |&(name, file): &(&str, &str)| (name.to_owned(), json!(beamline.path(file).display().to_string()));
    let mut setting: serde_json::Map<String, Value> = files.iter().map(of).collect();
    setting.insert("one_kev".to_owned(), json!(one_kev));
    let path = beamline.path("conversion.json");
    fs::write(&path, Value::Object(setting).to_string()).unwrap();
    path.display().to_string()
}

/// A beamline whose calibration files are there before it starts.
fn up(detector: &'static str, (height, width): (usize, usize), extra: &str) -> Beamline {
    let mut beamline = Beamline::configured(Detector::Toml(detector), extra);
    make_calibration(beamline.folder.path(), height, width);
    beamline.start();
    beamline
}

/// Runs a lossy simulation, and returns what the check counted and the file's calibrations.
fn lossy_run(beamline: &Beamline, images: u64, check: &[&str]) -> Value {
    let text = fs::read_to_string(beamline.path("detector.toml")).unwrap();
    let placement = DetectorConfig::from_toml(&text).and_then(|config| config.placement()).unwrap();
    let job = beamline.submit_running("run.h5", images, &["--start", "1"]);
    let faults = ["--seed", "7", "--drop", "0.01", "--duplicate", "0.02", "--reorder", "0.02"];
    let sent = Outcome::of(&mut beamline.sim(images, 100, &faults)).ok().json();
    let ended = beamline.wait_end(job);
    assert_eq!(ended["state"], "done", "{ended:#}");
    let per_module = placement.packets_per_module;
    let faults = Faults {
        seed: 7,
        drop: 0.01,
        reorder: 0.02,
        duplicate: 0.02,
        packets_per_module: per_module,
        ..Faults::default()
    };
    let dropped = |id: u64| faults.dropped_packets(id, placement.packets_per_image());
    let missing: serde_json::Map<String, Value> = (1..=images).map(|id| (id.to_string(), json!(dropped(id)))).collect();
    fs::write(beamline.path("missing.json"), Value::Object(missing).to_string()).unwrap();
    let path = beamline.path("missing.json").display().to_string();
    let check = [check, &["--seed", "7", "--missing", &path]].concat();
    let counts = check_images(&beamline.path("run.h5"), &check);
    assert_eq!(counts["missing_packets"], sent["packets_dropped"], "{counts:#}");
    assert!(counts["partial"].as_u64().unwrap() > 0 && counts["complete"].as_u64().unwrap() > 0, "{counts:#}");
    counts
}

/// Numbers of the file's images, without repetition, and the lines of its calibrations.
fn calibrations(file: &Path) -> (Vec<u64>, Vec<Value>) {
    let mut command = python();
    command.args(["-c", CALIBRATIONS]).arg(file);
    let told = Outcome::of(&mut command).ok().json();
    let numbers = told["numbers"].as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect();
    (numbers, told["lines"].as_array().unwrap().clone())
}

const CALIBRATIONS: &str = "
import h5py, json, sys
with h5py.File(sys.argv[1]) as file:
    numbers = sorted(set(file['entry/data/calibration'][:].tolist()))
    text = file['entry/ledger/calibrations'].asstr()[()]
print(json.dumps({'numbers': numbers, 'lines': [json.loads(line) for line in text.splitlines()]}))
";

#[test]
fn converted_jungfrau_of_the_std_daq_workflow_test_holds_its_packets_numbers_as_floats() {
    // testing/test_jungfrau_workflow.py: gains 1, pedestals 0, every pixel the number of its packet, bunch ids as floats.
    let detector = "detector_type = \"jungfrau-converted\"\nn_modules = 1\nimage_pixel_height = 512\n\
        image_pixel_width = 1024\nbit_depth = 16\nimage_id = \"bunch_id_f64\"\n[module_positions]\n\
        0 = [0, 0, 1023, 511]";
    let beamline = up(detector, (512, 1024), "[conversion]\ngain = \"ones.bin\"\npedestal = \"zeros.bin\"");
    let job = beamline.submit_running("run.h5", 10, &["--start", "5"]);
    crate::detectors::send_jungfrau_workflow(beamline.first_port, 10);
    let ended = beamline.wait_end(job);
    assert_eq!((&ended["state"], &ended["result"]["written"]), (&"done".into(), &10.into()), "{ended:#}");
    let setting = conversion(&beamline, &[("gain", "ones.bin"), ("pedestal", "zeros.bin")], 1.0);
    let check = ["--detector", "jungfrau:gap=0", "--pixels", "packet_number", "--conversion", &setting];
    assert_eq!(check_images(&beamline.path("run.h5"), &check)["first_id"], 5);
    let (numbers, lines) = calibrations(&beamline.path("run.h5"));
    assert_eq!((numbers.len(), lines.len()), (1, 1));
    assert_eq!(lines[0]["number"], format!("{:016x}", numbers[0]));
    assert_eq!((&lines[0]["unit"], &lines[0]["pixel"]), (&"keV".into(), &"f32".into()));
    assert_eq!(lines[0]["pedestal"], beamline.path("zeros.bin").display().to_string());
}

#[test]
fn lossy_run_of_floats_with_mask_and_flat_field_on_two_interfaces_and_processes_is_right_to_the_bit() {
    let detector = "detector_type = \"jungfrau\"\nmodel = \"500K\"\nnuminterfaces = 2\nreadnrows = 384";
    let extra = "processes = 2\n[conversion]\nto = \"keV\"\ngain = \"gains.h5\"\npedestal = \"pedestal.h5\"\n\
        flat_field = \"image.h5\"\nmask = \"image.h5\"";
    let beamline = up(detector, (386, 1030), extra);
    let files = [
        ("gain", "gains.h5::gains"),
        ("pedestal", "pedestal.h5::pedestal/mean"),
        ("flat_field", "image.h5::flat_field"),
        ("mask", "image.h5::mask"),
    ];
    let setting = conversion(&beamline, &files, 1.0);
    lossy_run(&beamline, 60, &["--detector", "jungfrau:read=384:interfaces=2", "--conversion", &setting]);
    let (numbers, lines) = calibrations(&beamline.path("run.h5"));
    assert_eq!((numbers.len(), lines.len()), (1, 1), "both processes have the same number");
    let (file, picture) =
        (beamline.path("run.h5").display().to_string(), beamline.path("run.png").display().to_string());
    beamline.call(&["picture", &file, "--output", &picture]).ok();
    assert!(fs::read(picture).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn lossy_run_of_rounded_photons_is_right_to_the_bit() {
    let detector = "detector_type = \"jungfrau\"\nn_modules = 1\nimage_pixel_height = 512\nimage_pixel_width = 1024\n\
        [module_positions]\n0 = [0, 0, 1023, 511]";
    let extra = "[conversion]\nto = \"photons\"\nphoton_energy = \"6.4 keV\"\npixel = \"i32\"\ngain = [\"gains.bin\"]\n\
        pedestal = \"pedestal.h5\"";
    let beamline = up(detector, (512, 1024), extra);
    let setting = conversion(&beamline, &[("gain", "gains.bin"), ("pedestal", "pedestal.h5::pedestal/mean")], 6.4);
    lossy_run(&beamline, 60, &["--detector", "jungfrau:gap=0", "--conversion", &setting]);
}

#[test]
fn masked_pixels_of_plain_and_of_packed_detectors_hold_the_fill_value_and_no_others_do() {
    for (bits, rows) in [(16, 514), (12, 514)] {
        let detector = match bits {
            16 => "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 16",
            _ => "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 12",
        };
        let beamline = up(detector, (rows, 1030), "[conversion]\nmask = \"image.h5\"");
        let setting = conversion(&beamline, &[("mask", "image.h5::mask")], 1.0);
        let of_detector = format!("eiger:bits={bits}");
        lossy_run(&beamline, 60, &["--detector", &of_detector, "--conversion", &setting]);
        assert_eq!(calibrations(&beamline.path("run.h5")), (vec![0], vec![]), "nothing was converted");
    }
}
