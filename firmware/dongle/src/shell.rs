//! The main loop of a dongle, the same on every board and in the simulator: carries frames, bytes and time between a [`Dongle`]
//! and what a board gives.
//!
//! A board gives its CAN controllers ([`Controller`], over `embedded-can`), the agent's line (`embedded-io`) and the rest
//! ([`Machine`]), and calls [`Shell::turn`] for ever.

use core::ops::DerefMut;

use convoy_protocol::frame::{BusIndex, CanId};
use convoy_protocol::link::{BusState, FirmwareInfo, Outcome};
use convoy_slots::Update;
use embedded_can::nb::Can;
use embedded_can::{Error as _, ErrorKind, ExtendedId, Frame as _, Id, StandardId};
use embedded_io::{Read, ReadReady, Write, WriteReady};
use embedded_storage::nor_flash::NorFlash;

use crate::{Action, Dongle, Filter, UpdateAction};

/// Frames of one bus that are taken before anything else gets its turn: what a controller's own queue holds.
pub const FRAMES_A_TURN: usize = 4;
/// Bytes of the agent that are taken at once.
pub const BYTES_A_TURN: usize = 64;

/// How a CAN controller is (ISO 11898-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControllerState {
    /// Its state.
    pub state: BusState,
    /// Receive error counter.
    pub receive_errors: u8,
    /// Transmit error counter.
    pub transmit_errors: u8,
}

/// A CAN controller: `embedded-can` for frames, and what that leaves out.
pub trait Controller: Can {
    /// Opens the bus, or opens it anew. `bitrate` in bit/s; 0 leaves it. Listening only it sends nothing, not even
    /// acknowledgements.
    fn open(&mut self, bitrate: u32, listen_only: bool) -> Outcome;

    /// Lets only frames through that one of `filters` wants, or every one where there are none; more may come. The default lets
    /// every frame through: the dongle chooses by itself.
    fn choose(&mut self, filters: &[Filter]) -> Outcome {
        let _ = filters;
        Outcome::Done
    }

    /// How it is now.
    fn state(&mut self) -> ControllerState;

    /// Frames that were lost because nobody fetched them in time, since the last question.
    fn take_overruns(&mut self) -> u32;

    /// When the frame came that was fetched last, microseconds since the start; `None` where the driver took no time: then it came now.
    fn received_us(&self) -> Option<u64> {
        None
    }
}

/// The rest of a board.
pub trait Machine {
    /// Microseconds since the start; never less than before.
    fn now_us(&mut self) -> u64;

    /// Whether it is that time, for boards where asking the time is dear.
    fn has_reached(&mut self, time_us: u64) -> bool {
        time_us <= self.now_us()
    }

    /// The program runs. A watchdog that hears nothing for seconds resets the board.
    fn feed_watchdog(&mut self);

    /// Millivolts at the vehicle's socket; 0: not measured.
    fn supply_mv(&mut self) -> u16 {
        0
    }

    /// What the slots of the firmware hold. The default has none.
    fn firmware(&mut self) -> FirmwareInfo {
        FirmwareInfo::NONE
    }

    /// Does something with the slots ([`carry_out`]); `payload` is what came with it. The default has none.
    fn update(&mut self, action: UpdateAction, payload: &[u8]) -> Outcome {
        let _ = (action, payload);
        Outcome::Unsupported
    }

    /// Starts the board anew, by way of its boot loader; where it returns, the dongle goes on.
    fn restart(&mut self);
}

/// What [`Machine::update`] does where there are slots.
pub fn carry_out<F: NorFlash>(update: &mut Update<F>, action: UpdateAction, payload: &[u8]) -> Outcome {
    match action {
        UpdateAction::Begin => update.begin(payload),
        UpdateAction::Write { offset } => update.write(offset, payload),
        UpdateAction::End => update.end(),
        UpdateAction::Confirm => update.confirm(),
        UpdateAction::GiveUp => update.give_up(),
    }
}

/// Whether the main loop has a reason to go on at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There may be more to do.
    Worked,
    /// Nothing to do before this time, microseconds since the start, but for what comes in.
    IdleUntil(u64),
    /// Nothing to do at all, but for what comes in: the buses are quiet, and the board may sleep deeply.
    Idle,
}

/// A dongle on its board. `D` is a reference to a [`Dongle`] or a box of one: a value that is handed over is there twice on the way, which
/// the stack of a board has no room for.
#[derive(Debug)]
pub struct Shell<D, M, L, C, const BUSES: usize> {
    dongle: D,
    /// The rest of the board.
    pub machine: M,
    /// The agent's line.
    pub line: L,
    /// The controllers, in the order of the dongle's buses.
    pub buses: [C; BUSES],
}

impl<D, M, L, C, const BUSES: usize, const QUEUE_BYTES: usize> Shell<D, M, L, C, BUSES>
where
    D: DerefMut<Target = Dongle<QUEUE_BYTES>>,
    M: Machine,
    L: Read + ReadReady + Write + WriteReady,
    C: Controller,
{
    /// A dongle that has just started.
    pub fn new(mut dongle: D, mut machine: M, line: L, buses: [C; BUSES]) -> Self {
        dongle.handle_firmware(machine.firmware());
        Self { dongle, machine, line, buses }
    }

    /// What the dongle knows.
    pub fn dongle(&self) -> &Dongle<QUEUE_BYTES> {
        &self.dongle
    }

    /// Everything once: what came in, what is due, what goes out.
    pub fn turn(&mut self) -> Turn {
        self.machine.feed_watchdog();
        let mut has_worked = false;
        for (index, controller) in (0..).zip(&mut self.buses) {
            has_worked |= take_frames(&mut self.dongle, &mut self.machine, BusIndex(index), controller);
        }
        has_worked |= self.take_bytes();
        if let Some(action) = self.dongle.poll_action() {
            let outcome = self.act(&action);
            self.dongle.handle_outcome(self.machine.now_us(), outcome);
        }
        if self.dongle.poll_timeout().is_some_and(|timeout_us| self.machine.has_reached(timeout_us)) {
            self.look_at_controllers();
            self.dongle.handle_supply(self.machine.supply_mv());
            self.dongle.handle_timeout(self.machine.now_us());
        }
        let is_sent = self.send_bytes();
        let is_time = |restart_us| is_sent || self.machine.has_reached(restart_us);
        if self.dongle.restart_us().is_some_and(is_time) {
            // What the line still holds is lost otherwise; an error of it changes nothing.
            let _ = self.line.flush();
            self.machine.restart();
        }
        // What is due may have begun something.
        if !is_sent || has_worked || self.dongle.poll_action().is_some() {
            return Turn::Worked;
        }
        self.dongle.poll_timeout().map_or(Turn::Idle, Turn::IdleUntil)
    }

    fn take_bytes(&mut self) -> bool {
        let mut has_worked = false;
        // An error of the line is bytes that are missing or wrong: the packet that they are in fails its checksum, and is counted.
        while self.line.read_ready().unwrap_or(false) {
            let mut bytes = [0; BYTES_A_TURN];
            let len = self.line.read(&mut bytes).unwrap_or(0);
            let now_us = self.machine.now_us();
            bytes.iter().take(len).for_each(|byte| self.dongle.handle_byte(now_us, *byte));
            has_worked = true;
            if len < BYTES_A_TURN || self.dongle.poll_action().is_some() {
                break;
            }
        }
        has_worked
    }

    /// What the agent asked for.
    fn act(&mut self, action: &Action) -> Outcome {
        let none = Outcome::NoSuchBus;
        match action {
            Action::Update(action) => self.update(*action),
            Action::Mode { bus, bitrate, listen_only, .. } => {
                let controller = self.buses.get_mut(usize::from(bus.0));
                let outcome = controller.map_or(none, |controller| controller.open(*bitrate, *listen_only));
                self.look_at_controllers();
                outcome
            }
            Action::Filters { bus } => {
                let filters = self.dongle.filters(*bus);
                let controller = self.buses.get_mut(usize::from(bus.0));
                controller.map_or(none, |controller| controller.choose(filters))
            }
            Action::Send { bus, id, data, len } => {
                let data = data.get(..usize::from(*len)).unwrap_or_default();
                let controller = self.buses.get_mut(usize::from(bus.0));
                controller.map_or(none, |controller| send(controller, *id, data))
            }
        }
    }

    fn update(&mut self, action: UpdateAction) -> Outcome {
        let outcome = self.machine.update(action, self.dongle.payload());
        // Parts come by the hundred, and change nothing that is told.
        if !matches!(action, UpdateAction::Write { .. }) {
            self.dongle.handle_firmware(self.machine.firmware());
        }
        outcome
    }

    fn look_at_controllers(&mut self) {
        for (index, controller) in (0..).zip(&mut self.buses) {
            let ControllerState { state, receive_errors, transmit_errors } = controller.state();
            self.dongle.handle_bus_state(BusIndex(index), state, receive_errors, transmit_errors);
        }
    }

    /// False where the line is busy: it says nothing when it has room again.
    fn send_bytes(&mut self) -> bool {
        loop {
            let bytes = self.dongle.poll_transmit();
            if bytes.is_empty() {
                return true;
            }
            if !self.line.write_ready().unwrap_or(false) {
                return false;
            }
            let len = self.line.write(bytes).unwrap_or(0);
            self.dongle.handle_transmitted(len);
            if len == 0 {
                return false;
            }
        }
    }
}

fn take_frames<C: Controller, const QUEUE_BYTES: usize>(
    dongle: &mut Dongle<QUEUE_BYTES>,
    machine: &mut impl Machine,
    bus: BusIndex,
    controller: &mut C,
) -> bool {
    for taken in 0..FRAMES_A_TURN {
        let received = controller.receive();
        let overruns = controller.take_overruns();
        if overruns > 0 {
            dongle.handle_overruns(bus, overruns);
        }
        match received {
            Ok(frame) => {
                let received_us = controller.received_us().unwrap_or_else(|| machine.now_us());
                dongle.handle_can_frame(received_us, bus, &frame);
            }
            // Errors on the bus are in the controller's counters; a lost frame is in its overruns, or here.
            Err(nb::Error::Other(error)) if error.kind() == ErrorKind::Overrun && overruns == 0 => {
                dongle.handle_overruns(bus, 1);
            }
            Err(nb::Error::Other(_)) => {}
            Err(nb::Error::WouldBlock) => return taken > 0,
        }
    }
    true
}

fn send<C: Controller>(controller: &mut C, id: CanId, data: &[u8]) -> Outcome {
    let id = match id {
        CanId::Standard(id) => StandardId::new(id).map(Id::Standard),
        CanId::Extended(id) => ExtendedId::new(id).map(Id::Extended),
    };
    let Some(frame) = id.and_then(|id| C::Frame::new(id, data)) else { return Outcome::Unsupported };
    match controller.transmit(&frame) {
        Ok(None) => Outcome::Done,
        // It made room by giving back a frame that was to be sent before: it goes behind.
        Ok(Some(displaced)) => match controller.transmit(&displaced) {
            Ok(None) => Outcome::Done,
            Ok(Some(_)) | Err(_) => Outcome::Busy,
        },
        Err(_) => Outcome::Busy,
    }
}

#[cfg(test)]
mod tests;
