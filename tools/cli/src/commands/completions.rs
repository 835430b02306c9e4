//! `ecs-cli completions`: the completion script of a shell.

use crate::{cli::Cli, exit::Exit};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::io::{self, Write};

const EXAMPLES: &str = "\
Examples:
  ecs-cli completions bash > ~/.local/share/bash-completion/completions/ecs-cli
  ecs-cli completions zsh > ~/.zfunc/_ecs-cli
  ecs-cli completions fish > ~/.config/fish/completions/ecs-cli.fish";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Completions {
    shell: Shell,
}

impl Completions {
    pub fn run(self) -> anyhow::Result<Exit> {
        let mut script = Vec::new(); // the generator panics where it cannot write
        clap_complete::generate(self.shell, &mut Cli::command(), "ecs-cli", &mut script);
        io::stdout().write_all(&script)?;
        Ok(Exit::Ok)
    }
}
