//! The command line by itself: help, version, completions, and configurations that are wrong.

use crate::support::{Outcome, ecs};
use std::fs;

#[test]
fn help_is_printed_and_a_wrong_command_exits_with_2() {
    // What each says of itself is looked at in `tools/cli/src/cli.rs`.
    for command in [&[][..], &["kv"], &["kv", "set"], &["agent", "writer"]] {
        let help = Outcome::of(ecs().args(command).arg("--help")).ok();
        assert!(help.stdout.contains("Usage:"), "{command:?}: {}", help.stdout);
    }
    Outcome::of(ecs().arg("sumbit")).fails_with(2, "submit");
    let version = Outcome::of(ecs().arg("--version")).ok().stdout;
    assert_eq!(version.trim(), format!("ecs-cli {}", ecs_schemas::VERSION));
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Outcome::of(ecs().args(["completions", shell])).ok().stdout;
        assert!(script.contains("ECS_COMPLETE") && script.contains("ecs-cli"), "{shell}: {script}");
    }
}

#[test]
fn every_error_of_a_configuration_is_told_at_once_with_line_key_and_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("beamline.toml");
    fs::write(&file, "[beamline]\nname = \"x 01\"\n[ring]\nsise = \"1 GiB\"\n[assembler]\ndeadline = \"soon\"\n")
        .unwrap();
    let outcome = Outcome::of(ecs().arg("up").arg(&file)).fails_with(1, "beamline.toml:2");
    for expected in ["sise", "did you mean", "size", "beamline.toml:6", "deadline", "soon", "detector"] {
        assert!(outcome.stderr.contains(expected), "no {expected:?} in: {}", outcome.stderr);
    }
    Outcome::of(ecs().args(["up", "/no/such/beamline.toml"])).fails_with(1, "/no/such/beamline.toml");
}

#[test]
fn output_into_a_closed_pipe_is_not_a_panic() {
    let path = crate::support::ecs_path().display().to_string();
    let mut shell = std::process::Command::new("sh");
    let outcome = Outcome::of(shell.args(["-c", &format!("'{path}' completions bash | head -n 1")]));
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
}

#[test]
fn simulator_asked_for_gigabytes_a_second_sends_at_the_rate_of_its_packets_with_their_headers() {
    // Eight packets of 32 bytes of header and 54 of payload an image. Counted without headers, or as pixels, the rate
    // would be half as high again, or 3.6 times. Images are never early, so that only the upper bound is generous.
    let folder = tempfile::tempdir().unwrap();
    let config = "detector_type = \"gigafrost\"\nstart_udp_port = 9\nimage_pixel_height = 4\nimage_pixel_width = 24";
    fs::write(folder.path().join("detector.toml"), config).unwrap();
    for (gigabytes, rate_hz) in [("0.0001376", 200.0), ("0.0003440", 500.0)] {
        let mut sim = ecs();
        sim.args([
            "sim",
            "detector",
            "--config",
            "detector.toml",
            "--images",
            "201",
            "--gigabytes",
            gigabytes,
            "--json",
        ]);
        let sent = Outcome::of(sim.current_dir(folder.path())).ok().json();
        assert_eq!((&sent["images"], &sent["bytes_sent"]), (&201.into(), &(201 * 8 * 86).into()), "{sent:#}");
        let periods = sent["seconds"].as_f64().unwrap() * rate_hz;
        assert!((199.5..400.0).contains(&periods), "{periods} periods of an image for 200: {sent:#}");
    }
    let mut both = ecs();
    both.args(["sim", "detector", "--config", "detector.toml", "--images", "1", "--rate", "1", "--gigabytes", "1"]);
    Outcome::of(both.current_dir(folder.path())).fails_with(2, "--gigabytes");
}
