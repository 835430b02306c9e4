//! The job in hand, on disk: a writer that comes back after a kill knows which file it owes an end.
//!
//! One small JSON file, replaced as a whole. It is written before the job's file is made and stays until
//! the next job replaces it: a kill before the broker has heard of the end is made good by telling it again.
//!
//! Who recovers must be sure that the one before is dead, or it would end a file that is being written. So each
//! process holds a lock beside the journal, which the kernel gives back when it has gone, and not before.

use crate::file::{Author, End, EndState, recover};
use ecs_schemas::{
    error_code::{ErrorCode, Failure},
    image::LossCause,
    job::JobId,
    packets::PacketLedger,
    value::Value,
    write_job::Ledger,
};
use ecs_sdk::JobEnd;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, TryLockError},
    hash::{BuildHasher, RandomState},
    io,
    path::{Path, PathBuf},
    time::Instant,
};

/// Where the entry of one writer process is kept.
#[derive(Debug, Clone)]
pub struct Journal {
    path: PathBuf,
    /// Name of the agent.
    writer: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    job: JobId,
    file_id: u64,
    output: PathBuf,
    images: u64,
}

/// The right to use a journal; given back with the process.
#[derive(Debug)]
pub struct JournalLock {
    _file: File,
}

/// Why a journal was not locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another process is the writer {writer} and may be writing a file: it holds {}; stop it first", path.display())]
    Held { writer: String, path: PathBuf },
    #[error("cannot lock {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Journal {
    /// The journal of the agent `name` in the beamline's state folder.
    pub fn new(state_folder: &Path, name: &str) -> Self {
        let path = state_folder.join(format!("{}.job.json", name.replace('/', ".")));
        Self { path, writer: name.to_owned() }
    }

    /// Makes this process the only one that uses the journal.
    ///
    /// # Errors
    /// Another process has it, or the state folder cannot be written.
    pub fn lock(&self) -> Result<JournalLock, LockError> {
        let path = self.path.with_extension("lock");
        let wrong = |source| LockError::Io { path: path.clone(), source };
        let file = File::options().create(true).append(true).open(&path).map_err(wrong)?;
        match file.try_lock() {
            Ok(()) => Ok(JournalLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held { writer: self.writer.clone(), path }),
            Err(TryLockError::Error(source)) => Err(wrong(source)),
        }
    }

    /// Notes the job before its file is made.
    ///
    /// # Errors
    /// The state folder cannot be written.
    pub fn begin(&self, author: &Author, output: &Path, images: u64) -> io::Result<()> {
        let entry = Entry { job: JobId(author.job), file_id: author.file_id, output: output.to_owned(), images };
        let text = serde_json::to_vec(&entry).map_err(io::Error::other)?;
        let unfinished = self.path.with_extension("new");
        let file = File::create(&unfinished)?;
        io::Write::write_all(&mut &file, &text)?;
        file.sync_all()?;
        fs::rename(&unfinished, &self.path)
    }

    /// The job has no file.
    pub fn forget(&self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the journal of a job without a file");
        }
    }

    /// Who writes a new file for this job.
    pub fn author(&self, job: JobId) -> Author {
        self.author_of(job, RandomState::new().hash_one(Instant::now()))
    }

    fn author_of(&self, job: JobId, file_id: u64) -> Author {
        Author { job: job.0, writer: self.writer.clone(), file_id }
    }

    /// Ends what the process before left behind. Returns the job and how it ended, to be reported.
    pub fn recover(&self) -> Option<(JobId, JobEnd)> {
        let text = fs::read(&self.path).ok()?;
        let entry: Entry = match serde_json::from_slice(&text) {
            Ok(entry) => entry,
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "cannot read the journal; a file may lack its ledger");
                return None;
            }
        };
        let reason = "the writer was killed while it wrote this file".to_owned();
        let packets = PacketLedger::default(); // what it had counted went with it
        let end = End { state: EndState::Failed, reason, pending_cause: LossCause::WriterDown, packets, sync: true };
        let recovered = recover(&entry.output, &self.author_of(entry.job, entry.file_id), &end);
        tracing::debug!(job = entry.job.0, output = %entry.output.display(), "told again how the last job ended");
        Some((entry.job, job_end(&entry, recovered)))
    }
}

fn job_end(entry: &Entry, recovered: Result<Option<crate::file::Recovered>, crate::file::RecoverError>) -> JobEnd {
    let lost = |message: String| Failure::new(ErrorCode::AgentLost, message);
    match recovered {
        Ok(Some(recovered)) => {
            let result = Value::from_typed(&recovered.ledger);
            match recovered.state {
                EndState::Done => JobEnd::Done(result),
                EndState::Cancelled => JobEnd::Cancelled { result: Some(result) },
                EndState::Failed => JobEnd::Failed { failure: lost(recovered.reason), result: Some(result) },
            }
        }
        Ok(None) => {
            let ledger = Ledger {
                asked: entry.images,
                lost: [(LossCause::WriterDown, entry.images)].into(),
                ..Ledger::default()
            };
            let failure = lost("the writer was killed before the first image; no file was left".to_owned());
            JobEnd::Failed { failure, result: Some(Value::from_typed(&ledger)) }
        }
        Err(error) => {
            let failure = lost(format!("the writer was killed, and its file cannot be ended: {error}"));
            JobEnd::Failed { failure, result: None }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_without_a_file_is_reported_as_lost_and_a_forgotten_one_not_at_all() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let journal = Journal::new(folder.path(), "x01/writer");
        assert!(journal.recover().is_none());
        journal.begin(&journal.author(JobId(7)), &folder.path().join("run.h5"), 10).expect("written");
        let (job, end) = journal.recover().expect("an entry");
        assert_eq!(job, JobId(7));
        let JobEnd::Failed { failure, result: Some(result) } = end else { panic!("{end:?}") };
        assert_eq!(failure.code, ErrorCode::AgentLost);
        let ledger: Ledger = result.to_typed().expect("a ledger");
        assert!(ledger.is_balanced() && ledger.lost_total() == 10, "{ledger:?}");
        journal.forget();
        assert!(journal.recover().is_none());
    }

    #[test]
    fn second_process_of_a_writer_is_refused_until_the_first_has_gone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let journal = Journal::new(folder.path(), "x01/writer");
        let first = journal.lock().expect("nobody has it");
        let error = journal.lock().expect_err("the first has it");
        assert!(matches!(error, LockError::Held { .. }), "{error}");
        assert!(error.to_string().contains("x01/writer"), "{error}");
        Journal::new(folder.path(), "x01/writer-1").lock().expect("another writer");
        drop(first);
        journal.lock().expect("the first has gone");
    }

    #[test]
    fn every_file_of_a_job_has_an_id_of_its_own() {
        let journal = Journal::new(Path::new("/nowhere"), "x01/writer");
        assert_ne!(journal.author(JobId(7)), journal.author(JobId(7)));
    }
}
