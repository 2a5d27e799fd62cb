//! One CAN frame, classic or FD, as it was on the bus.

use core::fmt;

use serde::{Deserialize, Serialize};

/// Bytes in the longest frame (CAN FD).
pub const FRAME_DATA_BYTES_MAX: usize = 64;

/// A CAN identifier: 11 bits standard, 29 bits extended (ISO 11898-1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CanId {
    /// 11-bit identifier, 0 to 0x7FF.
    Standard(u16),
    /// 29-bit identifier, 0 to 0x1FFF_FFFF.
    Extended(u32),
}

impl CanId {
    /// Largest 11-bit identifier.
    pub const STANDARD_MAX: u16 = 0x7FF;
    /// Largest 29-bit identifier.
    pub const EXTENDED_MAX: u32 = 0x1FFF_FFFF;

    /// The identifier's bits without the kind.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Standard(id) => id as u32,
            Self::Extended(id) => id,
        }
    }
}

/// `0x7E8` for 11 bits, `0x0CF00400` for 29, as in candump logs and JSON.
impl fmt::Display for CanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(id) => write!(f, "0x{id:03X}"),
            Self::Extended(id) => write!(f, "0x{id:08X}"),
        }
    }
}

impl fmt::Debug for CanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which bus of the vehicle, an index into the names that the source of frames keeps (`can0`, ...).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BusIndex(pub u8);

/// A data frame. Remote and error frames are not data and are counted where they are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CanFrame {
    /// When it was received, microseconds since the Unix epoch, UTC.
    pub timestamp_us: i64,
    /// The bus it was on.
    pub bus: BusIndex,
    /// Its identifier.
    pub id: CanId,
    len: u8,
    bytes: [u8; FRAME_DATA_BYTES_MAX],
}

/// More data than a CAN FD frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame holds at most {FRAME_DATA_BYTES_MAX} bytes, got {0}")]
pub struct FrameTooLong(pub usize);

impl CanFrame {
    /// A frame of `data`, 0 to 64 bytes.
    pub fn new(timestamp_us: i64, bus: BusIndex, id: CanId, data: &[u8]) -> Result<Self, FrameTooLong> {
        let mut bytes = [0; FRAME_DATA_BYTES_MAX];
        bytes.get_mut(..data.len()).ok_or(FrameTooLong(data.len()))?.copy_from_slice(data);
        #[allow(clippy::cast_possible_truncation, reason = "at most 64, checked by get_mut above")]
        Ok(Self { timestamp_us, bus, id, len: data.len() as u8, bytes })
    }

    /// The payload, 0 to 64 bytes.
    pub fn data(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The first 8 bytes, zero-padded: what a classic frame can hold.
    pub fn first_8(&self) -> [u8; 8] {
        let mut first = [0; 8];
        first.copy_from_slice(&self.bytes[..8]);
        first
    }
}

impl fmt::Debug for CanFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}) bus{} {}#", self.timestamp_us, self.bus.0, self.id)?;
        self.data().iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_of_65_bytes_is_refused() {
        let id = CanId::Standard(1);
        assert_eq!(CanFrame::new(0, BusIndex(0), id, &[0; 65]), Err(FrameTooLong(65)));
        assert_eq!(CanFrame::new(0, BusIndex(0), id, &[7; 64]).unwrap().data(), [7; 64]);
    }

    #[test]
    fn ids_print_with_the_digits_of_their_kind() {
        assert_eq!(CanId::Standard(0x7E8).to_string(), "0x7E8");
        assert_eq!(CanId::Extended(0x0CF0_0400).to_string(), "0x0CF00400");
    }
}
