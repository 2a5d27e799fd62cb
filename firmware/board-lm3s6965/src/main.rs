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

use convoy_dongle::{Action, Board, Dongle};
use convoy_protocol::frame::BusIndex;
use convoy_protocol::link::{BATCH_AGE_US, BusState, Outcome, ResetCause};
use cortex_m::singleton;
use cortex_m_rt::entry;
use heapless::spsc::Queue;

use bus::{BusSide, Event};
use clock::Clock;
use uart::{Line, Port};

/// The only bus of this board.
const BUS: BusIndex = BusIndex(0);
/// What the agent is told.
const BOARD: Board = Board { name: "lm3s6965", firmware: (0, 1, 0), buses: 1, reset: ResetCause::Unknown };

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
    /// Nothing to do at all, but for what comes in.
    Idle,
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
    let Some(dongle) = singleton!(: Dongle = Dongle::new(BOARD, 0)) else { panic!("started twice") };
    loop {
        match turn(dongle, &mut clock, &mut link, &mut bus_line, &mut bus) {
            Turn::Worked => {}
            // The timer would wake the core too late for this one.
            Turn::IdleUntil(timeout_us) if timeout_us < clock.end_of_period_us() => {}
            // Interrupts wait from here on, so that a byte between the question and the sleep still wakes the core.
            Turn::IdleUntil(_) | Turn::Idle => cortex_m::interrupt::free(|_| {
                if link.is_quiet() && bus_line.is_quiet() {
                    cortex_m::asm::wfi();
                }
            }),
            Turn::Ended => {
                // What waits for others to share its packet is still to be sent.
                let last_us = clock.now_us().saturating_add(BATCH_AGE_US);
                while turn(dongle, &mut clock, &mut link, &mut bus_line, &mut bus) == Turn::Worked
                    || clock.now_us() <= last_us
                {}
                emulator::end(&bus.counters(), uart::BUS.overruns(), uart::LINK.overruns());
            }
        }
    }
}

/// What the agent asked for; the frames that it sends go onto the bus side as records.
fn act(action: &Action, dongle: &mut Dongle, bus_line: &mut Line, bus: &mut BusSide) -> Outcome {
    match action {
        Action::Mode { .. } => dongle.handle_bus_state(BUS, BusState::ErrorActive, 0, 0),
        // The dongle chooses.
        Action::Filters { .. } => {}
        Action::Send { id, data, len, .. } => {
            let data = data.get(..usize::from(*len)).unwrap_or_default();
            let mut record = [0; bus::RECORD_BYTES_MAX + 1];
            let Some(record) = bus.record(*id, data, &mut record) else { return Outcome::Unsupported };
            for part in record.chunks(uart::TRANSMIT_BYTES) {
                while !bus_line.has_room() {}
                bus_line.transmit(part);
            }
        }
    }
    Outcome::Done
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
                dongle.handle_overruns(BUS, bus.take_lost());
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
    if let Some(action) = dongle.poll_action() {
        let outcome = act(&action, dongle, bus_line, bus);
        dongle.handle_outcome(clock.now_us(), outcome);
    }
    if dongle.poll_timeout().is_some_and(|timeout_us| clock.has_reached(timeout_us)) {
        dongle.handle_timeout(clock.now_us());
    }
    while link.has_room() {
        let mut bytes = [0; uart::TRANSMIT_BYTES];
        let len = dongle.poll_transmit(&mut bytes);
        if len == 0 {
            return match dongle.poll_timeout() {
                _ if has_worked => Turn::Worked,
                Some(timeout_us) => Turn::IdleUntil(timeout_us),
                None => Turn::Idle,
            };
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
