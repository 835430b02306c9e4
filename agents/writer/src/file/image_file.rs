//! The open file: images and losses go in, in any order, each id at most once.

use super::{
    check::{bytes_needed, check, folder_of, free_bytes},
    columns::{Column, Row},
    create::lay_out,
    disk,
    error::{CreateError, WriteError},
    layout::Layout,
    ledger::{LedgerField, STATE_WRITING, write_number, write_text},
    publish::{publish, temporary_path},
    record,
    rows::RowBatch,
    spec::{Author, FileSpec, ImageRow},
};
use ecs_schemas::image::{ImageStatus, LossCause};
use rustix::fs::{FallocateFlags, fallocate};
use std::{
    fs::{self, File, OpenOptions},
    io,
    ops::Range,
    path::{Path, PathBuf},
    time::Instant,
};

/// A file that is being written.
///
/// The caller says first which id comes first ([`set_first_id`](Self::set_first_id)), then what became
/// of each id ([`write_image`](Self::write_image), [`mark_lost`](Self::mark_lost)), and at the end
/// [`finish`](Self::finish). One that is dropped before it was published is removed; one that is dropped
/// after that stays as a killed writer would leave it.
#[derive(Debug)]
pub struct ImageFile {
    pub(super) file: File,
    pub(super) layout: Layout,
    pub(super) output: PathBuf,
    /// Its name until it is published.
    pub(super) temporary: Option<PathBuf>,
    pub(super) author: Author,
    pub(super) asked: u64,
    pub(super) first_id: Option<u64>,
    pub(super) batch: RowBatch,
    /// When the first image began to be written.
    pub(super) started: Option<Instant>,
    overwrite: bool,
}

impl ImageFile {
    /// Creates the file, whole but without images, under its temporary name, and reserves its space.
    /// This takes some 10 ms for 1,000 images of 2 MB, and 1.5 s for ten million small ones.
    ///
    /// # Errors
    /// As [`check`]; or the library or the file system refused. Nothing is left behind.
    pub fn create(spec: &FileSpec) -> Result<Self, CreateError> {
        check(spec)?;
        let temporary = temporary_path(&spec.output, &spec.author);
        let wrong = |source| CreateError::Io { path: temporary.clone(), source };
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&temporary).map_err(wrong)?;
        let remove = |error| {
            // The first error is the one to report; a file that cannot be removed is not worse than it.
            let _ = fs::remove_file(&temporary);
            error
        };
        let layout = Self::fill_new(&file, spec).map_err(remove)?;
        Ok(Self {
            batch: RowBatch::new(spec.packets_per_image),
            file,
            layout,
            output: spec.output.clone(),
            temporary: Some(temporary),
            author: spec.author.clone(),
            asked: spec.images,
            first_id: None,
            started: None,
            overwrite: spec.overwrite,
        })
    }

    fn fill_new(file: &File, spec: &FileSpec) -> Result<Layout, CreateError> {
        let path = || spec.output.clone();
        let layout = lay_out(file, spec).map_err(|reason| CreateError::Layout { path: path(), reason })?;
        for (field, text) in [(LedgerField::Writer, spec.author.writer.as_str()), (LedgerField::State, STATE_WRITING)] {
            write_text(file, &layout, field, text).map_err(|source| CreateError::Io { path: path(), source })?;
        }
        match reserve(file, &layout).and_then(|()| record::reserve(file)) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(no_space(spec)),
            Err(source) => Err(CreateError::Io { path: path(), source }),
            Ok(()) => Ok(layout),
        }
    }

    /// A published file that another process left behind.
    pub(super) fn adopt(file: File, layout: Layout, output: &Path, author: &Author, asked: u64, first_id: u64) -> Self {
        Self {
            batch: RowBatch::new(layout.packets_per_image),
            file,
            layout,
            output: output.to_owned(),
            temporary: None,
            author: author.clone(),
            asked,
            first_id: Some(first_id),
            started: None,
            overwrite: false,
        }
    }

    /// True once the file has its final name: an image is in it.
    pub fn is_published(&self) -> bool {
        self.temporary.is_none()
    }

    /// Says which image id belongs to the first row, before anything is written, and writes the ids of
    /// all rows.
    ///
    /// # Errors
    /// The ids do not fit into 64 bits, or the file system refused.
    pub fn set_first_id(&mut self, first_id: u64) -> Result<(), WriteError> {
        let wrong = |source| WriteError::Rows { path: self.output.clone(), source };
        let last_id = first_id.checked_add(self.asked - 1);
        let last_id = last_id.ok_or(WriteError::IdRange { first_id, images: self.asked })?;
        write_number(&self.file, &self.layout, LedgerField::FirstId, first_id).map_err(wrong)?;
        write_image_ids(&self.file, &self.layout, first_id..=last_id).map_err(wrong)?;
        self.first_id = Some(first_id);
        Ok(())
    }

    /// Writes one image: its pixels at once, its row with the next batch. The first one also gives the
    /// file its final name. `pixels` has rows x columns little-endian pixels, as in the image.
    ///
    /// # Errors
    /// The file system refused, or the name was taken meanwhile. The file is valid and can be finished;
    /// the image counts only if its pixels were written and no later error concerns its row.
    ///
    /// # Panics
    /// If the id is not one asked for, the pixels are not one image, or the bitmap is too short.
    pub fn write_image(&mut self, image: &ImageRow, pixels: &[u8]) -> Result<(), WriteError> {
        assert_eq!(pixels.len() as u64, self.layout.image_bytes(), "pixels of another size");
        let row = self.row_of(image.image_id);
        self.started.get_or_insert_with(Instant::now);
        disk::write(&self.file, pixels, self.layout.image_offset(row)).map_err(|source| WriteError::Pixels {
            path: self.output.clone(),
            image_id: image.image_id,
            source,
        })?;
        let status = if image.missing_packets == 0 { ImageStatus::Complete } else { ImageStatus::Partial };
        self.push(row, &Row { status, loss_cause: LossCause::None, image: *image })?;
        if self.is_published() { Ok(()) } else { self.publish() }
    }

    /// Writes what is to be known of the calibrations of this file's images, cut after 4096 bytes: before the first
    /// image that was made with the last of them.
    ///
    /// # Errors
    /// The file system refused.
    pub fn write_calibrations(&self, text: &str) -> Result<(), WriteError> {
        let wrong = |source| WriteError::Rows { path: self.output.clone(), source };
        write_text(&self.file, &self.layout, LedgerField::Calibrations, text).map_err(wrong)
    }

    /// Notes that the images `ids` are lost. Their pixels get the fill value in [`finish`](Self::finish),
    /// when the disk has nothing more urgent to do.
    ///
    /// # Errors
    /// The file system refused rows.
    ///
    /// # Panics
    /// If an id is not one asked for, or the cause is `None`.
    pub fn mark_lost(&mut self, ids: Range<u64>, cause: LossCause) -> Result<(), WriteError> {
        assert_ne!(cause, LossCause::None, "an image is lost for a cause");
        for image_id in ids {
            self.push(self.row_of(image_id), &lost_row(image_id, cause))?;
        }
        Ok(())
    }

    /// Writes the rows that wait, so that a reader sees every image written so far. They are written
    /// anyway with every 64th.
    ///
    /// # Errors
    /// The file system refused; the rows are kept and written with the next ones.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        let wrong = |source| WriteError::Rows { path: self.output.clone(), source };
        self.batch.flush(&self.file, &self.layout).map_err(wrong)
    }

    fn push(&mut self, row: u64, values: &Row) -> Result<(), WriteError> {
        if !self.batch.accepts(row) {
            self.flush()?;
        }
        self.batch.push(row, values);
        if self.batch.is_full() { self.flush() } else { Ok(()) }
    }

    fn publish(&mut self) -> Result<(), WriteError> {
        self.flush()?;
        let Some(temporary) = &self.temporary else { return Ok(()) };
        publish(temporary, &self.output, self.overwrite).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => WriteError::Exists { path: self.output.clone() },
            _ => WriteError::Publish { path: self.output.clone(), source },
        })?;
        self.temporary = None;
        Ok(())
    }

    fn row_of(&self, image_id: u64) -> u64 {
        let first_id = self.first_id.expect("set_first_id comes before the first image");
        let row = image_id.checked_sub(first_id).filter(|&row| row < self.asked);
        row.unwrap_or_else(|| panic!("image {image_id} is not one of {} from {first_id}", self.asked))
    }
}

impl Drop for ImageFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Rule F3. Where it cannot be removed there is nobody left to tell; recovery tries again.
            let _ = fs::remove_file(temporary);
        }
    }
}

pub(super) fn lost_row(image_id: u64, cause: LossCause) -> Row<'static> {
    let image = ImageRow {
        image_id,
        missing_packets: 0,
        packet_received: &[],
        first_packet_time_ns: 0,
        commit_time_ns: 0,
        detector_timestamp: 0,
        exposure_length: 0,
        do_not_store: false,
        calibration: 0,
    };
    Row { status: ImageStatus::Lost, loss_cause: cause, image }
}

/// Reserves the blocks of all images: a disk that fills later, by whomever, cannot stop the job, and
/// writing into reserved blocks is faster. Where the file system cannot reserve, nothing is lost but that.
fn reserve(file: &File, layout: &Layout) -> io::Result<()> {
    let bytes = layout.rows * layout.image_bytes();
    match fallocate(file, FallocateFlags::empty(), layout.image_offset(0), bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        result => Ok(result?),
    }
}

/// The space was there when it was checked and has gone since.
fn no_space(spec: &FileSpec) -> CreateError {
    match folder_of(&spec.output).and_then(|folder| Ok((folder, free_bytes(folder)?))) {
        Ok((folder, free_bytes)) => {
            CreateError::NoSpace { folder: folder.to_owned(), needed_bytes: bytes_needed(spec), free_bytes }
        }
        Err(error) => error,
    }
}

fn write_image_ids(file: &File, layout: &Layout, ids: std::ops::RangeInclusive<u64>) -> io::Result<()> {
    /// Ids in one write: half a megabyte.
    const BLOCK_IDS: u64 = 64 * 1024;
    let (first_id, last_id) = ids.into_inner();
    for row in (0..=last_id - first_id).step_by(BLOCK_IDS as usize) {
        let end_row = (row + BLOCK_IDS).min(last_id - first_id + 1);
        let bytes: Vec<u8> = (row..end_row).flat_map(|row| (first_id + row).to_le_bytes()).collect();
        disk::write(file, &bytes, layout.row_offset(Column::ImageId, row))?;
    }
    Ok(())
}
