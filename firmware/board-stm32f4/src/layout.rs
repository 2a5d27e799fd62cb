//! Where everything is in the flash of this chip. A slot is a sector, since less cannot be erased, and 5 and 6 are the first two of one
//! size that leave room for a boot loader.
//!
//! | sector | address | bytes | what |
//! |---|---|---|---|
//! | 0, 1 | 0x0800_0000 | 32 Ki | the boot loader |
//! | 2 to 4 | 0x0800_8000 | 96 Ki | nothing |
//! | 5 | 0x0802_0000 | 128 Ki | slot A |
//! | 6 | 0x0804_0000 | 128 Ki | slot B |
//! | 7 to 11 | 0x0806_0000 | 640 Ki | nothing |

use convoy_protocol::link::Slot;
use convoy_slots::Layout;

/// Bytes of a slot, and of each sector from number 5 on.
pub(crate) const SLOT_BYTES: u32 = 128 * 1024;

/// The slots in [`crate::flash::Flash`].
pub(crate) const LAYOUT: Layout =
    Layout { address: 0x0800_0000, offsets: [0x0002_0000, 0x0004_0000], slot_bytes: SLOT_BYTES };

const SECTOR_A: u8 = 5;
const SECTOR_B: u8 = 6;
const _: () = {
    let [a, b] = LAYOUT.offsets;
    assert!(a == sector_offset(SECTOR_A) && b == sector_offset(SECTOR_B));
};

/// Where a sector from number 5 on begins: four of 16 KiB and one of 64 KiB lie before.
const fn sector_offset(sector: u8) -> u32 {
    SLOT_BYTES + SLOT_BYTES * (sector as u32 - 5)
}

/// The number of a slot's sector.
pub(crate) fn sector(slot: Slot) -> u8 {
    match slot {
        Slot::A => SECTOR_A,
        Slot::B => SECTOR_B,
    }
}

/// The slot that code at `address` runs in.
pub(crate) fn slot_at(address: usize) -> Slot {
    let [_, b] = LAYOUT.offsets;
    if address < (LAYOUT.address + b) as usize { Slot::A } else { Slot::B }
}
