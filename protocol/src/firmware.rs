//! Images of a dongle's firmware, as they are signed, sent and started.
//!
//! A board's flash holds a boot loader and two slots; each image is linked for the address of one of them. A firmware file is one
//! image after the other, for each slot one: its header, then its bytes. In a slot:
//!
//! ```text
//! 0    header   192 bytes, below
//! 256  marks    what became of it, see the crate `convoy-slots`
//! 512  image    vectors first
//! ```
//!
//! | bytes of the header, little endian | what |
//! |---|---|
//! | 0 to 7 | [`MAGIC`] |
//! | 8 to 31 | the board's name, filled up with zeros |
//! | 32 to 35 | address of the image's first byte |
//! | 36 to 39 | length of the image, bytes |
//! | 40 to 43 | version: major u8, minor u8, patch u16 |
//! | 44 to 63 | zeros |
//! | 64 to 127 | SHA-512 of the image (FIPS 180-4) |
//! | 128 to 191 | Ed25519 signature of bytes 0 to 127 (RFC 8032) |

use crate::link::FirmwareVersion;

/// What a header begins with.
pub const MAGIC: [u8; 8] = *b"CVYIMG1\0";
/// Bytes of a header.
pub const HEADER_BYTES: usize = SIGNED_BYTES + 64;
/// Bytes of a header that are signed.
pub const SIGNED_BYTES: usize = 128;
/// Longest name of a board, bytes.
pub const BOARD_BYTES_MAX: usize = 24;
/// Where in its slot an image begins, bytes: a multiple of what a Cortex-M's table of vectors is aligned to.
pub const IMAGE_OFFSET: u32 = 512;

/// A header whose signature nobody has looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageHeader {
    board: [u8; BOARD_BYTES_MAX],
    /// Address of the image's first byte.
    pub address: u32,
    /// Length of the image, bytes.
    pub len: u32,
    /// Version of the firmware.
    pub version: FirmwareVersion,
    /// SHA-512 of the image.
    pub digest: [u8; 64],
    /// Ed25519 signature.
    pub signature: [u8; 64],
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Less than [`HEADER_BYTES`].
    #[error("a header has {HEADER_BYTES} bytes")]
    CutShort,
    /// It does not begin with [`MAGIC`].
    #[error("it does not begin as an image of a dongle does")]
    NoImage,
    /// The board's name is no text of 1 to [`BOARD_BYTES_MAX`] bytes.
    #[error("the board's name is no text of 1 to {BOARD_BYTES_MAX} bytes")]
    BoardName,
    /// Bytes that are zero in this version are not.
    #[error("it says more than this version understands")]
    Later,
}

impl ImageHeader {
    /// A header without a signature; `None` where the name of the board is empty, too long or holds a zero.
    pub fn new(
        board: &str,
        address: u32,
        len: u32,
        version: FirmwareVersion,
        digest: [u8; 64],
    ) -> Option<Self> {
        let mut name = [0; BOARD_BYTES_MAX];
        name.get_mut(..board.len())?.copy_from_slice(board.as_bytes());
        let header = Self { board: name, address, len, version, digest, signature: [0; 64] };
        (header.board() == Some(board)).then_some(header)
    }

    /// Reads the first [`HEADER_BYTES`] of `bytes`.
    ///
    /// # Errors
    /// Says why they are no header.
    pub fn read(bytes: &[u8]) -> Result<Self, HeaderError> {
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(HeaderError::CutShort)?;
        let (board, rest) = rest.split_first_chunk::<BOARD_BYTES_MAX>().ok_or(HeaderError::CutShort)?;
        let (address, rest) = rest.split_first_chunk::<4>().ok_or(HeaderError::CutShort)?;
        let (len, rest) = rest.split_first_chunk::<4>().ok_or(HeaderError::CutShort)?;
        let ([major, minor, p0, p1], rest) = rest.split_first_chunk::<4>().ok_or(HeaderError::CutShort)?;
        let (zeros, rest) = rest.split_first_chunk::<20>().ok_or(HeaderError::CutShort)?;
        let (digest, rest) = rest.split_first_chunk::<64>().ok_or(HeaderError::CutShort)?;
        let (signature, _) = rest.split_first_chunk::<64>().ok_or(HeaderError::CutShort)?;
        if *magic != MAGIC {
            return Err(HeaderError::NoImage);
        }
        if *zeros != [0; 20] {
            return Err(HeaderError::Later);
        }
        let header = Self {
            board: *board,
            address: u32::from_le_bytes(*address),
            len: u32::from_le_bytes(*len),
            version: (*major, *minor, u16::from_le_bytes([*p0, *p1])),
            digest: *digest,
            signature: *signature,
        };
        header.board().map(|_| header).ok_or(HeaderError::BoardName)
    }

    /// As it travels.
    pub fn bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let (signed, signature) = bytes.split_at_mut(SIGNED_BYTES);
        signed.copy_from_slice(&self.signed_bytes());
        signature.copy_from_slice(&self.signature);
        bytes
    }

    /// What the signature is of.
    pub fn signed_bytes(&self) -> [u8; SIGNED_BYTES] {
        let (major, minor, patch) = self.version;
        let [p0, p1] = patch.to_le_bytes();
        let mut bytes = [0; SIGNED_BYTES];
        let parts: [(usize, &[u8]); 6] = [
            (0, &MAGIC),
            (8, &self.board),
            (32, &self.address.to_le_bytes()),
            (36, &self.len.to_le_bytes()),
            (40, &[major, minor, p0, p1]),
            (64, &self.digest),
        ];
        for (at, part) in parts {
            if let Some(slot) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..part.len())) {
                slot.copy_from_slice(part);
            }
        }
        bytes
    }

    /// Name of the board; `None` is never read or made.
    pub fn board(&self) -> Option<&str> {
        let len = self.board.iter().position(|byte| *byte == 0).unwrap_or(BOARD_BYTES_MAX);
        let (name, zeros) = self.board.split_at_checked(len)?;
        let is_filled_up = zeros.iter().all(|byte| *byte == 0);
        core::str::from_utf8(name).ok().filter(|name| !name.is_empty() && is_filled_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> ImageHeader {
        let mut header = ImageHeader::new("lm3s6965", 0x2000_3600, 70_000, (1, 2, 0x304), [9; 64]).unwrap();
        header.signature = [7; 64];
        header
    }

    /// The layout of version 1, byte by byte: do not change this test.
    #[test]
    fn a_header_is_laid_out_as_the_table_says() {
        let mut expected = b"CVYIMG1\0lm3s6965".to_vec();
        expected.extend([0; 16]);
        expected.extend([0x00, 0x36, 0x00, 0x20, 0x70, 0x11, 0x01, 0x00, 1, 2, 4, 3]);
        expected.extend([0; 20]);
        expected.extend([9; 64]);
        assert_eq!(header().signed_bytes()[..], expected);
        expected.extend([7; 64]);
        assert_eq!(header().bytes()[..], expected);
        assert_eq!(ImageHeader::read(&expected), Ok(header()));
        assert_eq!(header().board(), Some("lm3s6965"));
    }

    #[test]
    fn what_is_no_header_is_refused_with_its_reason() {
        let read = |at: usize, byte: u8| {
            let mut bytes = header().bytes();
            bytes[at] = byte;
            ImageHeader::read(&bytes)
        };
        assert_eq!(ImageHeader::read(&header().bytes()[..191]), Err(HeaderError::CutShort));
        assert_eq!(read(6, b'2'), Err(HeaderError::NoImage));
        assert_eq!(read(8, 0), Err(HeaderError::BoardName));
        assert_eq!(read(8, 0xFF), Err(HeaderError::BoardName));
        assert_eq!(read(31, b'x'), Err(HeaderError::BoardName));
        assert_eq!(read(63, 1), Err(HeaderError::Later));
        let named = |board: &str| ImageHeader::new(board, 0, 0, (0, 0, 0), [0; 64]).is_some();
        assert!(named("x") && named("a board of 24 characters"));
        assert!(!named("") && !named("a board of 25 characters.") && !named("a\0"));
    }
}
