//! Every limit of the ring, with its reason and what happens there. In models (feature `model`) a few are
//! smaller: loom tries every order of every access, and what is not there needs no trying.

/// Slots are named in 16 bits; the two highest values mean "no slot". Geometry with more is refused.
pub const SLOTS_MAX: u32 = 0xfff0;
/// Fewer slots cannot hold an open image, a committed one and one that a reader holds, twice over.
pub const SLOTS_MIN: u32 = if cfg!(feature = "model") { 2 } else { 8 };
/// Image ids are kept in 48 bits beside a slot or an epoch, and a window of images opens ahead of the
/// last one. A packet with a larger id is malformed; at 1 MHz they last for nine years.
pub const IMAGE_ID_MAX: u64 = (1 << 48) - 2 - WINDOW_MAX as u64;
/// Images that may be open at one time; more makes the window table longer than a few cache lines.
pub const WINDOW_MAX: u32 = if cfg!(feature = "model") { 2 } else { 64 };
/// Participants of all roles together: 64 contributors, 16 reliable readers and as many others. One
/// more is refused with `TooManyParticipants`.
pub const PARTICIPANTS: usize = if cfg!(feature = "model") { 3 } else { 112 };
/// Slots that one contributor may touch at one time: they share its hazard word.
pub const HAZARD_SLOTS: usize = 4;
/// Ranges of lost ids that one commit entry can name; more are joined into one of cause `Several`.
pub const LOST_RANGES: usize = if cfg!(feature = "model") { 2 } else { 6 };
/// An image closes before its deadline once every port has shown an id this many above it: packets of
/// one port overtake each other by less.
pub const REORDER_IMAGES: u64 = 2;
/// Ids opened below the first one that is seen of a new run, since another port's first packet may
/// belong to an earlier image; at most half the window.
pub const RUN_LEAD_IMAGES: u64 = 4;
/// How long the owner waits for a contributor to leave a slot before it takes the slot out of use. A
/// batch of packets takes well under a millisecond; the rest is scheduling.
pub const HAZARD_WAIT_NS: u64 = 50_000_000;
/// How often it looks at once, before it gives the processor away between two looks.
pub const HAZARD_SPINS: u32 = if cfg!(feature = "model") { 1 } else { 100 };
/// Largest image, in bytes.
pub const IMAGE_BYTES_MAX: u64 = u32::MAX as u64;
/// Packets of one image: the bitmap is cleared and searched image by image.
pub const PACKETS_MAX: u32 = 1 << 20;
/// Bytes of a participant's name; a longer one is cut.
pub const NAME_BYTES: usize = 32;
