//! The agent's line, USART1 on PA9 and PA10: both directions under interrupts, with a queue each.

use core::cell::Cell;
use core::convert::Infallible;

use cortex_m::interrupt::Mutex;
use cortex_m::peripheral::NVIC;
use embedded_io::{ErrorType, Read, ReadReady, Write, WriteReady};
use heapless::spsc::{Consumer, Producer, Queue};
use stm32f4xx_hal::pac::{Interrupt, USART1};
use stm32f4xx_hal::rcc::{Enable, Rcc, Reset};

/// What the agent expects of a dongle, bit/s.
const BAUD: u32 = 1_000_000;

/// Bytes that wait for the other side, one less than this: 5 ms of the line.
pub const QUEUE_BYTES: usize = 512;

const RECEIVED: u32 = 1 << 5;
const OVERRUN: u32 = 1 << 3;
const MAY_TRANSMIT: u32 = 1 << 7;
/// On, both directions, an interrupt for each byte received.
const CONTROL: u32 = 1 << 13 | 1 << 3 | 1 << 2 | 1 << 5;
/// An interrupt while the transmitter takes a byte.
const TRANSMIT_INTERRUPT: u32 = 1 << 7;

/// The interrupt's ends of the two queues.
pub struct Ends {
    received: Producer<'static, u8>,
    transmitting: Consumer<'static, u8>,
}

/// On its way from the main loop to the interrupt.
static ENDS: Mutex<Cell<Option<Ends>>> = Mutex::new(Cell::new(None));

/// The main loop's ends.
pub struct Line {
    received: Consumer<'static, u8>,
    transmitting: Producer<'static, u8>,
}

impl Line {
    /// Begins to receive; the pins are the caller's.
    pub(crate) fn open(
        usart: USART1,
        rcc: &mut Rcc,
        received: &'static mut Queue<u8, QUEUE_BYTES>,
        transmitting: &'static mut Queue<u8, QUEUE_BYTES>,
    ) -> Self {
        let (received_in, received) = received.split();
        let (transmitting, transmitting_out) = transmitting.split();
        let ends = Ends { received: received_in, transmitting: transmitting_out };
        cortex_m::interrupt::free(|section| ENDS.borrow(section).set(Some(ends)));
        USART1::enable(rcc);
        USART1::reset(rcc);
        // SAFETY: 16 samples a bit: the whole divisor is 16 and more for every clock that is set up here.
        usart.brr().write(|w| unsafe { w.bits((rcc.clocks.pclk2().raw() / BAUD) as _) });
        // SAFETY: bits of the reference manual; those that are reserved stay 0.
        usart.cr1().write(|w| unsafe { w.bits(CONTROL as _) });
        Self { received, transmitting }
    }

    /// Nothing was received that was not read.
    pub(crate) fn is_quiet(&self) -> bool {
        if cfg!(feature = "qemu") {
            NVIC::pend(Interrupt::USART1);
        }
        !self.received.ready()
    }
}

/// The interrupt of USART1; `ends` are fetched at the first call. A byte for which there is no room is lost, and the packet that
/// it was in fails its checksum.
pub fn handle_interrupt(ends: &mut Option<Ends>) {
    // SAFETY: the main loop changes none but the control register, and that with interrupts off.
    let usart = unsafe { &*USART1::ptr() };
    if ends.is_none() {
        *ends = cortex_m::interrupt::free(|section| ENDS.borrow(section).take());
    }
    let status = u32::from(usart.sr().read().bits());
    if status & (RECEIVED | OVERRUN) != 0 {
        // Reading it clears both.
        let [byte, ..] = usart.dr().read().bits().to_le_bytes();
        if let Some(ends) = ends {
            let _ = ends.received.enqueue(byte);
        }
    }
    if status & MAY_TRANSMIT == 0 {
        return;
    }
    match ends.as_mut().and_then(|ends| ends.transmitting.dequeue()) {
        // SAFETY: a byte of 8 bits.
        Some(byte) => {
            usart.dr().write(|w| unsafe { w.bits(byte.into()) });
        }
        None => set_transmit_interrupt(usart, false),
    }
}

fn set_transmit_interrupt(usart: &stm32f4xx_hal::pac::usart1::RegisterBlock, is_on: bool) {
    let bit = if is_on { TRANSMIT_INTERRUPT } else { 0 };
    // SAFETY: as where the line is opened.
    usart.cr1().write(|w| unsafe { w.bits((CONTROL | bit) as _) });
}

impl ErrorType for Line {
    type Error = Infallible;
}

impl ReadReady for Line {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(!self.is_quiet())
    }
}

impl Read for Line {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Infallible> {
        let received = bytes.iter_mut().map_while(|slot| self.received.dequeue().map(|byte| *slot = byte));
        Ok(received.count())
    }
}

impl WriteReady for Line {
    fn write_ready(&mut self) -> Result<bool, Infallible> {
        Ok(self.transmitting.ready())
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        let len = bytes.iter().take_while(|byte| self.transmitting.enqueue(**byte).is_ok()).count();
        // The interrupt turns it off where it finds the queue empty.
        cortex_m::interrupt::free(|_| {
            // SAFETY: a write of the control register, which the interrupt cannot interrupt.
            set_transmit_interrupt(unsafe { &*USART1::ptr() }, true);
        });
        Ok(len)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        while self.transmitting.len() > 0 {}
        // SAFETY: reading the status changes nothing.
        let usart = unsafe { &*USART1::ptr() };
        // The last bytes have left the queue, not the chip.
        while !usart.sr().read().tc().bit() {}
        Ok(())
    }
}
