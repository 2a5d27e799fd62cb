//! The agent's one clock: wall time at its start, then monotonic, so that a clock step stalls no timer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// The system's wall clock, microseconds since the Unix epoch; 0 for a clock before 1970.
pub(crate) fn wall_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Microseconds since the Unix epoch that never go back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
    start_us: i64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now(), start_us: wall_us() }
    }

    pub(crate) fn now_us(&self) -> i64 {
        let elapsed = i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX);
        self.start_us.saturating_add(elapsed)
    }

    /// Wall clock minus monotonic clock, which counts from the start of the agent; it never changes.
    pub(crate) fn monotonic_offset_us(&self) -> i64 {
        self.start_us
    }

    /// When it will be `at_us`; the start for a time before it.
    pub(crate) fn instant(&self, at_us: i64) -> Instant {
        let ahead = u64::try_from(at_us.saturating_sub(self.start_us)).unwrap_or(0);
        self.start.checked_add(Duration::from_micros(ahead)).unwrap_or(self.start)
    }
}
