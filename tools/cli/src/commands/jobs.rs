//! `ecs-cli jobs`: the newest jobs, or those that are looked for.

use crate::{
    completing,
    connection::{CALL_TIMEOUT, Connection, call},
    exit::Exit,
    human,
    registered::{Registered, near},
    report, times,
};
use anyhow::anyhow;
use clap::Args;
use clap_complete::ArgValueCompleter;
use ecs_schemas::job::{JobList, JobState, LIST_MAX, ListJobs};
use ecs_sdk::{CallError, Client};
use std::io::Write;

const EXAMPLES: &str = "\
Examples:
  ecs-cli jobs
  ecs-cli jobs --state submitted --service write
  ecs-cli jobs --state failed --state lost --since 1d
  ecs-cli jobs --since 2026-11-21T08:00:00Z --until 2h --text lysozyme --json

All that is given must hold; of several states any.
A text is looked for in the key, the parameters, the reason and the agent's name.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Jobs {
    /// In this state; may be repeated
    #[arg(long, value_name = "STATE", value_parser = state, add = ArgValueCompleter::new(completing::job_states))]
    state: Vec<JobState>,
    /// Of this service
    #[arg(long, value_name = "NAME", add = ArgValueCompleter::new(completing::services))]
    service: Option<String>,
    /// Submitted at this time or later: RFC 3339, or an age such as 10m, 2h, 1d
    #[arg(long, value_name = "TIME", value_parser = time_ns)]
    since: Option<u64>,
    /// Submitted before this time
    #[arg(long, value_name = "TIME", value_parser = time_ns)]
    until: Option<u64>,
    /// With this text, in any case of its letters
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
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
        let query = self.query();
        let is_any = ListJobs { limit: self.limit, ..ListJobs::default() } == query;
        let client = self.connection.client()?;
        let list = collect(&client, query)?;
        if self.json {
            report::print_json(&list)?;
        } else if list.jobs.is_empty() && is_any {
            writeln!(std::io::stdout(), "no jobs; submit one with: ecs-cli submit write --output FILE --images N")?;
        } else if list.jobs.is_empty() {
            writeln!(std::io::stdout(), "no such jobs{}", self.near_service(&client))?;
        } else {
            report::table(&list.jobs).print()?;
        }
        Ok(Exit::Ok)
    }

    /// What to say where there is no job of a service: of which one there may be.
    fn near_service(&self, client: &Client) -> String {
        let Some(service) = &self.service else { return String::new() };
        let agents = Registered::new(client, CALL_TIMEOUT).status().map(|status| status.agents).unwrap_or_default();
        let offers: Vec<&str> = agents.iter().flat_map(|its| &its.services).map(|offer| offer.name.as_str()).collect();
        match offers.contains(&service.as_str()) {
            true => String::new(),
            false => format!("; nobody offers {service:?} now{}", near(service, offers.into_iter())),
        }
    }

    fn query(&self) -> ListJobs {
        ListJobs {
            limit: self.limit,
            states: self.state.clone(),
            service: self.service.clone(),
            since_ns: self.since,
            until_ns: self.until,
            text: self.text.clone(),
            before: None,
        }
    }
}

/// Page after page, until there are as many as are wanted.
fn collect(client: &Client, mut query: ListJobs) -> Result<JobList, CallError> {
    let mut list = JobList { jobs: Vec::new(), next: None };
    loop {
        let page = call(client, &query)?;
        query.limit = query.limit.saturating_sub(u32::try_from(page.jobs.len()).unwrap_or(u32::MAX));
        list.jobs.extend(page.jobs);
        list.next = page.next;
        if query.limit == 0 || page.next.is_none() {
            return Ok(list);
        }
        query.before = page.next;
    }
}

fn state(text: &str) -> anyhow::Result<JobState> {
    let found = JobState::ALL.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| anyhow!("a state is one of {}", JobState::ALL.map(JobState::as_str).join(", ")))
}

fn time_ns(text: &str) -> Result<u64, String> {
    times::parse(text, human::now_ns())
}
