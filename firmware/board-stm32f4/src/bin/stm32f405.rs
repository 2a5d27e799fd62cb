//! The dongle with the CAN controller of the chip: PB8 is RX and PB9 TX of CAN1, and what both images have is in the library.
#![no_std]
#![no_main]

use convoy_board_stm32f4::can::{BITRATE_DEFAULT, CanBus};
use convoy_board_stm32f4::{BXCAN_NAME, board, run};
use convoy_dongle::shell::{Controller as _, Shell};
use convoy_dongle::{Board, Dongle};
use cortex_m::peripheral::SCB;
use cortex_m_rt::entry;

#[entry]
fn main() -> ! {
    let Some(board::Started { mut machine, line, reset, rest }) = board::start(BXCAN_NAME) else {
        SCB::sys_reset()
    };
    let Some(mut bus) = CanBus::new(rest) else { SCB::sys_reset() };
    // The agent is told by the state of the bus.
    bus.open(BITRATE_DEFAULT, true);
    let about = Board { name: BXCAN_NAME, firmware: machine.version(), buses: 1, reset };
    // Not in a static: a value made for one is made on the stack first, and takes twice its memory.
    let mut dongle = Dongle::new(about, 0);
    run(&mut Shell::new(&mut dongle, machine, line, [bus]), |bus| bus.is_quiet())
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
