//! What the broker's store keeps, in memory: for tests that let a disk fail, and brokers die, thousands of times.

use ecs_broker::core::{Change, Changes, Stored, StoredSubsystem, StoredValue, Unstored};
use ecs_schemas::job::{JobId, JobRecord};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct Disk {
    pub jobs: BTreeMap<JobId, JobRecord>,
    pub subsystems: BTreeMap<String, StoredSubsystem>,
    /// By subsystem and item.
    pub values: BTreeMap<(String, String), StoredValue>,
    /// A service, and the one that it follows.
    pub followers: BTreeMap<String, String>,
}

impl Disk {
    /// As `Store::save`.
    pub fn save(&mut self, changes: &Changes) {
        self.values.extend(changes.values.iter().map(|value| (path(value), value.clone())));
        for change in &changes.jobs {
            match change {
                Change::Save(record) => drop(self.jobs.insert(record.id, (**record).clone())),
                Change::Forget(id) => drop(self.jobs.remove(id)),
                Change::Follow { service, follows: Some(follows) } => {
                    self.followers.insert(service.clone(), follows.clone());
                }
                Change::Follow { service, follows: None } => drop(self.followers.remove(service)),
            }
        }
    }

    /// As `Store::save_subsystems`.
    pub fn save_subsystems(&mut self, unstored: Vec<Unstored>) {
        for Unstored { name, subsystem, items, values } in unstored {
            self.values.retain(|(of, item), _| *of != name || items.contains(item));
            self.values.extend(values.into_iter().map(|value| (path(&value), value)));
            match subsystem {
                Some(subsystem) => drop(self.subsystems.insert(name, subsystem)),
                None => drop(self.subsystems.remove(&name)),
            }
        }
    }

    /// What the next broker begins with.
    pub fn stored(&self) -> Stored {
        Stored {
            jobs: self.jobs.values().cloned().collect(),
            followers: self.followers.clone().into_iter().collect(),
            subsystems: self.subsystems.values().cloned().collect(),
            values: self.values.values().cloned().collect(),
        }
    }
}

fn path(value: &StoredValue) -> (String, String) {
    (value.subsystem.clone(), value.item.clone())
}
