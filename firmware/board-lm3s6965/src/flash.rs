//! The slots' memory, which behaves as flash does: it is erased to ones by blocks, and written to zeros by words.
//!
//! By pointers, never by references: one slot is the program that runs.

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};

use crate::layout::{FACTORY_ADDRESS, SLOT_BYTES, SLOTS_ADDRESS, SLOTS_BYTES};

const ERASED: u8 = 0xFF;

/// The memory of both slots.
pub struct Flash(());

impl Flash {
    /// # Safety
    /// Once in a program, which never writes the slot that it runs in but for its marks.
    pub const unsafe fn take() -> Self {
        Self(())
    }

    /// Fills the slots as the factory does.
    pub fn fill(&mut self) {
        for at in 0..SLOTS_BYTES {
            let factory: *const u8 = core::ptr::with_exposed_provenance(FACTORY_ADDRESS + at);
            // SAFETY: flash, which nothing writes, below the end of its 256 KiB.
            let byte = if at < SLOT_BYTES { unsafe { factory.read_volatile() } } else { ERASED };
            self.set(at, byte);
        }
    }

    fn get(&self, at: usize) -> u8 {
        let byte: *const u8 = core::ptr::with_exposed_provenance(SLOTS_ADDRESS + at % SLOTS_BYTES);
        // SAFETY: RAM that the linker gives to no variable (build.rs), within its bounds.
        unsafe { byte.read_volatile() }
    }

    fn set(&mut self, at: usize, value: u8) {
        let byte: *mut u8 = core::ptr::with_exposed_provenance_mut(SLOTS_ADDRESS + at % SLOTS_BYTES);
        // SAFETY: as above; of the program that runs, only its marks are written, as who took this promised.
        unsafe { byte.write_volatile(value) }
    }
}

impl ErrorType for Flash {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        check_read(self, offset, bytes.len())?;
        for (at, byte) in (offset as usize..).zip(bytes) {
            *byte = self.get(at);
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        SLOTS_BYTES
    }
}

impl NorFlash for Flash {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 512;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        check_erase(self, from, to)?;
        (from as usize..to as usize).for_each(|at| self.set(at, ERASED));
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        check_write(self, offset, bytes.len())?;
        for (at, byte) in (offset as usize..).zip(bytes) {
            self.set(at, self.get(at) & byte);
        }
        Ok(())
    }
}
