//! The slots' memory, which behaves as flash does: it is erased to ones by blocks, and written to zeros by words.

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};

use crate::layout::{FACTORY_ADDRESS, SLOT_BYTES, SLOTS_ADDRESS, SLOTS_BYTES};

const ERASED: u8 = 0xFF;

/// The memory of both slots.
pub struct Flash {
    bytes: &'static mut [u8; SLOTS_BYTES],
}

impl Flash {
    /// # Safety
    /// Once in a program.
    pub unsafe fn take() -> Self {
        // SAFETY: the linker gives this memory to nothing that is written (build.rs): there are the slots, of whose code the
        // one that runs is only read; the caller takes it once.
        let bytes = unsafe { &mut *core::ptr::with_exposed_provenance_mut(SLOTS_ADDRESS) };
        Self { bytes }
    }

    /// Fills the slots as the factory does.
    pub fn fill(&mut self) {
        self.bytes.fill(ERASED);
        // SAFETY: flash, which nothing writes, below the end of its 256 KiB.
        let factory: &[u8; SLOT_BYTES] = unsafe { &*core::ptr::with_exposed_provenance(FACTORY_ADDRESS) };
        let (slot, _) = self.bytes.split_at_mut(SLOT_BYTES);
        slot.copy_from_slice(factory);
    }
}

/// What was asked for lies outside, or not on a boundary.
#[derive(Debug)]
pub struct FlashError(NorFlashErrorKind);

impl NorFlashError for FlashError {
    fn kind(&self) -> NorFlashErrorKind {
        self.0
    }
}

impl ErrorType for Flash {
    type Error = FlashError;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        check_read(self, offset, bytes.len()).map_err(FlashError)?;
        bytes.copy_from_slice(self.part(offset, bytes.len())?);
        Ok(())
    }

    fn capacity(&self) -> usize {
        SLOTS_BYTES
    }
}

impl NorFlash for Flash {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 512;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        check_erase(self, from, to).map_err(FlashError)?;
        self.part(from, (to - from) as usize)?.fill(ERASED);
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        check_write(self, offset, bytes.len()).map_err(FlashError)?;
        let part = self.part(offset, bytes.len())?;
        part.iter_mut().zip(bytes).for_each(|(slot, byte)| *slot &= byte);
        Ok(())
    }
}

impl Flash {
    fn part(&mut self, offset: u32, len: usize) -> Result<&mut [u8], FlashError> {
        let part = self.bytes.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..len));
        part.ok_or(FlashError(NorFlashErrorKind::OutOfBounds))
    }
}
