//! Pairs of legs, ours and the baseline, one after the other.

use std::{fmt, sync::Arc};

/// A figure, how many of its pairs are done, and how many there are.
type Told = dyn Fn(&str, usize, usize) + Send + Sync;

/// How often each leg is run, and who is told how far it is.
#[derive(Clone)]
pub struct Pairs {
    pub count: usize,
    told: Option<Arc<Told>>,
}

impl Pairs {
    pub fn new(count: usize) -> Self {
        Self { count, told: None }
    }

    /// As many, and `told` hears of each that is done: of which figure, the how many-th, and of how many.
    pub fn telling(count: usize, told: impl Fn(&str, usize, usize) + Send + Sync + 'static) -> Self {
        Self { count, told: Some(Arc::new(told)) }
    }

    /// Runs the pairs of the figure `what` in the order ours, floor, floor, ours, … so that a drift hits both alike. One
    /// pair before them warms memory and caches up and is not counted.
    ///
    /// # Errors
    /// The first that a leg returns.
    pub fn run(
        &self,
        what: &str,
        mut ours: impl FnMut() -> anyhow::Result<f64>,
        mut floor: impl FnMut() -> anyhow::Result<f64>,
    ) -> anyhow::Result<Vec<(f64, f64)>> {
        let tell = |done| self.told.iter().for_each(|told| told(what, done, self.count + 1));
        tell(0);
        let _warm_up = (ours()?, floor()?);
        let mut pairs = Vec::with_capacity(self.count);
        for pair in 0..self.count {
            tell(pair + 1);
            pairs.push(if pair % 2 == 0 {
                let ours = ours()?;
                (ours, floor()?)
            } else {
                let floor = floor()?;
                (ours()?, floor)
            });
        }
        tell(self.count + 1);
        Ok(pairs)
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pairs").field("count", &self.count).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn legs_take_turns_behind_a_pair_that_does_not_count_and_each_pair_is_told() {
        let (order, told) = (Mutex::new(String::new()), Arc::new(Mutex::new(Vec::new())));
        let noted = Arc::clone(&told);
        let pairs = Pairs::telling(3, move |what, done, of| noted.lock().unwrap().push(format!("{what} {done}/{of}")));
        let leg = |name| {
            let order = &order;
            move || {
                order.lock().unwrap().push(name);
                Ok(order.lock().unwrap().len() as f64)
            }
        };
        assert_eq!(pairs.run("x", leg('a'), leg('b')).unwrap(), [(3.0, 4.0), (6.0, 5.0), (7.0, 8.0)]);
        assert_eq!(*order.lock().unwrap(), "ababbaab");
        assert_eq!(*told.lock().unwrap(), ["x 0/4", "x 1/4", "x 2/4", "x 3/4", "x 4/4"]);
    }
}
