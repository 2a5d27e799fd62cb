//! The boot loader of the board `stm32f405`.
#![no_std]
#![no_main]

use convoy_board_stm32f4::{BXCAN_NAME, boot};
use cortex_m_rt::entry;

/// Whose images are started.
const KEY: [u8; 32] = convoy_slots::public_key(env!("CONVOY_FIRMWARE_KEY"));

#[entry]
fn main() -> ! {
    boot::run(BXCAN_NAME, &KEY)
}
