//! The owner's steps, and owners that are killed in the middle of one.

use super::{HOUSEKEEPING_NS, NOTICES_WAIT_AT, World};
use crate::common::{self, DEADLINE_NS, Living, UTC_OFFSET_NS, invariants};
use ecs_shm_buffer::{Liveness, Now, Owner, ProcessId, Surroundings};
use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::Duration,
};

impl World {
    fn try_step(&mut self, ns: u64, liveness: &dyn Liveness, fill: &mut dyn FnMut(&mut [u8], usize)) -> bool {
        self.now_ns += ns;
        let now = Now { mono_ns: self.now_ns, utc_ns: UTC_OFFSET_NS + self.now_ns };
        let owner = self.owner.as_mut().expect("there is always one");
        let step = AssertUnwindSafe(|| owner.step(&mut Surroundings { now, liveness, fill }));
        match catch_unwind(step) {
            Ok(_) => true,
            Err(death) if death.is::<&str>() && *death.downcast_ref::<&str>().expect("asked") == DEATH => false,
            Err(failure) => resume_unwind(failure),
        }
    }

    pub fn step(&mut self, ns: u64) {
        self.note_slow_readers();
        let living = std::mem::take(&mut self.living);
        assert!(self.try_step(ns, &living, &mut common::fill), "nobody killed it");
        self.living = living;
        if ns >= HOUSEKEEPING_NS {
            invariants::check_participants(&self.ring, &self.living);
        }
    }

    pub fn replace_owner(&mut self) {
        self.note_slow_readers();
        self.owner_died_in.insert(self.epoch());
        let process = self.new_process();
        self.owner = Some(Owner::take_over(&self.ring, process, Duration::from_nanos(DEADLINE_NS), &self.living));
        invariants::check_participants(&self.ring, &self.living);
    }

    pub fn kill_owner_filling(&mut self, ns: u64) {
        self.note_slow_readers();
        let living = std::mem::take(&mut self.living);
        self.try_step(ns, &living, &mut |_, _| resume_unwind(Box::new(DEATH)));
        self.living = living;
        self.replace_owner();
    }

    pub fn kill_owner_asking(&mut self, questions: u32, ns: u64) {
        self.note_slow_readers();
        let dies = DiesAsking { living: std::mem::take(&mut self.living), left: Cell::new(questions) };
        self.try_step(ns, &dies, &mut common::fill);
        self.living = dies.living;
        self.replace_owner();
    }

    fn note_slow_readers(&mut self) {
        let behind = self.ring.status().participants.into_iter().map(|other| other.behind).max().unwrap_or(0);
        self.someone_was_slow |= behind > 1;
        self.notices_waited |= behind + 4 >= NOTICES_WAIT_AT;
    }
}

const DEATH: &str = "killed here";

/// Plays an owner that is killed when it asks for the n-th time whether somebody lives.
struct DiesAsking {
    living: Living,
    left: Cell<u32>,
}

impl Liveness for DiesAsking {
    fn is_alive(&self, process: ProcessId) -> bool {
        self.left.set(self.left.get().saturating_sub(1));
        if self.left.get() == 0 {
            resume_unwind(Box::new(DEATH));
        }
        self.living.is_alive(process)
    }
}
