//! `ecs-cli job`: all that is known of one job.

use crate::{
    completing,
    connection::{Connection, call},
    exit::Exit,
    progress,
    progress::Waiting,
    report,
};
use clap::Args;
use clap_complete::ArgValueCompleter;
use ecs_schemas::job::{GetJob, JobId};

const EXAMPLES: &str = "\
Examples:
  ecs-cli job 7
  ecs-cli job 7 --wait
  ecs-cli job 7 --wait-all
  ecs-cli job 7 --json

With --wait the exit code is 0 only if all is done (of a write: every image written whole), else 3.
With --wait-all that is said of the job, of all jobs that follow it, and of those that follow them.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Job {
    /// Number of the job
    #[arg(add = ArgValueCompleter::new(completing::all_jobs))]
    id: u64,
    #[command(flatten)]
    waiting: Waiting,
    /// Wait for the end of the job and of all that follows it; exit 0 only if all is done, else 3
    #[arg(long, conflicts_with = "wait")]
    wait_all: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Job {
    pub fn run(self) -> anyhow::Result<Exit> {
        let (client, id) = (self.connection.client()?, JobId(self.id));
        let job = call(&client, &GetJob { id })?;
        if self.wait_all {
            return progress::finish_all(&client, id, self.waiting.json);
        }
        if self.waiting.wait {
            return progress::finish(&client, id, None, self.waiting.json);
        }
        if self.waiting.json {
            report::print_json(&job)?;
        } else {
            report::print_job(&job)?;
        }
        Ok(Exit::Ok)
    }
}
