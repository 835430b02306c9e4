//! Filled sockets, drained by one core into images: the readout's own loop beside bare ones.
//!
//! ```text
//! generator ──fills──▶ sockets of the readout, which is stopped ──▶ SIGCONT: the clock runs until all is placed
//!           └─fills──▶ sockets of a bare loop                   ──▶ the clock runs until the last packet
//! ```
//!
//! | beside | what it does with a packet |
//! |---|---|
//! | scattering | `recvmmsg`: header aside, payload straight into its rows; with `UDP_GRO`, many packets a message |
//! | copying, as std-daq | `recvmmsg` into a packet buffer, from there into a frame buffer, from there into the image |
//! | peeking, as odin-data | `recv` of the header with `MSG_PEEK`, then `recvmsg` as in scattering, packet by packet |
//!
//! # Rules
//! D1  Ours is the readout process, as it runs at a beamline, alone on core 0: its assembler, which opens and closes
//!     images meanwhile, is on core 1, with the generator. A bare loop is alone on core 0, too.
//! D2  Both sides have sockets with the same buffers, which hold the same packets, and all packets end in the same rows of
//!     images in `/dev/shm`, in memory of the size of the ring's that was touched before.
//! D3  A bare loop looks at nothing: it takes the packets for those that follow, in order. It checks, places, marks and
//!     hands on nothing. Copying is twice here, three times in std-daq, whose second process puts a frame into its image.
//! D4  With `UDP_GRO`, as ECS receives wherever the kernel has it, ours stands beside what those loops do too, which ask for
//!     no such thing.
//! D5  A drain that did not bring all packets is void, and done again.

mod bare;
mod fill;
mod loops;
mod memory;
mod ours;

pub use loops::{Coalesced, Loop};
pub use memory::Places;

use crate::{detectors::Which, receive_floor::Handover, rows::Rows};
use anyhow::bail;
use bare::Bare;
use loops::{Copying, Peeking, Singles};
use ours::Ours;
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// A packet's pixels in pieces, with gaps between, and in one piece.
const DETECTORS: [Which; 2] = [Which::Eiger500K, Which::Jungfrau2M];
/// Drains of one leg that may be void. More are no accident: the sockets' buffers do not hold what they should.
const VOIDS_MAX: u32 = 5;

/// All packets of a fill, and how long they took.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Drained {
    bytes: u64,
    elapsed: Duration,
}

/// The rows of drains.
///
/// # Errors
/// A process does not start, there is one core only, or the host gives no buffers that hold a fill.
pub fn measure(rows: &mut Rows<'_>, program: &Path, leg: Duration) -> anyhow::Result<()> {
    DETECTORS.into_iter().try_for_each(|which| {
        singles(rows, program, which, leg)?;
        coalesced(rows, program, which, leg)
    })
}

fn row_name(which: Which) -> String {
    format!("drain of filled sockets, one core, {}", which.name())
}

fn singles(rows: &mut Rows<'_>, program: &Path, which: Which, leg: Duration) -> anyhow::Result<()> {
    let what = row_name(which);
    if !rows.is_wanted(&what) {
        return Ok(());
    }
    let mut ours = Ours::start(program, which, Handover::Singles)?;
    let mut bare = Bare::bind(which, Handover::Singles)?;
    let places = bare.places()?;
    let mut beside = |baseline, mut receive: Box<dyn Loop>| {
        let floor = || gigabytes_per_s(leg, || bare.drain(&mut *receive));
        rows.measure(&what, "GB/s", baseline, || gigabytes_per_s(leg, || ours.drain()), floor)
    };
    beside("bare recvmmsg loop, same places", Box::new(Singles::new(places.clone())))?;
    beside("two copies, as std-daq", Box::new(Copying::new(places.clone())))?;
    beside("peek, then receive, as odin-data", Box::new(Peeking::new(places)))
}

fn coalesced(rows: &mut Rows<'_>, program: &Path, which: Which, leg: Duration) -> anyhow::Result<()> {
    let what = format!("{}, UDP_GRO", row_name(which));
    if !rows.is_wanted(&what) {
        return Ok(());
    }
    let mut ours = Ours::start(program, which, Handover::Coalesced)?;
    let mut bare = Bare::bind(which, Handover::Coalesced)?;
    let mut receive = Coalesced::new(bare.places()?);
    let floor = || gigabytes_per_s(leg, || bare.drain(&mut receive));
    let baseline = "bare recvmmsg loop with UDP_GRO, same places";
    rows.measure(&what, "GB/s", baseline, || gigabytes_per_s(leg, || ours.drain()), floor)?;
    let mut bare = Bare::bind(which, Handover::Singles)?;
    let places = bare.places()?;
    let mut beside = |baseline, mut receive: Box<dyn Loop>| {
        let floor = || gigabytes_per_s(leg, || bare.drain(&mut *receive));
        rows.measure(&what, "GB/s", baseline, || gigabytes_per_s(leg, || ours.drain()), floor)
    };
    beside("two copies without it, as std-daq", Box::new(Copying::new(places.clone())))?;
    beside("peek, then receive, without it, as odin-data", Box::new(Peeking::new(places)))
}

/// Drains again and again for the time of a leg, fills included. Of packets, headers included.
fn gigabytes_per_s(leg: Duration, mut drain: impl FnMut() -> anyhow::Result<Option<Drained>>) -> anyhow::Result<f64> {
    let (begun, mut voids) = (Instant::now(), 0);
    let (mut bytes, mut elapsed) = (0, Duration::ZERO);
    while bytes == 0 || begun.elapsed() < leg {
        match drain()? {
            Some(drained) => (bytes, elapsed) = (bytes + drained.bytes, elapsed + drained.elapsed),
            None if voids == VOIDS_MAX => {
                bail!("{} of the drains of one leg did not bring all packets that were sent", voids + 1)
            }
            None => voids += 1,
        }
    }
    Ok(bytes as f64 / 1e9 / elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drain_that_is_void_counts_for_nothing_and_is_done_again() {
        let good = Some(Drained { bytes: 2_000_000_000, elapsed: Duration::from_secs(1) });
        let mut drains = [None, None, good].into_iter();
        assert_eq!(gigabytes_per_s(Duration::ZERO, || Ok(drains.next().unwrap())).unwrap(), 2.0);
        let error = gigabytes_per_s(Duration::ZERO, || Ok(None)).unwrap_err();
        assert!(error.to_string().contains("6 of the drains"), "{error}");
    }
}
