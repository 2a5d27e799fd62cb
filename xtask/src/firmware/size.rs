//! How much of a microcontroller's memories an image takes.

use anyhow::Result;
use object::read::elf::{FileHeader as _, SectionHeader as _};
use object::{Endianness, elf};

/// Bytes in the two memories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Vectors, code, constants, and the first values of variables.
    pub(super) flash_bytes: u64,
    /// Variables, without stack.
    pub(super) static_bytes: u64,
}

impl Size {
    /// # Errors
    /// When the bytes are no ELF file of 32 bits.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let header = elf::FileHeader32::<Endianness>::parse(bytes)?;
        let endian = header.endian()?;
        let mut size = Self { flash_bytes: 0, static_bytes: 0 };
        for section in header.section_headers(endian, bytes)? {
            let (flags, bytes) = (section.sh_flags(endian), u64::from(section.sh_size(endian)));
            if flags & elf::SHF_ALLOC == 0 {
                continue;
            }
            if section.sh_type(endian) != elf::SHT_NOBITS {
                size.flash_bytes += bytes;
            }
            if flags & elf::SHF_WRITE != 0 {
                size.static_bytes += bytes;
            }
        }
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER_BYTES: u16 = 52;
    const SECTION_BYTES: u16 = 40;

    /// An ELF file of nothing but sections: their type, flags and size.
    fn image(sections: &[(u32, u32, u32)]) -> Vec<u8> {
        let halves = |halves: &[u16]| halves.iter().flat_map(|half| half.to_le_bytes()).collect::<Vec<_>>();
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let mut bytes = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend(halves(&[elf::ET_EXEC, elf::EM_ARM]));
        bytes.extend(words(&[1, 0, 0, u32::from(HEADER_BYTES), 0]));
        let count = u16::try_from(sections.len()).unwrap();
        bytes.extend(halves(&[HEADER_BYTES, 0, 0, SECTION_BYTES, count, 0]));
        for (kind, flags, size) in sections {
            bytes.extend(words(&[0, *kind, *flags, 0, 0, *size, 0, 0, 0, 0]));
        }
        bytes
    }

    #[test]
    fn first_values_take_both_memories_and_debugging_takes_none() {
        let image = image(&[
            (elf::SHT_NULL, 0, 0),
            (elf::SHT_PROGBITS, elf::SHF_ALLOC | elf::SHF_EXECINSTR, 1_000),
            (elf::SHT_PROGBITS, elf::SHF_ALLOC, 200),
            (elf::SHT_PROGBITS, elf::SHF_ALLOC | elf::SHF_WRITE, 30),
            (elf::SHT_NOBITS, elf::SHF_ALLOC | elf::SHF_WRITE, 4_000),
            (elf::SHT_PROGBITS, 0, 50_000),
        ]);
        assert_eq!(Size::read(&image).unwrap(), Size { flash_bytes: 1_230, static_bytes: 4_030 });
    }

    #[test]
    fn what_is_no_image_is_an_error() {
        assert!(Size::read(b"#!/bin/sh").is_err());
    }
}
