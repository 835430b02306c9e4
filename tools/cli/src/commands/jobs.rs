//! `ecs-cli jobs`: the newest jobs.

use crate::{
    connection::Connection,
    exit::Exit,
    human, report,
    table::{Cell, Table},
};
use clap::Args;
use ecs_schemas::job::{JobRecord, LIST_MAX, ListJobs};
use std::io::Write;

const EXAMPLES: &str = "\
Examples:
  ecs-cli jobs
  ecs-cli jobs --limit 3
  ecs-cli jobs --json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Jobs {
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=i64::from(LIST_MAX)))]
    limit: u32,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Jobs {
    pub fn run(self) -> anyhow::Result<Exit> {
        let list = self.connection.call(&ListJobs { limit: self.limit })?;
        if self.json {
            report::print_json(&list)?;
        } else if list.jobs.is_empty() {
            writeln!(std::io::stdout(), "no jobs; submit one with: ecs-cli submit write --output FILE --images N")?;
        } else {
            table(&list.jobs).print()?;
        }
        Ok(Exit::Ok)
    }
}

fn table(jobs: &[JobRecord]) -> Table {
    let now_ns = human::now_ns();
    let mut table = Table::new(["job", "age", "state", "progress", "output"]);
    for job in jobs {
        let reason = job.reason.as_ref().map(|reason| format!("  ({})", reason.code.as_str())).unwrap_or_default();
        table.row([
            Cell::from(job.id.to_string()),
            human::between(report::submitted_ns(job), now_ns).into(),
            report::state(job),
            report::progress(job).into(),
            format!("{}{reason}", report::output(job)).into(),
        ]);
    }
    table
}
