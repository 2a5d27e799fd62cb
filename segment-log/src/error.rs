use std::io;
use std::path::PathBuf;

use crate::{Position, RECORD_BYTES_MAX, SEGMENT_BYTES_MAX};

/// Why a log could not be opened. Nothing was cut or repaired, except after `Io`.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("record_bytes_max is {0}: it must lie between 1 and {RECORD_BYTES_MAX}")]
    RecordBytesMax(u32),
    #[error(
        "segment_bytes_max is {given}: it must lie between {min}, which holds the largest record, and {SEGMENT_BYTES_MAX}"
    )]
    SegmentBytesMax { given: u64, min: u64 },
    #[error("segment log {} is in use by another process or opened twice: stop the other one first", dir.display())]
    Locked { dir: PathBuf },
    #[error(
        "segment {} has format version {found}, this program reads {supported}: use the program that wrote it, or a newer one",
        path.display()
    )]
    UnknownVersion { path: PathBuf, found: u32, supported: u32 },
    #[error("segment {} says that it begins at position {header}: it was renamed, give it its name back", path.display())]
    Misnamed { path: PathBuf, header: Position },
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// Why a sync, roll or removal failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The log is as it was before the call and can be used further, unless `fdatasync` or the undoing
    /// of a half-done step failed: then the next call answers `Poisoned`.
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// An earlier `fdatasync` failed, or a half-done step could not be undone.
    #[error("segment log {} had a write that failed for good: open it again to go on from what is durable", dir.display())]
    Poisoned { dir: PathBuf },
    #[error("position {position} cannot be skipped to: it must lie between the end {end} and {max}")]
    SkipOutOfRange { position: Position, end: Position, max: u64 },
}

/// Why nothing was appended: an append is all or nothing, also that of a batch.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("record {index} of the batch has {bytes} bytes, record_bytes_max is {bytes_max}")]
    RecordTooLarge { index: usize, bytes: usize, bytes_max: u32 },
    #[error("the batch needs more than the {bytes_max} bytes that a segment holds: split it")]
    BatchTooLarge { bytes_max: u64 },
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The caller remembers a position that this log never made durable. See [`crate::SegmentLog::skip_to`].
    #[error("position {from} lies beyond the durable end {end} of the log")]
    BeyondEnd { from: Position, end: Position },
    /// Only the active segment answers so: a later roll or opening turns it into a gap.
    #[error("record {position} in the active segment {} is damaged: open the log again to recover", path.display())]
    Damaged { position: Position, path: PathBuf },
    /// `resume` is the first position of the next segment, for a caller that gives up the rest of this one.
    #[error("cannot read record {position} in {}", path.display())]
    Io { position: Position, path: PathBuf, resume: Option<Position>, source: io::Error },
}
