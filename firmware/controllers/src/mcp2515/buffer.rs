//! A frame as it lies in a receive or transmit buffer of the MCP2515: identifier, length, data.
//!
//! Not by `mcp25xx`: in 0.4.0 it takes standard remote frames for data, since it looks at the extended ones' bit, and its frames
//! hold places that panic.

use embedded_can::{ExtendedId, Frame, Id, StandardId};

use crate::ClassicFrame;

/// Of the identifier's second byte: it is an extended one, and (received, standard) the frame is a remote one.
const IS_EXTENDED: u8 = 1 << 3;
const IS_STANDARD_REMOTE: u8 = 1 << 4;
/// Of the length: (received, extended; or to send) the frame is a remote one.
const IS_REMOTE: u8 = 1 << 6;

/// What a receive buffer holds. Never `None`: an identifier has no more bits than its place.
pub(super) fn read(registers: [u8; 13]) -> Option<ClassicFrame> {
    let [id_3, id_2, id_1, id_0, length, a, b, c, d, e, f, g, h] = registers;
    let standard = u16::from(id_3) << 3 | u16::from(id_2) >> 5;
    let (id, is_remote) = if id_2 & IS_EXTENDED == 0 {
        (Id::Standard(StandardId::new(standard)?), id_2 & IS_STANDARD_REMOTE != 0)
    } else {
        let low = u32::from(id_2 & 0b11) << 16 | u32::from(id_1) << 8 | u32::from(id_0);
        (Id::Extended(ExtendedId::new(u32::from(standard) << 18 | low)?), length & IS_REMOTE != 0)
    };
    Some(ClassicFrame::from_registers(id, is_remote, length & 0xF, [a, b, c, d, e, f, g, h]))
}

/// What a transmit buffer is to hold.
pub(super) fn write(frame: &ClassicFrame) -> [u8; 13] {
    let (bits, is_extended) = match frame.id() {
        Id::Standard(id) => (u32::from(id.as_raw()) << 18, 0),
        Id::Extended(id) => (id.as_raw(), IS_EXTENDED),
    };
    let [id_0, id_1, ..] = bits.to_le_bytes();
    let id_2 = (bits >> 13) as u8 & 0xE0 | is_extended | (bits >> 16) as u8 & 0b11;
    let remote = if frame.is_remote_frame() { IS_REMOTE } else { 0 };
    let length = frame.dlc() as u8 | remote;
    let [a, b, c, d, e, f, g, h] = *frame.bytes();
    [(bits >> 21) as u8, id_2, id_1, id_0, length, a, b, c, d, e, f, g, h]
}
