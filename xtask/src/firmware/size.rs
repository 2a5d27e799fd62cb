//! How much of a microcontroller's memories an image takes.

use std::path::Path;

use anyhow::{Context, Result};
use object::read::elf::{ElfFile32, FileHeader as _, SectionHeader as _};
use object::{Endianness, elf};

/// Bytes in the two memories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Vectors, code, constants, and the first values of variables.
    pub(super) flash_bytes: u64,
    /// Variables, without stack.
    pub(super) ram_bytes: u64,
}

impl Size {
    /// # Errors
    /// When the file is not an ELF file of 32 bits.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Self::read(&bytes).with_context(|| format!("{} is no image", path.display()))
    }

    fn read(bytes: &[u8]) -> Result<Self> {
        let file = ElfFile32::<Endianness>::parse(bytes)?;
        let endian = file.endian();
        let sections = file.elf_header().sections(endian, bytes)?;
        let mut size = Self { flash_bytes: 0, ram_bytes: 0 };
        for section in sections.iter() {
            let (flags, bytes) = (section.sh_flags(endian), u64::from(section.sh_size(endian)));
            if flags & elf::SHF_ALLOC == 0 {
                continue;
            }
            if section.sh_type(endian) != elf::SHT_NOBITS {
                size.flash_bytes += bytes;
            }
            if flags & elf::SHF_WRITE != 0 {
                size.ram_bytes += bytes;
            }
        }
        Ok(size)
    }
}
