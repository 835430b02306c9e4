//! A write job from its parameters to its end, as the broker sees it.

use crate::{
    calibrations::Calibrations,
    file::{CreateError, End, EndState, FileSpec, ImageFile},
    journal::Journal,
    packets::JobPackets,
    take::Take,
};
use ecs_schemas::{
    beamline::Beamline,
    detector::placement::PIXEL_MASKED,
    error_code::{ErrorCode, Failure},
    image::LossCause,
    job::Progress,
    value::Value,
    write_job::{Ledger, SERVICE, WriteParams},
};
use ecs_sdk::{Job, JobEnd, Service};
use ecs_shm_buffer::{PixelAccess, ProcessId, Reader, Ring, Start, is_image_id};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How soon a cancel is noticed while no image comes.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// How often progress is told and rows are flushed, so that a reader of the file is not far behind.
const PROGRESS_PERIOD: Duration = Duration::from_millis(250);

/// How long lost images are filled when the job is to end at once.
const FILL_PATIENCE: Duration = Duration::from_secs(3);

/// Counters of this process, for its telemetry.
#[derive(Debug, Default)]
pub struct Totals {
    pub images: AtomicU64,
    pub bytes: AtomicU64,
    pub jobs: AtomicU64,
}

/// The service `write`.
pub struct WriteService {
    beamline: Beamline,
    name: String,
    journal: Journal,
    totals: Arc<Totals>,
}

/// How the images of a job ended.
struct Ending {
    state: EndState,
    failure: Option<Failure>,
    /// Cause of the images that did not come.
    cause: LossCause,
}

impl WriteService {
    pub fn new(beamline: &Beamline, name: &str, journal: Journal, totals: Arc<Totals>) -> Self {
        Self { beamline: beamline.clone(), name: name.to_owned(), journal, totals }
    }

    fn write(&self, job: &Job) -> Result<JobEnd, Failure> {
        let params = read_params(job.params())?;
        let spec = self.file_spec(job, &params)?;
        let ring = self.open_ring()?;
        let io_failed =
            |error: std::io::Error| Failure::new(ErrorCode::Output, format!("cannot write the journal: {error}"));
        // A file that could not be ended before is ended now, or its only note would be replaced.
        let _ = self.journal.recover();
        self.journal.begin(&spec.author, &spec.output, spec.images).map_err(io_failed)?;
        let file = ImageFile::create(&spec).map_err(|error: CreateError| {
            self.journal.forget();
            Failure::from(&error)
        })?;
        job.accept();
        let end = self.write_images(job, &params, &spec, &ring, file);
        self.totals.jobs.fetch_add(1, Ordering::Relaxed);
        Ok(end)
    }

    fn file_spec(&self, job: &Job, params: &WriteParams) -> Result<FileSpec, Failure> {
        let placement = &self.beamline.detector.placement;
        let spec = FileSpec {
            output: self.output(&params.output)?,
            author: self.journal.author(job.id()),
            images: params.images,
            height: placement.height,
            width: placement.width,
            pixel: placement.pixel,
            packets_per_image: placement.packets_per_image(),
            fill: self.beamline.assembler.fill,
            overwrite: params.overwrite,
            detector_name: self.beamline.detector.name.clone(),
            detector_type: self.beamline.detector.detector_type.clone(),
            bit_depth: placement.packing.bits(placement.pixel) as u32,
            pixel_mask: self.pixel_mask()?,
            metadata: params.metadata.clone(),
        };
        Ok(spec)
    }

    /// Why pixels have no value of their own, those that settings mask among them.
    fn pixel_mask(&self) -> Result<Vec<u8>, Failure> {
        let mut pixel_mask = self.beamline.detector.placement.pixel_mask();
        let masked = ecs_calibration::mask(self.beamline.conversion.mask.as_deref(), &self.beamline.detector)
            .map_err(|error| Failure::new(ErrorCode::Other, error.to_string()).with_hint("see conversion.mask"))?;
        let masked = masked.unwrap_or_default();
        pixel_mask.iter_mut().zip(masked).filter(|(_, masked)| *masked).for_each(|(bits, _)| *bits |= PIXEL_MASKED);
        Ok(pixel_mask)
    }

    fn output(&self, output: &str) -> Result<PathBuf, Failure> {
        if output.is_empty() {
            return Err(Failure::new(ErrorCode::BadParameter, "output is empty; give the path of the file"));
        }
        Ok(self.beamline.data_folder.join(output))
    }

    fn open_ring(&self) -> Result<Ring, Failure> {
        let path = &self.beamline.ring.path;
        let no_ring = |message: String| Failure::new(ErrorCode::NoRing, message).with_hint("start the assembler");
        let ring = ecs_shm_buffer::open(path, PixelAccess::ReadOnly).map_err(|error| no_ring(error.to_string()))?;
        if ring.is_closed() {
            return Err(no_ring(format!("the ring {} is being closed", path.display())));
        }
        if ring.geometry().placement_hash != self.beamline.detector.placement.hash() {
            return Err(no_ring(format!("the ring {} was made for another detector configuration", path.display())));
        }
        Ok(ring)
    }

    fn write_images(
        &self,
        job: &Job,
        params: &WriteParams,
        spec: &FileSpec,
        ring: &Ring,
        mut file: ImageFile,
    ) -> JobEnd {
        let mut packets = JobPackets::begin(ring);
        let ending = match Reader::reliable(ring, ProcessId::current(), &self.name, Start::Next) {
            Ok(mut reader) => self.take_images(job, params, spec, &mut file, &mut reader, &mut packets),
            Err(error) => Ending::failed(Failure::new(ErrorCode::Busy, error.to_string()), LossCause::WriterDown),
        };
        let reason = ending.failure.as_ref().map(ToString::to_string).unwrap_or_default();
        let (state, pending_cause, sync) = (ending.state, ending.cause, self.beamline.writer.sync);
        let end = End { state, reason, pending_cause, packets: packets.end(), sync };
        let begun = Instant::now();
        let may_fill = || !job.is_killed() || begun.elapsed() < FILL_PATIENCE;
        match file.finish_while(&end, &may_fill) {
            Ok(ledger) => ending.into_job_end(&ledger),
            Err(error) => {
                let failure =
                    Failure::from(&error).with_hint("the file opens; its state says writing, its rows are right");
                JobEnd::Failed { failure, result: None }
            }
        }
    }

    /// Takes images until all have come, or something ends it.
    fn take_images(
        &self,
        job: &Job,
        params: &WriteParams,
        spec: &FileSpec,
        file: &mut ImageFile,
        reader: &mut Reader,
        packets: &mut JobPackets,
    ) -> Ending {
        let calibrations = Calibrations::new(&self.beamline.state_folder);
        let mut take = match Take::new(file, params.images, params.start, spec.image_bytes(), calibrations) {
            Ok(take) => take,
            Err(error) => return Ending::failed(Failure::from(&error), LossCause::WriteError),
        };
        let image_timeout = params.image_timeout_ms.map_or(self.beamline.writer.image_timeout, Duration::from_millis);
        job.running();
        let (mut last_image, mut told) = (Instant::now(), Instant::now());
        while !take.is_over() {
            match reader.next(LOOK_PERIOD.min(image_timeout)) {
                Some(delivery) => {
                    let taken = take.take(reader, &delivery);
                    reader.release();
                    if let Err(error) = taken {
                        let (failure, cause) = error.failure();
                        return Ending::failed(failure, cause);
                    }
                    if let Some(image) = &delivery.image {
                        packets.note_image(image);
                        last_image = Instant::now();
                    }
                }
                // Only now: what is in the ring is written also when its assembler has gone.
                None if reader.ring().is_closed() => return Ending::ring_closed(),
                None => {}
            }
            if let Some(ending) = interrupted(job, last_image.elapsed(), image_timeout, take.done()) {
                return ending;
            }
            if told.elapsed() >= PROGRESS_PERIOD {
                told = Instant::now();
                self.tell(job, params, &mut take);
            }
        }
        self.tell(job, params, &mut take);
        Ending { state: EndState::Done, failure: None, cause: LossCause::Several }
    }

    /// Tells how far the job is, and lets readers of the file see it.
    fn tell(&self, job: &Job, params: &WriteParams, take: &mut Take<'_>) {
        let bytes = take.images_written * take.image_bytes;
        job.progress(Progress { done: take.done(), total: params.images, unit: "images".to_owned(), bytes });
        self.totals.images.store(take.images_written, Ordering::Relaxed);
        self.totals.bytes.store(bytes, Ordering::Relaxed);
        // Rows that do not fit on the disk now are kept, and fail the job with the next image.
        let _ = take.flush();
    }
}

impl Service for WriteService {
    fn name(&self) -> &str {
        SERVICE
    }

    fn help(&self) -> &str {
        "writes images to an HDF5 file: output, images, start, overwrite, image_timeout_ms, metadata"
    }

    fn on_request(&self, job: &Job) -> JobEnd {
        let end = self.write(job).unwrap_or_else(JobEnd::Rejected);
        tracing::info!(job = job.id().0, end = summary(&end), "job ended");
        end
    }
}

impl Ending {
    fn failed(failure: Failure, cause: LossCause) -> Self {
        Self { state: EndState::Failed, failure: Some(failure), cause }
    }

    fn ring_closed() -> Self {
        let failure = Failure::new(ErrorCode::NoRing, "the assembler was stopped, and the ring with it");
        Self::failed(failure, LossCause::RingGone)
    }

    fn into_job_end(self, ledger: &Ledger) -> JobEnd {
        let result = Value::from_typed(ledger);
        match (self.state, self.failure) {
            (EndState::Cancelled, _) => JobEnd::Cancelled { result: Some(result) },
            (EndState::Failed, Some(failure)) => JobEnd::Failed { failure, result: Some(result) },
            _ => JobEnd::Done(result),
        }
    }
}

fn read_params(params: &Value) -> Result<WriteParams, Failure> {
    let wrong = |message: String| Failure::new(ErrorCode::BadParameter, message);
    let params: WriteParams = params.to_typed().map_err(|error| wrong(format!("parameters of write: {error}")))?;
    if params.images == 0 {
        return Err(wrong("images = 0; ask for at least 1".to_owned()));
    }
    if params.image_timeout_ms == Some(0) {
        return Err(wrong("image_timeout_ms = 0; give the longest pause between images, at least 1".to_owned()));
    }
    let last_id = params.start.unwrap_or(0).checked_add(params.images - 1);
    if !last_id.is_some_and(is_image_id) {
        return Err(wrong(format!(
            "start + images goes beyond the largest image id, {}",
            ecs_shm_buffer::limits::IMAGE_ID_MAX
        )));
    }
    Ok(params)
}

/// Why the images of a job end before the last, if they do.
fn interrupted(job: &Job, silence: Duration, image_timeout: Duration, done: u64) -> Option<Ending> {
    if job.is_killed() {
        let failure = Some(Failure::new(ErrorCode::Cancelled, "ended on request"));
        return Some(Ending { state: EndState::Cancelled, failure, cause: LossCause::Cancelled });
    }
    if silence < image_timeout {
        return None;
    }
    let message = format!("no image for {:.1} s, after {done} of the job's images", silence.as_secs_f64());
    let hint = "is the detector running, and does it send to this host's ports? `ecs-cli status` shows its packets";
    Some(Ending::failed(Failure::new(ErrorCode::NoImages, message).with_hint(hint), LossCause::Timeout))
}

fn summary(end: &JobEnd) -> String {
    match end {
        JobEnd::Done(_) => "done".to_owned(),
        JobEnd::Rejected(failure) => format!("rejected: {failure}"),
        JobEnd::Failed { failure, .. } => format!("failed: {failure}"),
        JobEnd::Cancelled { .. } => "cancelled".to_owned(),
    }
}
