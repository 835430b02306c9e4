//! Jobs for people: what a job is, how far, and what became of its images.

use crate::{
    human,
    table::{Cell, Mood, Table},
};
use ecs_schemas::{
    job::{JobRecord, JobState, Progress},
    write_job::{self, Ledger, WriteParams},
};
use std::io::{self, Write};

/// The ledger of a write that has ended, if it left one.
pub fn ledger(job: &JobRecord) -> Option<Ledger> {
    job.result.as_ref().filter(|_| job.service == write_job::SERVICE)?.to_typed().ok()
}

/// Whether all that was asked for was done: for a write, that every image is written whole.
pub fn is_whole(job: &JobRecord) -> bool {
    let is_write = job.service == write_job::SERVICE;
    job.state == JobState::Done && (!is_write || ledger(job).is_some_and(|ledger| ledger.is_whole()))
}

pub fn state(job: &JobRecord) -> Cell {
    let mood = match job.state {
        JobState::Done if is_whole(job) => Mood::Good,
        JobState::Done | JobState::Cancelled => Mood::Warning,
        JobState::Rejected | JobState::Failed | JobState::Lost => Mood::Bad,
        _ => Mood::Plain,
    };
    let note = if job.cancel_requested && !job.state.is_end() { " (cancelling)" } else { "" };
    Cell::new(format!("{}{note}", job.state.as_str()), mood)
}

/// What it was submitted to do, as far as it is the same for every service: the output of a write.
pub fn output(job: &JobRecord) -> String {
    job.params.get("output").and_then(|output| output.as_str()).unwrap_or_default().to_owned()
}

pub fn progress(job: &JobRecord) -> String {
    let of_progress = |progress: &Progress| {
        format!("{} of {} {}", human::count(progress.done), human::count(progress.total), progress.unit)
    };
    match ledger(job) {
        Some(ledger) => {
            format!("{} of {} images", human::count(ledger.written + ledger.partial), human::count(ledger.asked))
        }
        None => job.progress.as_ref().map(of_progress).unwrap_or_default(),
    }
}

pub fn submitted_ns(job: &JobRecord) -> u64 {
    job.history.first().map_or(0, |transition| transition.time_ns)
}

/// Prints the record of one job.
///
/// # Errors
/// The output is closed.
pub fn print_job(job: &JobRecord) -> io::Result<()> {
    let mut table = Table::new([]);
    table.row(["job".into(), Cell::from(job.id.to_string())]);
    table.row(["service".into(), Cell::from(job.service.as_str())]);
    table.row(["state".into(), state(job)]);
    if let Some(agent) = &job.agent {
        table.row(["agent".into(), Cell::from(agent.as_str())]);
    }
    if let Some(reason) = &job.reason {
        table.row(["reason".into(), Cell::from(format!("{} ({})", reason.message, reason.code.as_str()))]);
        if let Some(hint) = &reason.hint {
            table.row(["hint".into(), Cell::from(hint.as_str())]);
        }
    }
    if let Ok(params) = job.params.to_typed::<WriteParams>() {
        table.row(["output".into(), Cell::from(params.output)]);
        table.row(["asked".into(), Cell::from(format!("{} images", human::count(params.images)))]);
    }
    if !job.state.is_end() && job.progress.is_some() {
        table.row(["progress".into(), Cell::from(progress(job))]);
    }
    history(job, &mut table);
    table.print()?;
    match ledger(job) {
        Some(ledger) => print_ledger(&ledger),
        None => Ok(()),
    }
}

fn history(job: &JobRecord, table: &mut Table) {
    let ago = human::between(submitted_ns(job), human::now_ns());
    for (index, step) in job.history.iter().enumerate() {
        let label = if index == 0 { "history" } else { "" };
        let when = match index {
            0 => format!("{ago} ago"),
            _ => format!("after {:.3} s", step.time_ns.saturating_sub(submitted_ns(job)) as f64 / 1e9),
        };
        table.row([label.into(), Cell::from(format!("{:<10} {when}", step.state.as_str()))]);
    }
}

/// Prints what became of each image that was asked for.
///
/// # Errors
/// The output is closed.
pub fn print_ledger(ledger: &Ledger) -> io::Result<()> {
    let mut table = Table::new([]);
    let mut row = |name: &str, amount: u64, mood: Mood| {
        table.row([name.into(), Cell::new(human::count(amount), if amount > 0 { mood } else { Mood::Plain })]);
    };
    row("images asked", ledger.asked, Mood::Plain);
    row("  written whole", ledger.written, Mood::Good);
    row("  partial", ledger.partial, Mood::Warning);
    for (cause, images) in &ledger.lost {
        row(&format!("  lost, {}", cause.as_str().replace('_', " ")), *images, Mood::Bad);
    }
    row("packets missing", ledger.missing_packets, Mood::Warning);
    if ledger.seconds > 0.0 {
        let rate = human::bytes(ledger.bytes as f64 / ledger.seconds);
        let size = human::bytes(ledger.bytes as f64);
        table.row(["pixels".into(), Cell::from(format!("{size} in {:.2} s, {rate}/s", ledger.seconds))]);
    }
    if !ledger.output.is_empty() {
        table.row(["file".into(), Cell::from(ledger.output.as_str())]);
    }
    table.print()
}

/// Prints anything as one JSON document.
///
/// # Errors
/// The output is closed.
pub fn print_json<T: serde::Serialize>(value: &T) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}
