//! `ecs-cli`: everything that a person does with ECS, and every process that `up` starts.
//!
//! One file per command under `commands/`. A command returns how it ended ([`exit::Exit`]) or an error
//! that says what to do next; here both become the exit code.

mod asking;
mod beamline_file;
mod cli;
mod commands;
mod completing;
mod connection;
mod cores;
mod exit;
mod human;
mod identity;
mod logging;
mod meter;
mod options;
mod params;
mod picture;
mod progress;
mod realtime;
mod registered;
mod report;
mod table;
mod times;
mod values;

use clap::Parser;
use std::process::ExitCode;

/// Also for libzmq and HDF5. *Why?* A message is allocated on one thread and freed on another, again and again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if completing::answer() {
        return ExitCode::SUCCESS;
    }
    let cli = cli::Cli::parse();
    logging::install(&cli.logging, &cli.command.process_name());
    let is_service = cli.command.is_service();
    match commands::run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => exit::report(&error, is_service).into(),
    }
}
