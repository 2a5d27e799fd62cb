//! What the writer tells its readers: which segments exist and how far the log is durable.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    /// Size of the file; of the active segment, the size when it became active.
    pub(crate) bytes: u64,
}

pub(crate) enum Place {
    /// Below the first segment, which begins at this position.
    Below(u64),
    /// In the segment that begins at `first` and ends where the next one begins.
    Within { first: u64, next: Option<u64> },
}

/// Never empty: the last segment is the active one.
pub(crate) struct Index {
    durable: AtomicU64,
    segments: Mutex<VecDeque<Segment>>,
}

impl Index {
    pub(crate) fn new(segments: VecDeque<Segment>, durable: u64) -> Index {
        Index { durable: AtomicU64::new(durable), segments: Mutex::new(segments) }
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn set_durable(&self, end: u64) {
        self.durable.store(end, Ordering::Release);
    }

    /// Held by the writer only to add or remove an entry, so readers never wait for the disk.
    pub(crate) fn segments(&self) -> MutexGuard<'_, VecDeque<Segment>> {
        // Every change is one push or pop: a panic elsewhere cannot leave the list half changed.
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn place(&self, position: u64) -> Place {
        let segments = self.segments();
        let behind = segments.partition_point(|segment| segment.first <= position);
        let next = segments.get(behind).map(|segment| segment.first);
        match behind.checked_sub(1).and_then(|at| segments.get(at)) {
            Some(segment) => Place::Within { first: segment.first, next },
            None => Place::Below(next.unwrap_or(position)),
        }
    }

    /// The first position of the segment behind the one that begins, or began, at `first`.
    pub(crate) fn next_behind(&self, first: u64) -> Option<u64> {
        let segments = self.segments();
        segments.get(segments.partition_point(|segment| segment.first <= first)).map(|segment| segment.first)
    }

    pub(crate) fn contains(&self, first: u64) -> bool {
        self.segments().iter().any(|segment| segment.first == first)
    }
}
