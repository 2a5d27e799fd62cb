//! What is on the simulated bus: traffic, recorded or made up, and an ECU that answers.

use std::collections::{BTreeMap, VecDeque};

use convoy_protocol::frame::{BusIndex, CanId};

use super::controller::BusFrame;
use crate::dice::Dice;
use crate::recording::Recording;

/// What testers send to every ECU (ISO 15765-4).
const FUNCTIONAL: CanId = CanId::Standard(0x7DF);
/// What testers send to this ECU.
const REQUESTS: CanId = CanId::Standard(0x7E0);
const ANSWERS: CanId = CanId::Standard(0x7E8);
/// Parameters of service 01 that it has: load, coolant, engine speed, speed, throttle.
const PARAMETERS: [u8; 5] = [0x04, 0x05, 0x0C, 0x0D, 0x11];
/// Identifiers of traffic that is made up: two that a truck's agent decodes, two that it does not.
const IDS: [CanId; 4] = [
    CanId::Extended(0x0CF0_0400),
    CanId::Extended(0x18FE_F100),
    CanId::Standard(0x123),
    CanId::Extended(0x0123_4567),
];
/// Between frames that are made up, microseconds: from nearly a full bus of 500 kbit/s to nearly nothing.
const GAPS_US: [u64; 5] = [270, 500, 1_000, 5_000, 40_000];

/// Frames that nobody asked for.
#[derive(Debug)]
pub enum Traffic {
    /// Frames of a recording's bus, at recorded pace, from the first on.
    Recorded {
        /// The recording.
        recording: Recording,
        /// The bus.
        bus: BusIndex,
        /// The frame that comes next.
        at: usize,
    },
    /// Frames that count, so that no two are equal; some are remote.
    Generated {
        /// What decides.
        dice: Dice,
        /// The number of the next one.
        number: u32,
        /// Time between two, until then.
        pace: (u64, u64),
    },
    /// None.
    Silence,
}

impl Traffic {
    /// Frames of a bus of a recording.
    pub const fn recorded(recording: Recording, bus: BusIndex) -> Self {
        Self::Recorded { recording, bus, at: 0 }
    }

    /// Frames that are made up.
    pub const fn generated(seed: u64) -> Self {
        Self::Generated { dice: Dice::new(seed), number: 0, pace: (0, 0) }
    }

    /// The next frame, with its time after the one before it.
    fn next(&mut self, now_us: u64) -> Option<(u64, BusFrame)> {
        match self {
            Self::Recorded { recording, bus, at } => {
                let frames = &recording.frames;
                let before_us = frames.get(at.checked_sub(1).unwrap_or(*at))?.timestamp_us;
                let next = (*at..frames.len()).find(|at| frames[*at].bus == *bus)?;
                *at = next + 1;
                let gap_us = u64::try_from(frames[next].timestamp_us - before_us).unwrap_or(0);
                Some((gap_us, BusFrame::data(frames[next].id, frames[next].data())))
            }
            Self::Generated { dice, number, pace } => {
                if pace.1 <= now_us {
                    let gap_us = GAPS_US[usize::try_from(dice.below(GAPS_US.len() as u64)).unwrap_or(0)];
                    *pace = (gap_us, now_us + dice.between(20_000, 300_000));
                }
                let id = IDS[usize::try_from(dice.below(IDS.len() as u64)).unwrap_or(0)];
                let mut data = number.to_be_bytes().to_vec();
                data.extend((0..dice.below(5)).map(|_| dice.byte()));
                *number += 1;
                let data = (!dice.is_hit(20)).then_some(data);
                Some((dice.between(pace.0, pace.0 * 2), BusFrame { id, data }))
            }
            Self::Silence => None,
        }
    }
}

/// An ECU with OBD-II: the n-th answer to a question is always the same, and another than the one before it.
#[derive(Debug)]
struct Ecu {
    vin: [u8; 17],
    dice: Dice,
    answered: BTreeMap<u8, u32>,
    /// What is left of a long answer, and until when it waits to be told to go on.
    rest: Option<(VecDeque<BusFrame>, u64)>,
    /// With the times at which they are due, in order.
    due: VecDeque<(u64, BusFrame)>,
}

impl Ecu {
    fn handle_frame(&mut self, now_us: u64, frame: &BusFrame) {
        let Some(data) = frame.data.as_deref().filter(|_| [FUNCTIONAL, REQUESTS].contains(&frame.id)) else {
            return;
        };
        let at_us =
            self.due.back().map_or(0, |(at_us, _)| *at_us).max(now_us) + self.dice.between(1_000, 8_000);
        match *data {
            [0x30, ..] if frame.id == REQUESTS => {
                let rest = self.rest.take().filter(|(_, until_us)| now_us <= *until_us);
                let rest = rest.map(|(rest, _)| rest).unwrap_or_default();
                self.due.extend((0..).zip(rest).map(|(at, frame)| (at_us + at * 1_000, frame)));
            }
            [2, 0x01, parameter, ..] => {
                if let Some(answer) = self.answer(parameter) {
                    self.due.push_back((at_us, BusFrame::data(ANSWERS, answer)));
                }
            }
            [2, 0x09, 0x02, ..] => {
                let mut long = vec![0x49, 0x02, 1];
                long.extend(self.vin);
                let mut frames = VecDeque::new();
                for (part, bytes) in (0x21u8..).zip(long[6..].chunks(7)) {
                    let mut data = [0; 8];
                    data[0] = part;
                    data[1..=bytes.len()].copy_from_slice(bytes);
                    frames.push_back(BusFrame::data(ANSWERS, data));
                }
                let first = [&[0x10, 20], &long[..6]].concat();
                self.due.push_back((at_us, BusFrame::data(ANSWERS, first)));
                self.rest = Some((frames, at_us + 1_000_000));
            }
            // No trouble codes.
            [1, service @ (0x03 | 0x07 | 0x0A), ..] => {
                let answer = [2, service + 0x40, 0, 0, 0, 0, 0, 0];
                self.due.push_back((at_us, BusFrame::data(ANSWERS, answer)));
            }
            _ => {}
        }
    }

    fn answer(&mut self, parameter: u8) -> Option<[u8; 8]> {
        let answered = self.answered.entry(parameter).or_default();
        *answered += 1;
        // The number is in the padding, too: no two frames are equal soon.
        let [low, high, top, _] = answered.to_le_bytes();
        match parameter {
            0 => {
                let bits = PARAMETERS.iter().fold(0u32, |bits, has| bits | 1 << (32 - has));
                let [a, b, c, d] = bits.to_be_bytes();
                Some([6, 0x41, 0, a, b, c, d, low])
            }
            0x0C => Some([4, 0x41, parameter, high, low, top, 0, 0]),
            _ if PARAMETERS.contains(&parameter) => {
                Some([3, 0x41, parameter, low.wrapping_mul(37), high, low, top, 0])
            }
            _ => None,
        }
    }
}

/// A vehicle's bus.
#[derive(Debug)]
pub struct Vehicle {
    traffic: Traffic,
    /// What comes next of it.
    next: Option<(u64, BusFrame)>,
    ecu: Ecu,
}

impl Vehicle {
    /// A vehicle that says nothing yet, with an ECU of this VIN.
    pub const fn new(vin: [u8; 17], seed: u64) -> Self {
        let ecu =
            Ecu { vin, dice: Dice::new(seed), answered: BTreeMap::new(), rest: None, due: VecDeque::new() };
        Self { traffic: Traffic::Silence, next: None, ecu }
    }

    /// From now on this is on the bus.
    pub(super) fn play(&mut self, now_us: u64, traffic: Traffic) {
        self.traffic = traffic;
        self.next = self.traffic.next(now_us).map(|(after_us, frame)| (now_us + after_us, frame));
    }

    /// The next frame that is on the bus by then, and its time.
    pub(super) fn poll(&mut self, until_us: u64) -> Option<(u64, BusFrame)> {
        let answer_us = self.ecu.due.front().map_or(u64::MAX, |(at_us, _)| *at_us);
        let traffic_us = self.next.as_ref().map_or(u64::MAX, |(at_us, _)| *at_us);
        if answer_us.min(traffic_us) > until_us {
            return None;
        }
        if answer_us <= traffic_us {
            return self.ecu.due.pop_front();
        }
        let after = self.traffic.next(traffic_us).map(|(after_us, frame)| (traffic_us + after_us, frame));
        std::mem::replace(&mut self.next, after)
    }

    /// Somebody else has sent a frame.
    pub(super) fn handle_frame(&mut self, now_us: u64, frame: &BusFrame) {
        self.ecu.handle_frame(now_us, frame);
    }
}
