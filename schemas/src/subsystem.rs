//! Subsystems: what there is on a beamline, by name, and what each can do, by its own word.
//!
//! ```text
//! agent (one process, one connection) ──hosts──▶ subsystem, subsystem, …      itself among them
//! subsystem = name path + UUID + KV items + events + calls + alarms
//! ```
//!
//! # Rules
//! S1  A name and a UUID each have one live owner; another one is refused and told who holds it.
//! S2  A description is replaced as a whole, and every change is published at once.
//! S3  A subsystem whose agent is gone stays listed, as gone, also over restarts of the broker; a temporary
//!     one goes with its agent.

use crate::{
    alarm::Alarm,
    envelope::Request,
    job::Ack,
    kv::{Item, Restored},
    nearest::quoted,
    registry::{AgentState, check_name},
    value_type::ValueType,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What a subsystem says of itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Description {
    /// Path `<beamline>/<name>…`, as in [`check_name`].
    pub name: String,
    /// Stable over restarts: 36 characters, `8-4-4-4-12` hexadecimal digits. Without one the broker makes it
    /// from the name, always the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// It is forgotten when its agent is gone: for tools.
    #[serde(default)]
    pub temporary: bool,
    /// One sentence for a person.
    #[serde(default)]
    pub help: String,
    #[serde(default)]
    pub items: Vec<Item>,
    #[serde(default)]
    pub events: Vec<Handled>,
    #[serde(default)]
    pub calls: Vec<Handled>,
    /// Those that are raised now.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
}

/// An event or a call that a subsystem answers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Handled {
    /// One part of a path, or several with `.` between them.
    pub name: String,
    #[serde(default)]
    pub help: String,
    #[serde(default)]
    pub params: Vec<Param>,
    #[serde(default)]
    pub result: ValueType,
    /// Of a call: how many the agent takes at one time. Others wait, or go to another agent.
    #[serde(default = "one")]
    pub at_once: u32,
}

/// A named parameter of an event or a call.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Param {
    pub name: String,
    #[serde(flatten)]
    pub kind: ValueType,
    #[serde(default)]
    pub optional: bool,
    #[serde(default)]
    pub help: String,
}

fn one() -> u32 {
    1
}

/// Agent → broker: this subsystem is mine (new, or changed).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Describe {
    pub description: Description,
}

impl Request for Describe {
    const KIND: &'static str = "subsystem.describe";
    type Reply = Described;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Described {
    pub name: String,
    pub uuid: String,
    /// Kept values of its items with `persist`.
    #[serde(default)]
    pub restored: Vec<Restored>,
}

/// Agent → broker: this subsystem is no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remove {
    pub name: String,
}

impl Request for Remove {
    const KIND: &'static str = "subsystem.remove";
    type Reply = Ack;
}

/// Client → broker: which subsystems are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListSubsystems {
    /// Only names that begin so; all if empty.
    #[serde(default)]
    pub prefix: String,
}

impl Request for ListSubsystems {
    const KIND: &'static str = "subsystem.list";
    type Reply = SubsystemList;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubsystemList {
    /// Sorted by name.
    pub subsystems: Vec<Listed>,
}

/// A subsystem in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    pub name: String,
    pub uuid: String,
    /// The agent that hosts it, or did.
    pub agent: String,
    pub state: AgentState,
    pub temporary: bool,
    pub help: String,
    pub items: u32,
    pub events: u32,
    pub calls: u32,
    pub alarms: u32,
    /// Since when it is in this state, and when its agent was last heard; 0 for never.
    pub since_ns: u64,
    pub seen_ns: u64,
}

/// Client → broker: all of one subsystem, by its name or UUID. Published under `<name>/description`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetSubsystem {
    pub name: String,
}

impl Request for GetSubsystem {
    const KIND: &'static str = "subsystem.get";
    type Reply = SubsystemStatus;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubsystemStatus {
    pub description: Description,
    pub agent: String,
    pub state: AgentState,
    pub since_ns: u64,
}

pub fn description_topic(subsystem: &str) -> String {
    format!("{subsystem}/description")
}

/// Names that the topics of a subsystem use and no item, event or call of it may have, since a subsystem's name may go on
/// where another one's ends.
pub const RESERVED_PARTS: [&str; 7] = ["telemetry", "state", "description", "kv", "alarm", "jobs", "event"];

/// Longest name of an item, event, call or parameter, in bytes.
pub const PART_BYTES_MAX: usize = 64;

/// Items, events, calls and parameters have names of letters, digits, `-`, `_` and `.`.
///
/// # Errors
/// Says what is wrong with the name.
pub fn check_part(what: &str, name: &str) -> Result<(), String> {
    let is_ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > PART_BYTES_MAX || !name.chars().all(is_ok) {
        let name = quoted(name);
        return Err(format!("{what} {name}: a name has 1 to {PART_BYTES_MAX} letters, digits, '-', '_' and '.'"));
    }
    Ok(())
}

impl Description {
    /// Whether names, types and flags make sense.
    ///
    /// # Errors
    /// Names the first thing that does not.
    pub fn check(&self) -> Result<(), String> {
        check_name(&self.name)?;
        if let Some(part) = self.name.split('/').skip(1).find(|part| RESERVED_PARTS.contains(part)) {
            return Err(format!("name {:?}: {part:?} is a word of the topics", self.name));
        }
        if let Some(uuid) = &self.uuid {
            check_uuid(uuid)?;
        }
        check_help(&self.name, &self.help)?;
        self.items.iter().try_for_each(Item::check)?;
        if let (true, Some(item)) = (self.temporary, self.items.iter().find(|item| item.persist)) {
            return Err(format!("item {}: persist in a temporary subsystem, which goes with its values", item.name));
        }
        unique("item", self.items.iter().map(|item| &item.name))?;
        for (what, handled) in [("event", &self.events), ("call", &self.calls)] {
            handled.iter().try_for_each(|handled| handled.check(what))?;
            unique(what, handled.iter().map(|handled| &handled.name))?;
        }
        self.alarms.iter().try_for_each(Alarm::check)?;
        unique("alarm", self.alarms.iter().map(|alarm| &alarm.code))
    }
}

impl Handled {
    fn check(&self, what: &str) -> Result<(), String> {
        check_part(what, &self.name)?;
        let in_it = |reason: String| format!("{what} {}: {reason}", self.name);
        check_help(what, &self.help).map_err(in_it)?;
        for param in &self.params {
            check_part("parameter", &param.name).map_err(in_it)?;
            check_help(&param.name, &param.help).map_err(in_it)?;
            param.kind.check_self().map_err(|reason| in_it(format!("parameter {}: {reason}", param.name)))?;
        }
        unique("parameter", self.params.iter().map(|param| &param.name)).map_err(in_it)?;
        self.result.check_self().map_err(|reason| in_it(format!("result: {reason}")))?;
        if self.at_once == 0 {
            return Err(in_it("at_once = 0; at least 1".to_owned()));
        }
        Ok(())
    }
}

/// Longest help of anything, in bytes: lists show it.
pub const HELP_BYTES_MAX: usize = 1024;

/// # Errors
/// The sentence is too long.
pub fn check_help(what: &str, help: &str) -> Result<(), String> {
    if help.len() > HELP_BYTES_MAX {
        return Err(format!("{what}: help of {} bytes; at most {HELP_BYTES_MAX}", help.len()));
    }
    Ok(())
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(format!("{what} {name:?} is there twice"));
        }
    }
    Ok(())
}

fn check_uuid(uuid: &str) -> Result<(), String> {
    let groups = uuid.split('-').map(str::len);
    let is_lower_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f' | '-');
    if groups.eq([8, 4, 4, 4, 12]) && uuid.chars().all(is_lower_hex) {
        return Ok(());
    }
    let uuid = quoted(uuid);
    Err(format!("uuid {uuid} is not 8-4-4-4-12 hexadecimal digits in lower case"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value_type::Form;

    fn pump() -> Description {
        Description {
            name: "x01/pump".to_owned(),
            uuid: Some("0f8fad5b-d9cb-469f-a165-70867728950e".to_owned()),
            items: vec![Item { name: "pressure".to_owned(), ..Item::default() }],
            events: vec![Handled { name: "vent".to_owned(), at_once: 1, ..Handled::default() }],
            ..Description::default()
        }
    }

    #[test]
    fn what_is_twice_or_badly_named_or_typed_is_named_in_the_error() {
        pump().check().unwrap();
        let wrong = |change: fn(&mut Description)| {
            let mut description = pump();
            change(&mut description);
            description.check().unwrap_err()
        };
        assert!(wrong(|pump| pump.items.push(pump.items[0].clone())).contains("\"pressure\" is there twice"));
        assert!(wrong(|pump| pump.name = "x01/kv".to_owned()).contains("word of the topics"));
        assert!(wrong(|pump| pump.uuid = Some("1".to_owned())).contains("8-4-4-4-12"));
        assert!(wrong(|pump| pump.events[0].name = "v e".to_owned()).contains("\"v e\""));
        assert!(wrong(|pump| pump.events[0].result = ValueType::of(Form::Enum)).contains("result: an enum"));
        assert!(wrong(|pump| pump.events[0].at_once = 0).contains("at least 1"));
        assert!(wrong(|pump| pump.help = "h".repeat(HELP_BYTES_MAX + 1)).contains("1025 bytes"));
        let keep = |pump: &mut Description| (pump.temporary, pump.items[0].persist) = (true, true);
        assert!(wrong(keep).contains("persist in a temporary"));
    }
}
