//! `ecs-cli hold`, `release` and `move`: who is next.

use crate::{completing, connection::Connection, exit::Exit, report};
use clap::Args;
use clap_complete::ArgValueCompleter;
use ecs_schemas::job::{HoldJob, JobId, JobRecord, MoveJob, ReleaseJob};
use std::io::Write;

const HOLD_EXAMPLES: &str = "\
Examples:
  ecs-cli hold 7
  ecs-cli hold 7 --json && ecs-cli release 7

Only a job that waits can be held; `ecs-cli cancel 7` ends one that an agent has.";

const RELEASE_EXAMPLES: &str = "\
Examples:
  ecs-cli release 7
  ecs-cli release 7 --json

The job takes its old place in the queue.";

const MOVE_EXAMPLES: &str = "\
Examples:
  ecs-cli move 7 --priority 10
  ecs-cli move 7 --before 5

Higher priorities go first; jobs are submitted with 0. Before another job means with its priority.";

/// How the job's record is printed, and whom to ask.
#[derive(Debug, Args)]
struct Target {
    /// Print the job as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
#[command(after_help = HOLD_EXAMPLES)]
pub struct Hold {
    /// Number of the job
    #[arg(add = ArgValueCompleter::new(completing::waiting_jobs))]
    id: u64,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = RELEASE_EXAMPLES)]
pub struct Release {
    /// Number of the job
    #[arg(add = ArgValueCompleter::new(completing::held_jobs))]
    id: u64,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = MOVE_EXAMPLES)]
pub struct Move {
    /// Number of the job
    #[arg(add = ArgValueCompleter::new(completing::queued_jobs))]
    id: u64,
    #[command(flatten)]
    place: Place, // first: what follows `target` would be listed under its last heading
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// Among the jobs of this priority, by its age
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i32>,
    /// Directly before this job of the same service
    #[arg(long, value_name = "ID", add = ArgValueCompleter::new(completing::queued_jobs))]
    before: Option<u64>,
}

impl Hold {
    pub fn run(self) -> anyhow::Result<Exit> {
        let job = self.target.connection.call(&HoldJob { id: JobId(self.id) })?;
        self.target.print(&job)
    }
}

impl Release {
    pub fn run(self) -> anyhow::Result<Exit> {
        let job = self.target.connection.call(&ReleaseJob { id: JobId(self.id) })?;
        self.target.print(&job)
    }
}

impl Move {
    pub fn run(self) -> anyhow::Result<Exit> {
        let id = JobId(self.id);
        let order = MoveJob { id, priority: self.place.priority, before: self.place.before.map(JobId) };
        let job = self.target.connection.call(&order)?;
        self.target.print(&job)
    }
}

impl Target {
    fn print(&self, job: &JobRecord) -> anyhow::Result<Exit> {
        if self.json {
            report::print_json(job)?;
        } else {
            writeln!(std::io::stdout(), "job {} ({}): {}", job.id, job.service, standing(job))?;
        }
        Ok(Exit::Ok)
    }
}

/// Where a job is, in words.
fn standing(job: &JobRecord) -> String {
    match (job.position, &job.agent) {
        (Some(1), _) => "the next one in its queue".to_owned(),
        (Some(position), _) => format!("place {position} in its queue"),
        _ if job.held => format!("held; let it go with: ecs-cli release {}", job.id),
        (None, Some(agent)) if !job.state.is_end() => format!("{agent} has it, {}", job.state.as_str()),
        _ => job.state.as_str().to_owned(),
    }
}
