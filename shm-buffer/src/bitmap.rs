//! Which packets of a committed image are in their places.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

/// Bit `p % 64` of word `p / 64`: packet `p` is in its place.
///
/// *Why not an `Arc` for all:* whole images share one, and to count who has it is an atomic step of each image, in the time
/// from its commit to its reader.
#[derive(Clone)]
pub struct Bitmap(Words);

#[derive(Clone)]
enum Words {
    /// Of a whole image.
    Shared(&'static [u64]),
    Own(Arc<[u64]>),
}

/// The bitmaps of whole images, by their packets. They stay: a process reads images of one geometry or a few.
static WHOLE: Mutex<BTreeMap<u32, &'static [u64]>> = Mutex::new(BTreeMap::new());

impl Bitmap {
    /// Of an image all of whose packets are in their places.
    pub(crate) fn whole(packets: u32) -> Self {
        let bits = |first: u32| u64::MAX >> 64_u32.saturating_sub(packets - first);
        let words = || &*Vec::leak((0..packets).step_by(64).map(bits).collect());
        let mut known = WHOLE.lock().unwrap_or_else(PoisonError::into_inner);
        Self(Words::Shared(known.entry(packets).or_insert_with(words)))
    }
}

impl FromIterator<u64> for Bitmap {
    fn from_iter<T: IntoIterator<Item = u64>>(words: T) -> Self {
        Self(Words::Own(words.into_iter().collect()))
    }
}

impl Deref for Bitmap {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        match &self.0 {
            Words::Shared(words) => words,
            Words::Own(words) => words,
        }
    }
}

impl PartialEq for Bitmap {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Bitmap {}

impl fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x?}", &**self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bitmap_of_a_whole_image_has_a_bit_for_each_packet_and_no_other() {
        for packets in [1, 63, 64, 65, 128, 191, 192, 9000] {
            let whole = Bitmap::whole(packets);
            assert_eq!(whole.len(), packets.div_ceil(64) as usize);
            let is_marked = |packet: u32| whole[packet as usize / 64] >> (packet % 64) & 1 != 0;
            assert!((0..whole.len() as u32 * 64).all(|packet| is_marked(packet) == (packet < packets)), "{packets}");
        }
    }

    #[test]
    fn bitmaps_are_as_their_words_and_whole_ones_of_as_many_packets_are_one() {
        assert_eq!(Bitmap::whole(65), [u64::MAX, 1].into_iter().collect());
        assert_ne!(Bitmap::whole(65), [u64::MAX, 0].into_iter().collect());
        assert!(std::ptr::eq(&*Bitmap::whole(65), &*Bitmap::whole(65)));
        assert_eq!(format!("{:?}", Bitmap::whole(3)), "[0000000000000007]");
    }
}
