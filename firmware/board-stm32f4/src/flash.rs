//! The slots' flash, on the registers (ST's RM0090, 3): the HAL's driver panics, waits without end, and erases whatever it is told to.
//!
//! The chip runs from the flash that it changes, so that it stands still meanwhile, interrupts and all: 1 to 2 s while a sector is erased,
//! 16 to 100 µs for each word (data sheet, table "Flash memory programming", words of 32 bits at 2.7 V and more). Frames and bytes that come
//! then are lost.

use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

use convoy_protocol::link::Slot;
use cortex_m::asm;
use embedded_storage::nor_flash::{ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash};
use stm32f4xx_hal::pac::FLASH;
use stm32f4xx_hal::pac::flash::RegisterBlock;

use crate::layout::{LAYOUT, SLOT_BYTES, sector};

/// Of the whole chip.
const FLASH_BYTES: usize = 1 << 20;

/// Written one after the other they let the control register be changed.
const KEYS: [u32; 2] = [0x4567_0123, 0xCDEF_89AB];

/// Status: it could not be done, write-protected, not aligned, wrong width, wrong order. Cleared by being written.
const ERRORS: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7;

/// Looks at whether it is done. One takes 6 cycles and more: 4 s and 3 ms at 168 MHz. Slower, the watchdog comes first.
const ERASE_TRIES_MAX: u32 = 120_000_000;
const WRITE_TRIES_MAX: u32 = 100_000;

/// The flash, of which nothing but the slots is read or changed.
pub(crate) struct Flash(FLASH);

impl Flash {
    /// The controller is there once, and so is this.
    pub(crate) fn new(flash: FLASH) -> Self {
        Self(flash)
    }

    /// Has the control register changed by `change`, and locks it again.
    fn unlocked(
        &mut self,
        change: impl FnOnce(&RegisterBlock) -> Result<(), NorFlashErrorKind>,
    ) -> Result<(), NorFlashErrorKind> {
        // A key too much would lock it until the next reset.
        if self.0.cr().read().lock().bit() {
            for key in KEYS {
                self.0.keyr().write(|w| w.key().set(key));
            }
        }
        if self.0.cr().read().lock().bit() {
            return Err(NorFlashErrorKind::Other);
        }
        // SAFETY: bits of the reference manual.
        self.0.sr().write(|w| unsafe { w.bits(ERRORS) });
        let outcome = change(&self.0);
        self.0.cr().write(|w| w.lock().set_bit());
        outcome
    }
}

fn wait(flash: &RegisterBlock, tries_max: u32) -> Result<(), NorFlashErrorKind> {
    let is_done = (0..tries_max).any(|_| !flash.sr().read().bsy().bit());
    let has_failed = flash.sr().read().bits() & ERRORS != 0;
    if is_done && !has_failed { Ok(()) } else { Err(NorFlashErrorKind::Other) }
}

/// A sector is erased behind the caches' back. They are emptied only while they are off.
fn empty_caches(flash: &RegisterBlock) {
    let (has_code, has_data) = (flash.acr().read().icen().bit(), flash.acr().read().dcen().bit());
    flash.acr().modify(|_, w| w.icen().clear_bit().dcen().clear_bit());
    flash.acr().modify(|_, w| w.icrst().set_bit().dcrst().set_bit());
    flash.acr().modify(|_, w| w.icrst().clear_bit().dcrst().clear_bit());
    flash.acr().modify(|_, w| w.icen().bit(has_code).dcen().bit(has_data));
}

/// The slot that all of it lies in, and the address.
fn place(offset: u32, len: usize) -> Result<(Slot, usize), NorFlashErrorKind> {
    let slot = u32::try_from(len).ok().and_then(|len| LAYOUT.slot_of(offset, len));
    let slot = slot.ok_or(NorFlashErrorKind::OutOfBounds)?;
    Ok((slot, LAYOUT.address.wrapping_add(offset) as usize))
}

impl ErrorType for Flash {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        let (_, address) = place(offset, bytes.len())?;
        for (at, byte) in (address..).zip(bytes) {
            // SAFETY: a byte of a slot, so of flash. Volatile, since it changes without the compiler's knowing.
            *byte = unsafe { with_exposed_provenance::<u8>(at).read_volatile() };
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        FLASH_BYTES
    }
}

impl NorFlash for Flash {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = SLOT_BYTES as usize;

    /// One whole slot, or nothing.
    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        let slot = LAYOUT.whole_slot(from, to).ok_or(NorFlashErrorKind::OutOfBounds)?;
        self.unlocked(|flash| {
            // SAFETY: the number of a sector that is a slot.
            flash.cr().write(|w| unsafe { w.ser().set_bit().psize().psize32().snb().bits(sector(slot)) });
            flash.cr().modify(|_, w| w.strt().set_bit());
            asm::dsb();
            let outcome = wait(flash, ERASE_TRIES_MAX);
            empty_caches(flash);
            outcome
        })
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        let (_, address) = place(offset, bytes.len())?;
        let (words, []) = bytes.as_chunks::<4>() else { return Err(NorFlashErrorKind::NotAligned) };
        if !address.is_multiple_of(4) {
            return Err(NorFlashErrorKind::NotAligned);
        }
        self.unlocked(|flash| {
            flash.cr().write(|w| w.pg().set_bit().psize().psize32());
            for (at, word) in (0..).zip(words) {
                let at = with_exposed_provenance_mut::<u32>(address + 4 * at);
                // SAFETY: an aligned word of a slot, so of flash that no reference points to: the code that runs from the other
                // slot is only executed, and of the one that runs from this slot only the marks are written.
                unsafe { at.write_volatile(u32::from_le_bytes(*word)) };
                asm::dsb();
                wait(flash, WRITE_TRIES_MAX)?;
            }
            Ok(())
        })
    }
}
