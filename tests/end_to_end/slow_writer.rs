//! A writer that stalls: the ring holds what it can, and the newest images are lost by count.

use crate::support::{Beamline, Detector, Outcome, check_images, send};
use ecs_shm_buffer::LossCause;
use std::time::Duration;

#[test]
fn a_stalled_writer_costs_the_newest_images_and_the_ledger_names_their_cause() {
    // 64 slots of 131,584 bytes; at 500 images/s a stall of 1.5 s is 750 images.
    let beamline = Beamline::up(Detector::Quadrant, "[ring]\nsize = \"8 MiB\"\n");
    let job = beamline.submit_running("run.h5", 1500, &["--start", "1"]);
    let sim = std::thread::scope(|scope| {
        let sim = scope.spawn(|| Outcome::of(&mut beamline.sim(1500, 500, &[])));
        beamline.wait_job(job, |job| job["progress"]["done"].as_u64() >= Some(200));
        let writer = beamline.pid("writer");
        send(writer, libc::SIGSTOP);
        std::thread::sleep(Duration::from_millis(1500)); // the stall itself
        let ring = beamline.ring_status().unwrap();
        send(writer, libc::SIGCONT);
        let reader = ring.participants.iter().find(|other| other.role.reads()).expect("the writer");
        let ring_full = ring.lost[LossCause::RingFull as usize - 1];
        assert!(reader.refused > 100 && reader.refused == ring_full, "its name is at each image it cost: {reader:?}");
        sim.join().expect("the simulator ran")
    });
    sim.ok();
    let ended = beamline.wait_end(job);
    assert_eq!(ended["state"], "done", "{ended:#}");
    let counts = check_images(&beamline.path("run.h5"), &[]);
    let lost = counts["lost"]["ring_full"].as_u64().unwrap_or(0);
    assert!(lost > 100, "{counts:#}");
    assert_eq!(counts["complete"].as_u64().unwrap() + counts["partial"].as_u64().unwrap() + lost, 1500, "{counts:#}");
}
