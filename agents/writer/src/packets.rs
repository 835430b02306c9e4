//! The packets of a job: what the beamline's readouts counted while it ran.

use ecs_schemas::packets::PacketLedger;
use ecs_shm_buffer::{Image, Ring};
use std::{
    thread,
    time::{Duration, Instant},
};

/// A readout counts a batch of packets after it has put them into images. Longer than that takes nobody that lives, so
/// a job's end waits this long at most for the packets of its last images to be counted.
const COUNT_PATIENCE: Duration = Duration::from_millis(20);
const COUNT_PERIOD: Duration = Duration::from_micros(500);

/// The counters of a ring since a job began.
pub struct JobPackets {
    ring: Ring,
    before: PacketLedger,
    /// Of the images that were delivered since.
    delivered: u64,
}

impl JobPackets {
    pub fn begin(ring: &Ring) -> Self {
        Self { ring: ring.clone(), before: read(ring), delivered: 0 }
    }

    pub fn note_image(&mut self, image: &Image) {
        self.delivered += u64::from(image.packets_received);
    }

    /// What was counted until now, and the packets of the images that were delivered, if that does not take long: of a
    /// job that began in the middle of an image, some were counted before it.
    pub fn end(&self) -> PacketLedger {
        let begun = Instant::now();
        loop {
            let counted = read(&self.ring).since(&self.before);
            if counted.placed >= self.delivered || begun.elapsed() >= COUNT_PATIENCE {
                return counted;
            }
            thread::sleep(COUNT_PERIOD);
        }
    }
}

fn read(ring: &Ring) -> PacketLedger {
    let counts = ring.status().packets;
    PacketLedger {
        received: counts.received,
        placed: counts.placed,
        duplicate: counts.duplicate,
        late: counts.late,
        early: counts.early,
        no_slot: counts.no_slot,
        foreign: counts.foreign,
        malformed: counts.malformed,
        shed: counts.shed,
        unlisted: counts.unlisted,
        dropped_by_kernel: counts.kernel_dropped,
    }
}
