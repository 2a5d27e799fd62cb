//! Memory that behaves as flash does, where there is no flash: in an emulated board, in the simulator, in tests.

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};

use crate::ERASED;

/// Bytes that are erased to ones by blocks, and written to zeros by words.
#[derive(Debug, Clone)]
pub struct MemoryFlash<B>(B);

impl<B: AsRef<[u8]> + AsMut<[u8]>> MemoryFlash<B> {
    /// The flash whose content `bytes` is: whole blocks of [`NorFlash::ERASE_SIZE`].
    pub fn new(bytes: B) -> Self {
        Self(bytes)
    }

    /// All of it.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut()
    }

    fn part(&mut self, offset: u32, len: usize) -> Result<&mut [u8], NorFlashErrorKind> {
        let offset = usize::try_from(offset).map_err(|_| NorFlashErrorKind::OutOfBounds)?;
        let rest = self.0.as_mut().get_mut(offset..).ok_or(NorFlashErrorKind::OutOfBounds)?;
        rest.get_mut(..len).ok_or(NorFlashErrorKind::OutOfBounds)
    }
}

impl<B> ErrorType for MemoryFlash<B> {
    type Error = NorFlashErrorKind;
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> ReadNorFlash for MemoryFlash<B> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        check_read(self, offset, bytes.len())?;
        let part = self.part(offset, bytes.len())?;
        bytes.iter_mut().zip(part).for_each(|(slot, byte)| *slot = *byte);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.0.as_ref().len()
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> NorFlash for MemoryFlash<B> {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 512;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        check_erase(self, from, to)?;
        let len = usize::try_from(to.saturating_sub(from)).map_err(|_| NorFlashErrorKind::OutOfBounds)?;
        self.part(from, len)?.fill(ERASED);
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        check_write(self, offset, bytes.len())?;
        let part = self.part(offset, bytes.len())?;
        part.iter_mut().zip(bytes).for_each(|(slot, byte)| *slot &= byte);
        Ok(())
    }
}
