//! Where frames come from.

use std::io;

use convoy_agent_core::gateway::FrameTimes;
use convoy_protocol::frame::CanFrame;

use crate::log::LineCounts;

/// What a source hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceEvent {
    /// A frame.
    Frame(CanFrame),
    /// There will be no more; asked again, the source says so again.
    End,
}

/// Why a source cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A recording could not be opened.
    #[error("cannot open the log {log}")]
    Open {
        /// The recording.
        log: String,
        /// What the system said.
        source: io::Error,
    },
    /// A recording could not be read to its end.
    #[error("cannot read the log {log} beyond frame {frames}")]
    Read {
        /// The recording.
        log: String,
        /// Frames read before.
        frames: u64,
        /// What the system said.
        source: io::Error,
    },
}

/// A source of frames: a recording, a bus.
pub trait FrameSource: Send {
    /// Names of the buses known so far; a frame's `BusIndex` is a place here.
    fn bus_names(&self) -> Vec<String>;

    /// The next frame, when it is due.
    ///
    /// Cancel safe: dropping the future before it is ready loses no frame.
    fn recv(&mut self) -> impl Future<Output = Result<SourceEvent, SourceError>> + Send;

    /// Whose clock its frames' times are from.
    fn frame_times(&self) -> FrameTimes {
        FrameTimes::Live
    }

    /// What it is, for people.
    fn describe(&self) -> String;

    /// What the lines of a recording were so far; a bus has none.
    fn line_counts(&self) -> LineCounts {
        LineCounts::default()
    }
}
