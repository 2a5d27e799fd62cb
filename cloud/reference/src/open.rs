//! Opening the database: pool, schema, key check, packages.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use convoy_cloud_core::ports::PortError;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyPool, ConnectOptions as _, Connection as _, Row as _};
use tokio::sync::OnceCell;

use crate::failure::{port_error, refused, unavailable};
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

/// How a database is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Connections at most, 1 or more.
    pub connections_max: u32,
    /// How long a statement waits for a connection, the making of a new one included.
    pub acquire_timeout: Duration,
    /// Whether opening connects, makes or migrates the schema and stores the packages. Otherwise opening asks no
    /// network; schema and key are checked at the first use, which is refused where either is another's.
    pub migrate: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { connections_max: CONNECTIONS_MAX, acquire_timeout: ACQUIRE_TIMEOUT, migrate: true }
    }
}

/// Gives the password for connections made from now on, in place of the url's. It is asked before every use of the
/// pool, most of which make no connection: it should keep what is still good, and bound its own time.
pub type PasswordProvider =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<String, PortError>> + Send>> + Send + Sync>;

/// A connection proxy shares its connections between clients, and pins one to a client that names a statement: so
/// PostgreSQL's statements have no names unless the url says how many are kept.
const STATEMENT_CACHE_CAPACITY: &str = "statement-cache-capacity";

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
            Some("sqlite") if cfg!(feature = "sqlite") => Ok(Self::Sqlite),
            Some("postgres" | "postgresql") if cfg!(feature = "postgres") => Ok(Self::Postgres),
            Some("sqlite" | "postgres" | "postgresql") => {
                Err(refused("this program was built without the database that the url names"))
            }
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
    /// Only for opening and closing: all else asks [`Reference::pool`].
    pool: AnyPool,
    pub(crate) keys: Keyring,
    pub(crate) dialect: Dialect,
    password: Option<PasswordProvider>,
    /// Set once schema and key are known to be ours.
    checked: OnceCell<()>,
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reference").field("dialect", &self.dialect).finish_non_exhaustive()
    }
}

impl Reference {
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
        Self::open_with(url, key, &OpenOptions::default(), None).await
    }

    /// As [`Reference::open`], with options; `password`, if given, takes the place of the one in the url.
    ///
    /// # Errors
    /// As [`Reference::open`], and what `password` says; without [`OpenOptions::migrate`] only a url that cannot work
    /// is an error here.
    pub async fn open_with(
        url: &str,
        key: &VinKey,
        options: &OpenOptions,
        password: Option<PasswordProvider>,
    ) -> Result<Self, PortError> {
        let dialect = Dialect::of(url)?;
        if dialect == Dialect::Sqlite && (url.contains(":memory:") || url.contains("mode=memory")) {
            return Err(refused("a database in memory would not be shared by its connections: name a file"));
        }
        sqlx::any::install_default_drivers();
        let connect = connect_options(url, dialect)?;
        let pool = pool_options(options, dialect).connect_lazy_with(connect);
        let checked = OnceCell::new();
        let reference = Self { pool, keys: Keyring::derive(key), dialect, password, checked };
        if options.migrate {
            reference.migrate(options.acquire_timeout).await?;
        }
        Ok(reference)
    }

    async fn migrate(&self, timeout: Duration) -> Result<(), PortError> {
        self.renew_password().await?;
        let probed = tokio::time::timeout(timeout, probe(&self.pool.connect_options(), self.dialect)).await;
        probed.map_err(|_| unavailable(format!("no connection within {} s", timeout.as_secs())))??;
        schema::migrate(&self.pool, self.dialect, MIGRATIONS).await?;
        self.store_check_tag().await?;
        self.pool().await?;
        self.seed_packages().await
    }

    /// The connections, with the password of now, to a database whose schema and key are ours.
    pub(crate) async fn pool(&self) -> Result<&AnyPool, PortError> {
        self.renew_password().await?;
        let check = async || {
            schema::check(&self.pool, MIGRATIONS).await?;
            self.check_key().await
        };
        self.checked.get_or_try_init(check).await?;
        Ok(&self.pool)
    }

    async fn renew_password(&self) -> Result<(), PortError> {
        let Some(password) = &self.password else { return Ok(()) };
        let password = password().await?;
        let now = self.pool.connect_options();
        let mut options = AnyConnectOptions::clone(&now);
        options
            .database_url
            .set_password(Some(&password))
            .map_err(|()| refused("the url names no host, so it can have no password"))?;
        if options.database_url != now.database_url {
            self.pool.set_connect_options(options);
        }
        Ok(())
    }

    /// Closes all connections, once their statements are done.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Stores the key's tag in a database that has none yet. Another process may be first, with another key.
    async fn store_check_tag(&self) -> Result<(), PortError> {
        sqlx::query("INSERT INTO key_check (only_row, tag) VALUES (1, $1) ON CONFLICT (only_row) DO NOTHING")
            .bind(self.keys.check_tag().as_slice())
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(port_error)
    }

    async fn check_key(&self) -> Result<(), PortError> {
        if self.stored_check_tag().await?.as_deref() == Some(self.keys.check_tag().as_slice()) {
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

fn connect_options(url: &str, dialect: Dialect) -> Result<AnyConnectOptions, PortError> {
    let mut options: AnyConnectOptions = url.parse().map_err(port_error)?;
    let has_capacity = options.database_url.query_pairs().any(|(name, _)| name == STATEMENT_CACHE_CAPACITY);
    if dialect == Dialect::Postgres && !has_capacity {
        options.database_url.query_pairs_mut().append_pair(STATEMENT_CACHE_CAPACITY, "0");
    }
    Ok(options.disable_statement_logging())
}

fn pool_options(options: &OpenOptions, dialect: Dialect) -> AnyPoolOptions {
    let options = AnyPoolOptions::new()
        .max_connections(options.connections_max)
        .acquire_timeout(options.acquire_timeout);
    match dialect {
        Dialect::Postgres => options,
        Dialect::Sqlite => options.after_connect(|connection, _| {
            Box::pin(async move { sqlx::raw_sql(SQLITE_PRAGMAS).execute(connection).await.map(drop) })
        }),
    }
}

#[cfg(test)]
#[cfg(feature = "sqlite")]
mod tests {
    use super::*;

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
}
