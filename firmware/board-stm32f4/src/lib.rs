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
//! QEMU's `netduinoplus2` runs the images with the feature `qemu` as far as the agent's line goes; it emulates no CAN controller.
#![no_std]

pub mod board;
pub mod can;
pub mod line;
mod reset;
pub mod spi;
pub mod time;

use convoy_dongle::Dongle;
use convoy_dongle::shell::{Controller, Shell, Turn};

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
