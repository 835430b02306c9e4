//! Keys, roles, and the files that hold them. `spec/security.md` is the normative text.
//!
//! ```text
//! key folder, beside the broker            at a client
//!   broker.key        secret                 NAME.key     secret; the broker's public key
//!   clients/NAME.toml public key, role, names
//! ```
//!
//! Nothing here reads a file: these are the forms of what is in them.
//!
//! # Rules
//! K1  A secret key is shown by [`SecretKey::reveal`] alone. It has no `Display`, its `Debug` is a word, and
//!     no error quotes the text of a file.
//! K2  Roles are ordered: each may do what the one before it may.

mod file;
mod pattern;

pub use file::{BrokerKey, ClientKey, KeyFileError, KeyHolder};
pub use pattern::NamePattern;

use std::{fmt, str::FromStr};

/// A key is 32 bytes, in Z85 (ZeroMQ RFC 32) 40 characters.
pub const KEY_CHARS: usize = 40;
/// The alphabet of Z85. It has neither quotes nor backslashes, so a key stands in TOML as it is.
const Z85: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

/// What the holder of a key may do (rule K2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Looks: status, lists, values, topics.
    Viewer,
    /// Also acts: sets, calls, submits, cancels.
    Operator,
    /// Also is somebody: registers under the names of its key, does jobs, tells telemetry.
    Agent,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Agent];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Agent => "agent",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let role = Self::ALL.into_iter().find(|role| role.as_str() == text);
        role.ok_or_else(|| format!("{text:?} is no role: viewer, operator or agent"))
    }
}

/// The public half of a key pair, in Z85. Everybody may see it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(String);

/// The secret half of a key pair, in Z85.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(String);

impl PublicKey {
    /// The key, if `text` is one.
    pub fn new(text: &str) -> Option<Self> {
        is_key(text).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SecretKey {
    /// The key, if `text` is one.
    pub fn new(text: &str) -> Option<Self> {
        is_key(text).then(|| Self(text.to_owned()))
    }

    /// The text itself: for a file of mode 0600, or for the transport, and for nothing else (rule K1).
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SecretKey(hidden)")
    }
}

fn is_key(text: &str) -> bool {
    text.len() == KEY_CHARS && text.chars().all(|character| Z85.contains(character))
}

/// Longest name of a key. It is a file's name too.
pub const KEY_NAME_BYTES_MAX: usize = 64;

/// The name of a key is one part of a path: letters, digits, `-`, `_`, `.`, starting with a letter or digit.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_key_name(name: &str) -> Result<(), String> {
    let is_part = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if name.len() > KEY_NAME_BYTES_MAX || !is_part || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(format!(
            "{name:?} is no name of a key: 1 to {KEY_NAME_BYTES_MAX} letters, digits, '-', '_' and '.', starting with a \
             letter or digit"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_40_characters_of_z85_and_a_secret_one_is_never_shown() {
        let text = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7";
        assert_eq!(PublicKey::new(text).expect("a key").as_str(), text);
        let secret = SecretKey::new(text).expect("a key");
        assert_eq!((secret.reveal(), format!("{secret:?}").as_str()), (text, "SecretKey(hidden)"));
        for bad in ["", &text[1..], &format!("{text}0"), &text.replace('r', "\"")] {
            assert!(PublicKey::new(bad).is_none() && SecretKey::new(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn roles_are_ordered_and_read_as_they_are_written() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Agent);
        assert!(Role::ALL.into_iter().all(|role| role.as_str().parse() == Ok(role)));
        assert!("root".parse::<Role>().is_err_and(|error| error.contains("viewer, operator or agent")));
    }

    #[test]
    fn names_of_keys_are_names_of_files() {
        assert!(["anna", "laser-2", "x.1"].iter().all(|name| check_key_name(name).is_ok()));
        for bad in ["", ".", "..", "a/b", "-a", "a b", "ä", &"k".repeat(65)] {
            assert!(check_key_name(bad).is_err(), "{bad}");
        }
    }
}
