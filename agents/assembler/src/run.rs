//! The process: makes the ring or takes it over, steps and sleeps until it is stopped.

use crate::{fill::Filler, metrics::Metrics};
use ecs_schemas::{beamline::Beamline, registry::AgentState};
use ecs_sdk::{
    Agent, AgentConfig, StartError,
    cores::{CoreError, Cores},
    stop::Stop,
};
use ecs_shm_buffer::{Geometry, Now, Owner, Proc, ProcessId, Ring, RingError, Surroundings};
use std::{
    io,
    time::{Duration, Instant},
};

/// How often telemetry is published, and how soon a stop is noticed at the latest.
const METRICS_PERIOD: Duration = Duration::from_secs(1);
const STOP_PERIOD: Duration = Duration::from_millis(100);
/// While images flow, the assembler looks at most this often: a wake-up for each image costs the readout a
/// system call, and both a switch of process, which at kHz rates is most of what the assembler would do.
const PAUSE_MAX: Duration = Duration::from_millis(1);
/// How long the broker may keep a stopping agent.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// Where several readout processes and a stop are waited for before the ring is removed.
const CLOSE_PATIENCE: Duration = Duration::from_millis(200);

/// Why an assembler ends other than by being stopped.
#[derive(Debug, thiserror::Error)]
pub enum AssemblerError {
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error(transparent)]
    Core(#[from] CoreError),
    #[error("cannot stay on its core: {0}")]
    Pin(#[source] io::Error),
    #[error(transparent)]
    Agent(#[from] StartError),
}

/// The geometry of a beamline's ring.
pub fn geometry(beamline: &Beamline) -> Geometry {
    let placement = &beamline.detector.placement;
    let images = Geometry {
        slots: 0,
        window: beamline.assembler.open_images,
        height: placement.height as u32,
        width: placement.width as u32,
        pixel_bytes: placement.pixel.bytes() as u32,
        packets_per_image: placement.packets_per_image() as u32,
        fill: beamline.assembler.fill,
        placement_hash: placement.hash(),
    };
    Geometry::with_size(beamline.ring.size_bytes, images)
}

/// Runs the assembler of a beamline until `stop` is set, and removes the ring then.
///
/// # Errors
/// See [`AssemblerError`]. A broker that is not there changes nothing.
pub fn run(beamline: &Beamline, stop: &Stop) -> Result<(), AssemblerError> {
    let core = beamline.assembler.core.map(|core| Cores::one(core, "assembler.core")).transpose()?;
    let agent = Agent::start(
        AgentConfig {
            name: format!("{}/assembler", beamline.name),
            kind: "assembler".to_owned(),
            request_endpoint: beamline.broker.request_endpoint.clone(),
            ended_jobs: Vec::new(),
        },
        Vec::new(),
    )?;
    if let Some(core) = core {
        core.keep_thread().map_err(AssemblerError::Pin)?; // behind the agent's threads, which stay where they like
    }
    let ended = own_ring(beamline, &agent, stop);
    agent.stop(STOP_PATIENCE);
    ended
}

fn own_ring(beamline: &Beamline, agent: &Agent, stop: &Stop) -> Result<(), AssemblerError> {
    let (ring, lock) = ecs_shm_buffer::create_or_take_over(&beamline.ring.path, geometry(beamline), &Proc)?;
    let owner = Owner::take_over(&ring, ProcessId::current(), beamline.assembler.deadline, &Proc);
    agent.set_state(AgentState::Ready);
    let geometry = ring.geometry();
    tracing::info!(slots = geometry.slots, open_images = geometry.window, "ring ready");
    tell_huge_pages(&ring, beamline);
    assemble(owner, beamline, agent, stop).close();
    let closing = Instant::now();
    while closing.elapsed() < CLOSE_PATIENCE && !ring.status().participants.is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(lock.remove()?)
}

/// Told once: pixels in small pages cost time and nothing else.
fn tell_huge_pages(ring: &Ring, beamline: &Beamline) {
    let Some(pages) = ring.huge_pages() else { return };
    match pages.advice(&beamline.ring.path) {
        Some(advice) => tracing::info!("the ring has {pages}: the host gives no more; for more: {advice}"),
        None => tracing::info!("the ring has {pages}"),
    }
}

/// Steps whenever there is a reason to, until stop.
fn assemble(mut owner: Owner, beamline: &Beamline, agent: &Agent, stop: &Stop) -> Owner {
    let filler = Filler::new(&beamline.detector.placement, beamline.assembler.fill);
    let mut fill = |pixels: &mut [u8], packet: usize| filler.fill(pixels, packet);
    let mut metrics = Metrics::new();
    let mut published = Instant::now();
    let ring: Ring = owner.ring().clone();
    let mut stepped = Instant::now();
    while !stop.is_set() {
        let ticket = owner.ticket();
        let outcome = owner.step(&mut Surroundings { now: Now::read(), liveness: &Proc, fill: &mut fill });
        if published.elapsed() >= METRICS_PERIOD {
            published = Instant::now();
            agent.publish(metrics.read(&ring));
        }
        let since = std::mem::replace(&mut stepped, Instant::now()).elapsed();
        match pause(outcome.committed, since, ring.geometry().window) {
            Some(pause) => std::thread::sleep(pause),
            None => owner.sleep(ticket, Duration::from_nanos(outcome.look_again_in_ns).min(STOP_PERIOD)),
        }
    }
    owner
}

/// How long to leave the ring alone after a step that committed images: no longer than a quarter of the
/// window lasts at this rate. None: nothing flows, the next event is to be waited for.
fn pause(committed: u64, since_last_step: Duration, window: u32) -> Option<Duration> {
    let committed = u32::try_from(committed).ok().filter(|&committed| committed > 0)?;
    Some((since_last_step / committed * (window / 4)).min(PAUSE_MAX))
}
