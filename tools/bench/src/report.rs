//! What a benchmark says: figures, each with its baseline and ratio, and the machine.

use serde::Serialize;

/// The result of one benchmark.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub machine: Machine,
    /// What was moved, and how often each leg was run.
    pub payload: String,
    pub rows: Vec<Row>,
}

/// Where it ran.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    /// Share of the cores that other work wants, at the start: above 0.3 the figures are doubtful.
    pub load_per_core: f64,
}

/// One figure beside its baseline.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub what: String,
    pub unit: &'static str,
    /// Median of the legs.
    pub value: f64,
    pub baseline: String,
    pub baseline_value: f64,
    /// Median over pairs of neighbouring legs of value / baseline, and the lowest and highest of them.
    pub ratio: f64,
    pub ratio_low: f64,
    pub ratio_high: f64,
}

impl Machine {
    pub fn read() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let load: f64 = read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
        Self {
            cpu: model.map_or("unknown", |(_, name)| name).to_owned(),
            cores,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_per_core: load / cores as f64,
        }
    }
}

impl Row {
    /// A row from pairs of (ours, baseline), both in `unit`.
    ///
    /// # Panics
    /// Without pairs.
    pub fn from_pairs(what: &str, unit: &'static str, baseline: &str, pairs: &[(f64, f64)]) -> Self {
        let ratios: Vec<f64> = pairs.iter().map(|(ours, floor)| ours / floor).collect();
        Self {
            what: what.to_owned(),
            unit,
            value: median(pairs.iter().map(|pair| pair.0)),
            baseline: baseline.to_owned(),
            baseline_value: median(pairs.iter().map(|pair| pair.1)),
            ratio: median(ratios.iter().copied()),
            ratio_low: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratio_high: ratios.iter().copied().fold(0.0, f64::max),
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    assert!(!values.is_empty(), "a median needs a value");
    values.sort_by(f64::total_cmp);
    (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_medians_and_the_median_of_the_ratios() {
        let row = Row::from_pairs("x", "GB/s", "y", &[(1.0, 2.0), (3.0, 2.0), (2.0, 2.0)]);
        assert_eq!((row.value, row.baseline_value, row.ratio), (2.0, 2.0, 1.0));
        assert_eq!((row.ratio_low, row.ratio_high), (0.5, 1.5));
    }
}
