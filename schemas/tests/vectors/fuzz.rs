//! Bytes and texts that nobody should send, made of good ones by chance.
//!
//! They are an error or they are understood, never a panic; what is understood is understood the same again; and the memory
//! that it takes stays within what the longest message may take.
//!
//! `ECS_FUZZ_SECONDS=N` goes on for so long, `ECS_FUZZ_SEED=N` begins there.

use super::{bytes_of, cases, codec_of};
use crate::mutation::{Random, mutated};
use ecs_schemas::{beamline::Beamline, envelope::Header};
use std::{
    env, fs, io,
    path::Path,
    time::{Duration, Instant},
};

/// Names that `codec_of` knows: all types of the vectors.
fn samples() -> Vec<(String, Vec<u8>)> {
    let all = ["exact", "accepted", "refused"].into_iter().flat_map(cases);
    all.map(|(_, _, case)| (case["type"].as_str().unwrap().to_owned(), bytes_of(&case["hex"]))).collect()
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Runs `one` with one seed after another until the time is over; says which seed it was when one fails.
fn for_some_time(one: impl Fn(&mut Random)) {
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("replay this with ECS_FUZZ_SEED={}", self.0);
            }
        }
    }
    let end = Instant::now() + Duration::from_secs(number("ECS_FUZZ_SECONDS", 2));
    let first = number("ECS_FUZZ_SEED", 0);
    let mut seed = first;
    while seed == first || Instant::now() < end {
        let _seed = Seed(seed);
        one(&mut Random(seed));
        seed += 1;
    }
    assert!(seed > first + 1000 || number("ECS_FUZZ_SECONDS", 2) == 0, "only {} tries", seed - first);
}

/// The most memory that this process has had, in bytes.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn mutated_messages_are_errors_or_understood_the_same_again() {
    let samples = samples();
    for_some_time(|random| {
        for _ in 0..100 {
            let (kind, bytes) = &samples[random.below(samples.len())];
            let (other_kind, other) = &samples[random.below(samples.len())];
            let bytes = mutated(bytes, other, random);
            let _ = Header::decode(&bytes);
            for kind in [kind, other_kind] {
                let understood = codec_of(kind).understood;
                if let Ok(again) = understood(&bytes) {
                    assert_eq!(understood(&again), Ok(again), "{kind}: {bytes:02x?}");
                }
            }
        }
    });
    assert!(peak_bytes() < 256 * 1024 * 1024, "{} bytes for messages of hundreds", peak_bytes());
}

#[test]
fn mutated_beamline_files_are_errors_or_beamlines() {
    let demo = include_str!("../../../tools/demo.toml");
    let keys = include_str!("../../spec/beamline.md");
    let load = |_: &Path| Err(io::ErrorKind::NotFound.into());
    for_some_time(|random| {
        let text = String::from_utf8_lossy(&mutated(demo.as_bytes(), keys.as_bytes(), random)).into_owned();
        if let Err(errors) = Beamline::parse(&text, "/b/x.toml".as_ref(), &load) {
            assert!(errors.0.iter().all(|error| !error.to_string().is_empty()));
        }
    });
}
