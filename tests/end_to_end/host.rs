//! What a beamline asks of its host: cores for processes, huge pages for images.

use crate::support::{Beamline, Detector};
use std::fs;

/// The cores that a process's first thread may use.
fn cores_of(process: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    cores.expect("the kernel tells").trim().to_owned()
}

#[test]
fn readout_and_assembler_stay_on_the_cores_that_are_named_and_the_others_where_they_like() {
    let beamline = Beamline::up(Detector::Quadrant, "cores = [0]\n[assembler]\ncore = 0\n");
    for kind in ["readout", "assembler"] {
        assert_eq!(cores_of(&beamline.pid(kind).to_string()), "0", "{kind}");
    }
    assert_eq!(cores_of(&beamline.pid("writer").to_string()), cores_of("self"));
    assert!(beamline.log().contains("MiB in huge pages"), "{}", beamline.log());
}
