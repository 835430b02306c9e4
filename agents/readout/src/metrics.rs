//! What a readout process tells of itself, once a second.

use crate::port::Port;
use ecs_schemas::value::Value;
use ecs_shm_buffer::{PacketCounts, Ring};
use std::{collections::BTreeMap, time::Instant};

/// Turns counters into telemetry with rates since the last time.
pub struct Metrics {
    last: (Instant, PacketCounts),
}

impl Metrics {
    pub fn new() -> Self {
        Self { last: (Instant::now(), PacketCounts::default()) }
    }

    /// The values of this process, whose name in the ring is `name`.
    pub fn read(&mut self, ring: &Ring, name: &str, ports: &[Port]) -> BTreeMap<String, Value> {
        let status = ring.status();
        let mine = status
            .participants
            .iter()
            .find(|participant| name.starts_with(&participant.name) && participant.process.pid == std::process::id());
        let counts = mine.map(|participant| participant.packets).unwrap_or_default();
        let (now, (then, before)) = (Instant::now(), self.last);
        let seconds = now.duration_since(then).as_secs_f64().max(1e-9);
        self.last = (now, counts);
        let rate = |now: u64, before: u64| Value::Float(now.saturating_sub(before) as f64 / seconds);
        let given = ports.iter().map(|port| port.socket.receive_buffer.given_bytes).min().unwrap_or(0);
        let values = [
            ("packets_per_s", rate(counts.received, before.received)),
            ("bytes_per_s", rate(counts.bytes, before.bytes)),
            ("packets_received", counts.received.into()),
            ("packets_placed", counts.placed.into()),
            ("packets_moved", counts.moved.into()),
            ("dropped_duplicate", counts.duplicate.into()),
            ("dropped_late", counts.late.into()),
            ("dropped_early", counts.early.into()),
            ("dropped_no_slot", counts.no_slot.into()),
            ("dropped_foreign", counts.foreign.into()),
            ("dropped_malformed", counts.malformed.into()),
            ("dropped_shed", counts.shed.into()),
            ("dropped_unlisted", counts.unlisted.into()),
            ("dropped_by_kernel", counts.kernel_dropped.into()),
            ("receive_buffer_bytes", given.into()),
        ];
        values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}
