//! `ecs-cli keys`: who may connect to a beamline's broker, and for what.

use crate::{
    beamline_file, completing,
    exit::Exit,
    registered::near,
    report,
    table::{Cell, Mood, Table},
};
use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use ecs_broker::keys::{AGENTS, KeyFolder, KeysError};
use ecs_schemas::{
    beamline::Beamline,
    keys::{KeyHolder, NamePattern, Role, check_key_name},
};
use serde_json::json;
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

const EXAMPLES: &str = "\
Examples:
  ecs-cli keys init                                    # then start the broker again
  ecs-cli keys add anna --role operator
  ecs-cli keys add laser --role agent --names x01/laser,x01/shutter
  ecs-cli keys list
  ecs-cli keys revoke anna

viewer looks; operator also submits, cancels, sets and calls; agent also registers, under its names. The
commands work on the key folder's files, on the broker's host; the broker sees a change within a second.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Keys {
    #[command(subcommand)]
    action: Action,
    /// The beamline's file
    #[arg(long, env = "ECS_CONFIG", value_name = "FILE", default_value = beamline_file::DEFAULT_FILE, global = true)]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the broker's key pair, and a key for the beamline's own agents
    Init,
    /// Make a key for somebody
    Add(Add),
    /// Show whose keys open what; no secret is shown
    List(List),
    /// Take a key away, at once and for good
    Revoke(Revoke),
}

#[derive(Debug, Args)]
struct Add {
    /// Whose it is: letters, digits, '-', '_', '.'
    name: String,
    /// viewer, operator or agent
    #[arg(long)]
    role: Role,
    /// Names that an agent may register, and all below; '*' stands for any part [default: <beamline>/NAME]
    #[arg(long, value_name = "PATTERN,…", value_delimiter = ',')]
    names: Vec<NamePattern>,
    /// Where the file for its holder goes [default: NAME.key in the key folder]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct List {
    /// Print them as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Revoke {
    /// As `ecs-cli keys list` shows it
    #[arg(add = ArgValueCompleter::new(completing::keys))]
    name: String,
}

impl Keys {
    pub fn run(self) -> anyhow::Result<Exit> {
        let beamline = beamline_file::load(&self.config)?;
        let folder = KeyFolder::new(beamline.key_folder());
        match self.action {
            Action::Init => init(&beamline, &folder)?,
            Action::Add(add) => add.run(&beamline, &folder)?,
            Action::List(list) => list.run(&folder)?,
            Action::Revoke(revoke) => {
                self::revoke(&folder, &revoke.name)?;
                writeln!(io::stdout(), "the key {} opens nothing any more, within a second", revoke.name)?;
            }
        }
        folder.mode_warnings().iter().for_each(|warning| eprintln!("warning: {warning}"));
        Ok(Exit::Ok)
    }
}

fn revoke(folder: &KeyFolder, name: &str) -> anyhow::Result<()> {
    folder.revoke(name).map_err(|error| match &error {
        KeysError::Unknown { there, .. } => anyhow!("{error}{}", near(name, there.split(", "))),
        _ => error.into(),
    })
}

fn init(beamline: &Beamline, folder: &KeyFolder) -> anyhow::Result<()> {
    folder.init(&beamline.name)?;
    let mut out = io::stdout().lock();
    writeln!(out, "keys of beamline {} are in {}", beamline.name, folder.path().display())?;
    writeln!(out, "  {}  the broker's, secret", folder.broker_path().display())?;
    writeln!(out, "  {}  for its agents: `ecs-cli up` uses it", folder.client_path(AGENTS).display())?;
    writeln!(out, "Start the broker again: from then on it lets in holders of a key only. Next, a key for yourself:")?;
    writeln!(out, "  ecs-cli keys add NAME --role operator")?;
    Ok(())
}

impl Add {
    fn run(self, beamline: &Beamline, folder: &KeyFolder) -> anyhow::Result<()> {
        check_key_name(&self.name).map_err(|error| anyhow!(error))?;
        if self.role != Role::Agent && !self.names.is_empty() {
            bail!("--names is for --role agent: a {} registers no name", self.role.as_str());
        }
        if let Some(output) = self.output.as_deref().filter(|output| output.exists()) {
            return Err(KeysError::Exists { path: output.to_owned() }.into());
        }
        let names = self.names(beamline)?;
        let mut path = folder.add(&self.name, self.role, names)?;
        if let Some(output) = &self.output {
            if let Err(error) = relocate(&path, output) {
                folder.revoke(&self.name)?; // a key that nobody has
                return Err(anyhow!("cannot write {}: {error}; no key was made", output.display()));
            }
            path.clone_from(output);
        }
        print_added(&self.name, self.role, &path)?;
        Ok(())
    }

    fn names(&self, beamline: &Beamline) -> anyhow::Result<Vec<NamePattern>> {
        if self.role != Role::Agent || !self.names.is_empty() {
            return Ok(self.names.clone());
        }
        Ok(vec![format!("{}/{}", beamline.name, self.name).parse().map_err(|error: String| anyhow!(error))?])
    }
}

/// Also to another file system.
fn relocate(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to).or_else(|_| {
        fs::copy(from, to)?; // with its mode
        fs::remove_file(from)
    })
}

fn print_added(name: &str, role: Role, path: &Path) -> io::Result<()> {
    let path = path.display();
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{path} is the key of {name}, {}. Whoever has this file is {name}: hand it over and keep no copy.",
        role.as_str()
    )?;
    writeln!(out, "Its holder uses it in one of these ways:")?;
    writeln!(out, "  ecs-cli --key {path} status")?;
    writeln!(out, "  export ECS_KEY={path}")?;
    writeln!(out, "  key = \"{path}\"          # under [broker] in the beamline's file")
}

impl List {
    fn run(&self, folder: &KeyFolder) -> anyhow::Result<()> {
        if !folder.is_there() {
            return Err(KeysError::Missing { folder: folder.path().to_owned() }.into());
        }
        let (holders, errors) = folder.holders()?;
        errors.iter().for_each(|error| eprintln!("warning: opens nothing: {error}"));
        if self.json {
            report::print_json(&json!({ "keys": holders.iter().map(as_json).collect::<Vec<_>>() }))?;
        } else {
            table(&holders).print()?;
        }
        Ok(())
    }
}

fn as_json(holder: &KeyHolder) -> serde_json::Value {
    json!({
        "name": holder.name,
        "role": holder.role.as_str(),
        "names": holder.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "public_key": holder.public.as_str(),
    })
}

fn table(holders: &[KeyHolder]) -> Table {
    let mut table = Table::new(["name", "role", "names", "public key"]);
    for holder in holders {
        let names: Vec<String> = holder.names.iter().map(ToString::to_string).collect();
        let mood = if holder.role == Role::Viewer { Mood::Plain } else { Mood::Warning };
        table.row([
            holder.name.as_str().into(),
            Cell::new(holder.role.as_str(), mood),
            names.join(" ").into(),
            holder.public.as_str().into(),
        ]);
    }
    table
}
