//! The boot loader: starts the image of one of the slots, if it bears the right signature.
//!
//! It runs on the oscillator that the chip starts with, changes no clock and no pin, and leaves the flags that say why the chip started to
//! the dongle.

use convoy_slots::{Slots, Start};
use cortex_m::peripheral::SCB;
use ed25519_dalek::VerifyingKey;
use stm32f4xx_hal::pac::Peripherals;
use stm32f4xx_hal::prelude::_fugit_ExtU32 as _;
use stm32f4xx_hal::watchdog::IndependentWatchdog;

use crate::flash::Flash;
use crate::layout::LAYOUT;

/// The watchdog's oscillator is between 17 and 47 kHz fast where 32 kHz are said, so that this is 5.4 to 15 s: more than the 4 s that a
/// sector may take to be erased at worst, by bytes.
const WATCHDOG_MS: u32 = 8_000;

/// Starts what `key` has signed for `board`. Where there is nothing, or it hangs, the watchdog has it tried again.
pub fn run(board: &str, key: &[u8; 32]) -> ! {
    let (Some(peripherals), Some(core)) = (Peripherals::take(), cortex_m::Peripherals::take()) else {
        SCB::sys_reset()
    };
    let mut watchdog = IndependentWatchdog::new(peripherals.IWDG);
    watchdog.start(WATCHDOG_MS.millis());
    let mut slots = Slots::new(Flash::new(peripherals.FLASH), LAYOUT);
    let start = VerifyingKey::from_bytes(key).ok().and_then(|key| slots.choose(board, &key));
    // Its period counts from the first time that it is fed; before, it may be four times as long.
    watchdog.feed();
    match start {
        Some(start) => jump(&core.SCB, &start),
        None => loop {
            cortex_m::asm::wfi();
        },
    }
}

fn jump(control: &SCB, start: &Start) -> ! {
    let vectors: *const u32 = core::ptr::with_exposed_provenance(start.address as usize);
    // SAFETY: no interrupt is on; the image begins with its vectors, on a boundary of 512 bytes, and was signed by who may.
    unsafe {
        control.vtor.write(start.address);
        cortex_m::asm::bootload(vectors)
    }
}
