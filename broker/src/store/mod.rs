//! What survives the broker: one SQLite file with every job's record, and what follows what.
//!
//! ```text
//! broker.sqlite     jobs(id, key, service, state, record)       record: the JobRecord as MessagePack
//!                   followers(service, follows)                 the service that `service` follows
//! ```
//!
//! The text columns repeat what the record says, for a person with a SQLite shell; the broker reads only
//! the record.
//!
//! # Rules
//! S1  [`Store::save`] returns `Ok` only when all changes are on the disk: one transaction, WAL,
//!     `synchronous=FULL`. After an error none of them are.
//! S2  After an error the same store may be used again; it recovers when the disk does.
//! S3  A file of a newer schema is refused, not guessed at.

use crate::{
    core::{Change, Stored},
    limits::STORE_PATIENCE,
};
use ecs_schemas::{
    envelope::{decode, encode},
    job::JobRecord,
};
use rusqlite::{Connection, params};
use std::path::{Path, PathBuf};

/// Name of the file in the state folder.
pub const FILE_NAME: &str = "broker.sqlite";
/// `user_version` of the file. It rises when an older broker would misread it.
const SCHEMA_VERSION: i64 = 2;
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS jobs (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        service TEXT NOT NULL,
        state TEXT NOT NULL,
        record BLOB NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS followers (
        service TEXT PRIMARY KEY,
        follows TEXT NOT NULL
    ) STRICT;
    PRAGMA user_version = 2;";

/// Why a store could not be opened. Nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not there and cannot be made, not a database, or damaged.
    #[error(
        "cannot open the broker's store {path}: {source}; if it is damaged, move it away: the broker then begins without jobs"
    )]
    Sqlite { path: PathBuf, source: rusqlite::Error },
    /// A newer ECS wrote it.
    #[error(
        "{path} has schema {found}, this version reads up to {SCHEMA_VERSION}: use the newer ECS, or move the file away"
    )]
    Newer { path: PathBuf, found: i64 },
    /// A record is not what this version can read.
    #[error("job {id} in {path} cannot be read: {reason}; move the file away to begin without jobs")]
    Record { path: PathBuf, id: i64, reason: String },
}

/// The disk did not take a batch; nothing of it was stored.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SaveError(#[from] rusqlite::Error);

pub struct Store {
    connection: Connection,
}

impl Store {
    /// Opens or makes the store in `folder` and returns it with what is in it, jobs by id.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(folder: &Path) -> Result<(Self, Stored), OpenError> {
        let path = folder.join(FILE_NAME);
        let sqlite = |source| OpenError::Sqlite { path: path.clone(), source };
        let connection = Connection::open(&path).and_then(configure).map_err(sqlite)?;
        let found = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(sqlite)?;
        if found > SCHEMA_VERSION {
            return Err(OpenError::Newer { path, found });
        }
        connection.execute_batch(SCHEMA).map_err(sqlite)?;
        let rows = read_rows(&connection).map_err(sqlite)?;
        let followers = read_followers(&connection).map_err(sqlite)?;
        let record = |(id, bytes): (i64, Vec<u8>)| {
            decode(&bytes).map_err(|error| OpenError::Record { path: path.clone(), id, reason: error.to_string() })
        };
        let jobs = rows.into_iter().map(record).collect::<Result<_, _>>()?;
        Ok((Self { connection }, Stored { jobs, followers }))
    }

    /// Stores all changes or none (rule S1).
    ///
    /// # Errors
    /// The disk is full, broken, or locked by somebody else for too long.
    pub fn save(&mut self, changes: &[Change]) -> Result<(), SaveError> {
        if changes.is_empty() {
            return Ok(());
        }
        let transaction = self.connection.transaction()?;
        for change in changes {
            match change {
                Change::Save(record) => insert(&transaction, record)?,
                Change::Forget(id) => {
                    transaction.prepare_cached("DELETE FROM jobs WHERE id = ?1")?.execute([column(id.0)])?;
                }
                Change::Follow { service, follows: Some(follows) } => {
                    let sql = "INSERT OR REPLACE INTO followers (service, follows) VALUES (?1, ?2)";
                    transaction.prepare_cached(sql)?.execute([service, follows])?;
                }
                Change::Follow { service, follows: None } => {
                    transaction.prepare_cached("DELETE FROM followers WHERE service = ?1")?.execute([service])?;
                }
            }
        }
        Ok(transaction.commit()?)
    }
}

fn configure(connection: Connection) -> rusqlite::Result<Connection> {
    connection.busy_timeout(STORE_PATIENCE)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

fn read_rows(connection: &Connection) -> rusqlite::Result<Vec<(i64, Vec<u8>)>> {
    let mut statement = connection.prepare("SELECT id, record FROM jobs ORDER BY id")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

fn read_followers(connection: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement = connection.prepare("SELECT service, follows FROM followers ORDER BY service")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

fn insert(connection: &Connection, record: &JobRecord) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO jobs (id, key, service, state, record) VALUES (?1, ?2, ?3, ?4, ?5)";
    let row = params![column(record.id.0), record.key, record.service, record.state.as_str(), encode(record)];
    connection.prepare_cached(sql)?.execute(row)?;
    Ok(())
}

/// Ids count up from 1, so they fit SQLite's signed integers for as long as anybody submits jobs.
fn column(id: u64) -> i64 {
    i64::try_from(id).expect("ids count up from 1")
}
