//! Which crate may depend on which: the arrows of the README's map, never the other way.

use crate::support::{Outcome, repository};
use serde_json::Value;
use std::{collections::BTreeMap, process::Command};

/// What each of our crates may depend on, of ours.
const ALLOWED: [(&str, &[&str]); 13] = [
    ("ecs-schemas", &[]),
    ("ecs-shm-buffer", &[]),
    ("ecs-broker", &["ecs-schemas"]),
    ("ecs-sdk", &["ecs-schemas"]),
    ("ecs-supervisor", &["ecs-schemas", "ecs-sdk", "ecs-shm-buffer"]),
    ("ecs-calibration", &["ecs-schemas", "ecs-shm-buffer"]),
    ("ecs-readout", &["ecs-calibration", "ecs-schemas", "ecs-sdk", "ecs-shm-buffer"]),
    ("ecs-assembler", &["ecs-schemas", "ecs-sdk", "ecs-shm-buffer"]),
    ("ecs-writer", &["ecs-calibration", "ecs-schemas", "ecs-sdk", "ecs-shm-buffer"]),
    ("ecs-sim", &["ecs-schemas", "ecs-shm-buffer"]),
    ("ecs-bench", &["*"]),
    ("ecs-cli", &["*"]),
    ("ecs-tests", &["*"]),
];

/// What crates must not depend on, of others', directly or through others.
const FORBIDDEN: [(&str, &[&str]); 3] = [
    ("ecs-schemas", &["zmq", "libc", "rusqlite", "tokio"]),
    ("ecs-shm-buffer", &["zmq", "tokio", "serde"]),
    ("ecs-broker", &["memmap2"]),
];

/// The platform that cargo builds for here: packages of others are not on a machine that has only built.
fn platform() -> String {
    let version = Outcome::of(Command::new(env!("CARGO")).arg("-vV")).ok().stdout;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("cargo tells its host").to_owned()
}

/// Normal dependencies (not those of tests) by package name.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &platform()]);
    let metadata = Outcome::of(cargo.current_dir(repository())).ok().json();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name_of: BTreeMap<String, String> = list(&metadata["packages"])
        .iter()
        .map(|package| (package["id"].to_string(), package["name"].as_str().unwrap_or_default().to_owned()))
        .collect();
    let is_normal = |dependency: &Value| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
    let needs = |node: &Value| {
        let normal = list(&node["deps"]).into_iter().filter(is_normal);
        normal.filter_map(|dependency| name_of.get(&dependency["pkg"].to_string()).cloned()).collect()
    };
    let nodes = list(&metadata["resolve"]["nodes"]);
    nodes.iter().filter_map(|node| Some((name_of.get(&node["id"].to_string())?.clone(), needs(node)))).collect()
}

#[test]
fn our_crates_depend_on_each_other_only_along_the_allowed_arrows() {
    let dependencies = dependencies();
    for (name, needs) in dependencies.iter().filter(|(name, _)| name.starts_with("ecs-")) {
        let (_, allowed) = ALLOWED.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("{name} is new"));
        for need in needs.iter().filter(|need| need.starts_with("ecs-")) {
            assert!(allowed.contains(&"*") || allowed.contains(&need.as_str()), "{name} must not depend on {need}");
        }
    }
}

#[test]
fn contracts_do_not_reach_sockets_disks_or_runtimes() {
    let dependencies = dependencies();
    for (name, forbidden) in FORBIDDEN {
        let (mut reached, mut next) = (vec![name.to_owned()], 0);
        while let Some(package) = reached.get(next).cloned() {
            next += 1;
            for need in dependencies.get(&package).into_iter().flatten() {
                if !reached.contains(need) {
                    reached.push(need.clone());
                }
            }
        }
        for bad in forbidden {
            assert!(!reached.iter().any(|package| package == bad), "{name} reaches {bad}");
        }
    }
}
