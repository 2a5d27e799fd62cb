//! Where everything is in the memories of this chip.
//!
//! QEMU emulates neither this chip's flash controller nor a write to its flash, so that the slots are in RAM, which keeps its content over
//! a reset, and start with a copy of what the factory put into the flash.
//!
//! | address | bytes | what |
//! |---|---|---|
//! | 0x0000_0000 | 32 Ki | flash: the boot loader |
//! | 0x0000_8000 | 25 Ki | flash: the first slot as the factory fills it |
//! | 0x2000_0000 | 64 | what outlives a reset ([`crate::restart`]) |
//! | 0x2000_0040 | 14,272 | variables and stack |
//! | 0x2000_3800 | 25 Ki | slot A |
//! | 0x2000_9C00 | 25 Ki | slot B |

use convoy_protocol::link::Slot;
use convoy_slots::Layout;

/// The board's name.
pub const NAME: &str = "lm3s6965";

/// What outlives a reset.
pub const KEPT_ADDRESS: usize = 0x2000_0000;
/// The slots.
pub const SLOTS_ADDRESS: usize = 0x2000_3800;
/// Bytes of a slot.
pub const SLOT_BYTES: usize = 0x6400;
/// Bytes of both.
pub const SLOTS_BYTES: usize = 2 * SLOT_BYTES;
/// The factory's content of the first one.
pub const FACTORY_ADDRESS: usize = 0x0000_8000;

/// The slots in [`crate::flash::Flash`].
pub const LAYOUT: Layout =
    Layout { address: SLOTS_ADDRESS as u32, offsets: [0, SLOT_BYTES as u32], slot_bytes: SLOT_BYTES as u32 };

/// The slot that code at `address` runs in.
pub fn slot_of(address: usize) -> Slot {
    if address < SLOTS_ADDRESS + SLOT_BYTES { Slot::A } else { Slot::B }
}
