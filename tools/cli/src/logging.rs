//! Log lines on stderr: time, level, process, message. One line reads
//! `2026-03-01T10:00:00.123456Z  INFO x01/writer: registered broker=tcp://127.0.0.1:7750`.

use clap::{ArgAction, Args};
use std::{fmt, io, io::IsTerminal};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log")]
pub struct Logging {
    /// More log lines, twice for all; ECS_LOG sets a filter instead, for example ecs_writer=debug
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Only log lines of errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

impl Logging {
    /// The options that give another process of this program the same logging.
    pub fn args(&self) -> Vec<&'static str> {
        let quiet = self.quiet.then_some("--quiet");
        quiet.into_iter().chain((0..self.verbose).map(|_| "--verbose")).collect()
    }

    fn filter(&self, process: &str) -> EnvFilter {
        // A tool tells a person what happened by itself; an agent has only its log.
        let level = match (self.quiet, self.verbose, process.is_empty()) {
            (true, ..) => "error",
            (_, 0, true) => "warn",
            (_, 0, false) => "info",
            (_, 1, _) => "debug",
            _ => "trace",
        };
        EnvFilter::try_from_env("ECS_LOG").unwrap_or_else(|_| EnvFilter::new(level))
    }
}

/// Sends the log of this process to stderr. A line that cannot be written, because stderr is a file on a disk that is full,
/// is left out: to say so there would end the process. `process` is the agent's name, empty for a tool.
pub fn install(logging: &Logging, process: &str) {
    tracing_subscriber::fmt()
        .with_env_filter(logging.filter(process))
        .with_writer(io::stderr)
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .event_format(Format { process: process.to_owned() })
        .init();
}

struct Format {
    process: String,
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        SystemTime.format_time(&mut out)?;
        let level = *event.metadata().level();
        let colour = match level {
            Level::ERROR => "\x1b[31m",
            Level::WARN => "\x1b[33m",
            _ => "",
        };
        let (colour, plain) = if out.has_ansi_escapes() && !colour.is_empty() { (colour, "\x1b[0m") } else { ("", "") };
        write!(out, " {colour}{level:>5}{plain} ")?;
        if !self.process.is_empty() {
            write!(out, "{}: ", self.process)?;
        }
        context.field_format().format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}
