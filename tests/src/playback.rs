//! A shared recording as the frame source of one vehicle: at recorded pace, over and over, with today's times.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use convoy_agent::source::{FrameSource, SourceError, SourceEvent};
use convoy_protocol::frame::CanFrame;
use tokio::time::{Instant, sleep_until};

use crate::disguise::Disguise;
use crate::recording::Recording;

/// Time between frames that were not neighbours in the recording, microseconds.
pub const SEAM_US: i64 = 1_000;
/// The beginning of a recording that every vehicle plays first, microseconds: there the car is asked for its VIN and
/// its trouble codes.
pub const OPENING_US: i64 = 2_000_000;

/// Plays the opening of a recording, goes on at a place of its own, and begins again at the end.
///
/// Times never go back: the first frame gets the time at which it is asked for (or the time given), every other
/// one follows at its recorded distance, a seam at [`SEAM_US`].
#[derive(Debug)]
pub struct Playback {
    recording: Recording,
    disguise: Disguise,
    /// The frame that comes next.
    at: usize,
    /// First frame behind the opening, and the frame to go on with; `None` once that is done.
    jump: Option<(usize, usize)>,
    /// Added to recorded times; known from the first frame on.
    shift_us: Option<i64>,
    start_us: Option<i64>,
    start: Option<Instant>,
}

impl Playback {
    /// `draw` decides the place to go on at after the opening. `start_us`: time of the first frame, microseconds
    /// since the Unix epoch; `None` takes the wall clock when the first frame is asked for.
    pub fn new(recording: Recording, disguise: Disguise, draw: u64, start_us: Option<i64>) -> Self {
        let jump = jump(&recording.frames, draw);
        Self { recording, disguise, at: 0, jump, shift_us: None, start_us, start: None }
    }

    /// The next frame as it will be handed out, and the instant at which it is due; `None` without any frame.
    fn peek(&mut self) -> Option<(Instant, CanFrame)> {
        let mut frame = *self.recording.frames.get(self.at)?;
        let start = *self.start.get_or_insert_with(Instant::now);
        let start_us = *self.start_us.get_or_insert_with(wall_us);
        let shift_us = *self.shift_us.get_or_insert(start_us.saturating_sub(frame.timestamp_us));
        frame.timestamp_us = frame.timestamp_us.saturating_add(shift_us);
        let elapsed_us = u64::try_from(frame.timestamp_us.saturating_sub(start_us)).unwrap_or(0);
        let due = start.checked_add(Duration::from_micros(elapsed_us)).unwrap_or(start);
        Some((due, frame))
    }

    /// Goes on to the next frame, over a seam where there is one.
    fn advance(&mut self) {
        let frames = &self.recording.frames;
        let (played, next) = (self.at, self.at + 1);
        self.at = match self.jump {
            Some((opening_end, place)) if next >= opening_end => {
                self.jump = None;
                place
            }
            _ if next >= frames.len() => 0,
            _ => next,
        };
        if self.at != next
            && let (Some(shift_us), Some(from), Some(to)) =
                (&mut self.shift_us, frames.get(played), frames.get(self.at))
        {
            let gap_us = from.timestamp_us.saturating_sub(to.timestamp_us).saturating_add(SEAM_US);
            *shift_us = shift_us.saturating_add(gap_us);
        }
    }
}

/// The end of the opening and a place behind it; `None` where nothing lies behind.
fn jump(frames: &[CanFrame], draw: u64) -> Option<(usize, usize)> {
    let end_us = frames.first()?.timestamp_us.saturating_add(OPENING_US);
    let opening_end = frames.iter().position(|frame| frame.timestamp_us >= end_us)?;
    let places = u64::try_from(frames.len() - opening_end).ok()?;
    Some((opening_end, opening_end + usize::try_from(draw % places).ok()?))
}

fn wall_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

impl FrameSource for Playback {
    fn bus_names(&self) -> Vec<String> {
        self.recording.buses.clone()
    }

    fn describe(&self) -> String {
        "simulated vehicle".into()
    }

    async fn recv(&mut self) -> Result<SourceEvent, SourceError> {
        let Some((due, mut frame)) = self.peek() else { return Ok(SourceEvent::End) };
        if due > Instant::now() {
            sleep_until(due).await;
        }
        // Nothing is awaited from here on: a frame that was not handed out was not passed over.
        self.advance();
        self.disguise.rewrite(&mut frame);
        Ok(SourceEvent::Frame(frame))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use convoy_agent::log::LogInput;

    use super::*;
    use crate::route::Route;

    /// Frames at 0, 1, ... seconds, their number in the payload.
    fn recording(seconds: u8) -> Recording {
        let line = |second: u8| format!("({second}.000000) can0 123#{second:02X}\n");
        let log: String = (0..seconds).map(line).collect();
        Recording::read(&LogInput::Memory(log.into_bytes().into())).unwrap()
    }

    fn playback(recording: Recording, draw: u64) -> Playback {
        let disguise = Disguise::new([b'0'; 17], Route::of_seed(1), None);
        Playback::new(recording, disguise, draw, Some(50_000_000))
    }

    async fn next(playback: &mut Playback) -> CanFrame {
        match playback.recv().await.unwrap() {
            SourceEvent::Frame(frame) => frame,
            other => panic!("a playback has frames without end: {other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn opening_comes_first_then_the_own_place_then_everything_again() {
        let mut playback = playback(recording(6), 2 + 4 * 7);
        let mut played = Vec::new();
        for _ in 0..7 {
            let frame = next(&mut playback).await;
            played.push((frame.data()[0], frame.timestamp_us - 50_000_000));
        }
        let second_round = [(0, 2_002_000), (1, 3_002_000), (2, 4_002_000)];
        assert_eq!(played[..4], [(0, 0), (1, 1_000_000), (4, 1_001_000), (5, 2_001_000)]);
        assert_eq!(played[4..], second_round);
    }

    #[tokio::test(start_paused = true)]
    async fn frames_are_due_at_their_times_and_cancelling_loses_none() {
        let start = Instant::now();
        let mut playback = playback(recording(6), 0);
        assert_eq!(next(&mut playback).await.data(), [0]);
        let cancelled = tokio::time::timeout(Duration::from_millis(999), playback.recv()).await;
        assert!(cancelled.is_err());
        assert_eq!(next(&mut playback).await.data(), [1]);
        assert_eq!(start.elapsed().as_millis(), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_recording_within_its_opening_repeats_and_an_empty_one_ends() {
        let mut short = playback(recording(2), 9);
        let mut played = Vec::new();
        for _ in 0..4 {
            played.push(next(&mut short).await.data()[0]);
        }
        assert_eq!(played, [0, 1, 0, 1]);
        let mut empty = playback(recording(0), 9);
        assert_eq!(empty.recv().await.unwrap(), SourceEvent::End);
    }

    #[tokio::test(start_paused = true)]
    async fn first_frame_is_received_now_without_a_given_time() {
        let disguise = Disguise::new([b'0'; 17], Route::of_seed(1), None);
        let mut playback = Playback::new(recording(3), disguise, 0, None);
        let before = wall_us();
        let first = next(&mut playback).await;
        assert!((before..=wall_us()).contains(&first.timestamp_us));
    }
}
