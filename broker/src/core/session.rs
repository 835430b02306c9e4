//! A connection, as the transport names it.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

/// Identities that the ROUTER gives have 5 bytes; those that a peer chooses up to 255.
const SHORT_BYTES_MAX: usize = 15;

/// A connection of the ROUTER, by the identity that the transport gave it. What a message says of its
/// sender is never believed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Session(Identity);

/// A short identity lies in place: sessions are copied and looked up for every message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Identity {
    Short { bytes: [u8; SHORT_BYTES_MAX], length: u8 },
    Long(Arc<[u8]>),
}

impl Session {
    pub fn new(identity: &[u8]) -> Self {
        if identity.len() > SHORT_BYTES_MAX {
            return Self(Identity::Long(identity.into()));
        }
        let mut bytes = [0; SHORT_BYTES_MAX];
        bytes[..identity.len()].copy_from_slice(identity);
        Self(Identity::Short { bytes, length: identity.len() as u8 })
    }

    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Identity::Short { bytes, length } => &bytes[..usize::from(*length)],
            Identity::Long(bytes) => bytes,
        }
    }
}

impl Hash for Session {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.0 {
            Identity::Short { bytes, length } => {
                let mut padded = [0; SHORT_BYTES_MAX + 1];
                padded[..SHORT_BYTES_MAX].copy_from_slice(bytes);
                padded[SHORT_BYTES_MAX] = *length;
                state.write_u128(u128::from_ne_bytes(padded));
            }
            Identity::Long(bytes) => bytes.hash(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_told_apart_by_every_byte_and_their_length() {
        let identities: Vec<Vec<u8>> =
            (0..=255).flat_map(|length| [vec![0; length], [vec![0; length], vec![1]].concat()]).collect();
        let sessions: std::collections::HashSet<Session> = identities.iter().map(|bytes| Session::new(bytes)).collect();
        let distinct: std::collections::HashSet<&Vec<u8>> = identities.iter().collect();
        assert_eq!(sessions.len(), distinct.len());
        assert!(identities.iter().all(|bytes| Session::new(bytes).bytes() == &bytes[..]));
    }
}
