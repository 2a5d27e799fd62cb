//! Removes what is older than it has to be kept, a little at a time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::archive::object_path;
use convoy_cloud_core::ports::PortError;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use rusqlite::params;
use tokio::sync::watch;

use crate::config::Keep;
use crate::database::Database;
use crate::stream::LocalStream;

/// The stream is trimmed this often.
const TRIM_EVERY: Duration = Duration::from_secs(10);
/// The rest is looked at every so many trims: ten minutes.
const SWEEP_EVERY: u32 = 60;
/// Rows removed in one transaction, so that writers never wait long.
const ROWS_AT_ONCE: u32 = 2_000;
const DAY_US: i64 = 86_400_000_000;

/// What retention works on.
pub struct Retention {
    /// The limits.
    pub keep: Keep,
    /// The stream.
    pub stream: Arc<LocalStream>,
    /// Events, feeds and queues.
    pub database: Database,
    /// The archive.
    pub objects: Arc<dyn ObjectStore>,
    /// The clock.
    pub ambient: Ambient,
}

impl Retention {
    /// Works until shutdown.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) -> Result<()> {
        for turn in 0u32.. {
            let stream = Arc::clone(&self.stream);
            if let Err(error) = tokio::task::spawn_blocking(move || stream.trim()).await? {
                tracing::warn!(error = format!("{error:#}"), "retention: stream not trimmed, trying again");
            }
            if turn % SWEEP_EVERY == 0
                && let Err(error) = self.sweep().await
            {
                tracing::warn!(%error, "retention: trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(TRIM_EVERY) => {}
                _ = shutdown.wait_for(|stop| *stop) => break,
            }
        }
        Ok(())
    }

    fn days_ago_us(&self, days: u32) -> i64 {
        self.ambient.now_us().saturating_sub(i64::from(days).saturating_mul(DAY_US))
    }

    async fn sweep(&self) -> Result<(), PortError> {
        let before_us = self.days_ago_us(self.keep.days);
        while self.remove_rows(before_us).await? == ROWS_AT_ONCE as usize {}
        if let Some(days) = self.keep.archive_days {
            self.remove_objects(self.days_ago_us(days)).await?;
        }
        Ok(())
    }

    /// Removes old rows of every table, a bounded number each; the most removed from one.
    pub async fn remove_rows(&self, before_us: i64) -> Result<usize, PortError> {
        self.database
            .write(move |transaction| {
                transaction.execute(
                    "INSERT INTO feed_trimmed (subscription_id, position) \
                     SELECT subscription_id, max(position) FROM \
                       (SELECT subscription_id, position FROM feed WHERE committed_us < ?1 ORDER BY committed_us LIMIT ?2) \
                     WHERE true GROUP BY subscription_id \
                     ON CONFLICT (subscription_id) DO UPDATE SET position = max(position, excluded.position)",
                    params![before_us, ROWS_AT_ONCE],
                )?;
                let mut most = 0;
                for (table, key, column) in [
                    ("feed", "position", "committed_us"),
                    ("event", "rowid", "received_us"),
                    ("queue_message", "number", "sent_us"),
                ] {
                    let removed = transaction.execute(
                        &format!(
                            "DELETE FROM {table} WHERE {key} IN \
                             (SELECT {key} FROM {table} WHERE {column} < ?1 ORDER BY {column} LIMIT ?2)"
                        ),
                        params![before_us, ROWS_AT_ONCE],
                    )?;
                    most = most.max(removed);
                }
                Ok(most)
            })
            .await
    }

    async fn remove_objects(&self, before_us: i64) -> Result<(), PortError> {
        let unavailable = |error: object_store::Error| PortError::Unavailable {
            service: "object store",
            reason: error.to_string(),
        };
        // Names sort by hour, so everything below the first name of the limit's hour is older.
        let limit = object_path("0", before_us);
        let mut folders = vec![Path::from("raw/v1")];
        while let Some(folder) = folders.pop() {
            let listing = self.objects.list_with_delimiter(Some(&folder)).await.map_err(unavailable)?;
            folders.extend(listing.common_prefixes.into_iter().filter(|path| path.as_ref() < limit.as_ref()));
            for object in listing.objects.iter().filter(|object| object.location < limit) {
                self.objects.delete(&object.location).await.map_err(unavailable)?;
            }
        }
        Ok(())
    }
}
