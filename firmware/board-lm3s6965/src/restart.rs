//! Why the board starts: what outlives a reset, in memory that no program initialises.

use convoy_protocol::link::ResetCause;
use cortex_m::peripheral::SCB;

use crate::layout::KEPT_ADDRESS;
use crate::registers::{Offset, SYSTEM};

/// The slots are filled: power was there since.
const FILLED: u32 = 0x51_07_F1_11;
/// The program asked for the reset.
const ASKED: u32 = 0xA5_4E_D0_01;

const RESET_CAUSE: Offset = Offset::new(0x05C);
const BY_POWER: u32 = 0b110;
const BY_WATCHDOG: u32 = 1 << 3;
const BY_SOFTWARE: u32 = 1 << 4;

#[derive(Clone, Copy)]
enum Kept {
    Filled = 0,
    Asked = 1,
}

/// Whether power failed since the slots were filled.
pub fn has_lost_power() -> bool {
    read(Kept::Filled) != FILLED
}

/// The slots are filled.
pub fn slots_are_filled() {
    write(Kept::Filled, FILLED);
}

/// Resets the board.
pub fn restart() -> ! {
    write(Kept::Asked, ASKED);
    SCB::sys_reset()
}

/// Why the board started; asked once, since it forgets. QEMU leaves the chip's own register at zero.
pub fn take_cause() -> ResetCause {
    let cause = SYSTEM.read(RESET_CAUSE);
    SYSTEM.write(RESET_CAUSE, 0);
    let was_asked = read(Kept::Asked) == ASKED;
    write(Kept::Asked, 0);
    if was_asked || cause & BY_SOFTWARE != 0 {
        ResetCause::Software
    } else if cause & BY_WATCHDOG != 0 {
        ResetCause::Watchdog
    } else if cause & BY_POWER != 0 {
        ResetCause::Power
    } else {
        ResetCause::Unknown
    }
}

fn address(kept: Kept) -> *mut u32 {
    core::ptr::with_exposed_provenance_mut(KEPT_ADDRESS + kept as usize * 4)
}

fn read(kept: Kept) -> u32 {
    // SAFETY: RAM that the linker gives to nothing (build.rs).
    unsafe { core::ptr::read_volatile(address(kept)) }
}

fn write(kept: Kept, value: u32) {
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(address(kept), value) }
}
