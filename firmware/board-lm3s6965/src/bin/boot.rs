//! The boot loader: starts the image of one of the slots, if it bears the right signature.
#![no_std]
#![no_main]

use convoy_board_lm3s6965::flash::Flash;
use convoy_board_lm3s6965::layout::{LAYOUT, NAME};
use convoy_board_lm3s6965::{restart, watchdog};
use convoy_slots::{Slots, Start};
use cortex_m::Peripherals;
use cortex_m_rt::entry;
use ed25519_dalek::VerifyingKey;
// Its table of vectors.
use lm3s6965 as _;

/// Whose images are started.
const KEY: [u8; 32] = convoy_slots::public_key(env!("CONVOY_FIRMWARE_KEY"));

#[entry]
fn main() -> ! {
    // An image that hangs does so until here is started again.
    watchdog::start();
    // SAFETY: the only one of this program.
    let mut flash = unsafe { Flash::take() };
    if restart::has_lost_power() {
        flash.fill();
        restart::slots_are_filled();
    }
    let start =
        VerifyingKey::from_bytes(&KEY).ok().and_then(|key| Slots::new(flash, LAYOUT).choose(NAME, &key));
    match start {
        Some(start) => jump(&start),
        // The watchdog has it tried again: reading may have failed.
        None => loop {
            cortex_m::asm::wfi();
        },
    }
}

fn jump(start: &Start) -> ! {
    let vectors: *const u32 = core::ptr::with_exposed_provenance(start.address as usize);
    // SAFETY: no interrupt is on; the image begins with its vectors, on a boundary of 512 bytes, and was signed by who may.
    unsafe {
        if let Some(peripherals) = Peripherals::take() {
            peripherals.SCB.vtor.write(start.address);
        }
        cortex_m::asm::bootload(vectors)
    }
}

/// The watchdog has it tried again.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        cortex_m::asm::wfi();
    }
}
