//! An MCP2515 as its data sheet (DS20001801) says, behind SPI on one side and a bus on the other.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;

use embedded_hal::delay::DelayNs;
use embedded_hal::digital::{ErrorType as PinErrorType, InputPin};
use embedded_hal::spi::{ErrorType as SpiErrorType, Operation, SpiDevice};

use crate::numbered;

pub(crate) const NORMAL: u8 = 0b000;
pub(crate) const LISTEN_ONLY: u8 = 0b011;
pub(crate) const CONFIGURATION: u8 = 0b100;

pub(crate) const CANSTAT: usize = 0x0E;
const CANCTRL: usize = 0x0F;
pub(crate) const TEC: usize = 0x1C;
pub(crate) const REC: usize = 0x1D;
pub(crate) const CNF3: usize = 0x28;
const CANINTE: usize = 0x2B;
pub(crate) const CANINTF: usize = 0x2C;
pub(crate) const EFLG: usize = 0x2D;
const TXB_CTRL: [usize; 3] = [0x30, 0x40, 0x50];
const TXREQ: u8 = 1 << 3;
const RXB_CTRL: [usize; 2] = [0x60, 0x70];
const ROLLOVER: u8 = 1 << 2;
const FILTERS: [&[usize]; 2] = [&[0x00, 0x04], &[0x08, 0x10, 0x14, 0x18]];
const MASKS: [usize; 2] = [0x20, 0x24];

/// A frame on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BusFrame {
    pub(crate) id: u32,
    pub(crate) is_extended: bool,
    pub(crate) data: Vec<u8>,
}

/// What the bytes since chip select mean.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Idle,
    Instruction,
    ReadFrom,
    Read(usize),
    WriteTo,
    Write(usize),
    Status,
    ModifyAt,
    ModifyMask(usize),
    Modify(usize, u8),
    Over,
}

#[derive(Debug)]
pub(crate) struct Chip {
    pub(crate) registers: [u8; 128],
    phase: Phase,
    /// A receive buffer whose flag falls at the end of the transaction.
    release: Option<u8>,
    /// It hears nothing for so long.
    deaf_ns: u64,
    /// How long a change of mode takes.
    pub(crate) mode_ns: u64,
    mode_due_ns: u64,
    /// Whether a numbered frame comes before each transaction to come.
    pub(crate) arriving: VecDeque<bool>,
    /// How many numbered frames came.
    pub(crate) heard: u32,
    pub(crate) lost: u32,
    /// Frames of the bus that no filter wanted.
    pub(crate) ignored: u32,
    pub(crate) resets: u32,
}

impl Chip {
    pub(crate) fn new() -> Self {
        let mut chip = Self {
            registers: [0; 128],
            phase: Phase::Idle,
            release: None,
            deaf_ns: 0,
            mode_ns: 0,
            mode_due_ns: 0,
            arriving: VecDeque::new(),
            heard: 0,
            lost: 0,
            ignored: 0,
            resets: 0,
        };
        chip.reset();
        chip
    }

    fn reset(&mut self) {
        self.registers = [0; 128];
        self.registers[CANCTRL] = 0b1000_0111;
        self.registers[CANSTAT] = CONFIGURATION << 5;
        self.deaf_ns = 16_000;
        self.resets += 1;
    }

    pub(crate) fn mode(&self) -> u8 {
        self.registers[CANSTAT] >> 5
    }

    fn wait(&mut self, ns: u64) {
        self.deaf_ns = self.deaf_ns.saturating_sub(ns);
        self.mode_due_ns = self.mode_due_ns.saturating_sub(ns);
        self.take_mode();
    }

    fn take_mode(&mut self) {
        if self.mode_due_ns == 0 {
            self.registers[CANSTAT] = self.registers[CANCTRL] & 0xE0;
        }
    }

    fn select(&mut self) {
        if self.arriving.pop_front().unwrap_or(false) {
            self.hear_next();
        }
        self.phase = if self.deaf_ns == 0 { Phase::Instruction } else { Phase::Over };
    }

    fn clock(&mut self, byte: u8) -> u8 {
        let (phase, answer) = match self.phase {
            Phase::Instruction => (self.instruct(byte), 0),
            Phase::ReadFrom => (Phase::Read(usize::from(byte)), 0),
            Phase::Read(address) => (Phase::Read((address + 1) % 128), self.registers[address]),
            Phase::WriteTo => (Phase::Write(usize::from(byte)), 0),
            Phase::Write(address) => {
                self.write(address, byte);
                (Phase::Write((address + 1) % 128), 0)
            }
            Phase::Status => (Phase::Status, self.status()),
            Phase::ModifyAt => (Phase::ModifyMask(usize::from(byte)), 0),
            Phase::ModifyMask(address) => (Phase::Modify(address, byte), 0),
            Phase::Modify(address, mask) => {
                self.write(address, self.registers[address] & !mask | byte & mask);
                (Phase::Over, 0)
            }
            Phase::Idle | Phase::Over => (Phase::Over, 0),
        };
        self.phase = phase;
        answer
    }

    fn instruct(&mut self, byte: u8) -> Phase {
        match byte {
            0xC0 => {
                self.reset();
                Phase::Over
            }
            0x03 => Phase::ReadFrom,
            0x02 => Phase::WriteTo,
            0x05 => Phase::ModifyAt,
            0xA0 => Phase::Status,
            0x90 | 0x92 | 0x94 | 0x96 => {
                let (buffer, is_data) = (byte >> 2 & 1, byte & 2 != 0);
                self.release = Some(1 << buffer);
                Phase::Read(RXB_CTRL[usize::from(buffer)] + if is_data { 6 } else { 1 })
            }
            0x40..=0x45 => {
                Phase::Write(TXB_CTRL[usize::from(byte >> 1 & 3)] + if byte & 1 == 1 { 6 } else { 1 })
            }
            0x80..=0x87 => {
                let buffers = (0..3).filter(|buffer| byte >> buffer & 1 == 1);
                buffers.for_each(|buffer| self.registers[TXB_CTRL[buffer]] |= TXREQ);
                Phase::Over
            }
            other => panic!("no instruction: {other:#04x}"),
        }
    }

    fn deselect(&mut self) {
        self.registers[CANINTF] &= !self.release.take().unwrap_or(0);
        self.phase = Phase::Idle;
    }

    fn write(&mut self, address: usize, byte: u8) {
        let is_configuration =
            address < 0x0C || (0x10..0x1C).contains(&address) || (0x20..=0x2A).contains(&address);
        assert!(
            !is_configuration || self.mode() == CONFIGURATION,
            "register {address:#04x} is written outside configuration mode"
        );
        match address {
            CANSTAT | TEC | REC => {}
            CANCTRL => {
                self.registers[CANCTRL] = byte;
                self.mode_due_ns = self.mode_ns;
                self.take_mode();
            }
            // Only the flags of lost frames can be cleared.
            EFLG => self.registers[EFLG] = self.registers[EFLG] & 0x3F | byte & 0xC0,
            _ => self.registers[address] = byte,
        }
    }

    fn status(&self) -> u8 {
        let requests =
            (0..3).map(|buffer| (self.registers[TXB_CTRL[buffer]] & TXREQ) >> 3 << (2 + 2 * buffer));
        self.registers[CANINTF] & 0b11 | requests.fold(0, |status, bit| status | bit)
    }

    fn interrupt_is_low(&self) -> bool {
        self.registers[CANINTE] & self.registers[CANINTF] != 0
    }

    /// A frame of the bus, by the flow chart of the data sheet (figure 4-3).
    pub(crate) fn hear(&mut self, frame: &BusFrame) {
        if !matches!(self.mode(), NORMAL | LISTEN_ONLY) {
            return;
        }
        let is_full = |chip: &Self, buffer: usize| chip.registers[CANINTF] >> buffer & 1 == 1;
        if self.accepts(0, frame) {
            if !is_full(self, 0) {
                self.store(0, frame);
            } else if self.registers[RXB_CTRL[0]] & ROLLOVER == 0 {
                self.lose(6);
            } else if !is_full(self, 1) {
                self.store(1, frame);
            } else {
                self.lose(7);
            }
        } else if self.accepts(1, frame) {
            if is_full(self, 1) { self.lose(7) } else { self.store(1, frame) }
        } else {
            self.ignored += 1;
        }
    }

    pub(crate) fn hear_next(&mut self) {
        let frame = numbered(self.heard);
        self.heard += 1;
        self.hear(&frame);
    }

    /// A remote frame into the first buffer, asking for so many bytes. What lies in the buffer's data is of no meaning.
    pub(crate) fn hear_remote(&mut self, id: u32, is_extended: bool, len: u8) {
        self.store(0, &BusFrame { id, is_extended, data: vec![0xAA; 8] });
        let [sidl, length] = [RXB_CTRL[0] + 2, RXB_CTRL[0] + 5];
        let (standard, extended) = if is_extended { (0, 1 << 6) } else { (1 << 4, 0) };
        self.registers[sidl] |= standard;
        self.registers[length] = len | extended;
    }

    fn lose(&mut self, flag: u8) {
        self.registers[EFLG] |= 1 << flag;
        self.lost += 1;
    }

    fn accepts(&self, buffer: usize, frame: &BusFrame) -> bool {
        assert_eq!(self.registers[RXB_CTRL[buffer]] & 0x60, 0, "the mode that takes broken frames");
        let mask = self.id_at(MASKS[buffer]);
        FILTERS[buffer].iter().any(|address| {
            let is_extended = self.registers[address + 1] & 0x08 != 0;
            // In a standard frame the low 16 bits stand for its first two bytes of data.
            let bits = if frame.is_extended {
                frame.id
            } else {
                let byte = |index: usize| u32::from(frame.data.get(index).copied().unwrap_or(0));
                frame.id << 18 | byte(0) << 8 | byte(1)
            };
            is_extended == frame.is_extended && (bits ^ self.id_at(*address)) & mask == 0
        })
    }

    fn id_at(&self, address: usize) -> u32 {
        let [sidh, sidl, eid8, eid0] = [0, 1, 2, 3].map(|offset| u32::from(self.registers[address + offset]));
        sidh << 21 | sidl >> 5 << 18 | (sidl & 3) << 16 | eid8 << 8 | eid0
    }

    fn store(&mut self, buffer: usize, frame: &BusFrame) {
        let id = if frame.is_extended { frame.id } else { frame.id << 18 };
        let sidl = (id >> 13 & 0xE0) as u8 | u8::from(frame.is_extended) << 3 | (id >> 16 & 3) as u8;
        let head = [(id >> 21) as u8, sidl, (id >> 8) as u8, id as u8, frame.data.len() as u8];
        let start = RXB_CTRL[buffer] + 1;
        self.registers[start..start + 5].copy_from_slice(&head);
        self.registers[start + 5..start + 5 + frame.data.len()].copy_from_slice(&frame.data);
        self.registers[CANINTF] |= 1 << buffer;
    }

    /// The frame that it sends next: of equal priority the one in the highest buffer.
    pub(crate) fn send(&mut self) -> Option<BusFrame> {
        if self.mode() != NORMAL {
            return None;
        }
        let start = TXB_CTRL.into_iter().rev().find(|start| self.registers[*start] & TXREQ != 0)?;
        self.registers[start] &= !TXREQ;
        let is_extended = self.registers[start + 2] & 0x08 != 0;
        let id = self.id_at(start + 1);
        let len = usize::from(self.registers[start + 5] & 0x0F);
        let data = self.registers[start + 6..start + 6 + len].to_vec();
        Some(BusFrame { id: if is_extended { id } else { id >> 18 }, is_extended, data })
    }
}

/// The chip's SPI, its interrupt line, and time for it.
#[derive(Debug, Clone)]
pub(crate) struct Wires(pub(crate) Rc<RefCell<Chip>>);

impl SpiErrorType for Wires {
    type Error = Infallible;
}

impl SpiDevice for Wires {
    fn transaction(&mut self, operations: &mut [Operation<'_, u8>]) -> Result<(), Infallible> {
        let mut chip = self.0.borrow_mut();
        chip.select();
        for operation in operations {
            match operation {
                Operation::Read(bytes) => bytes.iter_mut().for_each(|byte| *byte = chip.clock(0)),
                Operation::Write(bytes) => bytes.iter().for_each(|byte| _ = chip.clock(*byte)),
                other => panic!("not used by the driver: {other:?}"),
            }
        }
        chip.deselect();
        Ok(())
    }
}

impl PinErrorType for Wires {
    type Error = Infallible;
}

impl InputPin for Wires {
    fn is_high(&mut self) -> Result<bool, Infallible> {
        self.is_low().map(|is_low| !is_low)
    }

    fn is_low(&mut self) -> Result<bool, Infallible> {
        Ok(self.0.borrow().interrupt_is_low())
    }
}

impl DelayNs for Wires {
    fn delay_ns(&mut self, ns: u32) {
        self.0.borrow_mut().wait(u64::from(ns));
    }
}
