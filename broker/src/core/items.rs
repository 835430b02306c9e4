//! KV items: what a get, a set, a publication and a watch do. Rules K1 to K4 of `schemas::kv`.

use super::{
    Core, Session,
    exchanges::Ask,
    passing::{PublishWanted, decoded_value, read_publish},
    requests::{Answer, Call},
    subsystems::no_such_subsystem,
};
use crate::limits::{LISTED_BYTES_MAX, LISTED_VALUE_BYTES_MAX, VALUE_DEPTH_MAX};
use ecs_schemas::{
    envelope::{Request, VALUE_BYTES_MAX, encode},
    error_code::{ErrorCode, Failure},
    job::Ack,
    kv::{Get, ItemList, ListItems, ListedItem, Published, Read, Reading, Set, Unwatch, Watch, Write},
    value::Value,
};
use serde::Serialize;
use std::fmt::{Display, Formatter, Result as Formatted};

impl Core {
    /// # Errors
    /// `no_such_subsystem`, `no_such_item`, `write_only`, `not_set`, and whatever the owner says.
    pub(super) fn get_item(&mut self, call: &Call<'_>, get: Get) -> Answer {
        let name = self.subsystems.resolve(&get.subsystem)?.to_owned();
        let item = self.subsystems.item(&name, &get.item)?;
        if !item.readable {
            return Err(Failure::new(ErrorCode::WriteOnly, format!("{name} {} can be set, not read", item.name)));
        }
        if item.published {
            let reading = self.subsystems.reading(&name, &get.item);
            let reading = reading.ok_or_else(|| not_set(&name, &get.item))?;
            return Ok(Some(encode(&**reading)));
        }
        let by = call.by.clone();
        let ask = Ask::Read { path: (name.clone(), get.item.clone()) };
        let read = Read { subsystem: name.clone(), item: get.item, by: by.to_string() };
        self.ask_one(call, ask, &name, Read::KIND, encode(&read))?;
        Ok(None)
    }

    /// # Errors
    /// `no_such_subsystem`, `no_such_item`, `read_only`, `bad_parameter` (too large), `wrong_type`, `out_of_range`,
    /// `changed`, `conflict`, `agent_lost`, `busy`, and whatever the owner says.
    pub(super) fn set_item(&mut self, call: &Call<'_>, set: Set) -> Answer {
        let name = self.subsystems.resolve(&set.subsystem)?.to_owned();
        let item = self.subsystems.item(&name, &set.item)?;
        if !item.writable {
            return Err(Failure::new(ErrorCode::ReadOnly, format!("{name} {} can be read, not set", item.name)));
        }
        check_value(Path(&name, &item.name), &set.value)?;
        item.kind.check(Path(&name, &item.name), &set.value)?;
        if let Some(revision) = set.if_revision {
            self.check_revision(&name, &set.item, revision)?;
        }
        let path = (name.clone(), set.item.clone());
        if self.exchanges.is_guarded(&path) || (set.if_revision.is_some() && self.exchanges.is_being_set(&path)) {
            let message = format!("{name} {} is being set by somebody else at this moment", set.item);
            return Err(Failure::new(ErrorCode::Conflict, message).with_hint("read it and try again"));
        }
        let by = call.by.clone();
        let write = Write { subsystem: name.clone(), item: set.item, value: set.value, by: by.to_string() };
        let ask = Ask::Write { path, guarded: set.if_revision.is_some() };
        self.ask_one(call, ask, &name, Write::KIND, encode(&write))?;
        Ok(None)
    }

    fn check_revision(&self, name: &str, item: &str, wanted: u64) -> Result<(), Failure> {
        let found = self.subsystems.reading(name, item).map_or(0, |reading| reading.revision);
        if found == wanted {
            return Ok(());
        }
        let message = format!("{name} {item} is at revision {found}, not {wanted}: it has changed meanwhile");
        Err(Failure::new(ErrorCode::Changed, message).with_hint("read it and try again"))
    }

    /// # Errors
    /// `not_registered`, `no_such_item`, `conflict` (another agent's), `wrong_type`, `out_of_range`,
    /// `bad_parameter` (too large, or a jump too far), `busy`.
    pub(super) fn publish_item(&mut self, now_ns: u64, session: &Session, body: &[u8]) -> Result<Published, Failure> {
        let PublishWanted { subsystem, item, value: raw, skipped } = read_publish(body)?;
        self.check_owner(session, subsystem)?;
        let known = self.subsystems.item(subsystem, item)?;
        if !known.published {
            let message = format!("{subsystem} {item} is described as not published");
            return Err(Failure::new(ErrorCode::Conflict, message));
        }
        let (what, value) = (Path(subsystem, item), decoded_value(raw));
        check_value(what, &value)?;
        known.kind.check(what, &value)?;
        let (revision, is_undoable) = self.subsystems.publish((subsystem, item), value, (raw, skipped), now_ns)?;
        self.once |= !is_undoable;
        Ok(Published { revision })
    }

    /// Rule K1: the subsystem is hosted by the agent of this session.
    pub(super) fn check_owner(&self, session: &Session, subsystem: &str) -> Result<(), Failure> {
        let agent = self.registry.registered(session)?;
        match self.subsystems.agent_of(subsystem) {
            Some(owner) if owner == agent => Ok(()),
            Some(owner) => {
                Err(Failure::new(ErrorCode::Conflict, format!("{subsystem} is {owner}'s, and you are {agent}")))
            }
            None => Err(no_such_subsystem(subsystem).with_hint("describe it first")),
        }
    }

    pub(super) fn list_items(&self, list: &ListItems) -> ItemList {
        let short = |reading: Option<(&Reading, usize)>| {
            reading.filter(|(_, bytes)| *bytes <= LISTED_VALUE_BYTES_MAX).map(|(reading, _)| reading.clone())
        };
        let listed = self.subsystems.items(&list.prefix).map(|(subsystem, item, reading)| ListedItem {
            subsystem: subsystem.to_owned(),
            item: item.clone(),
            reading: short(reading),
            bytes: reading.map_or(0, |(_, bytes)| bytes as u64),
        });
        let (items, left_out) = that_fit(listed);
        ItemList { items, left_out }
    }

    /// # Errors
    /// `bad_parameter`, `busy`.
    pub(super) fn watch(&mut self, call: &Call<'_>, watch: Watch) -> Result<Ack, Failure> {
        self.watches.add(call.session, call.sender, watch, call.now_ns)?;
        Ok(Ack {})
    }

    pub(super) fn unwatch(&mut self, session: &Session, unwatch: &Unwatch) -> Ack {
        self.watches.remove(session, &unwatch.items);
        Ack {}
    }
}

/// What of a list fits into an answer, and how much does not.
pub(super) fn that_fit<T: Serialize>(mut all: impl Iterator<Item = T>) -> (Vec<T>, u64) {
    let mut bytes = 0;
    let mut fit = Vec::new();
    for one in all.by_ref() {
        bytes += encode(&one).len();
        if bytes > LISTED_BYTES_MAX {
            return (fit, 1 + all.count() as u64);
        }
        fit.push(one);
    }
    (fit, 0)
}

/// An item as it stands in errors.
#[derive(Clone, Copy)]
struct Path<'a>(&'a str, &'a str);

impl Display for Path<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Formatted {
        write!(formatter, "{} {}", self.0, self.1)
    }
}

fn not_set(name: &str, item: &str) -> Failure {
    Failure::new(ErrorCode::NotSet, format!("{name} {item} has no value yet: its owner has published none"))
}

/// Size and nesting of a value that others are given again.
pub(super) fn check_value(what: impl Display, value: &Value) -> Result<(), Failure> {
    let bad = |message: String| Failure::new(ErrorCode::BadParameter, message);
    let bytes = value.content_bytes();
    if bytes > VALUE_BYTES_MAX {
        return Err(bad(format!("{what} of {bytes} bytes; at most {VALUE_BYTES_MAX}")));
    }
    if value.depth() > VALUE_DEPTH_MAX {
        return Err(bad(format!("{what} nests deeper than {VALUE_DEPTH_MAX}")));
    }
    Ok(())
}
