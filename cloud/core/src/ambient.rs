//! Time and randomness, given from outside so that a test or a replay decides both.

use std::sync::Arc;

type Clock = dyn Fn() -> i64 + Send + Sync;
type FillRandom = dyn Fn(&mut [u8]) + Send + Sync;

/// A clock and a source of random bytes.
#[derive(Clone)]
pub struct Ambient {
    now_us: Arc<Clock>,
    fill_random: Arc<FillRandom>,
}

impl Ambient {
    /// `now_us` gives microseconds since the Unix epoch, UTC; `fill_random` fills a buffer with unpredictable bytes.
    pub fn new(
        now_us: impl Fn() -> i64 + Send + Sync + 'static,
        fill_random: impl Fn(&mut [u8]) + Send + Sync + 'static,
    ) -> Self {
        Self { now_us: Arc::new(now_us), fill_random: Arc::new(fill_random) }
    }

    /// Microseconds since the Unix epoch, UTC.
    pub fn now_us(&self) -> i64 {
        (self.now_us)()
    }

    /// `N` unpredictable bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.fill_random)(&mut bytes);
        bytes
    }
}

/// RFC 3339 in UTC with milliseconds, the form of every time in the API: `2026-11-24T03:20:00.000Z`.
///
/// Days are counted with the proleptic Gregorian calendar (Howard Hinnant's `civil_from_days`).
pub fn rfc3339(timestamp_us: i64) -> String {
    let (seconds, us) = (timestamp_us.div_euclid(1_000_000), timestamp_us.rem_euclid(1_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", us / 1_000)
}

/// Year, month and day of a number of days since 1970-01-01.
pub fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Reads RFC 3339 in UTC (`Z`), seconds with an optional fraction of up to 6 digits; `None` for anything else.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let text = text.strip_suffix(['Z', 'z'])?;
    let (date, time) = text.split_once(['T', 't'])?;
    let field = |part: Option<&str>, digits: usize, max: i64| {
        part.filter(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|part| part.parse::<i64>().ok())
            .filter(|value| *value <= max)
    };
    let mut parts = date.split('-');
    let year = field(parts.next(), 4, 9999)?;
    let month = field(parts.next(), 2, 12).filter(|month| *month > 0)?;
    let day = field(parts.next(), 2, 31).filter(|day| *day > 0)?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut parts_of_clock = clock.split(':');
    let hour = field(parts_of_clock.next(), 2, 23)?;
    let minute = field(parts_of_clock.next(), 2, 59)?;
    let second = field(parts_of_clock.next(), 2, 59)?;
    if parts.next().is_some() || parts_of_clock.next().is_some() {
        return None;
    }
    if fraction.is_empty() || fraction.len() > 6 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let us = format!("{fraction:0<6}").parse::<i64>().ok()?;
    let days = days_from_civil(year, month, day);
    (civil_from_days(days) == (year, month, day))
        .then_some(((days * 24 + hour) * 60 + minute) * 60 + second)
        .map(|seconds| seconds * 1_000_000 + us)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_and_parse_at_the_edges_of_the_calendar() {
        for (us, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000Z"),
            (1_635_188_455_020_000, "2021-10-25T19:00:55.020Z"),
            (4_107_542_399_999_000, "2100-02-28T23:59:59.999Z"),
            (-1_000, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(us), text);
            assert_eq!(parse_rfc3339(text), Some(us));
        }
    }

    #[test]
    fn other_texts_are_no_times() {
        for text in [
            "",
            "2021-02-29T00:00:00Z",
            "2021-10-25",
            "2021-10-25T24:00:00Z",
            "2021-1-5T00:00:00Z",
            "2021-10-25T19:00:55.Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
        assert_eq!(parse_rfc3339("1970-01-01T00:00:01.5Z"), Some(1_500_000));
    }
}
