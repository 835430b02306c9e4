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

    /// Number of what images are begun with.
    pub fn number(&self) -> u64 {
        if self.news.is_unconverted { UNCONVERTED } else { self.news.known[self.current].0.number }
    }

    /// What the image is made with: none for pixels as they come.
    fn choose(&self, access: &Access<'_>, image: OpenImage) -> Option<&Calibration> {
        let current = &*self.news.known[self.current].0;
        match access.make_with(image, self.number()) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use ecs_calibration::{About, GainZero, GainsAbove, LANES, ModuleConstants};
    use ecs_schemas::detector::DetectorConfig;
    use ecs_shm_buffer::{
        Assume, Contributor, Geometry, MADE_DIFFERENTLY, Now, Owner, PacketInfo, ProcessId, Reader, Ring, Start,
        Surroundings,
    };

    /// A calibration of two modules whose pedestals are 0 and whose factor is `factor`.
    fn calibration(number: u64, factor: f32) -> Calibration {
        let blocks = 8 * 1024 / LANES;
        let module = ModuleConstants {
            low: vec![GainZero { pedestal: [0.0; LANES], factor: [factor; LANES] }; blocks],
            high: vec![GainsAbove { pedestal: [[0.0; LANES]; 2], factor: [[factor; LANES]; 2] }; blocks],
        };
        let about = About {
            unit: "keV".to_owned(),
            pixel: "f32".to_owned(),
            photon_energy_kev: None,
            gain: vec![],
            pedestal: None,
            flat_field: None,
            mask: None,
        };
        Calibration { number, about, modules: vec![module] }
    }

    fn placement() -> Placement {
        let text = "detector_type = \"jungfrau\"\nmodel = \"500K\"\nstart_udp_port = 1\nreadnrows = 16\n\
            numinterfaces = 2";
        let placement = DetectorConfig::from_toml(text).and_then(|config| config.placement()).unwrap();
        placement.converted(PixelType::F32).unwrap()
    }

    /// Two processes with a module each, the ring's owner, and a reader.
    struct Scene {
        placement: Placement,
        owner: Owner,
        contributors: [Contributor; 2],
        reader: Reader,
        shared: [Arc<Shared>; 2],
        converters: [Converter; 2],
    }

    impl Scene {
        fn new() -> Self {
            let placement = placement();
            let geometry = Geometry {
                slots: 8,
                window: 4,
                height: placement.height as u32,
                width: placement.width as u32,
                pixel_bytes: 4,
                packets_per_image: placement.packets_per_image() as u32,
                fill: 0,
                placement_hash: placement.hash(),
            };
            let ring = Ring::on_heap(geometry).unwrap();
            let process = |pid: u32| ProcessId { pid, start_time: 1 };
            let mut owner = Owner::take_over(&ring, process(1), Duration::from_secs(60), &Assume(true));
            let contributors = [2, 3].map(|pid| Contributor::join(&ring, process(pid), "readout").unwrap());
            contributors[0].request_run(2);
            step(&mut owner);
            let shared = [(); 2].map(|()| Arc::new(Shared::default()));
            shared.iter().for_each(|shared| shared.add(calibration(100, 1.0), Duration::ZERO));
            let converter = |module: usize| {
                Converter::new(Arc::clone(&shared[module]), module..module + 1, PixelType::F32, f32::NAN.to_bits())
            };
            let converters = [converter(0), converter(1)];
            let reader = Reader::reliable(&ring, process(4), "writer", Start::Next).unwrap();
            Self { placement, owner, contributors, reader, shared, converters }
        }

        /// An image whose raw pixels are all 3, the processes taking turns. Returns its number, and a pixel of each module.
        fn image(&mut self, id: u64) -> (u64, [f32; 2]) {
            let per_module = self.placement.packets_per_module;
            let payload = 3_u16.to_le_bytes().repeat(self.placement.payload_bytes / 2);
            for packet in 0..per_module {
                for (module, contributor) in self.contributors.iter_mut().enumerate() {
                    self.converters[module].follow();
                    let access = contributor.protect(&[id]);
                    let image = access.image(id).expect("it is open");
                    let packet = module * per_module + packet;
                    // SAFETY: the access protects the image.
                    unsafe { self.converters[module].place(&self.placement, &access, image, packet, &payload) };
                    access.mark(image, packet, PacketInfo { received_ns: 1, ..PacketInfo::default() });
                }
            }
            step(&mut self.owner);
            let image = self.reader.try_next().and_then(|delivery| delivery.image).expect("it is whole");
            let pixels = self.reader.pixels(&image).as_chunks::<4>().0;
            let of_packet = |packet: usize| {
                let values = self.placement.segments(packet).iter().flat_map(|segment| {
                    pixels[segment.offset_bytes as usize / 4..][..segment.len_bytes as usize / 4].iter()
                });
                let values: Vec<f32> = values.map(|bytes| f32::from_le_bytes(*bytes)).collect();
                assert!(values.iter().all(|value| *value == values[0]), "a packet is made with one calibration");
                values[0]
            };
            let modules = [0, 1].map(|module| {
                let values = (0..per_module).map(|packet| of_packet(module * per_module + packet));
                let values: Vec<f32> = values.collect();
                assert!(values.iter().all(|value| *value == values[0]), "a module, too: {values:?}");
                values[0]
            });
            (image.made_with, modules)
        }
    }

    fn step(owner: &mut Owner) {
        let now = Now { mono_ns: 1, utc_ns: 1 };
        owner.step(&mut Surroundings { now, liveness: &Assume(true), fill: &mut |_, _| {} });
    }

    fn now() -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
    }

    #[test]
    fn image_is_made_with_one_calibration_whoever_has_heard_of_another_first() {
        let mut scene = Scene::new();
        assert_eq!(scene.image(0), (100, [3.0, 3.0]));
        // Both know the next one; only the second uses it yet, so the first, which begins images, decides.
        scene.shared[0].add(calibration(200, 2.0), now() + Duration::from_secs(3600));
        scene.shared[1].add(calibration(200, 2.0), Duration::ZERO);
        assert_eq!(scene.image(1), (100, [3.0, 3.0]));
        assert_eq!(scene.converters.each_ref().map(Converter::number), [100, 200]);
        // Now the first uses a third one, which the second does not know.
        scene.shared[0].add(calibration(300, 4.0), Duration::ZERO);
        scene.shared[0].change(|news| news.known.retain(|(known, _)| known.number != 200));
        assert_eq!(scene.image(2), (MADE_DIFFERENTLY, [12.0, 6.0]), "it says so");
        scene.shared[1].add(calibration(300, 4.0), Duration::ZERO);
        assert_eq!(scene.image(3), (300, [12.0, 12.0]));
    }

    #[test]
    fn pixels_as_they_came_are_those_of_a_whole_image() {
        let mut scene = Scene::new();
        scene.shared[0].add(calibration(200, 2.0), Duration::ZERO);
        scene.shared[1].add(calibration(200, 2.0), Duration::ZERO);
        scene.shared[0].set_unconverted(true);
        assert_eq!(scene.image(0), (UNCONVERTED, [3.0, 3.0]), "the second follows, though it has not heard");
        scene.shared[0].set_unconverted(false);
        scene.shared[1].set_unconverted(true);
        assert_eq!(scene.image(1), (200, [6.0, 6.0]));
    }

    #[test]
    fn calibration_is_used_from_its_time_on_and_old_ones_are_forgotten_only_beyond_the_next() {
        let shared = Arc::new(Shared::default());
        shared.add(calibration(100, 1.0), Duration::ZERO);
        let mut converter = Converter::new(Arc::clone(&shared), 0..1, PixelType::I32, 0);
        shared.add(calibration(200, 1.0), now() + Duration::from_millis(200));
        converter.follow();
        assert_eq!(converter.number(), 100);
        let begun = std::time::Instant::now();
        while converter.number() == 100 && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(5));
            converter.follow();
        }
        assert_eq!(converter.number(), 200);
        (3..6).for_each(|number| shared.add(calibration(number * 100, 1.0), Duration::ZERO));
        converter.follow();
        let known: Vec<u64> = converter.news.known.iter().map(|(known, _)| known.number).collect();
        assert_eq!((known, converter.number()), (vec![300, 400, 500], 500));
    }
}
