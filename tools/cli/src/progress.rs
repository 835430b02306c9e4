//! Waiting for a job's end, with a bar where a person looks.

use crate::{connection::call, exit::Exit, human, report};
use anyhow::{Context, anyhow};
use clap::Args;
use ecs_schemas::{
    envelope::Request,
    job::{GetJob, GetOutcome, JobId, JobRecord, JobState, Outcome},
    write_job,
};
use ecs_sdk::{CallError, Client};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    thread,
    time::{Duration, Instant},
};

/// How often the broker is asked: a bar that moves smoothly costs ten small messages a second.
const POLL: Duration = Duration::from_millis(100);
/// The job goes on without the broker, so waiting does too; but a person should not wait for a broker
/// that never comes back.
const BROKER_PATIENCE: Duration = Duration::from_secs(60);

/// What a command prints about a job.
#[derive(Debug, Args)]
pub struct Waiting {
    /// Wait for the job's end with a progress bar; exit 0 only if all is done (of a write: every image written
    /// whole), else 3
    #[arg(long)]
    pub wait: bool,
    /// Print the job as JSON
    #[arg(long)]
    pub json: bool,
}

/// Waits for the end of a job, prints what became of it, and says how to exit.
///
/// # Errors
/// The broker stays away for a minute, or the job has not ended when `patience` is over.
pub fn finish(client: &Client, id: JobId, patience: Option<Duration>, json: bool) -> anyhow::Result<Exit> {
    let bar = Bar::new();
    let job = wait_for_end(client, &GetJob { id }, id, patience, &bar.bar, |job| {
        bar.show(job);
        job.state.is_end()
    })?;
    drop(bar);
    if json {
        report::print_json(&job)?;
    } else {
        report::print_job(&job)?;
    }
    Ok(if report::is_whole(&job) { Exit::Ok } else { Exit::NotWhole })
}

/// Waits for the end of a job and of all that follows it, prints what became of each, and says how to exit.
///
/// # Errors
/// The broker stays away for a minute.
pub fn finish_all(client: &Client, id: JobId, json: bool) -> anyhow::Result<Exit> {
    let bar = Bar::new();
    let outcome = wait_for_end(client, &GetOutcome { id }, id, None, &bar.bar, |outcome: &Outcome| {
        bar.show_all(&outcome.jobs);
        outcome.ended
    })?;
    drop(bar);
    if json {
        report::print_json(&outcome)?;
    } else {
        report::table(&outcome.jobs).print()?;
    }
    Ok(if outcome.jobs.iter().all(report::is_whole) { Exit::Ok } else { Exit::NotWhole })
}

/// Asks again and again until the answer `is_end`.
fn wait_for_end<R: Request>(
    client: &Client,
    request: &R,
    id: JobId,
    patience: Option<Duration>,
    bar: &ProgressBar,
    is_end: impl Fn(&R::Reply) -> bool,
) -> anyhow::Result<R::Reply> {
    let started = Instant::now();
    let mut answered = Instant::now();
    loop {
        match call(client, request) {
            Ok(reply) if is_end(&reply) => return Ok(reply),
            Ok(_) => answered = Instant::now(),
            Err(error @ CallError::Refused(_)) => return Err(error.into()),
            Err(error) if answered.elapsed() >= BROKER_PATIENCE => {
                return Err(error).context(format!("job {id} may go on; its end is not known"));
            }
            Err(_) => bar.set_message("the broker does not answer; the job goes on"),
        }
        if patience.is_some_and(|patience| started.elapsed() >= patience) {
            let seconds = started.elapsed().as_secs_f64();
            return Err(anyhow!(
                "job {id} has not ended after {seconds:.1} s and goes on; end it with: ecs-cli cancel {id}"
            ));
        }
        thread::sleep(POLL);
    }
}

/// A bar on stderr; where stderr is not a terminal it draws nothing.
struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::no_length();
        bar.set_style(ProgressStyle::with_template("{msg}").expect("a valid template"));
        Self { bar }
    }

    fn show(&self, job: &JobRecord) {
        let Some(progress) = job.progress.as_ref().filter(|progress| progress.total > 0) else {
            let waits_for = match job.state {
                JobState::Running if job.service == write_job::SERVICE => "waits for the first image",
                JobState::Running => "goes on",
                _ if job.held => "is held",
                _ => "waits for its turn",
            };
            self.bar.set_message(format!("job {} {}, {waits_for}", job.id, job.state.as_str()));
            return;
        };
        if self.bar.length() != Some(progress.total) {
            let template = format!(
                "{{bar:32}} {{human_pos}}/{{human_len}} {unit} {{msg}} ETA {{eta}}",
                unit = progress.unit.replace(['{', '}'], "")
            );
            if let Ok(style) = ProgressStyle::with_template(&template) {
                self.bar.set_style(style);
            }
            self.bar.set_length(progress.total);
            self.bar.reset_eta();
        }
        self.bar.set_position(progress.done);
        let (rate, bytes_per_step) = (self.bar.per_sec(), progress.bytes as f64 / progress.done.max(1) as f64);
        self.bar.set_message(match progress.done < progress.total {
            true => format!("{rate:.0}/s {}/s", human::bytes(bytes_per_step * rate)),
            false => "ending".to_owned(),
        });
    }
}

impl Bar {
    /// How many of several jobs have ended, and how the first one that has not is.
    fn show_all(&self, jobs: &[JobRecord]) {
        let open = jobs.iter().find(|job| !job.state.is_end());
        let Some(job) = open else { return };
        let ended = jobs.iter().filter(|job| job.state.is_end()).count();
        let (all, state) = (jobs.len(), job.state.as_str());
        self.bar.set_message(format!("{ended} of {all} jobs have ended, job {} ({}) {state}", job.id, job.service));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
