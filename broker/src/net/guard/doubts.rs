//! Entries of the key folder that cannot be read at this look: which of them hold as they were, and for how long (rule U4).

use super::Holders;
use crate::{keys::KeysError, limits::KEYS_INTERVAL};
use ecs_schemas::keys::KeyHolder;
use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// What the machine lacks and not the file: EIO, ENOMEM, ENFILE, EMFILE (Linux, `errno-base.h`).
const LACKS: [i32; 4] = [5, 12, 23, 24];

/// Since when each entry cannot be read.
#[derive(Default)]
pub struct Doubts {
    since: BTreeMap<PathBuf, Instant>,
}

impl Doubts {
    /// Those of `known` that hold though their entries are among these errors.
    pub fn held(&mut self, errors: &[KeysError], known: &Holders, now: Instant) -> Vec<Arc<KeyHolder>> {
        let before = std::mem::take(&mut self.since);
        let mut held = Vec::new();
        for (path, patience) in errors.iter().filter_map(doubt) {
            let since = before.get(path).copied().unwrap_or(now);
            self.since.insert(path.clone(), since);
            let is_its = |holder: &&Arc<KeyHolder>| path.file_stem().is_some_and(|stem| *stem == *holder.name);
            if now.duration_since(since) < patience {
                held.extend(known.values().find(is_its).cloned());
            }
        }
        held
    }
}

/// The entry behind an error, and how long it holds as it was: a file that somebody is writing is whole at the next look.
fn doubt(error: &KeysError) -> Option<(&PathBuf, Duration)> {
    let is_lack = |source: &io::Error| source.raw_os_error().is_some_and(|number| LACKS.contains(&number));
    match error {
        KeysError::File { path, source, .. } if is_lack(source) => Some((path, Duration::MAX)),
        KeysError::File { path, .. } | KeysError::Wrong { path, .. } => Some((path, KEYS_INTERVAL)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecs_schemas::keys::{KeyFileError, PublicKey, Role};

    fn known() -> Holders {
        let holder = |name: &str| {
            let public = PublicKey::new(&format!("{name:0>40}")).unwrap();
            KeyHolder { name: name.to_owned(), public, role: Role::Viewer, names: vec![] }
        };
        ["anna", "eve"].map(|name| (holder(name).public, Arc::new(holder(name)))).into()
    }

    fn path() -> PathBuf {
        PathBuf::from("keys/clients/anna.toml")
    }

    fn wrong() -> KeysError {
        KeysError::Wrong { path: path(), source: KeyFileError::Field("half of it".to_owned()) }
    }

    fn unread(number: i32) -> KeysError {
        KeysError::File { action: "read", path: path(), source: io::Error::from_raw_os_error(number) }
    }

    /// What is held at the first look, at one a moment later, at the next regular one, and after an hour.
    fn looks(error: impl Fn() -> KeysError) -> [Vec<String>; 4] {
        let (mut doubts, began) = (Doubts::default(), Instant::now());
        [Duration::ZERO, KEYS_INTERVAL / 2, KEYS_INTERVAL, Duration::from_secs(3600)].map(|passed| {
            let held = doubts.held(&[error()], &known(), began + passed);
            held.into_iter().map(|holder| holder.name.clone()).collect()
        })
    }

    #[test]
    fn entry_that_is_being_written_holds_until_the_next_look_and_no_longer() {
        for looks in [looks(wrong), looks(|| unread(13))] {
            assert_eq!(looks, [vec!["anna".to_owned()], vec!["anna".to_owned()], vec![], vec![]]);
        }
    }

    #[test]
    fn lack_of_descriptors_takes_no_key_away() {
        for number in LACKS {
            assert_eq!(looks(|| unread(number)), [const { vec![] }; 4].map(|_: Vec<String>| vec!["anna".to_owned()]));
        }
    }

    #[test]
    fn entry_that_was_whole_in_between_is_given_the_same_time_again() {
        let (mut doubts, began) = (Doubts::default(), Instant::now());
        assert_eq!(doubts.held(&[wrong()], &known(), began).len(), 1);
        assert_eq!(doubts.held(&[], &known(), began + KEYS_INTERVAL).len(), 0, "it is among those that were read");
        assert_eq!(doubts.held(&[wrong()], &known(), began + 2 * KEYS_INTERVAL).len(), 1);
        assert_eq!(doubts.held(&[wrong()], &Holders::new(), began).len(), 0, "it never was good");
    }
}
