//! The command line: its commands and what they share.

use crate::{commands::*, logging::Logging};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  ecs-cli up beamline.toml
  ecs-cli status --wait 30
  ecs-cli submit write --output run7.h5 --images 1000 --wait

Exit codes:
  0   done
  1   error; the message says why and what to do; ring check: something is wrong with it
  2   wrong command line
  3   --wait, --wait-all: a job has ended other than done, or not every image is written whole;
      event, sync: not everybody said ok
  78  broker, agent: the configuration cannot work, or a port is taken

Environment: ECS_CONFIG, ECS_BROKER and ECS_KEY stand for --config, --broker and --key, ECS_LOG filters the
log, NO_COLOR turns colour off.";

/// Experiment control and detector data acquisition.
#[derive(Debug, Parser)]
#[command(name = "ecs-cli", version = ecs_schemas::VERSION, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub logging: Logging,
    /// Key file with which this process connects to the broker; see `ecs-cli keys`
    #[arg(
        id = "key_file",
        long = "key",
        global = true,
        env = "ECS_KEY",
        value_name = "FILE",
        help_heading = "Where the broker is"
    )]
    pub key: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a beamline: broker and all agents, until Ctrl-C
    Up(up::Up),
    /// Show broker, agents, ring and losses
    Status(status::Status),
    /// Submit a job
    Submit(submit::Submit),
    /// List and search jobs, newest first
    Jobs(jobs::Jobs),
    /// Show one job
    Job(job::Job),
    /// Ask for a job's end
    Cancel(cancel::Cancel),
    /// Keep a job that waits from being begun
    Hold(queue::Hold),
    /// Let a held job go
    Release(queue::Release),
    /// Give a job that waits another place in its queue
    Move(queue::Move),
    /// List subsystems
    Ls(ls::Ls),
    /// Show one subsystem: items, events, calls, alarms
    Show(show::Show),
    /// Read, set and watch values
    Kv(kv::Kv),
    /// Tell subsystems of an event
    Event(event::Event),
    /// Wait until all who handle an event have answered
    Sync(event::Sync),
    /// Have a worker do something
    Call(call::Call),
    /// List what is wrong
    Alarms(alarms::Alarms),
    /// Show which message led to which
    Trace(trace::Trace),
    /// List, watch and measure what is published
    Topic(topic::Topic),
    /// Draw an image of a file as PNG
    Picture(picture::Picture),
    /// Look at a ring in shared memory: live or left over
    Ring(ring::Ring),
    /// Simulate a detector
    Sim(sim::Sim),
    /// Run the broker alone
    Broker(broker::Broker),
    /// Run one agent alone
    Agent(agent::Agent),
    /// Make, list and revoke the keys of a beamline
    Keys(keys::Keys),
    /// Measure, each figure with its baseline
    Bench(bench::Bench),
    /// Print what makes a shell complete commands and names
    Completions(completions::Completions),
}

impl Command {
    /// Name of the process in log lines: empty for what a person calls.
    pub fn process_name(&self) -> String {
        match self {
            Self::Broker(_) => "broker".to_owned(),
            Self::Agent(agent) => agent.process_name(),
            _ => String::new(),
        }
    }

    /// Whether it is one of the processes that `up` starts.
    pub fn is_service(&self) -> bool {
        matches!(self, Self::Broker(_) | Self::Agent(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Each command that does something, with its words, and the examples that it and the commands above it have.
    fn walk(command: &clap::Command, path: &str, above: &[String], found: &mut Vec<(String, Vec<String>)>) {
        let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let own = text.lines().map(str::trim).filter(|line| line.contains("ecs-cli ")).map(str::to_owned);
        let examples: Vec<String> = above.iter().cloned().chain(own).collect();
        if !command.is_subcommand_required_set() {
            found.push((path.to_owned(), examples.clone()));
        }
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help" && !inner.is_hide_set()) {
            walk(inner, &format!("{path} {}", inner.get_name()), &examples, found);
        }
    }

    #[test]
    fn every_command_has_help_and_an_example_of_its_own() {
        let cli = Cli::command();
        cli.clone().debug_assert();
        let mut found = Vec::new();
        walk(&cli, "ecs-cli", &[], &mut found);
        assert!(found.len() > 40, "{found:?}");
        let lacking = found.iter().filter(|(path, examples)| !examples.iter().any(|example| example.contains(path)));
        assert_eq!(lacking.collect::<Vec<_>>(), Vec::<&(String, Vec<String>)>::new());
    }

    #[test]
    fn every_command_and_option_says_what_it_is() {
        let (mut open, mut lacking) = (vec![Cli::command()], Vec::new());
        while let Some(command) = open.pop() {
            let name = command.get_name().to_owned();
            assert!(command.get_about().is_some(), "{name}");
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                if argument.get_help().is_none() {
                    lacking.push(format!("{name} {}", argument.get_id()));
                }
            }
            open.extend(command.get_subcommands().cloned());
        }
        assert_eq!(lacking, Vec::<String>::new());
    }
}
