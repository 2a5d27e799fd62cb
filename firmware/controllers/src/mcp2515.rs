//! Microchip's MCP2515 on SPI (data sheet DS20001801) as a [`Controller`].
//!
//! `mcp25xx` speaks to the chip; here is what it leaves out: the order of frames, losses, states, and filters that hold back
//! nothing wanted. Its feature `mcp2515` stays off: in 0.4.0 that takes the instruction 0x92 for the second receive buffer, which
//! is 0x94 (figure 12-3), and so loses frames. The chip holds two frames, so a full 500 kbit/s bus must be looked at every 200 µs. It takes no times: a
//! frame came when it was fetched.

mod acceptance;
mod buffer;
mod timing;

use convoy_dongle::Filter;
use convoy_dongle::shell::{Controller, ControllerState};
use convoy_protocol::link::{BusState, Outcome};
use embedded_can::nb::Can;
use embedded_hal::delay::DelayNs;
use embedded_hal::digital::InputPin;
use embedded_hal::spi::SpiDevice;
use mcp25xx::registers::{
    CANCTRL, CANINTE, CANINTF, CANSTAT, EFLG, OperationMode, RXB0CTRL, RXB1CTRL, RXM, TEC,
};
use mcp25xx::registers::{ReadStatusResponse, Register};
use mcp25xx::{MCP25xx, RxBuffer, SpiError, TxBuffer};

use crate::ClassicFrame;
use acceptance::Acceptance;
pub use timing::Crystal;

/// Bit rate until the first that is asked for, bit/s: most vehicles' (ISO 15765-4).
pub const BITRATE_DEFAULT: u32 = 500_000;

/// After a reset the chip hears nothing for 128 periods of its crystal, microseconds: 16 at 8 MHz.
const RESET_US: u32 = 50;
/// A change of mode waits for the end of a frame at most: 1.2 ms at 125 kbit/s.
const MODE_TRIES_MAX: u32 = 40;
const MODE_TRY_US: u32 = 50;

/// Where the registers of the buffers begin.
const RECEIVE_BUFFER_0: u8 = 0x61;
const RECEIVE_BUFFER_1: u8 = 0x71;
const TRANSMIT_BUFFER_0: u8 = 0x31;
const TRANSMIT_BUFFER_STEP: u8 = 0x10;

/// The lost-frame flags of the two receive buffers.
const OVERFLOWS: u8 = 0b11 << 6;

/// A chip, with its interrupt line (low while a frame waits) and something to wait with.
#[derive(Debug)]
pub struct Mcp2515<S: SpiDevice, I, D> {
    chip: Chip<S>,
    interrupt: I,
    delay: D,
    crystal: Crystal,
    bitrate: u32,
    /// `None` while the bus is closed.
    listen_only: Option<bool>,
    acceptance: Acceptance,
    /// Came behind the frame that was handed out last.
    behind: Option<ClassicFrame>,
    overruns: u32,
}

/// The driver below, which shows nothing of itself to whoever debugs.
struct Chip<S: SpiDevice>(MCP25xx<S>);

impl<S: SpiDevice> core::fmt::Debug for Chip<S> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("MCP25xx")
    }
}

impl<S: SpiDevice, I: InputPin, D: DelayNs> Mcp2515<S, I, D> {
    /// A chip that is silent until it is opened: it may have lived through the microcontroller's reset, so it gets one too.
    /// SPI in mode 0, 10 MHz at most.
    pub fn new(spi: S, interrupt: I, delay: D, crystal: Crystal) -> Self {
        let mut mcp2515 = Self {
            chip: Chip(MCP25xx { spi }),
            interrupt,
            delay,
            crystal,
            bitrate: BITRATE_DEFAULT,
            listen_only: None,
            acceptance: Acceptance::EVERYTHING,
            behind: None,
            overruns: 0,
        };
        // Without an answer there is nothing to silence, and opening it will tell.
        let _ = mcp2515.reset();
        mcp2515
    }

    /// No frame waits, so that the board may sleep until the interrupt line falls.
    pub fn is_quiet(&mut self) -> bool {
        self.behind.is_none() && !self.may_hold_frames()
    }

    /// The line costs a look at a pin, a question by SPI 2 µs and more.
    fn may_hold_frames(&mut self) -> bool {
        self.listen_only.is_some() && self.interrupt.is_low().unwrap_or(true)
    }

    /// Silent, off the bus, without frames.
    fn reset(&mut self) -> Result<(), S::Error> {
        self.listen_only = None;
        self.chip.0.reset()?;
        self.delay.delay_us(RESET_US);
        Ok(())
    }

    /// Sets everything anew; `None` if the chip does not come to be as it should.
    fn start(&mut self, listen_only: bool, bitrate: u32) -> Result<Option<Outcome>, S::Error> {
        let Some(timing) = timing::timing(self.crystal, bitrate) else {
            return Ok(Some(Outcome::Unsupported));
        };
        self.count_waiting()?;
        self.reset()?;
        if !self.is_in(OperationMode::Configuration)? {
            return Ok(None);
        }
        self.chip.0.set_bitrate(timing)?;
        // What finds the first buffer full goes into the second.
        let first = RXB0CTRL::new().with_rxm(RXM::Filter).with_bukt(true);
        self.chip.0.write_register(first)?;
        self.chip.0.write_register(RXB1CTRL::new().with_rxm(RXM::Filter))?;
        for (register, id) in self.acceptance.registers() {
            self.chip.0.set_filter(register, id)?;
        }
        self.chip.0.write_register(CANINTE::new().with_rx0ie(true).with_rx1ie(true))?;
        let mode = if listen_only { OperationMode::ListenOnly } else { OperationMode::NormalOperation };
        self.chip.0.write_register(CANCTRL::new().with_reqop(mode))?;
        if !self.is_in(mode)? {
            return Ok(None);
        }
        (self.bitrate, self.listen_only) = (bitrate, Some(listen_only));
        Ok(Some(Outcome::Done))
    }

    /// Frames in the chip do not outlive its reset.
    fn count_waiting(&mut self) -> Result<(), S::Error> {
        if self.listen_only.is_some() {
            let status = self.chip.0.read_status()?;
            let waiting = u32::from(status.rx0if()) + u32::from(status.rx1if());
            self.overruns = self.overruns.wrapping_add(waiting);
            self.count_overflows()?;
        }
        Ok(())
    }

    fn is_in(&mut self, mode: OperationMode) -> Result<bool, S::Error> {
        for _ in 0..MODE_TRIES_MAX {
            let status: CANSTAT = self.chip.0.read_register()?;
            if u8::from(status) >> 5 == mode as u8 {
                return Ok(true);
            }
            self.delay.delay_us(MODE_TRY_US);
        }
        Ok(false)
    }

    /// Counts what the chip lost and returns its error flags. A flag stands for one frame or more, so this is the least.
    fn count_overflows(&mut self) -> Result<EFLG, S::Error> {
        let flags: EFLG = self.chip.0.read_register()?;
        let overflows = u8::from(flags) & OVERFLOWS;
        if overflows != 0 {
            self.overruns = self.overruns.wrapping_add(overflows.count_ones());
            self.chip.0.modify_register(EFLG::from(0), overflows)?;
        }
        Ok(flags)
    }

    /// What is in a full buffer, which is empty then.
    fn fetch(&mut self, buffer: RxBuffer) -> Result<Option<ClassicFrame>, S::Error> {
        let (address, flag) = match buffer {
            RxBuffer::RXB0 => (RECEIVE_BUFFER_0, CANINTF::new().with_rx0if(true)),
            RxBuffer::RXB1 => (RECEIVE_BUFFER_1, CANINTF::new().with_rx1if(true)),
        };
        let mut registers = [0; 13];
        self.chip.0.read_registers(address, &mut registers)?;
        self.chip.0.modify_register(CANINTF::new(), flag.into())?;
        Ok(buffer::read(registers))
    }

    /// What is in the second buffer. A frame is lost only while that is full, so this is when to ask for losses.
    fn fetch_second(&mut self, status: ReadStatusResponse) -> Result<Option<ClassicFrame>, S::Error> {
        if !status.rx1if() {
            return Ok(None);
        }
        let frame = self.fetch(RxBuffer::RXB1)?;
        self.count_overflows()?;
        Ok(frame)
    }

    /// The second buffer fills while the first is full, so whatever is in it is older than what comes into the first once that
    /// is empty: it is emptied right behind the first, and never the other way round. That holds while no two frames come
    /// between two transfers, which takes an interrupt longer than a frame.
    fn fetch_next(&mut self) -> Result<Option<ClassicFrame>, S::Error> {
        let status = self.chip.0.read_status()?;
        if !status.rx0if() {
            return self.fetch_second(status);
        }
        let first = self.fetch(RxBuffer::RXB0)?;
        // Asked anew: a frame may have come since. What fails here is tried again at the next look.
        let second = self.chip.0.read_status().and_then(|status| self.fetch_second(status));
        self.behind = second.ok().flatten();
        Ok(first)
    }

    fn read_state(&mut self) -> Result<ControllerState, S::Error> {
        let mut counters = [0; 2];
        self.chip.0.read_registers(TEC::ADDRESS, &mut counters)?;
        let [transmit_errors, receive_errors] = counters;
        let flags = self.count_overflows()?;
        let state = if flags.txbo() {
            BusState::BusOff
        } else if flags.txep() || flags.rxep() {
            BusState::ErrorPassive
        } else if flags.ewarn() {
            BusState::ErrorWarning
        } else {
            BusState::ErrorActive
        };
        Ok(ControllerState { state, receive_errors, transmit_errors })
    }
}

impl<S: SpiDevice, I: InputPin, D: DelayNs> Can for Mcp2515<S, I, D> {
    type Frame = ClassicFrame;
    type Error = SpiError<S::Error>;

    /// Frames go out in the order in which they come here: of those that wait, the chip sends the one in the highest buffer
    /// first, so a new one goes below them.
    fn transmit(&mut self, frame: &ClassicFrame) -> nb::Result<Option<ClassicFrame>, Self::Error> {
        // Listening only, the chip would keep it and send it once it may.
        if self.listen_only != Some(false) {
            return Err(nb::Error::WouldBlock);
        }
        let status = self.chip.0.read_status().map_err(SpiError)?;
        let buffer = match (status.txreq0(), status.txreq1(), status.txreq2()) {
            (false, false, false) => TxBuffer::TXB2,
            (false, false, true) => TxBuffer::TXB1,
            (false, true, _) => TxBuffer::TXB0,
            (true, _, _) => return Err(nb::Error::WouldBlock),
        };
        let address = TRANSMIT_BUFFER_0 + buffer as u8 * TRANSMIT_BUFFER_STEP;
        self.chip.0.write_registers(address, &buffer::write(frame)).map_err(SpiError)?;
        self.chip.0.request_to_send(buffer).map_err(SpiError)?;
        Ok(None)
    }

    fn receive(&mut self) -> nb::Result<ClassicFrame, Self::Error> {
        if let Some(frame) = self.behind.take() {
            return Ok(frame);
        }
        if !self.may_hold_frames() {
            return Err(nb::Error::WouldBlock);
        }
        self.fetch_next().map_err(SpiError)?.ok_or(nb::Error::WouldBlock)
    }
}

impl<S: SpiDevice, I: InputPin, D: DelayNs> Controller for Mcp2515<S, I, D> {
    /// Takes 5 ms at most. [`Outcome::Busy`] where the chip does not answer as it should; then the bus is closed. Frames that wait
    /// in the chip are lost: those received are counted, those to be sent are not.
    fn open(&mut self, bitrate: u32, listen_only: bool) -> Outcome {
        let bitrate = if bitrate == 0 { self.bitrate } else { bitrate };
        if let Ok(Some(outcome)) = self.start(listen_only, bitrate) {
            return outcome;
        }
        // Half of the registers may be set.
        let _ = self.reset();
        Outcome::Busy
    }

    /// Lets everything through where the filters do not fit; the dongle chooses by itself too. An open bus is opened anew, because
    /// the chip takes filters only off the bus. Frames of different identifiers may change places when they were in the chip at
    /// the same time and wait in different buffers.
    fn choose(&mut self, filters: &[Filter]) -> Outcome {
        let acceptance = Acceptance::of(filters);
        if acceptance == self.acceptance {
            return Outcome::Done;
        }
        self.acceptance = acceptance;
        self.listen_only.map_or(Outcome::Done, |listen_only| self.open(0, listen_only))
    }

    fn state(&mut self) -> ControllerState {
        const CLOSED: ControllerState =
            ControllerState { state: BusState::Closed, receive_errors: 0, transmit_errors: 0 };
        if self.listen_only.is_none() {
            return CLOSED;
        }
        self.read_state().unwrap_or(CLOSED)
    }

    fn take_overruns(&mut self) -> u32 {
        core::mem::take(&mut self.overruns)
    }
}
