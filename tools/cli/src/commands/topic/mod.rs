//! `ecs-cli topic`: what is published, who publishes it, how often and how much.
//!
//! | file | |
//! |---|---|
//! | `ls` | the topics that there are |
//! | `echo` | messages as they come |
//! | `rates` | `hz` and `bw`: the figures of [`crate::meter`], each second |
//! | `publish` | `pub`: a value of a subsystem that is there for the time |
//! | `listening` | what they share: the subscription, and a word when nothing comes |

mod echo;
mod listening;
mod ls;
mod publish;
mod rates;

use crate::exit::Exit;
use clap::{Args, Subcommand};
pub use publish::KIND as PUBLISHER_KIND;

const EXAMPLES: &str = "\
Examples:
  ecs-cli topic ls x01/pump
  ecs-cli topic echo x01/pump/kv/pressure
  ecs-cli topic hz x01/pump/kv/
  ecs-cli topic pub x01/test/setpoint 2.5 --rate 10";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Topic {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List topics, and what each carries
    Ls(ls::Ls),
    /// Print messages as they come
    Echo(echo::Echo),
    /// Show how often messages come: rate, intervals, gaps
    Hz(rates::Hz),
    /// Show how much comes: bytes per second, sizes
    Bw(rates::Bw),
    /// Publish a value, as a subsystem that is there for the time
    Pub(publish::Publish),
}

impl Topic {
    pub fn run(self) -> anyhow::Result<Exit> {
        match self.action {
            Action::Ls(ls) => ls.run(),
            Action::Echo(echo) => echo.run(),
            Action::Hz(hz) => hz.run(),
            Action::Bw(bw) => bw.run(),
            Action::Pub(publish) => publish.run(),
        }
    }
}
