//! The rows of a benchmark as they are measured: those that are wanted.

use crate::{pairs::Pairs, report::Row};

/// Measures what is wanted, and keeps its rows.
pub(crate) struct Rows<'a> {
    pairs: &'a Pairs,
    /// Only the rows whose name has this in it.
    only: &'a str,
    pub rows: Vec<Row>,
}

impl<'a> Rows<'a> {
    pub fn new(pairs: &'a Pairs, only: &'a str) -> Self {
        Self { pairs, only, rows: Vec::new() }
    }

    pub fn is_wanted(&self, what: &str) -> bool {
        what.contains(self.only)
    }

    /// How often each leg is run.
    pub fn pairs(&self) -> &'a Pairs {
        self.pairs
    }

    /// The row `what`, of ours beside `baseline`, both in `unit`, where it is wanted.
    ///
    /// # Errors
    /// The first that a leg returns.
    pub fn measure(
        &mut self,
        what: &str,
        unit: &'static str,
        baseline: &str,
        ours: impl FnMut() -> anyhow::Result<f64>,
        floor: impl FnMut() -> anyhow::Result<f64>,
    ) -> anyhow::Result<()> {
        if self.is_wanted(what) {
            let pairs = self.pairs.run(&format!("{what}, beside {baseline}"), ours, floor)?;
            self.push(what, unit, baseline, &pairs);
        }
        Ok(())
    }

    /// A row of pairs that were measured already.
    pub fn push(&mut self, what: &str, unit: &'static str, baseline: &str, pairs: &[(f64, f64)]) {
        self.rows.push(Row::from_pairs(what, unit, baseline, pairs));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn only_what_is_wanted_is_run() {
        let (pairs, runs) = (Pairs::new(1), Cell::new(0));
        let mut rows = Rows::new(&pairs, "ring");
        let leg = || {
            runs.set(runs.get() + 1);
            Ok(1.0)
        };
        rows.measure("a ring", "GB/s", "nothing", leg, || Ok(2.0)).unwrap();
        let of_one = runs.get();
        rows.measure("a path", "GB/s", "nothing", leg, || Ok(2.0)).unwrap();
        assert_eq!((rows.rows.len(), runs.get()), (1, of_one));
        assert_eq!((rows.rows[0].what.as_str(), rows.rows[0].ratio), ("a ring", 0.5));
        rows.measure("a ring", "GB/s", "nothing", || anyhow::bail!("broken"), leg).unwrap_err();
        assert_eq!(rows.rows.len(), 1, "no row of what did not run");
    }
}
