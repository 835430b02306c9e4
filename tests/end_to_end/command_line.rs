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
