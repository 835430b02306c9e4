//! What the assembler tells of the ring, once a second.

use ecs_schemas::value::Value;
use ecs_shm_buffer::{LossCause, ParticipantStatus, Ring, RingStatus, Role};
use std::{collections::BTreeMap, time::Instant};

/// Turns the ring's counters into telemetry with rates since the last time.
pub struct Metrics {
    last: (Instant, u64),
}

/// Name of a loss as telemetry and ledgers have it.
fn cause_name(cause: LossCause) -> &'static str {
    match cause {
        LossCause::NotReceived => "lost_not_received",
        LossCause::RingFull => "lost_ring_full",
        LossCause::ReadoutStuck => "lost_readout_stuck",
        LossCause::OwnerDown => "lost_assembler_down",
        LossCause::Several => "lost_several",
    }
}

impl Metrics {
    pub fn new() -> Self {
        Self { last: (Instant::now(), 0) }
    }

    pub fn read(&mut self, ring: &Ring) -> BTreeMap<String, Value> {
        let status = ring.status();
        let images = status.images_complete + status.images_partial;
        let (now, (then, before)) = (Instant::now(), self.last);
        self.last = (now, images);
        let images_per_s = images.saturating_sub(before) as f64 / now.duration_since(then).as_secs_f64().max(1e-9);
        let mut values = levels(&status);
        values.extend([
            ("images_per_s", Value::Float(images_per_s)),
            ("bytes_per_s", Value::Float(images_per_s * ring.geometry().image_bytes() as f64)),
        ]);
        values
            .extend(LossCause::ALL.into_iter().zip(status.lost).map(|(cause, lost)| (cause_name(cause), lost.into())));
        values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// What each reader was given, and what it was not.
fn readers(status: &RingStatus) -> Value {
    let reader = |reader: &ParticipantStatus| {
        Value::map([
            ("name", reader.name.as_str().into()),
            ("pid", reader.process.pid.into()),
            ("is_reliable", (reader.role == Role::ReliableReader).into()),
            ("delivered", reader.delivered.into()),
            ("overtaken", reader.overtaken.into()),
            ("refused", reader.refused.into()),
            ("behind", reader.behind.into()),
        ])
    };
    Value::List(status.participants.iter().filter(|participant| participant.role.reads()).map(reader).collect())
}

fn levels(status: &RingStatus) -> Vec<(&'static str, Value)> {
    let packets = &status.packets;
    vec![
        ("ring_slots", status.slots.into()),
        ("ring_slots_in_use", status.slots_in_use.into()),
        ("ring_slots_in_quarantine", status.slots_in_quarantine.into()),
        ("ring_fill", Value::Float(f64::from(status.slots_in_use) / f64::from(status.slots))),
        ("ring_readers", status.participants.iter().filter(|participant| participant.role.reads()).count().into()),
        ("readers", readers(status)),
        ("run", status.epoch.into()),
        ("images_complete", status.images_complete.into()),
        ("images_partial", status.images_partial.into()),
        ("images_opened", status.images_opened.into()),
        ("images_open", status.images_open.into()),
        ("images_discarded", status.images_discarded.into()),
        ("missing_packets", status.missing_packets.into()),
        ("packets_received", packets.received.into()),
        ("packets_placed", packets.placed.into()),
        ("dropped_duplicate", packets.duplicate.into()),
        ("dropped_late", packets.late.into()),
        ("dropped_early", packets.early.into()),
        ("dropped_no_slot", packets.no_slot.into()),
        ("dropped_foreign", packets.foreign.into()),
        ("dropped_malformed", packets.malformed.into()),
        ("dropped_shed", packets.shed.into()),
        ("dropped_unlisted", packets.unlisted.into()),
        ("dropped_by_kernel", packets.kernel_dropped.into()),
    ]
}
