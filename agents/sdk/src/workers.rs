//! The jobs that run in this agent, each on a thread of its own.
//!
//! The I/O thread owns this table; the threads of the jobs only see their own job. A job's thread ends
//! with its report, so an entry goes when that report was taken from the outbox.

use crate::{
    job::{Job, Service},
    limits::STUCK_JOBS_MAX,
    outbox::Outbox,
};
use ecs_schemas::{
    error_code::{ErrorCode, Failure},
    job::{JobId, JobState, ReportJob, RunJob},
};
use std::{collections::BTreeMap, sync::Arc, thread};

pub struct Workers {
    services: Vec<Arc<dyn Service>>,
    outbox: Arc<Outbox>,
    running: BTreeMap<JobId, (Arc<Job>, Arc<dyn Service>)>,
}

impl Workers {
    pub fn new(services: Vec<Arc<dyn Service>>, outbox: Arc<Outbox>) -> Self {
        Self { services, outbox, running: BTreeMap::new() }
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Starts a job that is new to this agent, or reports why not.
    pub fn run(&mut self, run: RunJob) {
        let (id, attempt) = (run.id, run.attempt);
        if let Err(reason) = self.try_run(run) {
            let report = ReportJob { id, attempt, state: JobState::Rejected, reason: Some(reason), result: None };
            self.outbox.report(report);
        }
    }

    fn try_run(&mut self, run: RunJob) -> Result<(), Failure> {
        let running = self.running.len();
        if running >= self.jobs_max() {
            return Err(Failure::new(ErrorCode::Busy, format!("{running} jobs run here already")));
        }
        let Some(service) = self.services.iter().find(|service| service.name() == run.service) else {
            return Err(Failure::new(ErrorCode::NoSuchService, format!("this agent has no service {:?}", run.service)));
        };
        let service = Arc::clone(service);
        let job = Arc::new(Job::new(run, Arc::clone(&self.outbox)));
        let (its_job, its_service) = (Arc::clone(&job), Arc::clone(&service));
        spawn(format!("job-{}", job.id()), move || its_job.run(&*its_service))?;
        self.running.insert(job.id(), (job, service));
        Ok(())
    }

    fn jobs_max(&self) -> usize {
        let at_once: usize = self.services.iter().map(|service| service.jobs_at_once() as usize).sum();
        at_once.saturating_add(STUCK_JOBS_MAX)
    }

    /// Kills a job; false when none with this id runs. Killing it again changes nothing.
    pub fn kill(&self, id: JobId) -> bool {
        let Some((job, service)) = self.running.get(&id) else { return false };
        if job.kill() {
            let (job, service) = (Arc::clone(job), Arc::clone(service));
            if let Err(failure) = spawn(format!("kill-{id}"), move || job.run_kill(&*service)) {
                tracing::error!(job = id.0, "on_kill was not called: {failure}");
            }
        }
        true
    }

    pub fn kill_all(&self) {
        for id in self.running.keys() {
            self.kill(*id);
        }
    }

    /// The end of a job was reported.
    pub fn forget(&mut self, id: JobId) {
        self.running.remove(&id);
    }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let spawned = thread::Builder::new().name(name).spawn(work);
    spawned.map(drop).map_err(|error| Failure::new(ErrorCode::Busy, format!("no thread for it: {error}")))
}
