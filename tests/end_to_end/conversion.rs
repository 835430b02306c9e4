//! Pixels with gains on their way into the file: every one is what it must become, bit by bit; masks on every detector.
//!
//! What a pixel must become is worked out by `tests/check_images.py` in numpy, from the documents.

use crate::support::{Beamline, Detector, Outcome, check_images, python, send, wait_for};
use ecs_schemas::detector::DetectorConfig;
use ecs_sim::faults::Faults;
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

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
    // A packet that is put back by 32 turns is late for good where these are more than an image or two.
    let reorder = if placement.packets_per_module < 32 { "0" } else { "0.02" };
    // One of a hundred, or two of an image where these are many: some images are whole.
    let drop = (2.0 / placement.packets_per_image() as f64).min(0.01);
    let share = drop.to_string();
    let faults = ["--seed", "7", "--drop", &share, "--duplicate", "0.02", "--reorder", reorder];
    let sent = Outcome::of(&mut beamline.sim(images, 100, &faults)).ok().json();
    let ended = beamline.wait_end(job);
    assert_eq!(ended["state"], "done", "{ended:#}");
    let reorder = reorder.parse().unwrap();
    let faults = Faults { seed: 7, drop, reorder, duplicate: 0.02, ..Faults::default() };
    let fates = faults.of(&placement);
    let dropped = |id: u64| fates.dropped_packets(id);
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

/// A lossy run with a mask and nothing else: masked pixels hold the fill value, no others do.
fn assert_masked_run_is_right(detector: &'static str, size: (usize, usize), check: &str) {
    let beamline = up(detector, size, "[conversion]\nmask = \"image.h5\"");
    let setting = conversion(&beamline, &[("mask", "image.h5::mask")], 1.0);
    lossy_run(&beamline, 60, &["--detector", check, "--conversion", &setting]);
    assert_eq!(calibrations(&beamline.path("run.h5")), (vec![0], vec![]), "nothing was converted");
}

#[test]
fn masked_pixels_of_8_bit_hold_the_fill_value_and_no_others_do() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 8";
    assert_masked_run_is_right(detector, (514, 1030), "eiger:bits=8");
}

#[test]
fn masked_pixels_of_12_bit_hold_the_fill_value_and_no_others_do() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 12";
    assert_masked_run_is_right(detector, (514, 1030), "eiger:bits=12");
}

#[test]
fn masked_pixels_of_16_bit_hold_the_fill_value_and_no_others_do() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 16";
    assert_masked_run_is_right(detector, (514, 1030), "eiger:bits=16");
}

#[test]
fn masked_pixels_of_32_bit_hold_the_fill_value_and_no_others_do() {
    let detector = "detector_type = \"eiger\"\nmodel = \"500K\"\nbit_depth = 32";
    assert_masked_run_is_right(detector, (514, 1030), "eiger:bits=32");
}

#[test]
fn masked_pixels_of_a_camera_whose_packets_are_padded_hold_the_fill_value_and_no_others_do() {
    let detector = "detector_type = \"gigafrost\"\nimage_pixel_height = 252\nimage_pixel_width = 504";
    assert_masked_run_is_right(detector, (252, 504), "gigafrost");
}

const JUNGFRAU: &str = "detector_type = \"jungfrau\"\nmodel = \"500K\"\nnuminterfaces = 2";
const OF_JUNGFRAU: [&str; 2] = ["--detector", "jungfrau:interfaces=2"];

/// Asks for pedestals, and waits until the job runs.
fn submit_pedestal(beamline: &Beamline, params: &[&str]) -> u64 {
    let arguments = [&["submit", "pedestal", "--json"], params].concat();
    let job = beamline.call(&arguments).ok().json()["id"].as_u64().unwrap();
    beamline.wait_job(job, |job| job["state"] == "running");
    job
}

/// Sends darks of a gain, with ids from 10,000 times the gain on, until the job has `done` images.
fn send_darks(beamline: &Beamline, job: u64, gain: u64, done: u64) {
    let (gain, start) = (gain.to_string(), (10_000 * gain + 1).to_string());
    let mut sim = beamline.sim(2000, 100, &["--dark", &gain, "--start", &start]);
    let _sim = Guard(sim.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    wait_for("the darks", Duration::from_secs(30), || {
        let job = beamline.job(job);
        let progress = job["progress"]["done"].as_u64().unwrap_or(0);
        (progress >= done || job["state"] == "done").then_some(())
    });
}

/// A child that does not outlive the test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a pedestal file holds against the formula of the darks: largest differences of mean and RMS, and its attributes.
fn check_pedestals(beamline: &Beamline, file: &str) -> Value {
    let mut command = python();
    command.args(["-c", PEDESTALS]).arg(beamline.path(file));
    Outcome::of(&mut command).ok().json()
}

const PEDESTALS: &str = "
import h5py, json, sys, numpy as np
row, column = np.mgrid[0:512, 0:1024]
y = 513 - (row + 2 * (row >= 256))
x = column + 2 * (column // 256)
with h5py.File(sys.argv[1]) as file:
    group = file['pedestal']
    mean, frames = group['mean'][0], group['frames'][0]
    rms = np.nan_to_num(group['rms'][0], nan=-1)
    out = {'images': group.attrs['images'].tolist(), 'kept_from': group.attrs['kept_from'], 'job': int(group.attrs['job'])}
    rest = np.stack([1000 * (g + 1) + (7 * y + 3 * x) % 256 for g in range(3)])
    out['mean'] = [float(np.abs(mean[g] - rest[g]).max()) for g in range(3)]
    out['rms'] = [[float(rms[g].min()), float(rms[g].max())] for g in range(3)]
    out['frames'] = [[int(frames[g].min()), int(frames[g].max())] for g in range(3)]
print(json.dumps(out))
";

#[test]
fn pedestals_taken_from_darks_are_used_by_running_readouts_and_by_one_that_was_killed() {
    let extra = "processes = 2\n[conversion]\nto = \"keV\"\ngain = \"gains.h5\"";
    let beamline = up(JUNGFRAU, (514, 1030), extra);
    let before = beamline.pid_of_name("readout-0");
    let job = submit_pedestal(&beamline, &["output=dark.h5", "frames=50", "image_timeout_ms=20000"]);
    (0..3).for_each(|gain| send_darks(&beamline, job, gain, 50 * (gain + 1)));
    let ended = beamline.wait_end(job);
    let result = &ended["result"];
    assert_eq!((&ended["state"], &result["applied"]), (&"done".into(), &true.into()), "{ended:#}");
    assert_eq!((&result["images"], &result["pixels_without"]), (&json!([50, 50, 50]), &json!([0, 0, 0])), "{ended:#}");
    let held = check_pedestals(&beamline, "dark.h5");
    assert_eq!((&held["images"], &held["job"]), (&json!([50, 50, 50]), &job.into()), "{held:#}");
    for gain in 0..3 {
        // The mean of whole fives is exact; where an image was missed, it is off by less than this.
        assert!(held["mean"][gain].as_f64().unwrap() < 0.5, "{held:#}");
        assert!(
            held["rms"][gain][0].as_f64().unwrap() > 1.2 && held["rms"][gain][1].as_f64().unwrap() < 1.6,
            "{held:#}"
        );
    }

    // The readouts use them without having been started again, each image with them all.
    assert_eq!(beamline.pid_of_name("readout-0"), before);
    let setting = conversion(&beamline, &[("gain", "gains.h5::gains"), ("pedestal", "dark.h5::pedestal/mean")], 1.0);
    let check = [&OF_JUNGFRAU[..], &["--conversion", &setting]].concat();
    lossy_run(&beamline, 60, &check);
    let (numbers, lines) = calibrations(&beamline.path("run.h5"));
    assert_eq!((numbers.len(), lines.len()), (1, 1), "{lines:?}");
    assert_eq!(lines[0]["pedestal"], beamline.path("dark.h5").display().to_string());

    // One that is killed comes back with the same.
    let job = beamline.submit_running("killed.h5", 600, &["--start", "1", "--timeout", "8"]);
    let _sim = beamline.spawn_sim(800, 100);
    wait_for("a third of the run", Duration::from_secs(30), || {
        (beamline.job(job)["progress"]["done"].as_u64()? >= 200).then_some(())
    });
    send(before, libc::SIGKILL);
    let ended = beamline.wait_end(job);
    assert_eq!(ended["state"], "done", "{ended:#}");
    assert_ne!(beamline.pid_of_name("readout-0"), before);
    let counts = check_images(&beamline.path("killed.h5"), &check);
    assert!(counts["complete"].as_u64().unwrap() > 250 && counts["partial"].as_u64().unwrap() > 0, "{counts:#}");
    let again = calibrations(&beamline.path("killed.h5")).0;
    assert!(again.iter().all(|number| *number == 0 || *number == numbers[0]), "0: lost images; {again:?} {numbers:?}");

    // Without their file nothing is converted as if there were others; the log says how to go on, and that is enough.
    fs::remove_file(beamline.path("dark.h5")).unwrap();
    send(beamline.pid_of_name("readout-0"), libc::SIGKILL);
    let active = beamline.path(".ecs").join(&beamline.name).join("pedestal.active");
    let hint = format!("or remove {}, by which these pedestals are to be used", active.display());
    wait_for("the readout's word", Duration::from_secs(20), || beamline.log().contains(&hint).then_some(()));
    fs::remove_file(active).unwrap();
    beamline.call(&["status", "--wait", "30"]).ok();
}

/// Names pedestals as a job does.
fn activate(beamline: &Beamline, file: &str, after: Duration) {
    let from = (SystemTime::now() + after).duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let text = json!({ "path": beamline.path(file).display().to_string(), "from_utc_ns": from }).to_string();
    let state = beamline.path(".ecs").join(&beamline.name);
    fs::write(state.join("new"), text).unwrap();
    fs::rename(state.join("new"), state.join("pedestal.active")).unwrap();
}

#[test]
fn pedestals_named_while_images_come_begin_with_one_image_on_all_processes() {
    let extra = "processes = 2\n[conversion]\nto = \"keV\"\ngain = \"gains.h5\"\npedestal = \"pedestal.h5\"";
    let beamline = up(JUNGFRAU, (514, 1030), extra);
    let job = beamline.submit_running("run.h5", 600, &["--start", "1"]);
    let _sim = beamline.spawn_sim(600, 100);
    // A file that is not there changes nothing; the next one is used from its time on.
    activate(&beamline, "none.h5", Duration::ZERO);
    wait_for("the readout's word", Duration::from_secs(20), || {
        beamline.log().contains("new pedestals are not used").then_some(())
    });
    activate(&beamline, "zeros.bin", Duration::from_millis(1500));
    let ended = beamline.wait_end(job);
    assert_eq!((&ended["state"], &ended["result"]["written"]), (&"done".into(), &600.into()), "{ended:#}");
    let (numbers, lines) = calibrations(&beamline.path("run.h5"));
    assert_eq!((numbers.len(), lines.len()), (2, 2), "{lines:?}");
    let number = |line: usize| u64::from_str_radix(lines[line]["number"].as_str().unwrap(), 16).unwrap();
    for (line, pedestal, name) in [(0, "pedestal.h5::pedestal/mean", "pedestal.h5"), (1, "zeros.bin", "zeros.bin")] {
        assert_eq!(lines[line]["pedestal"], beamline.path(name).display().to_string());
        let setting = conversion(&beamline, &[("gain", "gains.h5::gains"), ("pedestal", pedestal)], 1.0);
        let of = number(line).to_string();
        let check = [&OF_JUNGFRAU[..], &["--conversion", &setting, "--calibration", &of]].concat();
        check_images(&beamline.path("run.h5"), &check);
    }
}

#[test]
fn pedestal_job_that_is_killed_leaves_nothing_switched_and_one_that_cannot_be_is_refused() {
    let extra = "[conversion]\nto = \"keV\"\ngain = \"gains.h5\"\npedestal = \"pedestal.h5\"";
    let beamline = up(JUNGFRAU, (514, 1030), extra);
    let refused = |params: &[&str], why: &str| {
        let arguments = [&["submit", "pedestal", "--wait", "--json"], params].concat();
        let ended = beamline.call(&arguments);
        assert!(ended.stdout.contains(why), "{params:?}: {}{}", ended.stdout, ended.stderr);
    };
    refused(&["output=dark.h5", "frames=0"], "frames = 0; allowed: 1 to 65535");
    refused(&["output=dark.h5", "gains=[3]"], "allowed: some of 0, 1 and 2");
    refused(&["output=gains.h5"], "output_exists");
    refused(&["output=none/dark.h5"], "there is no such folder");
    refused(&["output=dark.h5", "frames=5", "image_timeout_ms=300"], "gain 0: 0 of 5, gain 1: 0 of 5, gain 2: 0 of 5");
    assert!(!beamline.path("dark.h5").exists());

    let job = submit_pedestal(&beamline, &["output=dark.h5", "frames=1000"]);
    send_darks(&beamline, job, 0, 20);
    send(beamline.pid("writer"), libc::SIGKILL);
    let ended = beamline.wait_job(job, |job| ["failed", "lost"].contains(&job["state"].as_str().unwrap_or("")));
    assert_eq!(ended["reason"]["code"], "agent_lost", "{ended:#}");
    beamline.call(&["status", "--wait", "30"]).ok();
    assert!(!beamline.path("dark.h5").exists());
    let setting =
        conversion(&beamline, &[("gain", "gains.h5::gains"), ("pedestal", "pedestal.h5::pedestal/mean")], 1.0);
    lossy_run(&beamline, 60, &[&OF_JUNGFRAU[..], &["--conversion", &setting]].concat());

    // Pedestals of one gain: the others stay those that are in use.
    let job = submit_pedestal(&beamline, &["output=dark.h5", "frames=10", "gains=[1]", "apply=false"]);
    send_darks(&beamline, job, 1, 10);
    assert_eq!(beamline.wait_end(job)["result"]["images"], json!([0, 10, 0]));
    let held = check_pedestals(&beamline, "dark.h5");
    assert_eq!((&held["frames"][0], &held["frames"][1]), (&json!([0, 0]), &json!([10, 10])), "{held:#}");
    assert_eq!(held["rms"][0], json!([-1.0, -1.0]), "it was not taken: {held:#}");
    assert_eq!(held["kept_from"], beamline.path("pedestal.h5").display().to_string());
    assert!(held["mean"][1].as_f64().unwrap() < 0.5 && held["mean"][0].as_f64().unwrap() > 1.0, "{held:#}");
}
