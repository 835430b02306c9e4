//! The last value of each item: publishing it, keeping it over descriptions and restarts, and the way back to before the
//! batch. Rules D3 and D4.

use super::{Subsystems, bad};
use crate::limits::{KEPT_VALUES_BYTES_MAX, REVISION_JUMP_MAX, UNCLAIMED_OF_SUBSYSTEM_MAX};
use ecs_schemas::{
    envelope::encode,
    error_code::{ErrorCode, Failure},
    kv::{Item, Reading},
    subsystem::Description,
    value::Value,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, mem, sync::Arc};

/// An item, as subsystem and name.
pub type ItemPath = (String, String);

/// The stored value of an item with `persist`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredValue {
    pub subsystem: String,
    pub item: String,
    pub reading: Reading,
}

/// A value that is to be published.
pub struct PublishedValue {
    pub path: ItemPath,
    pub reading: Arc<Reading>,
    /// The value, as its owner has sent it.
    pub encoded: Arc<[u8]>,
    /// A disk that fails takes it back (D3).
    is_undoable: bool,
}

/// The last published value of an item.
#[derive(Clone)]
pub(super) struct Kept {
    pub reading: Arc<Reading>,
    pub bytes: usize,
}

impl Subsystems {
    /// Keeps a published value of an item that is there, which came in these bytes and after so many that were skipped.
    /// Returns its revision, and whether a disk that fails takes it back.
    ///
    /// # Errors
    /// `bad_parameter`: it jumps too far. `busy`: the kept values of all items together are at their limit.
    pub fn publish(
        &mut self,
        (name, item): (&str, &str),
        value: Value,
        (encoded, skipped): (&[u8], u64),
        now_ns: u64,
    ) -> Result<(u64, bool), Failure> {
        let subsystem = self.all.get_mut(name).expect("the item was found in it");
        let (before, bytes) = (subsystem.values.get_mut(item), encoded.len());
        let others_bytes = self.values_bytes - before.as_ref().map_or(0, |before| before.bytes);
        if others_bytes + bytes > KEPT_VALUES_BYTES_MAX {
            let message = format!("{others_bytes} bytes of values are kept already; at most {KEPT_VALUES_BYTES_MAX}");
            return Err(Failure::new(ErrorCode::Busy, message));
        }
        let last = before.as_ref().map_or(0, |before| before.reading.revision);
        let revision = last.saturating_add(skipped).saturating_add(1);
        if skipped > 0 && revision > REVISION_JUMP_MAX {
            return Err(bad(format!(
                "{skipped} skipped after revision {last}: a jump ends at {REVISION_JUMP_MAX} at most"
            )));
        }
        let persist = subsystem.description.items.iter().any(|known| known.name == item && known.persist);
        let reading = Arc::new(Reading { value, revision, time_ns: now_ns });
        let kept = Kept { reading: Arc::clone(&reading), bytes };
        let before = match before {
            Some(before) => Some(mem::replace(before, kept)),
            None => subsystem.values.insert(item.to_owned(), kept),
        };
        self.values_bytes = others_bytes + bytes;
        let path = (name.to_owned(), item.to_owned());
        if persist {
            self.undo.entry(path.clone()).or_insert(before);
        }
        let is_undoable = self.undo.contains_key(&path);
        self.published.push(PublishedValue { path, reading, encoded: encoded.into(), is_undoable });
        Ok((revision, is_undoable))
    }

    pub fn reading(&self, name: &str, item: &str) -> Option<&Arc<Reading>> {
        self.all.get(name)?.values.get(item).map(|kept| &kept.reading)
    }

    /// The revision of an item that its owner has set as it was asked; 0 if it has none.
    ///
    /// # Errors
    /// `store_failed`: the item has `persist`, and the disk did not take the value (K4).
    pub fn written(&self, path: &ItemPath) -> Result<u64, Failure> {
        if self.not_kept.contains(path) {
            let message = format!("{} has taken the value of {}, and the broker's disk has not", path.0, path.1);
            return Err(Failure::new(ErrorCode::StoreFailed, message)
                .with_hint("free space on the disk of the beamline's state folder; the owner tells it again"));
        }
        Ok(self.reading(&path.0, &path.1).map_or(0, |reading| reading.revision))
    }

    /// Whether it would undo any value of a subsystem.
    pub fn is_any_undoable(&self, subsystem: &str) -> bool {
        self.undo.keys().any(|(of, _)| of == subsystem)
    }

    /// Values that must be on disk before this batch is answered.
    pub fn changed_values(&self) -> Vec<StoredValue> {
        self.undo.keys().filter_map(|path| self.stored(path)).collect()
    }

    pub fn commit(&mut self) {
        let kept = mem::take(&mut self.undo);
        self.not_kept.retain(|path| !kept.contains_key(path));
    }

    /// Back to before the batch.
    pub fn rollback(&mut self) {
        let undo = mem::take(&mut self.undo);
        self.published.retain(|value| !value.is_undoable);
        for (path, before) in undo {
            let Some(subsystem) = self.all.get_mut(&path.0) else { continue };
            self.not_kept.insert(path.clone());
            let undone = subsystem.values.remove(&path.1).or_else(|| self.unclaimed.remove(&path));
            self.values_bytes -= undone.map_or(0, |kept| kept.bytes);
            let Some(before) = before else { continue };
            self.values_bytes += before.bytes;
            if may_have(&subsystem.description, &path.1, &before.reading.value) {
                subsystem.values.insert(path.1, before);
            } else {
                self.unclaimed.insert(path, before);
            }
        }
    }

    pub fn take_published(&mut self) -> Vec<PublishedValue> {
        mem::take(&mut self.published)
    }

    /// Items that had a value and have none any more.
    pub fn take_dropped(&mut self) -> Vec<ItemPath> {
        let mut dropped = mem::take(&mut self.dropped);
        dropped.retain(|(subsystem, item)| self.reading(subsystem, item).is_none());
        dropped
    }

    /// Bytes of all values as they are, for a test that the sum that is kept of them is right.
    pub fn counted_bytes(&self) -> (usize, usize) {
        let values = self.all.values().flat_map(|its| its.values.values()).chain(self.unclaimed.values());
        (self.values_bytes, values.map(|kept| kept.bytes).sum())
    }

    pub(super) fn stored(&self, path: &ItemPath) -> Option<StoredValue> {
        let aside = || self.unclaimed.get(path).map(|kept| &kept.reading);
        let reading = Reading::clone(self.reading(&path.0, &path.1).or_else(aside)?);
        Some(StoredValue { subsystem: path.0.clone(), item: path.1.clone(), reading })
    }

    /// Rule D4, for what was kept before this description. `before`: the items of the description before it.
    pub(super) fn drop_values(
        &mut self,
        values: &mut BTreeMap<String, Kept>,
        before: &[Item],
        description: &Description,
    ) {
        let all = mem::take(values);
        for (item, kept) in all {
            if may_have(description, &item, &kept.reading.value) {
                values.insert(item, kept);
                continue;
            }
            let path = (description.name.clone(), item);
            let is_described = description.items.iter().any(|known| known.name == path.1);
            let was_persistent = before.iter().any(|known| known.name == path.1 && known.persist);
            self.dropped.push(path.clone());
            if was_persistent && !is_described && self.unclaimed_of(&path.0).count() < UNCLAIMED_OF_SUBSYSTEM_MAX {
                self.unclaimed.insert(path, kept);
            } else {
                self.values_bytes -= kept.bytes;
            }
        }
    }

    /// Values without an item find theirs: they are published, since topics are not stored.
    pub(super) fn claim_values(&mut self, values: &mut BTreeMap<String, Kept>, description: &Description) {
        for item in &description.items {
            let path = (description.name.clone(), item.name.clone());
            let Some(kept) = self.unclaimed.remove(&path) else { continue };
            if item.persist && may_have(description, &item.name, &kept.reading.value) {
                let is_undoable = self.undo.contains_key(&path);
                let (reading, encoded) = (Arc::clone(&kept.reading), encode(&kept.reading.value).into());
                self.published.push(PublishedValue { path, reading, encoded, is_undoable });
                values.insert(item.name.clone(), kept);
            } else {
                self.values_bytes -= kept.bytes;
            }
        }
    }

    pub(super) fn unclaimed_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ItemPath> {
        let first = (name.to_owned(), String::new());
        self.unclaimed.range(first..).map(|(path, _)| path).take_while(move |path| path.0 == name)
    }
}

/// Whether a description has an item that may be kept with this value (D4).
fn may_have(description: &Description, item: &str, value: &Value) -> bool {
    let is_it = |known: &Item| known.name == item && known.published && known.kind.check(item, value).is_ok();
    description.items.iter().any(is_it)
}
