//! The journal on disk: a log of its own for the samples of open batches, see [`convoy_agent_core::journal`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use convoy_agent_core::journal::{self, BatchId, JournalRecord, Recovered};
use convoy_segment_log::disk::Disk;
use convoy_segment_log::{AppendError, Options, Position, ReadError, SegmentLog, WriteError};
use tracing::{debug, warn};

use super::lane::LaneError;
use super::seal::{self, SEAL_BYTES, SpoolKey};

/// Longest chunk, bytes; a batch is closed before it grows so large.
const RECORD_BYTES_MAX: u32 = (1 << 20) + SEAL_BYTES as u32;
const SEGMENT_BYTES_MAX: u64 = 2 << 20;
/// Size of the journal on disk at most, bytes: the oldest chunks go, their samples are in memory still.
pub const JOURNAL_BYTES_MAX: u64 = 32 << 20;
/// Bytes of chunks that wait for a disk that does not take them, at most: then they are given up, their samples are
/// in memory still.
pub const CHUNKS_WAITING_BYTES_MAX: usize = 2 << 20;

struct Chunk {
    batch: BatchId,
    record: Vec<u8>,
    samples: u32,
}

pub(crate) struct Journal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    key: Option<SpoolKey>,
    /// `None` after a write that failed for good, until it is opened again.
    open: Option<SegmentLog>,
    /// Open batches and where their first chunk lies.
    live: BTreeMap<BatchId, u64>,
    /// Batches that the durable records leave open.
    live_on_disk: BTreeSet<BatchId>,
    waiting: VecDeque<Chunk>,
    waiting_bytes: usize,
    /// Samples that are in the journal, and those whose chunk was given up.
    pub(crate) samples: u64,
    pub(crate) samples_given_up: u64,
}

impl Journal {
    /// Opens the journal; what it holds is asked for by [`Journal::recover`].
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: PathBuf, key: Option<SpoolKey>) -> Result<Self, LaneError> {
        let mut journal = Self {
            disk,
            dir,
            key,
            open: None,
            live: BTreeMap::new(),
            live_on_disk: BTreeSet::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            samples: 0,
            samples_given_up: 0,
        };
        journal.ensure_open()?;
        Ok(journal)
    }

    fn ensure_open(&mut self) -> Result<&mut SegmentLog, LaneError> {
        let log = match self.open.take() {
            Some(log) => log,
            None => {
                let options =
                    Options { segment_bytes_max: SEGMENT_BYTES_MAX, record_bytes_max: RECORD_BYTES_MAX };
                SegmentLog::open_on(Arc::clone(&self.disk), &self.dir, options)?.0
            }
        };
        Ok(self.open.insert(log))
    }

    /// Reads the journal: the batches that nothing says were closed, `closed` naming those whose envelope is there.
    pub(crate) fn recover(&mut self, closed: &BTreeSet<BatchId>) -> Result<Vec<Recovered>, LaneError> {
        let key = self.key.clone();
        let log = self.ensure_open()?;
        let mut chunks = Vec::new();
        let mut at = log.first_position();
        while at < log.durable_position() {
            let batch = match log.read(at, 64, 4 << 20) {
                Ok(batch) => batch,
                // A sector that cannot be read: what lies behind it may still be.
                Err(ReadError::Io { resume: Some(resume), .. }) if resume > at => {
                    at = resume;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            for (position, record) in &batch.records {
                let Ok(record) = seal::open(key.as_ref(), record) else { continue };
                match journal::read(&record) {
                    Some(JournalRecord::Chunk(header, columns)) => chunks.push((position.0, header, columns)),
                    Some(JournalRecord::Live(live)) => {
                        chunks.retain(|(_, header, _)| live.contains(&header.batch))
                    }
                    None => {}
                }
            }
            at = batch.next;
        }
        // Those that only their envelope closes are open again once it is gone.
        self.live_on_disk.extend(chunks.iter().map(|(_, header, _)| header.batch));
        chunks.retain(|(_, header, _)| !closed.contains(&header.batch));
        for (position, header, _) in &chunks {
            self.live.entry(header.batch).or_insert(*position);
        }
        Ok(journal::put_together(chunks.into_iter().map(|(_, header, columns)| (header, columns))))
    }

    pub(crate) fn push(&mut self, batch: BatchId, record: Vec<u8>, samples: u32) {
        self.waiting_bytes += record.len();
        self.waiting.push_back(Chunk { batch, record, samples });
        while self.waiting_bytes > CHUNKS_WAITING_BYTES_MAX
            && let Some(chunk) = self.waiting.pop_front()
        {
            self.waiting_bytes -= chunk.record.len();
            self.samples_given_up += u64::from(chunk.samples);
        }
    }

    /// The batch's envelope is durable.
    pub(crate) fn handle_closed(&mut self, batch: BatchId) {
        self.live.remove(&batch);
        let mut gone = 0;
        self.waiting.retain(|chunk| {
            let stays = chunk.batch != batch;
            gone += if stays { 0 } else { chunk.record.len() };
            stays
        });
        self.waiting_bytes -= gone;
    }

    /// Writes and syncs what waits, and removes what is of no use any more.
    pub(crate) fn write(&mut self) -> Result<(), LaneError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let key = self.key.clone();
        let log = self.ensure_open()?;
        let mut first_positions = Vec::new();
        let mut records = Vec::new();
        let start = log.end_position().0;
        for (at, chunk) in (0..).zip(&self.waiting) {
            first_positions.push((chunk.batch, start + at));
            records.push(seal::seal(key.as_ref(), chunk.record.clone()).map_err(LaneError::Seal)?);
        }
        for (record, (batch, position)) in records.iter().zip(first_positions) {
            self.append(record)?;
            self.live.entry(batch).or_insert(position);
            self.live_on_disk.insert(batch);
        }
        self.write_live()?;
        for chunk in std::mem::take(&mut self.waiting) {
            let BatchId { boot_id, number } = chunk.batch;
            debug!(%boot_id, batch = number, samples = chunk.samples, "samples journalled");
            self.samples += u64::from(chunk.samples);
        }
        self.waiting_bytes = 0;
        self.truncate()
    }

    /// Makes sure that the journal does not leave a batch open whose envelope is about to be removed.
    pub(crate) fn settle(&mut self) -> Result<(), LaneError> {
        if self.live_on_disk.iter().all(|batch| self.live.contains_key(batch)) {
            Ok(())
        } else {
            self.write_live()
        }
    }

    /// As [`Journal::settle`]; false where the disk is full. Then the envelope goes all the same, or nothing would ever
    /// make room: a crash before the next call may send its samples twice.
    pub(crate) fn settle_unless_full(&mut self) -> Result<bool, LaneError> {
        match self.settle() {
            Ok(()) => Ok(true),
            Err(error) if error.is_full() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Appends the list of open batches, and syncs.
    fn write_live(&mut self) -> Result<(), LaneError> {
        let live: Vec<BatchId> = self.live.keys().copied().collect();
        let record = seal::seal(self.key.as_ref(), journal::live_record(&live)).map_err(LaneError::Seal)?;
        self.append(&record)?;
        let log = self.ensure_open()?;
        if let Err(error) = log.sync() {
            self.open = None;
            return Err(error.into());
        }
        self.live_on_disk = live.into_iter().collect();
        Ok(())
    }

    fn append(&mut self, record: &[u8]) -> Result<(), LaneError> {
        match self.ensure_open()?.append(record) {
            Ok(_) => Ok(()),
            Err(error) => {
                if matches!(error, AppendError::Write(WriteError::Poisoned { .. })) {
                    self.open = None;
                }
                Err(error.into())
            }
        }
    }

    fn truncate(&mut self) -> Result<(), LaneError> {
        let first_live = self.live.values().min().copied();
        let Some(log) = &mut self.open else { return Ok(()) };
        // The list of open batches, which was written last, stays.
        let last = log.end_position().0.saturating_sub(1);
        log.truncate_before(Position(first_live.unwrap_or(last).min(last)))?;
        let mut segments = 0u32;
        while log.bytes() > JOURNAL_BYTES_MAX && log.drop_oldest_segment()?.is_some() {
            segments += 1;
        }
        if segments > 0 {
            warn!(
                segments,
                "journal is full: a crash now loses more of the open batches than the last second"
            );
        }
        Ok(())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.open.as_ref().map_or(0, SegmentLog::bytes)
    }
}
