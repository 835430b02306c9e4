//! The job in hand, on disk: a writer that comes back after a kill knows which file it owes an end.
//!
//! One small JSON file, replaced as a whole. It is written before the job's file is made and stays until
//! the next job replaces it: a kill before the broker has heard of the end is made good by telling it again.

use crate::file::{Author, End, EndState, recover};
use ecs_schemas::{
    error_code::{ErrorCode, Failure},
    image::LossCause,
    job::JobId,
    value::Value,
    write_job::Ledger,
};
use ecs_sdk::JobEnd;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
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
    output: PathBuf,
    images: u64,
}

impl Journal {
    /// The journal of the agent `name` in the beamline's state folder.
    pub fn new(state_folder: &Path, name: &str) -> Self {
        let path = state_folder.join(format!("{}.job.json", name.replace('/', ".")));
        Self { path, writer: name.to_owned() }
    }

    /// Notes the job before its file is made.
    ///
    /// # Errors
    /// The state folder cannot be written.
    pub fn begin(&self, job: JobId, output: &Path, images: u64) -> io::Result<()> {
        let entry = Entry { job, output: output.to_owned(), images };
        let text = serde_json::to_vec(&entry).map_err(io::Error::other)?;
        let unfinished = self.path.with_extension("new");
        let file = fs::File::create(&unfinished)?;
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

    /// Who writes the file of this job.
    pub fn author(&self, job: JobId) -> Author {
        Author { job: job.0, writer: self.writer.clone() }
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
        let end = End { state: EndState::Failed, reason, pending_cause: LossCause::WriterDown, sync: true };
        let recovered = recover(&entry.output, &self.author(entry.job), &end);
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
        journal.begin(JobId(7), &folder.path().join("run.h5"), 10).expect("written");
        let (job, end) = journal.recover().expect("an entry");
        assert_eq!(job, JobId(7));
        let JobEnd::Failed { failure, result: Some(result) } = end else { panic!("{end:?}") };
        assert_eq!(failure.code, ErrorCode::AgentLost);
        let ledger: Ledger = result.to_typed().expect("a ledger");
        assert!(ledger.is_balanced() && ledger.lost_total() == 10, "{ledger:?}");
        journal.forget();
        assert!(journal.recover().is_none());
    }
}
