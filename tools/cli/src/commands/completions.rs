//! `ecs-cli completions`: what makes a shell complete commands, options, files, and the names of a beamline.

use crate::{
    completing::{self, Shell},
    exit::Exit,
};
use clap::Args;
use std::{
    env,
    io::{self, Write},
    path::Path,
};

const EXAMPLES: &str = "\
Examples:
  source <(ecs-cli completions bash)                                       # in ~/.bashrc
  source <(ecs-cli completions zsh)                                        # in ~/.zshrc, behind compinit
  ecs-cli completions fish > ~/.config/fish/completions/ecs-cli.fish
  ecs-cli completions bash > ~/.local/share/bash-completion/completions/ecs-cli

Names (subsystems, items, events, calls, services, jobs, topics, keys) come from the broker of --config or --broker on the
line, else of ECS_CONFIG, ECS_BROKER or ./beamline.toml. Where no broker answers within 0.3 s, none are offered. What is
printed calls this program by its path, or by its name where it was found by that; print it again when it has moved.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub fn run(self) -> anyhow::Result<Exit> {
        let mut script = Vec::new();
        completing::write_setup(self.shell, &this_program()?, &mut script)?;
        io::stdout().write_all(&script)?;
        Ok(Exit::Ok)
    }
}

/// As a shell finds it: by its name where it was called so, else by its whole path.
fn this_program() -> io::Result<String> {
    let called = env::args_os().next().unwrap_or_default();
    let path = match Path::new(&called).components().count() {
        1 => Path::new(&called).to_owned(),
        _ => env::current_exe()?,
    };
    Ok(path.to_string_lossy().into_owned())
}
