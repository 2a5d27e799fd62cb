//! Where frames come from.

use std::io;

use convoy_agent_core::filters::IdFilter;
use convoy_agent_core::gateway::FrameTimes;
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};

use crate::log::LineCounts;

/// What a source hands out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SourceEvent {
    /// A frame.
    Frame(CanFrame),
    /// Volts at the vehicle's socket, as the adapter of a bus measures it; `None`: not known any more.
    Voltage(BusIndex, Option<f64>),
    /// The request on its way on a bus is over: nobody answers any more, or it was not sent.
    RequestEnd(BusIndex),
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

/// Something to send to a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transmission {
    /// A request in a single frame of ISO-TP.
    Request {
        /// The bus.
        bus: BusIndex,
        /// Whom to ask.
        id: CanId,
        /// 1 to 7 bytes.
        payload: Vec<u8>,
    },
    /// A frame as it is.
    Frame(CanFrame),
}

/// How one source of several does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// What it is.
    pub name: String,
    /// The name of its bus.
    pub bus: String,
    /// `opening`, `up`, or `down:` and why.
    pub state: String,
    /// Frames taken.
    pub frames: u64,
    /// Lines or frames that could not be read.
    pub malformed: u64,
    /// Frames that it says it lost.
    pub dropped: u64,
    /// Error frames of the bus.
    pub error_frames: u64,
    /// What the latest of them said.
    pub last_error: String,
    /// Bit rate, mode and state of the controller, where there is one.
    pub detail: String,
    /// Requests and frames that could not be sent.
    pub sends_dropped: u64,
    /// Times that it was opened again.
    pub reopened: u64,
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

    /// Are its frames' times the wall clock's, which may step? The agent puts them on its own clock then.
    fn has_wall_times(&self) -> bool {
        false
    }

    /// Sends to a bus. What cannot be sent is dropped and counted; a recording takes nothing.
    fn transmit(&mut self, _transmission: Transmission) {}

    /// Lets through only these frames of a bus, or all; others may come all the same.
    fn set_filters(&mut self, _bus: BusIndex, _filters: Option<Vec<IdFilter>>) {}

    /// Each of several sources; none for a recording, which is one.
    fn links(&self) -> Vec<LinkStatus> {
        Vec::new()
    }

    /// What it is, for people.
    fn describe(&self) -> String;

    /// What the lines of a recording were so far; a bus has none.
    fn line_counts(&self) -> LineCounts {
        LineCounts::default()
    }
}
