//! `ecs-cli trace`: which message led to which.

use crate::{
    connection::Connection,
    exit::Exit,
    human, report,
    table::{Cell, Mood, Table},
};
use anyhow::Context;
use clap::Args;
use ecs_schemas::trace::{GetTrace, Span, Spans};
use std::collections::BTreeSet;

const EXAMPLES: &str = "\
Examples:
  ecs-cli trace 5be1c0ffee15900d
  ecs-cli trace 5be1c0ffee15900d --json

Ids are what `ecs-cli call` and `ecs-cli event call` print with --trace, and what published messages and the clients of
other languages carry. The broker remembers the newest messages, in memory.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Trace {
    /// Id of a trace, or of any message of it: up to 16 hexadecimal digits
    id: String,
    /// Print the spans as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Trace {
    pub fn run(self) -> anyhow::Result<Exit> {
        let id = u64::from_str_radix(self.id.trim_start_matches("0x"), 16)
            .with_context(|| format!("{:?} is not an id of up to 16 hexadecimal digits", self.id))?;
        let spans = self.connection.call(&GetTrace { id })?;
        if self.json {
            report::print_json(&spans)?;
        } else {
            table(&spans).print()?;
        }
        Ok(Exit::Ok)
    }
}

fn table(spans: &Spans) -> Table {
    let mut table = Table::new(["message", "from", "to", "at", "took", "outcome"]);
    let begin_ns = spans.spans.iter().map(|span| span.begin_ns).min().unwrap_or(0);
    let known: BTreeSet<u64> = spans.spans.iter().map(|span| span.span).collect();
    let roots = spans.spans.iter().filter(|span| !known.contains(&span.parent) || span.parent == span.span);
    for root in roots {
        add(&mut table, spans, root, 0, begin_ns);
    }
    table
}

/// A span and, indented below it, those that it led to.
fn add(table: &mut Table, spans: &Spans, span: &Span, depth: usize, begin_ns: u64) {
    let took = match span.end_ns {
        0 => "open".to_owned(),
        end_ns => milliseconds(end_ns.saturating_sub(span.begin_ns)),
    };
    let mood = match span.outcome.as_str() {
        "ok" => Mood::Good,
        "" => Mood::Plain,
        _ => Mood::Bad,
    };
    table.row([
        format!("{:indent$}{} {}", "", span.kind, span.subject, indent = 2 * depth).trim_end().to_owned().into(),
        span.from.clone().into(),
        span.to.clone().into(),
        format!("+{}", milliseconds(span.begin_ns.saturating_sub(begin_ns))).into(),
        took.into(),
        Cell::new(span.outcome.clone(), mood),
    ]);
    // Depth is bounded, so that a span that claims to be its own ancestor ends somewhere.
    if depth < 64 {
        for child in spans.spans.iter().filter(|child| child.parent == span.span && child.span != span.span) {
            add(table, spans, child, depth + 1, begin_ns);
        }
    }
}

fn milliseconds(nanoseconds: u64) -> String {
    match nanoseconds {
        0..1_000_000_000 => format!("{:.3} ms", nanoseconds as f64 / 1e6),
        _ => human::duration(std::time::Duration::from_nanos(nanoseconds)),
    }
}
