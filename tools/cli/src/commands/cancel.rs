//! `ecs-cli cancel`: ask for a job's end.

use crate::{completing, connection::Connection, exit::Exit, report};
use clap::Args;
use clap_complete::ArgValueCompleter;
use ecs_schemas::job::{CancelJob, JobId};
use std::io::Write;

const EXAMPLES: &str = "\
Examples:
  ecs-cli cancel 7
  ecs-cli cancel 7 --json

A write that is cancelled keeps the images that it has; `ecs-cli job 7` shows its ledger.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Cancel {
    /// Number of the job
    #[arg(add = ArgValueCompleter::new(completing::open_jobs))]
    id: u64,
    /// Print the job as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Cancel {
    pub fn run(self) -> anyhow::Result<Exit> {
        let job = self.connection.call(&CancelJob { id: JobId(self.id) })?;
        if self.json {
            report::print_json(&job)?;
        } else if job.state.is_end() {
            writeln!(std::io::stdout(), "job {} is {}", job.id, job.state.as_str())?;
        } else {
            let (id, state) = (job.id, job.state.as_str());
            writeln!(std::io::stdout(), "job {id} is {state} and ends soon; follow it with: ecs-cli job {id} --wait")?;
        }
        Ok(Exit::Ok)
    }
}
