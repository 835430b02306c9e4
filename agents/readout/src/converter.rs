//! Which calibration an image's pixels are made with, and how a process comes by a new one.
//!
//! ```text
//! watching thread: pedestal.active ─▶ read ─▶ known, from time t on current ─┐ shared
//!                  unconverted.wanted ─────────────────────────────────────▶─┴─▶ follow, once a turn ─▶ Converter
//! ```
//!
//! # Rules
//! V1  An image is made with one calibration: that of the contributor which begins it (R7 of the ring). Every process
//!     knows a calibration before any of them begins an image with it (S2 of the calibration's state), and keeps those
//!     before it for the images that are open.
//! V2  Of an image that another process began with a calibration that this one does not know, its part is made with its
//!     own, and the image says so: nobody takes it for an image of one calibration.
//! V3  Nothing is read, allocated or waited for while packets come: a calibration is read by the watching thread.

use crate::convert::{self, Constants, Output};
use ecs_calibration::{Calibration, UNCONVERTED};
use ecs_schemas::detector::{PixelType, Placement};
use ecs_shm_buffer::{Access, OpenImage};
use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Calibrations that are kept: the current one, the next, and one of images that are still open.
const KNOWN_MAX: usize = 3;

/// What the watching thread tells.
#[derive(Debug, Default)]
pub struct Shared {
    /// Rises with each change.
    version: AtomicU64,
    news: Mutex<News>,
}

#[derive(Debug, Clone, Default)]
struct News {
    /// The newest last, each with the time from which it is used.
    known: Vec<(Arc<Calibration>, Duration)>,
    is_unconverted: bool,
}

impl Shared {
    /// A calibration that is to be used from a time since 1970 on.
    pub fn add(&self, calibration: Calibration, from: Duration) {
        self.change(|news| {
            if news.known.len() == KNOWN_MAX {
                news.known.remove(0);
            }
            news.known.push((Arc::new(calibration), from));
        });
    }

    pub fn set_unconverted(&self, is_unconverted: bool) {
        self.change(|news| news.is_unconverted = is_unconverted);
    }

    fn change(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner));
        self.version.fetch_add(1, Ordering::Release); // pairs with Acquire in `follow`: the news are there
    }
}

/// Converts the pixels of some modules.
pub struct Converter {
    shared: Arc<Shared>,
    version: u64,
    news: News,
    /// Of `news.known`, the one that images are begun with.
    current: usize,
    /// The modules whose constants there are.
    modules: Range<usize>,
    output: Output,
    fill: u32,
}

impl Converter {
    /// # Panics
    /// If there is no calibration yet, or pixels are of a type that none are converted to.
    pub fn new(shared: Arc<Shared>, modules: Range<usize>, pixel: PixelType, fill: u32) -> Self {
        let output = match pixel {
            PixelType::F32 => Output::F32,
            PixelType::I32 => Output::I32,
            other => unreachable!("{} is not a type of converted pixels", other.as_str()),
        };
        let mut converter = Self { shared, version: 0, news: News::default(), current: 0, modules, output, fill };
        converter.follow();
        assert!(!converter.news.known.is_empty(), "a calibration is read before packets are");
        converter
    }

    /// Takes what the watching thread has told, and begins to use what is due.
    pub fn follow(&mut self) {
        let version = self.shared.version.load(Ordering::Acquire); // pairs with Release in `change`
        if version != self.version {
            self.version = version;
            self.news = self.shared.news.lock().unwrap_or_else(PoisonError::into_inner).clone();
            self.current = 0;
        }
        // A clock is asked only while one is still to come.
        if self.current + 1 < self.news.known.len() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let is_due = |(_, from): &&(Arc<Calibration>, Duration)| *from <= now;
            self.current = self.news.known.iter().take_while(is_due).count().max(1) - 1;
        }
    }

    /// Converts the payload of `packet` into its place.
    ///
    /// # Safety
    /// `access` protects the image, which is of this placement; `packet` is one of this process's modules, and
    /// `payload` is as long as its payload.
    pub unsafe fn place(
        &self,
        placement: &Placement,
        access: &Access<'_>,
        image: OpenImage,
        packet: usize,
        payload: &[u8],
    ) {
        let (module, number) = (packet / placement.packets_per_module, packet % placement.packets_per_module);
        let calibration = self.choose(access, image);
        let constants = calibration.map(|calibration| &calibration.modules[module - self.modules.start]);
        let mut pixel = number * placement.payload_bytes / 2;
        let mut raw = payload;
        for segment in placement.segments(packet) {
            // SAFETY: the caller's promise; a placement's segments lie inside the image, at multiples of a pixel.
            let out: &mut [u32] = unsafe {
                let first = access.pixels(image).add(segment.offset_bytes as usize).cast();
                std::slice::from_raw_parts_mut(first, segment.len_bytes as usize / size_of::<u32>())
            };
            let (of_segment, rest) = raw.split_at(2 * out.len());
            match constants {
                Some(module) => {
                    let constants = Constants::from_pixel(module, pixel);
                    convert::convert(self.output, constants, of_segment, self.fill, out);
                }
                None => convert::unconverted(self.output, of_segment, out),
            }
            (pixel, raw) = (pixel + out.len(), rest);
        }
    }

    /// What the image is made with: none for pixels as they come.
    fn choose(&self, access: &Access<'_>, image: OpenImage) -> Option<&Calibration> {
        let current = &*self.news.known[self.current].0;
        let mine = if self.news.is_unconverted { UNCONVERTED } else { current.number };
        match access.make_with(image, mine) {
            UNCONVERTED => None,
            number if number == current.number => Some(current),
            number => {
                let known = self.news.known.iter().find(|(known, _)| known.number == number);
                if known.is_none() {
                    access.make_differently(image); // V2
                }
                Some(known.map_or(current, |(known, _)| known))
            }
        }
    }
}
