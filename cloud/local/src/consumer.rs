//! The pipeline's consumer of the stream: batches, retries, dead letters, checkpoint.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use convoy_cloud_core::counters::add;
use convoy_cloud_core::ingest::Ingest;
use convoy_cloud_core::record::Record;
use convoy_segment_log::{Position, Reader};
use tokio::sync::watch;

use crate::stream::{Batch, Consumer, LocalStream, read_batch};

/// Records in one batch, at most.
const BATCH_RECORDS_MAX: usize = 512;
/// Bytes in one batch, at most.
const BATCH_BYTES_MAX: usize = 8 << 20;
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Why the pipeline stands still, if it does; shown by `/ready`.
pub type Stalled = Arc<Mutex<Option<String>>>;

fn set_stalled(stalled: &Stalled, reason: Option<String>) {
    *stalled.lock().unwrap_or_else(PoisonError::into_inner) = reason;
}

/// Waits until there is something to read at `from`; `false` at shutdown.
pub async fn wait_for_records(
    end: &mut watch::Receiver<Position>,
    from: Position,
    shutdown: &mut watch::Receiver<bool>,
) -> bool {
    tokio::select! {
        biased;
        _ = shutdown.wait_for(|stop| *stop) => false,
        end = end.wait_for(|end| *end > from) => end.is_ok(),
    }
}

/// Waits; `false` if shutdown came first.
pub async fn pause(time: Duration, shutdown: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        () = tokio::time::sleep(time) => true,
        _ = shutdown.wait_for(|stop| *stop) => false,
    }
}

/// Reads a batch on a thread that may block.
pub async fn read(
    reader: Reader,
    from: Position,
    records_max: usize,
    bytes_max: usize,
) -> Result<(Reader, Batch)> {
    let mut reader = reader;
    tokio::task::spawn_blocking(move || {
        let batch = read_batch(&mut reader, from, records_max, bytes_max)?;
        Ok((reader, batch))
    })
    .await?
}

/// Works off the stream until shutdown.
pub async fn run(
    stream: Arc<LocalStream>,
    ingest: Ingest,
    stalled: Stalled,
    mut shutdown: watch::Receiver<bool>,
) -> Result<()> {
    let mut end = stream.watch_end();
    let mut reader = stream.reader();
    let mut from = stream.checkpoint(Consumer::Ingest);
    while wait_for_records(&mut end, from, &mut shutdown).await {
        let batch;
        (reader, batch) = read(reader, from, BATCH_RECORDS_MAX, BATCH_BYTES_MAX).await?;
        let records: Vec<Record> = batch.records.into_iter().map(|(_, record)| record).collect();
        if !work_off(&ingest, &records, &stalled, &mut shutdown).await {
            return Ok(());
        }
        from = batch.next;
        stream.save_checkpoint(Consumer::Ingest, from);
    }
    Ok(())
}

/// Works off a batch however long it takes; `false` if shutdown came first.
async fn work_off(
    ingest: &Ingest,
    records: &[Record],
    stalled: &Stalled,
    shutdown: &mut watch::Receiver<bool>,
) -> bool {
    let mut wait = RETRY_MIN;
    while let Err(error) = ingest.work_off(records).await {
        add(&ingest.counters.batches_retried, 1);
        tracing::warn!(%error, "ingest: batch will be tried again");
        set_stalled(stalled, Some(error.to_string()));
        if !pause(wait, shutdown).await {
            return false;
        }
        wait = (wait * 2).min(RETRY_MAX);
    }
    set_stalled(stalled, None);
    true
}
