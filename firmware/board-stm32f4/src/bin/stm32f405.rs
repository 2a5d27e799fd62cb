//! The dongle with the CAN controller of the chip: PB8 is RX and PB9 TX of CAN1, and what both images have is in the library.
#![no_std]
#![no_main]

use convoy_board_stm32f4::can::{BITRATE_DEFAULT, CanBus};
use convoy_board_stm32f4::{Device, board, run};
use convoy_dongle::Board;
use convoy_dongle::shell::{Controller as _, Shell};
use cortex_m::peripheral::SCB;
use cortex_m::singleton;
use cortex_m_rt::entry;

#[entry]
fn main() -> ! {
    start().map_or_else(|| SCB::sys_reset(), |device| run(device, |bus| bus.is_quiet()))
}

/// `None` if it was started before.
fn start() -> Option<&'static mut Device<CanBus>> {
    let board::Started { machine, line, reset, rest } = board::start()?;
    let mut bus = CanBus::new(rest)?;
    // The agent is told by the state of the bus.
    bus.open(BITRATE_DEFAULT, true);
    let about = Board { name: "stm32f405", firmware: (0, 1, 0), buses: 1, reset };
    singleton!(: Device<CanBus> = Shell::new(about, machine, line, [bus]))
}

/// The vectors have their names.
mod interrupts {
    use convoy_board_stm32f4::{can, line};
    use heapless::spsc::Producer;
    use stm32f4xx_hal::interrupt;

    #[interrupt]
    fn CAN1_RX0() {
        static mut QUEUE: Option<Producer<'static, can::Received>> = None;
        can::handle_interrupt(QUEUE);
    }

    #[interrupt]
    fn USART1() {
        static mut ENDS: Option<line::Ends> = None;
        line::handle_interrupt(ENDS);
    }
}
