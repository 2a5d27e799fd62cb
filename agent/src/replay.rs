//! Recorded frames, played back at their own pace, faster, or as fast as they are taken.

use std::fmt;
use std::future;
use std::str::FromStr;
use std::time::Duration;

use convoy_agent_core::gateway::FrameTimes;
use convoy_protocol::frame::CanFrame;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::log::{BusTable, LineCounts, LogInput, LogReader};
use crate::source::{FrameSource, SourceError, SourceEvent};

/// Greatest speed that is still paced, times the recorded one; beyond, use [`Speed::Max`].
pub const SPEED_MAX: f64 = 10_000.0;

/// A frame may be this late: those that follow on a full bus come with it, and each time that the process is woken costs more
/// than twenty frames.
const SLACK: Duration = Duration::from_millis(2);

/// Time between the last frame of one round and the first of the next, microseconds.
const ROUND_GAP_US: i64 = 1_000;

/// How fast a recording is played.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// So many times as fast as it was recorded, above 0 and up to [`SPEED_MAX`].
    Times(f64),
    /// As fast as the frames are taken.
    Max,
}

/// A text that is no speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a number above 0 and up to {SPEED_MAX}, or max")]
pub struct ParseSpeedError;

impl FromStr for Speed {
    type Err = ParseSpeedError;
    fn from_str(text: &str) -> Result<Self, ParseSpeedError> {
        match text.parse::<f64>() {
            _ if text == "max" => Ok(Self::Max),
            Ok(times) if times > 0.0 && times <= SPEED_MAX => Ok(Self::Times(times)),
            _ => Err(ParseSpeedError),
        }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Times(times) => write!(f, "{times}"),
            Self::Max => f.write_str("max"),
        }
    }
}

/// Which times the frames carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeBase {
    /// Those of the recording.
    Recorded,
    /// Those of the recording shifted by one constant, so that the first frame is received now.
    Now,
}

/// A text that is no time base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected recorded or now")]
pub struct ParseTimeBaseError;

impl FromStr for TimeBase {
    type Err = ParseTimeBaseError;
    fn from_str(text: &str) -> Result<Self, ParseTimeBaseError> {
        match text {
            "recorded" => Ok(Self::Recorded),
            "now" => Ok(Self::Now),
            _ => Err(ParseTimeBaseError),
        }
    }
}

impl fmt::Display for TimeBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Recorded => "recorded",
            Self::Now => "now",
        })
    }
}

/// What is played, and how.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// The recording.
    pub log: LogInput,
    /// How fast.
    pub speed: Speed,
    /// With which times.
    pub time: TimeBase,
    /// Begin again at the end, with times that go on.
    pub repeat: bool,
    /// Names of buses that get the first indices, whether the recording has them or not.
    pub buses: Vec<String>,
}

/// Changes a frame after it was read: another payload, another id.
pub type Rewrite = Box<dyn FnMut(&mut CanFrame) + Send>;

/// Plays a recording.
pub struct ReplaySource {
    options: ReplayOptions,
    reader: LogReader,
    rewrite: Option<Rewrite>,
    start: Option<Start>,
    /// Read, but not yet due.
    next: Option<(Instant, CanFrame)>,
    round: Round,
    ended: bool,
    damage_reported: bool,
}

/// When the first frame was received.
#[derive(Clone, Copy)]
struct Start {
    instant: Instant,
    recorded_us: i64,
    shift_us: i64,
}

/// One pass over the recording.
#[derive(Default)]
struct Round {
    /// Added to the recorded times of this round.
    offset_us: i64,
    first_us: Option<i64>,
    /// Latest time of the round, offset included.
    last_us: i64,
}

impl ReplaySource {
    /// Opens the recording.
    pub fn open(options: ReplayOptions) -> Result<Self, SourceError> {
        let reader = LogReader::new(open(&options.log)?, BusTable::new(options.buses.iter().cloned()));
        Ok(Self {
            options,
            reader,
            rewrite: None,
            start: None,
            next: None,
            round: Round::default(),
            ended: false,
            damage_reported: false,
        })
    }

    /// Has every frame changed before it is handed out; its time is already the final one.
    pub fn with_rewrite(mut self, rewrite: Rewrite) -> Self {
        self.rewrite = Some(rewrite);
        self
    }

    /// The next frame with the instant at which it is due; `None` at the end.
    fn read(&mut self) -> Result<Option<(Instant, CanFrame)>, SourceError> {
        loop {
            match self.reader.next_frame() {
                Ok(Some(frame)) => return Ok(Some(self.place(frame))),
                Ok(None) if self.options.repeat && self.round.first_us.is_some() => {
                    self.reader.restart(open(&self.options.log)?);
                    let offset_us = self.round.last_us.saturating_add(ROUND_GAP_US);
                    self.round = Round { offset_us, first_us: None, last_us: i64::MIN };
                }
                Ok(None) => return Ok(None),
                Err(source) => {
                    let (log, frames) = (self.options.log.to_string(), self.reader.counts().frames);
                    return Err(SourceError::Read { log, frames, source });
                }
            }
        }
    }

    /// Gives a frame its final time and the instant at which it is due.
    fn place(&mut self, mut frame: CanFrame) -> (Instant, CanFrame) {
        let round = &mut self.round;
        if round.first_us.is_none() {
            round.first_us = Some(frame.timestamp_us);
            if self.start.is_some() {
                round.offset_us = round.offset_us.saturating_sub(frame.timestamp_us);
            }
        }
        let recorded_us = frame.timestamp_us.saturating_add(round.offset_us);
        round.last_us = round.last_us.max(recorded_us);
        let start = *self.start.get_or_insert_with(|| Start {
            instant: Instant::now(),
            recorded_us,
            shift_us: match self.options.time {
                TimeBase::Recorded => 0,
                TimeBase::Now => crate::clock::wall_us().saturating_sub(recorded_us),
            },
        });
        frame.timestamp_us = recorded_us.saturating_add(start.shift_us);
        let due = match self.options.speed {
            Speed::Max => start.instant,
            Speed::Times(times) => {
                // Times that go backwards are due at once.
                let elapsed_us = recorded_us.saturating_sub(start.recorded_us).max(0);
                let wait = Duration::try_from_secs_f64(elapsed_us as f64 / 1e6 / times);
                wait.ok().and_then(|wait| start.instant.checked_add(wait)).unwrap_or(start.instant)
            }
        };
        if let Some(rewrite) = &mut self.rewrite {
            rewrite(&mut frame);
        }
        (due, frame)
    }

    /// Warns of the first damaged line at once, and of all at the end.
    fn report_damage(&mut self, at_end: bool) {
        let counts = self.reader.counts();
        let is_new = if at_end { counts.damaged > 1 } else { counts.damaged > 0 && !self.damage_reported };
        if is_new && let Some(damage) = counts.damage() {
            self.damage_reported = true;
            let (log, damaged) = (&self.options.log, counts.damaged);
            warn!(%log, damaged, "log has damaged lines, which are skipped: {damage}");
        }
    }
}

fn open(log: &LogInput) -> Result<Box<dyn std::io::BufRead + Send>, SourceError> {
    log.open().map_err(|source| SourceError::Open { log: log.to_string(), source })
}

impl FrameSource for ReplaySource {
    fn bus_names(&self) -> Vec<String> {
        self.reader.buses().names().to_vec()
    }

    fn frame_times(&self) -> FrameTimes {
        match self.options.time {
            TimeBase::Recorded => FrameTimes::Recorded,
            TimeBase::Now => FrameTimes::Live,
        }
    }

    fn describe(&self) -> String {
        format!("recording {}", self.options.log)
    }

    async fn recv(&mut self) -> Result<SourceEvent, SourceError> {
        if self.ended {
            return Ok(SourceEvent::End);
        }
        if self.next.is_none() {
            // Reading blocks, but on a file that the page cache holds; a disk stall delays the loop, nothing more.
            self.next = self.read()?;
            self.report_damage(self.next.is_none());
        }
        let Some((due, _)) = self.next else {
            self.ended = true;
            return Ok(SourceEvent::End);
        };
        if matches!(self.options.speed, Speed::Times(_)) && due > Instant::now() {
            sleep_until(due + SLACK).await;
        }
        match self.next.take() {
            Some((_, frame)) => Ok(SourceEvent::Frame(frame)),
            None => future::pending().await,
        }
    }

    fn line_counts(&self) -> LineCounts {
        self.reader.counts().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "(100.000000) can0 123#01\n(100.500000) can1 123#02\n(101.000000) can0 123#03\n";

    fn replay(log: &str, change: impl FnOnce(&mut ReplayOptions)) -> ReplaySource {
        let mut options = ReplayOptions {
            log: LogInput::Memory(log.as_bytes().into()),
            speed: Speed::Max,
            time: TimeBase::Recorded,
            repeat: false,
            buses: Vec::new(),
        };
        change(&mut options);
        ReplaySource::open(options).unwrap()
    }

    async fn times(source: &mut ReplaySource, count: usize) -> Vec<i64> {
        let mut times = Vec::new();
        while times.len() < count {
            match source.recv().await.unwrap() {
                SourceEvent::Frame(frame) => times.push(frame.timestamp_us),
                _ => break,
            }
        }
        times
    }

    #[test]
    fn speed_is_a_positive_number_or_max() {
        assert_eq!("0.5".parse(), Ok(Speed::Times(0.5)));
        assert_eq!("max".parse(), Ok(Speed::Max));
        for text in ["0", "-1", "NaN", "inf", "10001", "fast", ""] {
            assert_eq!(text.parse::<Speed>(), Err(ParseSpeedError), "{text}");
        }
    }

    #[tokio::test]
    async fn recorded_times_stay_and_the_end_is_told_again() {
        let mut source = replay(LOG, |_| {});
        assert_eq!(times(&mut source, 9).await, [100_000_000, 100_500_000, 101_000_000]);
        assert_eq!(source.recv().await.unwrap(), SourceEvent::End);
        assert_eq!(source.bus_names(), ["can0", "can1"]);
    }

    #[tokio::test]
    async fn time_now_shifts_all_frames_by_one_constant() {
        let before = crate::clock::wall_us();
        let times = times(&mut replay(LOG, |options| options.time = TimeBase::Now), 9).await;
        assert!((before..=crate::clock::wall_us()).contains(&times[0]));
        assert_eq!([times[1] - times[0], times[2] - times[1]], [500_000, 500_000]);
    }

    #[tokio::test]
    async fn repeat_goes_on_in_time_and_an_empty_log_still_ends() {
        let times_of_rounds = times(&mut replay(LOG, |options| options.repeat = true), 7).await;
        assert_eq!(times_of_rounds[2..5], [101_000_000, 101_001_000, 101_501_000]);
        assert_eq!(times_of_rounds[6], 102_002_000);
        let mut empty = replay("no frame\n", |options| options.repeat = true);
        assert_eq!(empty.recv().await.unwrap(), SourceEvent::End);
        assert_eq!(empty.line_counts().damaged, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn speed_divides_the_recorded_pauses_and_cancelling_loses_no_frame() {
        let start = Instant::now();
        let mut source = replay(LOG, |options| options.speed = Speed::Times(2.0));
        assert_eq!(times(&mut source, 1).await, [100_000_000]);
        let cancelled = tokio::time::timeout(Duration::from_millis(100), source.recv()).await;
        assert!(cancelled.is_err());
        assert_eq!(times(&mut source, 1).await, [100_500_000]);
        assert_eq!(start.elapsed(), Duration::from_millis(250) + SLACK);
        assert_eq!(times(&mut source, 1).await, [101_000_000]);
        assert_eq!(start.elapsed(), Duration::from_millis(500) + SLACK);
    }

    #[tokio::test]
    async fn configured_buses_come_first_and_frames_can_be_rewritten() {
        let source = replay(LOG, |options| options.buses = vec!["can1".into()]);
        let mut source = source.with_rewrite(Box::new(|frame| {
            let id = convoy_protocol::frame::CanId::Standard(1);
            *frame = CanFrame::new(frame.timestamp_us, frame.bus, id, &[9]).unwrap();
        }));
        let SourceEvent::Frame(frame) = source.recv().await.unwrap() else { panic!("a frame comes first") };
        assert_eq!((frame.bus.0, frame.data()), (1, &[9][..]));
    }
}
