//! The two serial lines (PL011): received under interrupts into a queue, transmitted by the main loop.

use core::cell::Cell;
use core::convert::Infallible;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use cortex_m::interrupt::Mutex;
use embedded_io::{ErrorType, Read, ReadReady, Write, WriteReady};
use heapless::spsc::{Consumer, Producer, Queue};

use crate::board::CLOCK_HZ;
use convoy_board_lm3s6965::registers::{Offset, Registers, UART0, UART1};

/// What the agent expects of a dongle, bit/s: 4,000 frames of 8 bytes a second take 70 kB/s of its 100.
const BAUD: u32 = 1_000_000;
/// The divisor's 64ths, rounded: 16 samples a bit.
const DIVISOR_64THS: u32 = (CLOCK_HZ * 4 + BAUD / 2) / BAUD;

/// What the transmitter takes at once when it is empty.
pub(crate) const TRANSMIT_BYTES: usize = 16;

const DATA: Offset = Offset::new(0x000);
const DATA_OVERRUN: u32 = 1 << 11;
const FLAGS: Offset = Offset::new(0x018);
const BUSY: u32 = 1 << 3;
const RECEIVE_EMPTY: u32 = 1 << 4;
const TRANSMIT_EMPTY: u32 = 1 << 7;
const DIVISOR_INTEGER: Offset = Offset::new(0x024);
const DIVISOR_FRACTION: Offset = Offset::new(0x028);
const LINE_CONTROL: Offset = Offset::new(0x02C);
/// 8 bits, no parity, one stop bit, with the FIFOs.
const LINE_8N1_FIFO: u32 = 0b11 << 5 | 1 << 4;
const CONTROL: Offset = Offset::new(0x030);
const ENABLE: u32 = 1 << 9 | 1 << 8 | 1;
const INTERRUPT_MASK: Offset = Offset::new(0x038);
/// The FIFO is half full, or bytes have waited in it for 32 bits' time.
const RECEIVED: u32 = 1 << 4 | 1 << 6;

/// The agent's line.
pub(crate) static LINK: Port = Port::new(UART0);
/// The line in place of a bus.
pub(crate) static BUS: Port = Port::new(UART1);

/// What main loop and interrupt of a line both see.
pub(crate) struct Port {
    registers: Registers,
    /// Times that the receiver, or the queue of a lossy line, had no room for a byte; wraps at 2^32.
    overruns: AtomicU32,
    /// The queue was full: bytes wait in the receiver.
    is_paused: AtomicBool,
    /// Bytes never wait for room in the queue.
    is_lossy: AtomicBool,
    /// On its way from the main loop to the interrupt.
    queue: Mutex<Cell<Option<Producer<'static, u8>>>>,
}

impl Port {
    const fn new(registers: Registers) -> Self {
        Self {
            registers,
            overruns: AtomicU32::new(0),
            is_paused: AtomicBool::new(false),
            is_lossy: AtomicBool::new(false),
            queue: Mutex::new(Cell::new(None)),
        }
    }

    /// Receives nothing until a [`Line`] is opened.
    pub(crate) fn start(&self) {
        self.registers.write(CONTROL, 0);
        self.registers.write(DIVISOR_INTEGER, DIVISOR_64THS / 64);
        self.registers.write(DIVISOR_FRACTION, DIVISOR_64THS % 64);
        // Only now the chip takes the divisor over.
        self.registers.write(LINE_CONTROL, LINE_8N1_FIFO);
        self.registers.write(CONTROL, ENABLE);
    }

    pub(crate) fn overruns(&self) -> u32 {
        self.overruns.load(Ordering::Relaxed)
    }

    /// Moves bytes from the receiver to `queue`, which is fetched at the first call. A full queue leaves them where they
    /// are: the receiver itself notices when it has no room left, and at the other end of an emulated one they wait. On a lossy
    /// line they are gone.
    pub(crate) fn handle_interrupt(&self, queue: &mut Option<Producer<'static, u8>>) {
        if queue.is_none() {
            *queue = cortex_m::interrupt::free(|section| self.queue.borrow(section).take());
        }
        let is_lossy = self.is_lossy.load(Ordering::Relaxed);
        while let Some(queue) = queue
            && (is_lossy || queue.ready())
        {
            if self.registers.read(FLAGS) & RECEIVE_EMPTY != 0 {
                return;
            }
            let data = self.registers.read(DATA);
            // A byte with another error fails the checksum of what it is in.
            if queue.enqueue(data.to_le_bytes()[0]).is_err() || data & DATA_OVERRUN != 0 {
                self.overruns.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.is_paused.store(true, Ordering::Relaxed);
        self.registers.write(INTERRUPT_MASK, 0);
    }
}

/// The main loop's end of a line.
pub(crate) struct Line {
    port: &'static Port,
    received: Consumer<'static, u8>,
    /// Nothing was transmitted since the transmitter was seen empty.
    is_empty: bool,
}

impl Line {
    /// Begins to receive, with room for `BYTES_MAX` - 1 bytes.
    pub(crate) fn open<const BYTES_MAX: usize>(
        port: &'static Port,
        queue: &'static mut Queue<u8, BYTES_MAX>,
    ) -> Self {
        let (producer, received) = queue.split();
        cortex_m::interrupt::free(|section| port.queue.borrow(section).set(Some(producer)));
        // What was there before the start is of no use, and while it waits nothing more is announced.
        while port.registers.read(FLAGS) & RECEIVE_EMPTY == 0 {
            port.registers.read(DATA);
        }
        port.registers.write(INTERRUPT_MASK, RECEIVED);
        Self { port, received, is_empty: false }
    }

    pub(crate) fn receive(&mut self) -> Option<u8> {
        let byte = self.received.dequeue();
        if byte.is_none() && self.port.is_paused.load(Ordering::Relaxed) {
            self.port.is_paused.store(false, Ordering::Relaxed);
            self.port.registers.write(INTERRUPT_MASK, RECEIVED);
        }
        byte
    }

    /// From now on, what comes while there is no room is lost.
    pub(crate) fn become_lossy(&self) {
        self.port.is_lossy.store(true, Ordering::Relaxed);
    }

    /// Whether nothing was received that the main loop has not seen.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.received.ready() && !self.port.is_paused.load(Ordering::Relaxed)
    }

    /// Whether [`Self::transmit`] takes [`TRANSMIT_BYTES`].
    pub(crate) fn has_room(&mut self) -> bool {
        self.is_empty = self.is_empty || self.port.registers.read(FLAGS) & TRANSMIT_EMPTY != 0;
        self.is_empty
    }

    pub(crate) fn transmit(&mut self, bytes: &[u8]) {
        self.is_empty = false;
        for byte in bytes {
            self.port.registers.write(DATA, u32::from(*byte));
        }
    }
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
        let received = bytes.iter_mut().map_while(|slot| self.receive().map(|byte| *slot = byte));
        Ok(received.count())
    }
}

impl WriteReady for Line {
    fn write_ready(&mut self) -> Result<bool, Infallible> {
        Ok(self.has_room())
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        while !self.has_room() {}
        let bytes = bytes.get(..TRANSMIT_BYTES).unwrap_or(bytes);
        self.transmit(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        // The last byte is out when the transmitter rests, not when it is fetched.
        while !self.has_room() || self.port.registers.read(FLAGS) & BUSY != 0 {}
        Ok(())
    }
}
