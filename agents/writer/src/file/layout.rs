//! Where everything lies in a file: asked of the HDF5 library once, used by `pwrite` afterwards.
//!
//! Every array is one unbroken run of rows. Under its bounds from v110 on, HDF5 stores a dataset with
//! fixed dimensions, no filter and early allocation without an index: its chunks follow each other (HDF5
//! File Format Specification 4.0, VII.B "Implicit Indexing"; VII.A "Single Chunk" where there is but
//! one). Whether it did is checked on the first and the last chunk of every array.

use super::{columns::Column, ledger::LedgerField};
use ecs_schemas::detector::PixelType;
use hdf5_metno::{
    self as hdf5, Dataset, Group,
    plist::file_access::LibraryVersion,
    types::{FloatSize, IntSize, TypeDescriptor},
};
use std::{fs::File, ops::Range, os::fd::AsRawFd, path::PathBuf};

/// Rows in a chunk of the arrays beside the images; fewer where the file has fewer. A chunk of packet
/// bits then stays below HDF5's default chunk cache of 1 MiB up to 2,000 packets an image.
pub(super) const CHUNK_ROWS: u64 = 4096;

/// Every object of a file begins at a multiple of this: an object header, which is smaller, never crosses a page
/// boundary, where a write of it could be torn (rule C2 of `cut`). The largest, that of `loss_cause`, has 326 bytes.
/// It costs some 50 KiB a file.
pub(super) const BLOCK_BYTES: u64 = 1024;

/// Offsets and sizes of one file's parts, in bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    /// Images that all arrays have room for: those asked for, fewer once the file was cut.
    pub rows: u64,
    /// Rows of the longest array: more than `rows` where a kill came between two cuts.
    pub rows_longest: u64,
    pub height: usize,
    pub width: usize,
    pub pixel: PixelType,
    pub packets_per_image: usize,
    pub fill: u32,
    data_offset: u64,
    column_offsets: [u64; Column::COUNT],
    ledger_offsets: [u64; LedgerField::COUNT],
}

impl Layout {
    /// Learns the layout from an open file.
    ///
    /// # Errors
    /// A part is missing, of another type or shape, or not in one run.
    pub fn read(file: &hdf5::File) -> Result<Self, String> {
        let data = dataset(file, "entry/data/data")?;
        let [rows, height, width] = <[usize; 3]>::try_from(data.shape()).map_err(|got| format!("data is {got:?}"))?;
        let mut layout = Self {
            rows: rows as u64,
            rows_longest: rows as u64,
            height,
            width,
            pixel: pixel_type(&data)?,
            packets_per_image: scalar(file, "entry/detector/packets_per_image")? as usize,
            fill: fill_bits(file, pixel_type(&data)?)?,
            data_offset: 0,
            column_offsets: [0; Column::COUNT],
            ledger_offsets: [0; LedgerField::COUNT],
        };
        layout.data_offset = run_offset(&data, 1, layout.image_bytes())?;
        for column in Column::ALL {
            let array = dataset(file, &format!("entry/data/{}", column.name()))?;
            let rows = array.shape()[0] as u64;
            (layout.rows, layout.rows_longest) = (layout.rows.min(rows), layout.rows_longest.max(rows));
            let row_bytes = column.row_bytes(layout.packets_per_image) as u64;
            layout.column_offsets[column as usize] = run_offset(&array, chunk_rows(&array)?, row_bytes)?;
        }
        for field in LedgerField::ALL {
            let value = dataset(file, &format!("entry/ledger/{}", field.name()))?;
            let offset = value.offset().ok_or_else(|| format!("{} has no place in the file", value.name()))?;
            layout.ledger_offsets[field as usize] = offset;
        }
        Ok(layout)
    }

    pub fn image_bytes(&self) -> u64 {
        (self.height * self.width * self.pixel.bytes()) as u64
    }

    pub fn image_offset(&self, row: u64) -> u64 {
        self.data_offset + row * self.image_bytes()
    }

    pub fn row_offset(&self, column: Column, row: u64) -> u64 {
        self.column_offsets[column as usize] + row * column.row_bytes(self.packets_per_image) as u64
    }

    /// Where the arrays lie in a file made for `asked` images, whatever was cut off it since.
    pub fn arrays(&self, asked: u64) -> Vec<Range<u64>> {
        let chunk_rows = asked.clamp(1, CHUNK_ROWS);
        let rows_stored = asked.div_ceil(chunk_rows) * chunk_rows;
        let column = |column| self.row_offset(column, 0)..self.row_offset(column, rows_stored);
        let images = self.image_offset(0)..self.image_offset(asked);
        std::iter::once(images).chain(Column::ALL.map(column)).collect()
    }

    pub fn ledger_offset(&self, field: LedgerField) -> u64 {
        self.ledger_offsets[field as usize]
    }
}

/// Runs a piece of work with the library's one lock held: some calls of the wrapper do not take it.
pub(super) fn with_library<T>(work: impl FnOnce() -> T) -> T {
    hdf5::sync::sync(work)
}

/// Opens a file in the library by its descriptor: a file that was renamed meanwhile is still the same.
pub(super) fn open_in_library(file: &File, write: bool) -> hdf5::Result<hdf5::File> {
    let mut options = hdf5::File::with_options();
    // Rule F6. The lower bound makes the library use chunk runs without an index. It aligns what it allocates.
    options.with_fapl(|access| {
        let access = access.file_locking(false).alignment(1, BLOCK_BYTES);
        access.libver_bounds(LibraryVersion::V110, LibraryVersion::latest())
    });
    let path = descriptor_path(file);
    if write { options.open_rw(path) } else { options.open(path) }
}

/// A path that names the open file itself, whatever its name in a folder is now.
pub(super) fn descriptor_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Lets the library cut data and arrays to their first `rows` rows, in a file whose arrays may be empty holes.
pub(super) fn shorten_arrays(file: &File, layout: &Layout, rows: u64) -> Result<(), String> {
    let rows = rows as usize;
    let bits = [rows, Column::PacketReceived.row_bytes(layout.packets_per_image)];
    let shape_of = |column| if column == Column::PacketReceived { &bits[..] } else { &bits[..1] };
    with_library(|| {
        let library = open_in_library(file, true).map_err(|error| error.to_string())?;
        resize(&library, "data", &[rows, layout.height, layout.width])?;
        for column in Column::ALL {
            resize(&library, column.name(), shape_of(column))?;
        }
        library.close().map_err(|error| error.to_string())
    })
}

/// Gives an array of `/entry/data` another shape.
fn resize(library: &hdf5::File, name: &str, shape: &[usize]) -> Result<(), String> {
    let array = dataset(library, &format!("entry/data/{name}"))?;
    array.resize(shape).map_err(|error| format!("{name}: {error}"))
}

fn dataset(group: &Group, name: &str) -> Result<Dataset, String> {
    group.dataset(name).map_err(|error| format!("{name}: {error}"))
}

fn scalar(group: &Group, name: &str) -> Result<u64, String> {
    dataset(group, name)?.read_scalar::<u64>().map_err(|error| format!("{name}: {error}"))
}

fn fill_bits(file: &hdf5::File, pixel: PixelType) -> Result<u32, String> {
    const NAME: &str = "entry/detector/fill_value";
    let failed = |error: hdf5::Error| format!("{NAME}: {error}");
    match pixel {
        PixelType::F32 => Ok(dataset(file, NAME)?.read_scalar::<f32>().map_err(failed)?.to_bits()),
        PixelType::I32 => Ok(dataset(file, NAME)?.read_scalar::<i64>().map_err(failed)? as u32),
        _ => Ok(scalar(file, NAME)? as u32),
    }
}

fn pixel_type(data: &Dataset) -> Result<PixelType, String> {
    let descriptor = data.dtype().and_then(|dtype| dtype.to_descriptor()).map_err(|error| error.to_string())?;
    match descriptor {
        TypeDescriptor::Unsigned(IntSize::U1) => Ok(PixelType::U8),
        TypeDescriptor::Unsigned(IntSize::U2) => Ok(PixelType::U16),
        TypeDescriptor::Unsigned(IntSize::U4) => Ok(PixelType::U32),
        TypeDescriptor::Integer(IntSize::U4) => Ok(PixelType::I32),
        TypeDescriptor::Float(FloatSize::U4) => Ok(PixelType::F32),
        other => Err(format!("data is of type {other}")),
    }
}

fn chunk_rows(array: &Dataset) -> Result<u64, String> {
    let chunk = array.chunk().ok_or_else(|| format!("{} is not chunked", array.name()))?;
    Ok(chunk[0] as u64)
}

/// Offset of the first row, if the rows from the first to the last chunk are one run.
fn run_offset(array: &Dataset, chunk_rows: u64, row_bytes: u64) -> Result<u64, String> {
    let chunks = array.num_chunks().filter(|&chunks| chunks > 0).ok_or_else(|| format!("{} is empty", array.name()))?;
    let address = |index: usize| {
        let chunk = array.chunk_info(index).ok_or_else(|| format!("{} has no chunk {index}", array.name()))?;
        if chunk.size != chunk_rows * row_bytes {
            return Err(format!("a chunk of {} has {} bytes", array.name(), chunk.size));
        }
        Ok(chunk.addr)
    };
    let (first, last) = (address(0)?, address(chunks - 1)?);
    if last != first + (chunks as u64 - 1) * chunk_rows * row_bytes {
        return Err(format!("{} is not one run of chunks", array.name()));
    }
    Ok(first)
}
