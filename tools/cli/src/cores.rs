//! The cores that a beamline's processes stay on ([`ecs_sdk::cores`]).

use ecs_schemas::beamline::Beamline;
use ecs_sdk::cores::Cores;

/// Keeps the calling thread, and all that it starts, on the beamline's cores. A thread of images goes to its own afterwards.
///
/// # Errors
/// The host does not let this process use one of them.
pub fn keep(beamline: &Beamline) -> anyhow::Result<()> {
    if !beamline.cores.is_empty() {
        Cores::these(&beamline.cores, "beamline.cores")?.keep_thread()?;
    }
    Ok(())
}
