//! Time since the start: TIM2 counts microseconds, SysTick wakes the core every millisecond.

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::exception;
use embedded_hal::delay::DelayNs;
use stm32f4xx_hal::pac::TIM2;
use stm32f4xx_hal::rcc::{Enable, Rcc, Reset};

/// What a sleep lasts at most.
pub(crate) const TICK_US: u32 = 1_000;

/// Only its waking counts.
#[exception]
fn SysTick() {}

/// Both timers begin.
pub(crate) fn start(timer: TIM2, mut tick: SYST, rcc: &mut Rcc) {
    TIM2::enable(rcc);
    TIM2::reset(rcc);
    let prescaler = rcc.clocks.timclk1().raw() / 1_000_000;
    // SAFETY: any value is a prescaler; a clock below 1 MHz is not set up here.
    timer.psc().write(|w| unsafe { w.bits(prescaler.saturating_sub(1)) });
    // SAFETY: any value is a period.
    timer.arr().write(|w| unsafe { w.bits(u32::MAX) });
    // The prescaler is taken over at an update only.
    timer.egr().write(|w| w.ug().set_bit());
    timer.cr1().write(|w| w.cen().set_bit());
    tick.set_clock_source(SystClkSource::Core);
    tick.set_reload((rcc.clocks.hclk().raw() / 1_000_000 * TICK_US).saturating_sub(1));
    tick.clear_current();
    tick.enable_interrupt();
    tick.enable_counter();
}

/// Microseconds since the start, modulo 2^32 (71 minutes).
pub(crate) fn ticks_us() -> u32 {
    // SAFETY: reading the counter changes nothing.
    unsafe { (*TIM2::ptr()).cnt().read().bits() }
}

/// Extends the counter to 64 bits, so it must be asked within every 71 minutes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    last_us: u64,
}

impl Clock {
    /// Microseconds since the start.
    pub(crate) fn now_us(&mut self) -> u64 {
        // The low half is what the counter was.
        let passed_us = ticks_us().wrapping_sub(self.last_us as u32);
        self.last_us += u64::from(passed_us);
        self.last_us
    }

    /// The time at which the counter was that, less than 71 minutes ago.
    pub(crate) fn at_us(&mut self, ticks_us: u32) -> u64 {
        let now_us = self.now_us();
        now_us.saturating_sub(u64::from((now_us as u32).wrapping_sub(ticks_us)))
    }
}

/// Waits by the counter.
#[derive(Debug, Clone, Copy)]
pub struct Wait;

impl DelayNs for Wait {
    /// Longer by 2 µs at most.
    fn delay_ns(&mut self, ns: u32) {
        let (start_us, wait_us) = (ticks_us(), ns.div_ceil(1_000).saturating_add(1));
        while ticks_us().wrapping_sub(start_us) < wait_us {}
    }
}
