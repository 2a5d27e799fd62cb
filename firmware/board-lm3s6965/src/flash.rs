//! The slots' memory.

use convoy_slots::MemoryFlash;

use crate::layout::{FACTORY_ADDRESS, SLOT_BYTES, SLOTS_ADDRESS, SLOTS_BYTES};

const ERASED: u8 = 0xFF;

/// The memory of both slots.
pub type Flash = MemoryFlash<&'static mut [u8]>;

/// # Safety
/// Once in a program.
pub unsafe fn take() -> Flash {
    // SAFETY: the linker gives this memory to nothing that is written (build.rs): there are the slots, of whose code the one
    // that runs is only read; the caller takes it once.
    let bytes: &'static mut [u8; SLOTS_BYTES] =
        unsafe { &mut *core::ptr::with_exposed_provenance_mut(SLOTS_ADDRESS) };
    MemoryFlash::new(bytes)
}

/// Fills the slots as the factory does.
pub fn fill(flash: &mut Flash) {
    // SAFETY: flash, which nothing writes, below the end of its 256 KiB.
    let factory: &[u8; SLOT_BYTES] = unsafe { &*core::ptr::with_exposed_provenance(FACTORY_ADDRESS) };
    let filled = factory.iter().chain(core::iter::repeat(&ERASED));
    flash.bytes_mut().iter_mut().zip(filled).for_each(|(slot, byte)| *slot = *byte);
}
