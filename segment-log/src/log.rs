//! The writer's side of a log.

use std::io;
use std::iter;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, SystemDisk};
use crate::index::{Index, Segment};
use crate::recovery::{self, Recovered, Scan, io_error};
use crate::segment::{self, HEADER_BYTES, RECORD_HEADER_BYTES};
use crate::{
    AppendError, OpenError, Options, POSITION_MAX, Position, RECORD_BYTES_MAX, ReadBatch, ReadError, Reader,
    Recovery, SEGMENT_BYTES_MAX, WriteError,
};

const LOCK_NAME: &str = "LOCK";
/// A larger write buffer is given back after use, in bytes.
const BUFFER_KEPT_BYTES_MAX: usize = 1 << 20;

/// The one writer of a directory. Dropping it does not sync.
pub struct SegmentLog {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    index: Arc<Index>,
    reader: Reader,
    active: Active,
    /// The next position to be appended.
    end: u64,
    /// Size of all segments but the active one.
    sealed_bytes: u64,
    poisoned: bool,
    buffer: Vec<u8>,
    /// Held until the log is dropped.
    _lock: Box<dyn Send + Sync>,
}

struct Active {
    file: Arc<dyn DiskFile>,
    first: u64,
    bytes: u64,
    /// How much of `bytes` an `fdatasync` has covered.
    bytes_durable: u64,
}

/// A segment that was dropped with all its records, `first` to `last` inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub first: Position,
    pub last: Position,
    pub bytes: u64,
}

/// How much a truncation freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truncated {
    pub segments: usize,
    pub bytes: u64,
}

impl SegmentLog {
    /// Opens the log in `dir`, which is created if need be, and locks it against a second opener.
    /// Reads all segments once, so that [`Recovery`] reports every gap.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<(SegmentLog, Recovery), OpenError> {
        SegmentLog::open_with(Arc::new(SystemDisk), dir.as_ref(), options, Scan::Everything)
    }

    /// As [`SegmentLog::open`], but reads the last segment only: for a log too large to be read at each
    /// start. Gaps in older segments are then reported by the reading alone.
    pub fn open_scanning_last(
        dir: impl AsRef<Path>,
        options: Options,
    ) -> Result<(SegmentLog, Recovery), OpenError> {
        SegmentLog::open_on(Arc::new(SystemDisk), dir, options)
    }

    /// As [`SegmentLog::open_scanning_last`], on a file system of the caller's.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: impl AsRef<Path>,
        options: Options,
    ) -> Result<(SegmentLog, Recovery), OpenError> {
        SegmentLog::open_with(disk, dir.as_ref(), options, Scan::LastSegment)
    }

    fn open_with(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        scan: Scan,
    ) -> Result<(SegmentLog, Recovery), OpenError> {
        check(options)?;
        disk.create_dir(dir).map_err(|source| io_error("create", dir.into(), source))?;
        let lock = lock(disk.as_ref(), dir)?;
        let Recovered { segments, active, active_bytes, recovery } =
            recovery::recover(disk.as_ref(), dir, scan)?;
        let end = recovery.end.0;
        let sealed = segments.len() - 1;
        let sealed_bytes = segments.iter().take(sealed).map(|segment| segment.bytes).sum();
        let first = segments.back().map_or(end, |segment| segment.first);
        let index = Arc::new(Index::new(segments, end));
        let log = SegmentLog {
            dir: dir.to_path_buf(),
            options,
            reader: Reader::new(Arc::clone(&disk), dir.to_path_buf(), Arc::clone(&index)),
            disk,
            index,
            active: Active { file: active, first, bytes: active_bytes, bytes_durable: active_bytes },
            end,
            sealed_bytes,
            poisoned: false,
            buffer: Vec::new(),
            _lock: lock,
        };
        Ok((log, recovery))
    }

    /// Appends one record: written, but durable only after the next [`SegmentLog::sync`].
    pub fn append(&mut self, record: &[u8]) -> Result<Position, AppendError> {
        self.append_batch(iter::once(record)).map(|positions| positions.start)
    }

    /// Appends records in one write, all or none, into one segment; returns their positions.
    /// A crash before the sync may keep any number of the first of them.
    pub fn append_batch<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Range<Position>, AppendError> {
        self.refuse_if_poisoned()?;
        let count = self.encode(records)?;
        let bytes = self.buffer.len() as u64;
        if self.active.bytes + bytes > self.options.segment_bytes_max && self.active.bytes > HEADER_BYTES {
            self.roll(self.end)?;
        }
        if let Err(source) = self.active.file.write_all_at(&self.buffer, self.active.bytes) {
            // What was written of it must not stand where the next record will.
            self.poisoned = self.active.file.set_len(self.active.bytes).is_err();
            return Err(self.write_error("append to", source).into());
        }
        if self.buffer.capacity() > BUFFER_KEPT_BYTES_MAX {
            self.buffer = Vec::new();
        }
        let first = Position(self.end);
        self.active.bytes += bytes;
        self.end += count;
        Ok(first..Position(self.end))
    }

    fn encode<'a>(&mut self, records: impl IntoIterator<Item = &'a [u8]>) -> Result<u64, AppendError> {
        let bytes_max = self.options.segment_bytes_max - HEADER_BYTES;
        self.buffer.clear();
        let mut count = 0;
        for (index, record) in records.into_iter().enumerate() {
            if record.len() > self.options.record_bytes_max as usize {
                let bytes_max = self.options.record_bytes_max;
                return Err(AppendError::RecordTooLarge { index, bytes: record.len(), bytes_max });
            }
            segment::encode(&mut self.buffer, self.end + count, record);
            if self.buffer.len() as u64 > bytes_max {
                return Err(AppendError::BatchTooLarge { bytes_max });
            }
            count += 1;
        }
        Ok(count)
    }

    /// Makes everything appended durable (`fdatasync`) and visible to readers; returns the end, the first
    /// position that is not durable.
    ///
    /// If this fails, the records since the last sync are lost: they are cut off so that no later opening
    /// takes them, which may exist in memory only, for durable, and the log refuses appends and syncs until
    /// it is opened again. Append them again then.
    pub fn sync(&mut self) -> Result<Position, WriteError> {
        self.refuse_if_poisoned()?;
        if self.active.bytes_durable < self.active.bytes {
            if let Err(source) = self.active.file.sync_data() {
                self.poisoned = true;
                if self.active.file.set_len(self.active.bytes_durable).is_ok() {
                    self.active.bytes = self.active.bytes_durable;
                    self.end = self.index.durable();
                }
                return Err(self.write_error("sync", source));
            }
            self.active.bytes_durable = self.active.bytes;
            self.index.set_durable(self.end);
        }
        Ok(Position(self.end))
    }

    /// As [`Reader::read`], with a cursor of the log's own.
    pub fn read(
        &mut self,
        from: Position,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<ReadBatch, ReadError> {
        self.reader.read(from, records_max, bytes_max)
    }

    /// A reader of its own, for another consumer or another thread.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.disk), self.dir.clone(), Arc::clone(&self.index))
    }

    /// Would [`SegmentLog::truncate_before`] delete a segment?
    pub fn holds_segment_before(&self, position: Position) -> bool {
        let rolls = position.0 >= self.end && self.end > self.active.first;
        rolls || self.oldest_sealed().is_some_and(|(_, next)| next <= position.0)
    }

    /// Deletes the segments whose records all lie below `position`. When these are all records that exist,
    /// the active segment is rolled first, which costs three syncs: a caller that empties the log at each
    /// acknowledgement may rather wait until [`SegmentLog::bytes`] is worth it.
    /// The deletion is not synced: after a power cut the records may be back, at their old positions.
    pub fn truncate_before(&mut self, position: Position) -> Result<Truncated, WriteError> {
        if position.0 >= self.end && self.end > self.active.first {
            self.refuse_if_poisoned()?;
            self.roll(self.end)?;
        }
        let mut truncated = Truncated::default();
        while let Some((oldest, next)) = self.oldest_sealed()
            && next <= position.0
        {
            self.remove_oldest(oldest)?;
            truncated.segments += 1;
            truncated.bytes += oldest.bytes;
        }
        Ok(truncated)
    }

    /// Drops the oldest segment to make room; the active one, after rolling it, if it is the only one.
    /// `None` if the log is empty. As with a truncation, a power cut may bring the records back.
    pub fn drop_oldest_segment(&mut self) -> Result<Option<Dropped>, WriteError> {
        if self.oldest_sealed().is_none() && self.end > self.active.first {
            self.refuse_if_poisoned()?;
            self.roll(self.end)?;
        }
        let Some((oldest, next)) = self.oldest_sealed() else { return Ok(None) };
        self.remove_oldest(oldest)?;
        let (first, last) = (Position(oldest.first), Position(next - 1));
        Ok(Some(Dropped { first, last, bytes: oldest.bytes }))
    }

    /// Leaves the positions from the end up to `position` unused, durably. For a caller whose checkpoint lies
    /// beyond [`SegmentLog::end_position`], because durable records were lost to damage: without it, new
    /// records would get positions that the checkpoint counts as done.
    pub fn skip_to(&mut self, position: Position) -> Result<(), WriteError> {
        self.refuse_if_poisoned()?;
        let end = Position(self.end);
        if position < end || position.0 > POSITION_MAX {
            return Err(WriteError::SkipOutOfRange { position, end, max: POSITION_MAX });
        }
        if position > end {
            self.roll(position.0)?;
        }
        Ok(())
    }

    /// The first position that a segment holds; equal to the end in an empty log.
    pub fn first_position(&self) -> Position {
        Position(self.index.segments().front().map_or(self.end, |segment| segment.first))
    }

    /// The position of the next record to be appended.
    pub fn end_position(&self) -> Position {
        Position(self.end)
    }

    /// The first position that is not yet durable.
    pub fn durable_position(&self) -> Position {
        self.reader.durable_position()
    }

    /// Size of all segments on disk, in bytes.
    pub fn bytes(&self) -> u64 {
        self.sealed_bytes + self.active.bytes
    }

    /// Number of segment files, at least 1.
    pub fn segments(&self) -> usize {
        self.index.segments().len()
    }

    /// Seals the active segment and begins a new one at `first`, which is the end or beyond.
    fn roll(&mut self, first: u64) -> Result<(), WriteError> {
        // Only the last segment may hold records that are not durable: recovery looks for a torn tail there.
        self.sync()?;
        let file = match segment::create(self.disk.as_ref(), &self.dir, first) {
            Ok(file) => file,
            Err(source) => {
                self.poisoned = segment::discard(self.disk.as_ref(), &self.dir, first).is_err();
                let path = segment::path(&self.dir, first);
                return Err(WriteError::Io { action: "create", path, source });
            }
        };
        let sealed = self.active.bytes;
        self.active = Active { file, first, bytes: HEADER_BYTES, bytes_durable: HEADER_BYTES };
        self.sealed_bytes += sealed;
        self.end = first;
        let mut segments = self.index.segments();
        if let Some(last) = segments.back_mut() {
            last.bytes = sealed;
        }
        segments.push_back(Segment { first, bytes: HEADER_BYTES });
        drop(segments);
        self.index.set_durable(first);
        Ok(())
    }

    /// The oldest segment and the first position of the one behind it, if it is not the active one.
    fn oldest_sealed(&self) -> Option<(Segment, u64)> {
        let segments = self.index.segments();
        Some((*segments.front()?, segments.get(1)?.first))
    }

    fn remove_oldest(&mut self, oldest: Segment) -> Result<(), WriteError> {
        let path = segment::path(&self.dir, oldest.first);
        match self.disk.remove(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(WriteError::Io { action: "remove", path, source });
            }
            _ => {}
        }
        self.index.segments().pop_front();
        self.sealed_bytes -= oldest.bytes;
        Ok(())
    }

    fn refuse_if_poisoned(&self) -> Result<(), WriteError> {
        if self.poisoned { Err(WriteError::Poisoned { dir: self.dir.clone() }) } else { Ok(()) }
    }

    fn write_error(&self, action: &'static str, source: io::Error) -> WriteError {
        WriteError::Io { action, path: segment::path(&self.dir, self.active.first), source }
    }
}

fn check(options: Options) -> Result<(), OpenError> {
    let Options { segment_bytes_max, record_bytes_max } = options;
    if !(1..=RECORD_BYTES_MAX).contains(&record_bytes_max) {
        return Err(OpenError::RecordBytesMax(record_bytes_max));
    }
    let min = HEADER_BYTES + RECORD_HEADER_BYTES + u64::from(record_bytes_max);
    if !(min..=SEGMENT_BYTES_MAX).contains(&segment_bytes_max) {
        return Err(OpenError::SegmentBytesMax { given: segment_bytes_max, min });
    }
    Ok(())
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn Send + Sync>, OpenError> {
    let path = dir.join(LOCK_NAME);
    match disk.lock(&path) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(OpenError::Locked { dir: dir.to_path_buf() }),
        Err(source) => Err(io_error("lock", path, source)),
    }
}

#[cfg(test)]
mod tests;
