//! Which images belong to a job, and what became of each id.
//!
//! # Rules
//! T1  A job takes images that are committed while it runs, ids `first ..= first + images - 1` of one
//!     run. Without `start`, the first image that comes is the first.
//! T2  Every one of these ids is written, or marked lost with the cause that the ring tells; what is
//!     still open at the end gets the cause of the end.
//! T3  A new run before anything of the job has come is waited through; after that it ends the job.

use crate::{
    calibrations::Calibrations,
    file::{ImageFile, ImageRow, WriteError},
};
use ecs_schemas::{
    error_code::{ErrorCode, Failure},
    image::LossCause,
};
use ecs_shm_buffer::{Delivery, Image, LostRange, Reader};

/// The images of one job, as they come.
pub struct Take<'a> {
    file: &'a mut ImageFile,
    images: u64,
    start: Option<u64>,
    /// First id and the id that is to come next, once known.
    ids: Option<(u64, u64)>,
    /// The run that the job's images are of.
    epoch: Option<u64>,
    calibrations: Calibrations,
    pub image_bytes: u64,
    pub images_written: u64,
}

/// Why a job's images ended before the last one.
#[derive(Debug)]
pub enum TakeError {
    Write(WriteError),
    /// The detector began again.
    RunEnded {
        last_id: u64,
    },
}

impl<'a> Take<'a> {
    /// # Errors
    /// The file refuses the ids.
    pub fn new(
        file: &'a mut ImageFile,
        images: u64,
        start: Option<u64>,
        image_bytes: u64,
        calibrations: Calibrations,
    ) -> Result<Self, WriteError> {
        let mut take =
            Self { file, images, start, ids: None, epoch: None, calibrations, image_bytes, images_written: 0 };
        if let Some(start) = start {
            take.begin_at(start)?;
        }
        Ok(take)
    }

    /// Takes what one step of the ring brings.
    ///
    /// # Errors
    /// The file cannot be written, or the run is over.
    pub fn take(&mut self, reader: &Reader, delivery: &Delivery) -> Result<(), TakeError> {
        self.follow_run(delivery)?;
        for range in &delivery.lost {
            self.lose(delivery.epoch, range)?;
        }
        if let Some(image) = &delivery.image {
            self.take_image(reader, delivery.epoch, image)?;
        }
        Ok(())
    }

    /// Every id has come or is lost.
    pub fn is_over(&self) -> bool {
        self.ids.is_some_and(|(first, next)| next == first + self.images)
    }

    /// Ids that have come or are lost.
    pub fn done(&self) -> u64 {
        self.ids.map_or(0, |(first, next)| next - first)
    }

    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.file.flush()
    }

    fn begin_at(&mut self, first_id: u64) -> Result<(), WriteError> {
        self.file.set_first_id(first_id)?;
        self.ids = Some((first_id, first_id));
        Ok(())
    }

    fn follow_run(&mut self, delivery: &Delivery) -> Result<(), TakeError> {
        match self.epoch {
            Some(epoch) if epoch != delivery.epoch => {
                let last_id = self.ids.map_or(0, |(_, next)| next.saturating_sub(1));
                Err(TakeError::RunEnded { last_id })
            }
            _ => Ok(()),
        }
    }

    /// Marks those of the lost ids that are the job's. Before the first image only a `start` says which.
    fn lose(&mut self, epoch: u64, range: &LostRange) -> Result<(), TakeError> {
        let Some((first, next)) = self.ids else { return Ok(()) };
        let end = (range.first_id + range.count).min(first + self.images);
        let begin = range.first_id.max(next);
        if begin >= end {
            return Ok(());
        }
        self.skip_to(epoch, begin)?;
        self.mark_lost(epoch, end, cause(range.cause))
    }

    fn take_image(&mut self, reader: &Reader, epoch: u64, image: &Image) -> Result<(), TakeError> {
        if self.ids.is_none() {
            self.begin_at(image.id).map_err(TakeError::Write)?;
        }
        let Some((first, next)) = self.ids else { return Ok(()) };
        if image.id < next {
            return Ok(()); // before the job's first image
        }
        self.skip_to(epoch, image.id.min(first + self.images))?;
        if image.id >= first + self.images {
            return Ok(()); // the job's ids were skipped by the detector
        }
        let packets = reader.ring().geometry().packets_per_image;
        let row = ImageRow {
            image_id: image.id,
            missing_packets: packets - image.packets_received,
            packet_received: &image.bitmap,
            first_packet_time_ns: image.first_packet_utc_ns,
            commit_time_ns: image.commit_utc_ns,
            detector_timestamp: image.detector_timestamp,
            exposure_length: image.exposure_length,
            do_not_store: image.do_not_store,
            calibration: image.made_with,
        };
        if let Some(text) = self.calibrations.note(image.made_with) {
            self.file.write_calibrations(text).map_err(TakeError::Write)?;
        }
        self.file.write_image(&row, reader.pixels(image)).map_err(TakeError::Write)?;
        self.images_written += 1;
        self.advance(epoch, image.id + 1);
        Ok(())
    }

    /// Ids of which the ring has told nothing were committed before the job ran (T1); later in a job
    /// there are none, since every id is committed or told lost.
    fn skip_to(&mut self, epoch: u64, id: u64) -> Result<(), TakeError> {
        let nothing_came = self.epoch.is_none() && self.start.is_some();
        let cause = if nothing_came { LossCause::BeforeJob } else { LossCause::Several };
        self.mark_lost(epoch, id, cause)
    }

    fn mark_lost(&mut self, epoch: u64, end: u64, cause: LossCause) -> Result<(), TakeError> {
        if let Some((_, next)) = self.ids
            && next < end
        {
            self.file.mark_lost(next..end, cause).map_err(TakeError::Write)?;
            self.advance(epoch, end);
        }
        Ok(())
    }

    fn advance(&mut self, epoch: u64, next_id: u64) {
        self.epoch = Some(epoch);
        if let Some((_, next)) = &mut self.ids {
            *next = next_id;
        }
    }
}

impl TakeError {
    /// What the job fails with, and the cause of the images that did not come.
    pub fn failure(&self) -> (Failure, LossCause) {
        match self {
            Self::Write(error) => (Failure::from(error), LossCause::WriteError),
            Self::RunEnded { last_id } => {
                let message = format!("the detector began a new run after image {last_id}");
                let hint = "ask for as many images as a run has, or submit before each run";
                (Failure::new(ErrorCode::NoImages, message).with_hint(hint), LossCause::RunEnded)
            }
        }
    }
}

fn cause(cause: ecs_shm_buffer::LossCause) -> LossCause {
    match cause {
        ecs_shm_buffer::LossCause::NotReceived => LossCause::NotReceived,
        ecs_shm_buffer::LossCause::RingFull => LossCause::RingFull,
        ecs_shm_buffer::LossCause::ReadoutStuck => LossCause::ReadoutStuck,
        ecs_shm_buffer::LossCause::OwnerDown => LossCause::AssemblerDown,
        ecs_shm_buffer::LossCause::Several => LossCause::Several,
    }
}
