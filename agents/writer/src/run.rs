//! The process: ends what an earlier one left behind, then takes jobs until it is stopped.

use crate::{
    journal::{Journal, LockError},
    pedestal::PedestalService,
    service::{Totals, WriteService},
};
use ecs_schemas::{beamline::Beamline, registry::AgentState, value::Value};
use ecs_sdk::{Agent, AgentConfig, Service, StartError, stop::Stop};
use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

const METRICS_PERIOD: Duration = Duration::from_secs(1);
/// A stopped writer ends its job's file cleanly: it may have to bring a few GB of it to the disk.
const STOP_PATIENCE: Duration = Duration::from_secs(8);

/// Why a writer ends other than by being stopped.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    #[error("cannot make the state folder {path}: {source}")]
    StateFolder { path: PathBuf, source: io::Error },
    /// Another process of this name is there.
    #[error(transparent)]
    Journal(#[from] LockError),
    #[error(transparent)]
    Agent(#[from] StartError),
}

/// Runs the writer process `index` of a beamline until `stop` is set.
///
/// # Errors
/// See [`WriterError`]. A broker or a ring that is not there yet is no error.
pub fn run(beamline: &Beamline, index: u32, stop: &Stop) -> Result<(), WriterError> {
    let folder = &beamline.state_folder;
    fs::create_dir_all(folder).map_err(|source| WriterError::StateFolder { path: folder.clone(), source })?;
    let slot = beamline.agents().into_iter().find(|agent| agent.kind == "writer" && agent.index == index);
    let name = slot.map_or_else(|| format!("{}/writer-{index}", beamline.name), |agent| agent.name);
    let journal = Journal::new(folder, &name);
    let _lock = journal.lock()?;
    let totals = Arc::new(Totals::default());
    let mut services: Vec<Arc<dyn Service>> =
        vec![Arc::new(WriteService::new(beamline, &name, journal.clone(), Arc::clone(&totals)))];
    if beamline.conversion.convert.is_some() {
        services.push(Arc::new(PedestalService::new(beamline, &name)));
    }
    let config = AgentConfig {
        name,
        kind: "writer".to_owned(),
        request_endpoint: beamline.broker.request_endpoint.clone(),
        ended_jobs: journal.recover().into_iter().collect(),
    };
    let agent = Agent::start(config, services)?;
    agent.set_state(AgentState::Ready);
    tell_until_stopped(&agent, &totals, stop);
    agent.stop(STOP_PATIENCE);
    Ok(())
}

fn tell_until_stopped(agent: &Agent, totals: &Totals, stop: &Stop) {
    let (mut then, mut before) = (Instant::now(), (0, 0));
    while !stop.wait(METRICS_PERIOD) {
        let now = (totals.images.load(Ordering::Relaxed), totals.bytes.load(Ordering::Relaxed));
        let seconds = then.elapsed().as_secs_f64();
        // The counters are of the job in hand: they begin at 0 with each.
        let rate = |now: u64, before: u64| Value::Float(now.saturating_sub(before) as f64 / seconds);
        let values: BTreeMap<String, Value> = [
            ("images_per_s", rate(now.0, before.0)),
            ("bytes_per_s", rate(now.1, before.1)),
            ("images_of_job", now.0.into()),
            ("jobs_ended", totals.jobs.load(Ordering::Relaxed).into()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        (then, before) = (Instant::now(), now);
        agent.publish(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecs_schemas::job::JobId;

    const DETECTOR: &str = include_str!("../../../tests/data/eiger-500k/detector.json");

    #[test]
    fn second_process_of_a_writer_ends_before_it_touches_the_file_of_the_first() {
        // The first is played by its lock and its journal; what it writes is its temporary file.
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = "[beamline]\nname = \"x01\"\n[detector]\nconfig = \"detector.json\"\n";
        let load = |_: &std::path::Path| Ok(DETECTOR.to_owned());
        let beamline = Beamline::parse(text, &folder.path().join("x01.toml"), &load).expect("valid");
        fs::create_dir_all(&beamline.state_folder).expect("made");
        let name = beamline.agents().into_iter().find(|agent| agent.kind == "writer").expect("a writer").name;
        let journal = Journal::new(&beamline.state_folder, &name);
        let author = journal.author(JobId(7));
        journal.begin(&author, &folder.path().join("run.h5"), 10).expect("written");
        let temporary = folder.path().join(format!(".run.h5.7.{:016x}.tmp", author.file_id));
        fs::write(&temporary, "").expect("written");

        let stop = Stop::new();
        stop.request();
        let first = journal.lock().expect("nobody has it");
        let error = run(&beamline, 0, &stop).expect_err("the first is there");
        assert!(matches!(error, WriterError::Journal(LockError::Held { .. })), "{error}");
        assert!(temporary.exists());
        drop(first);
        let _ = run(&beamline, 0, &stop); // without a broker; recovery comes first
        assert!(!temporary.exists(), "the next process recovers");
    }
}
