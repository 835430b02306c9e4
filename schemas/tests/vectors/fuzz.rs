//! Bytes and texts that nobody should send, made of good ones by chance.
//!
//! They are an error or they are understood, never a panic; what is understood is understood the same again; and the memory
//! that it takes stays within what the longest message may take.
//!
//! The same seeds each time, however fast the machine is. `ECS_FUZZ_SECONDS=N` goes on for so long instead;
//! `ECS_FUZZ_SEED=N` is that seed alone, or where it begins.

use super::{bytes_of, cases, codec_of, parts};
use crate::mutation::{for_seeds, mutated};
use ecs_schemas::{
    beamline::Beamline,
    bundle::read_bundle,
    envelope::{Header, decode},
    value::Value,
};
use std::{fs, io, path::Path};

/// Seeds of a hundred messages each, and of one file each: each some second on two cores.
const MESSAGE_SEEDS: u64 = 6000;
const FILE_SEEDS: u64 = 15_000;

/// Names that `codec_of` knows: all types of the vectors.
fn samples() -> Vec<(String, Vec<u8>)> {
    let all = ["exact", "accepted", "refused"].into_iter().flat_map(cases);
    all.map(|(_, _, case)| (case["type"].as_str().unwrap().to_owned(), bytes_of(&case["hex"]))).collect()
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
    for_seeds(MESSAGE_SEEDS, |random| {
        for _ in 0..100 {
            let (kind, bytes) = &samples[random.index(samples.len())];
            let (other_kind, other) = &samples[random.index(samples.len())];
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
fn mutated_bundles_are_refused_or_hold_the_same_messages_as_any_decoder_finds() {
    let samples: Vec<_> = ["bundles", "no_bundles"].into_iter().flat_map(parts).map(|(_, part, _)| part).collect();
    for_seeds(MESSAGE_SEEDS, |random| {
        for _ in 0..100 {
            let (part, other) = (&samples[random.index(samples.len())], &samples[random.index(samples.len())]);
            let part = mutated(part, other, random);
            let Ok(messages) = read_bundle(&part) else { continue };
            let entries = messages.iter().flatten().map(|bytes| Value::Bytes(bytes.to_vec())).collect();
            assert_eq!(decode::<Value>(&part), Ok(Value::List(entries)), "{part:02x?}");
        }
    });
}

#[test]
fn mutated_beamline_files_are_errors_or_beamlines() {
    let demo = include_str!("../../../tools/demo.toml");
    let keys = include_str!("../../spec/beamline.md");
    let load = |_: &Path| Err(io::ErrorKind::NotFound.into());
    for_seeds(FILE_SEEDS, |random| {
        let text = String::from_utf8_lossy(&mutated(demo.as_bytes(), keys.as_bytes(), random)).into_owned();
        if let Err(errors) = Beamline::parse(&text, "/b/x.toml".as_ref(), &load) {
            assert!(errors.0.iter().all(|error| !error.to_string().is_empty()));
        }
    });
}
