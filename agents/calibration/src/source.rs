//! Arrays in files: a dataset of an HDF5 file, or a flat file of 64 bit floats.

use crate::CalibrationError;
use hdf5_metno as hdf5;
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

/// First bytes of an HDF5 file (File Format Specification 4.0, II.A).
const HDF5_SIGNATURE: [u8; 8] = *b"\x89HDF\r\n\x1a\n";
/// Numbers in a file, at most: those of the largest image with six gains, and some more.
const NUMBERS_MAX: u64 = 1 << 30;

/// A file and, where it has several, the array in it.
pub struct Source {
    pub path: PathBuf,
    dataset: Option<String>,
}

/// Numbers as they lie in a file, slowest axis first.
pub struct Array {
    /// Empty: a flat file, which has no shape.
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Source {
    /// `path`, or `path::dataset`.
    pub fn new(source: &Path) -> Self {
        match source.to_str().and_then(|text| text.rsplit_once("::")) {
            Some((path, dataset)) => Self { path: path.into(), dataset: Some(dataset.to_owned()) },
            None => Self { path: source.to_owned(), dataset: None },
        }
    }

    /// Reads the dataset that is named or, in this order, one of `names`; a flat file whole.
    ///
    /// # Errors
    /// It cannot be read, or there is no such dataset.
    pub fn read(&self, names: &[&str]) -> Result<Array, CalibrationError> {
        let failed = |reason: String| CalibrationError::Read { path: self.path.clone(), reason };
        let mut file = fs::File::open(&self.path).map_err(|error| failed(error.to_string()))?;
        let bytes = file.metadata().map_err(|error| failed(error.to_string()))?.len();
        let mut signature = [0; 8];
        let is_hdf5 = file.read_exact(&mut signature).is_ok() && signature == HDF5_SIGNATURE;
        if is_hdf5 {
            // The library's one lock: some calls of the wrapper do not take it, and the writer uses it, too.
            return hdf5::sync::sync(|| self.read_hdf5(names));
        }
        if bytes == 0 || !bytes.is_multiple_of(8) || bytes / 8 > NUMBERS_MAX {
            let needed = format!("an HDF5 file, or at most {NUMBERS_MAX} floats of 64 bit");
            return Err(self.shape(format!("{bytes} bytes"), needed));
        }
        let bytes = fs::read(&self.path).map_err(|error| failed(error.to_string()))?;
        let values = bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
        Ok(Array { shape: Vec::new(), values })
    }

    fn read_hdf5(&self, names: &[&str]) -> Result<Array, CalibrationError> {
        let failed = |error: hdf5::Error| CalibrationError::Read { path: self.path.clone(), reason: error.to_string() };
        let file = hdf5::File::with_options()
            .with_fapl(|access| access.file_locking(false))
            .open(&self.path)
            .map_err(failed)?;
        let names = self.dataset.as_deref().map_or_else(|| names.to_vec(), |name| vec![name]);
        let Some(dataset) = names.iter().find_map(|name| file.dataset(name).ok()) else {
            return Err(CalibrationError::NoDataset { path: self.path.clone(), names: names.join(", ") });
        };
        let shape = dataset.shape();
        if dataset.size() as u64 > NUMBERS_MAX {
            return Err(self.shape(format!("the shape {shape:?}"), format!("at most {NUMBERS_MAX} numbers")));
        }
        // The library converts whatever numbers there are.
        Ok(Array { values: dataset.read_raw::<f64>().map_err(failed)?, shape })
    }

    pub fn shape(&self, found: String, needed: String) -> CalibrationError {
        CalibrationError::Shape { path: self.path.clone(), found, needed }
    }
}

/// Reads an array like the image, row by row.
///
/// # Errors
/// As [`Source::read`], or it has another size.
pub fn read_image(
    source: &Path,
    names: &[&str],
    (height, width): (usize, usize),
) -> Result<Vec<f64>, CalibrationError> {
    let source = Source::new(source);
    let array = source.read(names)?;
    if array.values.len() == height * width && (array.shape.is_empty() || array.shape == [height, width]) {
        return Ok(array.values);
    }
    let found = format!("{} numbers of the shape {:?}", array.values.len(), array.shape);
    Err(source.shape(found, format!("the image's {height} x {width}")))
}
