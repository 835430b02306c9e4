//! Gains and pedestals: one number for each pixel and gain of each module.
//!
//! | file | shape | source |
//! |---|---|---|
//! | flat floats of 64 bit, one module a file | `[gain][row][column]`, 3 to 6 gains | PSI detector group, `gainMaps_M*.bin` |
//! | the same, all modules in one | `[module][gain][row][column]` | |
//! | HDF5 | `[module][gain][row][column]` | ours |
//! | HDF5 | `[gain][module * row][column]` | PSI, jungfrau_utils and its scripts: dataset `gains` |
//! | HDF5 | `[gain][row][column]` | one module |
//!
//! Of more than three gains (high gain modes follow the normal ones) the first three are used.

use crate::{
    CalibrationError,
    source::{Array, Source},
};
use ecs_schemas::detector::GainMaps;
use std::path::PathBuf;

/// Gains of a pixel: codes 0, 1 and 3.
pub const GAINS: usize = 3;
/// In a file: three, and as many of the high gain modes.
const GAINS_IN_FILE_MAX: usize = 6;

/// The size of the maps that a detector needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapsShape {
    pub maps: usize,
    pub rows: usize,
    pub columns: usize,
}

/// One number for each pixel and gain.
#[derive(Debug, Clone, PartialEq)]
pub struct Maps {
    shape: MapsShape,
    /// `[map][gain][row][column]`.
    values: Vec<f64>,
}

impl MapsShape {
    pub fn of(maps: &GainMaps) -> Self {
        Self { maps: maps.maps(), rows: maps.rows, columns: maps.columns }
    }

    /// Pixels of one map.
    pub fn pixels(self) -> usize {
        self.rows * self.columns
    }
}

impl Maps {
    /// The same number everywhere.
    pub fn constant(shape: MapsShape, value: f64) -> Self {
        Self { shape, values: vec![value; shape.maps * GAINS * shape.pixels()] }
    }

    /// Reads the maps from one file that has all, or one for each.
    ///
    /// # Errors
    /// A file cannot be read, or is not of the size.
    pub fn read(sources: &[PathBuf], names: &[&str], shape: MapsShape) -> Result<Self, CalibrationError> {
        let mut values = Vec::with_capacity(shape.maps * GAINS * shape.pixels());
        if let [source] = sources {
            let source = Source::new(source);
            append(&source, source.read(names)?, shape, &mut values)?;
        } else {
            for source in sources.iter().take(shape.maps) {
                let source = Source::new(source);
                append(&source, source.read(names)?, MapsShape { maps: 1, ..shape }, &mut values)?;
            }
        }
        if values.len() < shape.maps * GAINS * shape.pixels() {
            let source = Source::new(&sources[0]);
            return Err(
                source.shape(format!("one of {} files", sources.len()), format!("a file for {} modules", shape.maps))
            );
        }
        Ok(Self { shape, values })
    }

    /// The pixels of a map for one gain, row by row.
    pub fn of(&self, map: usize, gain: usize) -> &[f64] {
        let pixels = self.shape.pixels();
        &self.values[(map * GAINS + gain) * pixels..][..pixels]
    }
}

/// Appends the first three gains of each module.
fn append(source: &Source, array: Array, shape: MapsShape, values: &mut Vec<f64>) -> Result<(), CalibrationError> {
    let MapsShape { maps, rows, columns } = shape;
    let pixels = shape.pixels();
    let gains_ok = |gains: usize| (GAINS..=GAINS_IN_FILE_MAX).contains(&gains);
    // Where the map of (module, gain) begins, in maps.
    let at: Box<dyn Fn(usize, usize) -> usize> = match *array.shape.as_slice() {
        [] if gains_ok(array.values.len() / (maps * pixels)) && array.values.len().is_multiple_of(maps * pixels) => {
            let gains = array.values.len() / (maps * pixels);
            Box::new(move |map, gain| map * gains + gain)
        }
        [modules, gains, of_rows, of_columns]
            if modules >= maps && gains_ok(gains) && (of_rows, of_columns) == (rows, columns) =>
        {
            Box::new(move |map, gain| map * gains + gain)
        }
        [gains, all_rows, of_columns]
            if gains_ok(gains) && all_rows >= maps * rows && all_rows.is_multiple_of(rows) && of_columns == columns =>
        {
            Box::new(move |map, gain| gain * (all_rows / rows) + map)
        }
        _ => {
            let found = match array.shape.is_empty() {
                true => format!("{} floats", array.values.len()),
                false => format!("the shape {:?}", array.shape),
            };
            let needed = format!(
                "{maps} modules with 3 to {GAINS_IN_FILE_MAX} gains of {rows} x {columns}: [module][gain][row][column], \
                 [gain][module * row][column], or as many floats"
            );
            return Err(source.shape(found, needed));
        }
    };
    for map in 0..maps {
        for gain in 0..GAINS {
            values.extend(&array.values[at(map, gain) * pixels..][..pixels]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const SHAPE: MapsShape = MapsShape { maps: 2, rows: 2, columns: 3 };

    /// A number that tells module, gain and pixel.
    fn value(map: usize, gain: usize, pixel: usize) -> f64 {
        (100 * map + 10 * gain + pixel) as f64
    }

    fn flat(folder: &Path, name: &str, maps: std::ops::Range<usize>, gains: usize) -> PathBuf {
        let of_map = |map: usize| (0..gains).flat_map(move |gain| (0..6).map(move |pixel| value(map, gain, pixel)));
        let bytes: Vec<u8> = maps.flat_map(of_map).flat_map(f64::to_le_bytes).collect();
        std::fs::write(folder.join(name), bytes).unwrap();
        folder.join(name)
    }

    fn hdf5(folder: &Path, name: &str, dataset: &str, shape: &[usize], of: impl Fn(usize) -> f64) -> PathBuf {
        let file = hdf5_metno::File::create(folder.join(name)).unwrap();
        let values: Vec<f32> = (0..shape.iter().product()).map(|at| of(at) as f32).collect();
        file.new_dataset::<f32>().shape(shape).create(dataset).unwrap().write_raw(&values).unwrap();
        folder.join(name)
    }

    fn assert_right(sources: &[PathBuf], shape: MapsShape) {
        let maps = Maps::read(sources, &["gain", "gains"], shape).unwrap();
        for (map, gain) in (0..shape.maps).flat_map(|map| (0..GAINS).map(move |gain| (map, gain))) {
            let wanted: Vec<f64> = (0..6).map(|pixel| value(map, gain, pixel)).collect();
            assert_eq!(maps.of(map, gain), wanted, "{sources:?}, module {map}, gain {gain}");
        }
    }

    #[test]
    fn every_form_of_the_same_maps_is_read_alike() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert_right(&[flat(folder, "all.bin", 0..2, 3)], SHAPE);
        assert_right(&[flat(folder, "m0.bin", 0..1, 3), flat(folder, "m1.bin", 1..2, 6)], SHAPE);
        assert_right(&[flat(folder, "one.bin", 0..1, 4)], MapsShape { maps: 1, ..SHAPE });
        let ours = hdf5(folder, "ours.h5", "gain", &[3, 4, 2, 3], |at| value(at / 24, at / 6 % 4, at % 6));
        assert_right(&[ours], SHAPE);
        // Rows of all modules one below the other.
        let of_all = |at: usize| value(at / 6 % 2, at / 12, at % 6);
        assert_right(&[hdf5(folder, "psi.h5", "gains", &[4, 4, 3], of_all)], SHAPE);
        let named = hdf5(folder, "named.h5", "other", &[3, 4, 3], of_all);
        assert!(
            Maps::read(std::slice::from_ref(&named), &["gains"], SHAPE)
                .is_err_and(|error| error.to_string().contains("::"))
        );
        assert_right(&[PathBuf::from(format!("{}::/other", named.display()))], SHAPE);
    }

    #[test]
    fn files_of_other_sizes_are_refused_with_what_they_hold() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let refused = |sources: &[PathBuf]| Maps::read(sources, &["gains"], SHAPE).unwrap_err().to_string();
        let few = refused(&[flat(folder, "few.bin", 0..1, 3)]);
        assert!(few.contains("few.bin holds 18 floats; needed: 2 modules"), "{few}");
        let files = refused(&[flat(folder, "a", 0..1, 3), flat(folder, "b", 0..1, 2)]);
        assert!(files.contains("b holds 12 floats; needed: 1 modules"), "{files}");
        assert!(refused(&[hdf5(folder, "t.h5", "gains", &[3, 2, 4], |_| 0.0)]).contains("the shape [3, 2, 4]"));
        std::fs::write(folder.join("odd"), [0; 13]).unwrap();
        assert!(refused(&[folder.join("odd")]).contains("13 bytes"));
        assert!(refused(&[folder.join("none")]).contains("cannot read"));
    }
}
