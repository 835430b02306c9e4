//! `ecs-cli job`: all that is known of one job.

use crate::{
    connection::{Connection, call},
    exit::Exit,
    progress,
    progress::Waiting,
    report,
};
use clap::Args;
use ecs_schemas::job::{GetJob, JobId};

const EXAMPLES: &str = "\
Examples:
  ecs-cli job 7
  ecs-cli job 7 --wait
  ecs-cli job 7 --json

With --wait the exit code is 0 only if every image is written whole, and 3 if the job ended otherwise.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Job {
    /// Number of the job
    id: u64,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    connection: Connection,
}

impl Job {
    pub fn run(self) -> anyhow::Result<Exit> {
        let (client, id) = (self.connection.client()?, JobId(self.id));
        let job = call(&client, &GetJob { id })?;
        if self.waiting.wait {
            return progress::finish(&client, id, self.waiting.json);
        }
        if self.waiting.json {
            report::print_json(&job)?;
        } else {
            report::print_job(&job)?;
        }
        Ok(Exit::Ok)
    }
}
