//! With which key this process connects.
//!
//! The first of: `--key` or `ECS_KEY`; `key` under `[broker]`; for the processes of a beamline, the key that
//! `ecs-cli keys init` made for them. A key that is named and cannot be read is an error: going on without it
//! would only hide the reason.

use ecs_broker::keys::{AGENTS, KeyFolder};
use ecs_schemas::beamline::{Beamline, BrokerConfig};
use ecs_sdk::key::{self, KeyError};
use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// What `--key` or `ECS_KEY` said.
static NAMED: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Notes what the command line said. Called once, before any command runs.
pub fn note(named: Option<PathBuf>) {
    let _ = NAMED.set(named);
}

/// Chooses the key of a tool.
///
/// # Errors
/// The key file cannot be read, or is none.
pub fn of_tool(broker: &BrokerConfig) -> Result<(), KeyError> {
    use_key(named().or(broker.key.as_deref()))
}

/// Chooses the key of one of a beamline's own processes.
///
/// # Errors
/// As [`of_tool`].
pub fn of_beamline(beamline: &Beamline) -> Result<(), KeyError> {
    let own = agents_key(beamline);
    use_key(named().or(beamline.broker.key.as_deref()).or(own.as_deref()))
}

/// The key file that `up` gives to its agents: theirs where this host has it, so that a person's `ECS_KEY` does
/// not become the agents'; else what the command line said.
pub fn for_agents(beamline: &Beamline) -> Option<PathBuf> {
    agents_key(beamline).or_else(|| named().map(Path::to_owned))
}

fn agents_key(beamline: &Beamline) -> Option<PathBuf> {
    Some(KeyFolder::new(beamline.key_folder()).client_path(AGENTS)).filter(|path| path.exists())
}

fn named() -> Option<&'static Path> {
    NAMED.get().and_then(|named| named.as_deref())
}

fn use_key(path: Option<&Path>) -> Result<(), KeyError> {
    if let (Some(path), None) = (path, key::of_process()) {
        key::use_for_process(key::load(path)?);
    }
    Ok(())
}
