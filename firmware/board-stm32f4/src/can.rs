//! CAN1 (bxCAN) on PB8 (RX) and PB9 (TX), with a transceiver for 3.3 V. Frames are taken under interrupts, with their time.
//!
//! On the registers, not on the crate `bxcan`: that waits for the bus without end, lets go of neither receive queue nor settings
//! while the other is in use, and checks its indices at run time.

use core::cell::Cell;
use core::convert::Infallible;
use core::sync::atomic::{AtomicU32, Ordering};

use convoy_controllers::ClassicFrame;
use convoy_controllers::bxcan::{Bank, banks, bit_timing};
use convoy_dongle::Filter;
use convoy_dongle::shell::{Controller, ControllerState};
use convoy_protocol::link::{BusState, Outcome};
use cortex_m::interrupt::Mutex;
use cortex_m::peripheral::NVIC;
use cortex_m::singleton;
use embedded_can::nb::Can;
use embedded_can::{ExtendedId, Frame, Id, StandardId};
use heapless::spsc::{Consumer, Producer, Queue};
use stm32f4xx_hal::pac::{CAN1, Interrupt, can1};
use stm32f4xx_hal::rcc::{Enable, Reset};

use crate::board::Rest;
use crate::time::{self, Clock};

/// Bit rate until the first that is asked for, bit/s: most vehicles' (ISO 15765-4).
pub const BITRATE_DEFAULT: u32 = 500_000;

/// Frames that wait for the main loop, one less than this: 15 ms of a full 500 kbit/s bus.
const QUEUE_FRAMES: usize = 64;

/// What the crystal makes: [`crate::board`].
const CLOCK_HZ: u32 = 42_000_000;
const _: () = {
    assert!(bit_timing(CLOCK_HZ, 125_000).is_some());
    assert!(bit_timing(CLOCK_HZ, 250_000).is_some());
    assert!(bit_timing(CLOCK_HZ, 500_000).is_some());
    assert!(bit_timing(CLOCK_HZ, 1_000_000).is_some());
};

/// Looks for an answer of the controller: it takes a few cycles of the bus between the two.
const TRIES_MAX: u32 = 10_000;

/// Master control (MCR): initialisation, transmit in the order of requests, a full queue loses the newest, back from bus-off by
/// itself, reset.
const INITIALISE: u32 = 1;
const IN_ORDER: u32 = 1 << 2;
const LOSE_NEWEST: u32 = 1 << 3;
const RECOVER: u32 = 1 << 6;
const RESET: u32 = 1 << 15;
/// Master status (MSR).
const IS_INITIALISING: u32 = 1;
/// Bit timing (BTR): nothing is sent.
const SILENT: u32 = 1 << 31;
/// Interrupts (IER): a frame waits, a frame was lost.
const RECEIVE_INTERRUPTS: u32 = 1 << 1 | 1 << 3;
/// Receive queue 0 (RF0R): frames, one was lost, let go of the first.
const FRAMES: u32 = 0b11;
const LOST: u32 = 1 << 4;
const LET_GO: u32 = 1 << 5;
/// Transmit status (TSR): all requests are given up; from this bit on, which of the three mailboxes are empty.
const GIVE_UP: u32 = 1 << 7 | 1 << 15 | 1 << 23;
const FIRST_EMPTY: u32 = 26;
/// Identifier registers (TIR, RIR).
const REQUEST: u32 = 1;
const IS_REMOTE: u32 = 1 << 1;
const IS_EXTENDED: u32 = 1 << 2;
/// Filter master (FMR): filters are set; all banks are this controller's.
const SET_FILTERS: u32 = 1;
const ALL_BANKS: u32 = 28 << 8;

/// A frame and the counter's time at which it was taken.
pub struct Received {
    frame: ClassicFrame,
    ticks_us: u32,
}

/// On its way from the main loop to the interrupt.
static QUEUE: Mutex<Cell<Option<Producer<'static, Received>>>> = Mutex::new(Cell::new(None));

/// Frames that found no room, in the controller or in the queue; wraps at 2^32.
static OVERRUNS: AtomicU32 = AtomicU32::new(0);

/// The main loop's end of the bus.
pub struct CanBus {
    can: CAN1,
    clock_hz: u32,
    bitrate: u32,
    /// `None` while the bus is closed.
    listen_only: Option<bool>,
    received: Consumer<'static, Received>,
    clock: Clock,
    received_us: u64,
    overruns: u32,
}

impl CanBus {
    /// A closed bus; `None` if there was one before.
    pub fn new(rest: Rest) -> Option<Self> {
        let Rest { mut rcc, can1: can, can_pins: (rx, tx), .. } = rest;
        let (producer, received) = singleton!(: Queue<Received, QUEUE_FRAMES> = Queue::new())?.split();
        cortex_m::interrupt::free(|section| QUEUE.borrow(section).set(Some(producer)));
        // Without a transceiver the bus is recessive.
        let _ = (rx.into_alternate::<9>().internal_pull_up(true), tx.into_alternate::<9>());
        CAN1::enable(&mut rcc);
        CAN1::reset(&mut rcc);
        let clock_hz = rcc.clocks.pclk1().raw();
        let bus = Self {
            can,
            clock_hz,
            bitrate: BITRATE_DEFAULT,
            listen_only: None,
            received,
            clock: Clock::default(),
            received_us: 0,
            overruns: 0,
        };
        bus.set_filters(&banks(&[]));
        // SAFETY: the main loop holds no lock that the handler waits for.
        unsafe { NVIC::unmask(Interrupt::CAN1_RX0) };
        Some(bus)
    }

    /// No frame waits.
    pub fn is_quiet(&self) -> bool {
        !self.received.ready()
    }

    /// Nothing is received for the moment that this takes.
    fn set_filters(&self, banks: &[Bank]) {
        let can = &self.can;
        // SAFETY (all of the writes): filters may be set in this mode, and any bits are filters. Banks of both widths hold masks
        // and belong to receive queue 0.
        unsafe {
            can.fmr().write(|w| w.bits(ALL_BANKS | SET_FILTERS));
            can.fa1r().write(|w| w.bits(0));
            can.fm1r().write(|w| w.bits(0));
            can.ffa1r().write(|w| w.bits(0));
        }
        let (mut wide, mut used) = (0, 0);
        for ((index, bank), registers) in (0..).zip(banks).zip(can.fb_iter()) {
            let [first, second] = bank.registers;
            // SAFETY: as above.
            unsafe {
                registers.fr1().write(|w| w.bits(first));
                registers.fr2().write(|w| w.bits(second));
            }
            wide |= u32::from(bank.is_wide) << index;
            used |= 1_u32 << index;
        }
        // SAFETY: as above.
        unsafe {
            can.fs1r().write(|w| w.bits(wide));
            can.fa1r().write(|w| w.bits(used));
            can.fmr().write(|w| w.bits(ALL_BANKS));
        }
    }

    /// Out of whatever it did, with nothing to send; false if it does not answer.
    fn initialise(&mut self) -> bool {
        let can = &self.can;
        self.listen_only = None;
        // What waits in the controller was received under the old settings, and is lost.
        let waiting = can.rf0r().read().bits() & FRAMES;
        OVERRUNS.fetch_add(waiting, Ordering::Relaxed);
        // SAFETY (all three): bits of the reference manual; no interrupt from here on.
        unsafe {
            can.ier().write(|w| w.bits(0));
            can.tsr().write(|w| w.bits(GIVE_UP));
            can.mcr().write(|w| w.bits(RESET));
        }
        let control = INITIALISE | IN_ORDER | LOSE_NEWEST | RECOVER;
        // SAFETY: as above.
        unsafe { can.mcr().write(|w| w.bits(control)) };
        (0..TRIES_MAX).any(|_| can.msr().read().bits() & IS_INITIALISING != 0)
    }
}

/// The interrupt of receive queue 0; `queue` is fetched at the first call. One frame a call: it comes again while more wait.
pub fn handle_interrupt(queue: &mut Option<Producer<'static, Received>>) {
    let ticks_us = time::ticks_us();
    // SAFETY: the registers of receive queue 0 are this handler's; the main loop reads one, before it turns the interrupt off.
    let can = unsafe { &*CAN1::ptr() };
    if queue.is_none() {
        *queue = cortex_m::interrupt::free(|section| QUEUE.borrow(section).take());
    }
    let state = can.rf0r().read().bits();
    if state & LOST != 0 {
        count_overrun();
        // SAFETY: it is cleared by writing it; the others stay.
        unsafe { can.rf0r().write(|w| w.bits(LOST)) };
    }
    // The controller still lets go of the frame before.
    if state & FRAMES == 0 || state & LET_GO != 0 {
        return;
    }
    let received = read_frame(can).map(|frame| Received { frame, ticks_us });
    // SAFETY: as above.
    unsafe { can.rf0r().write(|w| w.bits(LET_GO)) };
    if let (Some(received), Some(queue)) = (received, queue)
        && queue.enqueue(received).is_err()
    {
        count_overrun();
    }
}

fn count_overrun() {
    OVERRUNS.fetch_add(1, Ordering::Relaxed);
}

/// The first frame of receive queue 0. Never `None`: an identifier has no more bits than its place.
fn read_frame(can: &can1::RegisterBlock) -> Option<ClassicFrame> {
    let mailbox = can.rx_iter().next()?;
    let id = mailbox.rir().read().bits();
    let [length_code, ..] = mailbox.rdtr().read().bits().to_le_bytes();
    let low = mailbox.rdlr().read().bits().to_le_bytes();
    let high = mailbox.rdhr().read().bits().to_le_bytes();
    let [a, b, c, d] = low;
    let [e, f, g, h] = high;
    let bytes = [a, b, c, d, e, f, g, h];
    let (is_remote, is_extended) = (id & IS_REMOTE != 0, id & IS_EXTENDED != 0);
    let id = if is_extended {
        Id::Extended(ExtendedId::new(id >> 3)?)
    } else {
        Id::Standard(StandardId::new((id >> 21) as u16)?)
    };
    Some(ClassicFrame::from_registers(id, is_remote, length_code & 0xF, bytes))
}

impl Can for CanBus {
    type Frame = ClassicFrame;
    type Error = Never;

    fn transmit(&mut self, frame: &ClassicFrame) -> nb::Result<Option<ClassicFrame>, Never> {
        if self.listen_only != Some(false) {
            return Err(nb::Error::WouldBlock);
        }
        let empty = self.can.tsr().read().bits() >> FIRST_EMPTY;
        let mailbox = (0..).zip(self.can.tx_iter()).find(|(index, _)| empty >> index & 1 == 1);
        let Some((_, mailbox)) = mailbox else { return Err(nb::Error::WouldBlock) };
        let id = match frame.id() {
            Id::Standard(id) => u32::from(id.as_raw()) << 21,
            Id::Extended(id) => id.as_raw() << 3 | IS_EXTENDED,
        };
        let remote = if frame.is_remote_frame() { IS_REMOTE } else { 0 };
        let [a, b, c, d, e, f, g, h] = *frame.bytes();
        // SAFETY (all four): the mailbox is empty, so the program's; any bits are a frame, of 8 bytes at most.
        unsafe {
            mailbox.tdtr().write(|w| w.bits(frame.dlc() as u32));
            mailbox.tdlr().write(|w| w.bits(u32::from_le_bytes([a, b, c, d])));
            mailbox.tdhr().write(|w| w.bits(u32::from_le_bytes([e, f, g, h])));
            mailbox.tir().write(|w| w.bits(id | remote | REQUEST));
        }
        Ok(None)
    }

    fn receive(&mut self) -> nb::Result<ClassicFrame, Never> {
        // Asked at every turn, so that the clock never misses a wrap of the counter.
        let Some(received) = self.received.dequeue() else {
            self.clock.now_us();
            return Err(nb::Error::WouldBlock);
        };
        self.received_us = self.clock.at_us(received.ticks_us);
        Ok(received.frame)
    }
}

impl Controller for CanBus {
    /// [`Outcome::Busy`] where the controller does not answer; then the bus is closed. Does not wait for the bus.
    fn open(&mut self, bitrate: u32, listen_only: bool) -> Outcome {
        let bitrate = if bitrate == 0 { self.bitrate } else { bitrate };
        let Some(timing) = bit_timing(self.clock_hz, bitrate) else { return Outcome::Unsupported };
        if !self.initialise() {
            return Outcome::Busy;
        }
        let silent = if listen_only { SILENT } else { 0 };
        let can = &self.can;
        // SAFETY (all three): the controller is being initialised, and these are bits of the reference manual. The handler has
        // its queue.
        unsafe {
            can.btr().write(|w| w.bits(timing | silent));
            can.ier().write(|w| w.bits(RECEIVE_INTERRUPTS));
            // It takes part from the next quiet moment of the bus on, 11 recessive bits.
            can.mcr().write(|w| w.bits(IN_ORDER | LOSE_NEWEST | RECOVER));
        }
        (self.bitrate, self.listen_only) = (bitrate, Some(listen_only));
        Outcome::Done
    }

    fn choose(&mut self, filters: &[Filter]) -> Outcome {
        self.set_filters(&banks(filters));
        Outcome::Done
    }

    fn state(&mut self) -> ControllerState {
        if self.listen_only.is_none() {
            return ControllerState { state: BusState::Closed, receive_errors: 0, transmit_errors: 0 };
        }
        let errors = self.can.esr().read().bits();
        let [flags, _, transmit_errors, receive_errors] = errors.to_le_bytes();
        let state = match flags & 0b111 {
            flags if flags & 0b100 != 0 => BusState::BusOff,
            flags if flags & 0b010 != 0 => BusState::ErrorPassive,
            0 => BusState::ErrorActive,
            _ => BusState::ErrorWarning,
        };
        ControllerState { state, receive_errors, transmit_errors }
    }

    fn take_overruns(&mut self) -> u32 {
        let overruns = OVERRUNS.load(Ordering::Relaxed);
        overruns.wrapping_sub(core::mem::replace(&mut self.overruns, overruns))
    }

    fn received_us(&self) -> Option<u64> {
        Some(self.received_us)
    }
}

/// Never made: errors are in the controller's counters.
#[derive(Debug)]
pub struct Never(Infallible);

impl embedded_can::Error for Never {
    fn kind(&self) -> embedded_can::ErrorKind {
        match self.0 {}
    }
}
