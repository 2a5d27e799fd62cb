//! Time: microseconds since the Unix epoch, UTC, in every type; how far to trust the clock beside it.

use serde::{Deserialize, Serialize};

/// How the vehicle knew the time when it closed an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockQuality {
    /// Never set since boot: the time is a floor, not a measurement.
    None,
    /// A battery-backed clock or a recording's own times.
    Rtc,
    /// Disciplined by NTP.
    Ntp,
    /// Disciplined by GNSS.
    Gnss,
}

/// Resolution of a time column: times are truncated to it when they are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TimeUnit {
    /// Milliseconds, the default on the wire.
    Milliseconds,
    /// Microseconds.
    Microseconds,
}

impl TimeUnit {
    /// Microseconds in one unit.
    pub const fn as_us(self) -> i64 {
        match self {
            Self::Milliseconds => 1_000,
            Self::Microseconds => 1,
        }
    }
}
