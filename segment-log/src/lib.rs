//! A crash-safe, append-only log of records in segment files: the agent's spool in the vehicle and
//! the local stream of the cloud on one machine.
//!
//! # Important terms
//!
//! - **record**: an opaque byte string, numbered by its [`Position`] 0, 1, 2, ...
//! - **segment**: one file `{first position, 20 digits}.log`; only the last one, the *active* segment, grows.
//! - **durable**: on disk after an `fdatasync`. Only durable records are ever read.
//! - **gap**: a range of positions that can no longer be read, always reported with its [`GapReason`].
//!
//! # What is promised
//!
//! - Once [`SegmentLog::sync`] returned a position, every record below it survives a crash and a power cut.
//! - A position that was durable is never given to another record, also not after all records were dropped.
//!   A position given by an append that was *not* synced may be given again after a crash.
//! - A torn tail is cut when the log is opened; damage elsewhere is reported as a gap and never ends the reading.
//! - After a failed write (a full disk, say) the log is as it was before: free space and retry.
//! - After a failed `fdatasync` the log refuses appends and syncs until it is opened again: the kernel may
//!   have marked the lost pages clean, so that a second `fdatasync` would succeed and lie.
//!
//! # Format, version 1 (little endian)
//!
//! ```text
//! header   magic "CONVOYSL" | version u32 | first position u64 | CRC-32C of these 20 bytes u32
//! record   length u32 | CRC-32C of (position u64, length u32, payload) u32 | payload
//! ```
//!
//! The layout of the header is the same in every version, so that an older program can refuse a newer log.
//! CRC-32C is the Castagnoli polynomial of RFC 3720, section 12.1.

use std::fmt;

pub mod disk;
mod error;
mod index;
mod log;
mod reader;
mod recovery;
mod segment;
pub mod simulated;

pub use error::{AppendError, OpenError, ReadError, WriteError};
pub use log::{Dropped, SegmentLog, Truncated};
pub use reader::{ReadBatch, Reader};
pub use recovery::{Recovery, TornTail};

/// The longest payload that the format allows, in bytes; [`Options::record_bytes_max`] may not exceed it.
pub const RECORD_BYTES_MAX: u32 = 64 << 20;

/// The largest segment that the options allow, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 4 << 30;

/// The highest position that a log may reach; far beyond any life, it keeps sums of positions from overflowing.
pub const POSITION_MAX: u64 = 1 << 62;

/// The number of a record in its directory: 0, 1, 2, ...
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The bounds of a log. They may change between two openings; what is stored stays readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// A segment is rolled before it would exceed this size, in bytes. It is also the bound of one batch.
    /// At most [`SEGMENT_BYTES_MAX`]; must hold the largest record with 32 bytes of headers.
    pub segment_bytes_max: u64,
    /// The longest payload that is accepted, in bytes: 1 to [`RECORD_BYTES_MAX`].
    pub record_bytes_max: u32,
}

/// Positions from `first` up to but without `end` that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub first: Position,
    pub end: Position,
    pub reason: GapReason,
}

/// Why positions cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// They lie below the first position of the log: truncated, or dropped by policy.
    Dropped,
    /// A record failed its check; the rest of its segment is given up.
    Damaged,
    /// No segment holds them: skipped by [`SegmentLog::skip_to`], or a segment was lost or cut by another hand.
    Missing,
}
