//! One file per command: its options, its help with examples, and what it does.

pub mod agent;
pub mod alarms;
pub mod bench;
pub mod broker;
pub mod call;
pub mod cancel;
pub mod completions;
pub mod event;
pub mod job;
pub mod jobs;
pub mod keys;
pub mod kv;
pub mod ls;
pub mod picture;
pub mod queue;
pub mod ring;
pub mod show;
pub mod sim;
pub mod status;
pub mod submit;
pub mod topic;
pub mod trace;
pub mod up;

use crate::{
    cli::{Cli, Command},
    exit::Exit,
    identity,
};

/// Runs the command.
///
/// # Errors
/// Whatever went wrong, in words that say what to do next.
pub fn run(cli: Cli) -> anyhow::Result<Exit> {
    identity::note(cli.key);
    match cli.command {
        Command::Up(command) => command.run(&cli.logging),
        Command::Status(command) => command.run(),
        Command::Submit(command) => command.run(),
        Command::Jobs(command) => command.run(),
        Command::Job(command) => command.run(),
        Command::Cancel(command) => command.run(),
        Command::Hold(command) => command.run(),
        Command::Release(command) => command.run(),
        Command::Move(command) => command.run(),
        Command::Ls(command) => command.run(),
        Command::Show(command) => command.run(),
        Command::Kv(command) => command.run(),
        Command::Event(command) => command.run(),
        Command::Sync(command) => command.run(),
        Command::Call(command) => command.run(),
        Command::Alarms(command) => command.run(),
        Command::Trace(command) => command.run(),
        Command::Topic(command) => command.run(),
        Command::Picture(command) => command.run(),
        Command::Ring(command) => command.run(),
        Command::Sim(command) => command.run(),
        Command::Broker(command) => command.run(),
        Command::Agent(command) => command.run(),
        Command::Keys(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Completions(command) => command.run(),
    }
}
