//! Which subsystems answer which calls, and how many each has.

use crate::core::subsystems::Subsystem;
use ecs_schemas::subsystem::{Description, Handled};
use smol_str::SmolStr;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// How many calls of one name a subsystem has. It is held by the table of workers and by every call that it counts: so it is
/// found without a search, and one that is described anew meanwhile keeps its count.
#[derive(Debug, Clone, Default)]
pub struct Load(Arc<AtomicUsize>);

impl Load {
    // Relaxed: the core is used by one thread at a time; the type is only so that it may move to another.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub fn take_one(&self) {
        self.0.store(self.count() + 1, Ordering::Relaxed);
    }

    pub fn give_back(&self) {
        self.0.store(self.count() - 1, Ordering::Relaxed);
    }
}

impl PartialEq for Load {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A subsystem that is here and answers a call.
pub struct Worker<'a> {
    pub name: &'a SmolStr,
    pub agent: &'a SmolStr,
    pub handled: &'a Handled,
    pub load: &'a Load,
}

impl<'a> Worker<'a> {
    pub(super) fn of(name: &'a SmolStr, load: &'a Load, subsystem: &'a Subsystem, call: &str) -> Option<Self> {
        Some(Self { name, agent: &subsystem.agent, handled: subsystem.call(call)?, load })
    }
}

#[derive(Default)]
pub struct Workers {
    by_call: BTreeMap<String, BTreeMap<SmolStr, Load>>,
    /// Of subsystems that answer a call no more, and still have some.
    leaving: BTreeMap<(SmolStr, String), Load>,
}

impl Workers {
    pub fn add(&mut self, description: &Description) {
        let name = SmolStr::new(&description.name);
        for call in &description.calls {
            let load = self.leaving.remove(&(name.clone(), call.name.clone())).unwrap_or_default();
            self.by_call.entry(call.name.clone()).or_default().insert(name.clone(), load);
        }
    }

    pub fn remove(&mut self, description: &Description) {
        self.leaving.retain(|_, load| load.count() > 0);
        for call in &description.calls {
            let Some(workers) = self.by_call.get_mut(&call.name) else { continue };
            if let Some((name, load)) =
                workers.remove_entry(description.name.as_str()).filter(|(_, its)| its.count() > 0)
            {
                self.leaving.insert((name, call.name.clone()), load);
            }
            if workers.is_empty() {
                self.by_call.remove(&call.name);
            }
        }
    }

    /// Subsystems that are described with this call, by name.
    pub fn of(&self, call: &str) -> impl Iterator<Item = (&SmolStr, &Load)> {
        self.by_call.get(call).into_iter().flatten()
    }
}
