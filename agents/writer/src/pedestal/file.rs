//! The file of pedestals: HDF5, `spec/detectors.md` has it.

use super::darks::Darks;
use crate::file::{create_by_descriptor, iso_utc, publish, text_attribute};
use ecs_calibration::{GAINS, Maps};
use hdf5_metno::{self as hdf5, Group};
use std::{
    fs::{self, OpenOptions},
    io,
    path::Path,
    time::SystemTime,
};

/// Where pedestals come from, as attributes of the group.
pub struct Provenance {
    pub beamline: String,
    pub writer: String,
    pub detector: String,
    pub job: u64,
    pub begun: SystemTime,
    /// The file whose pedestals of the other gains were kept.
    pub kept_from: Option<String>,
}

/// Pedestals as they are written: of gains that were taken, of others that were kept.
pub struct Pedestals {
    /// `[map][gain][pixel]`; NaN where there is none.
    pub mean: Vec<f32>,
    pub rms: Vec<f32>,
    pub frames: Vec<u32>,
    /// Of each gain: pixels that are read and have none; averages over the others.
    pub without: [u64; GAINS],
    pub mean_adu: [f64; GAINS],
    pub rms_adu: [f64; GAINS],
}

impl Pedestals {
    /// Those of `taken` gains from `darks`, the others from `kept`.
    pub fn new(darks: &Darks, taken: &[usize], kept: Option<&Maps>) -> Self {
        let shape = darks.shape();
        let numbers = shape.maps * GAINS * shape.pixels();
        let mut pedestals = Self {
            mean: Vec::with_capacity(numbers),
            rms: Vec::with_capacity(numbers),
            frames: Vec::with_capacity(numbers),
            without: [0; GAINS],
            mean_adu: [0.0; GAINS],
            rms_adu: [0.0; GAINS],
        };
        let mut counted = [0_u64; GAINS];
        for (map, gain) in (0..shape.maps).flat_map(|map| (0..GAINS).map(move |gain| (map, gain))) {
            for pixel in 0..shape.pixels() {
                let is_taken = taken.contains(&gain);
                let of_darks = if is_taken { darks.mean(gain, map, pixel) } else { None };
                let mean = match (is_taken, of_darks, kept) {
                    (_, Some(of_darks), _) => of_darks.mean,
                    (false, None, Some(kept)) => kept.of(map, gain)[pixel],
                    _ => f64::NAN,
                };
                if let Some(of_darks) = of_darks {
                    counted[gain] += 1;
                    pedestals.mean_adu[gain] += of_darks.mean;
                    pedestals.rms_adu[gain] += of_darks.rms;
                } else if is_taken && darks.is_read(map, pixel) {
                    pedestals.without[gain] += 1;
                }
                pedestals.mean.push(mean as f32);
                pedestals.rms.push(of_darks.map_or(f32::NAN, |of_darks| of_darks.rms as f32));
                pedestals.frames.push(of_darks.map_or(0, |of_darks| of_darks.frames));
            }
        }
        for (gain, count) in counted.into_iter().enumerate() {
            pedestals.mean_adu[gain] /= count.max(1) as f64;
            pedestals.rms_adu[gain] /= count.max(1) as f64;
        }
        pedestals
    }
}

/// Writes the file under a temporary name, brings it to the disk, and gives it its own (D4).
///
/// # Errors
/// `AlreadyExists`, or what the file system or the library says. Nothing is left behind.
pub fn write(
    output: &Path,
    overwrite: bool,
    darks: &Darks,
    pedestals: &Pedestals,
    from: &Provenance,
) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(output.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", from.job));
    let temporary = output.with_file_name(name);
    let _ = fs::remove_file(&temporary); // of this job, before it was repeated
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&temporary)?;
    let written = hdf5::sync::sync(|| {
        let file = create_by_descriptor(&file)?;
        fill(&file.create_group("pedestal")?, darks, pedestals, from)?;
        file.close()
    });
    let published = written
        .map_err(io::Error::other)
        .and_then(|()| file.sync_all())
        .and_then(|()| publish(&temporary, output, overwrite));
    if published.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    published
}

fn fill(group: &Group, darks: &Darks, pedestals: &Pedestals, from: &Provenance) -> hdf5::Result<()> {
    let shape = darks.shape();
    let shape = [shape.maps, GAINS, shape.rows, shape.columns];
    let mean = group.new_dataset::<f32>().shape(shape).create("mean")?;
    mean.write_raw(&pedestals.mean)?;
    let rms = group.new_dataset::<f32>().shape(shape).create("rms")?;
    rms.write_raw(&pedestals.rms)?;
    let frames = group.new_dataset::<u32>().shape(shape).create("frames")?;
    frames.write_raw(&pedestals.frames)?;
    for (array, units, description) in [
        (&mean, "ADU", "[module][gain][row][column]: average of dark images; NaN where a pixel has none"),
        (&rms, "ADU", "RMS about the mean; NaN where it was not taken"),
        (&frames, "images", "images that the mean is of; 0 where it was not taken"),
    ] {
        text_attribute(array, "units", units)?;
        text_attribute(array, "description", description)?;
    }
    text_attribute(group, "creator", &format!("ECS {}", ecs_schemas::VERSION))?;
    text_attribute(group, "beamline", &from.beamline)?;
    text_attribute(group, "writer", &from.writer)?;
    text_attribute(group, "detector", &from.detector)?;
    text_attribute(group, "begun", &iso_utc(from.begun))?;
    text_attribute(group, "ended", &iso_utc(SystemTime::now()))?;
    text_attribute(group, "kept_from", from.kept_from.as_deref().unwrap_or(""))?;
    group.new_attr::<u64>().create("job")?.write_scalar(&from.job)?;
    group.new_attr_builder().with_data(&darks.images).create("images").map(|_| ())
}
