//! KV items: named values of a subsystem, read and set by anybody who may, published by their owner alone.
//!
//! ```text
//! client ─ kv.get ─▶ broker ── published: the last value ────────────────▶ client
//!                        └──── else: kv.read ─▶ owner ─ value ─▶ broker ─▶ client
//! client ─ kv.set ─▶ broker ─ type, range, flags ─▶ kv.write ─▶ owner ─ accepts, changes or refuses ─▶ broker ─▶ client
//! owner ─ kv.publish ─▶ broker ─▶ PUB `<subsystem>/kv/<item>`, and whoever watches
//! ```
//!
//! # Rules
//! K1  Only the owner's connection publishes an item; who that is, the transport says.
//! K2  A set is checked against type, range and flags before the owner is asked.
//! K3  `revision` rises by one with each published value, over restarts of owner and broker where the item
//!     has `persist`; a reader sees by a jump what it has missed.
//! K4  A value of an item with `persist` is on the broker's disk before its publication is answered.

use crate::{
    envelope::{Notice, Request, is_zero},
    job::Ack,
    subsystem::{check_help, check_part},
    value::Value,
    value_type::ValueType,
};
use serde::{Deserialize, Serialize};

/// What an item is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    pub name: String,
    /// Type, unit and range.
    #[serde(flatten)]
    pub kind: ValueType,
    #[serde(default)]
    pub help: String,
    /// Others may read it.
    #[serde(default = "yes")]
    pub readable: bool,
    /// Others may ask for another value.
    #[serde(default)]
    pub writable: bool,
    /// Its owner tells each new value; the broker keeps the last one.
    #[serde(default = "yes")]
    pub published: bool,
    /// Its last published value comes back after a restart, of the owner and of the broker.
    #[serde(default)]
    pub persist: bool,
}

fn yes() -> bool {
    true
}

impl Default for Item {
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: ValueType::default(),
            help: String::new(),
            readable: true,
            writable: false,
            published: true,
            persist: false,
        }
    }
}

impl Item {
    /// # Errors
    /// Says what does not make sense.
    pub fn check(&self) -> Result<(), String> {
        check_part("item", &self.name)?;
        let in_it = |reason: String| format!("item {}: {reason}", self.name);
        check_help("its text", &self.help).map_err(in_it)?;
        self.kind.check_self().map_err(in_it)?;
        if self.persist && !self.published {
            return Err(in_it("persist needs published: what is not told cannot be kept".to_owned()));
        }
        if !self.readable && !self.writable {
            return Err(in_it("neither readable nor writable".to_owned()));
        }
        if !self.readable && self.published {
            return Err(in_it("published, so anybody can read it; say readable too".to_owned()));
        }
        Ok(())
    }
}

/// A kept value, told to its owner when it describes itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    pub item: String,
    pub value: Value,
    pub revision: u64,
    pub time_ns: u64,
}

/// Client → broker: the value of an item, from the broker where it is published, else from its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Get {
    /// Name or UUID.
    pub subsystem: String,
    pub item: String,
}

/// A value and how new it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    pub value: Value,
    /// 0 for an item that is not published.
    pub revision: u64,
    /// When the broker had it, nanoseconds since 1970-01-01 UTC.
    pub time_ns: u64,
}

impl Request for Get {
    const KIND: &'static str = "kv.get";
    type Reply = Reading;
}

/// Client → broker: ask the owner for another value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Set {
    pub subsystem: String,
    pub item: String,
    pub value: Value,
    /// Only if the item, which is published, is still at this revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_revision: Option<u64>,
}

impl Request for Set {
    const KIND: &'static str = "kv.set";
    /// The value as the owner has taken it.
    type Reply = Reading;
}

/// Client → broker: items with their last values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListItems {
    /// Only `<subsystem>/<item>` that begin so; all if empty.
    #[serde(default)]
    pub prefix: String,
}

impl Request for ListItems {
    const KIND: &'static str = "kv.list";
    type Reply = ItemList;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemList {
    /// Sorted by subsystem and item.
    pub items: Vec<ListedItem>,
    /// Items that found no room in this answer; a longer prefix finds them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListedItem {
    pub subsystem: String,
    #[serde(flatten)]
    pub item: Item,
    /// The last published value; nil where there is none, or where it is long: `bytes` says how long.
    #[serde(default)]
    pub reading: Option<Reading>,
    pub bytes: u64,
}

/// Owner → broker: the item has this value now. As a notice, or as a request that is answered once the value is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Publish {
    pub subsystem: String,
    pub item: String,
    pub value: Value,
    /// Values before this one that could not be told: `revision` rises by as many more, so that readers see the gap.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
}

impl Request for Publish {
    const KIND: &'static str = "kv.publish";
    type Reply = Published;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    pub revision: u64,
}

/// Client → broker: tell me of these items, whether they are there yet or not, as they change. Answered before the
/// first [`Update`]; the current values follow at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// `<subsystem>/<item>` each.
    pub items: Vec<String>,
    /// At most so many updates per second and item, the newest; all if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_hz: Option<f64>,
}

impl Request for Watch {
    const KIND: &'static str = "kv.watch";
    type Reply = Ack;
}

/// Client → broker: no more of these items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unwatch {
    pub items: Vec<String>,
}

impl Request for Unwatch {
    const KIND: &'static str = "kv.unwatch";
    type Reply = Ack;
}

/// Broker → client: a watched item has another value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Update {
    pub subsystem: String,
    pub item: String,
    pub value: Value,
    pub revision: u64,
    pub time_ns: u64,
    /// Revisions between this one and the one told before: left out for `max_hz`, or lost on the way.
    pub missed: u64,
}

impl Notice for Update {
    const KIND: &'static str = "kv.update";
}

/// Broker → owner: what is the value?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    pub subsystem: String,
    pub item: String,
    /// Who asks, by the broker's word: the agent's name, or the key's, or `anonymous`.
    pub by: String,
}

impl Request for Read {
    const KIND: &'static str = "kv.read";
    type Reply = Taken;
}

/// Broker → owner: somebody wants this value. It is of the item's type and range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Write {
    pub subsystem: String,
    pub item: String,
    pub value: Value,
    pub by: String,
}

impl Request for Write {
    const KIND: &'static str = "kv.write";
    /// The value that the item has now: another one than asked for where the owner changed it.
    type Reply = Taken;
}

/// A value by its owner's word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    pub value: Value,
}

/// Topic of an item's values; the payload is the [`Reading`]'s value alone.
pub fn item_topic(subsystem: &str, item: &str) -> String {
    [subsystem, "/kv/", item].concat()
}
