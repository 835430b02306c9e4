//! Bytes that were messages once. From one seed, always the same.

#[path = "../../../tests/common/random.rs"]
mod random;

pub use random::Random;
use std::{
    env,
    time::{Duration, Instant},
};

/// Bytes that begin something in MessagePack: short and long maps, lists, texts, bytes, numbers, extensions, nothing.
const MARKERS: [u8; 20] = [
    0x00, 0x7f, 0x80, 0x81, 0x8f, 0x90, 0x91, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc6, 0xc9, 0xcb, 0xcf, 0xd3, 0xdb, 0xdd,
    0xdf,
];

/// Some changes of `bytes`; `other` is another message, parts of which may get into it.
pub fn mutated(bytes: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.index(6) {
        change(&mut bytes, other, random);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.index(bytes.len() + 1);
    let end = (at + random.index(16)).min(bytes.len());
    match random.index(9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.index(8),
        1 if at < bytes.len() => bytes[at] = MARKERS[random.index(MARKERS.len())],
        2 if at < bytes.len() => bytes[at] = random.next() as u8,
        3 => bytes.insert(at, MARKERS[random.index(MARKERS.len())]),
        4 => drop(bytes.drain(at..end)),
        5 => {
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        6 => {
            let from = random.index(other.len() + 1);
            let to = (from + random.index(64)).min(other.len());
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        // A length of 4 G, and lists in lists.
        7 => drop(bytes.splice(at..at, [MARKERS[16 + random.index(4)], 0xff, 0xff, 0xff, 0xff])),
        _ => {
            let deep = vec![0x91; random.index(100)];
            bytes.splice(at..at, deep);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Runs `one` with `count` seeds, one after another, or as `ECS_FUZZ_SEED` and `ECS_FUZZ_SECONDS` say; says which seed it was when
/// one fails.
pub fn for_seeds(count: u64, mut one: impl FnMut(&mut Random)) {
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("replay this with ECS_FUZZ_SEED={}", self.0);
            }
        }
    }
    let (begun, seed, seconds) = (Instant::now(), number("ECS_FUZZ_SEED"), number("ECS_FUZZ_SECONDS"));
    let count = if seed.is_some() { 1 } else { count };
    let goes_on = |done: u64| seconds.map_or(done < count, |seconds| begun.elapsed() < Duration::from_secs(seconds));
    (0..).take_while(|done| goes_on(*done)).for_each(|done| {
        let seed = Seed(seed.unwrap_or(0) + done);
        one(&mut Random(seed.0));
    });
}
