//! The queues: one for each service, in the order of rule J6; who gets the next job, and what people change.
//!
//! ```text
//!          hold / release, move
//!                  │
//! submit ──▶ queue of `write`  ──▶ the agent that offers `write`, is ready, and has fewest of its jobs
//!        ──▶ queue of `reduce` ──▶ …
//! ```
//!
//! # Rules
//! Q1  An agent has at most `jobs_at_once` jobs of each of its services.
//! Q2  A job that nobody holds is never passed over by a later one of its queue, save while the only agents
//!     that have room are still to end it from before (rule G5 of the registry).
//! Q3  Only a job that no agent has is held or moved: what an agent has, it may have begun.

use super::{Core, Outgoing, jobs::Job};
use ecs_schemas::{
    error_code::{ErrorCode, Failure},
    job::{HoldJob, JobId, JobRecord, MoveJob, ReleaseJob},
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Room between two orders, for jobs that are moved in between: half of it is taken each time, and when none is
/// left the orders of the queue are dealt anew. Ids up to 2^40 have an order.
const ORDER_STEP: u64 = 1 << 24;

/// The order of a job that nobody moved.
pub(super) fn order_of(id: JobId) -> u64 {
    id.0.saturating_mul(ORDER_STEP)
}

/// Agent and service, and how many jobs of it the agent has.
type Loads = BTreeMap<(String, String), u32>;

impl Core {
    /// Gives what waits to whoever has room (rules Q1, Q2).
    pub(super) fn assign(&mut self, now_ns: u64, out: &mut Vec<Outgoing>) {
        let mut loads = self.loads();
        for service in self.jobs.waiting_services() {
            self.assign_of(&service, &mut loads, now_ns, out);
        }
    }

    fn assign_of(&mut self, service: &str, loads: &mut Loads, now_ns: u64, out: &mut Vec<Outgoing>) {
        let mut free = self.free_agents(service, loads);
        if free.is_empty() {
            return; // most often: the queue is not even looked at
        }
        for id in self.jobs.waiting_ids(service) {
            let Some(agent) = free.into_iter().find(|agent| !self.registry.owes(agent, id)) else {
                free = self.free_agents(service, loads);
                continue;
            };
            *loads.entry((agent.clone(), service.to_owned())).or_default() += 1;
            self.jobs.change(id, |job| {
                job.record.agent = Some(agent.clone());
                job.record.attempt = job.record.attempt.saturating_add(1);
            });
            self.send_run(id, &agent, now_ns, out);
            free = self.free_agents(service, loads);
            if free.is_empty() {
                return;
            }
        }
    }

    fn loads(&self) -> Loads {
        let mut loads = Loads::new();
        for record in self.jobs.given() {
            if let Some(agent) = &record.agent {
                *loads.entry((agent.clone(), record.service.clone())).or_default() += 1;
            }
        }
        loads
    }

    /// Agents that have room for a job of `service`, those with fewest of them first, then by name.
    fn free_agents(&self, service: &str, loads: &Loads) -> Vec<String> {
        let load = |agent: &str| loads.get(&(agent.to_owned(), service.to_owned())).copied().unwrap_or(0);
        let ready = self.registry.ready_for(service).map(|(agent, at_once)| (load(agent), agent, at_once));
        let mut free: Vec<_> = ready.filter(|(load, _, at_once)| load < at_once).collect();
        free.sort_unstable();
        free.into_iter().map(|(_, agent, _)| agent.to_owned()).collect()
    }

    /// # Errors
    /// `no_such_job`, `conflict` (rule Q3).
    pub(super) fn hold(&mut self, hold: &HoldJob) -> Result<JobRecord, Failure> {
        if !self.queued(hold.id, "held")?.held {
            self.jobs.change(hold.id, |job| job.record.held = true);
        }
        self.find_job(hold.id).map(|job| self.answered(&job.record))
    }

    /// # Errors
    /// `no_such_job`. A job that is not held stays as it is: releasing twice is releasing once.
    pub(super) fn release(&mut self, release: &ReleaseJob) -> Result<JobRecord, Failure> {
        if self.find_job(release.id)?.record.held {
            self.jobs.change(release.id, |job| job.record.held = false);
        }
        self.find_job(release.id).map(|job| self.answered(&job.record))
    }

    /// # Errors
    /// `no_such_job`, `conflict` (rule Q3), `bad_parameter` (not exactly one place, or in another queue).
    pub(super) fn move_job(&mut self, order: &MoveJob) -> Result<JobRecord, Failure> {
        self.queued(order.id, "moved")?;
        match (order.priority, order.before) {
            (Some(priority), None) => self.place(order.id, priority, order_of(order.id)),
            (None, Some(before)) => self.move_before(order.id, before)?,
            _ => return Err(bad("a move has a priority or a job to be before, one of both".to_owned())),
        }
        self.find_job(order.id).map(|job| self.answered(&job.record))
    }

    fn move_before(&mut self, id: JobId, before: JobId) -> Result<(), Failure> {
        let (moved, target) = (self.queued(id, "moved")?, self.queued(before, "a place in the queue")?);
        if id == before || moved.service != target.service {
            let (service, other) = (&moved.service, &target.service);
            return Err(bad(format!("job {id} ({service}) cannot be before job {before} ({other}) in one queue")));
        }
        let (priority, service) = (target.priority, target.service.clone());
        let order = self.order_before(id, before, &service, priority).or_else(|| {
            self.deal_orders(&service, priority);
            self.order_before(id, before, &service, priority)
        });
        self.place(id, priority, order.expect("orders that were dealt anew have room between them"));
        Ok(())
    }

    /// An order between `before` and whatever is in front of it; none when there is no room.
    fn order_before(&self, id: JobId, before: JobId, service: &str, priority: i32) -> Option<u64> {
        let others = self.jobs.queue_of(service).filter(|record| record.priority == priority && record.id != id);
        let mut lower = 0;
        for record in others {
            if record.id == before {
                let order = lower + record.order.saturating_sub(lower) / 2;
                return (lower < order && order < record.order).then_some(order);
            }
            lower = record.order;
        }
        None
    }

    /// Gives the queued jobs of one priority the orders of jobs that nobody moved, in the order that they have.
    fn deal_orders(&mut self, service: &str, priority: i32) {
        let ids: Vec<JobId> =
            self.jobs.queue_of(service).filter(|record| record.priority == priority).map(|record| record.id).collect();
        let mut by_age = ids.clone();
        by_age.sort_unstable();
        for (id, place_of) in ids.into_iter().zip(by_age) {
            self.place(id, priority, order_of(place_of));
        }
    }

    fn place(&mut self, id: JobId, priority: i32, order: u64) {
        let is_new = |job: &Job| (job.record.priority, job.record.order) != (priority, order);
        if self.jobs.get(id).is_some_and(is_new) {
            self.jobs.change(id, |job| (job.record.priority, job.record.order) = (priority, order));
        }
    }

    /// A job that no agent has; `wanted` says what for.
    fn queued(&self, id: JobId, wanted: &str) -> Result<&JobRecord, Failure> {
        let record = &self.find_job(id)?.record;
        if record.is_queued() {
            return Ok(record);
        }
        let is = match &record.agent {
            Some(agent) if !record.state.is_end() => format!("{agent} has job {id} already"),
            _ => format!("job {id} is {}", record.state.as_str()),
        };
        Err(Failure::new(ErrorCode::Conflict, format!("{is}: only a job that waits can be {wanted}")))
    }

    /// A record as it is answered: with its place in the queue.
    pub(super) fn answered(&self, record: &JobRecord) -> JobRecord {
        let waits = record.is_queued() && !record.held;
        let ahead = || self.waiting(&record.service).take_while(|other| other.id != record.id).count();
        let position = waits.then(|| u32::try_from(ahead() + 1).unwrap_or(u32::MAX));
        JobRecord { position, follow_up_due: false, ..record.clone() }
    }

    /// The place of each job that waits, for answers with many of them.
    pub(super) fn positions(&self) -> HashMap<JobId, u32> {
        let services: BTreeSet<&str> = self.jobs.open().map(|record| record.service.as_str()).collect();
        let numbered = |service| self.waiting(service).zip(1..).map(|(record, position)| (record.id, position));
        services.into_iter().flat_map(numbered).collect()
    }

    fn waiting<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a JobRecord> {
        self.jobs.queue_of(service).filter(|record| !record.held)
    }
}

fn bad(message: String) -> Failure {
    Failure::new(ErrorCode::BadParameter, message)
}
