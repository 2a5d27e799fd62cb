//! The watchdog: the boot loader starts it, and nothing stops it.

use crate::registers::{Offset, SYSTEM, WATCHDOG};

/// It resets the board at the second time that it runs down: after 4 s at the clock of a dongle that runs.
const TICKS: u32 = 2 * 50_000_000;

const CLOCK_GATES: Offset = Offset::new(0x100);
const GATE: u32 = 1 << 3;

const LOAD: Offset = Offset::new(0x000);
const CONTROL: Offset = Offset::new(0x008);
const COUNTS_AND_RESETS: u32 = 0b11;
const CLEAR: Offset = Offset::new(0x00C);

/// Begins to count.
pub fn start() {
    SYSTEM.change(CLOCK_GATES, 0, GATE);
    WATCHDOG.write(LOAD, TICKS);
    WATCHDOG.write(CONTROL, COUNTS_AND_RESETS);
}

/// Counts from the top again.
pub fn feed() {
    WATCHDOG.write(CLEAR, 0);
}
