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
mod controller;
mod emulator;
mod machine;
mod uart;

use convoy_board_lm3s6965::layout::NAME;
use convoy_board_lm3s6965::restart;
use convoy_dongle::shell::{Machine as _, Shell, Turn};
use convoy_dongle::{Board, Dongle};
use convoy_protocol::link::BATCH_AGE_US;
use cortex_m_rt::entry;
use heapless::spsc::Queue;

use controller::RecordBus;
use machine::Rest;
use uart::{Line, Port};

/// Received bytes that may wait for the main loop: 80 classic frames on the bus side, a handful of messages on the link.
const BUS_BYTES_MAX: usize = 2_048;
const LINK_BYTES_MAX: usize = 512;

type Device<'d> = Shell<&'d mut Dongle, Rest, Line, RecordBus, 1>;

#[entry]
fn main() -> ! {
    static mut LINK_QUEUE: Queue<u8, LINK_BYTES_MAX> = Queue::new();
    static mut BUS_QUEUE: Queue<u8, BUS_BYTES_MAX> = Queue::new();
    let Some(clock) = board::start() else { emulator::fail("started twice") };
    let mut machine = Rest::new(clock, run as *const () as usize);
    let board = Board { name: NAME, firmware: machine.version(), buses: 1, reset: restart::take_cause() };
    let (mut link, bus) = (Line::open(&uart::LINK, LINK_QUEUE), Line::open(&uart::BUS, BUS_QUEUE));
    // Ends whatever the agent heard while this board started, and says that from now on it listens.
    link.transmit(&[0]);
    // Not in a static: a value made for one is made on the stack first, and takes twice its memory.
    let mut dongle = Dongle::new(board, 0);
    run(&mut Shell::new(&mut dongle, machine, link, [RecordBus::new(bus)]))
}

fn run(device: &mut Device<'_>) -> ! {
    loop {
        let turn = device.turn();
        let Shell { machine, line, buses: [bus], .. } = device;
        if bus.has_ended() {
            end(device);
        }
        let timeout_us = match turn {
            Turn::Worked => continue,
            Turn::IdleUntil(timeout_us) => timeout_us,
            Turn::Idle => u64::MAX,
        };
        // Interrupts wait from here on, so that a byte between the question and the sleep still wakes the core.
        cortex_m::interrupt::free(|_| {
            // What is due before the timer's next interrupt is not slept over.
            if timeout_us >= machine.clock.end_of_period_us() && line.is_quiet() && bus.is_quiet() {
                cortex_m::asm::wfi();
            }
        });
    }
}

/// Nothing more comes: sends what waits for others to share its packet, says what was counted, and ends.
fn end(device: &mut Device<'_>) -> ! {
    let last_us = device.machine.now_us().saturating_add(BATCH_AGE_US);
    while device.turn() == Turn::Worked || device.machine.now_us() <= last_us {}
    let [bus] = &device.buses;
    emulator::end(&bus.counters(), uart::BUS.overruns(), uart::LINK.overruns())
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
