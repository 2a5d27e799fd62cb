//! Opening the database: pool, schema, key check, packages.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use convoy_cloud_core::ports::PortError;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyPool, ConnectOptions as _, Connection as _, Row as _};

use crate::failure::{port_error, refused};
use crate::schema::{self, MIGRATIONS};
use crate::secret::{Keyring, VinKey};

/// Connections of one pool at most. SQLite has one writer at a time anyway.
const CONNECTIONS_MAX: u32 = 4;
/// How long a statement waits for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the first connection is tried.
const PROBE_ATTEMPTS_MAX: u32 = 20;
/// How long to wait between two tries.
const PROBE_WAIT: Duration = Duration::from_millis(25);

/// What every SQLite connection starts with. In WAL mode, `synchronous = FULL` makes each commit survive a power cut.
const SQLITE_PRAGMAS: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; \
    PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;";

/// The database behind the common SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// SQLite 3.
    Sqlite,
    /// PostgreSQL.
    Postgres,
}

impl Dialect {
    fn of(url: &str) -> Result<Self, PortError> {
        match url.split(':').next() {
            Some("sqlite") => Ok(Self::Sqlite),
            Some("postgres" | "postgresql") => Ok(Self::Postgres),
            _ => Err(refused("the url must begin with sqlite: or postgres:")),
        }
    }

    /// Begins a transaction in which all reads see one moment.
    pub(crate) const fn begin_snapshot(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN",
            Self::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        }
    }
}

/// The reference database, open. Cloning is not needed: share it behind an `Arc`.
pub struct Reference {
    pub(crate) pool: AnyPool,
    pub(crate) keys: Keyring,
    pub(crate) dialect: Dialect,
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reference").field("dialect", &self.dialect).finish_non_exhaustive()
    }
}

impl Reference {
    /// Opens the SQLite database at `path`, creating the file where there is none; otherwise as [`Reference::open`].
    pub async fn open_file(path: &Path, key: &VinKey) -> Result<Self, PortError> {
        let absolute = std::path::absolute(path)
            .map_err(|error| refused(format!("{} is not a usable path: {error}", path.display())))?;
        Self::open(&sqlite_url(&absolute)?, key).await.map_err(|error| with_path(error, path))
    }

    /// Opens the database at `url`: `sqlite:///absolute/file?mode=rwc` (`mode=rw` where the file must exist).
    ///
    /// Makes or migrates the schema; before migrating an existing SQLite file up, a backup of it is written beside
    /// it as `FILE.schema-VERSION.backup`. Stores the packages of this version of Convoy that are not there yet.
    ///
    /// # Errors
    /// `Refused` where the schema is newer than this program, the key is not the one the database was made with, the
    /// url is not usable, or it names a database in memory (each connection would have its own). `Unavailable` where
    /// the database cannot be reached or is locked.
    pub async fn open(url: &str, key: &VinKey) -> Result<Self, PortError> {
        let dialect = Dialect::of(url)?;
        if dialect == Dialect::Sqlite && (url.contains(":memory:") || url.contains("mode=memory")) {
            return Err(refused("a database in memory would not be shared by its connections: name a file"));
        }
        sqlx::any::install_default_drivers();
        let options: AnyConnectOptions = url.parse().map_err(port_error)?;
        let options = options.disable_statement_logging();
        probe(&options, dialect).await?;
        let pool = pool_options(dialect).connect_with(options).await.map_err(port_error)?;
        let reference = Self { pool, keys: Keyring::derive(key), dialect };
        schema::migrate(&reference.pool, dialect, MIGRATIONS).await?;
        reference.check_key().await?;
        reference.seed_packages().await?;
        Ok(reference)
    }

    /// Closes all connections, once their statements are done.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn check_key(&self) -> Result<(), PortError> {
        let mut stored = self.stored_check_tag().await?;
        if stored.is_none() {
            sqlx::query(
                "INSERT INTO key_check (only_row, tag) VALUES (1, $1) ON CONFLICT (only_row) DO NOTHING",
            )
            .bind(self.keys.check_tag().as_slice())
            .execute(&self.pool)
            .await
            .map_err(port_error)?;
            // Another process may have been first, with another key.
            stored = self.stored_check_tag().await?;
        }
        if stored.as_deref() == Some(self.keys.check_tag().as_slice()) {
            return Ok(());
        }
        Err(refused("the vin key is not the one this database was made with: give the same key as before"))
    }

    async fn stored_check_tag(&self) -> Result<Option<Vec<u8>>, PortError> {
        sqlx::query("SELECT tag FROM key_check")
            .fetch_optional(&self.pool)
            .await
            .and_then(|row| row.map(|row| row.try_get("tag")).transpose())
            .map_err(port_error)
    }
}

/// Connects once beside the pool, which would repeat what cannot work until its time is up and not say why.
///
/// A new file is switched to WAL here. SQLite does not wait for another connection that is doing the same but says
/// that it is busy, whatever the busy timeout: so this waits.
async fn probe(options: &AnyConnectOptions, dialect: Dialect) -> Result<(), PortError> {
    let mut attempt = 1;
    loop {
        match connect_once(options, dialect).await.map_err(port_error) {
            Err(error) if error.is_transient() && attempt < PROBE_ATTEMPTS_MAX => {
                attempt += 1;
                tokio::time::sleep(PROBE_WAIT).await;
            }
            outcome => return outcome,
        }
    }
}

async fn connect_once(options: &AnyConnectOptions, dialect: Dialect) -> Result<(), sqlx::Error> {
    let mut connection = options.connect().await?;
    if dialect == Dialect::Sqlite {
        sqlx::raw_sql(SQLITE_PRAGMAS).execute(&mut connection).await?;
    }
    connection.close().await
}

/// The error with the file's name, which the driver does not tell.
fn with_path(error: PortError, path: &Path) -> PortError {
    let named = |reason| format!("{}: {reason}", path.display());
    match error {
        PortError::Unavailable { service, reason } => {
            PortError::Unavailable { service, reason: named(reason) }
        }
        PortError::Refused { service, reason } => PortError::Refused { service, reason: named(reason) },
        PortError::Conflict { service, reason } => PortError::Conflict { service, reason: named(reason) },
    }
}

fn pool_options(dialect: Dialect) -> AnyPoolOptions {
    let options = AnyPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(ACQUIRE_TIMEOUT);
    match dialect {
        Dialect::Postgres => options,
        Dialect::Sqlite => options.after_connect(|connection, _| {
            Box::pin(async move { sqlx::raw_sql(SQLITE_PRAGMAS).execute(connection).await.map(drop) })
        }),
    }
}

/// The url of a SQLite file; all but the characters that no url changes are percent-encoded.
fn sqlite_url(path: &Path) -> Result<String, PortError> {
    let text = path.to_str().ok_or_else(|| refused(format!("{} is not UTF-8", path.display())))?;
    let mut url = String::from("sqlite://");
    for byte in text.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                url.push(char::from(byte))
            }
            _ => write!(url, "%{byte:02X}").expect("a String takes every write"),
        }
    }
    url.push_str("?mode=rwc");
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_with_url_characters_stay_file_names() {
        let url = sqlite_url(Path::new("/srv/a b/100%/x?y#z.sqlite")).unwrap();
        assert_eq!(url, "sqlite:///srv/a%20b/100%25/x%3Fy%23z.sqlite?mode=rwc");
    }

    #[tokio::test]
    async fn urls_that_cannot_work_are_refused_with_a_sentence() {
        for (url, words) in [
            ("mysql://host/x", "must begin with sqlite: or postgres:"),
            ("sqlite::memory:", "name a file"),
            ("sqlite://x?mode=memory", "name a file"),
        ] {
            let error = Reference::open(url, &VinKey([1; 32])).await.unwrap_err();
            assert!(!error.is_transient() && error.to_string().contains(words), "{error}");
        }
    }

    #[tokio::test]
    async fn every_connection_of_the_pool_syncs_each_commit_and_checks_references() {
        let directory = tempfile::tempdir().unwrap();
        let reference =
            Reference::open_file(&directory.path().join("r.sqlite"), &VinKey([1; 32])).await.unwrap();
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut connection = reference.pool.acquire().await.unwrap();
            for (pragma, value) in
                [("PRAGMA synchronous", 2_i64), ("PRAGMA foreign_keys", 1), ("PRAGMA busy_timeout", 5000)]
            {
                let row = sqlx::query(pragma).fetch_one(&mut *connection).await.unwrap();
                assert_eq!(row.get::<i64, _>(0), value, "{pragma}");
            }
            let row = sqlx::query("PRAGMA journal_mode").fetch_one(&mut *connection).await.unwrap();
            assert_eq!(row.get::<String, _>(0), "wal");
            connections.push(connection);
        }
        assert_eq!(reference.pool.size(), CONNECTIONS_MAX);
    }

    #[tokio::test]
    async fn file_in_a_missing_folder_is_named_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let error = Reference::open_file(&directory.path().join("missing/r.sqlite"), &VinKey([1; 32])).await;
        assert!(error.unwrap_err().to_string().contains("missing/r.sqlite: "));
    }
}
