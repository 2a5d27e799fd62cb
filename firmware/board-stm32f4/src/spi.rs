//! An MCP2515 with a 16 MHz crystal on SPI1, in place of CAN1. It runs on 3.3 V here, or on 5 V with a level shifter at SO and INT.
//!
//! | pin | the chip's |
//! |---|---|
//! | PA4 | CS |
//! | PA5, PA6, PA7 | SCK, SO, SI |
//! | PC4 | INT |

use convoy_controllers::mcp2515::{Crystal, Mcp2515};
use cortex_m::peripheral::NVIC;
use embedded_hal_bus::spi::ExclusiveDevice;
use stm32f4xx_hal::gpio::{Edge, ExtiPin, Input, Output, Speed, gpioa, gpioc};
use stm32f4xx_hal::pac::{EXTI, Interrupt, SPI1};
use stm32f4xx_hal::spi::{Mode, Phase, Polarity, Spi};
use stm32f4xx_hal::syscfg::SysCfgExt;
use stm32f4xx_hal::time::Hertz;

use crate::board::Rest;
use crate::time::Wait;

/// The chip takes 10 MHz; the divider makes 5.25 MHz of this.
const CLOCK: Hertz = Hertz::MHz(6);

/// Line 4 of the external interrupts, the one of PC4.
const LINE: u32 = 1 << 4;

type Device = ExclusiveDevice<Spi<SPI1>, gpioa::PA4<Output>, Wait>;

/// A bus behind an MCP2515.
pub type SpiBus = Mcp2515<Device, gpioc::PC4<Input>, Wait>;

/// A closed bus; `None` where the chip's clock is too slow to be divided.
pub fn open(rest: Rest) -> Option<SpiBus> {
    let Rest { mut rcc, spi1, spi_pins: (sck, miso, mosi), select, interrupt, mut exti, syscfg, .. } = rest;
    let pins = (Some(sck.into_alternate().speed(Speed::High)), Some(miso), Some(mosi));
    let mode = Mode { polarity: Polarity::IdleLow, phase: Phase::CaptureOnFirstTransition };
    // It panics otherwise, and no compiler knows what the clock is.
    if rcc.clocks.pclk2() < CLOCK {
        return None;
    }
    let spi = Spi::new(spi1, pins, mode, CLOCK, &mut rcc);
    let select = select.into_push_pull_output_in_state(stm32f4xx_hal::gpio::PinState::High);
    let mut interrupt = interrupt.into_pull_up_input();
    interrupt.make_interrupt_source(&mut syscfg.constrain(&mut rcc));
    interrupt.trigger_on_edge(&mut exti, Edge::Falling);
    interrupt.enable_interrupt(&mut exti);
    // SAFETY: the main loop holds no lock that the handler waits for.
    unsafe { NVIC::unmask(Interrupt::EXTI4) };
    let Ok(device) = ExclusiveDevice::new(spi, select, Wait);
    Some(Mcp2515::new(device, interrupt, Wait, Crystal::Mhz16))
}

/// The interrupt of PC4: it wakes the core, and the main loop looks at the pin.
pub fn handle_interrupt() {
    // SAFETY: the pending flag of this line is the handler's, and cleared by writing it.
    unsafe { (*EXTI::ptr()).pr().write(|w| w.bits(LINE)) };
}
