//! `events.db`: one SQLite file for events, state, feeds, queues and rules of one machine.
//!
//! One connection writes, a few read; all run on threads that may block. What is acknowledged is durable: WAL with
//! `synchronous = FULL`.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use convoy_cloud_core::ports::PortError;
use rusqlite::{Connection, Transaction};

/// What leads from each version to the next, the first from nothing. A released one is never changed.
const MIGRATIONS: [&str; 2] = [include_str!("events.sql"), include_str!("events_0002.sql")];
const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;
const READERS: usize = 3;

/// The database; cheap to clone.
#[derive(Clone)]
pub struct Database {
    writer: Arc<Mutex<Connection>>,
    readers: Arc<[Mutex<Connection>; READERS]>,
    next_reader: Arc<AtomicUsize>,
}

impl Database {
    /// Opens or creates the file.
    pub fn open(path: &Path) -> Result<Self> {
        let writer = connect(path)?;
        migrate(&writer, path)?;
        let mut readers = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            let reader = connect(path)?;
            reader.pragma_update(None, "query_only", true)?;
            readers.push(Mutex::new(reader));
        }
        let readers = readers.try_into().map_err(|_| anyhow::anyhow!("one connection a reader"))?;
        Ok(Self {
            writer: Arc::new(Mutex::new(writer)),
            readers: Arc::new(readers),
            next_reader: Arc::new(AtomicUsize::new(0)),
        })
    }

    /// Runs one transaction; it is durable when this returns.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, PortError> {
        let writer = Arc::clone(&self.writer);
        blocking(move || {
            let mut connection = writer.lock().unwrap_or_else(PoisonError::into_inner);
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })
        .await
    }

    /// Reads from one consistent state.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, PortError> {
        let (readers, next) = (Arc::clone(&self.readers), self.next_reader.fetch_add(1, Ordering::Relaxed));
        blocking(move || {
            let reader = readers[next % READERS].lock().unwrap_or_else(PoisonError::into_inner);
            work(&reader)
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, PortError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(port_error),
        Err(error) => Err(PortError::Unavailable { service: "events.db", reason: error.to_string() }),
    }
}

/// What SQLite says, sorted into what may pass and what will not.
fn port_error(error: rusqlite::Error) -> PortError {
    use rusqlite::ErrorCode;
    let reason = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) | None => {
            PortError::Refused { service: "events.db", reason }
        }
        Some(_) => PortError::Unavailable { service: "events.db", reason },
    }
}

fn connect(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path).with_context(|| format!("open {}", path.display()))?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn migrate(connection: &Connection, path: &Path) -> Result<()> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > SCHEMA_VERSION {
        bail!(
            "{} has schema version {version}, this convoy knows up to {SCHEMA_VERSION}: use a newer convoy",
            path.display()
        );
    }
    let Ok(done) = usize::try_from(version) else {
        bail!("{} has unknown schema version {version}", path.display())
    };
    if done > 0 && version < SCHEMA_VERSION {
        backup(connection, path, version)?;
    }
    for (step, to) in MIGRATIONS.iter().zip(1..).skip(done) {
        connection.execute_batch(&format!("BEGIN IMMEDIATE;{step};PRAGMA user_version = {to};COMMIT;"))?;
    }
    Ok(())
}

/// Copies the database before it is changed; the copy gets its name once it is whole.
fn backup(connection: &Connection, path: &Path, version: i64) -> Result<()> {
    let name = |end: &str| std::path::PathBuf::from(format!("{}.schema-{version}.{end}", path.display()));
    let (partial, whole) = (name("partial"), name("backup"));
    // Left by a crash: VACUUM INTO wants a new file.
    if partial.exists() {
        std::fs::remove_file(&partial)?;
    }
    let target = partial.to_str().context("the path of the database is not UTF-8")?;
    connection.execute("VACUUM INTO ?1", [target])?;
    std::fs::File::open(&partial)?.sync_all()?;
    std::fs::rename(&partial, &whole).with_context(|| format!("write {}", whole.display()))
}

/// Bodies shorter than this are kept as they are, bytes.
const PACK_BYTES_MIN: usize = 256;
/// Largest body that is read back, bytes.
const BODY_BYTES_MAX: usize = 64 << 20;

/// A body as it is stored: one byte (0 plain, 1 zstd) before it.
pub(crate) fn pack(body: &[u8]) -> Vec<u8> {
    if body.len() >= PACK_BYTES_MIN
        && let Ok(packed) = zstd::bulk::compress(body, 1)
        && packed.len() < body.len()
    {
        return [&[1], packed.as_slice()].concat();
    }
    [&[0], body].concat()
}

/// The body behind a stored one.
pub(crate) fn unpack(stored: &[u8]) -> rusqlite::Result<Vec<u8>> {
    let damaged = |reason: &str| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, reason.into())
    };
    match stored {
        [0, body @ ..] => Ok(body.to_vec()),
        [1, packed @ ..] => zstd::stream::decode_all(packed)
            .map_err(|_| damaged("a stored body cannot be decompressed"))
            .and_then(|body| {
                if body.len() > BODY_BYTES_MAX {
                    Err(damaged("a stored body is too large"))
                } else {
                    Ok(body)
                }
            }),
        _ => Err(damaged("a stored body has an unknown form")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_back_short_and_long() {
        for len in [0, 1, PACK_BYTES_MIN - 1, PACK_BYTES_MIN, 100_000] {
            let body = vec![b'x'; len];
            assert_eq!(unpack(&pack(&body)).unwrap(), body);
        }
        assert!(pack(&vec![b'x'; 100_000]).len() < 1_000);
        assert!(unpack(&[9]).is_err());
    }

    #[test]
    fn an_older_schema_is_backed_up_and_what_it_holds_is_in_the_ledger() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(&format!("{}; PRAGMA user_version = 1;", MIGRATIONS[0])).unwrap();
        old.execute("INSERT INTO event VALUES (x'07', 1, 2, 3, 1, 4, 5, 6, x'08')", []).unwrap();
        drop(old);
        drop(Database::open(&path).unwrap());
        let count = |path: &Path, table: &str| -> i64 {
            let connection = Connection::open(path).unwrap();
            connection.query_row(&format!("SELECT COUNT(*) FROM {table}"), [], |row| row.get(0)).unwrap()
        };
        assert_eq!((count(&path, "ledger"), count(&path, "event")), (1, 1));
        assert_eq!(count(&dir.path().join("events.db.schema-1.backup"), "event"), 1);
    }

    #[test]
    fn a_newer_schema_is_refused_with_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.db");
        drop(Database::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
        let error = Database::open(&path).err().unwrap().to_string();
        assert!(error.contains("schema version 7"), "{error}");
    }
}
