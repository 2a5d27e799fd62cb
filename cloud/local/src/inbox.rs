//! The watched folder: a CSV file put into `inbox/` is imported, then removed; its outcome is kept in `inbox/done/`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::import::{IMPORT_BYTES_MAX, vehicle_map};
use convoy_cloud_core::ports::PortError;
use convoy_cloud_core::reference::{Import, ReferenceDatabase};
use convoy_cloud_core::snapshot::SnapshotCell;
use tokio::sync::watch;

const POLL: Duration = Duration::from_millis(500);

/// Size and time of change: a file is taken when both stood still over one poll, so that it was written to its end.
type Seen = (u64, SystemTime);

/// The folder and what imports work on.
pub struct Inbox {
    /// The folder.
    pub folder: PathBuf,
    /// Where mappings go.
    pub reference: Arc<dyn ReferenceDatabase>,
    /// Refreshed after an import.
    pub snapshot: Arc<SnapshotCell>,
    /// Time and randomness.
    pub ambient: Ambient,
}

impl Inbox {
    /// Watches until shutdown.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) -> Result<()> {
        let mut seen: HashMap<PathBuf, Seen> = HashMap::new();
        loop {
            seen = match self.poll(&seen).await {
                Ok(seen) => seen,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "inbox: trying again");
                    seen
                }
            };
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
            }
        }
    }

    async fn poll(&self, before: &HashMap<PathBuf, Seen>) -> Result<HashMap<PathBuf, Seen>> {
        let mut now = HashMap::new();
        for (path, seen) in list_csv(&self.folder)? {
            if before.get(&path) != Some(&seen) {
                now.insert(path, seen);
            } else if let Err(error) = self.take(&path).await {
                tracing::warn!(file = %path.display(), error = format!("{error:#}"), "inbox: file will be tried again");
                now.insert(path, seen);
            }
        }
        Ok(now)
    }

    async fn take(&self, path: &Path) -> Result<()> {
        let name = path.file_name().context("a listed file has a name")?.to_string_lossy().into_owned();
        let bytes = tokio::fs::metadata(path).await?.len();
        let outcome = if bytes > IMPORT_BYTES_MAX as u64 {
            let reason = format!("{bytes} bytes, at most {IMPORT_BYTES_MAX} are allowed");
            tracing::warn!(file = name, reason, "inbox: file refused");
            serde_json::json!({"source": name, "refused": reason})
        } else {
            let import = self.import(&name, &tokio::fs::read(path).await?).await?;
            serde_json::to_value(import)?
        };
        let done = self.folder.join("done");
        tokio::fs::create_dir_all(&done).await?;
        let stamp = self.ambient.now_us();
        let result = done.join(format!("{stamp}-{name}.result.json"));
        tokio::fs::write(result, serde_json::to_vec_pretty(&outcome)?).await?;
        // The file itself holds VINs, which are kept nowhere in clear.
        tokio::fs::remove_file(path).await?;
        Ok(())
    }

    async fn import(&self, name: &str, file: &[u8]) -> Result<Import, PortError> {
        let import = vehicle_map(self.reference.as_ref(), &self.ambient, name, file).await?;
        self.snapshot.refresh(self.reference.as_ref()).await?;
        tracing::info!(
            file = name,
            import.id = %import.id,
            rows = import.rows,
            accepted = import.accepted,
            rejected = import.rejected,
            "inbox: file imported"
        );
        Ok(import)
    }
}

fn list_csv(folder: &Path) -> Result<Vec<(PathBuf, Seen)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let path = entry.path();
        if metadata.is_file() && path.extension().is_some_and(|extension| extension == "csv") {
            found.push((path, (metadata.len(), metadata.modified()?)));
        }
    }
    found.sort();
    Ok(found)
}
