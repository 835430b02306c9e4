//! A call now and then, while the image path runs at its full rate: how long it takes, and how many images it costs.

use super::{Bench, Options, WARM_UP, quantile};
use crate::{
    cores::on_core,
    detectors::Which,
    image_path::{self, ImagePath, OTHER_CORE, OnCores, READOUT_CORE},
    receive_floor::Handover,
    report::Row,
};
use ecs_sdk::{
    cores::{CoreError, Cores},
    realtime::Realtime,
};
use std::{
    hint::spin_loop,
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// Between two calls beside the image path: few enough that they leave it its rate.
const CALL_GAP: Duration = Duration::from_millis(2);
const WITHOUT_IMAGES: &str = "the same without it";

/// Wherever the scheduler puts them; also beside threads that only spin, which shows what it makes of a full host.
pub(super) fn anywhere(bench: &Bench, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let what = "call p99 with the image path at full rate";
    if bench.is_wanted(what) {
        rows.push(bench.beside_images(what, WITHOUT_IMAGES, OnCores::Any, || bench.paced_call_p99_us())?);
        let spun = || beside_spinning(|| bench.paced_call_p99_us());
        rows.push(bench.beside_images(what, "beside a thread a core that spins", OnCores::Any, spun)?);
    }
    Ok(())
}

/// The same with real-time priority for all threads that a call passes; what the host has against it.
pub(super) fn with_realtime_priority(options: &Options, rows: &mut Vec<Row>) -> anyhow::Result<io::Result<()>> {
    let what = "call p99 with the image path, real-time priority";
    if !what.contains(&options.only) {
        return Ok(Ok(()));
    }
    let _realtime = match Realtime::keep_with_caller() {
        Ok(realtime) => realtime,
        Err(error) => return Ok(Err(error)),
    };
    let bench = Bench::start(options, "realtime = true")?;
    rows.push(bench.beside_images(what, WITHOUT_IMAGES, OnCores::Any, || bench.paced_call_p99_us())?);
    Ok(Ok(()))
}

/// The same where the readout has a core for itself, and all else another; what the host has against it.
pub(super) fn with_cores_apart(options: &Options, rows: &mut Vec<Row>) -> anyhow::Result<Result<(), CoreError>> {
    let [what, images] = ["call p99 with the image path, cores apart", "images beside these calls, cores apart"];
    if ![what, images].iter().any(|row| row.contains(&options.only)) {
        return Ok(Ok(()));
    }
    if let Err(error) = Cores::these(&[READOUT_CORE, OTHER_CORE], "a benchmark") {
        return Ok(Err(error));
    }
    on_core(OTHER_CORE, || {
        let bench = Bench::start(options, &format!("cores = [{OTHER_CORE}]"))?;
        if bench.is_wanted(what) {
            rows.push(bench.beside_images(what, WITHOUT_IMAGES, OnCores::Apart, || bench.paced_call_p99_us())?);
        }
        if bench.is_wanted(images) {
            rows.push(bench.images_beside_calls(images, OnCores::Apart)?);
        }
        Ok(Ok(()))
    })
}

/// Measures something while a thread for each core does nothing but spin: what the scheduler makes of it.
fn beside_spinning(measure: impl FnOnce() -> anyhow::Result<f64>) -> anyhow::Result<f64> {
    let is_measured = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism()?.get() {
            scope.spawn(|| {
                while !is_measured.load(Ordering::Relaxed) {
                    spin_loop();
                }
            });
        }
        let measured = measure();
        is_measured.store(true, Ordering::Relaxed);
        measured
    })
}

impl Bench {
    /// Calls while the image path runs, and `other`.
    fn beside_images(
        &self,
        what: &str,
        baseline: &'static str,
        on_cores: OnCores,
        other: impl FnMut() -> anyhow::Result<f64>,
    ) -> anyhow::Result<Row> {
        let path = self.image_path(on_cores)?;
        let ours = || Ok(image_path::beside(&path, || self.paced_call_p99_us())?.0);
        let p99 = self.options.pairs.run(&format!("{what}; {baseline}"), ours, other)?;
        Ok(Row::from_pairs(what, "us", baseline, &p99))
    }

    /// How many images come while calls are made, and while none are.
    fn images_beside_calls(&self, what: &str, on_cores: OnCores) -> anyhow::Result<Row> {
        let path = self.image_path(on_cores)?;
        let ours = || Ok(image_path::beside(&path, || self.paced_call_p99_us())?.1);
        let wait = || {
            thread::sleep(WARM_UP + self.options.leg);
            Ok(())
        };
        let undisturbed = || Ok(image_path::beside(&path, wait)?.1);
        let images_hz = self.options.pairs.run(what, ours, undisturbed)?;
        Ok(Row::from_pairs(what, "images/s", "as many without calls", &images_hz))
    }

    /// Its agents are those of this broker, too.
    fn image_path(&self, on_cores: OnCores) -> anyhow::Result<ImagePath> {
        let Self { options, request_endpoint, publish_endpoint, .. } = self;
        let (which, handover) = (Which::Eiger500K, Handover::Coalesced);
        ImagePath::new(&options.program, request_endpoint, publish_endpoint, which, handover, on_cores)
    }

    /// Of calls as tools make them, one now and then.
    fn paced_call_p99_us(&self) -> anyhow::Result<f64> {
        Ok(quantile(self.call_times_us(64, self.options.leg, CALL_GAP)?, 0.99))
    }
}
