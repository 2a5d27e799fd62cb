//! The durable stream on one machine: a segment log, one append and one fsync for everything that came meanwhile.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use convoy_cloud_core::ports::{PortError, Stream, StreamPosition};
use convoy_cloud_core::record::Record;
use convoy_protocol::envelope::ENVELOPE_BYTES_MAX;
use convoy_segment_log::{AppendError, Options, Position, Reader, SegmentLog, WriteError};
use tokio::sync::watch;

/// Size of a segment file, bytes; also the bound of one append.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// Room for what a record holds besides its payload, bytes.
const RECORD_OVERHEAD_BYTES: u32 = 256;

/// The consumers of the stream, each with a checkpoint of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consumer {
    /// Writes the raw archive.
    Archive,
    /// Feeds the pipeline.
    Ingest,
}

impl Consumer {
    const ALL: [Self; 2] = [Self::Archive, Self::Ingest];

    const fn name(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Ingest => "ingest",
        }
    }
}

/// The stream.
pub struct LocalStream {
    log: Arc<Mutex<SegmentLog>>,
    dir: PathBuf,
    end: watch::Sender<Position>,
    bytes_max: u64,
}

/// A batch read by a consumer.
pub struct Batch {
    /// Records with their positions; bytes that are no record are left out and were logged.
    pub records: Vec<(StreamPosition, Record)>,
    /// Checkpoint after this batch.
    pub next: Position,
}

impl LocalStream {
    /// Opens the stream in `dir`; it takes no more records when it holds `bytes_max`.
    pub fn open(dir: &Path, bytes_max: u64) -> Result<Self> {
        let record_bytes_max = u32::try_from(ENVELOPE_BYTES_MAX)? + RECORD_OVERHEAD_BYTES;
        let options = Options { segment_bytes_max: SEGMENT_BYTES_MAX, record_bytes_max };
        let (mut log, recovery) = SegmentLog::open(dir.join("log"), options)
            .with_context(|| format!("open the stream in {}", dir.display()))?;
        if let Some(tail) = &recovery.torn_tail {
            tracing::warn!(
                bytes = tail.bytes,
                from = tail.from.0,
                "stream: cut records that a crash left unfinished"
            );
        }
        for gap in &recovery.gaps {
            tracing::error!(first = gap.first.0, end = gap.end.0, reason = ?gap.reason, "stream: records are missing");
        }
        let behind = Consumer::ALL.into_iter().map(|consumer| read_checkpoint(dir, consumer)).max();
        if let Some(checkpoint) = behind.filter(|checkpoint| *checkpoint > log.end_position()) {
            // The disk lost synced records that were consumed already: their positions must not be given again.
            log.skip_to(checkpoint)?;
        }
        let (end, _) = watch::channel(log.durable_position());
        Ok(Self { log: Arc::new(Mutex::new(log)), dir: dir.to_owned(), end, bytes_max })
    }

    fn log(&self) -> std::sync::MutexGuard<'_, SegmentLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells when records become durable.
    pub fn watch_end(&self) -> watch::Receiver<Position> {
        self.end.subscribe()
    }

    /// A reader for one consumer.
    pub fn reader(&self) -> Reader {
        self.log().reader()
    }

    /// Where a consumer goes on.
    pub fn checkpoint(&self, consumer: Consumer) -> Position {
        read_checkpoint(&self.dir, consumer).max(self.log().first_position())
    }

    /// Remembers how far a consumer is. A crash or a full disk may lose it; the consumer then does some of its work
    /// again after the next start.
    pub fn save_checkpoint(&self, consumer: Consumer, next: Position) {
        let path = checkpoint_path(&self.dir, consumer);
        let temporary = path.with_extension("new");
        let written =
            std::fs::write(&temporary, next.0.to_string()).and_then(|()| std::fs::rename(&temporary, &path));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "stream: checkpoint not written, the next one will tell");
        }
    }

    /// Removes segments that every consumer is done with.
    pub fn trim(&self) -> Result<u64> {
        let done = Consumer::ALL.into_iter().map(|consumer| read_checkpoint(&self.dir, consumer)).min();
        let mut log = self.log();
        match done {
            // One segment is kept at least: emptying the log at every turn would only make small files.
            Some(done) if log.segments() > 1 => Ok(log.truncate_before(done)?.bytes),
            _ => Ok(0),
        }
    }
}

fn checkpoint_path(dir: &Path, consumer: Consumer) -> PathBuf {
    dir.join(format!("checkpoint.{}", consumer.name()))
}

/// A checkpoint that is missing or unreadable means the beginning: work done again changes nothing.
fn read_checkpoint(dir: &Path, consumer: Consumer) -> Position {
    let text = std::fs::read_to_string(checkpoint_path(dir, consumer)).unwrap_or_default();
    Position(text.trim().parse().unwrap_or(0))
}

/// Reads the next batch for a consumer, on a thread that may block.
pub fn read_batch(
    reader: &mut Reader,
    from: Position,
    records_max: usize,
    bytes_max: usize,
) -> Result<Batch> {
    let batch = reader.read(from, records_max, bytes_max)?;
    for gap in &batch.gaps {
        tracing::error!(first = gap.first.0, end = gap.end.0, reason = ?gap.reason, "stream: records are missing");
    }
    let mut records = Vec::with_capacity(batch.records.len());
    for (position, bytes) in batch.records {
        match Record::decode(&bytes) {
            Ok(record) => records.push((StreamPosition(position.0), record)),
            Err(error) => tracing::error!(position = position.0, %error, "stream: skipped a record"),
        }
    }
    Ok(Batch { records, next: batch.next })
}

/// A log whose sync failed takes nothing until it is opened again: that is a refusal, anything else may pass.
fn append_failed(error: AppendError) -> PortError {
    let is_poisoned = matches!(error, AppendError::Write(WriteError::Poisoned { .. }));
    let reason = format!("{:#}", anyhow::Error::new(error));
    if is_poisoned {
        PortError::Refused { service: "stream", reason }
    } else {
        PortError::Unavailable { service: "stream", reason }
    }
}

#[async_trait]
impl Stream for LocalStream {
    async fn append(&self, records: &[Record]) -> Result<(), PortError> {
        let encoded: Vec<Vec<u8>> = records.iter().map(Record::encode).collect();
        let (log, bytes_max) = (Arc::clone(&self.log), self.bytes_max);
        let durable = tokio::task::spawn_blocking(move || {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.bytes() >= bytes_max {
                let reason = format!("it holds {} bytes, its limit: a consumer is behind", log.bytes());
                return Err(PortError::Unavailable { service: "stream", reason });
            }
            log.append_batch(encoded.iter().map(Vec::as_slice)).map_err(append_failed)?;
            log.sync().map_err(|error| append_failed(error.into()))
        })
        .await
        .map_err(|error| PortError::Unavailable { service: "stream", reason: error.to_string() })??;
        self.end.send_replace(durable);
        Ok(())
    }
}
