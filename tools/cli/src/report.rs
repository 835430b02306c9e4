//! Jobs for people: what a job is, how far, and what became of its images.

use crate::{
    human,
    table::{Cell, Mood, Table},
};
use ecs_schemas::{
    job::{JobRecord, JobState, Progress},
    packets::PacketLedger,
    value::Value,
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

/// Most characters of parameters in one line.
const WHAT_CHARS_MAX: usize = 60;

/// What it was submitted to do, in one line: the output of a write, the job that it follows, or else the
/// parameters, as far as they fit.
pub fn what(job: &JobRecord) -> String {
    if let Some(output) = job.params.get("output").and_then(|output| output.as_str()) {
        return output.to_owned();
    }
    if let Some(followed) = job.follows {
        return format!("follows job {followed}");
    }
    let all = match &job.params {
        Value::Null => String::new(),
        Value::Map(entries) => {
            entries.iter().map(|(key, value)| format!("{key}={}", json(value))).collect::<Vec<_>>().join(" ")
        }
        other => json(other),
    };
    match all.char_indices().nth(WHAT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &all[..end]),
        None => all,
    }
}

/// Its place in the queue, and the priority where it is not the usual one.
pub fn place(job: &JobRecord) -> String {
    let place = match job.position {
        Some(position) => position.to_string(),
        None if job.held => "held".to_owned(),
        None => return String::new(),
    };
    if job.priority == 0 { place } else { format!("{place} (priority {})", job.priority) }
}

fn json(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub fn progress(job: &JobRecord) -> String {
    let of_progress = |progress: &Progress| {
        let unit = human::printable(&progress.unit);
        format!("{} of {} {unit}", human::count(progress.done), human::count(progress.total))
    };
    match ledger(job) {
        Some(ledger) => {
            format!("{} of {} images", human::count(ledger.written + ledger.partial), human::count(ledger.asked))
        }
        None => job.progress.as_ref().map(of_progress).unwrap_or_default(),
    }
}

/// Jobs, one in a line.
pub fn table(jobs: &[JobRecord]) -> Table {
    let now_ns = human::now_ns();
    let mut table = Table::new(["job", "service", "age", "state", "place", "progress", "what"]);
    for job in jobs {
        let reason = job.reason.as_ref().map(|reason| format!("  ({})", reason.code.as_str())).unwrap_or_default();
        table.row([
            Cell::from(job.id.to_string()),
            job.service.as_str().into(),
            human::between(job.submitted_ns(), now_ns).into(),
            state(job),
            place(job).into(),
            progress(job).into(),
            format!("{}{reason}", what(job)).into(),
        ]);
    }
    table
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
    for (label, text) in
        [("place", place(job)), ("follows", job.follows.map(|id| format!("job {id}")).unwrap_or_default())]
    {
        if !text.is_empty() {
            table.row([label.into(), Cell::from(text)]);
        }
    }
    if let Some(agent) = &job.agent {
        table.row(["agent".into(), Cell::from(agent.as_str())]);
    }
    if let Some(reason) = &job.reason {
        table.row(["reason".into(), Cell::from(format!("{} ({})", reason.message, reason.code.as_str()))]);
        if let Some(hint) = &reason.hint {
            table.row(["hint".into(), Cell::from(hint.as_str())]);
        }
    }
    match job.params.to_typed::<WriteParams>() {
        Ok(params) if job.service == write_job::SERVICE => {
            table.row(["output".into(), Cell::from(params.output)]);
            table.row(["asked".into(), Cell::from(format!("{} images", human::count(params.images)))]);
        }
        _ if job.params != Value::Null => table.row(["params".into(), Cell::from(json(&job.params))]),
        _ => {}
    }
    if let (None, Some(result)) = (ledger(job), &job.result) {
        table.row(["result".into(), Cell::from(json(result))]);
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
    let ago = human::between(job.submitted_ns(), human::now_ns());
    for (index, step) in job.history.iter().enumerate() {
        let label = if index == 0 { "history" } else { "" };
        let when = match index {
            0 => format!("{ago} ago"),
            _ => format!("after {:.3} s", step.time_ns.saturating_sub(job.submitted_ns()) as f64 / 1e9),
        };
        let why = step.reason.as_ref().map(|reason| format!("  ({})", reason.message)).unwrap_or_default();
        table.row([label.into(), Cell::from(format!("{:<10} {when}{why}", step.state.as_str()))]);
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
    row("packets counted", ledger.packets.received, Mood::Plain);
    for (name, packets) in PacketLedger::NAMES.into_iter().zip(ledger.packets.values()).skip(1) {
        if packets > 0 {
            row(
                &format!("  {}", name.replace('_', " ")),
                packets,
                if name == "placed" { Mood::Good } else { Mood::Warning },
            );
        }
    }
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
