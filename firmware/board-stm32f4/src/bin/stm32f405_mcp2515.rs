//! The dongle with an MCP2515 on SPI1 as its CAN controller: PA4 to PA7 and PC4, and what both images have is in the library.
#![no_std]
#![no_main]

use convoy_board_stm32f4::spi::{self, SpiBus};
use convoy_board_stm32f4::{Device, board, run};
use convoy_controllers::mcp2515::BITRATE_DEFAULT;
use convoy_dongle::Board;
use convoy_dongle::shell::{Controller as _, Shell};
use cortex_m::peripheral::SCB;
use cortex_m::singleton;
use cortex_m_rt::entry;

#[entry]
fn main() -> ! {
    start().map_or_else(|| SCB::sys_reset(), |device| run(device, SpiBus::is_quiet))
}

/// `None` if it was started before.
fn start() -> Option<&'static mut Device<SpiBus>> {
    let board::Started { machine, line, reset, rest } = board::start()?;
    let mut bus = spi::open(rest);
    // The agent is told by the state of the bus.
    bus.open(BITRATE_DEFAULT, true);
    let about = Board { name: "stm32f405-mcp2515", firmware: (0, 1, 0), buses: 1, reset };
    singleton!(: Device<SpiBus> = Shell::new(about, machine, line, [bus]))
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
