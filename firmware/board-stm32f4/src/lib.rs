//! The dongle on an STM32F405: a thin shell of pins, clocks and interrupts around [`convoy_dongle`].
//!
//! ```text
//! CAN1, or an MCP2515 on SPI1 -> buses  -\
//!                                         Shell -> USART1 -> agent
//! USART1 (agent)              -> line   -/
//! ```
//!
//! | pin | what |
//! |---|---|
//! | PA9, PA10 | USART1 TX and RX: the agent's line, 1 Mbit/s, 8N1, 3.3 V |
//! | PA0 | ADC1 IN0: the vehicle's socket through 100 kΩ, with 10 kΩ and 100 nF to ground; 36 V at most |
//! | PH0, PH1 | an 8 MHz crystal |
//! | others | [`can`] and [`spi`] |
//!
//! A board with a CAN controller of its own and one with an MCP2515 have names of their own, so that none takes the other's firmware.
//! The flash holds a boot loader and two slots (`layout.rs`). A new board gets two files of `cargo xtask firmware` by a probe, its boot
//! loader at 0x0800_0000 and the first slot at 0x0802_0000, and every later firmware over the agent's line
//! (`convoy-agent dongle update`, with `update.firmware`):
//!
//! ```text
//! probe-rs download --chip STM32F405RG boot.elf
//! probe-rs download --chip STM32F405RG --binary-format bin --base-address 0x08020000 factory.bin
//! probe-rs reset --chip STM32F405RG
//! ```
//!
//! QEMU's `netduinoplus2` runs the images with the feature `qemu` as far as the agent's line goes; it emulates no CAN controller.
#![no_std]

pub mod board;
pub mod boot;
pub mod can;
mod flash;
mod layout;
pub mod line;
mod reset;
pub mod spi;
pub mod time;

use convoy_dongle::Dongle;
use convoy_dongle::shell::{Controller, Shell, Turn};

/// Name of the board with the chip's own CAN controller.
pub const BXCAN_NAME: &str = "stm32f405";
/// Name of the board with an MCP2515.
pub const MCP2515_NAME: &str = "stm32f405-mcp2515";

/// A dongle with one bus.
pub type Device<'d, C> = Shell<&'d mut Dongle, board::Machine, line::Line, C, 1>;

/// Carries on for ever. `is_quiet`: nothing came in on the bus that was not fetched.
pub fn run<C: Controller>(device: &mut Device<'_, C>, is_quiet: impl Fn(&mut C) -> bool) -> ! {
    loop {
        let timeout_us = match device.turn() {
            Turn::Worked => continue,
            Turn::IdleUntil(timeout_us) => timeout_us,
            Turn::Idle => u64::MAX,
        };
        let Shell { machine, line, buses: [bus], .. } = device;
        // Interrupts wait from here on, so that one between the question and the sleep still wakes the core.
        cortex_m::interrupt::free(|_| {
            if timeout_us >= machine.next_tick_us() && line.is_quiet() && is_quiet(bus) {
                cortex_m::asm::wfi();
            }
        });
    }
}
