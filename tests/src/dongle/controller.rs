//! A CAN controller on the simulated bus: a queue that overruns, three mailboxes of which a better frame displaces a worse one.

use std::collections::VecDeque;

use convoy_dongle::shell::{Controller, ControllerState};
use convoy_protocol::frame::CanId;
use convoy_protocol::link::{BusState, Outcome};
use embedded_can::nb::Can;
use embedded_can::{ErrorKind, ExtendedId, Frame, Id, StandardId};

/// Frames that wait to be fetched at most.
pub const RECEIVED_MAX: usize = 32;
/// Frames that wait to be sent at most.
pub const MAILBOXES: usize = 3;

/// A frame on the simulated bus, as a driver hands it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusFrame {
    /// Its identifier.
    pub id: CanId,
    /// Its payload; `None`: it is a remote frame.
    pub data: Option<Vec<u8>>,
}

impl BusFrame {
    /// A data frame.
    pub fn data(id: CanId, data: impl Into<Vec<u8>>) -> Self {
        Self { id, data: Some(data.into()) }
    }
}

impl Frame for BusFrame {
    fn new(id: impl Into<Id>, data: &[u8]) -> Option<Self> {
        (data.len() <= 8).then(|| Self::data(id_of(id.into()), data))
    }
    fn new_remote(id: impl Into<Id>, _dlc: usize) -> Option<Self> {
        Some(Self { id: id_of(id.into()), data: None })
    }
    fn is_extended(&self) -> bool {
        matches!(self.id, CanId::Extended(_))
    }
    fn is_remote_frame(&self) -> bool {
        self.data.is_none()
    }
    fn id(&self) -> Id {
        // The simulator makes none that is too long.
        match self.id {
            CanId::Standard(id) => StandardId::new(id).unwrap_or(StandardId::MAX).into(),
            CanId::Extended(id) => ExtendedId::new(id).unwrap_or(ExtendedId::MAX).into(),
        }
    }
    fn dlc(&self) -> usize {
        self.data.as_ref().map_or(0, Vec::len)
    }
    fn data(&self) -> &[u8] {
        self.data.as_deref().unwrap_or_default()
    }
}

fn id_of(id: Id) -> CanId {
    match id {
        Id::Standard(id) => CanId::Standard(id.as_raw()),
        Id::Extended(id) => CanId::Extended(id.as_raw()),
    }
}

/// The controller has none: what it lost it counts.
#[derive(Debug, Clone, Copy)]
pub struct NoError;

impl embedded_can::Error for NoError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

/// A controller of the simulated dongle.
#[derive(Debug)]
pub struct SimulatedController {
    /// With the times at which they came, microseconds since the dongle's start.
    received: VecDeque<(u64, BusFrame)>,
    fetched_us: u64,
    overruns: u32,
    listen_only: bool,
    mailboxes: Vec<BusFrame>,
    /// Frames that it was told to send while it only listens.
    pub forbidden: u64,
}

impl SimulatedController {
    /// One that listens, as every one does after its start.
    pub const fn new() -> Self {
        Self {
            received: VecDeque::new(),
            fetched_us: 0,
            overruns: 0,
            listen_only: true,
            mailboxes: Vec::new(),
            forbidden: 0,
        }
    }

    /// A frame comes from the bus.
    pub(super) fn hear(&mut self, uptime_us: u64, frame: BusFrame) {
        if self.received.len() < RECEIVED_MAX {
            self.received.push_back((uptime_us, frame));
        } else {
            self.overruns += 1;
        }
    }

    /// Does something wait to be fetched?
    pub(super) fn has_frames(&self) -> bool {
        !self.received.is_empty()
    }

    /// The frame that wins the bus next.
    pub(super) fn send_one(&mut self) -> Option<BusFrame> {
        let at = (0..self.mailboxes.len()).min_by_key(|at| priority(&self.mailboxes[*at]))?;
        Some(self.mailboxes.remove(at))
    }
}

impl Default for SimulatedController {
    fn default() -> Self {
        Self::new()
    }
}

/// The less, the sooner it is sent.
const fn priority(frame: &BusFrame) -> u32 {
    match frame.id {
        CanId::Standard(id) => (id as u32) << 18,
        CanId::Extended(id) => id,
    }
}

impl Can for SimulatedController {
    type Frame = BusFrame;
    type Error = NoError;

    fn transmit(&mut self, frame: &BusFrame) -> nb::Result<Option<BusFrame>, NoError> {
        if self.listen_only {
            self.forbidden += 1;
            return Err(nb::Error::WouldBlock);
        }
        if self.mailboxes.len() < MAILBOXES {
            self.mailboxes.push(frame.clone());
            return Ok(None);
        }
        let worst = self.mailboxes.iter_mut().max_by_key(|waiting| priority(waiting));
        match worst {
            Some(worst) if priority(frame) < priority(worst) => {
                Ok(Some(std::mem::replace(worst, frame.clone())))
            }
            _ => Err(nb::Error::WouldBlock),
        }
    }

    fn receive(&mut self) -> nb::Result<BusFrame, NoError> {
        let (at_us, frame) = self.received.pop_front().ok_or(nb::Error::WouldBlock)?;
        self.fetched_us = at_us;
        Ok(frame)
    }
}

impl Controller for SimulatedController {
    fn open(&mut self, _bitrate: u32, listen_only: bool) -> Outcome {
        self.listen_only = listen_only;
        self.mailboxes.clear();
        Outcome::Done
    }

    fn state(&mut self) -> ControllerState {
        ControllerState { state: BusState::ErrorActive, receive_errors: 0, transmit_errors: 0 }
    }

    fn take_overruns(&mut self) -> u32 {
        std::mem::take(&mut self.overruns)
    }

    fn received_us(&self) -> Option<u64> {
        Some(self.fetched_us)
    }
}
