//! A connection, as the transport names it.

use smallvec::SmallVec;

/// Identities that the ROUTER gives have 5 bytes; those that a peer chooses up to 255.
const IDENTITY_BYTES_USUAL: usize = 16;

/// A connection of the ROUTER, by the identity that the transport gave it. What a message says of its
/// sender is never believed.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session(SmallVec<[u8; IDENTITY_BYTES_USUAL]>);

impl Session {
    pub fn new(identity: &[u8]) -> Self {
        Self(SmallVec::from_slice(identity))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Clone for Session {
    fn clone(&self) -> Self {
        Self::new(&self.0) // one copy; that of SmallVec goes byte by byte
    }
}
