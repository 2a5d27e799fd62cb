//! The frames of a batch, one after the other.
//!
//! ```text
//! record = head     u8      bit 7: 29-bit id, bits 6 to 4: bus, bits 3 to 0: length code of ISO 11898-1
//!          later    varint  microseconds since the record before; 0 in the first one
//!          id       u16 LE, or u32 LE with 29 bits
//!          data
//! ```
//!
//! A frame of 8 bytes takes 12 to 16 bytes, 13 or 15 on a busy bus.

use super::writer::Writer;
use crate::frame::{BusIndex, CanId, FRAME_DATA_BYTES_MAX};

/// Longest record, bytes: a CAN FD frame after a long pause.
pub const RECORD_BYTES_MAX: usize = 1 + 10 + 4 + FRAME_DATA_BYTES_MAX;
/// Payload of each length code, bytes (ISO 11898-1).
pub const LENGTHS: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32, 48, 64];

const EXTENDED: u8 = 0x80;
const BUS_MAX: u8 = 7;

/// A frame on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Microseconds since the dongle started.
    pub time_us: u64,
    /// The bus it was on, 0 to 7.
    pub bus: BusIndex,
    /// Its identifier.
    pub id: CanId,
    /// Its payload.
    pub data: &'a [u8],
}

/// Appends a record to `out` and returns its length; `None`, and nothing is written, where it does not fit, or is no frame that a
/// record can say: a bus above 7, a length without a code.
pub fn put(out: &mut [u8], later_us: u64, bus: BusIndex, id: CanId, data: &[u8]) -> Option<usize> {
    let code = LENGTHS.iter().position(|len| usize::from(*len) == data.len())?;
    if bus.0 > BUS_MAX {
        return None;
    }
    let (extended, id_bytes, id_len) = match id {
        CanId::Standard(id) => (0, u32::from(id).to_le_bytes(), 2),
        CanId::Extended(id) => (EXTENDED, id.to_le_bytes(), 4),
    };
    #[allow(clippy::cast_possible_truncation, reason = "one of 16 codes")]
    let head = extended | bus.0 << 4 | code as u8;
    let mut record = [0; RECORD_BYTES_MAX];
    let mut writer = Writer::new(&mut record);
    writer.put(&[head]).ok()?;
    writer.put_varint(later_us).ok()?;
    writer.put(id_bytes.get(..id_len)?).ok()?;
    writer.put(data).ok()?;
    out.get_mut(..writer.len())?.copy_from_slice(writer.written());
    Some(writer.len())
}

/// The records of a batch whose first frame is of `time_us`; ends with `Err` where one is cut short.
pub fn records(time_us: u64, bytes: &[u8]) -> impl Iterator<Item = Result<Record<'_>, RecordsCutShort>> {
    let (mut rest, mut time_us) = (bytes, time_us);
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let taken = take(rest, time_us);
        rest = taken.map_or(&[][..], |(_, rest)| rest);
        Some(match taken {
            Some((record, _)) => {
                time_us = record.time_us;
                Ok(record)
            }
            None => Err(RecordsCutShort),
        })
    })
}

/// The bytes of a batch end inside a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record of the batch is cut short")]
pub struct RecordsCutShort;

fn take(bytes: &[u8], before_us: u64) -> Option<(Record<'_>, &[u8])> {
    let (head, rest) = bytes.split_first()?;
    let (later_us, rest) = take_varint(rest)?;
    let (id, rest) = if head & EXTENDED == 0 {
        let (id, rest) = rest.split_first_chunk::<2>()?;
        let id = u16::from_le_bytes(*id);
        ((id <= CanId::STANDARD_MAX).then_some(CanId::Standard(id))?, rest)
    } else {
        let (id, rest) = rest.split_first_chunk::<4>()?;
        let id = u32::from_le_bytes(*id);
        ((id <= CanId::EXTENDED_MAX).then_some(CanId::Extended(id))?, rest)
    };
    let (data, rest) = rest.split_at_checked(usize::from(LENGTHS[usize::from(head & 0xF)]))?;
    let time_us = before_us.saturating_add(later_us);
    Some((Record { time_us, bus: BusIndex(head >> 4 & BUS_MAX), id, data }, rest))
}

fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7F).checked_shl(u32::try_from(at).ok()? * 7)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(at + 1..)?));
        }
    }
    None
}
