//! A dongle with its real logic, on a car that answers one question.

use std::time::Instant;

use convoy_dongle::{Action, Board, Dongle};
use convoy_protocol::frame::{BusIndex, CanId};
use convoy_protocol::link::{BusState, Outcome, ResetCause};

use crate::pty::Adapter;

const BUS: BusIndex = BusIndex(0);
const BOARD: Board = Board { name: "simulated", firmware: (0, 1, 0), buses: 1, reset: ResetCause::Power };

pub(crate) struct CarWithDongle {
    dongle: Dongle,
    started: Instant,
    /// Frames that the car sent by itself.
    pub(crate) frames: u64,
    /// Ids and first bytes of the requests that arrived.
    pub(crate) asked: Vec<(CanId, [u8; 8])>,
    pub(crate) opened: Vec<(u32, bool)>,
    pub(crate) hangs_up: bool,
}

impl CarWithDongle {
    pub(crate) fn new() -> Self {
        Self {
            dongle: Dongle::new(BOARD, 0),
            started: Instant::now(),
            frames: 0,
            asked: Vec::new(),
            opened: Vec::new(),
            hangs_up: false,
        }
    }

    pub(crate) fn reset(&mut self) {
        (self.dongle, self.started) = (Dongle::new(BOARD, 0), Instant::now());
    }

    fn turn(&mut self) -> Vec<u8> {
        let now_us = u64::try_from(self.started.elapsed().as_micros()).unwrap();
        // What keeps a car awake, and tells that it is.
        self.dongle.handle_frame(now_us, BUS, CanId::Standard(0x123), &[1, 2, 3]);
        self.frames += 1;
        while let Some(action) = self.dongle.poll_action() {
            let outcome = Outcome::Done;
            match action {
                Action::Mode { bitrate, listen_only, .. } => {
                    self.opened.push((bitrate, listen_only));
                    self.dongle.handle_bus_state(BUS, BusState::ErrorActive, 0, 0);
                }
                Action::Send { id, data, .. } => {
                    self.asked.push((id, data));
                    // Which parameters there are (0C alone), and the engine's speed.
                    let answer: Option<&[u8]> = match data[..3] {
                        [2, 0x01, 0x00] => Some(&[6, 0x41, 0, 0, 0x10, 0, 0]),
                        [2, 0x01, 0x0C] => Some(&[4, 0x41, 0x0C, 0x17, 0x70]),
                        _ => None,
                    };
                    if let Some(answer) = answer {
                        self.dongle.handle_frame(now_us, BUS, CanId::Standard(0x7E8), answer);
                    }
                }
                // It has no slots for firmware, and is told of none.
                Action::Filters { .. } | Action::Update(_) => {}
            }
            self.dongle.handle_outcome(now_us, outcome);
        }
        self.dongle.handle_timeout(now_us);
        let mut bytes = Vec::new();
        while !self.dongle.poll_transmit().is_empty() {
            let some = self.dongle.poll_transmit().len();
            bytes.extend(self.dongle.poll_transmit());
            self.dongle.handle_transmitted(some);
        }
        bytes
    }
}

impl Adapter for CarWithDongle {
    fn handle(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let now_us = u64::try_from(self.started.elapsed().as_micros()).unwrap();
        bytes.iter().for_each(|byte| self.dongle.handle_byte(now_us, *byte));
        (!std::mem::take(&mut self.hangs_up)).then(|| self.turn())
    }

    fn poll(&mut self) -> Vec<u8> {
        self.turn()
    }
}
