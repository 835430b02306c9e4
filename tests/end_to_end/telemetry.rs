//! Telemetry as other programs get it: the README's Python script, and `topic echo`.

use crate::support::{Beamline, Detector, python, repository, wait_for};
use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

/// The block of the README that follows `marker`.
fn readme_block(marker: &str) -> String {
    let readme = fs::read_to_string(repository().join("README.md")).expect("a README");
    let after = readme.split_once(marker).unwrap_or_else(|| panic!("no {marker} in the README")).1;
    let block = after.split_once("```python\n").expect("a block").1;
    block.split_once("```").expect("its end").0.to_owned()
}

/// Runs a command until it has printed a line that `wanted` likes.
fn first_line(command: &mut Command, wanted: impl Fn(&str) -> bool) -> String {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let line = wait_for("a line", Duration::from_secs(30), || receiver.try_iter().find(|line| wanted(line)));
    let _ = child.kill();
    let _ = child.wait();
    line
}

#[test]
fn the_readme_script_of_ten_lines_prints_image_rates() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let script = readme_block("<!-- telemetry script -->");
    assert!(script.lines().count() <= 10, "{script}");
    let endpoint = format!("ipc://{}", beamline.path("pub").display());
    let script = script.replace("tcp://127.0.0.1:7751", &endpoint).replace("x01", &beamline.name);
    fs::write(beamline.path("rates.py"), script).unwrap();
    let _sim = beamline.spawn_sim(100_000, 200);
    let line = first_line(python().arg("-u").arg(beamline.path("rates.py")), |line| {
        line.split_whitespace().filter_map(|word| word.parse::<f64>().ok()).any(|rate| rate > 100.0)
    });
    assert!(line.contains("assembler"), "{line}");
}

#[test]
fn a_beamline_with_a_long_name_tells_its_figures_too() {
    // Longer than the names in the ring, by which each process finds its own counters.
    let mut beamline = Beamline::configured(Detector::Quadrant, "");
    let name = format!("{}-a_beamline_with_a_rather_long_name", beamline.name);
    let text = fs::read_to_string(beamline.path("beamline.toml")).unwrap();
    fs::write(beamline.path("beamline.toml"), text.replace(&beamline.name, &name)).unwrap();
    beamline.name = name;
    beamline.start();
    beamline.call(&["sim", "eiger", "--config", "detector.json", "--images", "10"]).ok();
    wait_for("the readout's packets", Duration::from_secs(10), || {
        let telemetry = beamline.agent("readout")["telemetry"].clone();
        (telemetry["packets_received"] == 320).then_some(())
    });
}

#[test]
fn topic_echo_shows_telemetry_as_text_and_as_json() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let prefix = format!("{}/assembler/telemetry", beamline.name);
    let line =
        first_line(&mut beamline.command(&["topic", "echo", &prefix, "--json"]), |line| line.contains("ring_fill"));
    let message: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
    assert_eq!(message["topic"], prefix.as_str(), "{message:#}");
    first_line(&mut beamline.command(&["topic", "echo", &prefix]), |line| line.contains("ring_fill"));
}
