//! The watching thread: reads the calibration that is to be used, and tells when another one is.

use crate::converter::Shared;
use ecs_calibration::{Calibration, CalibrationError, state};
use ecs_schemas::beamline::Beamline;
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// How soon new pedestals are noticed: well within the time from which they are used ([`state::APPLY_AFTER`]).
const LOOK_PERIOD: Duration = Duration::from_millis(250);

/// Ends the thread when it is dropped.
pub struct Watch {
    pub shared: Arc<Shared>,
    is_over: Arc<AtomicBool>,
}

impl Watch {
    /// Reads the calibration that is active, for some of the modules, and begins to watch for others.
    ///
    /// # Errors
    /// It cannot be read: nothing could be converted.
    pub fn start(beamline: &Beamline, modules: Range<usize>) -> Result<Self, CalibrationError> {
        let shared = Arc::new(Shared::default());
        let is_over = Arc::new(AtomicBool::new(false));
        let mut watcher = Watcher {
            beamline: beamline.clone(),
            modules,
            shared: Arc::clone(&shared),
            active: state::active_pedestal(&beamline.state_folder)?,
            is_unconverted: false,
            trouble: None,
        };
        watcher.read(Duration::ZERO)?;
        watcher.look_for_unconverted();
        let over = Arc::clone(&is_over);
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                watcher.look();
                thread::sleep(LOOK_PERIOD);
            }
        });
        Ok(Self { shared, is_over })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

struct Watcher {
    beamline: Beamline,
    modules: Range<usize>,
    shared: Arc<Shared>,
    active: Option<state::ActivePedestal>,
    is_unconverted: bool,
    /// What stands in the way of finding the pedestals that are active: said once.
    trouble: Option<String>,
}

impl Watcher {
    fn look(&mut self) {
        self.look_for_unconverted();
        match state::active_pedestal(&self.beamline.state_folder) {
            Ok(active) if active != self.active => {
                let from = active.as_ref().map_or(0, |active| active.from_utc_ns);
                self.active = active;
                // Said once: what is used stays as it was until another file is named.
                if let Err(error) = self.read(Duration::from_nanos(from)) {
                    tracing::error!("new pedestals are not used: {error}");
                }
            }
            Ok(_) => self.trouble = None,
            Err(error) => {
                let trouble = Some(error.to_string());
                if trouble != self.trouble {
                    tracing::error!("pedestals stay as they are: {error}");
                    self.trouble = trouble;
                }
            }
        }
    }

    fn look_for_unconverted(&mut self) {
        let is_wanted = state::is_unconverted_wanted(&self.beamline.state_folder);
        if is_wanted != self.is_unconverted {
            self.is_unconverted = is_wanted;
            self.shared.set_unconverted(is_wanted);
            tracing::info!(is_wanted, "pixels as they come");
        }
    }

    /// Reads what is active, and tells of it before any image has its number.
    fn read(&self, from: Duration) -> Result<(), CalibrationError> {
        let pedestal = self.active.as_ref().map(|active| active.path.as_path());
        let calibration = Calibration::read(&self.beamline, pedestal, self.modules.clone())
            .map_err(|error| state::explained(error, self.active.as_ref(), &self.beamline.state_folder))?;
        calibration.tell(&self.beamline.state_folder)?;
        let pedestal = calibration.about.pedestal.as_deref().unwrap_or("none".as_ref()).display();
        tracing::info!(number = format!("{:016x}", calibration.number), %pedestal, "calibration read");
        self.shared.add(calibration, from);
        Ok(())
    }
}
