//! What survives the broker: one SQLite file with every job's record, what follows what, what the subsystems said of
//! themselves, and the values of items with `persist`.
//!
//! ```text
//! broker.sqlite     jobs(id, key, service, state, record)       record: the JobRecord as MessagePack
//!                   followers(service, follows)                 the service that `service` follows
//!                   subsystems(name, agent, record)             record: the StoredSubsystem
//!                   item_values(subsystem, item, record)        record: the StoredValue
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
    core::{Change, Changes, Stored, StoredValue, Unstored},
    limits::STORE_PATIENCE,
};
use ecs_schemas::{
    envelope::{decode, encode},
    job::JobRecord,
};
use rusqlite::{Connection, params};
use serde::de::DeserializeOwned;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

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
    CREATE TABLE IF NOT EXISTS subsystems (
        name TEXT PRIMARY KEY,
        agent TEXT NOT NULL,
        record BLOB NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS item_values (
        subsystem TEXT NOT NULL,
        item TEXT NOT NULL,
        record BLOB NOT NULL,
        PRIMARY KEY (subsystem, item)
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
    #[error("{what} in {path} cannot be read: {reason}; move the file away to begin without what is in it")]
    Record { path: PathBuf, what: String, reason: String },
}

/// The disk did not take a batch; nothing of it was stored.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SaveError(#[from] rusqlite::Error);

pub struct Store {
    connection: Connection,
}

impl Store {
    /// Opens or makes the store in `folder` and returns it with what is in it.
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
        let stored = Stored {
            followers: read_followers(&connection).map_err(sqlite)?,
            jobs: read_records(&connection, &path, "SELECT 'job ' || id, record FROM jobs ORDER BY id")?,
            subsystems: read_records(&connection, &path, "SELECT 'subsystem ' || name, record FROM subsystems")?,
            values: read_records(
                &connection,
                &path,
                "SELECT 'the value of ' || subsystem || ' ' || item, record FROM item_values",
            )?,
        };
        Ok((Self { connection }, stored))
    }

    /// Stores all changes or none (rule S1). `patience`: how long somebody else's lock is waited for.
    ///
    /// # Errors
    /// The disk is full, broken, or locked by somebody else for too long.
    pub fn save(&mut self, changes: &Changes, patience: Duration) -> Result<(), SaveError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.connection.busy_timeout(patience)?;
        let transaction = self.connection.transaction()?;
        insert_values(&transaction, &changes.values)?;
        for change in &changes.jobs {
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

    /// Stores descriptions, or forgets those of subsystems that are no more: all or none.
    ///
    /// # Errors
    /// As [`Store::save`].
    pub fn save_subsystems(&mut self, subsystems: &[Unstored]) -> Result<(), SaveError> {
        self.connection.busy_timeout(STORE_PATIENCE)?;
        let transaction = self.connection.transaction()?;
        for Unstored { name, subsystem, items, values } in subsystems {
            match subsystem {
                Some(subsystem) => {
                    let sql = "INSERT OR REPLACE INTO subsystems (name, agent, record) VALUES (?1, ?2, ?3)";
                    transaction.prepare_cached(sql)?.execute(params![name, subsystem.agent, encode(subsystem)])?;
                }
                None => {
                    transaction.prepare_cached("DELETE FROM subsystems WHERE name = ?1")?.execute([name])?;
                }
            }
            forget_values(&transaction, name, items)?;
            insert_values(&transaction, values)?;
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

/// The records of a table: `sql` selects what each is, for the error, and its bytes.
fn read_records<T: DeserializeOwned>(connection: &Connection, path: &Path, sql: &str) -> Result<Vec<T>, OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let mut statement = connection.prepare(sql).map_err(sqlite)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(sqlite)?;
    let record = |row: rusqlite::Result<(String, Vec<u8>)>| {
        let (what, bytes) = row.map_err(sqlite)?;
        decode(&bytes).map_err(|error| OpenError::Record { path: path.to_owned(), what, reason: error.to_string() })
    };
    rows.map(record).collect()
}

fn read_followers(connection: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement = connection.prepare("SELECT service, follows FROM followers ORDER BY service")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

fn insert_values(connection: &Connection, values: &[StoredValue]) -> rusqlite::Result<()> {
    for value in values {
        let sql = "INSERT OR REPLACE INTO item_values (subsystem, item, record) VALUES (?1, ?2, ?3)";
        connection.prepare_cached(sql)?.execute(params![value.subsystem, value.item, encode(value)])?;
    }
    Ok(())
}

/// Forgets the values of a subsystem's items that are not among those that have one.
fn forget_values(connection: &Connection, subsystem: &str, kept: &BTreeSet<String>) -> rusqlite::Result<()> {
    let mut select = connection.prepare_cached("SELECT item FROM item_values WHERE subsystem = ?1")?;
    let stored: Vec<String> = select.query_map([subsystem], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for item in stored.iter().filter(|item| !kept.contains(*item)) {
        let sql = "DELETE FROM item_values WHERE subsystem = ?1 AND item = ?2";
        connection.prepare_cached(sql)?.execute([subsystem, item])?;
    }
    Ok(())
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
