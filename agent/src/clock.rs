//! The agent's time: one that never steps, and what has to be added to it to have the wall clock's.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use convoy_protocol::time::ClockQuality;
use convoy_segment_log::disk::Disk;
use tokio::time::Instant;
use tracing::info;

use crate::state_file;

/// No agent of this version ran before this: 2026-11-01T00:00:00Z. A gateway without a battery boots in 1970.
const RELEASED_US: i64 = 1_793_491_200_000_000;
/// A wall clock that differs by less is the same: it is being slewed.
const STEP_US_MIN: i64 = 100_000;
/// How often the wall clock is looked at.
const CHECK_US: i64 = 1_000_000;
/// How often the time is written down, for the next start.
const SAVE_US: i64 = 60_000_000;
const FILE: &str = "clock";
/// Exists while systemd-timesyncd has the time from the network.
const NTP_MARK: &str = "/run/systemd/timesync/synchronized";

/// The system's wall clock, microseconds since the Unix epoch; 0 for a clock before 1970.
pub(crate) fn wall_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// What is known of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) quality: ClockQuality,
    /// Wall clock minus [`Clock::now_us`], microseconds.
    pub(crate) correction_us: i64,
}

/// Microseconds since the Unix epoch that never go back and never jump.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    start: Instant,
    start_us: i64,
    /// Earlier it cannot be.
    floor_us: i64,
    follows_wall: bool,
    file: PathBuf,
    reading: Reading,
    check_at_us: i64,
    save_at_us: i64,
}

impl Clock {
    /// Starts at the wall clock's time, or at the time of the last life where that is later. `follows_wall` is false
    /// for simulated time.
    pub(crate) fn start(disk: &dyn Disk, dir: &Path, follows_wall: bool) -> Self {
        let file = dir.join(FILE);
        let last_us = state_file::read(disk, &file).ok().flatten().and_then(|text| text.trim().parse().ok());
        Self::at(Instant::now(), wall_us(), last_us.unwrap_or(0), follows_wall, file)
    }

    fn at(start: Instant, wall_us: i64, last_us: i64, follows_wall: bool, file: PathBuf) -> Self {
        let floor_us = last_us.max(RELEASED_US);
        let is_trusted = quality(wall_us, floor_us, follows_wall) != ClockQuality::None;
        let start_us = if is_trusted { wall_us } else { wall_us.max(floor_us) };
        let reading = Reading { quality: quality(wall_us, floor_us, follows_wall), correction_us: 0 };
        Self {
            start,
            start_us,
            floor_us,
            follows_wall,
            file,
            reading,
            check_at_us: start_us.saturating_add(CHECK_US),
            save_at_us: start_us.saturating_add(SAVE_US),
        }
    }

    pub(crate) fn now_us(&self) -> i64 {
        let elapsed = i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX);
        self.start_us.saturating_add(elapsed)
    }

    /// Wall clock minus monotonic clock, which counts from the start of the agent, as it was at the start.
    pub(crate) fn monotonic_offset_us(&self) -> i64 {
        self.start_us
    }

    pub(crate) fn reading(&self) -> Reading {
        self.reading
    }

    /// When it will be `at_us`; the start for a time before it.
    pub(crate) fn instant(&self, at_us: i64) -> Instant {
        let ahead = u64::try_from(at_us.saturating_sub(self.start_us)).unwrap_or(0);
        self.start.checked_add(Duration::from_micros(ahead)).unwrap_or(self.start)
    }

    /// When [`Clock::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<i64> {
        self.follows_wall.then_some(self.check_at_us)
    }

    /// Looks at the wall clock; what is known of the time now, where that changed.
    pub(crate) fn handle_timeout(&mut self, disk: &dyn Disk) -> Option<Reading> {
        let now_us = self.now_us();
        if !self.follows_wall || now_us < self.check_at_us {
            return None;
        }
        self.check_at_us = now_us.saturating_add(CHECK_US);
        let wall_us = wall_us();
        if now_us >= self.save_at_us && self.reading.quality != ClockQuality::None {
            self.save_at_us = now_us.saturating_add(SAVE_US);
            // Not written: the next start trusts an older time.
            let _ = state_file::write_lazily(disk, &self.file, format!("{wall_us}\n").as_bytes());
        }
        self.observe(now_us, wall_us)
    }

    fn observe(&mut self, now_us: i64, wall_us: i64) -> Option<Reading> {
        let quality = quality(wall_us, self.floor_us, self.follows_wall);
        let mut reading = Reading { quality, ..self.reading };
        let correction_us = wall_us.saturating_sub(now_us);
        let step_us = correction_us.saturating_sub(self.reading.correction_us);
        // A clock that is impossibly early says nothing.
        if quality != ClockQuality::None && step_us.saturating_abs() >= STEP_US_MIN {
            reading.correction_us = correction_us;
            info!(step_us, clock = ?quality, "wall clock stepped");
        }
        (reading != self.reading).then(|| {
            self.reading = reading;
            reading
        })
    }
}

fn quality(wall_us: i64, floor_us: i64, follows_wall: bool) -> ClockQuality {
    // NTP also corrects a clock that was far ahead, and with it what the last life took for the time.
    let is_synchronised = follows_wall && Path::new(NTP_MARK).exists() && wall_us >= RELEASED_US;
    if is_synchronised {
        ClockQuality::Ntp
    } else if follows_wall && wall_us < floor_us {
        ClockQuality::None
    } else {
        ClockQuality::Rtc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_US: i64 = RELEASED_US + 1_000_000_000;
    const YEAR_US: i64 = 365 * 86_400 * 1_000_000;

    fn clock(wall_us: i64, last_us: i64) -> Clock {
        Clock::at(Instant::now(), wall_us, last_us, true, PathBuf::new())
    }

    #[test]
    fn clock_that_boots_in_1970_starts_at_the_latest_time_that_is_known() {
        let clock = clock(5, NOW_US);
        assert_eq!((clock.start_us, clock.reading.quality), (NOW_US, ClockQuality::None));
        assert_eq!(self::clock(5, 0).start_us, RELEASED_US);
    }

    #[test]
    fn time_that_arrives_is_a_correction_and_a_slew_is_none() {
        let mut clock = clock(5, NOW_US);
        assert_eq!(clock.observe(NOW_US, 6), None, "still in 1970");
        let arrived = clock.observe(NOW_US + 9, NOW_US + YEAR_US).unwrap();
        assert_eq!(arrived.correction_us, YEAR_US - 9);
        assert_ne!(arrived.quality, ClockQuality::None);
        assert_eq!(clock.observe(NOW_US + 10, NOW_US + YEAR_US + 50_000), None);
        let back = clock.observe(NOW_US + 10, NOW_US + 10).unwrap();
        assert_eq!(back.correction_us, 0, "a year back");
    }
}
