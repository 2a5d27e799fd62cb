//! The schema's versions, and the way up.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use convoy_cloud_core::ports::PortError;
use sqlx::{Any, AnyPool, AssertSqlSafe, Row as _, Transaction};

use crate::failure::{port_error, refused, unavailable};
use crate::open::Dialect;

/// One step up.
pub(crate) struct Migration {
    /// The version it leads to; versions count from 1 without a gap.
    pub(crate) version: i64,
    /// Statements for SQLite; for PostgreSQL, `BLOB` is read as `BYTEA` and `TEXT` as `TEXT COLLATE "C"`.
    pub(crate) sql: &'static str,
}

/// All steps, oldest first. A released one is never changed.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, sql: include_str!("../migrations/0001_initial.sql") },
    Migration { version: 2, sql: include_str!("../migrations/0002_vehicle_campaigns.sql") },
    Migration { version: 3, sql: include_str!("../migrations/0003_certificates.sql") },
    Migration { version: 4, sql: include_str!("../migrations/0004_endpoint_class.sql") },
];

/// The advisory lock that PostgreSQL's migrations hold: "Convoy" in ASCII. Without it, two programs that create the
/// same table at once disturb each other, `IF NOT EXISTS` or not.
const POSTGRES_LOCK: i64 = 0x43_6f_6e_76_6f_79;

/// Refuses a schema that is not the newest one known here. Writes nothing.
pub(crate) async fn check(pool: &AnyPool, migrations: &[Migration]) -> Result<(), PortError> {
    let newest = migrations.last().map_or(0, |migration| migration.version);
    let found = match stored_version(pool).await {
        // No such table, in PostgreSQL and in SQLite.
        Err(sqlx::Error::Database(error)) if ["42P01", "1"].contains(&&*error.code().unwrap_or_default()) => {
            0
        }
        found => found.map_err(port_error)?,
    };
    if found == newest {
        return Ok(());
    }
    Err(refused(format!(
        "its schema has version {found} and this program needs version {newest}: migrate the database, or run the \
         program it was migrated for"
    )))
}

/// Brings the schema to the newest version, each step in a transaction of its own.
pub(crate) async fn migrate(
    pool: &AnyPool,
    dialect: Dialect,
    migrations: &[Migration],
) -> Result<(), PortError> {
    let newest = migrations.last().map_or(0, |migration| migration.version);
    let found = version(pool, dialect).await?;
    if found > newest {
        return Err(refused(format!(
            "its schema has version {found} and this program knows versions up to {newest}: \
             run the newer program, or restore the backup it made"
        )));
    }
    if found > 0 && found < newest && dialect == Dialect::Sqlite {
        backup(pool, found).await?;
    }
    for migration in migrations.iter().filter(|migration| migration.version > found) {
        apply(pool, dialect, migration).await?;
    }
    Ok(())
}

/// The schema's version; 0 where there is none, and then the table for it is made.
async fn version(pool: &AnyPool, dialect: Dialect) -> Result<i64, PortError> {
    let mut transaction = begin(pool, dialect).await?;
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS schema_version (\
         only_row BIGINT NOT NULL PRIMARY KEY CHECK (only_row = 1), version BIGINT NOT NULL)",
    )
    .execute(&mut *transaction)
    .await
    .map_err(port_error)?;
    transaction.commit().await.map_err(port_error)?;
    stored_version(pool).await.map_err(port_error)
}

async fn stored_version(pool: &AnyPool) -> Result<i64, sqlx::Error> {
    let row = sqlx::query("SELECT version FROM schema_version").fetch_optional(pool).await?;
    row.map_or(Ok(0), |row| row.try_get("version"))
}

/// A transaction; on PostgreSQL, the only one of its kind.
async fn begin(pool: &AnyPool, dialect: Dialect) -> Result<Transaction<'static, Any>, PortError> {
    let mut transaction = pool.begin().await.map_err(port_error)?;
    if dialect == Dialect::Postgres {
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(POSTGRES_LOCK)
            .execute(&mut *transaction)
            .await
            .map_err(port_error)?;
    }
    Ok(transaction)
}

async fn apply(pool: &AnyPool, dialect: Dialect, migration: &Migration) -> Result<(), PortError> {
    let mut transaction = begin(pool, dialect).await?;
    let raised = sqlx::query(
        "INSERT INTO schema_version (only_row, version) VALUES (1, $1) \
         ON CONFLICT (only_row) DO UPDATE SET version = $1 WHERE schema_version.version = $2",
    )
    .bind(migration.version)
    .bind(migration.version - 1)
    .execute(&mut *transaction)
    .await
    .map_err(port_error)?;
    if raised.rows_affected() == 0 {
        // Another process made this step meanwhile.
        return transaction.rollback().await.map_err(port_error);
    }
    let sql = match dialect {
        Dialect::Sqlite => migration.sql.to_owned(),
        // Text is compared and sorted byte by byte, as SQLite does, whatever the server's locale.
        Dialect::Postgres => migration.sql.replace("BLOB", "BYTEA").replace(" TEXT", " TEXT COLLATE \"C\""),
    };
    // A compiled-in script without any value of a user.
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(port_error)?;
    transaction.commit().await.map_err(port_error)
}

/// Copies a SQLite database to `FILE.schema-VERSION.backup`. The copy gets its name once it is whole and on disk.
async fn backup(pool: &AnyPool, version: i64) -> Result<(), PortError> {
    let file: String = sqlx::query("SELECT file FROM pragma_database_list WHERE name = 'main'")
        .fetch_one(pool)
        .await
        .and_then(|row| row.try_get("file"))
        .map_err(port_error)?;
    let failed = |path: &Path, error: std::io::Error| {
        unavailable(format!("the backup before migrating, {}, cannot be written: {error}", path.display()))
    };
    let whole = PathBuf::from(format!("{file}.schema-{version}.backup"));
    let partial = PathBuf::from(format!("{file}.schema-{version}.partial"));
    // Left by a crash: VACUUM INTO wants a new file.
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(&partial, error)),
        _ => {}
    }
    let target = partial.to_str().ok_or_else(|| refused(format!("{} is not UTF-8", partial.display())))?;
    sqlx::query("VACUUM INTO $1").bind(target).execute(pool).await.map_err(port_error)?;
    File::open(&partial).and_then(|copy| copy.sync_all()).map_err(|error| failed(&partial, error))?;
    fs::rename(&partial, &whole).map_err(|error| failed(&whole, error))?;
    let directory = whole.parent().unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| failed(&whole, error))
}

#[cfg(test)]
#[cfg(feature = "sqlite")]
mod tests {
    use sqlx::any::AnyPoolOptions;

    use super::*;

    const TWO: &[Migration] = &[
        Migration { version: 1, sql: "CREATE TABLE a (x BIGINT); INSERT INTO a (x) VALUES (7);" },
        Migration { version: 2, sql: "ALTER TABLE a ADD COLUMN y BIGINT; UPDATE a SET y = x + 1;" },
    ];

    async fn pool(file: &Path) -> AnyPool {
        sqlx::any::install_default_drivers();
        let url = format!("sqlite://{}?mode=rwc", file.display());
        AnyPoolOptions::new().max_connections(2).connect(&url).await.unwrap()
    }

    async fn number(pool: &AnyPool, sql: &'static str) -> i64 {
        sqlx::query(sql).fetch_one(pool).await.unwrap().try_get(0).unwrap()
    }

    #[tokio::test]
    async fn older_schema_is_backed_up_and_migrated() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("r.sqlite");
        let database = pool(&file).await;
        migrate(&database, Dialect::Sqlite, &TWO[..1]).await.unwrap();
        let backup = directory.path().join("r.sqlite.schema-1.backup");
        assert!(!backup.exists(), "a new database needs no backup");
        fs::write(directory.path().join("r.sqlite.schema-1.partial"), b"left by a crash").unwrap();

        migrate(&database, Dialect::Sqlite, TWO).await.unwrap();
        assert_eq!(number(&database, "SELECT y FROM a").await, 8);
        assert_eq!(version(&database, Dialect::Sqlite).await.unwrap(), 2);
        let copy = pool(&backup).await;
        assert_eq!(number(&copy, "SELECT x FROM a").await, 7);
        assert_eq!(version(&copy, Dialect::Sqlite).await.unwrap(), 1);

        migrate(&database, Dialect::Sqlite, TWO).await.unwrap();
        assert_eq!(number(&database, "SELECT COUNT(*) FROM a").await, 1);
    }

    #[tokio::test]
    async fn failed_step_leaves_the_version_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let database = pool(&directory.path().join("r.sqlite")).await;
        let broken = [
            Migration { version: 1, sql: TWO[0].sql },
            Migration {
                version: 2,
                sql: "INSERT INTO a (x) VALUES (8); INSERT INTO missing (x) VALUES (1);",
            },
        ];
        assert!(migrate(&database, Dialect::Sqlite, &broken).await.is_err());
        assert_eq!(version(&database, Dialect::Sqlite).await.unwrap(), 1);
        assert_eq!(number(&database, "SELECT COUNT(*) FROM a").await, 1);
    }

    #[test]
    fn versions_count_from_one_without_a_gap() {
        let versions: Vec<i64> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        assert_eq!(versions, (1..=i64::try_from(MIGRATIONS.len()).unwrap()).collect::<Vec<_>>());
    }
}
