//! Reading durable records in order, also from another thread than the writer's.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::Disk;
use crate::index::{Index, Place};
use crate::segment::{self, Peek, Walk};
use crate::{Gap, GapReason, Position, ReadError};

/// What one call of [`Reader::read`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct ReadBatch {
    /// In order of position, without duplicates.
    pub records: Vec<(Position, Vec<u8>)>,
    /// The positions between the start of the reading and `next` that are not in `records`, in order.
    pub gaps: Vec<Gap>,
    /// Where to read on.
    pub next: Position,
}

impl ReadBatch {
    fn skip_to(&mut self, end: u64, reason: GapReason) {
        if self.next.0 < end {
            self.gaps.push(Gap { first: self.next, end: Position(end), reason });
            self.next = Position(end);
        }
    }
}

/// A reading cursor with its own file handle. Each sequential consumer should keep its own: going on where
/// the last read ended costs no rescan, going back costs a scan from the start of the segment.
///
/// It may outlive the [`crate::SegmentLog`], then it sees nothing new.
pub struct Reader {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    index: Arc<Index>,
    cursor: Option<Cursor>,
}

struct Cursor {
    first: u64,
    /// First position of the next segment; `None` if this was the active one when it was opened.
    next: Option<u64>,
    walk: Walk,
    /// What was read ahead is final below this position. Beyond, the writer may cut and write anew.
    final_until: u64,
}

impl Cursor {
    fn leads_to(&self, position: u64) -> bool {
        self.walk.position() <= position && self.next.is_none_or(|next| position < next)
    }

    fn peek(&mut self, durable: u64) -> io::Result<Peek> {
        if self.walk.position() >= self.final_until {
            self.walk.forget_buffer();
            self.final_until = durable;
        }
        self.walk.peek()
    }
}

impl Reader {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf, index: Arc<Index>) -> Reader {
        Reader { disk, dir, index, cursor: None }
    }

    /// The first position that is not yet durable: reading ends before it.
    pub fn durable_position(&self) -> Position {
        Position(self.index.durable())
    }

    /// Reads durable records from `from` on: at most `records_max` of them, with payloads of at most
    /// `bytes_max` bytes together; a single larger record comes alone, so that reading always moves on.
    /// At the durable end the batch is empty. Below the first position, reading begins at the first one and
    /// reports the gap.
    pub fn read(
        &mut self,
        from: Position,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<ReadBatch, ReadError> {
        let durable = self.index.durable();
        if from.0 > durable {
            return Err(ReadError::BeyondEnd { from, end: Position(durable) });
        }
        let mut batch = ReadBatch { records: Vec::new(), gaps: Vec::new(), next: from };
        let mut bytes = 0;
        while batch.next.0 < durable && batch.records.len() < records_max {
            let Some(cursor) = self.seek(&mut batch)? else { continue };
            let position = cursor.walk.position();
            match cursor.peek(durable) {
                Ok(Peek::Record { len }) if position < batch.next.0 => cursor.walk.advance(len),
                Ok(Peek::Record { len }) => {
                    if !batch.records.is_empty() && bytes + len > bytes_max {
                        break;
                    }
                    batch.records.push((Position(position), cursor.walk.payload(len).to_vec()));
                    batch.next = Position(position + 1);
                    bytes += len;
                    cursor.walk.advance(len);
                }
                Ok(Peek::End) => self.leave_segment(&mut batch, GapReason::Missing)?,
                Ok(Peek::Bad) => self.leave_segment(&mut batch, GapReason::Damaged)?,
                Err(source) => return Err(self.io_error(batch.next, source)),
            }
        }
        Ok(batch)
    }

    /// The cursor on the way to `batch.next`; `None` if instead `batch.next` moved over a gap, or the
    /// segment was dropped just now.
    fn seek(&mut self, batch: &mut ReadBatch) -> Result<Option<&mut Cursor>, ReadError> {
        let position = batch.next.0;
        if !self.cursor.as_ref().is_some_and(|cursor| cursor.leads_to(position)) {
            self.cursor = None;
            let (first, next) = match self.index.place(position) {
                Place::Within { first, next } => (first, next),
                Place::Below(first) => {
                    batch.skip_to(first, GapReason::Dropped);
                    return Ok(None);
                }
            };
            let path = segment::path(&self.dir, first);
            match (self.disk.open(&path), next) {
                (Ok(file), _) => {
                    let walk = Walk::new(file, first);
                    self.cursor = Some(Cursor { first, next, walk, final_until: 0 });
                }
                (Err(error), _) if error.kind() == io::ErrorKind::NotFound && !self.index.contains(first) => {
                    return Ok(None);
                }
                (Err(error), Some(next)) if error.kind() == io::ErrorKind::NotFound => {
                    batch.skip_to(next, GapReason::Missing);
                    return Ok(None);
                }
                (Err(source), next) => {
                    let resume = next.map(Position);
                    return Err(ReadError::Io { position: batch.next, path, resume, source });
                }
            }
        }
        Ok(self.cursor.as_mut())
    }

    /// Goes to the next segment: at the end of this one, or giving up the rest of it.
    fn leave_segment(&mut self, batch: &mut ReadBatch, reason: GapReason) -> Result<(), ReadError> {
        let Some(cursor) = self.cursor.take() else { return Ok(()) };
        match self.index.next_behind(cursor.first) {
            Some(next) => {
                batch.skip_to(next, reason);
                Ok(())
            }
            None => {
                Err(ReadError::Damaged { position: batch.next, path: segment::path(&self.dir, cursor.first) })
            }
        }
    }

    /// The cursor is given up too: the next reading opens the file anew.
    fn io_error(&mut self, position: Position, source: io::Error) -> ReadError {
        let first = self.cursor.take().map_or(position.0, |cursor| cursor.first);
        let resume = self.index.next_behind(first).map(Position);
        ReadError::Io { position, path: segment::path(&self.dir, first), resume, source }
    }
}
