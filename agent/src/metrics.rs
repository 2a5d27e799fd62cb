//! What a running agent counts, readable from outside while it runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters since the start of the agent.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Frames taken from the source.
    pub frames: AtomicU64,
    /// Samples that campaigns took.
    pub samples: AtomicU64,
    /// Envelopes on disk.
    pub envelopes_spooled: AtomicU64,
    /// Envelopes that the cloud has stored.
    pub envelopes_stored: AtomicU64,
    /// Envelopes that the cloud keeps in quarantine.
    pub envelopes_quarantined: AtomicU64,
    /// Envelopes given up and reported.
    pub envelopes_dropped: AtomicU64,
    /// Payload bytes handed to the connection, repetitions included.
    pub bytes_published: AtomicU64,
    /// Envelopes sent again.
    pub resent: AtomicU64,
    /// Connections set up.
    pub connections: AtomicU64,
    /// Is there a connection now?
    pub connected: AtomicBool,
}

pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

pub(crate) fn set(counter: &AtomicU64, value: u64) {
    counter.store(value, Ordering::Relaxed);
}

/// What one run of the agent did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Frames taken from the source.
    pub frames: u64,
    /// Samples that campaigns took.
    pub samples: u64,
    /// Envelopes put on disk.
    pub envelopes_spooled: u64,
    /// Envelopes that the cloud has stored, of this and earlier runs.
    pub envelopes_stored: u64,
    /// Envelopes that the cloud keeps in quarantine.
    pub envelopes_quarantined: u64,
    /// Envelopes given up and reported.
    pub envelopes_dropped: u64,
    /// Damaged spool records that could not be named.
    pub records_damaged: u64,
    /// Damaged lines of the recording.
    pub lines_damaged: u64,
    /// Everything in the spool is stored.
    pub is_drained: bool,
}
