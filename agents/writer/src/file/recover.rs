//! A file that a killed writer left behind.

use super::{
    check::IMAGES_MAX,
    cut::apply,
    error::RecoverError,
    finish::sync,
    image_file::ImageFile,
    layout::{Layout, open_in_library, with_library},
    ledger::{LedgerField, read_end_state, read_ledger, read_number, read_text},
    publish::temporary_path,
    record,
    spec::{Author, End, EndState},
};
use ecs_schemas::write_job::Ledger;
use std::{
    fs::{self, File, OpenOptions},
    io,
    path::Path,
    time::{Duration, Instant},
};

/// How long lost images may be filled: the writer takes no job until its file has ended.
const FILL_PATIENCE: Duration = Duration::from_secs(10);

/// How a file ended, now or before.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovered {
    pub state: EndState,
    pub reason: String,
    /// `seconds` is 0: who knew it is gone.
    pub ledger: Ledger,
}

/// Ends what a killed writer left of its job, as `end` says; its pending cause is meant to be
/// `WriterDown`. Images whose pixels were written but whose row was not are lost with the others.
///
/// A temporary file of the author is removed. A file that had ended is left as it is, and says how it
/// ended. None comes back where no file of the author is left: none was published, or another file has its
/// name now; such a file is not touched. It may be called again at any time, also after it was killed.
///
/// Nobody else may be writing the file.
///
/// # Errors
/// The file cannot be opened, read or written, or is not one of this module.
pub fn recover(output: &Path, author: &Author, end: &End) -> Result<Option<Recovered>, RecoverError> {
    let wrong = |source| RecoverError::Io { path: output.to_owned(), source };
    remove_if_there(&temporary_path(output, author)).map_err(wrong)?;
    let file = match OpenOptions::new().read(true).write(true).open(output) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(wrong)?,
    };
    // Before the library looks at it: a cut that was not completed may have left nothing that it could open.
    if let Some(record) = record::read(&file).map_err(wrong)? {
        if record.author != *author {
            return Ok(None);
        }
        apply(&file, &record.patches, end.sync).map_err(wrong)?;
    }
    let layout = read_layout(&file).map_err(|reason| RecoverError::Layout { path: output.to_owned(), reason })?;
    let found = Author {
        job: read_number(&file, &layout, LedgerField::Job).map_err(wrong)?,
        writer: read_text(&file, &layout, LedgerField::Writer).map_err(wrong)?,
        file_id: read_number(&file, &layout, LedgerField::FileId).map_err(wrong)?,
    };
    if found != *author {
        return Ok(None);
    }
    if let Some(state) = read_end_state(&file, &layout).map_err(wrong)? {
        if end.sync {
            // Its writer may have been killed just before it had synced what it wrote.
            sync(&file, output).map_err(wrong)?;
        }
        return recovered_earlier(&file, &layout, output, state).map_err(wrong).map(Some);
    }
    let asked = read_number(&file, &layout, LedgerField::Asked).map_err(wrong)?;
    let first_id = read_number(&file, &layout, LedgerField::FirstId).map_err(wrong)?;
    check_numbers(asked, first_id, &layout)
        .map_err(|reason| RecoverError::Layout { path: output.to_owned(), reason })?;
    let begun = Instant::now();
    let may_fill = || begun.elapsed() < FILL_PATIENCE;
    let ledger = ImageFile::adopt(file, layout, output, author, asked, first_id).finish_while(end, &may_fill)?;
    Ok(Some(Recovered { state: end.state, reason: end.reason.clone(), ledger }))
}

fn read_layout(file: &File) -> Result<Layout, String> {
    with_library(|| Layout::read(&open_in_library(file, false).map_err(|error| error.to_string())?))
}

/// A damaged ledger must not make the sums of a recovery overflow.
fn check_numbers(asked: u64, first_id: u64, layout: &Layout) -> Result<(), String> {
    let ids_fit = (1..=IMAGES_MAX).contains(&asked) && first_id.checked_add(asked - 1).is_some();
    if ids_fit && layout.rows_longest <= asked {
        return Ok(());
    }
    Err(format!("{} rows for {asked} images from id {first_id} on", layout.rows_longest))
}

fn recovered_earlier(file: &File, layout: &Layout, output: &Path, state: EndState) -> io::Result<Recovered> {
    let ledger = Ledger { output: output.display().to_string(), ..read_ledger(file, layout)? };
    Ok(Recovered { state, reason: read_text(file, layout, LedgerField::Reason)?, ledger })
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
