//! The spool: disk first, network second. An envelope enters it before it is sent and leaves it when the cloud has
//! stored it.
//!
//! ```text
//! DIR/identity        vehicle and boot id            (identity.rs)
//! DIR/fast, DIR/bulk  one segment log a lane; a record is an envelope and which journalled batch it closes
//! DIR/journal         the samples of open batches (journal.rs)
//! DIR/acked           per lane the position below which everything was acknowledged; written lazily, because an
//!                     old one only means that something is sent again
//! ```
//!
//! *Spooled* means synced: the fast lane and the journal at once, the bulk lane within [`SpoolConfig::sync_ms`].
//! With a key every record is encrypted (seal.rs). What the disk does
//! not take waits in memory, up to [`QUEUE_BYTES_MAX`]; then [`Spool::is_full`] stops the taking of frames.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use convoy_agent_core::journal::{BatchId, Recovered};
use convoy_protocol::checkin::DropReport;
use convoy_protocol::downlink::{PayloadDigest, SequenceRange};
use convoy_protocol::envelope::ENVELOPE_BYTES_MAX;
use convoy_protocol::id::{BootId, EnvelopeKey, Lane, VehicleId};
use convoy_segment_log::Options;
use convoy_segment_log::disk::{Disk, SystemDisk};
use tracing::{info, warn};

use crate::causes::with_causes;
use crate::identity::{self, IdentityError};
use crate::state_file;

mod journal;
mod lane;
mod ranges;
mod runs;
mod seal;

use journal::Journal;
pub use journal::{CHUNKS_WAITING_BYTES_MAX, JOURNAL_BYTES_MAX};
pub use lane::LaneError;
use lane::{Found, LaneSpool, Place};
pub(crate) use ranges::RangeSet;
pub use runs::KeyedRange;
pub use seal::{SPOOL_KEY_BYTES, SpoolKey};

/// Envelopes that wait in memory for a disk that does not take them, bytes in all.
pub const QUEUE_BYTES_MAX: usize = 4 << 20;
/// Appended bytes after which a lane is synced before its time.
pub const SYNC_BYTES_MAX: usize = 1 << 20;
/// Smallest segment, bytes: it must hold the largest envelope.
pub const SEGMENT_BYTES_MIN: u64 = 2 * ENVELOPE_BYTES_MAX as u64;
/// Largest record: an envelope, what it closes, and what encryption adds.
const RECORD_BYTES_MAX: usize = ENVELOPE_BYTES_MAX + 64 + seal::SEAL_BYTES;
/// Segments that the size limit must leave room for.
pub const SEGMENTS_MIN: u64 = 4;

/// Ranges of envelopes that were given up, remembered at most.
const GIVEN_UP_MAX: usize = 1_000;
const RETRY_US: i64 = 1_000_000;
const ACKED_SAVE_US: i64 = 1_000_000;
const ACKED_FILE: &str = "acked";
const JOURNAL_DIR: &str = "journal";

/// What goes when the spool is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DropPolicy {
    /// The oldest segment of the bulk lane, and one of the fast lane only when that is empty.
    #[default]
    Priority,
    /// The oldest segment of either lane.
    Oldest,
}

/// Where the spool lies and how large it may grow.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// Its directory, created if need be.
    pub dir: PathBuf,
    /// Size of both lanes on disk at most, bytes; the oldest segment goes when it is reached.
    pub bytes_max: u64,
    /// Size of a segment at most, bytes: from [`SEGMENT_BYTES_MIN`] to a [`SEGMENTS_MIN`]th of `bytes_max`.
    pub segment_bytes: u64,
    /// Longest time that an envelope of the bulk lane waits for its sync, milliseconds.
    pub sync_ms: u32,
    /// What goes when it is full.
    pub drop: DropPolicy,
    /// Encrypts what lies on the disk.
    pub key: Option<SpoolKey>,
}

/// An envelope on its way into the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolEnvelope {
    /// Its identity.
    pub key: EnvelopeKey,
    /// Its bytes, at most [`ENVELOPE_BYTES_MAX`].
    pub bytes: Vec<u8>,
    /// Samples in it.
    pub samples: u32,
    /// The journalled batch whose samples it holds.
    pub closes: Option<BatchId>,
}

/// Why the spool could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// A lane could not be opened.
    #[error("cannot open the {lane} lane of the spool")]
    Lane {
        /// The lane.
        lane: Lane,
        /// Why.
        source: LaneError,
    },
    /// There is no boot id.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The journal could not be opened.
    #[error("cannot open the journal of the spool")]
    Journal {
        /// Why.
        source: LaneError,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What happened to envelopes since the spool was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpoolCounters {
    /// Envelopes synced.
    pub spooled: u64,
    /// Samples in them.
    pub spooled_samples: u64,
    /// Envelopes given up whose keys are known and were reported.
    pub dropped: u64,
    /// Damaged records whose keys are not known.
    pub damaged_unknown: u64,
    /// Writes that failed and were tried again.
    pub write_failures: u64,
    /// Samples of open batches in the journal.
    pub journalled_samples: u64,
    /// Samples of open batches that the disk did not take; they are in memory only until their batch is closed.
    pub unjournalled_samples: u64,
}

/// Both lanes on disk.
pub struct Spool {
    disk: Arc<dyn Disk>,
    config: SpoolConfig,
    boot_id: BootId,
    lanes: [LaneSpool; 2],
    journal: Journal,
    recovered: Vec<Recovered>,
    sync_due_us: Option<i64>,
    retry_at_us: Option<i64>,
    in_trouble: bool,
    acked_saved: [u64; 2],
    acked_save_at_us: Option<i64>,
    drops: Vec<DropReport>,
    /// All that was given up since the opening, in as few ranges as that takes.
    given_up: Vec<DropReport>,
    counters: SpoolCounters,
}

impl Spool {
    /// Opens and locks the spool, counts a boot, and indexes what was not acknowledged.
    pub fn open(config: SpoolConfig, vehicle_id: VehicleId) -> Result<Self, SpoolError> {
        Self::open_on(Arc::new(SystemDisk), config, vehicle_id)
    }

    /// As [`Spool::open`], on a file system of the caller's.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        config: SpoolConfig,
        vehicle_id: VehicleId,
    ) -> Result<Self, SpoolError> {
        let acked_path = config.dir.join(ACKED_FILE);
        let acked = state_file::read(disk.as_ref(), &acked_path)
            .map_err(|source| SpoolError::Io { path: acked_path, source })?
            .and_then(|content| parse_acked(&content))
            .unwrap_or_default();
        let record_bytes_max = u32::try_from(RECORD_BYTES_MAX).unwrap_or(u32::MAX);
        let options = Options { segment_bytes_max: config.segment_bytes, record_bytes_max };
        let place = Place { disk: Arc::clone(&disk), options, key: config.key.clone() };
        let open = |lane: Lane| {
            LaneSpool::open(lane, config.dir.join(lane.as_str()), place.clone(), acked[lane as usize])
                .map_err(|source| SpoolError::Lane { lane, source })
        };
        let mut lanes = [open(Lane::Fast)?, open(Lane::Bulk)?];
        let failed = |source| SpoolError::Journal { source };
        let dir = config.dir.join(JOURNAL_DIR);
        let mut journal = Journal::open(Arc::clone(&disk), dir, config.key.clone()).map_err(failed)?;
        let closed = lanes.iter_mut().flat_map(LaneSpool::take_closed).collect();
        let recovered = journal.recover(&closed).map_err(failed)?;
        let boot_id = identity::next_boot(disk.as_ref(), &config.dir, vehicle_id)?;
        let mut spool = Self {
            disk,
            config,
            boot_id,
            lanes,
            journal,
            recovered,
            sync_due_us: None,
            retry_at_us: None,
            in_trouble: false,
            acked_saved: acked,
            acked_save_at_us: None,
            drops: Vec::new(),
            given_up: Vec::new(),
            counters: SpoolCounters::default(),
        };
        spool.collect_losses();
        Ok(spool)
    }

    /// Batches that an earlier life left open, once.
    pub fn take_recovered(&mut self) -> Vec<Recovered> {
        std::mem::take(&mut self.recovered)
    }

    /// The file system it lies on.
    pub fn disk(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    /// Why it cannot be written, while it cannot.
    pub fn is_in_trouble(&self) -> bool {
        self.in_trouble
    }

    /// Size of a lane on disk, bytes.
    pub fn lane_bytes(&self, lane: Lane) -> u64 {
        self.lane(lane).bytes()
    }

    /// Envelopes of a lane on disk that are not done with.
    pub fn unacked(&self, lane: Lane) -> u64 {
        self.lane(lane).unacked()
    }

    /// The position behind the last envelope of a lane that is on disk.
    pub fn durable_end(&self, lane: Lane) -> u64 {
        self.lane(lane).durable_end()
    }

    /// The boot id of this opening.
    pub fn boot_id(&self) -> BootId {
        self.boot_id
    }

    /// Last sequence on disk of each boot and lane.
    pub fn tails(&self) -> Vec<EnvelopeKey> {
        self.lanes.iter().flat_map(LaneSpool::tails).collect()
    }

    /// Size on disk, bytes.
    pub fn bytes(&self) -> u64 {
        self.lanes.iter().map(LaneSpool::bytes).sum::<u64>() + self.journal.bytes()
    }

    /// Counts since the opening.
    pub fn counters(&self) -> SpoolCounters {
        SpoolCounters {
            journalled_samples: self.journal.samples,
            unjournalled_samples: self.journal.samples_given_up,
            ..self.counters
        }
    }

    /// Takes an envelope into memory; [`Spool::handle_timeout`] writes it.
    pub fn push(&mut self, envelope: SpoolEnvelope) {
        self.lane_mut(envelope.key.lane).push(envelope);
    }

    /// Takes a part of an open batch into memory; [`Spool::handle_timeout`] writes and syncs it.
    pub fn push_chunk(&mut self, batch: BatchId, record: Vec<u8>, samples: u32) {
        self.journal.push(batch, record, samples);
    }

    /// More waits for the disk than may: take no more frames.
    pub fn is_full(&self) -> bool {
        self.lanes.iter().map(LaneSpool::waiting_bytes).sum::<usize>() >= QUEUE_BYTES_MAX
    }

    /// Everything is on disk, and everything on disk is done with.
    pub fn is_drained(&self) -> bool {
        self.lanes.iter().all(LaneSpool::is_drained)
    }

    /// Writes what waits and syncs what is due.
    pub fn handle_timeout(&mut self, now_us: i64) {
        if self.retry_at_us.is_none_or(|at| at <= now_us) {
            self.retry_at_us = None;
            match self.write(now_us) {
                Ok(()) if self.in_trouble => {
                    self.in_trouble = false;
                    info!(dir = %self.config.dir.display(), "spool can be written again");
                }
                Ok(()) => {}
                Err(error) => self.handle_trouble(now_us, &error),
            }
            self.collect_losses();
        }
        if self.acked_save_at_us.is_some_and(|at| at <= now_us) {
            self.save_acked();
        }
    }

    /// Writes and syncs everything now. True if nothing waits any more.
    pub fn flush(&mut self, now_us: i64) -> bool {
        self.retry_at_us = None;
        self.sync_due_us = Some(now_us);
        self.handle_timeout(now_us);
        self.save_acked();
        self.lanes.iter().all(|lane| lane.waiting_bytes() == 0)
    }

    /// When [`Spool::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<i64> {
        let write = self.retry_at_us.or(self.sync_due_us);
        [write, self.acked_save_at_us].into_iter().flatten().min()
    }

    /// One lane's trouble keeps neither the other nor what was already appended from the disk.
    fn write(&mut self, now_us: i64) -> Result<(), LaneError> {
        let mut result = self.journal.write();
        while result.as_ref().is_err_and(LaneError::is_full) && self.drop_a_segment()? {
            result = self.journal.write();
        }
        for lane in Lane::ALL {
            let appended = self.append_waiting(lane);
            let is_due = appended.is_err() || self.sync_is_due(lane, now_us);
            let synced = if is_due { self.sync(lane) } else { Ok(()) };
            for batch in self.lane_mut(lane).take_closed() {
                self.journal.handle_closed(batch);
            }
            result = result.and(appended).and(synced);
        }
        if self.lane(Lane::Bulk).appended_bytes() == 0 {
            self.sync_due_us = None;
        }
        result
    }

    fn append_waiting(&mut self, lane: Lane) -> Result<(), LaneError> {
        self.lane_mut(lane).ensure_open()?;
        while let Some(bytes) = self.lane(lane).next_bytes() {
            self.make_room(bytes as u64)?;
            match self.lane_mut(lane).append_next() {
                // Others have filled the disk: what is oldest goes, as when the spool's own limit is reached.
                Err(error) if error.is_full() && self.drop_a_segment()? => {}
                appended => appended?,
            }
        }
        Ok(())
    }

    fn sync_is_due(&mut self, lane: Lane, now_us: i64) -> bool {
        let appended = self.lane(lane).appended_bytes();
        if appended == 0 || lane == Lane::Fast || appended >= SYNC_BYTES_MAX {
            return appended > 0;
        }
        let latest_us = now_us.saturating_add(i64::from(self.config.sync_ms) * 1_000);
        *self.sync_due_us.get_or_insert(latest_us) <= now_us
    }

    fn sync(&mut self, lane: Lane) -> Result<(), LaneError> {
        let (envelopes, samples) = self.lane_mut(lane).sync()?;
        self.counters.spooled += envelopes;
        self.counters.spooled_samples += samples;
        Ok(())
    }

    /// Drops segments until `bytes` more fit.
    fn make_room(&mut self, bytes: u64) -> Result<(), LaneError> {
        while self.bytes() + bytes > self.config.bytes_max && self.drop_a_segment()? {}
        Ok(())
    }

    /// Drops the segment that the policy gives up first; false where there is none.
    fn drop_a_segment(&mut self) -> Result<bool, LaneError> {
        let mut victims = [Lane::Bulk, Lane::Fast];
        if self.config.drop == DropPolicy::Oldest {
            let [fast, bulk] = [Lane::Fast, Lane::Bulk].map(|lane| self.lane_mut(lane).oldest_us());
            if fast.is_some_and(|fast| bulk.is_none_or(|bulk| fast < bulk)) {
                victims.reverse();
            }
        }
        for victim in victims {
            if self.lane(victim).is_empty() {
                continue;
            }
            // What was appended is spooled first: only what is spooled can be reported as dropped.
            self.sync(victim)?;
            for batch in self.lane_mut(victim).take_closed() {
                self.journal.handle_closed(batch);
            }
            let is_settled = self.journal.settle_unless_full()?;
            if self.lane_mut(victim).drop_oldest()? {
                if !is_settled {
                    self.journal.settle_unless_full()?;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn handle_trouble(&mut self, now_us: i64, error: &LaneError) {
        self.counters.write_failures += 1;
        self.retry_at_us = Some(now_us.saturating_add(RETRY_US));
        if !self.in_trouble {
            self.in_trouble = true;
            let dir = self.config.dir.display();
            warn!(%dir, "spool cannot be written, envelopes wait in memory and are retried: {}", with_causes(error));
        }
    }

    fn collect_losses(&mut self) {
        let mut fast_lost = false;
        for lane in &mut self.lanes {
            let losses = lane.take_losses();
            self.counters.damaged_unknown += losses.unknown;
            if losses.unknown > 0 {
                warn!(records = losses.unknown, "spool has damaged records that cannot be named");
            }
            for drop in losses.reports {
                self.counters.dropped += drop.last - drop.first + 1;
                warn!(
                    boot_id = %drop.boot_id, lane = %drop.lane, first = drop.first, last = drop.last,
                    reason = ?drop.reason, "envelopes given up"
                );
                fast_lost |= drop.lane == Lane::Fast;
                add_drop(&mut self.given_up, drop);
                self.drops.push(drop);
            }
        }
        // An envelope of the fast lane may have held a report: everything is reported once more.
        if fast_lost {
            self.drops.clone_from(&self.given_up);
        }
    }

    /// What was given up since the last call, to be reported to the cloud.
    pub fn take_drops(&mut self) -> Vec<DropReport> {
        std::mem::take(&mut self.drops)
    }

    /// The first spooled and unacknowledged position of a lane at or above `from`.
    pub fn next_unacked(&self, lane: Lane, from: u64) -> Option<u64> {
        self.lane(lane).next_unacked(from)
    }

    /// The envelope at a position; `None` if it is gone. `again` is a hint that it was read before.
    pub fn read(&mut self, lane: Lane, position: u64, again: bool) -> Result<Option<Vec<u8>>, LaneError> {
        let found = self.lane_mut(lane).read(position, again);
        self.collect_losses();
        Ok(match found? {
            Found::Envelope(bytes) => Some(bytes),
            Found::Gone => None,
        })
    }

    /// The key of the envelope at a position, where its header could be read.
    pub fn key_at(&self, lane: Lane, position: u64) -> Option<EnvelopeKey> {
        self.lane(lane).key_at(position)
    }

    /// Marks envelopes as stored; returns those that were not yet.
    pub fn ack_range(&mut self, now_us: i64, range: &SequenceRange) -> Vec<KeyedRange> {
        let acked = self.lane_mut(range.lane).ack_range(range);
        if !acked.is_empty() {
            self.after_ack(now_us, range.lane);
        }
        acked
    }

    /// Marks the record at a position as done with; false where it was before.
    pub fn ack_position(&mut self, now_us: i64, lane: Lane, position: u64) -> bool {
        let is_new = self.lane_mut(lane).ack_position(position);
        if is_new {
            self.after_ack(now_us, lane);
        }
        is_new
    }

    fn after_ack(&mut self, now_us: i64, lane: Lane) {
        self.acked_save_at_us.get_or_insert(now_us.saturating_add(ACKED_SAVE_US));
        let journal = &mut self.journal;
        if let Err(error) = self.lanes[lane as usize].truncate(|| journal.settle_unless_full()) {
            self.handle_trouble(now_us, &error);
        }
    }

    fn save_acked(&mut self) {
        self.acked_save_at_us = None;
        let acked = [self.lanes[0].watermark(), self.lanes[1].watermark()];
        if acked != self.acked_saved {
            // Not saved means sent again after the next start: the cloud knows it by its key.
            match state_file::write_lazily(
                self.disk.as_ref(),
                &self.config.dir.join(ACKED_FILE),
                format_acked(acked).as_bytes(),
            ) {
                Ok(()) => self.acked_saved = acked,
                Err(_) => self.counters.write_failures += 1,
            }
        }
    }

    fn lane(&self, lane: Lane) -> &LaneSpool {
        &self.lanes[lane as usize]
    }

    fn lane_mut(&mut self, lane: Lane) -> &mut LaneSpool {
        &mut self.lanes[lane as usize]
    }

    /// The spool's directory.
    pub fn dir(&self) -> &Path {
        &self.config.dir
    }
}

/// Adds a range, to the one that it continues where there is one. Where there are [`GIVEN_UP_MAX`], the oldest goes.
fn add_drop(known: &mut Vec<DropReport>, drop: DropReport) {
    let continues = |known: &&mut DropReport| {
        (known.boot_id, known.lane, known.reason) == (drop.boot_id, drop.lane, drop.reason)
            && known.last.checked_add(1) == Some(drop.first)
    };
    match known.iter_mut().find(continues) {
        Some(known) => known.last = drop.last,
        None => known.push(drop),
    }
    if known.len() > GIVEN_UP_MAX {
        known.remove(0);
    }
}

fn format_acked([fast, bulk]: [u64; 2]) -> String {
    let body = format!("fast {fast}\nbulk {bulk}\n");
    let digest = u64::from_be_bytes(PayloadDigest::of(body.as_bytes()).0);
    format!("{body}{digest:016x}\n")
}

/// `None` for anything but a whole file: without its checksum a torn one could name a position too high.
fn parse_acked(content: &str) -> Option<[u64; 2]> {
    let mut lines = content.lines();
    let fast = lines.next()?.strip_prefix("fast ")?.parse().ok()?;
    let bulk = lines.next()?.strip_prefix("bulk ")?.parse().ok()?;
    (format_acked([fast, bulk]) == content).then_some([fast, bulk])
}

#[cfg(test)]
mod tests;
