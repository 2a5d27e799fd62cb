//! Time since the start, from SysTick: the cycle counter reads 0 in QEMU.

use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::exception;

use crate::board::CLOCK_HZ;

/// How late a timeout may be seen by a core that sleeps.
const PERIOD_US: u32 = 10_000;
const TICKS_PER_US: u32 = CLOCK_HZ / 1_000_000;
const RELOAD: u32 = PERIOD_US * TICKS_PER_US - 1;

/// Periods since the start; wraps after 497 days.
static PERIODS: AtomicU32 = AtomicU32::new(0);

#[exception]
fn SysTick() {
    PERIODS.fetch_add(1, Ordering::Relaxed);
}

/// Microseconds since the start, never less than before.
pub(crate) struct Clock {
    seen: u32,
    periods: u64,
}

impl Clock {
    pub(crate) fn start(mut timer: SYST) -> Self {
        timer.set_clock_source(SystClkSource::Core);
        timer.set_reload(RELOAD);
        timer.clear_current();
        timer.enable_interrupt();
        timer.enable_counter();
        Self { seen: 0, periods: 0 }
    }

    pub(crate) fn now_us(&mut self) -> u64 {
        let (periods, ticks) = loop {
            let periods = PERIODS.load(Ordering::Relaxed);
            // Counts down.
            let ticks = RELOAD - SYST::get_current();
            if periods == PERIODS.load(Ordering::Relaxed) {
                break (periods, ticks);
            }
        };
        self.periods += u64::from(periods.wrapping_sub(self.seen));
        self.seen = periods;
        self.periods * u64::from(PERIOD_US) + u64::from(ticks / TICKS_PER_US)
    }
}
