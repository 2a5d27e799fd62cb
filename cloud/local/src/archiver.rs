//! The archive's consumer of the stream: raw records into objects, many in one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use convoy_cloud_core::archive::{OBJECT_BYTES_TARGET, ledger_entries, pack, write};
use convoy_cloud_core::counters::{Counters, add};
use convoy_cloud_core::ledger::{LedgerEntry, merged};
use convoy_cloud_core::ports::{EventStore, StreamPosition};
use convoy_cloud_core::record::Record;
use object_store::ObjectStore;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::consumer::{pause, read, wait_for_records};
use crate::stream::{Consumer, LocalStream};

/// Records read at once, at most.
const READ_RECORDS_MAX: usize = 1_024;
/// Bytes read at once, at most.
const READ_BYTES_MAX: usize = 4 << 20;
const ZSTD_LEVEL: i32 = 3;
const RETRY: Duration = Duration::from_secs(1);

/// An object being filled.
struct Open {
    first: StreamPosition,
    received_us: i64,
    records: Vec<Vec<u8>>,
    bytes: usize,
    /// Whose envelopes are in it.
    entries: Vec<LedgerEntry>,
    deadline: Instant,
}

/// Where the archive's consumer writes.
pub struct Archive {
    /// The archive.
    pub objects: Arc<dyn ObjectStore>,
    /// The ledger, which is told what is archived.
    pub store: Arc<dyn EventStore>,
    /// What is counted.
    pub counters: Arc<Counters>,
}

/// Writes objects until shutdown. A half-filled one is left to the next start, which reads its records again.
pub async fn run(
    stream: Arc<LocalStream>,
    archive: Archive,
    every: Duration,
    mut shutdown: watch::Receiver<bool>,
) -> Result<()> {
    let mut end = stream.watch_end();
    let mut reader = stream.reader();
    let mut from = stream.checkpoint(Consumer::Archive);
    let mut open: Option<Open> = None;
    loop {
        let deadline = open.as_ref().map(|open| open.deadline);
        let has_records = tokio::select! {
            biased;
            has_records = wait_for_records(&mut end, from, &mut shutdown) => has_records,
            () = sleep_until(deadline) => true,
        };
        if !has_records {
            return Ok(());
        }
        let batch;
        (reader, batch) = read(reader, from, READ_RECORDS_MAX, READ_BYTES_MAX).await?;
        for (position, record) in &batch.records {
            fill(&mut open, *position, record, every);
        }
        from = batch.next;
        let is_due = |open: &Open| open.bytes >= OBJECT_BYTES_TARGET || open.deadline <= Instant::now();
        if let Some(full) = open.take_if(|open| is_due(open)) {
            if !close(&archive, full, &mut shutdown).await? {
                return Ok(());
            }
            add(&archive.counters.archive_objects, 1);
            stream.save_checkpoint(Consumer::Archive, from);
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn fill(open: &mut Option<Open>, position: StreamPosition, record: &Record, every: Duration) {
    let open = open.get_or_insert_with(|| Open {
        first: position,
        received_us: record.received_us,
        records: Vec::new(),
        bytes: 0,
        entries: Vec::new(),
        deadline: Instant::now() + every,
    });
    let bytes = record.encode();
    open.entries.extend(ledger_entries([record]));
    open.bytes += bytes.len();
    open.records.push(bytes);
}

/// Writes an object, trying again until it is kept; `false` if shutdown came first.
async fn close(archive: &Archive, open: Open, shutdown: &mut watch::Receiver<bool>) -> Result<bool> {
    let (first, received_us, entries) = (open.first, open.received_us, merged(open.entries));
    let place = format!("{:020}", first.0);
    let compressed = tokio::task::spawn_blocking(move || {
        zstd::bulk::compress(&pack(open.records.iter().map(Vec::as_slice)), ZSTD_LEVEL)
    })
    .await??;
    while let Err(error) = write(&archive.objects, &place, received_us, compressed.clone()).await {
        tracing::warn!(%error, "archive: object will be tried again");
        if !pause(RETRY, shutdown).await {
            return Ok(false);
        }
    }
    while let Err(error) = archive.store.put_ledger(&entries).await {
        tracing::warn!(%error, "archive: ledger will be tried again");
        if !pause(RETRY, shutdown).await {
            return Ok(false);
        }
    }
    Ok(true)
}
