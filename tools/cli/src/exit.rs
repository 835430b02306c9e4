//! Exit codes: part of the command line's contract, listed in `ecs-cli --help`.

use crate::{
    beamline_file::BeamlineFileError,
    human::{printable, printable_lines},
};
use ecs_sdk::{CallError, WatchError, cores::CoreError, key::KeyError};
use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ok,
    /// The message on stderr says why.
    Error,
    /// `--wait`: the job has ended, and not every image is written whole. An event: not everybody said ok.
    NotWhole,
    /// The configuration cannot work: EX_CONFIG of sysexits.h. `up` does not start such a process again.
    Configuration,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        // 2 is a wrong command line; clap ends the process with it.
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Error => 1,
            Exit::NotWhole => 3,
            Exit::Configuration => 78,
        })
    }
}

/// Prints an error with its causes, and says how the process is to exit: a service (one of the
/// processes that `up` starts) tells the supervisor apart what a restart may mend and what not.
pub fn report(error: &anyhow::Error, is_service: bool) -> Exit {
    let is_closed_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(is_closed_pipe) {
        return Exit::Ok; // the reader has what it wanted: `ecs-cli jobs | head`
    }
    let exit = if is_service && is_configuration(error) { Exit::Configuration } else { Exit::Error };
    if let Some(errors) = error.downcast_ref::<BeamlineFileError>() {
        let _ = writeln!(io::stderr(), "{errors}");
        return exit;
    }
    let (red, plain) = if io::stderr().is_terminal() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    // Where stderr cannot be written, the exit code says it alone.
    let _ = writeln!(io::stderr(), "{red}error:{plain} {}", told(error));
    exit
}

/// An error with its causes, each once: many name theirs in what they say. What the broker or an agent says is one line; our own
/// may have several.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    match error.chain().any(|cause| cause.is::<CallError>() || cause.is::<WatchError>()) {
        true => printable(&text),
        false => printable_lines(&text),
    }
}

/// Whether a second start of the same process would fail in the same way.
fn is_configuration(error: &anyhow::Error) -> bool {
    use {ecs_assembler::AssemblerError, ecs_broker::RunError, ecs_readout::ReadoutError};
    let of_broker = |error: &RunError| !matches!(error, RunError::Net(_));
    let of_readout = |error: &ReadoutError| matches!(error, ReadoutError::Socket(_) | ReadoutError::Core(_));
    let of_assembler = |error: &AssemblerError| matches!(error, AssemblerError::Ring(_) | AssemblerError::Core(_));
    error.is::<BeamlineFileError>()
        || error.is::<KeyError>()
        || error.is::<CoreError>()
        || error.downcast_ref().is_some_and(of_broker)
        || error.downcast_ref().is_some_and(of_readout)
        || error.downcast_ref().is_some_and(of_assembler)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn each_cause_of_an_error_is_told_once() {
        let taken = || io::Error::from_raw_os_error(98);
        let bind = ecs_sim::record::RecordError::Bind { address: [0, 0, 0, 0].into(), port: 50028, source: taken() };
        let text = told(&anyhow::Error::from(bind));
        assert_eq!(text.matches("Address already in use").count(), 1, "{text}");
        let text = told(&Err::<(), _>(taken()).context("no port").unwrap_err());
        assert_eq!(text, "no port: Address already in use (os error 98)");
    }
}
