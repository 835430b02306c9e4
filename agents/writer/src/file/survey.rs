//! What became of each image, read from the rows in the file (rule F4).

use super::{columns::Column, layout::Layout};
use ecs_schemas::{
    image::{ImageStatus, LossCause},
    write_job::Ledger,
};
use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

/// The rows of a file, counted.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Rows up to the last one of which something is known; behind it everything is pending.
    pub rows_kept: u64,
    /// Runs of kept rows of which nothing is known.
    pub pending: Vec<Range<u64>>,
    /// Runs of kept rows that are lost.
    pub lost: Vec<Range<u64>>,
    /// Counts of the kept rows, without the pending ones.
    pub counts: Ledger,
}

impl Survey {
    /// Reads all rows.
    ///
    /// # Errors
    /// Of the file system.
    pub fn read(file: &File, layout: &Layout) -> io::Result<Self> {
        let status = read_column(file, layout, Column::Status)?;
        let cause = read_column(file, layout, Column::LossCause)?;
        let missing = read_column(file, layout, Column::MissingPackets)?;
        let is_known = |&status: &u8| status != ImageStatus::Pending as u8;
        let rows_kept = status.iter().rposition(is_known).map_or(0, |last| last + 1);
        let mut survey = Self { rows_kept: rows_kept as u64, ..Self::default() };
        for row in 0..rows_kept {
            survey.count(row as u64, status[row], cause[row], &missing[row * 4..row * 4 + 4]);
        }
        Ok(survey)
    }

    fn count(&mut self, row: u64, status: u8, cause: u8, missing: &[u8]) {
        let counts = &mut self.counts;
        match ImageStatus::ALL.into_iter().find(|&known| known as u8 == status) {
            Some(ImageStatus::Complete) => counts.written += 1,
            Some(ImageStatus::Partial) => {
                counts.partial += 1;
                let missing: [u8; 4] = missing.try_into().expect("a row of missing packets has four bytes");
                counts.missing_packets += u64::from(u32::from_le_bytes(missing));
            }
            Some(ImageStatus::Lost) => {
                let known = LossCause::ALL.into_iter().find(|&known| known as u8 == cause);
                // A number of a later version is a cause all the same.
                *counts.lost.entry(known.unwrap_or(LossCause::Several)).or_default() += 1;
                extend_runs(&mut self.lost, row);
            }
            Some(ImageStatus::Pending) | None => extend_runs(&mut self.pending, row),
        }
    }
}

fn extend_runs(runs: &mut Vec<Range<u64>>, row: u64) {
    match runs.last_mut() {
        Some(run) if run.end == row => run.end += 1,
        _ => runs.push(row..row + 1),
    }
}

fn read_column(file: &File, layout: &Layout, column: Column) -> io::Result<Vec<u8>> {
    let row_bytes = column.row_bytes(layout.packets_per_image);
    let mut bytes = vec![0; layout.rows as usize * row_bytes];
    file.read_exact_at(&mut bytes, layout.row_offset(column, 0))?;
    Ok(bytes)
}
