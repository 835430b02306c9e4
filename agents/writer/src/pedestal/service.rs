//! A pedestal job from its parameters to its end.

use super::{
    darks::Darks,
    file::{self, Pedestals, Provenance},
};
use ecs_calibration::{GAINS, Maps, UNCONVERTED, state};
use ecs_schemas::{
    beamline::Beamline,
    error_code::{ErrorCode, Failure},
    job::Progress,
    pedestal_job::{FRAMES_MAX, PedestalParams, PedestalResult, SERVICE},
    value::Value,
};
use ecs_sdk::{Job, JobEnd, Service};
use ecs_shm_buffer::{Delivery, PixelAccess, ProcessId, Reader, Ring, Start};
use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

/// How soon a cancel is noticed while no image comes, and how often progress is told.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// The service `pedestal`.
pub struct PedestalService {
    beamline: Beamline,
    name: String,
}

/// How the images of a job ended.
enum Taken {
    All,
    Cancelled,
}

/// What a job is about.
struct Task {
    params: PedestalParams,
    output: PathBuf,
    gains: Vec<usize>,
    begun: SystemTime,
}

impl PedestalService {
    pub fn new(beamline: &Beamline, name: &str) -> Self {
        Self { beamline: beamline.clone(), name: name.to_owned() }
    }

    fn take(&self, job: &Job) -> Result<JobEnd, Failure> {
        let task = self.task(job)?;
        let ring = self.open_ring()?;
        let kept = self.kept(&task)?;
        let _unconverted = state::want_unconverted(&self.beamline.state_folder)
            .map_err(|error| Failure::new(ErrorCode::Busy, error.to_string()))?;
        let mut reader = Reader::lossy(&ring, ProcessId::current(), &self.name, Start::Next)
            .map_err(|error| Failure::new(ErrorCode::Busy, error.to_string()))?;
        job.running();
        let mut darks = Darks::new(&self.beamline.detector);
        let mut skipped = 0;
        if matches!(self.take_images(job, &task, &mut reader, &mut darks, &mut skipped)?, Taken::Cancelled) {
            return Ok(JobEnd::Cancelled { result: None });
        }
        drop(reader);
        let result = self.write(job, &task, &darks, kept, skipped)?;
        Ok(JobEnd::Done(Value::from_typed(&result)))
    }

    fn task(&self, job: &Job) -> Result<Task, Failure> {
        let wrong = |message: String| Failure::new(ErrorCode::BadParameter, message);
        let params: PedestalParams =
            job.params().to_typed().map_err(|error| wrong(format!("parameters of {SERVICE}: {error}")))?;
        if params.output.is_empty() {
            return Err(wrong("output is empty; give the path of the file".to_owned()));
        }
        if !(1..=FRAMES_MAX).contains(&params.frames) {
            return Err(wrong(format!("frames = {}; allowed: 1 to {FRAMES_MAX}", params.frames)));
        }
        if params.gains.is_empty() || params.gains.iter().any(|&gain| gain >= GAINS as u64) {
            return Err(wrong(format!("gains = {:?}; allowed: some of 0, 1 and 2", params.gains)));
        }
        let output = self.beamline.data_folder.join(&params.output);
        if output.exists() && !params.overwrite {
            let message = format!("{} exists; pass overwrite=true or choose another name", output.display());
            return Err(Failure::new(ErrorCode::OutputExists, message));
        }
        if !output.parent().is_some_and(std::path::Path::is_dir) {
            let message = format!("cannot write {}: there is no such folder", output.display());
            return Err(Failure::new(ErrorCode::Output, message));
        }
        let gains = params.gains.iter().map(|&gain| gain as usize).collect();
        Ok(Task { params, output, gains, begun: SystemTime::now() })
    }

    /// The pedestals in use, where some of them stay.
    fn kept(&self, task: &Task) -> Result<Option<(PathBuf, Maps)>, Failure> {
        if (0..GAINS).all(|gain| task.gains.contains(&gain)) {
            return Ok(None);
        }
        let failed = |error: ecs_calibration::CalibrationError| {
            Failure::new(ErrorCode::Other, error.to_string())
                .with_hint("the pedestals of the other gains are kept from it")
        };
        let active = state::active_pedestal(&self.beamline.state_folder).map_err(failed)?;
        let of_settings = self.beamline.conversion.convert.as_ref().and_then(|convert| convert.pedestal.clone());
        let Some(path) = active.map(|active| active.path).or(of_settings) else { return Ok(None) };
        let maps = ecs_calibration::pedestals(&self.beamline.detector, &path).map_err(failed)?;
        Ok(Some((path, maps)))
    }

    fn open_ring(&self) -> Result<Ring, Failure> {
        let path = &self.beamline.ring.path;
        let no_ring = |message: String| Failure::new(ErrorCode::NoRing, message).with_hint("start the assembler");
        let ring = ecs_shm_buffer::open(path, PixelAccess::ReadOnly).map_err(|error| no_ring(error.to_string()))?;
        if ring.is_closed() || ring.geometry().placement_hash != self.beamline.detector.placement.hash() {
            return Err(no_ring(format!("the ring {} is being closed, or another detector's", path.display())));
        }
        Ok(ring)
    }

    /// Adds images until there are enough of each gain, or something ends it.
    fn take_images(
        &self,
        job: &Job,
        task: &Task,
        reader: &mut Reader,
        darks: &mut Darks,
        skipped: &mut u64,
    ) -> Result<Taken, Failure> {
        let patience = task.params.image_timeout_ms.map_or(self.beamline.writer.image_timeout, Duration::from_millis);
        let mut pixels = vec![0; self.beamline.detector.placement.image_bytes()];
        let (mut last_taken, mut told) = (Instant::now(), Instant::now());
        loop {
            if task.gains.iter().all(|&gain| darks.images[gain] == task.params.frames) {
                self.tell(job, task, darks);
                return Ok(Taken::All);
            }
            if job.is_killed() {
                return Ok(Taken::Cancelled);
            }
            if last_taken.elapsed() > patience {
                return Err(no_images(task, darks, patience));
            }
            match reader.next(LOOK_PERIOD) {
                Some(delivery) => {
                    *skipped += delivery.overtaken;
                    match add(task, reader, &delivery, &mut pixels, darks) {
                        true => last_taken = Instant::now(),
                        false => *skipped += u64::from(delivery.image.is_some()),
                    }
                }
                None if reader.ring().is_closed() => {
                    return Err(Failure::new(ErrorCode::NoRing, "the assembler was stopped, and the ring with it"));
                }
                None => {}
            }
            if told.elapsed() >= LOOK_PERIOD {
                told = Instant::now();
                self.tell(job, task, darks);
            }
        }
    }

    fn tell(&self, job: &Job, task: &Task, darks: &Darks) {
        let done = task.gains.iter().map(|&gain| darks.images[gain]).sum();
        let total = task.params.frames * task.gains.len() as u64;
        let bytes = done * self.beamline.detector.placement.image_bytes() as u64;
        job.progress(Progress { done, total, unit: "images".to_owned(), bytes });
    }

    fn write(
        &self,
        job: &Job,
        task: &Task,
        darks: &Darks,
        kept: Option<(PathBuf, Maps)>,
        images_skipped: u64,
    ) -> Result<PedestalResult, Failure> {
        let output = &task.output;
        let failed = |error: io::Error| {
            let code = match error.kind() {
                io::ErrorKind::AlreadyExists => ErrorCode::OutputExists,
                io::ErrorKind::StorageFull => ErrorCode::DiskFull,
                _ => ErrorCode::Output,
            };
            Failure::new(code, format!("cannot write {}: {error}", output.display()))
        };
        let pedestals = Pedestals::new(darks, &task.gains, kept.as_ref().map(|(_, maps)| maps));
        let provenance = Provenance {
            beamline: self.beamline.name.clone(),
            writer: self.name.clone(),
            detector: self.beamline.detector.name.clone(),
            job: job.id().0,
            begun: task.begun,
            kept_from: kept.as_ref().map(|(path, _)| path.display().to_string()),
        };
        file::write(output, task.params.overwrite, darks, &pedestals, &provenance).map_err(failed)?;
        if task.params.apply {
            let active = state::activate(&self.beamline.state_folder, output)
                .map_err(|error| Failure::new(ErrorCode::Output, error.to_string()))?;
            // Done means in use: of the images that come from now on, none is made with the pedestals before.
            let from = SystemTime::UNIX_EPOCH + Duration::from_nanos(active.from_utc_ns);
            job.wait_killed(from.duration_since(SystemTime::now()).unwrap_or_default());
        }
        Ok(PedestalResult {
            output: output.display().to_string(),
            images: darks.images,
            images_skipped,
            pixels_without: pedestals.without,
            mean_adu: pedestals.mean_adu,
            rms_adu: pedestals.rms_adu,
            applied: task.params.apply,
        })
    }
}

/// Adds the image of a step, if it is one that is wanted (D1, D2).
fn add(task: &Task, reader: &Reader, delivery: &Delivery, pixels: &mut [u8], darks: &mut Darks) -> bool {
    let Some(image) = delivery.image.as_ref().filter(|image| image.made_with == UNCONVERTED) else { return false };
    if reader.copy_pixels(image, pixels).is_err() {
        return false;
    }
    let is_wanted = |gain: &usize| task.gains.contains(gain) && darks.images[*gain] < task.params.frames;
    let Some(gain) = darks.gain_of(pixels, &image.bitmap).filter(is_wanted) else { return false };
    darks.add(gain, pixels, &image.bitmap);
    true
}

fn no_images(task: &Task, darks: &Darks, patience: Duration) -> Failure {
    let missing = task.gains.iter().filter(|&&gain| darks.images[gain] < task.params.frames);
    let missing: Vec<String> =
        missing.map(|&gain| format!("gain {gain}: {} of {}", darks.images[gain], task.params.frames)).collect();
    let message = format!("no dark image that is wanted for {:.1} s; {}", patience.as_secs_f64(), missing.join(", "));
    let hint = "the detector is to send darks of each gain; force it into one after the other";
    Failure::new(ErrorCode::NoImages, message).with_hint(hint)
}

impl Service for PedestalService {
    fn name(&self) -> &str {
        SERVICE
    }

    fn help(&self) -> &str {
        "takes pedestals from dark images: output, frames (of each gain), gains, apply, overwrite, image_timeout_ms"
    }

    fn on_request(&self, job: &Job) -> JobEnd {
        self.take(job).unwrap_or_else(JobEnd::Rejected)
    }
}
