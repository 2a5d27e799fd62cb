//! A vehicle's bus, and what hangs on it: the simulated dongle, or the agent itself without anything between.

use std::collections::VecDeque;
use std::task::Waker;

use super::controller::BusFrame;
use super::device::Device;
use super::faults::Fault;
use super::vehicle::{Traffic, Vehicle};

/// Step of the simulated time, microseconds.
pub const STEP_US: u64 = 100;

/// What hangs on the bus.
#[derive(Debug)]
pub enum Attached {
    /// The dongle.
    Dongle(Box<Device>),
    /// The agent: it hears everything at once and loses nothing.
    Directly {
        /// Frames that it has not taken, with their times.
        heard: VecDeque<(u64, BusFrame)>,
        /// Whoever waits for them.
        reader: Option<Waker>,
    },
}

/// The simulated world but for the agent.
#[derive(Debug)]
pub struct Bench {
    now_us: u64,
    vehicle: Vehicle,
    /// What hangs on the bus.
    pub attached: Attached,
    /// Frames that were on the bus, sent by the vehicle, with their times.
    pub emitted: Vec<(u64, BusFrame)>,
    /// Frames that were on the bus, sent by the agent.
    pub sent: Vec<BusFrame>,
    /// In the order of their times, the next one last.
    faults: Vec<(u64, Fault)>,
}

impl Bench {
    /// A bus on which nothing has happened.
    pub fn new(vehicle: Vehicle, attached: Attached) -> Self {
        Self { now_us: 0, vehicle, attached, emitted: Vec::new(), sent: Vec::new(), faults: Vec::new() }
    }

    /// Microseconds since the start.
    pub const fn now_us(&self) -> u64 {
        self.now_us
    }

    /// From now on this is on the bus.
    pub fn play(&mut self, traffic: Traffic) {
        self.vehicle.play(self.now_us, traffic);
    }

    /// These faults come, in the order of their times.
    pub fn plan(&mut self, mut faults: Vec<(u64, Fault)>) {
        faults.reverse();
        self.faults = faults;
    }

    /// The dongle; `None`: there is none.
    pub fn device(&self) -> Option<&Device> {
        match &self.attached {
            Attached::Dongle(device) => Some(device),
            Attached::Directly { .. } => None,
        }
    }

    /// The agent sends a frame, where nothing is between.
    pub(super) fn send(&mut self, frame: BusFrame) {
        self.vehicle.handle_frame(self.now_us, &frame);
        self.sent.push(frame);
    }

    /// Time passes.
    pub fn advance(&mut self, us: u64) {
        let until_us = self.now_us + us;
        while self.now_us < until_us {
            self.now_us += STEP_US;
            self.step();
        }
        match &mut self.attached {
            Attached::Dongle(device) => device.wake(self.now_us),
            Attached::Directly { heard, reader } => {
                reader.take_if(|_| !heard.is_empty()).into_iter().for_each(Waker::wake);
            }
        }
    }

    fn step(&mut self) {
        while let Some((at_us, frame)) = self.vehicle.poll(self.now_us) {
            match &mut self.attached {
                Attached::Dongle(device) => device.hear(at_us, &frame),
                Attached::Directly { heard, .. } => heard.push_back((at_us, frame.clone())),
            }
            self.emitted.push((at_us, frame));
        }
        let Attached::Dongle(device) = &mut self.attached else { return };
        while let Some((_, fault)) = self.faults.pop_if(|(at_us, _)| *at_us <= self.now_us) {
            device.begin(self.now_us, fault);
        }
        if let Some(frame) = device.step(self.now_us) {
            self.send(frame);
        }
    }
}
