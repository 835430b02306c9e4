//! Every section and key that a beamline's file may have, and the nearest one to a misspelt one.

use super::Problem;
use crate::nearest::nearest;

/// The sections and their keys; `spec/beamline.md` has the same table for people.
pub(super) const SECTIONS: [(&str, &[&str]); 8] = [
    ("beamline", &["name", "data_folder", "state_folder", "cores", "realtime"]),
    ("broker", &["request_endpoint", "publish_endpoint", "heartbeat", "timeout", "keys", "key", "insecure"]),
    ("detector", &crate::detector::config::KEYS),
    ("conversion", &["to", "pixel", "gain", "pedestal", "photon_energy", "flat_field", "mask"]),
    ("ring", &["path", "size"]),
    ("readout", &["processes", "address", "receive_buffer", "senders", "coalesce", "cores"]),
    ("assembler", &["deadline", "fill", "open_images", "core"]),
    ("writer", &["processes", "image_timeout", "sync"]),
];

/// The keys of a section that there is.
pub(super) fn keys_of(section: &str) -> Option<&'static [&'static str]> {
    SECTIONS.iter().find(|(name, _)| *name == section).map(|(_, keys)| *keys)
}

/// What to say of a section that there is not.
pub(super) fn unknown_section(section: &str) -> Problem {
    let names = SECTIONS.map(|(name, _)| name);
    let hint = match nearest(section, names.iter().copied()) {
        Some(name) => format!("did you mean [{name}]?"),
        None => match home_of(section) {
            Some(home) => format!("did you mean {home}.{section}?"),
            None => format!("the sections are {}", names.join(", ")),
        },
    };
    Problem::Unknown { what: "section", hint }
}

/// What to say of a key that its section does not have: a misspelling, or the key of another section.
pub(super) fn unknown_key(section: &str, keys: &[&str], key: &str) -> Problem {
    let near = nearest(key, keys.iter().copied()).map(|near| format!("did you mean {section}.{near}?"));
    let hint = home_of(key)
        .map(|home| format!("did you mean {home}.{key}?"))
        .or(near)
        .unwrap_or_else(|| format!("the keys of [{section}] are {}", keys.join(", ")));
    Problem::Unknown { what: "key", hint }
}

/// The section whose key this is, where there is exactly one.
fn home_of(key: &str) -> Option<&'static str> {
    let mut homes = SECTIONS.iter().filter(|(_, keys)| keys.contains(&key)).map(|(name, _)| *name);
    homes.next().filter(|_| homes.next().is_none())
}
