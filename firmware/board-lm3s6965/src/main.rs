//! The dongle on an LM3S6965: a thin shell that carries bytes and time to and from [`convoy_dongle`].
//!
//! ```text
//! UART1 (records in place of a CAN controller) -> bus  -\
//!                                                        Dongle -> UART0 -> agent
//! UART0 (agent)                                -> link -/
//! ```
//!
//! It stands for every board with a microcontroller in the tests, because QEMU emulates it: interrupts, two serial lines,
//! a timer. QEMU has no CAN controller for it, so the bus side comes over the second line: [`bus`].
#![no_std]
#![no_main]

mod board;
mod bus;
mod clock;
mod emulator;
mod registers;
mod uart;

use convoy_dongle::Dongle;
use convoy_protocol::frame::BusIndex;
use cortex_m::singleton;
use cortex_m_rt::entry;
use heapless::spsc::Queue;

use bus::{BusSide, Event};
use clock::Clock;
use uart::{Line, Port};

/// The only bus of this board.
const BUS: BusIndex = BusIndex(0);

/// Received bytes that may wait for the main loop: 80 classic frames on the bus side, a handful of messages on the link.
const BUS_BYTES_MAX: usize = 2_048;
const LINK_BYTES_MAX: usize = 512;

/// Bytes of each line that the main loop takes before it looks at the other one again.
const TURN_BYTES_MAX: usize = 64;

/// Whether the main loop has a reason to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Worked,
    /// Nothing to do before this time, but for what comes in.
    IdleUntil(u64),
    /// The bus side said that nothing more comes.
    Ended,
}

#[entry]
fn main() -> ! {
    let link_queue = singleton!(: Queue<u8, LINK_BYTES_MAX> = Queue::new());
    let bus_queue = singleton!(: Queue<u8, BUS_BYTES_MAX> = Queue::new());
    let (Some(mut clock), Some(link_queue), Some(bus_queue)) = (board::start(), link_queue, bus_queue) else {
        panic!("started twice");
    };
    let (mut link, mut bus_line) = (Line::open(&uart::LINK, link_queue), Line::open(&uart::BUS, bus_queue));
    // Ends whatever the agent heard while this board started, and says that from now on it listens.
    link.transmit(&[0]);
    let mut bus = BusSide::new();
    let mut dongle: Dongle = Dongle::new(clock.now_us());
    loop {
        match turn(&mut dongle, &mut clock, &mut link, &mut bus_line, &mut bus) {
            Turn::Worked => {}
            // The timer would wake the core too late for this one.
            Turn::IdleUntil(timeout_us) if timeout_us < clock.end_of_period_us() => {}
            // Interrupts wait from here on, so that a byte between the question and the sleep still wakes the core.
            Turn::IdleUntil(_) => cortex_m::interrupt::free(|_| {
                if link.is_quiet() && bus_line.is_quiet() {
                    cortex_m::asm::wfi();
                }
            }),
            Turn::Ended => {
                // Another turn finds nothing but what is still to be sent.
                while turn(&mut dongle, &mut clock, &mut link, &mut bus_line, &mut bus) == Turn::Worked {}
                emulator::end(&bus.counters(), uart::BUS.overruns(), uart::LINK.overruns());
            }
        }
    }
}

/// The only place that knows the dongle: brings it what came in, and takes what goes out.
fn turn(
    dongle: &mut Dongle,
    clock: &mut Clock,
    link: &mut Line,
    bus_line: &mut Line,
    bus: &mut BusSide,
) -> Turn {
    let mut has_worked = false;
    for _ in 0..TURN_BYTES_MAX {
        let Some(byte) = bus_line.receive() else { break };
        has_worked = true;
        match bus.handle_byte(byte) {
            Some(Event::Frame(frame)) => {
                dongle.handle_can_frame(clock.now_us(), BUS, &frame);
                // Before the next frame, so that the queue is only as full as the line is slow.
                break;
            }
            Some(Event::End) => return Turn::Ended,
            None => {}
        }
    }
    for _ in 0..TURN_BYTES_MAX {
        let Some(byte) = link.receive() else { break };
        has_worked = true;
        dongle.handle_byte(clock.now_us(), byte);
    }
    if clock.has_reached(dongle.poll_timeout()) {
        dongle.handle_timeout(clock.now_us());
    }
    while link.has_room() {
        let mut bytes = [0; uart::TRANSMIT_BYTES];
        let len = dongle.poll_transmit(&mut bytes);
        if len == 0 {
            return if has_worked { Turn::Worked } else { Turn::IdleUntil(dongle.poll_timeout()) };
        }
        link.transmit(&bytes[..len]);
    }
    // The line is busy, and says nothing when it has room again.
    Turn::Worked
}

/// The lines with interrupts; the vectors have their names.
mod interrupts {
    use heapless::spsc::Producer;
    use lm3s6965::interrupt;

    use super::{Port, uart};

    #[interrupt]
    fn UART0() {
        static mut QUEUE: Option<Producer<'static, u8>> = None;
        Port::handle_interrupt(&uart::LINK, QUEUE);
    }

    #[interrupt]
    fn UART1() {
        static mut QUEUE: Option<Producer<'static, u8>> = None;
        Port::handle_interrupt(&uart::BUS, QUEUE);
    }
}
