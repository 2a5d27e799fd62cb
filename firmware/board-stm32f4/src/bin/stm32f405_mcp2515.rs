//! The dongle with an MCP2515 on SPI1 as its CAN controller: PA4 to PA7 and PC4, and what both images have is in the library.
#![no_std]
#![no_main]

use convoy_board_stm32f4::spi::{self, SpiBus};
use convoy_board_stm32f4::{MCP2515_NAME, board, run};
use convoy_controllers::mcp2515::BITRATE_DEFAULT;
use convoy_dongle::shell::{Controller as _, Shell};
use convoy_dongle::{Board, Dongle};
use cortex_m::peripheral::SCB;
use cortex_m_rt::entry;

#[entry]
fn main() -> ! {
    let Some(board::Started { mut machine, line, reset, rest }) = board::start(MCP2515_NAME) else {
        SCB::sys_reset()
    };
    let Some(mut bus) = spi::open(rest) else { SCB::sys_reset() };
    // The agent is told by the state of the bus.
    bus.open(BITRATE_DEFAULT, true);
    let about = Board { name: MCP2515_NAME, firmware: machine.version(), buses: 1, reset };
    // Not in a static: a value made for one is made on the stack first, and takes twice its memory.
    let mut dongle = Dongle::new(about, 0);
    run(&mut Shell::new(&mut dongle, machine, line, [bus]), SpiBus::is_quiet)
}

/// The vectors have their names.
mod interrupts {
    use convoy_board_stm32f4::{line, spi};
    use stm32f4xx_hal::interrupt;

    #[interrupt]
    fn EXTI4() {
        spi::handle_interrupt();
    }

    #[interrupt]
    fn USART1() {
        static mut ENDS: Option<line::Ends> = None;
        line::handle_interrupt(ENDS);
    }
}
