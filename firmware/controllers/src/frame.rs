//! A frame as the controllers here hand it out.

use embedded_can::{Frame, Id};

/// Payload of a classic frame, bytes.
pub const DATA_BYTES_MAX: usize = 8;

/// A classic frame (ISO 11898-1), data or remote. Those of the drivers below check each index at run time, and firmware is to
/// hold no place that panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassicFrame {
    id: Id,
    is_remote: bool,
    len: u8,
    bytes: [u8; DATA_BYTES_MAX],
}

impl ClassicFrame {
    /// A frame from a controller's registers. A length code above 8 means 8, as on the bus; bytes behind it are ignored, and all
    /// of them in a remote frame.
    pub fn from_registers(id: Id, is_remote: bool, length_code: u8, bytes: [u8; DATA_BYTES_MAX]) -> Self {
        Self { id, is_remote, len: length_code.min(8), bytes }
    }

    /// All 8 bytes; only the first [`Frame::dlc`] count.
    pub fn bytes(&self) -> &[u8; DATA_BYTES_MAX] {
        &self.bytes
    }
}

impl Frame for ClassicFrame {
    fn new(id: impl Into<Id>, data: &[u8]) -> Option<Self> {
        let mut bytes = [0; DATA_BYTES_MAX];
        bytes.get_mut(..data.len())?.copy_from_slice(data);
        Some(Self { id: id.into(), is_remote: false, len: u8::try_from(data.len()).ok()?, bytes })
    }

    fn new_remote(id: impl Into<Id>, dlc: usize) -> Option<Self> {
        let len = u8::try_from(dlc).ok().filter(|_| dlc <= DATA_BYTES_MAX)?;
        Some(Self { id: id.into(), is_remote: true, len, bytes: [0; DATA_BYTES_MAX] })
    }

    fn is_extended(&self) -> bool {
        matches!(self.id, Id::Extended(_))
    }

    fn is_remote_frame(&self) -> bool {
        self.is_remote
    }

    fn id(&self) -> Id {
        self.id
    }

    fn dlc(&self) -> usize {
        usize::from(self.len)
    }

    fn data(&self) -> &[u8] {
        let len = if self.is_remote { 0 } else { usize::from(self.len) };
        self.bytes.get(..len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use embedded_can::StandardId;

    use super::*;

    #[test]
    fn a_length_code_above_8_means_8_bytes() {
        let frame = ClassicFrame::from_registers(Id::Standard(StandardId::ZERO), false, 15, [7; 8]);
        assert_eq!((frame.dlc(), frame.data()), (8, &[7; 8][..]));
    }

    #[test]
    fn a_remote_frame_has_a_length_and_no_data() {
        let frame = ClassicFrame::new_remote(StandardId::ZERO, 8).unwrap();
        assert_eq!((frame.dlc(), frame.data(), frame.is_remote_frame()), (8, &[][..], true));
        assert_eq!(ClassicFrame::new_remote(StandardId::ZERO, 9), None);
        assert_eq!(ClassicFrame::new(StandardId::ZERO, &[0; 9]), None);
    }
}
