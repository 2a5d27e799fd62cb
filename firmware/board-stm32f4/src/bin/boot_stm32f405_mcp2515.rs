//! The boot loader of the board `stm32f405-mcp2515`.
#![no_std]
#![no_main]

use convoy_board_stm32f4::{MCP2515_NAME, boot};
use cortex_m_rt::entry;

/// Whose images are started.
const KEY: [u8; 32] = convoy_slots::public_key(env!("CONVOY_FIRMWARE_KEY"));

#[entry]
fn main() -> ! {
    boot::run(MCP2515_NAME, &KEY)
}
