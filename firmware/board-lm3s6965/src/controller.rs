//! The second line as a CAN controller.

use convoy_dongle::Filter;
use convoy_dongle::shell::{Controller, ControllerState};
use convoy_protocol::frame::CanId;
use convoy_protocol::link::{BusState, Outcome};
use embedded_can::{Frame, Id, nb::Can};

use crate::bus::{BusFrame, BusSide, Counters, Event, RECORD_BYTES_MAX};
use crate::uart::{Line, TRANSMIT_BYTES};

/// Bytes that are looked at for a frame before something else gets its turn.
const TURN_BYTES_MAX: usize = 64;

/// A bus of records.
pub(crate) struct RecordBus {
    line: Line,
    side: BusSide,
    state: BusState,
    has_ended: bool,
}

impl RecordBus {
    pub(crate) const fn new(line: Line) -> Self {
        Self { line, side: BusSide::new(), state: BusState::Closed, has_ended: false }
    }

    /// The other end said that nothing more comes.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.line.is_quiet()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.side.counters()
    }
}

/// Never made: what is wrong with a record is counted.
#[derive(Debug)]
pub(crate) enum Never {}

impl embedded_can::Error for Never {
    fn kind(&self) -> embedded_can::ErrorKind {
        match *self {}
    }
}

impl Can for RecordBus {
    type Frame = BusFrame;
    type Error = Never;

    fn transmit(&mut self, frame: &BusFrame) -> nb::Result<Option<BusFrame>, Never> {
        let id = match frame.id() {
            Id::Standard(id) => CanId::Standard(id.as_raw()),
            Id::Extended(id) => CanId::Extended(id.as_raw()),
        };
        let mut record = [0; RECORD_BYTES_MAX];
        let record = self.side.record(id, frame.data(), &mut record).ok_or(nb::Error::WouldBlock)?;
        for part in record.chunks(TRANSMIT_BYTES) {
            while !self.line.has_room() {}
            self.line.transmit(part);
        }
        Ok(None)
    }

    fn receive(&mut self) -> nb::Result<BusFrame, Never> {
        for _ in 0..TURN_BYTES_MAX {
            match self.side.poll_event() {
                Some(Event::Frame(frame)) => return Ok(frame),
                Some(Event::Lossy) => self.line.become_lossy(),
                Some(Event::End) => self.has_ended = true,
                None => {
                    let Some(byte) = self.line.receive() else { break };
                    self.side.handle_byte(byte);
                }
            }
        }
        Err(nb::Error::WouldBlock)
    }
}

impl Controller for RecordBus {
    fn open(&mut self, _bitrate: u32, _listen_only: bool) -> Outcome {
        self.state = BusState::ErrorActive;
        Outcome::Done
    }

    fn choose(&mut self, _filters: &[Filter]) -> Outcome {
        Outcome::Done
    }

    fn state(&mut self) -> ControllerState {
        ControllerState { state: self.state, receive_errors: 0, transmit_errors: 0 }
    }

    fn take_overruns(&mut self) -> u32 {
        self.side.take_lost()
    }
}
