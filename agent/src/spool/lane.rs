//! One lane of the spool: a segment log, what waits to be written to it, and what of it is done with.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use convoy_agent_core::journal::{BatchId, envelope_of, envelope_record};

use convoy_protocol::checkin::{DropReason, DropReport};
use convoy_protocol::downlink::SequenceRange;
use convoy_protocol::envelope;
use convoy_protocol::id::{BootId, EnvelopeKey, Lane};
use convoy_segment_log::disk::Disk;
use convoy_segment_log::{
    AppendError, OpenError, Options, Position, ReadError, Reader, SegmentLog, WriteError,
};
use tracing::debug;

use super::SpoolEnvelope;
use super::ranges::RangeSet;
use super::runs::{KeyedRange, Runs};
use super::seal::{self, SpoolKey};

/// Records and bytes taken at once when a log is scanned.
const SCAN_RECORDS_MAX: usize = 64;
const SCAN_BYTES_MAX: usize = 1 << 20;

/// Why a lane could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// It could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Nothing was appended.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A sync or removal failed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record could not be encrypted.
    #[error("cannot encrypt a record")]
    Seal(#[source] std::io::Error),
    /// What is in the log was encrypted with another key.
    #[error(
        "it was encrypted with a key that is not the configured one: configure that key, or move the spool away"
    )]
    Key,
}

impl LaneError {
    /// Is there no room on the disk?
    pub(crate) fn is_full(&self) -> bool {
        let source = match self {
            Self::Append(AppendError::Write(WriteError::Io { source, .. })) => source,
            Self::Write(WriteError::Io { source, .. }) | Self::Open(OpenError::Io { source, .. }) => source,
            _ => return false,
        };
        matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    }
}

/// Where the lanes lie and how.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) key: Option<SpoolKey>,
}

/// What a lane had to give up since it was last asked.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    pub(crate) reports: Vec<DropReport>,
    /// Damaged records whose keys are not known.
    pub(crate) unknown: u64,
}

/// What is at a position.
pub(crate) enum Found {
    Envelope(Vec<u8>),
    /// Given up, or never durable.
    Gone,
}

struct OpenLog {
    log: SegmentLog,
    /// For first sending and for sending again: each stays near where it read last.
    readers: [Reader; 2],
}

struct Waiting {
    envelope: SpoolEnvelope,
    /// Where it was appended, not yet synced.
    position: Option<u64>,
}

pub(crate) struct LaneSpool {
    lane: Lane,
    dir: PathBuf,
    place: Place,
    /// Batches whose envelopes are durable, since it was last asked.
    closed: BTreeSet<BatchId>,
    /// `None` after a write that failed for good, until it is opened again.
    open: Option<OpenLog>,
    /// First position that exists, and first that is not durable.
    first: u64,
    durable: u64,
    runs: Runs,
    /// Acknowledged or lost.
    done: RangeSet,
    /// Appended ones first, in the order of their sequence.
    waiting: VecDeque<Waiting>,
    appended: usize,
    waiting_bytes: usize,
    appended_bytes: usize,
    losses: Losses,
    /// Envelopes and samples that an opening found synced, not yet counted.
    adopted: (u64, u64),
}

impl LaneSpool {
    /// Opens the log and indexes what lies at and above `watermark`, below which everything was acknowledged.
    pub(crate) fn open(lane: Lane, dir: PathBuf, place: Place, watermark: u64) -> Result<Self, LaneError> {
        let mut spool = Self {
            lane,
            dir,
            place,
            closed: BTreeSet::new(),
            open: None,
            first: 0,
            durable: 0,
            runs: Runs::new(lane),
            done: RangeSet::default(),
            waiting: VecDeque::new(),
            appended: 0,
            waiting_bytes: 0,
            appended_bytes: 0,
            losses: Losses::default(),
            adopted: (0, 0),
        };
        spool.done.insert(0..watermark);
        spool.ensure_open()?;
        Ok(spool)
    }

    /// Opens the log again after a write that failed for good.
    pub(crate) fn ensure_open(&mut self) -> Result<(), LaneError> {
        if self.open.is_some() {
            return Ok(());
        }
        // Only the last segment is read here: the scan below reads and checks all that matter.
        let (mut log, recovery) =
            SegmentLog::open_on(Arc::clone(&self.place.disk), &self.dir, self.place.options)?;
        let watermark = self.done.next_absent(0);
        if recovery.end.0 < watermark {
            log.skip_to(Position(watermark))?;
        }
        self.first = log.first_position().0;
        self.durable = log.durable_position().0;
        self.done.insert(0..self.first);
        self.scan_closed(&mut log.reader())?;
        self.scan(&mut log.reader())?;
        self.open = Some(OpenLog { readers: [log.reader(), log.reader()], log });
        self.adopt_recovered();
        Ok(())
    }

    /// Which batches the envelopes below the watermark closed: they are acknowledged, and still say so.
    fn scan_closed(&mut self, reader: &mut Reader) -> Result<(), LaneError> {
        let mut at = self.first;
        let end = self.done.next_absent(0).min(self.durable);
        while at < end {
            match reader.read(Position(at), SCAN_RECORDS_MAX, SCAN_BYTES_MAX) {
                Ok(batch) => {
                    for (_, record) in &batch.records {
                        if let Ok(record) = seal::open(self.place.key.as_ref(), record) {
                            self.closed.extend(envelope_of(&record).1);
                        }
                    }
                    at = batch.next.0;
                }
                Err(ReadError::Io { resume: Some(resume), .. }) if resume.0 > at => at = resume.0,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn scan(&mut self, reader: &mut Reader) -> Result<(), LaneError> {
        let known = std::mem::replace(&mut self.runs, Runs::new(self.lane));
        let mut at = self.done.next_absent(0);
        let mut expected = at;
        while at < self.durable {
            let batch = match reader.read(Position(at), SCAN_RECORDS_MAX, SCAN_BYTES_MAX) {
                Ok(batch) => batch,
                Err(ReadError::Io { resume: Some(resume), .. }) if resume.0 > at => {
                    at = resume.0;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            for (position, record) in &batch.records {
                let opened = seal::open(self.place.key.as_ref(), record).map_err(|_| LaneError::Key)?;
                let (envelope, closes) = envelope_of(&opened);
                self.closed.extend(closes);
                let header = envelope::peek_header(envelope).ok();
                let origin = header.map(|header| (header.boot_id, header.sequence));
                self.hole(expected..position.0, origin, &known);
                self.runs.push(position.0, origin);
                expected = position.0 + 1;
            }
            at = batch.next.0;
        }
        self.hole(expected..self.durable, None, &known);
        Ok(())
    }

    /// Positions that the scan could not read, in front of a record with `next`.
    fn hole(&mut self, positions: Range<u64>, next: Option<(BootId, u64)>, known: &Runs) {
        if positions.is_empty() {
            return;
        }
        if !self.runs.bridge(positions.end, next) {
            for range in known.keyed_in(positions.clone()) {
                for (at, position) in range.positions.clone().enumerate() {
                    let sequence = range.first_sequence.saturating_add(at as u64);
                    self.runs.push(position, Some((range.boot_id, sequence)));
                }
            }
        }
        self.lose(positions, DropReason::SpoolDamaged);
    }

    /// After an opening: what waited and turned out to be in the log is spooled, the rest is appended again.
    fn adopt_recovered(&mut self) {
        self.appended = 0;
        self.appended_bytes = 0;
        self.waiting.iter_mut().for_each(|waiting| waiting.position = None);
        let Some((_, boot_id, sequence)) = self.runs.last() else { return };
        let in_log = |key: EnvelopeKey| key.boot_id == boot_id && key.sequence <= sequence;
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| in_log(waiting.envelope.key)) {
            self.waiting_bytes -= waiting.envelope.bytes.len();
            report_spooled(&waiting.envelope);
            self.adopted.0 += 1;
            self.adopted.1 += u64::from(waiting.envelope.samples);
        }
    }

    pub(crate) fn push(&mut self, envelope: SpoolEnvelope) {
        self.waiting_bytes += envelope.bytes.len();
        self.waiting.push_back(Waiting { envelope, position: None });
    }

    /// Size of the next envelope to be appended.
    pub(crate) fn next_bytes(&self) -> Option<usize> {
        self.waiting.get(self.appended).map(|waiting| waiting.envelope.bytes.len())
    }

    /// Appends the next waiting envelope.
    pub(crate) fn append_next(&mut self) -> Result<(), LaneError> {
        self.ensure_open()?;
        let (Some(open), Some(waiting)) = (&mut self.open, self.waiting.get_mut(self.appended)) else {
            return Ok(());
        };
        let record = envelope_record(waiting.envelope.bytes.clone(), waiting.envelope.closes);
        let record = seal::seal(self.place.key.as_ref(), record).map_err(LaneError::Seal)?;
        match open.log.append(&record) {
            Ok(position) => {
                waiting.position = Some(position.0);
                self.appended += 1;
                self.appended_bytes += waiting.envelope.bytes.len();
                Ok(())
            }
            Err(error) => {
                if matches!(error, AppendError::Write(WriteError::Poisoned { .. })) {
                    self.open = None;
                }
                Err(error.into())
            }
        }
    }

    /// Bytes that the next sync makes durable.
    pub(crate) fn appended_bytes(&self) -> usize {
        self.appended_bytes
    }

    /// Makes what was appended durable: from then on it is spooled. Returns envelopes and samples.
    pub(crate) fn sync(&mut self) -> Result<(u64, u64), LaneError> {
        let Some(open) = &mut self.open else { return Ok((0, 0)) };
        match open.log.sync() {
            Ok(end) => self.durable = end.0,
            Err(error) => {
                // A failed fdatasync is final for this opening: the next one finds out what is durable.
                self.open = None;
                return Err(error.into());
            }
        }
        let (mut envelopes, mut samples) = std::mem::take(&mut self.adopted);
        for _ in 0..std::mem::take(&mut self.appended) {
            let Some(Waiting { envelope, position: Some(position) }) = self.waiting.pop_front() else {
                break;
            };
            self.waiting_bytes -= envelope.bytes.len();
            self.runs.push(position, Some((envelope.key.boot_id, envelope.key.sequence)));
            report_spooled(&envelope);
            self.closed.extend(envelope.closes);
            envelopes += 1;
            samples += u64::from(envelope.samples);
        }
        self.appended_bytes = 0;
        Ok((envelopes, samples))
    }

    /// Drops the oldest segment; false where there is none. Everything appended must be synced.
    pub(crate) fn drop_oldest(&mut self) -> Result<bool, LaneError> {
        let Some(open) = &mut self.open else { return Ok(false) };
        let Some(dropped) = open.log.drop_oldest_segment()? else { return Ok(false) };
        self.lose(dropped.first.0..dropped.last.0 + 1, DropReason::SpoolFull);
        self.trim();
        Ok(true)
    }

    fn trim(&mut self) {
        if let Some(open) = &self.open {
            self.first = open.log.first_position().0;
            self.runs.trim_before(self.first);
            self.done.insert(0..self.first);
        }
    }

    fn lose(&mut self, positions: Range<u64>, reason: DropReason) {
        for absent in self.done.absent_in(positions) {
            let mut unknown = absent.end - absent.start;
            for range in self.runs.keyed_in(absent.clone()) {
                unknown -= range.count();
                self.losses.reports.push(DropReport {
                    boot_id: range.boot_id,
                    lane: self.lane,
                    first: range.first_sequence,
                    last: range.last_sequence(),
                    reason,
                });
            }
            self.losses.unknown += unknown;
            self.done.insert(absent);
        }
    }

    /// Batches whose envelopes became durable since the last call.
    pub(crate) fn take_closed(&mut self) -> BTreeSet<BatchId> {
        std::mem::take(&mut self.closed)
    }

    /// Time at which the oldest envelope of the log was made, microseconds; `None` where there is none.
    pub(crate) fn oldest_us(&mut self) -> Option<i64> {
        let open = self.open.as_mut()?;
        let batch = open.log.read(open.log.first_position(), 1, usize::MAX).ok()?;
        let (_, record) = batch.records.first()?;
        let opened = seal::open(self.place.key.as_ref(), record).ok()?;
        envelope::peek_header(envelope_of(&opened).0).ok().map(|header| header.base_us)
    }

    /// Can a segment be removed without losing the envelope that was appended last?
    pub(crate) fn is_empty(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.log.first_position() == open.log.end_position())
    }

    pub(crate) fn take_losses(&mut self) -> Losses {
        std::mem::take(&mut self.losses)
    }

    /// The first durable position at or above `from` that is not done with.
    pub(crate) fn next_unacked(&self, from: u64) -> Option<u64> {
        Some(self.done.next_absent(from)).filter(|position| *position < self.durable)
    }

    pub(crate) fn read(&mut self, position: u64, again: bool) -> Result<Found, LaneError> {
        self.ensure_open()?;
        let Some(open) = &mut self.open else { return Ok(Found::Gone) };
        match open.readers[usize::from(again)].read(Position(position), 1, usize::MAX) {
            Ok(batch) => {
                for gap in &batch.gaps {
                    self.lose(gap.first.0..gap.end.0, DropReason::SpoolDamaged);
                }
                let found = batch.records.into_iter().find(|record| record.0.0 == position);
                let Some((_, record)) = found else { return Ok(Found::Gone) };
                match seal::open(self.place.key.as_ref(), &record) {
                    Ok(opened) => Ok(Found::Envelope(envelope_of(&opened).0.to_vec())),
                    Err(_) => {
                        self.lose(position..position + 1, DropReason::SpoolDamaged);
                        Ok(Found::Gone)
                    }
                }
            }
            Err(ReadError::Io { position: from, resume: Some(resume), .. }) => {
                self.lose(from.0..resume.0, DropReason::SpoolDamaged);
                Ok(Found::Gone)
            }
            Err(error) => {
                // Opening again turns damage in the active segment into a gap.
                self.open = None;
                Err(error.into())
            }
        }
    }

    /// Is the envelope in the log and not done with?
    pub(crate) fn key_at(&self, position: u64) -> Option<EnvelopeKey> {
        self.runs.key_at(position)
    }

    /// Marks envelopes as stored; returns those that were not yet.
    pub(crate) fn ack_range(&mut self, range: &SequenceRange) -> Vec<KeyedRange> {
        let mut acked = Vec::new();
        for positions in self.runs.positions_of(range) {
            for absent in self.done.absent_in(positions) {
                acked.extend(self.runs.keyed_in(absent.clone()));
                self.done.insert(absent);
            }
        }
        acked
    }

    /// Marks one record as done with; false where it was before.
    pub(crate) fn ack_position(&mut self, position: u64) -> bool {
        let is_new = self.done.next_absent(position) == position && position < self.durable;
        if is_new {
            self.done.insert(position..position + 1);
        }
        is_new
    }

    /// Below it everything is done with.
    pub(crate) fn watermark(&self) -> u64 {
        self.done.next_absent(0)
    }

    /// Deletes segments that are done with; `settle` is called first where there are any, and again after it if it
    /// found no room.
    pub(crate) fn truncate(
        &mut self,
        mut settle: impl FnMut() -> Result<bool, LaneError>,
    ) -> Result<(), LaneError> {
        let watermark = self.watermark();
        let Some(open) = &mut self.open else { return Ok(()) };
        let end = open.log.end_position().0;
        // Emptying the active segment costs three syncs: only when it is half full.
        let worth_it = open.log.bytes() > self.place.options.segment_bytes_max / 2;
        let mut is_settled = true;
        let before = if watermark >= end && !worth_it { end.saturating_sub(1) } else { watermark };
        if before > self.first && open.log.holds_segment_before(Position(before)) {
            is_settled = settle()?;
        }
        if before > self.first && open.log.truncate_before(Position(before))?.segments > 0 {
            self.trim();
            if !is_settled {
                settle()?;
            }
        }
        Ok(())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.log.bytes())
    }

    /// Envelopes on disk that are not done with.
    pub(crate) fn unacked(&self) -> u64 {
        self.done.absent_in(0..self.durable).into_iter().map(|absent| absent.end - absent.start).sum()
    }

    pub(crate) fn durable_end(&self) -> u64 {
        self.durable
    }

    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.waiting.is_empty() && self.watermark() >= self.durable
    }

    pub(crate) fn tails(&self) -> Vec<EnvelopeKey> {
        self.runs.tails()
    }
}

/// What the crash suite reads as the truth of what was accepted: only after the `fdatasync`.
fn report_spooled(envelope: &SpoolEnvelope) {
    let key = envelope.key;
    debug!(
        boot_id = %key.boot_id,
        lane = %key.lane,
        sequence = key.sequence,
        samples = envelope.samples,
        "envelope spooled"
    );
}
