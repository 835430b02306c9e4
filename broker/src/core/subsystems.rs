//! Subsystems: which there are, who hosts each, what it said of itself, and the last value of its items.
//!
//! # Rules (S1 to S3 of `schemas::subsystem` hold here; these add to them)
//! D1  A subsystem belongs to the agent that described it last. While that agent is here nobody else gets the
//!     name or the UUID.
//! D2  Descriptions are stored behind the answers, at the next tick: a full disk keeps no agent away. What is stored
//!     late is at worst not listed after a restart.
//! D3  Values of items with `persist` are part of the batch (K4): they can be undone.

use super::registry::{Presence, Registry};
use crate::limits::{DESCRIPTION_BYTES_MAX, KEPT_VALUES_BYTES_MAX, SUBSYSTEMS_MAX, SUBSYSTEMS_OF_AGENT_MAX};
use ecs_schemas::{
    alarm::{Alarm, RaisedAlarm},
    envelope::encode,
    error_code::{ErrorCode, Failure},
    kv::{Item, Reading, Restored},
    nearest::nearest,
    subsystem::{Description, Listed, SubsystemStatus},
    value::Value,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A subsystem as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredSubsystem {
    pub description: Description,
    pub agent: String,
}

/// The stored value of an item with `persist`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredValue {
    pub subsystem: String,
    pub item: String,
    pub reading: Reading,
}

struct Subsystem {
    /// With its UUID.
    description: Description,
    agent: String,
    /// Since when it is here or away; 0 if that was before the broker began.
    since_ns: u64,
    values: BTreeMap<String, Kept>,
}

/// The last published value of an item.
#[derive(Clone)]
struct Kept {
    reading: Reading,
    bytes: usize,
}

#[derive(Default)]
pub struct Subsystems {
    all: BTreeMap<String, Subsystem>,
    names_by_uuid: HashMap<String, String>,
    /// Values of items that no subsystem is described with (yet), from the store.
    unclaimed: BTreeMap<(String, String), Reading>,
    /// Descriptions that are to be published, and those to be stored (D2).
    changed: BTreeSet<String>,
    unstored: BTreeSet<String>,
    /// Alarms that were raised or cleared and are to be published.
    alarms: Vec<RaisedAlarm>,
    values_bytes: usize,
    /// Values of items with `persist` before this batch (D3).
    undo: BTreeMap<(String, String), Option<Kept>>,
}

impl Subsystems {
    pub fn load(stored: Vec<StoredSubsystem>, values: Vec<StoredValue>) -> Self {
        let mut subsystems = Self::default();
        for value in values {
            subsystems.unclaimed.insert((value.subsystem, value.item), value.reading);
        }
        for StoredSubsystem { description, agent } in stored {
            let name = description.name.clone();
            subsystems.put(description, agent, 0);
            subsystems.unstored.remove(&name);
        }
        subsystems
    }

    /// Checks descriptions that `agent` brings, before any of them is taken in.
    ///
    /// # Errors
    /// `bad_parameter`, `name_taken`, `busy`; nothing has changed.
    pub fn admit(&self, agent: &str, brought: &[Description], registry: &Registry) -> Result<(), Failure> {
        let bad = |message: String| Failure::new(ErrorCode::BadParameter, message);
        if brought.len() > SUBSYSTEMS_OF_AGENT_MAX {
            return Err(bad(format!("{} subsystems; at most {SUBSYSTEMS_OF_AGENT_MAX} of one agent", brought.len())));
        }
        for description in brought {
            description.check().map_err(bad)?;
            let bytes = encode(description).len();
            if bytes > DESCRIPTION_BYTES_MAX {
                let name = &description.name;
                return Err(bad(format!("{name}: a description of {bytes} bytes; at most {DESCRIPTION_BYTES_MAX}")));
            }
            let beamline = agent.split('/').next();
            if description.name.split('/').next() != beamline {
                return Err(bad(format!("{} is not a name of this beamline", description.name)));
            }
            self.check_free(agent, description, registry)?;
        }
        let new = brought.iter().filter(|description| !self.all.contains_key(&description.name)).count();
        let room = SUBSYSTEMS_MAX - self.all.len().min(SUBSYSTEMS_MAX) + self.forgettable(registry).count();
        if new > room {
            let message = format!("{SUBSYSTEMS_MAX} subsystems are known and here, no more are taken");
            return Err(Failure::new(ErrorCode::Busy, message));
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
                let what = if by_name.is_some() { "name" } else { "UUID" };
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
        let is_away = |subsystem: &Subsystem| registry.presence(&subsystem.agent) != Presence::Here;
        self.all.iter().filter(move |(_, subsystem)| is_away(subsystem)).map(|(name, _)| name)
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
        if !self.all.contains_key(&name)
            && self.all.len() >= SUBSYSTEMS_MAX
            && let Some(oldest) = self.forgettable(registry).min_by_key(|name| self.all[*name].since_ns).cloned()
        {
            self.forget(&oldest);
        }
        if let Some(other) = self.names_by_uuid.get(&uuid_of(&description)).filter(|other| **other != name).cloned() {
            self.forget(&other); // it was given another name
        }
        self.put(description, agent.to_owned(), now_ns);
        let subsystem = &self.all[&name];
        let kept = |item: &Item| {
            let Reading { value, revision, time_ns } = subsystem.values.get(&item.name)?.reading.clone();
            Some(Restored { item: item.name.clone(), value, revision, time_ns })
        };
        let restored = subsystem.description.items.iter().filter(|item| item.persist).filter_map(kept).collect();
        (uuid_of(&subsystem.description), restored)
    }

    fn put(&mut self, mut description: Description, agent: String, now_ns: u64) {
        let name = description.name.clone();
        let uuid = uuid_of(&description);
        description.uuid = Some(uuid.clone());
        let before = self.all.remove(&name);
        let before_alarms = before.as_ref().map(|before| before.description.alarms.clone()).unwrap_or_default();
        self.note_alarms(&name, &before_alarms, &mut description.alarms, now_ns);
        let is_same_agent = before.as_ref().is_some_and(|before| before.agent == agent);
        let since_ns = before.as_ref().filter(|_| is_same_agent).map_or(now_ns, |before| before.since_ns);
        if let Some(before) = &before {
            self.names_by_uuid.remove(&uuid_of(&before.description));
        }
        let mut values = before.map(|before| before.values).unwrap_or_default();
        let is_item = |item: &Item, name: &str| item.name == name && item.published;
        let dropped: Vec<_> =
            values.keys().filter(|value| !description.items.iter().any(|item| is_item(item, value))).cloned().collect();
        for item in dropped {
            self.values_bytes -= values.remove(&item).map_or(0, |kept| kept.bytes);
        }
        for item in &description.items {
            if let Some(reading) = self.unclaimed.remove(&(name.clone(), item.name.clone())) {
                let bytes = encode(&reading.value).len();
                self.values_bytes += bytes;
                values.insert(item.name.clone(), Kept { reading, bytes });
            }
        }
        self.names_by_uuid.insert(uuid, name.clone());
        self.changed.insert(name.clone());
        self.unstored.insert(name.clone());
        self.all.insert(name, Subsystem { description, agent, since_ns, values });
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
        self.names_by_uuid.remove(&uuid_of(&subsystem.description));
        self.changed.insert(name.to_owned());
        self.unstored.insert(name.to_owned());
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

    /// Names of what an agent hosts.
    pub fn hosted_by<'a>(&'a self, agent: &'a str) -> impl Iterator<Item = &'a str> {
        self.all.iter().filter(move |(_, its)| its.agent == agent).map(|(name, _)| name.as_str())
    }

    /// The full name behind a name or UUID.
    ///
    /// # Errors
    /// `no_such_subsystem`, with the nearest name.
    pub fn resolve(&self, name: &str) -> Result<&str, Failure> {
        let by_uuid = || self.names_by_uuid.get(name).map(String::as_str);
        let by_name = self.all.get_key_value(name).map(|(name, _)| name.as_str());
        by_name.or_else(by_uuid).ok_or_else(|| {
            let failure = Failure::new(ErrorCode::NoSuchSubsystem, format!("no subsystem is called {name:?}"));
            match nearest(name, self.all.keys().map(String::as_str)) {
                Some(near) => failure.with_hint(format!("the nearest is {near}; `ecs-cli ls` lists all")),
                None => failure.with_hint("`ecs-cli ls` lists all"),
            }
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
            let failure = Failure::new(ErrorCode::NoSuchItem, format!("{name} has no item {item:?}"));
            match nearest(item, items.iter().map(|item| item.name.as_str())) {
                Some(near) => failure.with_hint(format!("the nearest is {near}; `ecs-cli show {name}` lists all")),
                None => failure.with_hint(format!("`ecs-cli show {name}` lists what it has")),
            }
        })
    }

    pub fn reading(&self, name: &str, item: &str) -> Option<&Reading> {
        self.all.get(name)?.values.get(item).map(|kept| &kept.reading)
    }

    /// Keeps a published value of an item that is there, of so many bytes, and after so many that were skipped. Returns
    /// its revision.
    ///
    /// # Errors
    /// `busy`: the kept values of all items together are at their limit.
    pub fn publish(
        &mut self,
        name: &str,
        item: &str,
        value: Value,
        (bytes, skipped): (usize, u64),
        now_ns: u64,
    ) -> Result<u64, Failure> {
        let subsystem = self.all.get_mut(name).expect("the item was found in it");
        let before = subsystem.values.get(item);
        let others_bytes = self.values_bytes - before.map_or(0, |before| before.bytes);
        if others_bytes + bytes > KEPT_VALUES_BYTES_MAX {
            let message = format!("{others_bytes} bytes of values are kept already; at most {KEPT_VALUES_BYTES_MAX}");
            return Err(Failure::new(ErrorCode::Busy, message));
        }
        let last = before.map_or(0, |before| before.reading.revision);
        let revision = last.saturating_add(skipped).saturating_add(1);
        let persist = subsystem.description.items.iter().any(|known| known.name == item && known.persist);
        let kept = Kept { reading: Reading { value, revision, time_ns: now_ns }, bytes };
        let before = subsystem.values.insert(item.to_owned(), kept);
        self.values_bytes = others_bytes + bytes;
        if persist {
            self.undo.entry((name.to_owned(), item.to_owned())).or_insert(before);
        }
        Ok(revision)
    }

    /// Values that must be on disk before this batch is answered.
    pub fn changed_values(&self) -> Vec<StoredValue> {
        let stored = |(subsystem, item): &(String, String)| {
            let reading = self.reading(subsystem, item)?.clone();
            Some(StoredValue { subsystem: subsystem.clone(), item: item.clone(), reading })
        };
        self.undo.keys().filter_map(stored).collect()
    }

    pub fn commit(&mut self) {
        self.undo.clear();
    }

    /// Back to before the batch. Returns the items whose values were undone.
    pub fn rollback(&mut self) -> BTreeSet<(String, String)> {
        let undo = std::mem::take(&mut self.undo);
        let undone = undo.keys().cloned().collect();
        for ((name, item), before) in undo {
            let Some(subsystem) = self.all.get_mut(&name) else { continue };
            let bytes = before.as_ref().map_or(0, |before| before.bytes);
            let taken_back = match before {
                Some(before) => subsystem.values.insert(item, before),
                None => subsystem.values.remove(&item),
            };
            self.values_bytes = self.values_bytes + bytes - taken_back.map_or(0, |kept| kept.bytes);
        }
        undone
    }

    /// Sets or replaces one alarm, or clears it.
    pub fn set_alarm(&mut self, name: &str, code: &str, alarm: Option<Alarm>, now_ns: u64) {
        let Some(subsystem) = self.all.get_mut(name) else { return };
        let before = subsystem.description.alarms.clone();
        let mut now: Vec<_> = before.iter().filter(|alarm| alarm.code != code).cloned().collect();
        now.extend(alarm);
        self.note_alarms(name, &before, &mut now, now_ns);
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
                agent: subsystem.agent.clone(),
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
            agent: subsystem.agent.clone(),
            state: registry.state_of(&subsystem.agent),
            since_ns: subsystem.since_ns,
        })
    }

    /// Every item whose `<subsystem>/<item>` begins so.
    pub fn items(&self, prefix: &str) -> impl Iterator<Item = (&str, &Item, Option<(&Reading, usize)>)> {
        self.all.iter().flat_map(move |(name, subsystem)| {
            let value = |item: &Item| subsystem.values.get(&item.name).map(|kept| (&kept.reading, kept.bytes));
            let named = move |item: &&Item| format!("{name}/{}", item.name).starts_with(prefix);
            subsystem.description.items.iter().filter(named).map(move |item| (name.as_str(), item, value(item)))
        })
    }

    /// Subsystems that answer this event (or call), of agents that are here.
    pub fn handlers<'a>(
        &'a self,
        event: &'a str,
        of: Handles,
        registry: &'a Registry,
    ) -> impl Iterator<Item = &'a str> {
        let knows = move |description: &Description| of.list(description).iter().any(|handled| handled.name == event);
        let is_here = |subsystem: &Subsystem| registry.presence(&subsystem.agent) == Presence::Here;
        self.all
            .iter()
            .filter(move |(_, subsystem)| knows(&subsystem.description) && is_here(subsystem))
            .map(|(name, _)| name.as_str())
    }

    /// Names of all events (or calls) that somebody here answers.
    pub fn handled_names(&self, of: Handles) -> BTreeSet<&str> {
        self.all.values().flat_map(|its| of.list(&its.description)).map(|handled| handled.name.as_str()).collect()
    }

    pub fn take_changed(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }

    pub fn take_alarms(&mut self) -> Vec<RaisedAlarm> {
        std::mem::take(&mut self.alarms)
    }

    /// Descriptions that are not stored yet (D2): the name, and what is to be stored, or nothing if it is no more.
    pub fn unstored(&self) -> Vec<(String, Option<StoredSubsystem>)> {
        let stored = |name: &String| {
            let kept = self.all.get(name).filter(|subsystem| !subsystem.description.temporary);
            let stored = kept.map(|subsystem| StoredSubsystem {
                // Alarms are told anew by whoever raises them.
                description: Description { alarms: Vec::new(), ..subsystem.description.clone() },
                agent: subsystem.agent.clone(),
            });
            (name.clone(), stored)
        };
        self.unstored.iter().map(stored).collect()
    }

    pub fn note_stored(&mut self) {
        self.unstored.clear();
    }
}

/// Which of a subsystem's answers is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handles {
    Events,
    Calls,
}

impl Handles {
    pub fn list(self, description: &Description) -> &[ecs_schemas::subsystem::Handled] {
        match self {
            Self::Events => &description.events,
            Self::Calls => &description.calls,
        }
    }
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
