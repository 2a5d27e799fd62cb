//! Time since the start, from SysTick: the cycle counter reads 0 in QEMU.

use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::syst::SystClkSource;
use cortex_m::peripheral::{SCB, SYST};
use cortex_m_rt::exception;

use crate::board::CLOCK_HZ;

/// Long, since a core that is held up for more than one counts only one: QEMU waits where the agent does not read.
const PERIOD_US: u32 = 100_000;
const TICKS_PER_US: u32 = CLOCK_HZ / 1_000_000;
const RELOAD: u32 = PERIOD_US * TICKS_PER_US - 1;

/// Periods since the start; wraps after 13 years.
static PERIODS: AtomicU32 = AtomicU32::new(0);

#[exception]
fn SysTick() {
    PERIODS.fetch_add(1, Ordering::Relaxed);
}

/// Microseconds since the start.
pub(crate) struct Clock {
    last_us: u64,
}

impl Clock {
    pub(crate) fn start(mut timer: SYST) -> Self {
        timer.set_clock_source(SystClkSource::Core);
        timer.set_reload(RELOAD);
        timer.clear_current();
        timer.enable_interrupt();
        timer.enable_counter();
        Self { last_us: 0 }
    }

    /// A time that is still to come, and before which the timer wakes the core; an interrupt may be late to say so.
    pub(crate) fn end_of_period_us(&self) -> u64 {
        (u64::from(PERIODS.load(Ordering::Relaxed)) + 1) * u64::from(PERIOD_US)
    }

    /// Never less than before.
    pub(crate) fn now_us(&mut self) -> u64 {
        let (periods, ticks) = loop {
            let periods = PERIODS.load(Ordering::Relaxed);
            let ticks = elapsed_ticks();
            // The timer has begun anew, and its interrupt is still to come.
            let (since, ticks) = if SCB::is_pendst_pending() { (1, elapsed_ticks()) } else { (0, ticks) };
            if periods == PERIODS.load(Ordering::Relaxed) {
                break (u64::from(periods) + since, ticks);
            }
        };
        let now_us = periods * u64::from(PERIOD_US) + u64::from(ticks / TICKS_PER_US);
        self.last_us = self.last_us.max(now_us);
        self.last_us
    }

    /// Whether it is that time. Asks the timer only where the counted periods leave it open: in QEMU a register costs as much as a hundred other
    /// instructions.
    pub(crate) fn has_reached(&mut self, time_us: u64) -> bool {
        time_us < self.end_of_period_us() && time_us <= self.now_us()
    }
}

/// The timer counts down.
fn elapsed_ticks() -> u32 {
    RELOAD - SYST::get_current()
}
