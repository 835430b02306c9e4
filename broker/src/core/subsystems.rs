//! Subsystems: which there are, who hosts each, what it said of itself, and the last value of its items.
//!
//! # Rules (S1 to S3 of `schemas::subsystem` hold here; these add to them)
//! D1  A subsystem belongs to the agent that described it last. While that agent is here nobody else gets the
//!     name or the UUID.
//! D2  Descriptions are stored behind the answers, at the next tick: a full disk keeps no agent away. What is stored
//!     late is at worst not listed after a restart.
//! D3  Values of items with `persist` are part of the batch (K4): they can be undone.
//! D4  A kept value is always one of an item that is described as published and of its type. What is not any more is
//!     dropped, with its topic, and on the disk together with the description that dropped it. Only a stored value whose
//!     item is not described at all is put aside until it is again: an older version of the agent ran for a while.
//! D5  What an agent did not bring to its registration is forgotten once it is ready: until then it may still be about to
//!     describe it, and its kept values must not be lost by that. What is awaited so takes nobody's place: it counts for no
//!     limit, and goes where something else needs its room.
//!
//! Values are in `values`, and who answers which call in `workers`.

mod values;
mod workers;

pub use values::{ItemPath, PublishedValue, StoredValue};
pub use workers::{Load, Worker};

use super::registry::{Presence, Registry};
use crate::limits::{DESCRIPTION_BYTES_MAX, DESCRIPTIONS_BYTES_MAX, SUBSYSTEMS_MAX, SUBSYSTEMS_OF_AGENT_MAX};
use ecs_schemas::{
    alarm::{Alarm, RaisedAlarm},
    envelope::encode,
    error_code::{ErrorCode, Failure},
    kv::{Item, Reading, Restored},
    nearest::{nearest, quoted},
    subsystem::{Description, Handled, Listed, SubsystemStatus},
};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};
use values::Kept;
use workers::Workers;

/// A subsystem as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredSubsystem {
    pub description: Description,
    pub agent: String,
}

/// What the store is to do about a subsystem (D2).
#[derive(Debug, Clone, PartialEq)]
pub struct Unstored {
    pub name: String,
    /// None if it is no more.
    pub subsystem: Option<StoredSubsystem>,
    /// Items whose stored values still hold; all others of it are forgotten (D4).
    pub items: BTreeSet<String>,
    /// Values of items that are stored from this description on.
    pub values: Vec<StoredValue>,
}

struct Subsystem {
    /// With its UUID.
    description: Description,
    /// Size of the description.
    bytes: usize,
    agent: SmolStr,
    /// Since when it is here or away; 0 if that was before the broker began.
    since_ns: u64,
    values: BTreeMap<String, Kept>,
    /// Its agent is another start, or over another connection, and did not bring it (D5).
    is_awaited: bool,
}

impl Subsystem {
    fn call(&self, name: &str) -> Option<&Handled> {
        self.description.calls.iter().find(|handled| handled.name == name)
    }

    /// Items whose values are stored.
    fn stored_items(&self) -> BTreeSet<String> {
        let stored = self.description.items.iter().filter(|item| item.persist && self.values.contains_key(&item.name));
        stored.map(|item| item.name.clone()).collect()
    }
}

#[derive(Default)]
pub struct Subsystems {
    all: BTreeMap<String, Subsystem>,
    names_by_uuid: HashMap<String, String>,
    workers: Workers,
    /// Stored values of items that no subsystem is described with now (D4).
    unclaimed: BTreeMap<ItemPath, Kept>,
    /// Descriptions that are to be published, and those to be stored (D2).
    changed: BTreeSet<String>,
    unstored: BTreeSet<String>,
    /// Items that had a value before they were described with `persist`.
    newly_stored: BTreeSet<ItemPath>,
    /// Alarms that were raised or cleared and are to be published.
    alarms: Vec<RaisedAlarm>,
    /// Values that are to be published, in their order, and items that may have lost theirs.
    published: Vec<PublishedValue>,
    dropped: Vec<ItemPath>,
    descriptions_bytes: usize,
    values_bytes: usize,
    /// Values of items with `persist` before this batch (D3).
    undo: BTreeMap<ItemPath, Option<Kept>>,
    /// Items whose newest value the disk did not take: their owners tell it again.
    not_kept: BTreeSet<ItemPath>,
}

impl Subsystems {
    pub fn load(stored: Vec<StoredSubsystem>, values: Vec<StoredValue>) -> Self {
        let mut subsystems = Self::default();
        for StoredValue { subsystem, item, reading } in values {
            let kept = Kept { bytes: encode(&reading.value).len(), reading: Arc::new(reading) };
            subsystems.values_bytes += kept.bytes;
            subsystems.unclaimed.insert((subsystem, item), kept);
        }
        for StoredSubsystem { description, agent } in stored {
            let name = description.name.clone();
            subsystems.put(description, &agent, 0);
            subsystems.unstored.remove(&name);
        }
        subsystems
    }

    /// Checks descriptions that `agent` brings, before any of them is taken in. `is_all`: it has no others any more.
    ///
    /// # Errors
    /// `bad_parameter`, `name_taken`, `busy`; nothing has changed.
    pub fn admit(
        &self,
        agent: &str,
        brought: &[Description],
        is_all: bool,
        registry: &Registry,
    ) -> Result<(), Failure> {
        for description in brought {
            check_description(agent, description)?;
            self.check_free(agent, description, registry)?;
        }
        let names: BTreeSet<&str> = brought.iter().map(|description| description.name.as_str()).collect();
        let uuids: BTreeSet<String> = brought.iter().map(uuid_of).collect();
        if names.len() < brought.len() || uuids.len() < brought.len() {
            return Err(bad("two of the described subsystems have one name or one UUID".to_owned()));
        }
        let stays = |(name, its): &(&String, &Subsystem)| {
            its.agent == agent && !is_all && !its.is_awaited && !names.contains(name.as_str())
        };
        let others = self.all.iter().filter(stays).count();
        if brought.len() + others > SUBSYSTEMS_OF_AGENT_MAX {
            let message = format!("{} subsystems, itself included", brought.len() + others);
            return Err(bad(format!("{message}; at most {SUBSYSTEMS_OF_AGENT_MAX} of one agent")));
        }
        self.check_room(agent, brought, is_all, registry)
    }

    fn check_room(
        &self,
        agent: &str,
        brought: &[Description],
        is_all: bool,
        registry: &Registry,
    ) -> Result<(), Failure> {
        let is_brought = |name: &String| brought.iter().any(|description| description.name == *name);
        let is_over = |its: &Subsystem| its.agent == agent && is_all || can_go(its, registry);
        let stays = |name: &String, its: &Subsystem| is_brought(name) || !is_over(its);
        let staying: Vec<_> = self.all.iter().filter(|(name, its)| stays(name, its)).collect();
        let new = brought.iter().filter(|description| !self.all.contains_key(&description.name)).count();
        if staying.len() + new > SUBSYSTEMS_MAX {
            let message = format!("{SUBSYSTEMS_MAX} subsystems are known and here, no more are taken");
            return Err(Failure::new(ErrorCode::Busy, message));
        }
        let bytes = brought.iter().map(|description| encode(description).len()).sum::<usize>();
        let others_bytes: usize = staying.iter().filter(|(name, _)| !is_brought(name)).map(|(_, its)| its.bytes).sum();
        if others_bytes + bytes > DESCRIPTIONS_BYTES_MAX {
            let message = format!("{others_bytes} bytes of descriptions are kept already");
            return Err(Failure::new(ErrorCode::Busy, format!("{message}; at most {DESCRIPTIONS_BYTES_MAX}")));
        }
        Ok(())
    }

    /// Rule D1.
    fn check_free(&self, agent: &str, description: &Description, registry: &Registry) -> Result<(), Failure> {
        let by_name = self.all.get(&description.name);
        let by_uuid = self.names_by_uuid.get(&uuid_of(description)).and_then(|name| self.all.get(name));
        for holder in [by_name, by_uuid].into_iter().flatten() {
            let is_own = holder.agent == agent && holder.description.name == description.name;
            if !is_own && registry.presence(&holder.agent) == Presence::Here {
                let what = if holder.description.name == description.name { "name" } else { "UUID" };
                let message = format!(
                    "{}: the {what} is held by {} of {}",
                    description.name,
                    holder.description.name,
                    registry.describe(&holder.agent)
                );
                return Err(Failure::new(ErrorCode::NameTaken, message)
                    .with_hint("stop that agent, or give this subsystem another name"));
            }
        }
        Ok(())
    }

    fn forgettable<'a>(&'a self, registry: &'a Registry) -> impl Iterator<Item = &'a String> {
        self.all.iter().filter(|(_, subsystem)| can_go(subsystem, registry)).map(|(name, _)| name)
    }

    /// Takes in a description that was admitted. Returns its UUID and the kept values of its items.
    pub fn describe(
        &mut self,
        agent: &str,
        description: Description,
        registry: &Registry,
        now_ns: u64,
    ) -> (String, Vec<Restored>) {
        let name = description.name.clone();
        let bytes = encode(&description).len();
        let is_full = |its: &Self| {
            its.all.len() >= SUBSYSTEMS_MAX && !its.all.contains_key(&name)
                || its.descriptions_bytes + bytes > DESCRIPTIONS_BYTES_MAX
        };
        while is_full(self)
            && let Some(oldest) = self
                .forgettable(registry)
                .filter(|other| **other != name)
                .min_by_key(|name| self.all[*name].since_ns)
                .cloned()
        {
            self.forget(&oldest);
        }
        if let Some(other) = self.names_by_uuid.get(&uuid_of(&description)).filter(|other| **other != name).cloned() {
            self.forget(&other); // it was given another name
        }
        self.put(description, agent, now_ns);
        let subsystem = &self.all[&name];
        let kept = |item: &Item| {
            let Reading { value, revision, time_ns } = Reading::clone(&subsystem.values.get(&item.name)?.reading);
            Some(Restored { item: item.name.clone(), value, revision, time_ns })
        };
        let restored = subsystem.description.items.iter().filter(|item| item.persist).filter_map(kept).collect();
        (uuid_of(&subsystem.description), restored)
    }

    fn put(&mut self, mut description: Description, agent: &str, now_ns: u64) {
        let name = description.name.clone();
        let uuid = uuid_of(&description);
        description.uuid = Some(uuid.clone());
        let before = self.all.remove(&name);
        let (mut before_items, mut before_alarms) = (Vec::new(), Vec::new());
        let (mut values, mut since_ns) = (BTreeMap::new(), now_ns);
        if let Some(before) = before {
            self.names_by_uuid.remove(&uuid_of(&before.description));
            self.workers.remove(&before.description);
            self.descriptions_bytes -= before.bytes;
            since_ns = if before.agent == agent { before.since_ns } else { now_ns };
            (before_items, before_alarms) = (before.description.items, before.description.alarms);
            values = before.values;
        }
        self.note_alarms(&name, &before_alarms, &mut description.alarms, now_ns);
        self.drop_values(&mut values, &before_items, &description);
        self.claim_values(&mut values, &description);
        let was_persistent = |item: &Item| before_items.iter().any(|before| before.name == item.name && before.persist);
        let newly = description.items.iter().filter(|item| item.persist && !was_persistent(item));
        self.newly_stored.extend(newly.map(|item| (name.clone(), item.name.clone())));
        let is_stored = |item: &str| description.items.iter().any(|its| its.name == item && its.persist);
        self.not_kept.retain(|(of, item)| *of != name || is_stored(item));
        let bytes = encode(&description).len();
        self.descriptions_bytes += bytes;
        self.names_by_uuid.insert(uuid, name.clone());
        self.workers.add(&description);
        self.changed.insert(name.clone());
        self.unstored.insert(name.clone());
        self.all
            .insert(name, Subsystem { description, bytes, agent: agent.into(), since_ns, values, is_awaited: false });
    }

    /// Notes what of the alarms is new, other or over; those that were raised before keep their time.
    fn note_alarms(&mut self, name: &str, before: &[Alarm], now: &mut [Alarm], now_ns: u64) {
        let told = |alarm: &Alarm, raised| RaisedAlarm { subsystem: name.to_owned(), alarm: alarm.clone(), raised };
        for alarm in now.iter_mut() {
            let old = before.iter().find(|old| old.code == alarm.code);
            alarm.since_ns = old.map_or(now_ns, |old| old.since_ns);
            if old != Some(alarm) {
                self.alarms.push(told(alarm, true));
            }
        }
        for alarm in before.iter().filter(|old| !now.iter().any(|alarm| alarm.code == old.code)) {
            self.alarms.push(told(alarm, false));
        }
    }

    /// The subsystem is no more.
    pub fn forget(&mut self, name: &str) {
        let Some(subsystem) = self.all.remove(name) else { return };
        self.note_alarms(name, &subsystem.description.alarms, &mut [], 0);
        self.values_bytes -= subsystem.values.values().map(|kept| kept.bytes).sum::<usize>();
        self.descriptions_bytes -= subsystem.bytes;
        self.dropped.extend(subsystem.values.into_keys().map(|item| (name.to_owned(), item)));
        for path in self.unclaimed_of(name).cloned().collect::<Vec<_>>() {
            self.values_bytes -= self.unclaimed.remove(&path).map_or(0, |kept| kept.bytes);
        }
        self.undo.retain(|(of, _), _| of != name); // what comes after it under this name begins anew
        self.not_kept.retain(|(of, _)| of != name);
        self.names_by_uuid.remove(&uuid_of(&subsystem.description));
        self.workers.remove(&subsystem.description);
        self.changed.insert(name.to_owned());
        self.unstored.insert(name.to_owned());
    }

    /// An agent has registered with these subsystems and without its others (D5).
    pub fn await_others(&mut self, agent: &str, brought: &[Description]) {
        let brought: BTreeSet<&str> = brought.iter().map(|description| description.name.as_str()).collect();
        for (name, subsystem) in self.all.iter_mut().filter(|(_, its)| its.agent == agent) {
            subsystem.is_awaited = !brought.contains(name.as_str());
        }
    }

    /// Before `agent` describes so many: of what it is awaited to describe no more stays than it may host beside all
    /// else (D5).
    pub fn make_room(&mut self, agent: &str, brought: &[Description]) {
        let brought_names: BTreeSet<&str> = brought.iter().map(|description| description.name.as_str()).collect();
        let others = self.all.iter().filter(|(name, its)| its.agent == agent && !brought_names.contains(name.as_str()));
        let (awaited, described): (Vec<_>, Vec<_>) = others.partition(|(_, its)| its.is_awaited);
        let room = SUBSYSTEMS_OF_AGENT_MAX.saturating_sub(brought.len() + described.len());
        let over: Vec<_> = awaited.into_iter().skip(room).map(|(name, _)| name.clone()).collect();
        over.iter().for_each(|name| self.forget(name));
    }

    /// An agent is ready: what it has not described until now is no more (D5).
    pub fn forget_awaited(&mut self, agent: &str) {
        let is_over = |its: &Subsystem| its.agent == agent && its.is_awaited;
        let over: Vec<_> = self.all.iter().filter(|(_, its)| is_over(its)).map(|(name, _)| name.clone()).collect();
        over.iter().for_each(|name| self.forget(name));
    }

    /// An agent has come or gone: what it hosts has another state. Temporary ones go with it (S3).
    pub fn agent_changed(&mut self, agent: &str, is_here: bool, now_ns: u64) {
        let its: Vec<_> = self.all.iter().filter(|(_, its)| its.agent == agent).map(|(name, _)| name.clone()).collect();
        for name in its {
            if !is_here && self.all[&name].description.temporary {
                self.forget(&name);
                continue;
            }
            if let Some(subsystem) = self.all.get_mut(&name) {
                subsystem.since_ns = now_ns;
            }
            self.changed.insert(name);
        }
    }

    /// The full name behind a name or UUID, if there is one.
    pub fn find(&self, name: &str) -> Option<&str> {
        let by_name = self.all.get_key_value(name).map(|(name, _)| name.as_str());
        by_name.or_else(|| self.names_by_uuid.get(name).map(String::as_str))
    }

    /// The full name behind a name or UUID.
    ///
    /// # Errors
    /// `no_such_subsystem`, with the nearest name.
    pub fn resolve(&self, name: &str) -> Result<&str, Failure> {
        self.find(name).ok_or_else(|| match nearest(name, self.all.keys().map(String::as_str)) {
            Some(near) => no_such_subsystem(name).with_hint(format!("the nearest is {near}; `ecs-cli ls` lists all")),
            None => no_such_subsystem(name).with_hint("`ecs-cli ls` lists all"),
        })
    }

    pub fn agent_of(&self, name: &str) -> Option<&str> {
        self.all.get(name).map(|subsystem| subsystem.agent.as_str())
    }

    pub fn description(&self, name: &str) -> Option<&Description> {
        self.all.get(name).map(|subsystem| &subsystem.description)
    }

    /// The item of a subsystem that is known.
    ///
    /// # Errors
    /// `no_such_item`, with the nearest.
    pub fn item(&self, name: &str, item: &str) -> Result<&Item, Failure> {
        let items = self.description(name).map(|description| description.items.as_slice()).unwrap_or_default();
        items.iter().find(|known| known.name == item).ok_or_else(|| {
            let failure = Failure::new(ErrorCode::NoSuchItem, format!("{name} has no item {}", quoted(item)));
            match nearest(item, items.iter().map(|item| item.name.as_str())) {
                Some(near) => failure.with_hint(format!("the nearest is {near}; `ecs-cli show {name}` lists all")),
                None => failure.with_hint(format!("`ecs-cli show {name}` lists what it has")),
            }
        })
    }

    /// Sets or replaces one alarm, or clears it.
    pub fn set_alarm(&mut self, name: &str, code: &str, alarm: Option<Alarm>, now_ns: u64) {
        let Some(subsystem) = self.all.get_mut(name) else { return };
        let before = subsystem.description.alarms.clone();
        let mut now: Vec<_> = before.iter().filter(|alarm| alarm.code != code).cloned().collect();
        now.extend(alarm);
        let told = self.alarms.len();
        self.note_alarms(name, &before, &mut now, now_ns);
        if self.alarms.len() > told {
            self.changed.insert(name.to_owned());
        }
        if let Some(subsystem) = self.all.get_mut(name) {
            subsystem.description.alarms = now;
        }
    }

    /// Every alarm that is raised, the gravest first, then the oldest.
    pub fn raised_alarms(&self) -> Vec<RaisedAlarm> {
        let of = |(name, subsystem): (&String, &Subsystem)| {
            let told = |alarm: &Alarm| RaisedAlarm { subsystem: name.clone(), alarm: alarm.clone(), raised: true };
            subsystem.description.alarms.iter().map(told).collect::<Vec<_>>()
        };
        let mut raised: Vec<_> = self.all.iter().flat_map(of).collect();
        raised.sort_by_key(|told| (std::cmp::Reverse(told.alarm.severity), told.alarm.since_ns));
        raised
    }

    pub fn listed(&self, prefix: &str, registry: &Registry) -> Vec<Listed> {
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let named = self.all.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        let listed = |(name, subsystem): (&String, &Subsystem)| {
            let Description { temporary, help, items, events, calls, alarms, .. } = &subsystem.description;
            Listed {
                name: name.clone(),
                uuid: uuid_of(&subsystem.description),
                agent: subsystem.agent.to_string(),
                state: registry.state_of(&subsystem.agent),
                temporary: *temporary,
                help: help.clone(),
                items: count(items.len()),
                events: count(events.len()),
                calls: count(calls.len()),
                alarms: count(alarms.len()),
                since_ns: subsystem.since_ns,
                seen_ns: registry.seen_ns(&subsystem.agent),
            }
        };
        named.map(listed).collect()
    }

    pub fn status(&self, name: &str, registry: &Registry) -> Option<SubsystemStatus> {
        let subsystem = self.all.get(name)?;
        Some(SubsystemStatus {
            description: subsystem.description.clone(),
            agent: subsystem.agent.to_string(),
            state: registry.state_of(&subsystem.agent),
            since_ns: subsystem.since_ns,
        })
    }

    /// Every item whose `<subsystem>/<item>` begins so.
    pub fn items(&self, prefix: &str) -> impl Iterator<Item = (&str, &Item, Option<(&Reading, usize)>)> {
        self.all.iter().flat_map(move |(name, subsystem)| {
            let value = |item: &Item| subsystem.values.get(&item.name).map(|kept| (&*kept.reading, kept.bytes));
            let named = move |item: &&Item| format!("{name}/{}", item.name).starts_with(prefix);
            subsystem.description.items.iter().filter(named).map(move |item| (name.as_str(), item, value(item)))
        })
    }

    /// Subsystems that handle this event, of agents that are here.
    pub fn handlers<'a>(&'a self, event: &'a str, registry: &'a Registry) -> impl Iterator<Item = &'a str> {
        let knows = move |description: &Description| description.events.iter().any(|handled| handled.name == event);
        let is_here = |subsystem: &Subsystem| registry.presence(&subsystem.agent) == Presence::Here;
        self.all
            .iter()
            .filter(move |(_, subsystem)| knows(&subsystem.description) && is_here(subsystem))
            .map(|(name, _)| name.as_str())
    }

    /// Subsystems that answer this call, of agents that are here.
    pub fn workers<'a>(&'a self, call: &'a str, registry: &'a Registry) -> impl Iterator<Item = Worker<'a>> {
        let here = move |(name, load): (&'a SmolStr, &'a Load)| {
            let subsystem = self.all.get(name.as_str())?;
            let is_here = registry.presence(&subsystem.agent) == Presence::Here;
            is_here.then(|| Worker::of(name, load, subsystem, call))?
        };
        self.workers.of(call).filter_map(here)
    }

    /// The call of this name that a subsystem answers.
    pub fn call_of(&self, name: &str, call: &str) -> Option<&Handled> {
        self.all.get(name)?.call(call)
    }

    /// Names of all calls that somebody here answers.
    pub fn call_names(&self, registry: &Registry) -> BTreeSet<&str> {
        let here = self.all.values().filter(|its| registry.presence(&its.agent) == Presence::Here);
        here.flat_map(|its| &its.description.calls).map(|handled| handled.name.as_str()).collect()
    }

    pub fn take_changed(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }

    pub fn take_alarms(&mut self) -> Vec<RaisedAlarm> {
        std::mem::take(&mut self.alarms)
    }

    /// What is not stored yet (D2).
    pub fn unstored(&self) -> Vec<Unstored> {
        let unstored = |name: &String| {
            let kept = self.all.get(name).filter(|subsystem| !subsystem.description.temporary);
            let mut items: BTreeSet<_> = kept.map(Subsystem::stored_items).unwrap_or_default();
            items.extend(self.unclaimed_of(name).map(|(_, item)| item.clone()));
            let values = self.newly_stored.iter().filter(|(of, item)| of == name && items.contains(item));
            let subsystem = kept.map(|subsystem| StoredSubsystem {
                // Alarms are told anew by whoever raises them.
                description: Description { alarms: Vec::new(), ..subsystem.description.clone() },
                agent: subsystem.agent.to_string(),
            });
            Unstored {
                name: name.clone(),
                subsystem,
                values: values.filter_map(|path| self.stored(path)).collect(),
                items,
            }
        };
        self.unstored.iter().map(unstored).collect()
    }

    pub fn note_stored(&mut self) {
        self.unstored.clear();
        self.newly_stored.clear();
    }
}

/// Whether a subsystem goes where another needs its place: its agent is away, or has not described it yet (D5).
fn can_go(subsystem: &Subsystem, registry: &Registry) -> bool {
    subsystem.is_awaited || registry.presence(&subsystem.agent) != Presence::Here
}

fn check_description(agent: &str, description: &Description) -> Result<(), Failure> {
    description.check().map_err(bad)?;
    let (name, bytes) = (&description.name, encode(description).len());
    if bytes > DESCRIPTION_BYTES_MAX {
        return Err(bad(format!("{name}: a description of {bytes} bytes; at most {DESCRIPTION_BYTES_MAX}")));
    }
    if name.split('/').next() != agent.split('/').next() {
        return Err(bad(format!("{name} is not a name of this beamline")));
    }
    Ok(())
}

fn bad(message: String) -> Failure {
    Failure::new(ErrorCode::BadParameter, message)
}

pub fn no_such_subsystem(name: &str) -> Failure {
    Failure::new(ErrorCode::NoSuchSubsystem, format!("no subsystem is called {}", quoted(name)))
}

/// The UUID of a description; without one, that which its name always has (version 8: by our own rule, FNV-1a of
/// the name from two starts).
pub fn uuid_of(description: &Description) -> String {
    if let Some(uuid) = &description.uuid {
        return uuid.clone();
    }
    let fnv = |start: u64| {
        description.name.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    };
    let (high, low) = (fnv(0xcbf2_9ce4_8422_2325), fnv(0x6c62_272e_07bb_0142));
    format!(
        "{:08x}-{:04x}-8{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 48 & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}
