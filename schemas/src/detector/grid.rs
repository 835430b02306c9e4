//! Where the modules of an EIGER or a JUNGFRAU stand.
//!
//! ```text
//!  ┌────┬────┐   ┌────┬────┐        a module: 2 rows of 4 chips of 256 x 256 pixels, 2 pixels apart
//!  │ 12 │ 13 │   │    │    │
//!  │ 10 │ 11 │ 8 │    │    │        modules: 8 columns and 36 rows of pixels apart
//!  └────┴────┘   └────┴────┘
//!       36
//!  ┌────┬────┐                      std-daq counts from the lower left, upwards, column by column
//!  │  2 │  3 │
//!  │  0 │  1 │
//!  └────┴────┘
//! ```
//!
//! The numbers are those of std-daq's `std-daq_config_gen.py`, whose own tests are among those here.

use super::config::DetectorConfigError;
use std::collections::BTreeMap;

/// First and last pixel of a part of the image, both included: `[x0, y0, x1, y1]`; `y1 < y0`: rows run upwards.
pub type Position = [i64; 4];

pub const CHIP: usize = 256;
/// Pixels between two chips of a module, in the image, across and along.
pub const CHIP_GAP: usize = 2;
const MODULE_WIDTH: usize = 4 * CHIP + 3 * CHIP_GAP;
const MODULE_GAP_X: usize = 8;
const MODULE_GAP_Y: usize = 36;
/// Modules in a row or a column, at most: far above any real detector, and below what an image may have.
const MODULES_IN_LINE_MAX: u32 = 64;

/// Modules and half modules of a detector, as they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    pub columns: usize,
    /// Half modules above each other: twice the modules, or one less or more where a column ends with half of one.
    pub half_rows: usize,
    /// Rows of pixels that are read of a half module, from the module's middle on.
    pub rows_read: usize,
}

impl Grid {
    /// Whole modules, all rows of which are read.
    pub fn of_modules(columns: u32, rows: u32) -> Self {
        Self { columns: columns as usize, half_rows: 2 * rows as usize, rows_read: CHIP }
    }

    pub fn width(&self) -> usize {
        self.columns * MODULE_WIDTH + (self.columns - 1) * MODULE_GAP_X
    }

    /// Rows of the image: those above the first and below the last one that is read are not part of it.
    pub fn height(&self) -> usize {
        let whole = self.whole_height();
        let cut = CHIP - self.rows_read;
        // The upper edge is that of an upper half, unless the column ends with a lower one: its rows are read from
        // the upper edge on.
        let cut_above = if self.half_rows.is_multiple_of(2) { cut } else { 0 };
        whole - cut - cut_above
    }

    fn whole_height(&self) -> usize {
        let modules = self.half_rows.div_ceil(2);
        self.half_rows * CHIP + self.half_rows / 2 * CHIP_GAP + (modules - 1) * MODULE_GAP_Y
    }

    /// First and last row of half module `half_row`, counted from below, in the order in which rows are read: from
    /// the middle of the module outwards.
    fn half_module_rows(&self, half_row: usize) -> (i64, i64) {
        let below = half_row / 2 * (2 * CHIP + CHIP_GAP + MODULE_GAP_Y) + half_row % 2 * (CHIP + CHIP_GAP);
        let bottom = (self.height() + CHIP - self.rows_read) as i64 - 1 - below as i64;
        let rows = self.rows_read as i64 - 1;
        if half_row.is_multiple_of(2) {
            let middle = bottom - (CHIP as i64 - 1);
            (middle, middle + rows)
        } else {
            (bottom, bottom - rows)
        }
    }

    /// The quadrants of an EIGER, two of each half module, numbered as std-daq does.
    pub fn quadrants(&self) -> BTreeMap<u32, Position> {
        let mut positions = BTreeMap::new();
        for (column, half_row, side) in self.places() {
            let x0 = (column * (MODULE_WIDTH + MODULE_GAP_X) + side * 2 * (CHIP + CHIP_GAP)) as i64;
            let (y0, y1) = self.half_module_rows(half_row);
            positions.insert(positions.len() as u32, [x0, y0, x0 + (2 * CHIP + CHIP_GAP) as i64 - 1, y1]);
        }
        positions
    }

    fn places(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let (columns, half_rows) = (self.columns, self.half_rows);
        (0..columns).flat_map(move |column| {
            (0..half_rows).flat_map(move |half_row| (0..2).map(move |side| (column, half_row, side)))
        })
    }

    /// The modules of a JUNGFRAU, column by column from the lower left. Rows run upwards: the lower half of a module
    /// comes first.
    pub fn modules(&self) -> BTreeMap<u32, Position> {
        let mut positions = BTreeMap::new();
        for column in 0..self.columns {
            let x0 = (column * (MODULE_WIDTH + MODULE_GAP_X)) as i64;
            for row in 0..self.half_rows / 2 {
                let (_, lowest) = self.half_module_rows(2 * row);
                let (_, highest) = self.half_module_rows(2 * row + 1);
                positions.insert(positions.len() as u32, [x0, lowest, x0 + MODULE_WIDTH as i64 - 1, highest]);
            }
        }
        positions
    }
}

/// Columns and rows of modules, from `model` or from `modules`; none if neither is there.
///
/// # Errors
/// Both are there, no such model is known, or there are too many modules.
pub fn modules_of(
    model: Option<&str>,
    modules: Option<[u32; 2]>,
    models: &[(&str, [u32; 2])],
) -> Result<Option<[u32; 2]>, DetectorConfigError> {
    match (model, modules) {
        (Some(_), Some([columns, rows])) => {
            Err(DetectorConfigError::field("modules", format!("[{columns}, {rows}]"), "model or modules, not both"))
        }
        (Some(model), None) => match models.iter().find(|(name, _)| name.eq_ignore_ascii_case(model)) {
            Some((_, modules)) => Ok(Some(*modules)),
            None => {
                let names = models.iter().map(|(name, _)| format!("{name:?}")).collect::<Vec<_>>().join(", ");
                let allowed = format!("{names}, or modules = [columns, rows]");
                Err(DetectorConfigError::field("model", format!("{model:?}"), &allowed))
            }
        },
        (None, Some(modules)) if modules.iter().all(|count| (1..=MODULES_IN_LINE_MAX).contains(count)) => {
            Ok(Some(modules))
        }
        (None, Some([columns, rows])) => Err(DetectorConfigError::field(
            "modules",
            format!("[{columns}, {rows}]"),
            &format!("[columns, rows] of modules, each 1 to {MODULES_IN_LINE_MAX}"),
        )),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(columns: usize, half_rows: usize) -> Grid {
        Grid { columns, half_rows, rows_read: CHIP }
    }

    #[test]
    fn sizes_equal_those_of_the_tests_of_std_daq() {
        let heights: Vec<usize> = (1..=12).rev().map(|half_rows| grid(1, half_rows).height()).collect();
        assert_eq!(heights, [3264, 3006, 2714, 2456, 2164, 1906, 1614, 1356, 1064, 806, 514, 256]);
        let widths: Vec<usize> = (1..=3).rev().map(|columns| grid(columns, 2).width()).collect();
        assert_eq!(widths, [3106, 2068, 1030]);
    }

    #[test]
    fn quadrants_stand_where_real_configurations_have_them() {
        // SDS tests/deployment/configs/eiger9m.json, and the configuration of the recorded 500K module.
        let nine = grid(3, 12).quadrants();
        assert_eq!((nine.len(), nine[&0], nine[&2]), (72, [0, 3008, 513, 3263], [0, 3005, 513, 2750]));
        let half = grid(1, 2).quadrants();
        let recorded = [[0, 258, 513, 513], [516, 258, 1029, 513], [0, 255, 513, 0], [516, 255, 1029, 0]];
        assert!(half.values().eq(recorded.iter()), "{half:?}");
    }

    #[test]
    fn rows_that_are_not_read_are_cut_from_the_edges_only() {
        let read = |half_rows, rows_read| Grid { columns: 1, half_rows, rows_read };
        assert_eq!(read(2, 8).height(), 8 + 2 + 8);
        assert_eq!(read(2, 8).quadrants()[&0], [0, 10, 513, 17]);
        assert_eq!(read(2, 8).quadrants()[&2], [0, 7, 513, 0]);
        let two = read(4, 8);
        assert_eq!(two.height(), 1064 - 2 * 248);
        assert_eq!((two.quadrants()[&0][1], two.quadrants()[&0][3]), (1064 - 256 - 248, 1064 - 256 - 248 + 7));
        assert_eq!((two.quadrants()[&6][1], two.quadrants()[&6][3]), (7, 0));
        let odd = read(3, 8);
        assert_eq!(odd.height(), 806 - 248, "the upper half module is a lower one: it is read from its upper edge");
        assert_eq!((odd.quadrants()[&4][1], odd.quadrants()[&4][3]), (0, 7));
        assert_eq!(read(2, 8).modules()[&0], [0, 17, 1029, 0]);
        assert_eq!(grid(2, 8).modules()[&7], [1038, 513, 2067, 0]);
    }

    #[test]
    fn model_and_modules_exclude_each_other_and_name_what_there_is() {
        let models = [("500K", [1, 1]), ("9M", [3, 6])];
        let of = |model, modules| modules_of(model, modules, &models).map_err(|error| error.to_string());
        assert_eq!(of(Some("9m"), None), Ok(Some([3, 6])));
        assert_eq!(of(None, Some([2, 4])), Ok(Some([2, 4])));
        assert_eq!(of(None, None), Ok(None));
        assert!(of(Some("9M"), Some([3, 6])).is_err_and(|error| error.contains("not both")));
        assert!(of(Some("7M"), None).is_err_and(|error| error.contains("\"500K\", \"9M\"")));
        assert!(of(None, Some([0, 4])).is_err() && of(None, Some([1, 65])).is_err());
    }
}
