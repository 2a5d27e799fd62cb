//! What goes onto a board: its boot loader, the first slot as the factory fills it, and the file that updates a dongle.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use convoy_protocol::firmware::{IMAGE_OFFSET, ImageHeader};
use convoy_protocol::link::FirmwareVersion;
use ed25519_dalek::{Signer as _, SigningKey};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _};
use object::{Endianness, elf};
use sha2::{Digest as _, Sha512};

/// The first slot, to be written behind the boot loader.
pub(super) const FACTORY: &str = "factory.bin";
/// What `convoy-agent dongle update` takes.
pub(super) const UPDATE: &str = "update.firmware";

/// Who signs.
pub(super) struct Signer {
    key: SigningKey,
    path: PathBuf,
}

impl Signer {
    /// The key in `path`: 64 hexadecimal digits, the seed of RFC 8032.
    ///
    /// # Errors
    /// When there is no such key.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("read the key {}", path.display()))?;
        let key = SigningKey::from_bytes(&seed(text.trim()).with_context(|| {
            format!(
                "{} is no key: 64 hexadecimal digits are wanted, the seed of an Ed25519 key",
                path.display()
            )
        })?);
        Ok(Self { key, path: path.to_owned() })
    }

    /// The key of this machine, made up at the first call: good for tests, and for a dongle on a desk.
    ///
    /// # Errors
    /// When it can neither be read nor made.
    pub(super) fn of_this_machine(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let path = folder.join("test-key");
        if !path.exists() {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).context("draw a key")?;
            let mut options = OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(&path);
            let mut file: File = file.with_context(|| format!("make {}", path.display()))?;
            file.write_all(hex(&seed).as_bytes()).with_context(|| format!("write {}", path.display()))?;
        }
        Self::open(&path)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What a boot loader trusts.
    pub(super) fn public_key(&self) -> String {
        hex(self.key.verifying_key().as_bytes())
    }

    fn header(&self, board: &str, version: FirmwareVersion, image: &Flat) -> Result<ImageHeader> {
        let len = u32::try_from(image.bytes.len()).context("an image of 4 GiB")?;
        let digest = Sha512::digest(&image.bytes).into();
        let mut header = ImageHeader::new(board, image.address, len, version, digest)
            .with_context(|| format!("{board:?} is no name of a board"))?;
        header.signature = self.key.sign(&header.signed_bytes()).to_bytes();
        Ok(header)
    }
}

/// Writes what goes onto `board` into `folder`, from the programs of both slots.
///
/// # Errors
/// When one of them is no image of a slot.
pub(super) fn write(
    folder: &Path,
    board: &str,
    version: FirmwareVersion,
    signer: &Signer,
    slots: [&Path; 2],
) -> Result<()> {
    let mut update = Vec::new();
    for (index, program) in slots.into_iter().enumerate() {
        let bytes = std::fs::read(program).with_context(|| format!("read {}", program.display()))?;
        let image = Flat::read(&bytes).with_context(|| format!("{} is no image", program.display()))?;
        let vectors = vectors_address(&bytes).with_context(|| format!("read {}", program.display()))?;
        let begins = image.address;
        ensure!(
            begins == vectors,
            "{} begins at {begins:#x}, its vectors at {vectors:#x}",
            program.display()
        );
        let header = signer.header(board, version, &image)?.bytes();
        update.extend(header);
        update.extend(&image.bytes);
        if index == 0 {
            let mut slot = header.to_vec();
            slot.resize(usize::try_from(convoy_slots::MARKS_OFFSET)?, 0xFF);
            slot.extend(convoy_slots::factory_marks());
            slot.resize(usize::try_from(IMAGE_OFFSET)?, 0xFF);
            slot.extend(&image.bytes);
            save(&folder.join(FACTORY), &slot)?;
        }
    }
    save(&folder.join(UPDATE), &update)
}

fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

/// Where the vectors of a program lie: it is started by them, so nothing may be before.
fn vectors_address(bytes: &[u8]) -> Result<u32> {
    let header = elf::FileHeader32::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let (_, vectors) =
        sections.section_by_name(endian, b".vector_table").context("its section .vector_table is missing")?;
    Ok(vectors.sh_addr(endian))
}

/// The bytes of a program as they lie in memory.
#[derive(Debug, PartialEq, Eq)]
struct Flat {
    address: u32,
    bytes: Vec<u8>,
}

impl Flat {
    fn read(bytes: &[u8]) -> Result<Self> {
        let header = elf::FileHeader32::<Endianness>::parse(bytes)?;
        let endian = header.endian()?;
        let mut parts = Vec::new();
        for segment in header.program_headers(endian, bytes)? {
            if segment.p_type(endian) == elf::PT_LOAD && segment.p_filesz(endian) > 0 {
                let content =
                    segment.data(endian, bytes).ok().context("a segment lies outside of the file")?;
                parts.push((segment.p_paddr(endian), content));
            }
        }
        parts.sort_unstable_by_key(|(address, _)| *address);
        let Some((address, _)) = parts.first().copied() else { bail!("it holds nothing to load") };
        let mut flat = Self { address, bytes: Vec::new() };
        for (at, content) in parts {
            let offset = usize::try_from(at - address)?;
            ensure!(offset >= flat.bytes.len() && offset < 1 << 24, "its segments overlap, or lie far apart");
            flat.bytes.resize(offset, 0xFF);
            flat.bytes.extend(content);
        }
        Ok(flat)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn seed(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
    bytes?.try_into().ok()
}

/// A version of three numbers.
///
/// # Errors
/// Says which they may be.
pub(crate) fn version(text: &str) -> Result<FirmwareVersion, String> {
    let read = || {
        let (major, rest) = text.split_once('.')?;
        let (minor, patch) = rest.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?, patch.parse().ok()?))
    };
    read()
        .ok_or_else(|| "three numbers such as 1.2.300: the first two at most 255, the third 65535".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file of nothing but segments: their address and content.
    fn program(segments: &[(u32, &[u8])]) -> Vec<u8> {
        let halves = |halves: &[u16]| halves.iter().flat_map(|half| half.to_le_bytes()).collect::<Vec<_>>();
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let mut bytes = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend(halves(&[elf::ET_EXEC, elf::EM_ARM]));
        bytes.extend(words(&[1, 0, 52, 0, 0]));
        let count = u16::try_from(segments.len()).unwrap();
        bytes.extend(halves(&[52, 32, count, 40, 0, 0]));
        let mut at = 52 + 32 * u32::from(count);
        for (address, content) in segments {
            let len = u32::try_from(content.len()).unwrap();
            bytes.extend(words(&[elf::PT_LOAD, at, 0x2000_0000, *address, len, len, 5, 4]));
            at += len;
        }
        segments.iter().for_each(|(_, content)| bytes.extend(*content));
        bytes
    }

    #[test]
    fn segments_lie_where_they_are_loaded_and_what_is_between_is_erased_flash() {
        let flat = Flat::read(&program(&[(0x108, &[4, 5]), (0x100, &[1, 2, 3])])).unwrap();
        assert_eq!(flat, Flat { address: 0x100, bytes: vec![1, 2, 3, 255, 255, 255, 255, 255, 4, 5] });
        assert!(Flat::read(&program(&[(0x100, &[1, 2, 3]), (0x102, &[4])])).is_err());
        assert!(Flat::read(&program(&[])).is_err());
    }

    #[test]
    fn a_program_without_vectors_is_no_image() {
        let error = vectors_address(&program(&[(0x100, &[1, 2, 3])])).unwrap_err();
        assert_eq!(error.to_string(), "its section .vector_table is missing");
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_a_file_that_is_none_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::of_this_machine(folder.path()).unwrap();
        assert_eq!(Signer::of_this_machine(folder.path()).unwrap().public_key(), signer.public_key());
        assert_eq!(signer.path().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        for text in ["", "12", "zz", &"0".repeat(63), &"+1".repeat(32)] {
            let path = folder.path().join("other");
            std::fs::write(&path, text).unwrap();
            assert!(Signer::open(&path).is_err(), "{text}");
        }
    }

    #[test]
    fn versions_are_three_numbers() {
        assert_eq!(version("1.2.300"), Ok((1, 2, 300)));
        for text in ["", "1", "1.2", "256.0.0", "0.0.65536", "1.2.3.4", "a.b.c"] {
            assert!(version(text).is_err(), "{text}");
        }
    }
}
