//! A connection, as the transport names it.

use smallvec::SmallVec;
use std::{
    cmp::Ordering,
    hash::{Hash, Hasher},
};

/// Identities that the ROUTER gives have 5 bytes; those that a peer chooses up to 255.
const IDENTITY_BYTES_USUAL: usize = 16;

/// A connection of the ROUTER, by the identity that the transport gave it. What a message says of its
/// sender is never believed.
#[derive(Debug)]
pub struct Session {
    identity: SmallVec<[u8; IDENTITY_BYTES_USUAL]>,
    takes_bundles: bool,
}

impl Session {
    pub fn new(identity: &[u8]) -> Self {
        Self { identity: SmallVec::from_slice(identity), takes_bundles: false }
    }

    /// The same session, as its peer can be written to: by a message that came in a bundle (rule B2 of `schemas::bundle`).
    pub fn with_bundles(self, takes_bundles: bool) -> Self {
        Self { takes_bundles, ..self }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.identity
    }

    pub fn takes_bundles(&self) -> bool {
        self.takes_bundles
    }
}

impl Clone for Session {
    fn clone(&self) -> Self {
        // One copy; that of SmallVec goes byte by byte.
        Self::new(&self.identity).with_bundles(self.takes_bundles)
    }
}

// A session is who it is, however its peer is written to.

impl PartialEq for Session {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl Eq for Session {}

impl Hash for Session {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity.hash(state);
    }
}

impl PartialOrd for Session {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Session {
    fn cmp(&self, other: &Self) -> Ordering {
        self.identity.cmp(&other.identity)
    }
}
