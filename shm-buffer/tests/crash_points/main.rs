//! Processes killed between any two steps of the protocol, at the n-th time that they get there.
//!
//! Who dies is a process of its own, built with the feature `crash-points`, which kills itself at the point that
//! its environment names (`src/crash.rs`); the others are in this one, and go on. Run with
//! `cargo test --release -p ecs-shm-buffer --features crash-points`.
//!
//! | module | who dies |
//! |---|---|
//! | `owner` | the owner; another takes over |
//! | `contributor` | a contributor: in joining, in an image, in telling how far it is, in leaving |
//! | `reader` | a reliable or a lossy reader: in joining, in letting go of an image, in skipping, in leaving |

#[path = "../common/mod.rs"]
mod common;

mod contributor;
mod owner;
mod reader;

use common::process::Player;
use ecs_shm_buffer::{Proc, inspect};
use std::{collections::BTreeSet, path::Path};

const ENTRY: &str = "second_process_plays_its_part";

/// What everybody does who takes a place in the ring.
const JOINING: [&str; 6] = [
    "join: places raised",
    "join: claimed",
    "join: start time told",
    "join: cleared",
    "join: prepared",
    "join: in its role",
];

/// In the parent this is nothing; in a child it is the part that it was started for.
#[test]
fn second_process_plays_its_part() {
    let Some((part, path)) = common::process::part() else { return };
    match part.as_str() {
        "owner" => owner::own(&path),
        "contributor" => contributor::contribute(&path, u64::MAX),
        "contributor that leaves" => contributor::contribute(&path, contributor::LEAVES_BEFORE),
        "reliable reader" => reader::read_all(&path, u64::MAX),
        "reliable reader that leaves" => reader::read_all(&path, reader::LEAVES_AFTER),
        "lossy reader" => reader::read_slowly(&path),
        other => panic!("no part {other}"),
    }
}

/// Starts a process that dies at the n-th pass of a point: `name:n`.
fn start_who_dies(part: &str, path: &Path, plan: &str) -> Player {
    Player::start_with(ENTRY, part, path, &[("ECS_CRASH_POINT", plan)])
}

/// What `ecs-cli ring check` checks holds in the ring as it is.
fn assert_whole(path: &Path, plan: &str) {
    let (seen, faults) = inspect::check(path, &Proc).expect("it is a ring");
    assert!(faults.is_empty(), "{plan}: {faults:#?}\n{seen:#?}");
}

/// The points that the sources name are those that somebody dies at here: none is forgotten, and none is gone.
#[test]
fn every_crash_point_of_the_sources_is_in_a_test() {
    let mut named = BTreeSet::new();
    collect_points(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut named);
    let dies_here = JOINING.into_iter().chain(owner::points()).chain(contributor::points()).chain(reader::points());
    assert_eq!(named, dies_here.map(str::to_owned).collect());
}

fn collect_points(folder: &Path, named: &mut BTreeSet<String>) {
    for entry in folder.read_dir().expect("the sources are there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            collect_points(&path, named);
        } else {
            let text = std::fs::read_to_string(&path).expect("text");
            let calls = text.split("crash_point!(\"").skip(1);
            named.extend(calls.filter_map(|rest| rest.split_once("\");")).map(|(name, _)| name.to_owned()));
        }
    }
}
