//! Runs of a simulation, each from its seed. `ECS_SIMULATION_SEED=N` replays one; `ECS_SIMULATION_RUNS=N` makes that many.

use std::{env, thread};

/// Makes runs from seed 0 on, as many at a time as there are cores, and is told the seed and whether it is the only one. Returns
/// that too.
pub fn run_seeds(runs: u64, run: impl Fn(u64, bool) + Sync) -> bool {
    let seeds = match from_env("ECS_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_env("ECS_SIMULATION_RUNS").unwrap_or(runs),
    };
    let is_one = seeds.end - seeds.start == 1;
    let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
    thread::scope(|scope| {
        for first in 0..threads {
            let (run, seeds) = (&run, seeds.clone());
            scope.spawn(move || {
                for seed in seeds.skip(first).step_by(threads) {
                    let _told = Seed(seed);
                    run(seed, is_one);
                }
            });
        }
    });
    is_one
}

fn from_env(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Prints the seed when a run fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("replay this run with ECS_SIMULATION_SEED={}", self.0);
        }
    }
}
