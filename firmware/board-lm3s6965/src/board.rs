//! The chip from reset to running: clock, pins, interrupts.

use cortex_m::Peripherals;
use cortex_m::peripheral::NVIC;
use lm3s6965::Interrupt;

use crate::clock::Clock;
use crate::uart;
use convoy_board_lm3s6965::registers::{Offset, PORT_A, PORT_D, Registers, SYSTEM};

/// The processor's clock, Hz: the fastest of this chip.
pub(crate) const CLOCK_HZ: u32 = 50_000_000;

const RAW_INTERRUPTS: Offset = Offset::new(0x050);
const PLL_LOCKED: u32 = 1 << 6;

const RUN_CLOCK: Offset = Offset::new(0x060);
const BYPASS_PLL: u32 = 1 << 11;
const POWER_PLL_DOWN: u32 = 1 << 13;
const USE_DIVIDER: u32 = 1 << 22;
const DIVIDER: u32 = 0xF << 23;
/// 200 MHz by 4.
const DIVIDER_50_MHZ: u32 = 3 << 23;
/// Crystal, source, and whether the main oscillator is off.
const OSCILLATOR: u32 = 0x3FF;
/// The evaluation board's crystal as the main oscillator; the internal one stays on.
const CRYSTAL_8_MHZ: u32 = 0xE << 6;

const UART_GATES: Offset = Offset::new(0x104);
const PORT_GATES: Offset = Offset::new(0x108);

const PIN_FUNCTIONS: Offset = Offset::new(0x420);
const PIN_DIGITAL: Offset = Offset::new(0x51C);

/// Starts what the board needs; `None` if it was started before.
pub(crate) fn start() -> Option<Clock> {
    let peripherals = Peripherals::take()?;
    start_clock();
    SYSTEM.change(UART_GATES, 0, 0b11);
    SYSTEM.change(PORT_GATES, 0, 0b1001);
    give_pins(PORT_A, 0b0011);
    give_pins(PORT_D, 0b1100);
    uart::LINK.start();
    uart::BUS.start();
    for line in [Interrupt::UART0, Interrupt::UART1] {
        // SAFETY: the main loop holds no lock that the two handlers wait for; they mask themselves while there is
        // nobody to hand bytes to.
        unsafe { NVIC::unmask(line) };
    }
    Some(Clock::start(peripherals.SYST))
}

/// In the data sheet's order: off the PLL, set it up, wait until it has locked, onto it.
fn start_clock() {
    SYSTEM.change(RUN_CLOCK, USE_DIVIDER, BYPASS_PLL);
    SYSTEM.change(RUN_CLOCK, OSCILLATOR | POWER_PLL_DOWN, CRYSTAL_8_MHZ);
    SYSTEM.change(RUN_CLOCK, DIVIDER, DIVIDER_50_MHZ | USE_DIVIDER);
    while SYSTEM.read(RAW_INTERRUPTS) & PLL_LOCKED == 0 {}
    SYSTEM.change(RUN_CLOCK, BYPASS_PLL, 0);
}

/// To the port's UART.
fn give_pins(port: Registers, pins: u32) {
    port.change(PIN_FUNCTIONS, 0, pins);
    port.change(PIN_DIGITAL, 0, pins);
}
