//! The readout's own drain: a process that is stopped while its sockets are filled.

use super::{Drained, fill::Fill};
use crate::{
    cores::on_core,
    detectors::Which,
    image_path::{ImagePath, Standing, bind_ports},
    receive_floor::Handover,
};
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// How often it is looked whether all packets are placed: little against the tens of milliseconds of a drain, and seldom
/// enough to leave core 1 to the assembler.
const LOOK: Duration = Duration::from_micros(200);
/// No packet was placed for so long: there are no more.
const QUIET: Duration = Duration::from_millis(500);

pub struct Ours {
    standing: Standing,
    fill: Fill,
    /// Of one fill.
    images: u64,
    _path: ImagePath,
}

impl Ours {
    /// A readout that waits for packets.
    ///
    /// # Errors
    /// A process does not start, or the host's buffers do not hold a fill.
    pub fn start(program: &Path, which: Which, handover: Handover) -> anyhow::Result<Self> {
        let path = ImagePath::without_broker(program, which, handover)?;
        let mut fill = Fill::new(path.detector.clone());
        // The readout's sockets are like these, on the same ports, which are free again before it starts.
        let images = fill.images_that_fit(&bind_ports(&path.detector.placement, handover)?)?;
        let standing = path.stand(Some(1))?;
        Ok(Self { standing, fill, images, _path: path })
    }

    /// Fills the sockets, and lets the readout drain them. None where packets are missing.
    ///
    /// # Errors
    /// The network takes nothing.
    pub fn drain(&mut self) -> anyhow::Result<Option<Drained>> {
        let stopped = self.standing.readout.pause()?;
        let (packets, bytes) = self.fill.send(self.images)?;
        let (standing, before) = (&self.standing, self.standing.placed());
        let start = Instant::now();
        drop(stopped);
        on_core(1, || {
            let (mut placed, mut last) = (0, start);
            while placed < packets && last.elapsed() < QUIET {
                thread::sleep(LOOK);
                let now = standing.placed() - before;
                if now > placed {
                    (placed, last) = (now, Instant::now());
                }
            }
            Ok((placed == packets).then_some(Drained { bytes, elapsed: last - start }))
        })
    }
}
