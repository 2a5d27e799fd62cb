//! The archive's consumer of the stream: raw records into objects, many in one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use convoy_cloud_core::archive::{OBJECT_BYTES_TARGET, pack, write};
use convoy_cloud_core::counters::{Counters, add};
use convoy_cloud_core::ports::StreamPosition;
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
    deadline: Instant,
}

/// Writes objects until shutdown. A half-filled one is left to the next start, which reads its records again.
pub async fn run(
    stream: Arc<LocalStream>,
    objects: Arc<dyn ObjectStore>,
    counters: Arc<Counters>,
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
            if !close(&objects, full, &mut shutdown).await? {
                return Ok(());
            }
            add(&counters.archive_objects, 1);
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
        deadline: Instant::now() + every,
    });
    let bytes = record.encode();
    open.bytes += bytes.len();
    open.records.push(bytes);
}

/// Writes an object, trying again until it is kept; `false` if shutdown came first.
async fn close(
    objects: &Arc<dyn ObjectStore>,
    open: Open,
    shutdown: &mut watch::Receiver<bool>,
) -> Result<bool> {
    let (first, received_us) = (open.first, open.received_us);
    let compressed = tokio::task::spawn_blocking(move || {
        zstd::bulk::compress(&pack(open.records.iter().map(Vec::as_slice)), ZSTD_LEVEL)
    })
    .await??;
    while let Err(error) = write(objects, first, received_us, compressed.clone()).await {
        tracing::warn!(%error, "archive: object will be tried again");
        if !pause(RETRY, shutdown).await {
            return Ok(false);
        }
    }
    Ok(true)
}
