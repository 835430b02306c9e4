//! The process: binds the ports, attaches to the ring, and goes round the ports until it is stopped.

use crate::{
    converter::Converter,
    metrics::Metrics,
    place::Placer,
    port::Port,
    receive::{Receiver, Turn},
    senders::Senders,
    socket::{PortSocket, SocketError, wait_readable},
    watch::Watch,
};
use ecs_calibration::CalibrationError;
use ecs_schemas::{beamline::Beamline, detector::Placement, registry::AgentState, value::Value};
use ecs_sdk::{
    Agent, AgentConfig, StartError,
    cores::{CoreError, Cores},
    stop::Stop,
};
use ecs_shm_buffer::{Contributor, PixelAccess, ProcessId, Ring, RingError, TooManyParticipants};
use std::{
    io,
    ops::Range,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often telemetry is published and the kernel's counters are read.
const METRICS_PERIOD: Duration = Duration::from_secs(1);
/// How often a ring that is not there is looked for again, and how soon a stop is noticed.
const RETRY_PERIOD: Duration = Duration::from_millis(100);
/// How often sockets without packets are looked at: short against the pause between two runs, in which
/// each port must be seen empty.
const IDLE_PERIOD: Duration = Duration::from_millis(20);
/// How soon a port that is not parked is looked at again while others are.
const PARKED_PERIOD: Duration = Duration::from_millis(1);
/// Rounds over ports that have packets, before stop and telemetry are looked at again.
const ROUNDS_MAX: usize = 64;
/// How long the broker may keep a stopping agent.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Why a readout process ends other than by being stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReadoutError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("cannot receive: {0}")]
    Receive(#[source] io::Error),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error(transparent)]
    Full(#[from] TooManyParticipants),
    #[error("ring {path} was made for another detector configuration; restart the beamline with one configuration")]
    OtherImages { path: String },
    /// What pixels are to be converted with, or the mask, cannot be read.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    #[error(transparent)]
    Core(#[from] CoreError),
    #[error(transparent)]
    Agent(#[from] StartError),
}

/// Runs the readout process `index` of a beamline until `stop` is set.
///
/// # Errors
/// See [`ReadoutError`]. A ring that is not there yet is waited for; a broker that is not there changes
/// nothing.
pub fn run(beamline: &Beamline, index: u32, stop: &Stop) -> Result<(), ReadoutError> {
    let core = core_of(beamline, index)?;
    let mut ports = bind_ports(beamline, index)?;
    let pixels = Pixels::read(beamline, index)?;
    let slots = beamline.agents();
    let name =
        slots.iter().find(|agent| agent.kind == "readout" && agent.index == index).map(|agent| agent.name.clone());
    let name = name.unwrap_or_else(|| format!("{}/readout-{index}", beamline.name));
    let agent = Agent::start(
        AgentConfig {
            name: name.clone(),
            kind: "readout".to_owned(),
            request_endpoint: beamline.broker.request_endpoint.clone(),
            ended_jobs: Vec::new(),
        },
        Vec::new(),
    )?;
    if let Some(core) = core {
        core.keep_thread().map_err(ReadoutError::Receive)?; // behind the agent's threads, which stay where they like
    }
    let ended = receive_until_stopped(beamline, &pixels, &name, &mut ports, &agent, stop);
    agent.stop(STOP_PATIENCE);
    ended
}

/// What becomes of pixels, as read from the files that settings name.
struct Pixels {
    /// Where pixels are converted.
    watch: Option<Watch>,
    /// Of the image, where pixels are not converted: which are masked.
    mask: Option<Vec<bool>>,
    modules: Range<usize>,
}

impl Pixels {
    fn read(beamline: &Beamline, index: u32) -> Result<Self, CalibrationError> {
        let modules = beamline.readout_modules(index);
        if beamline.conversion.convert.is_some() {
            let watch = Some(Watch::start(beamline, modules.clone())?);
            return Ok(Self { watch, mask: None, modules }); // its mask is in what pixels are converted with
        }
        let mask = ecs_calibration::mask(beamline.conversion.mask.as_deref(), &beamline.detector)?;
        Ok(Self { watch: None, mask, modules })
    }

    fn placer(&self, beamline: &Beamline) -> Placer {
        let (placement, fill) = (&beamline.detector.placement, beamline.assembler.fill);
        match (&self.watch, &self.mask) {
            (Some(watch), _) => {
                let shared = Arc::clone(&watch.shared);
                Placer::converting(Converter::new(shared, self.modules.clone(), placement.pixel, fill))
            }
            (None, Some(mask)) => Placer::masking(placement, mask, fill),
            (None, None) => Placer::plain(),
        }
    }
}

/// The core that a process stays on, where settings name any.
fn core_of(beamline: &Beamline, index: u32) -> Result<Option<Cores>, CoreError> {
    let cores = &beamline.readout.cores;
    let core = cores.get(index as usize % cores.len().max(1));
    core.map(|&core| Cores::one(core, "readout.cores")).transpose()
}

fn bind_ports(beamline: &Beamline, index: u32) -> Result<Vec<Port>, SocketError> {
    let readout = &beamline.readout;
    let modules = beamline.readout_modules(index);
    let placement = &beamline.detector.placement;
    let bind = |port: usize| {
        let (number, buffer_bytes) = (placement.ports[port], readout.receive_buffer_bytes);
        let socket = PortSocket::bind(readout.address, number, buffer_bytes, readout.coalesce)?;
        Ok(Port::new(socket, placement.module_of_port(port), placement, Senders::new(&readout.senders)))
    };
    let mine = (0..placement.ports.len()).filter(|&port| modules.contains(&placement.module_of_port(port)));
    let ports: Vec<Port> = mine.map(bind).collect::<Result<_, SocketError>>()?;
    if let Some(short) = ports.iter().map(|port| port.socket.receive_buffer).find(|buffer| buffer.is_short()) {
        tracing::warn!(
            asked_bytes = short.asked_bytes,
            given_bytes = short.given_bytes,
            "the kernel gave a smaller receive buffer than asked; raise net.core.rmem_max or run with CAP_NET_ADMIN"
        );
    }
    Ok(ports)
}

/// Attaches to the ring, receives, and does it again with the next ring when this one is closed.
fn receive_until_stopped(
    beamline: &Beamline,
    pixels: &Pixels,
    name: &str,
    ports: &mut [Port],
    agent: &Agent,
    stop: &Stop,
) -> Result<(), ReadoutError> {
    while !stop.is_set() {
        let Some(ring) = find_ring(&beamline.ring.path)? else {
            stop.wait(RETRY_PERIOD);
            continue;
        };
        check_images(&beamline.ring.path, &ring, &beamline.detector.placement)?;
        let contributor = Contributor::join(&ring, ProcessId::current(), name)?;
        if !ecs_shm_buffer::is_current(&ring, &beamline.ring.path) {
            continue; // it was replaced while we joined
        }
        agent.set_state(AgentState::Ready);
        tracing::info!(ports = ports.len(), "receiving");
        let placer = pixels.placer(beamline);
        let receiver = Receiver::new(beamline.detector.clone(), contributor, beamline.assembler.deadline, placer);
        receive(receiver, name, ports, agent, stop)?;
        agent.set_state(AgentState::Starting);
    }
    Ok(())
}

fn find_ring(path: &Path) -> Result<Option<Ring>, RingError> {
    match ecs_shm_buffer::open(path, PixelAccess::ReadWrite) {
        Ok(ring) if ring.is_closed() => Ok(None),
        Ok(ring) => Ok(Some(ring)),
        Err(RingError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The ring was made for the same placement of packets, or it would put pixels in wrong places.
fn check_images(path: &Path, ring: &Ring, placement: &Placement) -> Result<(), ReadoutError> {
    if ring.geometry().placement_hash == placement.hash() {
        return Ok(());
    }
    Err(ReadoutError::OtherImages { path: path.display().to_string() })
}

/// Goes round the ports until stop, or until the ring is closed.
fn receive(
    mut receiver: Receiver,
    name: &str,
    ports: &mut [Port],
    agent: &Agent,
    stop: &Stop,
) -> Result<(), ReadoutError> {
    let pollfd = |port: &Port| libc::pollfd { fd: port.socket.fd(), events: libc::POLLIN, revents: 0 };
    let mut polls: Vec<libc::pollfd> = ports.iter().map(pollfd).collect();
    let mut busy = Vec::with_capacity(ports.len());
    let mut metrics = Metrics::new();
    let mut published = Instant::now();
    while !stop.is_set() && !receiver.contributor().ring_closed() {
        let period = if ports.iter().any(Port::is_waiting) { PARKED_PERIOD } else { IDLE_PERIOD };
        // Taken before: this process may be stopped between the look and the clock, and packets come meanwhile.
        let looked = receiver.look();
        wait_readable(&mut polls, period.as_millis() as i32).map_err(ReadoutError::Receive)?;
        let is_readable = |index: usize| polls[index].revents != 0;
        (0..ports.len()).filter(|&index| !is_readable(index)).for_each(|index| ports[index].note_empty(looked));
        busy.extend((0..ports.len()).filter(|&index| is_readable(index) || ports[index].is_waiting()));
        drain(&mut receiver, ports, &mut busy).map_err(ReadoutError::Receive)?;
        busy.clear();
        receiver.watch_gates(ports);
        if published.elapsed() >= METRICS_PERIOD {
            published = Instant::now();
            receiver.count_kernel_dropped(ports);
            let mut values = metrics.read(receiver.contributor().ring(), name, ports);
            let (is_overload, times_shut) = receiver.overload();
            values.insert("overload".to_owned(), is_overload.into());
            values.insert("times_shut".to_owned(), times_shut.into());
            let calibration = receiver.calibration().map(|number| Value::from(format!("{number:016x}")));
            values.extend(calibration.map(|number| ("calibration".to_owned(), number)));
            agent.publish(values);
        }
    }
    receiver.count_kernel_dropped(ports);
    receiver.give_up_parked(ports);
    Ok(())
}

/// A turn of each of the `busy` ports, again and again, so that none runs ahead of the others, until none
/// has packets. Where all that is left waits for the window, so does this.
fn drain(receiver: &mut Receiver, ports: &mut [Port], busy: &mut Vec<usize>) -> io::Result<()> {
    for _ in 0..ROUNDS_MAX {
        let ticket = receiver.contributor().window_ticket();
        let (mut took, mut failed) = (false, Ok(()));
        busy.retain(|&index| match receiver.receive(ports, index) {
            Ok(turn) => {
                took |= turn == Turn::Took;
                turn != Turn::Empty
            }
            Err(error) => {
                failed = Err(error);
                false
            }
        });
        failed?;
        if busy.is_empty() {
            break;
        }
        if !took {
            receiver.wait_for_window(ticket, PARKED_PERIOD);
            break; // other ports may have packets by now that let it move
        }
    }
    Ok(())
}
