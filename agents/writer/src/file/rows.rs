//! Rows that wait for their place in the file: a run of neighbours, written column by column.

use super::{
    columns::{Column, Row},
    disk,
    layout::Layout,
};
use std::{fs::File, io};

/// Rows are written when this many wait: few enough that a kill loses little, enough that their small
/// writes cost nothing beside the pixels.
pub(super) const BATCH_ROWS: usize = 64;

/// A run of rows that are not yet in the file.
#[derive(Debug)]
pub(super) struct RowBatch {
    packets: usize,
    first_row: u64,
    len: usize,
    bytes: [Vec<u8>; Column::COUNT],
}

impl RowBatch {
    pub fn new(packets: usize) -> Self {
        let bytes = Column::ALL.map(|column| Vec::with_capacity(BATCH_ROWS * column.row_bytes(packets)));
        Self { packets, first_row: 0, len: 0, bytes }
    }

    /// True if `row` can join: it follows the last one, and there is room.
    pub fn accepts(&self, row: u64) -> bool {
        self.len == 0 || (self.len < BATCH_ROWS && row == self.first_row + self.len as u64)
    }

    pub fn is_full(&self) -> bool {
        self.len == BATCH_ROWS
    }

    /// # Panics
    /// If the batch does not accept this row.
    pub fn push(&mut self, row: u64, values: &Row) {
        assert!(self.accepts(row), "row {row} does not follow {} rows from {}", self.len, self.first_row);
        if self.len == 0 {
            self.first_row = row;
        }
        for (column, bytes) in Column::ALL.into_iter().zip(&mut self.bytes).skip(1) {
            column.append(values, self.packets, bytes);
        }
        self.len += 1;
    }

    /// Writes the rows, status last (rule F2), and forgets them.
    ///
    /// # Errors
    /// Of the file system; the rows stay, to be written again.
    pub fn flush(&mut self, file: &File, layout: &Layout) -> io::Result<()> {
        for (column, bytes) in Column::ALL.into_iter().zip(&self.bytes).skip(1) {
            disk::write(file, bytes, layout.row_offset(column, self.first_row))?;
        }
        self.bytes.iter_mut().for_each(Vec::clear);
        self.len = 0;
        Ok(())
    }
}
