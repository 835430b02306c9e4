//! The end of a file: fill what is lost, count, write the ledger, cut the tail, write the state.

use super::{
    cut::cut,
    disk,
    error::{FinishError, WriteError},
    image_file::ImageFile,
    layout::Layout,
    ledger::{LedgerField, write_counts, write_text},
    record,
    spec::End,
    survey::Survey,
};
use ecs_schemas::{image::LossCause, write_job::Ledger};
use std::{fs::File, io, ops::Range, path::Path};

impl ImageFile {
    /// Ends the file. Images of which nothing was said are lost for `end.pending_cause`: those before
    /// the last one known stay as rows with the fill value, those behind it are cut off. A file without
    /// any image is removed, and every image counts as lost.
    ///
    /// # Errors
    /// What stood in the way. A file that was published opens, and its state is `writing`.
    pub fn finish(self, end: &End) -> Result<Ledger, FinishError> {
        self.finish_while(end, &|| true)
    }

    /// As [`finish`](Self::finish), but lost images are given the fill value only while `may_fill` says so:
    /// there may be far more of them than of others. The rest reads as zeros, and the file's reason says so.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn finish_while(mut self, end: &End, may_fill: &dyn Fn() -> bool) -> Result<Ledger, FinishError> {
        self.flush().map_err(|error| self.rows_error(error))?;
        if !self.is_published() {
            return self.finish_without_images(end);
        }
        let unfilled = self.settle(end.pending_cause, may_fill)?;
        let survey = self.survey()?;
        let rows_kept = survey.rows_kept;
        let mut ledger = self.ledger(survey.counts, end);
        let reason = [end.reason.as_str(), unfilled.as_deref().unwrap_or("")];
        let reason = reason.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
        write_counts(&self.file, &self.layout, &ledger).map_err(|source| self.io_error("the ledger", source))?;
        self.write_text(LedgerField::Reason, &reason)?;
        self.cut_tail(rows_kept, end.sync)?;
        self.write_text(LedgerField::State, end.state.as_str())?; // rule F5
        if end.sync {
            sync(&self.file, &self.output).map_err(|source| self.io_error("the last bytes", source))?;
        }
        ledger.seconds = self.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
        Ok(ledger)
    }

    /// What was not published never was: the file goes when `self` is dropped.
    fn finish_without_images(self, end: &End) -> Result<Ledger, FinishError> {
        let mut counts = self.survey()?.counts;
        (counts.written, counts.partial, counts.missing_packets) = (0, 0, 0);
        let ledger = self.ledger(counts, end);
        Ok(Ledger { output: String::new(), ..ledger })
    }

    /// Gives every lost image its fill value, and the images of which nothing was said, before the last
    /// one known, their cause. The fill value may not fit on a full disk where space cannot be reserved:
    /// the images are lost all the same, and the text that comes back says that they read as zeros.
    fn settle(&mut self, cause: LossCause, may_fill: &dyn Fn() -> bool) -> Result<Option<String>, FinishError> {
        let Survey { pending, lost, .. } = self.survey()?;
        let filled = fill(&self.file, &self.layout, lost.iter().chain(&pending), may_fill);
        let first_id = self.first_id.unwrap_or(0);
        for run in pending {
            let ids = first_id + run.start..first_id + run.end;
            self.mark_lost(ids, cause).map_err(|error| self.rows_error(error))?;
        }
        self.flush().map_err(|error| self.rows_error(error))?;
        Ok(filled.err().map(|error| format!("lost images without their fill value: {error}")))
    }

    fn survey(&self) -> Result<Survey, FinishError> {
        Survey::read(&self.file, &self.layout).map_err(|source| self.io_error("the rows", source))
    }

    /// The counts of the rows, with what no row tells of lost for the cause of the end.
    fn ledger(&self, mut counts: Ledger, end: &End) -> Ledger {
        let unknown = self.asked - (counts.written + counts.partial + counts.lost_total());
        if unknown > 0 {
            *counts.lost.entry(end.pending_cause).or_default() += unknown;
        }
        Ledger {
            output: self.output.display().to_string(),
            asked: self.asked,
            first_id: self.first_id,
            last_id: self.first_id.map(|first_id| first_id + (self.asked - 1)),
            bytes: (counts.written + counts.partial) * self.layout.image_bytes(),
            packets: end.packets,
            ..counts
        }
    }

    /// Cuts off the rows from `rows_kept` on and gives their space back. The file's size stays: HDF5
    /// keeps such a run of chunks as one block, so the tail becomes a hole.
    fn cut_tail(&self, rows_kept: u64, sync: bool) -> Result<(), FinishError> {
        let cut_error = |source| FinishError::Cut { path: self.output.clone(), images: rows_kept, source };
        if rows_kept < self.layout.rows_longest {
            cut(&self.file, &self.layout, self.asked, rows_kept, &self.author, sync).map_err(cut_error)?;
        }
        record::clear(&self.file).map_err(|error| cut_error(error.into()))?;
        // Also where an earlier process had cut: the kill may have come before it gave the space back.
        if rows_kept < self.asked {
            disk::give_back(&self.file, self.layout.image_offset(rows_kept)..self.layout.image_offset(self.asked));
        }
        Ok(())
    }

    fn write_text(&self, field: LedgerField, text: &str) -> Result<(), FinishError> {
        write_text(&self.file, &self.layout, field, text).map_err(|source| self.io_error(field.name(), source))
    }

    fn io_error(&self, what: &'static str, source: io::Error) -> FinishError {
        FinishError::Io { path: self.output.clone(), what, source }
    }

    fn rows_error(&self, error: WriteError) -> FinishError {
        let source = match error {
            WriteError::Rows { source, .. } => source,
            other => io::Error::other(other),
        };
        self.io_error("the rows", source)
    }
}

/// Writes the fill value into every pixel of these rows.
fn fill<'r>(
    file: &File,
    layout: &Layout,
    runs: impl Iterator<Item = &'r Range<u64>>,
    may_fill: &dyn Fn() -> bool,
) -> io::Result<()> {
    let pixels = layout.height * layout.width;
    let image = layout.fill.to_le_bytes()[..layout.pixel.bytes()].repeat(pixels);
    for row in runs.flat_map(Range::clone) {
        if !may_fill() {
            return Err(io::Error::other("there was no time to write it"));
        }
        disk::write(file, &image, layout.image_offset(row))?;
    }
    Ok(())
}

/// Returns once the file and its name are on the disk.
pub(super) fn sync(file: &File, output: &Path) -> io::Result<()> {
    file.sync_data()?;
    match output.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
